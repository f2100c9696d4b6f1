"""Journals that nobody shipped, appended to an event log; what the log has is not appended again.

They lie in the spool (their process died) or in ``undelivered/`` of the run directory (their
process could not wait for a collector).  Files go only when everything in them is in the log.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prov4ml import process, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError
from prov4ml.eventlog import EventLog

__all__ = [
    "append_journals",
    "append_undelivered",
    "lives",
    "sweep",
    "undelivered",
    "views",
    "writers",
]

_PIECE: Final = wire.MAX_BATCH // 2


def append_journals(log: EventLog, places: list[Path], run: str, *, remove: bool) -> int:
    """Append what dead producers' journals in the spool hold and the log lacks.

    Gives back the number of events.  ``remove``: the files go once the log is synced.
    """
    appended = 0
    done: list[Path] = []
    taken_back = log.taken_back
    for producer in spool.producers(places, run):
        paths = spool.segments(places, run, producer)
        who = next(filter(None, map(_identity, paths)), None)
        if who is None or lives(who):
            continue  # its segments may be many, and need not be read to know that
        found = list(views(paths))
        appended += _append(log, producer, [view for _, view in found])
        done += [path for path, _ in found]
    if remove and done:
        _sync(log, taken_back)
        _remove(done)
        sweep(places, run)
    return appended


def undelivered(directory: Path) -> dict[bytes, list[tuple[Path, seg.View]]]:
    """The journals in a run's ``undelivered/``, by producer."""
    found: dict[bytes, list[tuple[Path, seg.View]]] = {}
    left = directory / "undelivered"
    for folder in sorted(left.iterdir()) if left.is_dir() else []:
        try:
            producer = bytes.fromhex(folder.name)
        except ValueError:
            continue
        found[producer] = list(views(sorted(folder.glob("*.seg"))))
    return found


def append_undelivered(log: EventLog, directory: Path) -> int:
    """Append what ``undelivered/`` holds and the log lacks; then the files go."""
    appended = 0
    done: list[Path] = []
    taken_back = log.taken_back
    for producer, found in undelivered(directory).items():
        appended += _append(log, producer, [view for _, view in found])
        done += [path for path, _ in found]
    if done:
        _sync(log, taken_back)
        _remove(done)
    return appended


def writers(places: list[Path], run: str) -> Iterator[seg.Identity]:
    """Whose journals of a run lie in the spool."""
    for producer in spool.producers(places, run):
        for path in spool.segments(places, run, producer)[:1]:
            who = _identity(path)
            if who is not None:
                yield who


def _identity(path: Path) -> seg.Identity | None:
    try:
        return seg.identity(path)
    except (FormatError, OSError):
        return None


def lives(who: seg.Identity) -> bool:
    """Whether the process that writes a journal is alive on this host."""
    return process.alive(who.pid, who.pid_start, who.boot_id)


def views(paths: list[Path]) -> Iterator[tuple[Path, seg.View]]:
    """The segments among some files; what is none is left alone."""
    for path in paths:
        try:
            yield path, seg.view(path)
        except (FormatError, OSError):
            continue


def sweep(places: list[Path], run: str) -> None:
    """Remove files of a run that dead processes were making: they never became segments."""
    for producer in spool.producers(places, run):
        for place in places:
            left = list((place / run / producer.hex()).glob(f"*{seg.NEW}"))
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
