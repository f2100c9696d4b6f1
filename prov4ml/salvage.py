"""Journals that nobody shipped, appended to an event log; what the log has is not appended again.

They lie in the spool (their process died) or in ``undelivered/`` of the run directory (their
process could not wait for a collector).  Files go only when everything in them is in the log.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import events as ev
from prov4ml import process, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError
from prov4ml.eventlog import EventLog

__all__ = [
    "Found",
    "Taken",
    "append_journals",
    "append_undelivered",
    "introduced",
    "lives",
    "look",
    "owner",
    "remove",
    "sweep",
    "undelivered",
    "writers",
]

_PIECE: Final = wire.MAX_BATCH // 2


class Found(msgspec.Struct, frozen=True):
    """Segment files of one producer: those that can be read, and the damaged ones with the why."""

    views: list[tuple[Path, seg.View]]
    damaged: list[tuple[Path, str]]

    @property
    def claimed(self) -> int:
        """The sequence behind the last event that a damaged file says it held; else 0."""
        return max((seg.claimed(path) or 0 for path, _ in self.damaged), default=0)


class Taken(msgspec.Struct):
    """What was appended, from which files, and what could not be read."""

    events: int = 0
    files: list[Path] = msgspec.field(default_factory=list)  # not needed once the log is synced
    damaged: dict[bytes, Found] = msgspec.field(default_factory=dict)  # by producer

    def add(self, other: Taken) -> None:
        self.events += other.events
        self.files += other.files
        self.damaged |= other.damaged


def look(paths: list[Path]) -> Found:
    """Read segment files; what vanishes meanwhile was somebody else's to remove."""
    found = Found([], [])
    for path in paths:
        try:
            found.views.append((path, seg.view(path)))
        except FormatError as error:
            found.damaged.append((path, str(error)))
        except OSError:
            continue
    return found


def append_journals(log: EventLog, places: list[Path], run: str, *, remove: bool) -> Taken:
    """Append what dead producers' journals in the spool hold and the log lacks.

    ``remove``: the files go once the log is synced.
    """
    taken = Taken()
    taken_back = log.taken_back
    for producer in spool.producers(places, run):
        paths = spool.segments(places, run, producer)
        who = owner(paths)
        if not paths or (who is not None and lives(who)):
            continue  # its segments may be many, and need not be read to know that
        found = look(paths)
        first = introduced(places, run, producer, found)
        if who is None and (first is None or lives(first)):
            continue
        with log.turn:
            if first is not None and not first.parent and not log.next.get(producer):
                log.append(producer, 0, 1, wire.array_header(1) + wire.encode(first))
                taken.events += 1
            taken.events += _append(log, producer, [view for _, view in found.views])
        taken.files += [path for path, _ in found.views]
        if found.damaged:
            taken.damaged[producer] = found
    if taken.events or (remove and taken.files):
        _sync(log, taken_back)
    if remove and taken.files:
        _remove(taken.files)
        sweep(places, run)
    return taken


def undelivered(directory: Path) -> dict[bytes, Found]:
    """The journals in a run's ``undelivered/``, by producer."""
    found: dict[bytes, Found] = {}
    left = directory / "undelivered"
    for folder in sorted(left.iterdir()) if left.is_dir() else []:
        try:
            producer = bytes.fromhex(folder.name)
        except ValueError:
            continue
        found[producer] = look(sorted(folder.glob("*.seg")))
    return found


def append_undelivered(log: EventLog, directory: Path) -> Taken:
    """Append and sync what ``undelivered/`` holds and the log lacks; the files stay."""
    taken = Taken()
    taken_back = log.taken_back
    for copy in (directory / "undelivered").glob(f"*{seg.NEW}"):
        if _abandoned(copy):  # who made it had no time left
            taken.files += copy.iterdir()
    for producer, found in undelivered(directory).items():
        with log.turn:
            taken.events += _append(log, producer, [view for _, view in found.views])
        taken.files += [path for path, _ in found.views]
        if found.damaged:
            taken.damaged[producer] = found
    if taken.events:
        _sync(log, taken_back)
    return taken


def remove(taken: Taken) -> None:
    """Remove files, and folders that are empty then, once everything in them is safe."""
    _remove(taken.files)


def writers(places: list[Path], run: str) -> Iterator[seg.Identity]:
    """Whose journals of a run lie in the spool."""
    for producer in spool.producers(places, run):
        who = owner(spool.segments(places, run, producer))
        if who is not None:
            yield who


def owner(paths: list[Path]) -> seg.Identity | None:
    """Whose segment files these are, by the first header that can be read."""
    for path in paths:
        try:
            return seg.identity(path)
        except (FormatError, OSError):
            continue
    return None


def lives(who: seg.Identity | ev.Started) -> bool:
    """Whether the process that writes a journal is alive on this host."""
    return process.alive(who.pid, who.pid_start, who.boot_id)


def introduced(places: list[Path], run: str, producer: bytes, found: Found) -> ev.Started | None:
    """A producer's first event: kept beside its journal, or in its first segment."""
    batches = []
    kept = spool.introduction(places, run, producer)
    if kept is not None:
        batches.append((kept, 1))
    batches += [(view.records, view.count) for _, view in found.views if view.first == 0]
    for records, count in batches:
        for event in wire.decode_batch(wire.array_header(count) + records, count)[:1]:
            if isinstance(event, ev.Started):
                return event
    return None


def sweep(places: list[Path], run: str) -> None:
    """Remove files of a run that dead processes were making: they never became segments."""
    for producer in spool.producers(places, run):
        for place in places:
            folder = place / run / producer.hex()
            left = [folder / name for name in spool.listed(folder) if name.endswith(seg.NEW)]
            _remove([path for path in left if _abandoned(path)])


def _abandoned(new: Path) -> bool:
    made_by = seg.maker(new)
    return made_by is not None and not process.alive(*made_by, process.boot_id())


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        for empty in (folder, folder.parent):
            try:
                empty.rmdir()
            except OSError:
                break


def _sync(log: EventLog, taken_back: int) -> None:
    """Raises ``OSError`` when another sync has failed meanwhile: then some of it is gone again."""
    log.sync()
    if log.taken_back != taken_back:
        raise OSError(errno.EIO, "what was appended could not be synced")


def _append(log: EventLog, producer: bytes, views: list[seg.View]) -> int:
    appended = 0
    reached = log.next.get(producer, 0)
    for view in sorted(views, key=lambda v: (v.first, v.count)):
        if view.first + view.count <= log.next.get(producer, 0):
            continue
        if view.table:
            log.append(producer, view.first, 0, view.table)
        cuts = [(0, 0), *view.cuts, (len(view.records), view.count)]
        start = cuts[0]
        for index, here in enumerate(cuts[1:], 1):
            last = index == len(cuts) - 1
            if not last and cuts[index + 1][0] - start[0] < _PIECE:
                continue
            first, count = view.first + start[1], here[1] - start[1]
            batch = wire.array_header(count) + view.records[start[0] : here[0]]
            start = here
            expected = log.next.get(producer, 0)
            if expected < reached:
                raise OSError(errno.EIO, "what came before could not be synced")
            if count <= 0 or first + count <= expected:
                continue
            if first < expected:
                batch, count, first = (
                    wire.cut(batch, expected - first),
                    first + count - expected,
                    expected,
                )
            log.append(producer, first, count, batch, after=expected)
            reached = first + count
            appended += count
    return appended
