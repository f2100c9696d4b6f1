"""From an event log to state, sinks and documents; used by the collector, ``collect``, ``replay``.

A ``Publisher`` follows one run's log.  What it decides (where bytes were stored, which outputs
are sealed, that the run is over) it appends to the log before anybody sees the effect, as a
producer of its own; so every document is a function of the log.  Order at the end: ranks have
ended, stream sinks close, outputs are sealed, the run has ended, documents are written.

A disk that is full is no end: whatever raises ``OSError`` here can be called again, and goes on
where it stood.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

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
    talk,
    wire,
)
from prov4ml import events as ev
from prov4ml.aside import Aside, wait
from prov4ml.decisions import Decisions
from prov4ml.errors import UsageError
from prov4ml.eventlog import EventLog, Frame, Reader
from prov4ml.feed import Chunks, Feed
from prov4ml.version import VERSION

__all__ = ["Publisher", "fold", "replay"]

_KEY: Final = re.compile(r"[0-9a-f.-]+")  # a marker's name, as it may come over the wire
_SNAPSHOT: Final = 60.0  # s between documents of a running run
_CHANGED: Final = 5.0  # s after a change of the ranks' status
_PATIENCE: Final = 20  # times the last rendering that pass before the next
_SINKS: Final = 5.0  # s that stream sinks get at the end


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
    with contextlib.closing(Reader(directory / "events")) as reader:
        for frame in reader:
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
        self._decisions = Decisions(log)
        self._aside = Aside()
        self._said: set[str] = set()
        self._reader = Reader(log.directory)
        self._cuts: Cuts = {}
        self._kept: dict[tuple[bytes, int], ev.Stored] = {}  # hashed, not yet told
        self._feeds: list[Feed] | None = None
        self._written: list[documents.Written] = []
        self._shown = 0.0
        self._shown_as = ""
        self._took = 0.0
        self.tell(ev.CollectorStarted(time.time_ns(), process.hostname(), os.getpid(), VERSION))

    def tell(self, event: ev.CollectorEvent) -> None:
        """An event of the collector's own, from any thread; never raises ``OSError``."""
        self._decisions.tell(event)

    def _warn(self, text: str) -> None:
        """Say what went wrong with a sink, once."""
        if text not in self._said:
            self._said.add(text)
            talk.log.warning("%s: %s", self.directory.name, text)

    # ------------------------------------------------------------------------- following

    def follow(self) -> None:
        """Fold what is safe in the log, open sinks when the run is known, store bytes.

        Raises ``OSError`` when the log can take no more.
        """
        self._fold()
        started = next(state.ranks(self.state), None)
        if started is None or started.started is None:
            return
        if self._feeds is None:
            self._open(started.started)
        for feed in self._feeds or ():
            feed.notify()
        for producer, artifact in state.pending(self.state):
            key = (producer.id, artifact.n)
            if key not in self._kept:
                self._kept[key] = store.keep(self.directory, producer, artifact, time.time_ns())
            self._decisions.put(self._kept[key])
            self.state.stored[key] = kept = self._kept.pop(key)
            store.taken(self.directory, artifact, kept)

    def _fold(self) -> None:
        for frame in self._reader.read(self.log.synced):
            take(self.state, frame)

    def _open(self, started: ev.Started) -> None:
        if not self.state.opened:
            names = tuple(started.settings.get("sinks", ()))
            options = {**started.settings.get("options", {})}
            options |= {name: dict(own) for name, own in self._options.items()}
            opened = ev.RunOpened(time.time_ns(), started.run, str(self.directory), names, options)
            self._decisions.put(opened)
            self.state.opened[self._decisions.id] = opened
        self._feeds = []
        names, options = state.sinks(self.state)
        for name in names:
            try:
                if not sink.is_stream(self._aside.call(name, partial(sink.load, name))):
                    continue
            except Exception as error:  # an import may raise anything
                text = f"{type(error).__name__}: {error}"
                self._warn(f"sink {name}: {text}")
                self.tell(ev.SinkFailed(time.time_ns(), name, text))
                continue
            target = sink.Target(
                self.directory, started.run, started.experiment, self.state.cursors.get(name, 0)
            )
            feed = Feed(name, target, options.get(name, {}), self.log, self.tell)
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
        least = _CHANGED if shown_as != self._shown_as else _SNAPSHOT
        if self._shown and since < max(least, _PATIENCE * self._took):
            return
        if not self._shown:  # at first only the manifest: the run has just begun
            self._shown = now
            self._shown_as = shown_as
            documents.write_manifest(self.directory, documents.manifest(self.state, ()))
            return
        self._write(now, shown_as)

    def _write(self, now: float, shown_as: str = "") -> None:
        """Raises ``OSError`` when the manifest cannot be written."""
        shown = standing(self.state, self.log.directory, self._reader.number, self._cuts)
        self._written = documents.write(shown, self.directory, self._aside)
        for w in self._written:
            if w.error is not None:
                self._warn(f"sink {w.sink}: {w.error}")
        self._shown = time.monotonic()
        self._shown_as = shown_as
        self._took = self._shown - now
        documents.write_manifest(self.directory, documents.manifest(self.state, self._written))

    # ------------------------------------------------------------------------------- end

    def close(self, final: bool = True) -> wire.Closed:
        """Seal the outputs, end the run, write the documents; nothing more comes into the log.

        Without ``final``, sinks that find no room because the run directory has none are an
        ``OSError`` like the others, and the next call tries again; else they have failed.
        """
        if not self._decisions.ended:
            salvage.append_undelivered(self.log, self.directory)
            self.log.sync()
            self.follow()
            self._close_feeds(final or sink.has_room(self.directory))
            numbers = state.attempts(self.state)
            self._decisions.end(ev.RunEnded(time.time_ns(), numbers[-1] if numbers else 1))
        self._settle()
        self._write(time.monotonic())
        starved = [w for w in self._written if w.starved]
        if starved and not final and not sink.has_room(self.directory):
            raise OSError(errno.ENOSPC, f"no room for {', '.join(w.sink for w in starved)}")
        if self._tell_documents():
            self._settle()
            self._write(time.monotonic())
        with contextlib.suppress(OSError):  # all of it was synced
            self.log.finish()
        self.closed = self._last_word()
        return self.closed

    def _settle(self) -> None:
        self._decisions.settle()
        self._fold()

    def _close_feeds(self, final: bool) -> None:
        """Half of ``exit_timeout`` for all of them; whoever is later has not finished."""
        feeds = self._feeds or []
        for feed in feeds:
            feed.finish()
            if final:
                feed.stop()
        wait(lambda t: all(_over(feed, final) or feed.done.wait(t) for feed in feeds), _SINKS)
        for feed in feeds:
            if _over(feed, final):
                if not feed.done.is_set():
                    raise OSError(errno.ENOSPC, f"no room for {feed.name}")
                continue
            feed.stop()
            feed.fail("unfinished: too slow at the end of the run; prov4ml replay takes it up")

    def _tell_documents(self) -> bool:
        """Into the log: what documents failed, and which of those that had are there now."""
        failures = {(f.sink, f.error) for f in state.failures(self.state)}
        had = {name for name, _ in failures}
        told = False
        for w in self._written:
            if w.error is not None and (w.sink, w.error) not in failures:
                self._decisions.put(ev.SinkFailed(time.time_ns(), w.sink, w.error))
                told = True
            elif w.error is None and w.sink in had:
                frame = self._reader.number
                self._decisions.put(ev.SinkCursor(time.time_ns(), w.sink, frame))
                told = True
        return told

    def pack(self, stop: Callable[[], bool] = lambda: False) -> None:
        """After the end: tidy up what is delivered, compress the log (or remove it), let go of it.

        ``stop``: somebody wants to go on with the run, so the log stays as it is.
        """
        started = next(state.ranks(self.state), None)
        settings = started.started.settings if started and started.started else {}
        key = settings.get("key")
        try:
            if isinstance(key, str) and _KEY.fullmatch(key):
                restarts = state.run_status(self.state).status != "finished"
                rundir.release(self.directory, key, restarts=restarts)
            store.tidy(self.directory, self.state.stored)
            if settings.get("keep_events", True):
                eventlog.compress(self.log.directory, stop)
            else:
                shutil.rmtree(self.log.directory, ignore_errors=True)
        except OSError as error:  # nothing of it is needed to read the run
            talk.log.warning("%s is not tidied up: %s", self.directory, error)
        finally:
            self.log.close()

    def abandon(self) -> None:
        """Let go of a run that is not over: documents as of now, the log closed."""
        try:
            self.log.sync()
            self.follow()
            if self._feeds is not None:
                self._write(time.monotonic())
        finally:
            self._decisions.hush()
            self.log.close()

    def _last_word(self) -> wire.Closed:
        shown = documents.manifest(self.state, self._written)
        account = shown["accounting"]
        return wire.Closed(
            self.log.run,
            True,
            shown["status"],
            account["sent"],
            account["received"],
            account["lost"],
            account["rejected"],
            tuple(w.path for w in self._written if w.error is None),
            tuple(shown["failures"]),
        )


def _over(feed: Feed, final: bool) -> bool:
    """Whether it has finished, or only waits for room, which is no end unless this is ``final``."""
    return feed.done.is_set() or (not final and feed.starved is not None)


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
    first = next(state.ranks(of), None)
    if first is None or first.started is None:
        return []
    target = sink.Target(directory, first.started.run, first.started.experiment)
    made: sink.StreamSink = kind(target, options)
    chunks = Chunks()
    try:
        with contextlib.closing(Reader(directory / "events")) as reader:
            for frame in reader:
                chunk = chunks.take(frame)
                if chunk is not None:
                    made.write(chunk)
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what is told
            made.close()
        raise
    return [directory / output.path for output in made.close()]
