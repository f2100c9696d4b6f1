"""Journals that nobody shipped, brought into the event log; ``collect`` and ``recover``.

Idempotent: what the log has of a producer is not appended again, and a run that is closed with
all there is stays as it is.  Files go last: who is killed at this begins again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import documents, participants, process, salvage, spool, wire
from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.errors import FormatError, InUse, SinkError, UsageError
from prov4ml.eventlog import EventLog, Held
from prov4ml.producer import Producer
from prov4ml.publish import Publisher, check_kept, last_word
from prov4ml.replay import fold

__all__ = ["Orphan", "Recovered", "collect", "orphans", "recover"]


_PATIENCE: Final = 5.0  # s in which a log that is being compressed may become free


class Orphan(msgspec.Struct, frozen=True):
    """A run of this node whose processes are all gone and whose journals nobody shipped."""

    run: str
    directory: Path
    job: str | None
    producers: dict[bytes, int]  # of the ranks (no forked children): their pids


class Recovered(msgspec.Struct, frozen=True):
    """What ``recover`` did for a run of this node."""

    directory: Path
    closed: wire.Closed | None  # None: nothing was done, and ``why`` says why
    why: str = ""
    alone: bool = False  # because somebody who lives sees to it


class _Left(msgspec.Struct):
    """What a run left in the spool."""

    started: ev.Started | None = None  # of one of its ranks
    alive: seg.Identity | None = None  # who still writes there
    pids: dict[bytes, int] = msgspec.field(default_factory=dict)  # of ranks that are dead
    readable: bool = False  # there are segments to take
    damaged: list[tuple[Path, str]] = msgspec.field(default_factory=list)

    @property
    def work(self) -> bool:
        """Whether the run waits for somebody to complete it."""
        if self.started is None or not os.path.isdir(self.started.directory):
            return False
        directory = Path(self.started.directory)
        left = salvage.undelivered(directory).values()
        return (
            self.readable
            or any(found.views for found in left)
            or documents.read_manifest(directory).get("closed") is None
        )


def orphans(places: list[Path], runs: Container[str] | None = None) -> Iterator[Orphan]:
    """Runs in the spool (all, or these) that only a collector can complete now."""
    for run in spool.runs(places):
        if runs is not None and run not in runs:
            continue
        left = _look(places, run)
        if left.alive is None and left.work and left.started is not None:
            job = left.started.settings.get("job")
            yield Orphan(
                run,
                Path(left.started.directory),
                job if isinstance(job, str) else None,
                left.pids,
            )


def _look(places: list[Path], run: str) -> _Left:
    salvage.sweep(places, run)
    left = _Left()
    left.alive = next(filter(salvage.lives, salvage.writers(places, run)), None)
    for producer in spool.producers(places, run):
        if left.alive is not None:  # what is there may be much, and need not be read
            left.started = salvage.introduced(places, run, producer, salvage.Found([], []))
            if left.started is not None:
                return left
            continue
        paths = spool.segments(places, run, producer)
        who = salvage.owner(paths)
        found = salvage.look(paths)
        left.damaged += found.damaged
        left.readable = left.readable or bool(found.views)
        started = salvage.introduced(places, run, producer, found)
        if started is not None and os.path.isabs(started.directory):
            left.started = started
            # One that lives and has no segments has ended its run.
            if not salvage.lives(started):
                left.pids[producer] = started.pid
        elif who is not None and not who.parent:
            left.pids[producer] = who.pid
    return left


def collect(directory: Path, places: list[Path]) -> wire.Closed:
    """Complete a run from every journal found for it; write the documents.

    Takes ``undelivered/`` and this host's spool.  Raises ``InUse`` while a process of the run or
    its collector lives, ``UsageError`` when there is nothing to collect.
    """
    if not directory.is_dir():
        raise UsageError(f"there is no folder {str(directory)!r}")
    left = salvage.undelivered(directory)
    shown = documents.read_manifest(directory)
    kept = (directory / "events").is_dir()
    if not kept and not left and shown.get("closed") and not spool.producers(places, shown["run"]):
        return last_word(shown)  # its log was not kept, and nothing is new
    run = _run_id(directory, left, places)
    for producer in spool.producers(places, run):
        who = salvage.owner(spool.segments(places, run, producer))
        if who is not None and salvage.lives(who) and producer not in left:
            raise _lives(directory, who.rank, who.pid)
    check_kept(directory)
    log = _open(directory, run)
    try:
        publisher = Publisher(log, directory)
    except BaseException:
        with contextlib.suppress(OSError):
            log.close()
        raise
    try:
        publisher.read()
        for p in _living(publisher):
            if p.id not in left:
                assert p.started is not None
                raise _lives(directory, p.started.rank, p.started.pid)
        taken = salvage.append_undelivered(log, directory)
        taken.add(salvage.append_journals(log, places, run, remove=False))
        if taken.events or not publisher.settled:
            publisher.follow()
            _bury(publisher, taken)
            closed = publisher.close(hurry=False)
        else:
            closed = publisher.last_word()
            with contextlib.suppress(OSError):
                log.finish()
        publisher.pack()
    finally:
        publisher.release()
    salvage.remove(taken)
    known = {p.id for p in participants.clients(publisher.state)}
    spool.forget(places, run, known - taken.damaged.keys())
    damaged = [f"{text}: left where it is" for f in taken.damaged.values() for _, text in f.damaged]
    return msgspec.structs.replace(closed, failures=(*closed.failures, *damaged))


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


def _living(publisher: Publisher) -> Iterator[Producer]:
    """Ranks that have not said how they ended, and live on this host."""
    for p in list(participants.ranks(publisher.state)):
        s = p.started
        if s is None or p.ended is not None or p.id in publisher.state.ends:
            continue
        if s.host == process.hostname() and salvage.lives(s):
            yield p


def _lives(directory: Path, rank: int, pid: int) -> InUse:
    return InUse(f"rank {rank} (pid {pid}) of {directory} still runs")


def _bury(publisher: Publisher, taken: salvage.Taken) -> None:
    """Processes that did not say how they ended, and live no more."""
    for p in _living(publisher):
        assert p.started is not None
        raise _lives(publisher.directory, p.started.rank, p.started.pid)
    for p in participants.clients(publisher.state):
        s = p.started
        if s is None or p.ended is not None or p.id in publisher.state.ends:
            continue
        here = s.host == process.hostname()
        if here and salvage.lives(s):
            continue  # a child that outlives its parent is no reason to wait
        status = "died" if here else "unreachable"
        sent = (taken.damaged[p.id].claimed or None) if p.id in taken.damaged else None
        publisher.tell(ev.RankEnded(time.time_ns(), p.id, status, "none", sent=sent))


def _run_id(directory: Path, left: dict[bytes, salvage.Found], places: list[Path]) -> str:
    """The run of a directory: what lies in it says so, or a journal in the spool."""
    for found in left.values():
        for _, view in found.views:
            return view.who.run
    if (directory / "events").is_dir():
        for p in participants.ranks(fold(directory)):
            if p.started is not None:
                return p.started.run
    for run in spool.runs(places):
        for producer in spool.producers(places, run):
            seen = salvage.look(spool.segments(places, run, producer))
            first = salvage.introduced(places, run, producer, seen)
            if first is not None and Path(first.directory) == directory:
                return run
    raise UsageError(f"{directory} holds no journal and no event log: nothing to collect")


def recover(places: list[Path]) -> Iterator[Recovered]:
    """``collect`` for every run in this user's spool whose processes are gone."""
    for run in spool.runs(places):
        left = _look(places, run)
        started = left.started
        if left.alive is not None:
            who = left.alive
            where = Path(started.directory) if started else spool.folder(places, run)
            yield Recovered(where, None, f"rank {who.rank} (pid {who.pid}) still runs", True)
        elif started is None:
            for path, why in left.damaged:
                yield Recovered(path, None, f"{why}; nothing says which run it belongs to")
        elif not os.path.isdir(started.directory):
            folder = spool.folder(places, run)
            why = f"is gone; what it lacked lies in {folder}"
            yield Recovered(Path(started.directory), None, why)
        elif left.work or left.damaged:
            directory = Path(started.directory)
            try:
                yield Recovered(directory, collect(directory, places))
            except InUse as error:
                yield Recovered(directory, None, str(error), True)
            except (UsageError, FormatError, SinkError, OSError) as error:
                yield Recovered(directory, None, str(error))
        else:
            spool.forget(places, run, spool.producers(places, run))
