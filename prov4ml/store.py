"""Bytes that runs hand over, stored by content: ``artifacts/<hh>/<sha256>``.

Hashing is done here, on the node's collector, never in the training process.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from prov4ml import process
from prov4ml.events import Artifact, Stored
from prov4ml.state import Producer

__all__ = ["digest", "incoming", "keep", "name"]


def name(producer: bytes, n: int) -> str:
    """What the copy of an occurrence is called; no other name that came over the wire counts."""
    return f"{producer.hex()}-{n}"


def incoming(directory: Path, producer: bytes, n: int) -> Path:
    """Where the copy lies that was handed over."""
    return directory / "artifacts" / ".incoming" / name(producer, n)


def keep(directory: Path, producer: Producer, artifact: Artifact, time: int) -> Stored:
    """Store what was handed over, or hash what was only referred to; never raises ``OSError``.

    The copy stays where it was: it goes once the log is known to say what became of it, or a
    collector that dies in between would find nothing, and say so.
    """

    def failed(reason: str) -> Stored:
        return Stored(time, producer.id, artifact.n, None, None, None, reason)

    try:
        if artifact.incoming is None:
            return _reference(producer, artifact, time) or failed("changed after it was logged")
        copy = incoming(directory, producer.id, artifact.n)
        if artifact.incoming != copy.name:
            return failed("the copy has a name that is not its own")
        sha256, size = digest(copy)
        place = directory / "artifacts" / sha256[:2] / sha256
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            _put(copy, place)
        path = place.relative_to(directory).as_posix()
        return Stored(time, producer.id, artifact.n, sha256, size, path)
    except OSError as error:
        return failed(error.strerror or str(error))


def _put(copy: Path, place: Path) -> None:
    """A second name for the same bytes; a copy where a file has only one."""
    try:
        os.link(copy, place)
    except FileExistsError:
        pass
    except OSError:
        beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(copy, beside)
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)


def _reference(producer: Producer, artifact: Artifact, time: int) -> Stored | None:
    started = producer.started
    if started is None or started.host != process.hostname() or artifact.location is None:
        return Stored(time, producer.id, artifact.n, None, None, None, "on another host")
    path = Path(artifact.location)
    before = path.stat()
    if (before.st_size, before.st_mtime_ns) != (artifact.size, artifact.mtime):
        return None
    if before.st_uid != os.getuid() and not os.access(path, os.R_OK):
        return Stored(time, producer.id, artifact.n, None, None, None, "not readable")
    sha256, size = digest(path)
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) != (artifact.size, artifact.mtime):
        return None
    return Stored(time, producer.id, artifact.n, sha256, size, None)


def digest(path: Path) -> tuple[str, int]:
    """(sha256 in hex, size in bytes) of a file."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return sha256, file.tell()
