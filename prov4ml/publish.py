"""From an event log to state, sinks and documents; used by the collector, ``collect``, ``replay``.

A ``Publisher`` follows one run's log.  What it decides (where bytes were stored, which outputs
are sealed, that the run is over) it appends to the log before anybody sees the effect, as a
producer of its own; so every document is a function of the log.  Order at the end: ranks have
ended, stream sinks close, outputs are sealed, the run has ended, documents are written.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from prov4ml import (
    documents,
    eventlog,
    process,
    resumption,
    rundir,
    salvage,
    sink,
    state,
    store,
    wire,
)
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.eventlog import EventLog, Frame, Reader
from prov4ml.feed import Feed
from prov4ml.provdm import iso
from prov4ml.version import VERSION

__all__ = ["Publisher", "fold", "last_word", "replay"]

_KEY: Final = re.compile(r"[0-9a-f.-]+")  # a marker's name, as it may come over the wire
_SNAPSHOT: Final = 60.0  # s between documents of a running run
_CHANGED: Final = 5.0  # s after a change of the ranks' status
_PATIENCE: Final = 20  # times the last rendering that pass before the next
_SINKS: Final = 5.0  # s that stream sinks get at the end
_UNHURRIED: Final = 60.0  # s in which they must get on, where no training process waits


def take(of: state.RunState, frame: Frame) -> None:
    """Fold one frame."""
    if frame.count:
        events = wire.decode_batch(frame.batch, frame.count)
        state.apply(of, frame.producer, frame.first, events)
    else:
        state.define(of, frame.producer, wire.decode_table(frame.batch))


def fold(directory: Path) -> state.RunState:
    """The state of a run directory's whole event log.  Raises ``UsageError`` without one."""
    if not (directory / "events").is_dir():
        raise UsageError(f"{directory} has no event log (events/): is it a run directory?")
    found = state.RunState()
    for frame in Reader(directory / "events"):
        take(found, frame)
    return standing(found, directory / "events", None, {})


Cuts = dict[bytes, tuple[state.Cut, int, state.Producer]]
"""Producers as the second pass left them, with their limits and the sequence they had reached."""


def standing(of: state.RunState, events: Path, frames: int | None, known: Cuts) -> state.RunState:
    """The state with what later attempts left behind counted apart.

    A second pass over the log (its first ``frames`` frames, those that ``of`` has), of the
    producers that are cut; none for a run of one attempt.  ``known`` holds what earlier calls
    found and is brought up to date.
    """
    cuts = resumption.cuts(of)
    if not cuts:
        return of
    again = state.recut(of, cuts)
    for id, (cut, reached, producer) in list(known.items()):
        if cuts.get(id) == cut and of.producers[id].next == reached:
            again.producers[id] = producer
    missing = cuts.keys() - again.producers.keys()
    if missing:
        reader = Reader(events)
        for frame in reader.read(frames):
            if frame.producer in missing:
                take(again, frame)
        reader.close()
    known.clear()
    known.update(
        {id: (cut, of.producers[id].next, again.producers[id]) for id, cut in cuts.items()}
    )
    return again


class Publisher:
    """Follows one run.  All methods on one thread; stream sinks have theirs."""

    def __init__(
        self,
        log: EventLog,
        directory: Path,
        options: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        """``options``: of sinks, set where the collector was launched; they win."""
        self._options = options or {}
        self.log = log
        self.directory = directory
        self.state = state.RunState()
        self.closed: wire.Closed | None = None
        self._id = os.urandom(16)
        self._sequence = 0
        self._lock = threading.Lock()
        self._reader = Reader(log.directory)
        self._over = False  # nothing stands behind the last RunEnded
        self._cuts: Cuts = {}
        self._feeds: list[Feed] | None = None
        self._written: list[documents.Written] = []
        self._shown = 0.0
        self._shown_as = ""
        self._took = 0.0

    def _emit(self, event: ev.CollectorEvent) -> None:
        """Append an event of our own, before the first one who we are; from any thread."""
        with self._lock:
            events: list[ev.CollectorEvent] = [event]
            if not self._sequence:
                here = process.hostname()
                events.insert(0, ev.CollectorStarted(time.time_ns(), here, os.getpid(), VERSION))
            batch = wire.array_header(len(events)) + b"".join(map(wire.encode, events))
            self.log.append(self._id, self._sequence, len(events), batch)
            self._sequence += len(events)

    def rank_ended(self, event: ev.RankEnded) -> None:
        """A rank's end, seen by somebody else; from any thread."""
        self._emit(event)

    # ------------------------------------------------------------------------- following

    def read(self) -> None:
        """Fold what is safe in the log; changes nothing outside."""
        for frame in self._reader.read(self.log.synced):
            ends = dict(self.state.run_ended)
            take(self.state, frame)
            self._over = self.state.run_ended != ends or (self._over and not frame.count)

    @property
    def settled(self) -> bool:
        """Whether the run was closed with all that stands in its log, and all is written."""
        over = state.closed(self.state)
        shown = documents.read_manifest(self.directory)
        if over is None or not self._over or shown.get("closed") != iso(over):
            return False
        return set(shown["failures"]) <= set(documents.stream_failures(self.state))

    def follow(self) -> None:
        """Fold what is safe in the log, open sinks when the run is known, store bytes."""
        self.read()
        started = next(state.ranks(self.state), None)
        if started is None or started.started is None:
            return
        if self._feeds is None:
            self._open(started.started)
        for producer, artifact in state.pending(self.state):
            kept = store.keep(self.directory, producer, artifact, time.time_ns())
            self._emit(kept)
            self.state.stored[producer.id, artifact.n] = kept
        for feed in self._feeds or ():
            feed.notify()

    def _open(self, started: ev.Started) -> None:
        if not self.state.opened:
            names = tuple(started.settings.get("sinks", ()))
            options = {**started.settings.get("options", {})}
            options |= {name: dict(own) for name, own in self._options.items()}
            opened = ev.RunOpened(time.time_ns(), started.run, str(self.directory), names, options)
            self._emit(opened)
            self.state.opened[self._id] = opened
        self._feeds = []
        names, options = state.sinks(self.state)
        for name in names:
            try:
                if not sink.is_stream(sink.load(name)):
                    continue
            except Exception as error:  # an import may raise anything
                text = f"{type(error).__name__}: {error}"
                self._emit(ev.SinkFailed(time.time_ns(), name, text))
                continue
            target = sink.Target(
                self.directory, started.run, started.experiment, self.state.cursors.get(name, 0)
            )
            feed = Feed(name, target, options.get(name, {}), self.log, self._emit)
            feed.start()
            self._feeds.append(feed)

    @property
    def complete(self) -> bool:
        """Whether all ranks have ended and all bytes are stored."""
        return state.complete(self.state) and not state.pending(self.state)

    def snapshot(self) -> None:
        """Write documents of the running run when they are due."""
        if self._feeds is None:
            return
        now = time.monotonic()
        shown_as = repr([state.ended(self.state, p).status for p in state.ranks(self.state)])
        since = now - self._shown
        wait = _CHANGED if shown_as != self._shown_as else _SNAPSHOT
        if self._shown and since < max(wait, _PATIENCE * self._took):
            return
        if not self._shown:  # at first only the manifest: the run has just begun
            self._shown = now
            self._shown_as = shown_as
            documents.write_manifest(self.directory, documents.manifest(self.state, ()))
            return
        self._write(now, shown_as)

    def _write(self, now: float, shown_as: str = "") -> None:
        shown = standing(self.state, self.log.directory, self._reader.number, self._cuts)
        self._written = documents.write(shown, self.directory)
        documents.write_manifest(self.directory, documents.manifest(self.state, self._written))
        self._shown = time.monotonic()
        self._shown_as = shown_as
        self._took = self._shown - now

    # ------------------------------------------------------------------------------- end

    def close(self, *, hurry: bool = True) -> wire.Closed:
        """Seal the outputs, end the run, write the documents; the log is closed.

        ``hurry``: a training process waits, so that stream sinks get ``_SINKS`` seconds in all.
        """
        taken = salvage.append_undelivered(self.log, self.directory)
        self.log.sync()
        self.follow()
        deadline = time.monotonic() + (_SINKS if hurry else _UNHURRIED)
        for feed in self._feeds or ():
            feed.finish()
        for feed in self._feeds or ():
            before = -1
            while not feed.done.wait(max(0.0, deadline - time.monotonic())):
                if hurry or feed.position == before:
                    text = "unfinished: too slow at the end of the run; prov4ml replay takes it up"
                    feed.give_up()
                    self._emit(ev.SinkFailed(time.time_ns(), feed.name, text))
                    break
                before, deadline = feed.position, time.monotonic() + _UNHURRIED
        numbers = state.attempts(self.state)
        self._emit(ev.RunEnded(time.time_ns(), numbers[-1] if numbers else 1))
        self.log.sync()
        self.read()
        self._write(time.monotonic())
        self.release()
        salvage.remove(taken)
        self.closed = last_word(documents.manifest(self.state, self._written))
        return self.closed

    def pack(self) -> None:
        """After the end: compress the log (or remove it), tidy up what is delivered."""
        started = next(state.ranks(self.state), None)
        settings = started.started.settings if started and started.started else {}
        key = settings.get("key")
        if isinstance(key, str) and _KEY.fullmatch(key):
            restarts = state.run_status(self.state).status != "finished"
            rundir.release(self.directory, key, restarts=restarts)
        incoming = self.directory / "artifacts" / ".incoming"
        if incoming.is_dir() and not any(incoming.iterdir()):
            incoming.rmdir()
        if settings.get("keep_events", True):
            eventlog.compress(self.log.directory)
        else:
            shutil.rmtree(self.log.directory, ignore_errors=True)

    def release(self) -> None:
        """Close the log, and the file that we read it from: compressed, that one is deleted."""
        self.log.close()
        self._reader.close()

    def abandon(self) -> None:
        """Let go of a run that is not over: documents as of now, the log closed."""
        self.log.sync()
        self.follow()
        if self._feeds is not None:
            self._write(time.monotonic())
        self.release()


def last_word(shown: Mapping[str, Any]) -> wire.Closed:
    """What there is to say of a closed run, from its manifest."""
    account = shown["accounting"]
    return wire.Closed(
        shown["run"],
        True,
        shown["status"],
        account["sent"],
        account["received"],
        account["lost"],
        account["rejected"],
        tuple(written["path"] for written in shown["documents"]),
        tuple(shown["failures"]),
    )


def replay(directory: Path, names: Iterable[str]) -> list[Path]:
    """Write outputs again from the event log; the same bytes for the same log and options.

    Document sinks write their document; a stream sink gets the whole log from frame 0.
    Raises ``UsageError``, and what the sink raises.
    """
    of = fold(directory)
    _, options = state.sinks(of)
    shown = documents.document(of)
    paths: list[Path] = []
    for name in names:
        kind = sink.load(name)
        if not sink.is_stream(kind):
            paths.append(documents.render(shown, name, options.get(name, {}), directory)[0])
            continue
        paths += _replay_stream(directory, of, name, kind, options.get(name, {}))
    return paths


def _replay_stream(
    directory: Path,
    of: state.RunState,
    name: str,
    kind: sink.SinkType,
    options: dict[str, object],
) -> list[Path]:
    from prov4ml.feed import Chunks

    first = next(state.ranks(of), None)
    if first is None or first.started is None:
        return []
    target = sink.Target(directory, first.started.run, first.started.experiment)
    made: sink.StreamSink = kind(target, options)
    chunks = Chunks()
    for frame in Reader(directory / "events"):
        chunk = chunks.take(frame)
        if chunk is not None:
            made.write(chunk)
    return [directory / output.path for output in made.close()]
