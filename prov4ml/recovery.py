"""Journals that nobody shipped, brought into the event log; ``collect`` and ``recover``.

Idempotent: what the log has of a producer is not appended again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import events as ev
from prov4ml import process, salvage, spool, state, wire
from prov4ml import segment as seg
from prov4ml.errors import UsageError
from prov4ml.eventlog import EventLog, Held
from prov4ml.publish import Publisher, check_kept, fold

__all__ = ["Orphan", "collect", "orphans", "recover"]


_PATIENCE: Final = 5.0  # s in which a log that is being compressed may become free


class Orphan(msgspec.Struct, frozen=True):
    """A run of this node whose processes are all gone and whose journals nobody shipped."""

    run: str
    directory: Path
    job: str | None
    producers: dict[bytes, int]  # of the ranks (no forked children): their pids


def orphans(places: list[Path], runs: Container[str] | None = None) -> Iterator[Orphan]:
    """Runs in the spool (all, or these) that only a collector can complete now."""
    for run in spool.runs(places):
        if runs is not None and run not in runs:
            continue
        salvage.sweep(places, run)
        first: ev.Started | None = None
        pids: dict[bytes, int] = {}
        if any(salvage.lives(who) for who in salvage.writers(places, run)):
            continue
        for producer in spool.producers(places, run):
            views = [view for _, view in salvage.views(spool.segments(places, run, producer))]
            if not views:
                break
            if not views[0].who.parent:
                pids[producer] = views[0].who.pid
            first = _introduction(views) or first
        else:
            if first is not None and Path(first.directory).is_dir():
                job = first.settings.get("job")
                yield Orphan(
                    run, Path(first.directory), job if isinstance(job, str) else None, pids
                )


def collect(directory: Path, places: list[Path]) -> wire.Closed:
    """Complete a run from every journal found for it; write the documents.

    Takes ``undelivered/`` and this host's spool.  Raises ``UsageError`` while a process of the
    run lives or when there is nothing to collect.
    """
    if not directory.is_dir():
        raise UsageError(f"there is no folder {str(directory)!r}")
    left = salvage.undelivered(directory)
    run = _run_id(directory, [view for found in left.values() for _, view in found], places)
    for producer in spool.producers(places, run):
        for _, view in list(salvage.views(spool.segments(places, run, producer)))[:1]:
            if salvage.lives(view.who) and producer not in left:
                raise UsageError(f"rank {view.who.rank} (pid {view.who.pid}) still runs")
    check_kept(directory)
    log = _open(directory, run)
    try:
        salvage.append_undelivered(log, directory)
        salvage.append_journals(log, places, run, remove=True)
        log.sync()
        publisher = Publisher(log, directory)
        publisher.follow()
        _bury(publisher)
        closed = publisher.close()
    except BaseException:
        with contextlib.suppress(OSError):
            log.close()
        raise
    publisher.pack()
    return closed


def _open(directory: Path, run: str) -> EventLog:
    """The event log; one that a collector may be compressing is waited for a while."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return EventLog(directory / "events", run)
        except Held:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _bury(publisher: Publisher) -> None:
    """Processes that did not say how they ended, and live no more."""
    for p in state.clients(publisher.state):
        started = p.started
        if started is None or p.ended is not None or p.id in publisher.state.ends:
            continue
        here = started.host == process.hostname()
        if here and process.alive(started.pid, started.pid_start, started.boot_id):
            if started.parent:
                continue  # a child that outlives its parent is no reason to wait
            raise UsageError(f"rank {started.rank} (pid {started.pid}) still runs")
        status = "died" if here else "unreachable"
        publisher.tell(ev.RankEnded(time.time_ns(), p.id, status, "none"))


def _run_id(directory: Path, views: list[seg.View], places: list[Path]) -> str:
    """The run of a directory: what lies in it says so, or a journal in the spool."""
    for view in views:
        return view.who.run
    if (directory / "events").is_dir():
        for p in state.ranks(fold(directory)):
            if p.started is not None:
                return p.started.run
    for run in spool.runs(places):
        for producer in spool.producers(places, run):
            found = [view for _, view in salvage.views(spool.segments(places, run, producer))]
            first = _introduction(found) if found else None
            if first is not None and Path(first.directory) == directory:
                return run
    raise UsageError(f"{directory} holds no journal and no event log: nothing to collect")


def recover(places: list[Path]) -> Iterator[tuple[Path, wire.Closed | str]]:
    """``collect`` for every run in this user's spool whose processes are gone."""
    for orphan in orphans(places):
        try:
            yield orphan.directory, collect(orphan.directory, places)
        except (UsageError, OSError) as error:
            yield orphan.directory, str(error)


def _introduction(views: list[seg.View]) -> ev.Started | None:
    """The first record says where the run's directory is."""
    first = min(views, key=lambda v: v.first)
    events = wire.decode_batch(wire.array_header(first.count) + first.records, first.count)
    for event in events[:1]:
        if isinstance(event, ev.Started) and os.path.isabs(event.directory):
            return event
    return None
