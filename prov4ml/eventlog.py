"""The event log of a run: frames appended by one collector, read by anybody.

    <run>/events/<number of the first frame, 12 digits>.log      open, or the last one
    <run>/events/<number of the first frame, 12 digits>.log.gz   sealed and compressed

A file is a 40-byte header and frames; a frame is a 36-byte head (length, crc32, producer,
first sequence, count) and the batch as received.  Reading stops at the first bad frame of the
last file; a bad frame earlier ends its file and is counted.  Frames are numbered through from
0; cursors are frame numbers.  ``append`` may be called from several threads.

An ``OSError`` (a full disk) leaves the log as it was: the call can be repeated, later, by anybody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from prov4ml import process
from prov4ml.errors import FormatError, InUse

__all__ = ["SEGMENT", "EventLog", "Frame", "Held", "Reader"]

MAGIC: Final = b"P4MLLOG1"
SEGMENT: Final = 64 << 20
"""A file that has grown beyond this many bytes is sealed and a new one begun."""

_HEADER: Final = struct.Struct("<8sII16sQ")  # magic, format, reserved, run, first frame
_HEAD: Final = struct.Struct("<II16sQI")  # length, crc32 of the rest, producer, first, count
_REST: Final = struct.Struct("<16sQI")


class Frame(msgspec.Struct, frozen=True):
    """One batch of one producer (count 0: a series table)."""

    number: int
    producer: bytes
    first: int
    count: int
    batch: bytes


class Held(InUse):
    """You may not write the log now: the run is being closed, by us or by another collector."""


class EventLog:
    """The writer.  Opening it continues an existing log and cuts a torn frame off its end.

    ``frames`` counts the frames, ``synced`` those that a power cut leaves.
    ``next`` holds the next sequence of each producer; who looks there and appends what it lacks
    holds ``turn`` meanwhile.  Raises ``Held`` while another collector writes it, ``OSError``,
    ``FormatError``.

    When a sync fails, nobody knows which of the frames since the last one are on the disk (and
    the next sync may well succeed): they are taken back, and ``taken_back`` counts that.  None of
    them was acked, so each comes again.

    A log ends in three steps: ``leave_to`` lets nobody append but one, ``finish`` nobody at all,
    and ``close`` lets the next writer in.
    """

    def __init__(self, directory: Path, run: str) -> None:
        self.directory = directory
        self.run = run
        self.next: dict[bytes, int] = {}
        self.frames = 0
        self.synced = 0
        self.taken_back = 0
        self.turn = threading.Lock()
        self._unused: Path | None = None  # a file that was begun and holds no frame
        self._lock = threading.Lock()
        self._only: bytes | None = None  # who may still append, once the run is over
        self._before: dict[bytes, int | None] = {}  # ``next`` at the last sync, where it changed
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            _sync_folder(directory.parent)
        self._guard = _lock(directory)
        try:
            self._continue()
        except BaseException:
            os.close(self._guard)
            raise

    def _continue(self) -> None:
        directory = self.directory
        reader = Reader(directory)
        for frame in reader:
            self._count(frame.producer, frame.first, frame.count)
        self.frames = self.synced = reader.number
        self._before.clear()
        files = _files(directory)
        tail = files[-1] if files else None
        if tail is not None and tail.suffix == ".log" and tail != reader.path:
            tail.unlink()  # it died before its header was written
            tail = reader.path
        damaged = reader.damaged()
        reader.close()
        if tail is not None and damaged and _first(tail) == self.frames:
            tail.rename(tail.with_name(tail.name + ".bad"))
        if tail is None or reader.end is None or damaged:
            self._begin()  # behind a bad frame nothing is written, and nothing removed
            return
        self._file: IO[bytes] = open(tail, "r+b", buffering=0)
        self._file.truncate(reader.end)
        self._file.seek(reader.end)
        self._size = self._safe = reader.end

    def _count(self, producer: bytes, first: int, count: int) -> None:
        if count:
            known = self.next.get(producer)
            self._before.setdefault(producer, known)
            self.next[producer] = max(known or 0, first + count)

    def _begin(self) -> None:
        """Go on in a new file.  Where that fails nothing has changed."""
        path = self.directory / f"{self.frames:012d}.log"
        header = _HEADER.pack(MAGIC, 1, 0, uuid.UUID(self.run).bytes, self.frames)
        file = open(path, "xb", buffering=0)
        try:
            _write(file, header)
            _sync_folder(self.directory)  # or a power cut may take the file with all it holds
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise
        self._file = file
        self._unused = path if self.frames else None
        self._size = self._safe = len(header)

    def append(
        self, producer: bytes, first: int, count: int, batch: bytes, *, after: int | None = None
    ) -> int:
        """Write one frame (not yet synced) and give back its number.

        ``after``: what the caller knows to be the producer's next sequence.  Where frames were
        taken back meanwhile it is no more, and to go on would leave a hole.

        Raises ``OSError``, and ``Held`` once it is finished, or left to another.
        """
        rest = _REST.pack(producer, first, count)
        crc = zlib.crc32(batch, zlib.crc32(rest))
        data = b"".join((struct.pack("<II", len(batch), crc), rest, batch))
        with self._lock:
            if self._file.closed or self._only not in (None, producer):
                raise Held(f"{self.directory} is finished")
            if after is not None and self.next.get(producer, 0) != after:
                raise OSError(errno.EIO, "what came before could not be synced")
            if self._size > SEGMENT:
                self._turn()
            try:
                _write(self._file, data)
            except OSError:
                self._file.truncate(self._size)  # a torn frame would hide all that follow
                self._file.seek(self._size)
                raise
            self._size += len(data)
            self._unused = None
            number = self.frames
            self.frames += 1
            self._count(producer, first, count)
        return number

    def _turn(self) -> None:
        self._sync()
        old = self._file
        self._begin()
        old.close()

    def sync(self) -> int:
        """Make everything appended so far safe; gives back how many frames are."""
        with self._lock:
            self._sync()
            return self.synced

    def _sync(self) -> None:
        if self._file.closed:
            return
        try:
            os.fdatasync(self._file.fileno())
        except OSError:
            self._take_back()
            raise
        self.synced = self.frames
        self._safe = self._size
        self._before.clear()

    def _take_back(self) -> None:
        with contextlib.suppress(OSError):
            self._file.truncate(self._safe)
        self._file.seek(self._safe)
        self._size = self._safe
        self.frames = self.synced
        for producer, known in self._before.items():
            if known is None:
                del self.next[producer]
            else:
                self.next[producer] = known
        self._before.clear()
        self.taken_back += 1

    def safe(self, producer: bytes) -> int:
        """The next sequence of a producer as a power cut would leave it."""
        with self._lock:
            known = self._before.get(producer, self.next.get(producer, 0))
            return known or 0

    def leave_to(self, producer: bytes) -> None:
        """From now on only ``producer`` may append: what others say belongs to the run no more."""
        with self._lock:
            self._only = producer

    def finish(self) -> None:
        """Nothing more is written; nobody else may write before ``close``.

        Raises ``OSError``, and is finished all the same.
        """
        with self._lock:
            try:
                self._sync()
            finally:
                self._file.close()
                if self._unused is not None:
                    self._unused.unlink(missing_ok=True)  # looked at, and nothing to add

    def close(self) -> None:
        """Let the next writer in.  Raises ``OSError``, and is closed all the same."""
        try:
            self.finish()
        finally:
            with self._lock:
                if self._guard >= 0:
                    os.close(self._guard)
                    self._guard = -1


def _write(file: IO[bytes], data: bytes) -> None:
    """Write all of it.  Raises ``OSError``; then some of it may be there."""
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, "the event log's disk is full")


def _lock(directory: Path) -> int:
    """One writer at a time; the lock goes with the process."""
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        pid = process.holder(directory / ".lock")
        who = "a collector" if pid is None else f"a collector (pid {pid})"
        raise Held(f"{who} writes {directory.parent}, and completes it") from None
    return fd


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def compress(directory: Path, stop: Callable[[], bool] = lambda: False) -> None:
    """Seal all files of a log that nobody writes any more.  Raises ``OSError``; nothing is lost.

    ``stop``: asked often; somebody wants to go on with the log, sealed or not.
    """
    for path in _files(directory):
        if path.suffix != ".log":
            continue
        sealed = path.with_name(path.name + ".gz")
        beside = sealed.with_name(sealed.name + ".tmp")
        try:
            with open(path, "rb") as source, open(beside, "wb") as raw:
                # Level 1: points are mostly noise, 6 takes five times as long and saves 6 %.
                with gzip.GzipFile("", "wb", 1, raw, mtime=0) as target:
                    while part := source.read(1 << 20):
                        if stop():
                            return
                        target.write(part)
                raw.flush()
                os.fsync(raw.fileno())
            os.replace(beside, sealed)
            _sync_folder(directory)  # before the only other copy goes
        finally:
            beside.unlink(missing_ok=True)
        path.unlink()


class Reader:
    """Reads frames from a cursor on, also of a log that is being written.

    Iterating gives what is there and stops; iterating again goes on.  ``number`` is the next
    frame.  ``path`` is the current file, ``end`` the offset behind its last good frame (None for
    a compressed one).  ``bad`` lists the files that ended in a bad frame although others follow.
    """

    def __init__(self, directory: Path, frame: int = 0) -> None:
        self.directory = directory
        self.number = 0
        self.bad: list[str] = []
        self.end: int | None = None
        self.path: Path | None = None
        self._from = frame
        self._file: IO[bytes] | None = None

    def __iter__(self) -> Iterator[Frame]:
        return self.read()

    def read(self, limit: int | None = None) -> Iterator[Frame]:
        """Frames up to (not including) number ``limit``."""
        while limit is None or self.number < limit:
            if self._file is None and not self._open():
                return
            frame = self._next()
            if frame is None:
                if self._later() is None:
                    return
                frame = self._next()  # written between our look and the turn of files
            if frame is None:
                if not self._follow():
                    return
                continue
            self.number += 1
            if frame.number >= self._from:
                yield frame

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        """Open the file that holds the frame wanted next (at first: the cursor's)."""
        files = _files(self.directory)
        if self.path is None:
            files = [f for f in files if _first(f) <= self._from][-1:] or files[:1]
        else:
            files = [f for f in files if _first(f) > _first(self.path)][:1]
        if not files:
            return False
        path = files[0]
        try:
            file: IO[bytes] = cast(
                "IO[bytes]", gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
            )
        except FileNotFoundError:  # compressed since we looked, or a turn that found no room
            return path not in _files(self.directory) and self._open()
        header = _read(file, _HEADER.size)
        if len(header) < _HEADER.size:
            file.close()
            return False
        magic, version, _, _, first = _HEADER.unpack(header)
        if magic != MAGIC or version != 1:
            file.close()
            raise FormatError(f"{path} is no event log of format 1")
        self._file = file
        self.path = path
        self.number = first
        self.end = _HEADER.size if path.suffix == ".log" else None
        return True

    def _next(self) -> Frame | None:
        file = self._file
        assert file is not None
        head = _read(file, _HEAD.size)
        if len(head) == _HEAD.size:
            length, crc, producer, first, count = _HEAD.unpack(head)
            batch = _read(file, length)
            if len(batch) == length and zlib.crc32(batch, zlib.crc32(head[8:])) == crc:
                if self.end is not None:
                    self.end += len(head) + length
                return Frame(self.number, producer, first, count, batch)
        if self.end is not None:
            file.seek(self.end)
        return None

    def damaged(self) -> bool:
        """Whether a whole frame that is bad stands where reading stopped, not one cut short."""
        file = self._file
        if file is None or self.end is None:
            return False
        head = _read(file, _HEAD.size)
        length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else 0
        whole = any(head) and len(head) == _HEAD.size and len(_read(file, length)) == length
        file.seek(self.end)
        return whole

    def _later(self) -> Path | None:
        """The next file, when there is one: then the current one has ended."""
        assert self.path is not None
        return next((f for f in _files(self.directory) if _first(f) > _first(self.path)), None)

    def _follow(self) -> bool:
        """Go to the next file."""
        assert self.path is not None
        old, name, number, damaged = self._file, self.path.name, self.number, self.damaged()
        assert old is not None
        if not self._open():  # its header is just being written
            return False
        if damaged or self.number != number:
            self.bad.append(name)
        old.close()
        return True


def _read(file: IO[bytes], size: int) -> bytes:
    """Up to ``size`` bytes; fewer where a file ends, or where compressed data is damaged."""
    try:
        return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return b""


def _files(directory: Path) -> list[Path]:
    """The files of a log in order; a compressed one stands for its original."""
    found: dict[int, Path] = {}
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if path.name.endswith((".log", ".log.gz")) and path.name[:12].isdigit():
                found[_first(path)] = path  # ".log.gz" sorts behind ".log" and wins
    return [found[number] for number in sorted(found)]


def _first(path: Path) -> int:
    return int(path.name[:12])
