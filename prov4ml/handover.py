"""Files that log calls hand over: their bytes are safe when the call returns.

A copy (a reflink where the file system can) goes to ``artifacts/.incoming/`` of the run; the
collector hashes it and moves it to its place.
"""

from __future__ import annotations

import fcntl
import mimetypes
import os
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec

__all__ = ["Handed", "class_name", "hand_over_bytes", "hand_over_file", "media_type"]

_FICLONE: Final = 0x40049409


class Handed(msgspec.Struct, frozen=True):
    """A file in ``.incoming``: its name there, size (bytes), time of change (ns), media type."""

    incoming: str
    size: int
    mtime: int | None
    media_type: str | None


def hand_over_file(path: Path, incoming: Path, name: str) -> Handed:
    """Copy a file.  Raises ``OSError`` when it cannot be read or the copy not be written."""
    incoming.mkdir(parents=True, exist_ok=True)
    target = incoming / name
    try:
        with open(path, "rb") as source, open(target, "wb") as copy:
            try:
                fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
            except OSError:
                shutil.copyfileobj(source, copy, 1 << 20)
            facts = os.fstat(source.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Handed(name, target.stat().st_size, facts.st_mtime_ns, media_type(path.name))


def hand_over_bytes(data: bytes, incoming: Path, name: str, kind: str | None) -> Handed:
    incoming.mkdir(parents=True, exist_ok=True)
    (incoming / name).write_bytes(data)
    return Handed(name, len(data), None, kind)


def media_type(name: str) -> str | None:
    return mimetypes.guess_type(name)[0]


def class_name(thing: Any) -> str:
    """The full name of a thing's class."""
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
