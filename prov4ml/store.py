"""Bytes that runs hand over, stored by content: ``artifacts/<hh>/<sha256>``.

Hashing is done here, on the node's collector, never in the training process.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from prov4ml import process
from prov4ml.errors import no_room
from prov4ml.events import Artifact, Stored
from prov4ml.state import Producer

__all__ = ["digest", "keep", "taken", "tidy"]


def keep(directory: Path, producer: Producer, artifact: Artifact, time: int) -> Stored:
    """Store what was handed over, or hash what was only referred to.

    Raises ``OSError`` when there is no room, and can be called again.

    The name of the copy came over the wire: only the one that belongs to the occurrence counts.
    The copy stays under that name, too, until the log has what became of it (``taken``): whoever
    dies in between, or finds the log's disk full, leaves all that is needed to say it again.
    """

    def failed(reason: str) -> Stored:
        return Stored(time, producer.id, artifact.n, None, None, None, reason)

    try:
        if artifact.incoming is None:
            return _reference(producer, artifact, time) or failed("changed after it was logged")
        if artifact.incoming != f"{producer.id.hex()}-{artifact.n}":
            return failed("the copy has a name that is not its own")
        copy = directory / "artifacts" / ".incoming" / artifact.incoming
        sha256, size = digest(copy)
        place = directory / "artifacts" / sha256[:2] / sha256
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            _name(copy, place)
        path = place.relative_to(directory).as_posix()
        return Stored(time, producer.id, artifact.n, sha256, size, path)
    except OSError as error:
        if no_room(error):
            raise
        return failed(error.strerror or str(error))


def _name(copy: Path, place: Path) -> None:
    """Give a file a second name; where the file system has none, another one."""
    try:
        os.link(copy, place)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        os.replace(copy, place)


def taken(directory: Path, artifact: Artifact, kept: Stored) -> None:
    """The log has it: the copy needs no second name."""
    if artifact.incoming is not None and kept.sha256 is not None:
        (directory / "artifacts" / ".incoming" / artifact.incoming).unlink(missing_ok=True)


def tidy(directory: Path, stored: Mapping[tuple[bytes, int], Stored]) -> None:
    """Remove what a crash left under both names, and the folder when nothing is left in it."""
    incoming = directory / "artifacts" / ".incoming"
    if not incoming.is_dir():
        return
    for kept in stored.values():
        copy = incoming / f"{kept.producer.hex()}-{kept.n}"
        if kept.path is not None and (directory / kept.path).exists():
            copy.unlink(missing_ok=True)
    if not any(incoming.iterdir()):
        incoming.rmdir()


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
