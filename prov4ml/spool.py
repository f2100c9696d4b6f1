"""Where journals lie on this node, and which are there.

    <root>/prov4ml-<uid>/<run id>/<producer>/<number>.seg
    <root>/prov4ml-<uid>/<run id>/<producer>/started

Roots: ``PROV4ML_SPOOL`` when set; else memory (``/dev/shm``) for the first 8 MiB of a producer,
because a mapped write never waits for a disk there, and the system temp folder for the rest,
because memory is the job's.  Folders are 0700.  Nothing is read from the environment at import.

``started`` repeats the first event of a rank, which names the run's directory: segments go when
they are acked, and what they leave must still be found.  It stays until the run is closed.

``Quota`` says how much all journals of this user may take on this node; ``mappable`` where
mapping a file for writing is safe.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Final

from prov4ml.errors import UsageError

__all__ = [
    "MEMORY_SHARE",
    "Full",
    "Quota",
    "clear",
    "folder",
    "forget",
    "introduce",
    "introduction",
    "listed",
    "mappable",
    "producers",
    "roots",
    "runs",
    "segments",
]

MEMORY_SHARE: Final = 8 << 20
"""Bytes a producer keeps in memory-backed spool before its segments go to disk."""

KEPT_FREE: Final = 512 << 20
"""Bytes, or 5 % of the file system if that is more, that journals leave free for others."""

STARTED: Final = "started"
"""The file that repeats a rank's first event."""

_AGAIN: Final = 1.0  # s between measurings of what all journals take
_REMOTE: Final = frozenset(
    ("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "beegfs", "ceph", "9p", "afs")
)


def roots(environment: Mapping[str, str]) -> list[Path]:
    """The spool folders of this user on this node, in order of preference."""
    mine = f"prov4ml-{os.getuid()}"
    named = environment.get("PROV4ML_SPOOL")
    if named:
        return [Path(named).absolute() / mine]
    places = [Path(tempfile.gettempdir()) / mine / "spool"]
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK):
        places.insert(0, memory / mine)
    return places


def runs(places: list[Path]) -> list[str]:
    """Ids of the runs that have journals here."""
    found: set[str] = set()
    for place in places:
        found.update(entry.name for entry in _folders(place))
    return sorted(found)


def producers(places: list[Path], run: str) -> list[bytes]:
    """Ids of the producers of a run that have journals here."""
    found: set[bytes] = set()
    for place in places:
        for entry in _folders(place / run):
            try:
                found.add(bytes.fromhex(entry.name))
            except ValueError:
                continue
    return sorted(found)


def segments(places: list[Path], run: str, producer: bytes) -> list[Path]:
    """The segment files of a producer in the order of their numbers."""
    found: list[Path] = []
    for place in places:
        where = place / run / producer.hex()
        found += [where / name for name in listed(where) if name.endswith(".seg")]
    return sorted(found, key=lambda path: path.name)


def listed(path: Path) -> list[str]:
    """Names in a folder; none in one that is not there, or goes at this moment."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def folder(places: list[Path], run: str) -> Path:
    """Where the journals of a run lie; the first of several places."""
    found = [place / run for place in places]
    return next((path for path in found if path.is_dir()), found[0])


def introduce(places: list[Path], run: str, producer: bytes, record: bytes) -> None:
    """Keep a rank's first event beside its journal; on disk rather than in memory."""
    for place in reversed(places):
        try:
            path = place / run / producer.hex() / STARTED
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(record)
        except OSError:
            continue  # no room: the journal's own first segment has it, too
        return


def introduction(places: list[Path], run: str, producer: bytes) -> bytes | None:
    """The encoded first event of a rank; None when there is none here."""
    for place in places:
        try:
            return (place / run / producer.hex() / STARTED).read_bytes()
        except OSError:
            continue
    return None


def forget(places: list[Path], run: str, over: Container[bytes]) -> None:
    """The run is closed: its producers need not be found again; empty folders go, too.

    ``over``: those that have ended.
    """
    for producer in producers(places, run):
        for place in places:
            path = place / run / producer.hex()
            if producer in over:
                _unlink(path / STARTED)
            _remove_empty(path)


def clear(path: Path) -> None:
    """Remove all segments of a producer, those being made too, and the folders if empty then.

    Whoever else does so at the same moment is not in the way.
    """
    for name in listed(path):
        if name.endswith((".seg", ".new")):
            _unlink(path / name)
    _remove_empty(path)


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        pass


def _remove_empty(path: Path) -> None:
    """The folder of a producer, and that of its run."""
    for empty in (path, path.parent):
        try:
            empty.rmdir()
        except OSError:
            pass


def _folders(place: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            yield from [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return


class Full(OSError):
    """Journals may take no more of this place."""


class Quota:
    """The limit of all journals of this user on this node, asked whenever a segment is made."""

    def __init__(self, places: list[Path], limit: int) -> None:
        self._places = places
        self._limit = limit  # bytes
        self._used = 0
        self._measured: float | None = None

    def ask(self, place: Path, size: int) -> None:
        """Raises ``Full`` when ``size`` bytes more are too many for the limit or the disk."""
        now = time.monotonic()
        if self._measured is None or now - self._measured > _AGAIN:
            self._used = used(self._places)
            self._measured = now
        if self._used + size > self._limit:
            raise Full(f"the spool is at its limit (spool_limit, {self._limit:,} bytes)")
        seen = os.statvfs(_existing(place))
        kept = max(KEPT_FREE, seen.f_blocks * seen.f_frsize // 20)
        if seen.f_bavail * seen.f_frsize - size < kept:
            raise Full(f"the spool's disk is nearly full ({kept:,} bytes are left to others)")
        self._used += size


def used(places: list[Path]) -> int:
    """Bytes of all segment files of this user on this node."""
    total = 0
    for place in places:
        for run in _folders(place):
            for producer in _folders(Path(run.path)):
                try:
                    with os.scandir(producer.path) as entries:
                        total += sum(entry.stat().st_size for entry in entries)
                except FileNotFoundError:
                    continue  # removed while we looked
    return total


def mappable(place: Path, mode: str = "") -> bool:
    """Whether a file there may be mapped for writing: not on a network file system.

    ``mode``: "map" or "write" decides it, "" lets the file system's type do so.  Raises
    ``UsageError`` for another word.
    """
    if mode not in ("", "map", "write"):
        raise UsageError(f"PROV4ML_SPOOL_MODE: {mode!r} is neither map nor write")
    if mode:
        return mode == "map"
    kind = _type_of(_existing(place))
    return kind not in _REMOTE and kind != "fuse" and not kind.startswith("fuse.")


def _existing(place: Path) -> Path:
    """The place, or the nearest folder above it that is there."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _type_of(folder: Path, mounts: str | None = None) -> str:
    """The file system's type, from /proc/self/mountinfo (proc(5)); "" when nobody says."""
    try:
        text = Path("/proc/self/mountinfo").read_text() if mounts is None else mounts
    except OSError:
        return ""
    path = os.path.realpath(folder).rstrip("/") + "/"
    best, kind = "", ""
    for line in text.splitlines():
        before, found, behind = line.partition(" - ")
        if not found:
            continue
        point = before.split()[4].encode().decode("unicode_escape").rstrip("/") + "/"
        if path.startswith(point) and len(point) >= len(best):  # a later mount hides an earlier
            best, kind = point, behind.split()[0]
    return kind
