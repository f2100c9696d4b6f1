"""Bytes that log calls hand over: they are safe when the call returns.

A copy (a reflink where the file system can) goes to ``artifacts/.incoming/`` of the run; the
collector hashes it and moves it to its place.  Nothing is hashed here, and nothing is held in
memory but one chunk.  Only regular files are opened, so no pipe or device can hold a call up.
"""

from __future__ import annotations

import errno
import fcntl
import io
import mimetypes
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from prov4ml.errors import UsageError
from prov4ml.talk import short

__all__ = [
    "Handed",
    "class_name",
    "hand_over_bytes",
    "hand_over_file",
    "hand_over_stream",
    "media_type",
    "refer",
    "regular",
    "written",
]

_FICLONE: Final = 0x40049409
_CHUNK: Final = 8 << 20  # bytes of one copy by the kernel; between two, signals are seen
_PIECE: Final = 1 << 20  # bytes that are read at a time where the kernel cannot copy
_SIZELESS: Final = 16 << 20  # most bytes of a file of size 0, as those in /proc are

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


class Handed(msgspec.Struct, frozen=True):
    """What was handed over: the copy's name in ``.incoming`` ("": there is none), size (bytes),
    time of change (ns), media type; why there are no bytes; whether they changed meanwhile."""

    incoming: str = ""
    size: int | None = None
    mtime: int | None = None
    media_type: str | None = None
    lost: str = ""
    changed: bool = False


def regular(path: Path, argument: str) -> BinaryIO:
    """Open a regular file for reading, without a buffer; never waits for another process.

    Raises ``UsageError`` for what is no file or may not be read, ``OSError`` for a disk that fails.
    """
    try:
        _demand(os.stat(path), path, argument)  # before it is opened: that may do something
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        file = io.FileIO(path, "rb", opener=lambda name, _: os.open(name, flags))
    except ValueError as error:  # a NUL in it
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{argument}: {short(str(path))!r} is no path: {error}") from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UsageError(
                f"{argument}: cannot read {short(str(path))!r}: {error.strerror}"
            ) from None
        if error.errno in _NOT_THERE:
            why = f" ({error.strerror})" if error.errno != errno.ENOENT else ""
            raise UsageError(f"{argument}: there is no file {short(str(path))!r}{why}") from None
        raise
    try:
        _demand(os.fstat(file.fileno()), path, argument)
    except UsageError:
        file.close()
        raise
    return file


def _demand(found: os.stat_result, path: Path, argument: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = next((text for test, text in _KINDS if test(found.st_mode)), "no regular file")
        raise UsageError(f"{argument}: {short(str(path))!r} is {what}, not a file")


def refer(path: Path, argument: str = "artifact_path") -> Handed:
    """A file that stays where it is: size and time of change, which the collector checks."""
    with regular(path, argument) as file:
        facts = os.fstat(file.fileno())
    return Handed("", facts.st_size, facts.st_mtime_ns, media_type(path.name))


def hand_over_file(
    path: Path, incoming: Path, name: str, argument: str = "artifact_path"
) -> Handed:
    """Copy a file, as long as it was when it was opened; what changed meanwhile is told.

    Raises ``UsageError`` for what is no file or may not be read, ``OSError`` for a disk that fails.
    """
    with regular(path, argument) as source:
        before = os.fstat(source.fileno())
        changed = False

        def fill(copy: int) -> None:
            nonlocal changed
            try:
                fcntl.ioctl(copy, _FICLONE, source.fileno())
            except OSError:
                _copy(source.fileno(), copy, before.st_size)
                after = os.fstat(source.fileno())
                same = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
                changed = not same

        size = written(incoming, name, fill)
    return Handed(name, size, before.st_mtime_ns, media_type(path.name), changed=changed)


def hand_over_bytes(data: Any, incoming: Path, name: str, kind: str | None) -> Handed:
    """Write bytes, or whatever has a buffer.  Raises ``OSError``."""

    def fill(copy: int) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(copy, rest[:_CHUNK]) :]

    return Handed(name, written(incoming, name, fill), None, kind)


def hand_over_stream(stream: Any, incoming: Path, name: str, kind: str | None) -> Handed:
    """Write what ``stream.read`` gives, text as UTF-8, until it gives nothing.

    Raises ``TypeError`` for what is no stream; ``OSError``, and whatever the stream raises.
    """

    def fill(copy: int) -> None:
        while piece := stream.read(_PIECE):
            if isinstance(piece, str):
                piece = piece.encode("utf-8", "backslashreplace")
            elif not isinstance(piece, (bytes, bytearray, memoryview)):
                raise TypeError(f"read() gave {type(piece).__name__}, not bytes or text")
            rest = memoryview(piece).cast("B")
            while rest:
                rest = rest[os.write(copy, rest) :]

    return Handed(name, written(incoming, name, fill), None, kind)


def written(incoming: Path, name: str, fill: Callable[[int], object]) -> int:
    """Let ``fill`` write a new file in ``incoming``; gives its size, leaves none after an error."""
    incoming.mkdir(parents=True, exist_ok=True)
    target = incoming / name
    copy = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        fill(copy)
        return os.fstat(copy).st_size
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(copy)


def _copy(source: int, copy: int, size: int) -> None:
    """At most ``size`` bytes, inside the kernel where it can; a file that grows has no end else."""
    if not size:
        size = _SIZELESS
    done = 0
    for step in (_by_range, _by_sendfile, _by_hand):
        try:
            while done < size and (moved := step(source, copy, done, min(_CHUNK, size - done))):
                done += moved
        except OSError as error:
            if step is _by_hand or error.errno in (
                errno.ENOSPC,
                errno.EDQUOT,
                errno.EFBIG,
                errno.EIO,
            ):
                raise
        if done >= size:
            return
    # shorter than it was: what is there was copied


def _by_range(source: int, copy: int, at: int, count: int) -> int:
    return os.copy_file_range(source, copy, count, at, at)


def _by_sendfile(source: int, copy: int, at: int, count: int) -> int:
    os.lseek(copy, at, os.SEEK_SET)
    return os.sendfile(copy, source, at, count)


def _by_hand(source: int, copy: int, at: int, count: int) -> int:
    data = os.pread(source, min(count, _PIECE), at)
    return os.pwrite(copy, data, at) if data else 0


def media_type(name: str) -> str | None:
    return mimetypes.guess_type(name)[0]


def class_name(thing: Any) -> str:
    """The full name of a thing's class."""
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
