"""A journal's file: a 4 KiB header, the series table, and records that exist when committed.

One 64-bit word in the header says how many records there are and how many bytes they take.
It is written by one aligned store after the record, so a process that dies between the two
leaves a file that says exactly what was kept; bytes behind the committed ones mean nothing.
A file that was cut or zeroed from any byte on is told by its length, a checksum over header and
table, the number of its records and the mark at its end: ``view`` gives what was committed or
raises, never a false event.  ``prov4ml/docs/format.md`` has the layout.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import uuid
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from prov4ml.errors import FormatError

__all__ = [
    "COMMIT",
    "END",
    "HEADER",
    "MASK",
    "NEW",
    "Identity",
    "Segment",
    "View",
    "begin_file",
    "claimed",
    "committed",
    "create",
    "identity",
    "maker",
    "view",
]

MAGIC: Final = b"P4MLSEG1"
NEW: Final = ".new"
"""What the name of a file ends in until it is a segment."""
END: Final = b"P4MLEND1"
"""The last bytes of the file: zeros that run to the end (a lost page, a hole) take it away."""
HEADER: Final = 4096
COMMIT: Final = 16
"""Index of the commit word among the header's 8-byte words: count << 32 | bytes."""
MASK: Final = 0xFFFF_FFFF

_FIELDS: Final = struct.Struct("<8sII16s16s16sIIQ16sQQ")  # up to the commit word
_FIRST: Final = 96  # offset of: first sequence, size of the table, checksum, size of the file
_PLACE: Final = struct.Struct("<QQQQ")
_raw: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
CUTS: Final = 136  # number of cut points, then (bytes, count) pairs of u64
MAX_CUTS: Final = (HEADER - 144) // 16


class Identity(msgspec.Struct, frozen=True):
    """Whose journal it is."""

    run: str  # UUID
    producer: bytes  # 16 bytes
    attempt: int
    rank: int
    pid: int
    pid_start: int
    boot_id: str  # UUID of this boot
    parent: bytes = b""  # of a forked child


class Segment:
    """A segment open for writing, mapped into memory."""

    __slots__ = ("base", "buffer", "cuts", "first", "path", "size", "words")
    mapped: ClassVar[bool] = True

    def __init__(self, path: Path, buffer: mmap.mmap, size: int) -> None:
        self.path = path
        self.buffer: Any = buffer
        self.words: Any = memoryview(buffer).cast("Q")
        self.size = size - len(END)  # where records end at the latest
        self.base = HEADER  # where records begin
        self.first = 0  # sequence of the first record
        self.cuts: list[tuple[int, int]] = []  # (bytes, count) where a batch may begin

    def begin(self, first: int, table: bytes) -> None:
        """Name the first sequence and write the series table; records follow behind it."""
        self.first = first
        self.base = HEADER + len(table)
        self.buffer[HEADER : self.base] = table
        head = struct.pack("<QQ", first, len(table))
        check = zlib.crc32(table, zlib.crc32(self.buffer[:_FIRST] + head))
        _PLACE.pack_into(self.buffer, _FIRST, first, len(table), check, self.size + len(END))

    def cut(self, size: int, count: int) -> None:
        """Remember that a record begins at ``size``; in the file as long as there is room."""
        self.cuts.append((size, count))
        number = len(self.cuts)
        if number <= MAX_CUTS:
            struct.pack_into("<QQ", self.buffer, CUTS + 8 + 16 * (number - 1), size, count)
            self.words[CUTS // 8] = number

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the records; from any thread."""
        data: bytes = self.buffer[self.base + start : self.base + end]
        return data

    @property
    def table(self) -> bytes:
        """The series table, encoded."""
        return self.read(HEADER - self.base, 0)

    def settle(self, commit: int) -> None:
        """After an interrupt: what is committed is ``commit``.  Nothing to do in a map."""

    def seal(self) -> None:
        """No record will follow."""

    @property
    def commit(self) -> int:
        word: int = self.words[COMMIT]
        return word

    def close(self) -> None:
        self.words.release()
        try:
            self.buffer.close()
        except BufferError:  # a reader still holds a slice; the map goes with it
            pass

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


def create(path: Path, who: Identity, size: int) -> Segment:
    """Make a segment file of ``size`` bytes, its pages present.  Raises ``OSError``.

    Preallocated, so that a full disk shows now and not as a SIGBUS in the training.
    """
    new, fd = begin_file(path, who)
    try:
        os.posix_fallocate(fd, 0, size)
        buffer = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        write_header(buffer, who, size)
        segment = Segment(path, buffer, size)
        segment.begin(0, b"")
        os.rename(new, path)
    except BaseException:  # an interrupt too: a file that is left takes memory
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return segment


def begin_file(path: Path, who: Identity) -> tuple[Path, int]:
    """Open the file that will become ``path`` once it is whole, under a name that tells its maker.

    So a kill leaves no segment without a header, and ``maker`` says whose the rest is.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    new = path.with_name(f"{path.stem}.{who.pid}.{who.pid_start}{NEW}")

    def made() -> int:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    try:
        return new, made()
    except FileNotFoundError:  # who tidied up after an earlier attempt took the empty folder
        return new, made()


def maker(new: Path) -> tuple[int, int] | None:
    """Pid and start time of the process that makes a segment file; None for another name."""
    parts = new.name.removesuffix(NEW).split(".")
    if not new.name.endswith(NEW) or len(parts) != 3 or not all(map(str.isdecimal, parts[1:])):
        return None
    return int(parts[1]), int(parts[2])


def write_header(buffer: mmap.mmap | bytearray, who: Identity, size: int) -> None:
    buffer[size - len(END) : size] = END
    _FIELDS.pack_into(
        buffer,
        0,
        MAGIC,
        1,
        who.attempt,
        uuid.UUID(who.run).bytes,
        who.producer,
        who.parent.ljust(16, b"\0"),
        who.rank,
        who.pid,
        who.pid_start,
        uuid.UUID(who.boot_id).bytes,
        0,
        0,
    )


def committed(path: Path) -> int:
    """The commit word of a segment file, at the price of 8 bytes.  Raises ``OSError``."""
    with open(path, "rb", buffering=0) as file:
        file.seek(8 * COMMIT)
        return int.from_bytes(file.read(8), "little")


class View(msgspec.Struct, frozen=True):
    """What a segment file holds, for recovery."""

    who: Identity
    first: int
    count: int
    table: bytes  # encoded definitions, one after the other
    records: bytes  # encoded events, one after the other
    cuts: tuple[tuple[int, int], ...]  # (bytes, count), without (0, 0)


def claimed(path: Path) -> int | None:
    """The sequence behind the last event that a damaged file says it held.

    None when its header cannot be believed either.  Raises ``OSError``.
    """
    with open(path, "rb") as file:
        data = file.read(HEADER)
        if len(data) < HEADER or data[:8] != MAGIC:
            return None
        first, table, code, whole = _PLACE.unpack_from(data, _FIRST)
        commit = struct.unpack_from("<Q", data, 8 * COMMIT)[0]
        size, count = commit & MASK, commit >> 32
        if count > size or HEADER + table + size + len(END) > whole:
            return None
        if code != zlib.crc32(file.read(table), zlib.crc32(data[: _FIRST + 16])):
            return None
    return int(first + count)


def identity(path: Path) -> Identity:
    """Whose segment file it is.  Raises ``FormatError``, ``OSError``."""
    with open(path, "rb") as file:
        return _identity(path, file.read(_FIELDS.size))


def _identity(path: Path, header: bytes) -> Identity:
    if len(header) < _FIELDS.size or header[:8] != MAGIC:
        raise FormatError(f"{path} is no journal segment")
    _, version, attempt, run, producer, parent, rank, pid, pid_start, boot, _, _ = (
        _FIELDS.unpack_from(header)
    )
    if version != 1:
        raise FormatError(f"{path} has segment format {version}; this prov4ml reads 1")
    return Identity(
        str(uuid.UUID(bytes=run)),
        producer,
        attempt,
        rank,
        pid,
        pid_start,
        str(uuid.UUID(bytes=boot)),
        b"" if parent == bytes(16) else parent,
    )


def view(path: Path, *, check: bool = True) -> View:
    """Read a segment file.  Raises ``FormatError`` for what is none or is damaged, ``OSError``.

    ``check=False`` believes the cut points and that there are as many records as it says: for
    a file that its living writer has in hand.
    """
    data = path.read_bytes()
    who = _identity(path, data)
    if len(data) < HEADER:
        raise FormatError(f"{path} is shorter than its header")
    first, table, code, whole = _PLACE.unpack_from(data, _FIRST)
    commit, number = struct.unpack_from("<QQ", data, 8 * COMMIT)
    size, count = commit & MASK, commit >> 32
    base = HEADER + table
    if base + size > len(data):
        raise FormatError(f"{path} is shorter than what it has committed")
    damaged = code != zlib.crc32(data[HEADER:base], zlib.crc32(data[: _FIRST + 16]))
    if not damaged or not commit:
        if len(data) >= whole and data[whole - len(END) : whole] != END:
            raise FormatError(f"{path} is damaged: the mark at its end is missing")
        if not commit:  # nothing in it; it may be about to get its first sequence and table
            return View(who, first, 0, b"", b"", ())
    if damaged:
        raise FormatError(f"the header of {path} is damaged")
    records = data[base : base + size]
    flat = struct.unpack_from(f"<{2 * min(number, MAX_CUTS)}Q", data, CUTS + 8)
    cuts = tuple(c for c in zip(flat[::2], flat[1::2], strict=True) if 0 < c[0] < size)
    if check:
        cuts = _true_cuts(path, records, count, cuts)
    return View(who, first, count, data[HEADER:base], records, cuts)


def _true_cuts(
    path: Path, records: bytes, count: int, cuts: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    """The cut points that are true.  Raises ``FormatError`` unless there are ``count`` records."""
    try:
        parts = _raw.decode(b"\xdd" + count.to_bytes(4, "big") + records)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FormatError(f"{path} does not hold the {count} events it says: {error}") from None
    ends = [0, *accumulate(map(len, parts))]
    return tuple(c for c in cuts if c[1] < count and ends[c[1]] == c[0])
