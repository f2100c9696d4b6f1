"""From an event log to state, sinks and documents; used by the collector and by ``collect``.

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
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from prov4ml import (
    delivery,
    documents,
    ends,
    eventlog,
    participants,
    process,
    replay,
    rundir,
    salvage,
    sink,
    store,
    talk,
    wire,
)
from prov4ml import events as ev
from prov4ml.aside import Aside, wait
from prov4ml.decisions import Decisions
from prov4ml.errors import UsageError
from prov4ml.eventlog import EventLog, Reader
from prov4ml.feed import Feed
from prov4ml.provdm import iso
from prov4ml.state import RunState
from prov4ml.talk import short
from prov4ml.version import VERSION

__all__ = ["Publisher", "check_kept", "last_word"]

_KEY: Final = re.compile(r"[0-9a-f.-]+")  # a marker's name, as it may come over the wire
_SNAPSHOT: Final = 60.0  # s between documents of a running run
_CHANGED: Final = 5.0  # s after a change of the ranks' status
_PATIENCE: Final = 20  # times the last rendering, or judging, that pass before the next
_COPY: Final = re.compile(r"(?P<producer>[0-9a-f]{32})-(?P<n>\d{1,18})(?P<folder>\.d)?")
_TOLD: Final = 5  # of the things that could not be stored, how many are named at the end
_SINKS: Final = 5.0  # s that stream sinks get at the end
_UNHURRIED: Final = 60.0  # s in which they must get on, where no training process waits


def check_kept(directory: Path) -> None:
    """Raises ``UsageError`` for a run that is over and whose events were removed.

    Documents made of what came since would take the place of those that tell all of it.
    """
    if (directory / "events").is_dir():
        return
    if documents.read_manifest(directory).get("closed") is not None:
        raise UsageError("the run is over and keeps no events (keep_events = false)")


class Publisher:
    """Follows one run.  All methods on one thread; stream sinks have theirs."""

    def __init__(
        self,
        log: EventLog,
        directory: Path,
        options: Mapping[str, Mapping[str, object]] | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """``options``: of sinks, set where the collector was launched; they win.

        ``wake`` is called, on another thread, when ``follow`` has something to do.
        """
        self._options = options or {}
        self.log = log
        self.directory = directory
        self.state = RunState()
        self.closed: wire.Closed | None = None
        self.followed = False  # whether all that the log held when it was opened is folded
        self._decisions = Decisions(log, _opening)
        self._aside = Aside()
        self._said: set[str] = set()
        self._reader = Reader(log.directory)
        self._last = False  # nothing stands behind the last RunEnded
        self._cuts: replay.Cuts = {}
        self._keeper = store.Keeper(directory, wake)
        self._settling: deque[tuple[int, Path]] = deque()  # our sequence, needless copy
        self._feeds: list[Feed] | None = None
        self._written: list[documents.Written] = []
        self._kept: deque[ev.Stored] = deque()  # not said yet
        self._changed = True  # the state, in more than points, since it was judged
        self._judged = 0.0
        self._judging = 0.0  # s that it took
        self._complete = False
        self._statuses = ""
        self._closing = False
        self._delivered = salvage.Taken()  # what undelivered/ held; it goes at the end
        self._shown = 0.0
        self._shown_as = ""
        self._took = 0.0

    def tell(self, event: ev.CollectorEvent) -> None:
        """An event of the collector's own, from any thread; never raises ``OSError``."""
        self._decisions.tell(event)

    def _warn(self, text: str) -> None:
        """Say what went wrong with a sink, once."""
        if text not in self._said:
            self._said.add(text)
            talk.log.warning("%s: %s", self.directory.name, text)

    # ------------------------------------------------------------------------- following

    def read(self) -> None:
        """Fold what is safe in the log; changes nothing outside."""
        for frame in self._reader.read(self.log.synced):
            before = dict(self.state.run_ended)
            self._changed |= replay.take(self.state, frame)
            self._last = self.state.run_ended != before or (self._last and not frame.count)
        self.followed = True

    @property
    def settled(self) -> bool:
        """Whether the run was closed with all that stands in its log, and all is written."""
        over = ends.closed(self.state)
        shown = documents.read_manifest(self.directory)
        if over is None or not self._last or shown.get("closed") != iso(over):
            return False
        return not delivery.failures(self.state)  # what failed is tried again

    def follow(self) -> None:
        """Fold what is safe in the log, open sinks when the run is known, store bytes.

        Raises ``OSError`` when the log can take no more of what must be said first.
        """
        self.read()
        with contextlib.suppress(OSError):  # a full disk: it waits for the next time
            self._decisions.catch_up()
        if self._feeds is None:
            started = next(participants.ranks(self.state), None)
            if started is None or started.started is None:
                return
            self._open(started.started)
        if self._changed and time.monotonic() - self._judged >= _PATIENCE * self._judging:
            self._judge()
        self._record()
        for feed in self._feeds or ():
            feed.notify()

    def _judge(self) -> None:
        """Where the run stands, and what there is to store: a look at all there is.

        So it is done when something changed, and seldom where there is very much.
        """
        began = time.monotonic()
        pending = delivery.pending(self.state)
        for producer, artifact in pending:
            self._keeper.take(producer, artifact)
        over = ends.complete(self.state)
        if over:
            self._keeper.hurry()
        self._complete = over and not pending
        self._statuses = repr(
            [ends.ended(self.state, p).status for p in participants.ranks(self.state)]
        )
        # Any event takes back that somebody was out of sight.
        unseen = any(end.status == "unreachable" for end in self.state.ends.values())
        self._changed = unseen or bool(self.state.leases)
        self._judged = time.monotonic()
        self._judging = self._judged - began

    def _record(self, timeout: float = 0.0) -> None:
        """Say what became of bytes; remove copies of which that is safe in the log."""
        self._kept.extend(self._keeper.results(timeout))
        while self._kept:
            kept = self._kept[0]
            number = self._decisions.put(kept)  # on a full disk it waits for the next time
            self._kept.popleft()
            self._changed = True
            self.state.stored[kept.producer, kept.n] = kept
            if kept.sha256 is not None:
                copy = store.incoming(self.directory, kept.producer, kept.n)
                self._settling.append((number, copy))
        while self._settling and self._decisions.safe(self._settling[0][0]):
            self._settling.popleft()[1].unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove copies that a collector before us stored and left, and halves of copies.

        A half was being made when its process ended: all its events are here, and none names it.
        """
        folder = self.directory / "artifacts" / ".incoming"
        for name in os.listdir(folder) if folder.is_dir() else ():
            found = _COPY.fullmatch(name)
            if found is None:
                continue
            id, n = bytes.fromhex(found["producer"]), int(found["n"])
            p, kept = self.state.producers.get(id), self.state.stored.get((id, n))
            over = p is not None and (p.ended is not None or id in self.state.ends)
            half = over and p is not None and delivery.sent(self.state, p) == p.received
            if half and p is not None and any(a.n == n for a in p.artifacts):
                half = found["folder"] is not None  # of a model that has been moved out of it
            if (folder / name).is_dir():
                if half:
                    shutil.rmtree(folder / name, ignore_errors=True)
            elif half or (kept is not None and kept.sha256 is not None):
                (folder / name).unlink(missing_ok=True)

    def _open(self, started: ev.Started) -> None:
        if not self.state.opened:
            names, options = _wanted(started.settings)
            options |= {name: dict(own) for name, own in self._options.items()}
            opened = ev.RunOpened(time.time_ns(), started.run, str(self.directory), names, options)
            self._decisions.put(opened)
            self.state.opened[self._decisions.id] = opened
        self._feeds = []
        names, options = delivery.sinks(self.state)
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
        if self._complete and self._changed:
            self._judge()
        return self._complete

    def snapshot(self) -> None:
        """Write documents of the running run when they are due."""
        if self._feeds is None:
            return
        now = time.monotonic()
        shown_as = self._statuses
        since = now - self._shown
        least = _CHANGED if shown_as != self._shown_as else _SNAPSHOT
        if self._shown and since < max(least, _PATIENCE * self._took):
            return
        if not self._shown:  # at first only the manifest: the run has just begun
            self._shown = now
            self._shown_as = shown_as
            begun = documents.manifest(self.state, (), closed=False)
            documents.write_manifest(self.directory, begun)
            return
        self._write(now, shown_as)

    def _write(self, now: float, shown_as: str = "") -> None:
        """Raises ``OSError`` when the manifest cannot be written."""
        self._render()
        self._shown = time.monotonic()
        self._shown_as = shown_as
        self._took = self._shown - now
        self._write_manifest(closed=False)

    def _render(self) -> None:
        shown = replay.standing(self.state, self.log.directory, self._reader.number, self._cuts)
        self._written = documents.write(shown, self.directory, self._aside)
        for w in self._written:
            if w.error is not None:
                self._warn(f"sink {w.sink}: {w.error}")

    def _write_manifest(self, *, closed: bool) -> None:
        content = documents.manifest(self.state, self._written, closed=closed)
        documents.write_manifest(self.directory, content)

    # ------------------------------------------------------------------------------- end

    def close(self, final: bool = True, *, hurry: bool = True) -> wire.Closed:
        """Seal the outputs, end the run, write the documents; nothing more comes into the log.

        What fails (a full disk) may be tried again: it goes on where it was.  Without ``final``,
        sinks that find no room because the run directory has none are an ``OSError`` like the
        others, and the next call tries again; else they have failed.  ``hurry``: a training
        process waits, so that stream sinks get ``_SINKS`` seconds in all.
        """
        if not self._closing:
            self._delivered = salvage.append_undelivered(self.log, self.directory)
            self.log.leave_to(self._decisions.id)  # or it would hold what no document says
            self._closing = True
        if not self._decisions.ended:
            self.log.sync()
            self._judged = 0.0
            self.follow()
            self._store_all()
            self._close_feeds(final or sink.has_room(self.directory), hurry)
            numbers = participants.attempts(self.state)
            self._decisions.end(ev.RunEnded(time.time_ns(), numbers[-1] if numbers else 1))
        self._settle()
        self._record()
        self._tidy()
        self._render()
        starved = [w.sink for w in self._written if w.starved]
        if starved and not final and not sink.has_room(self.directory):
            raise OSError(errno.ENOSPC, f"no room for {', '.join(starved)}")
        if self._tell_documents():
            self._settle()
            self._render()
        self._write_manifest(closed=True)
        self._keeper.stop()
        with contextlib.suppress(OSError):  # all of it was synced
            self.log.finish()
        self._reader.close()
        if not all(s.settings.get("keep_events", True) for s in self._introductions()):
            shutil.rmtree(self.log.directory, ignore_errors=True)
        salvage.remove(self._delivered)
        self.closed = self.last_word()
        return self.closed

    def _settle(self) -> None:
        self._decisions.settle()
        self.read()

    def _store_all(self) -> None:
        """Wait for the bytes that are still to be stored.  Raises ``OSError`` without room."""
        self._keeper.hurry()
        while delivery.pending(self.state):
            self._record(1.0)
            if self._keeper.starved is not None:
                raise self._keeper.starved

    def _close_feeds(self, final: bool, hurry: bool) -> None:
        """A while for all of them, or as long as one gets on; who is later has not finished."""
        feeds = self._feeds or []
        for feed in feeds:
            feed.finish()
            if final:
                feed.stop()

        def over(timeout: float) -> bool:
            return all(_over(feed, final) or feed.done.wait(timeout) for feed in feeds)

        reached: list[int] = []
        while not wait(over, _SINKS if hurry else _UNHURRIED) and not hurry:
            before, reached = reached, [feed.position for feed in feeds]
            if reached == before:
                break
        for feed in feeds:
            if _over(feed, final):
                if not feed.done.is_set():
                    raise OSError(errno.ENOSPC, f"no room for {feed.name}")
                continue
            feed.stop()
            feed.fail("unfinished: too slow at the end of the run; prov4ml replay takes it up")

    def _tell_documents(self) -> bool:
        """Into the log: what documents failed, and which of those that had are there now."""
        failures = {(f.sink, f.error) for f in delivery.failures(self.state)}
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
        """After the end: tidy up what is delivered, compress the log, let go of it.

        ``stop``: somebody wants to go on with the run, so the log stays as it is.
        """
        try:
            bad = ends.run_status(self.state).status != "finished"
            over = participants.attempts(self.state)
            for key in {s.settings.get("key") for s in self._introductions()}:
                if isinstance(key, str) and _KEY.fullmatch(key):
                    rundir.release(self.directory, key, over, restarts=bad)
            incoming = self.directory / "artifacts" / ".incoming"
            if incoming.is_dir() and not any(incoming.iterdir()):
                incoming.rmdir()
            self._sweep()
            eventlog.compress(self.log.directory, stop)
        except OSError as error:  # nothing of it is needed to read the run
            talk.log.warning("%s is not tidied up: %s", self.directory, error)
        finally:
            self.log.close()

    def _sweep(self) -> None:
        """Remove what those left who died while they wrote it."""
        for left in self.directory.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        undelivered = self.directory / "undelivered"
        for folder in undelivered.glob("*.new"):
            shutil.rmtree(folder, ignore_errors=True)
        if undelivered.is_dir() and not any(undelivered.iterdir()):
            undelivered.rmdir()

    def _introductions(self) -> list[ev.Started]:
        return [p.started for p in participants.ranks(self.state) if p.started is not None]

    def release(self) -> None:
        """Let go of the log, and of the file that we read it from."""
        self._keeper.stop()
        self._reader.close()
        with contextlib.suppress(OSError):  # what could not be synced was not acked
            self.log.close()

    def abandon(self) -> None:
        """Let go of a run that is not over: documents as of now, the log closed."""
        self._keeper.stop()
        try:
            self.log.sync()
            self.follow()
            if self._feeds is not None:
                self._write(time.monotonic())
        finally:
            self._decisions.hush()
            self.release()

    def last_word(self) -> wire.Closed:
        """What there is to say of the run, which is closed."""
        return last_word(documents.read_manifest(self.directory), _missing(self.state))


def last_word(shown: Mapping[str, Any], missing: Iterable[str] = ()) -> wire.Closed:
    """What there is to say of a closed run, from its manifest; and what could not be stored."""
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
        (*shown["failures"], *missing),
    )


def _missing(of: RunState) -> list[str]:
    """Whose bytes are not there, and why; the first of them, in words."""
    told = []
    for p in participants.clients(of):
        for a in p.artifacts:
            kept = of.stored.get((p.id, a.n))
            if kept is not None and kept.sha256 is None:
                told.append(f"{short(a.name)}: {kept.error}")
    more = [f"{len(told) - _TOLD:,} more are not stored"] if len(told) > _TOLD else []
    return told[:_TOLD] + more


def _wanted(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """The sinks that a run asks for, and their options; what is neither came from a stranger."""
    names, options = settings.get("sinks"), settings.get("options")
    return (
        tuple(map(str, names)) if isinstance(names, list | tuple) else (),
        {
            str(name): dict(own)
            for name, own in (options.items() if isinstance(options, Mapping) else ())
            if isinstance(own, Mapping)
        },
    )


def _opening() -> ev.CollectorEvent:
    """Who we are: said before the first thing that we say."""
    return ev.CollectorStarted(time.time_ns(), process.hostname(), os.getpid(), VERSION)


def _over(feed: Feed, final: bool) -> bool:
    """Whether it has finished, or only waits for room, which is no end unless this is ``final``."""
    return feed.done.is_set() or (not final and feed.starved is not None)
