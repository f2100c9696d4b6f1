"""The collector: receive, append, sync, ack; then fold and publish, run by run.

The receiving thread does nothing else: a batch is appended to its run's event log, logs are
synced in groups, and only then acked.  Each run has a publishing thread that follows its log
(``publish.Publisher``), so that rendering never holds an ack back.  Who of a run lives says
``liveness``.

A frame that is no message of ours is counted and dropped; the collector stays up.  A disk that
is full for one run stops no other: what cannot be appended is not acked and comes again, what
cannot be written is tried again, for a minute after the last rank has gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import events as ev
from prov4ml import participants, process, salvage, spool, wire
from prov4ml.errors import FormatError, UsageError, WireError
from prov4ml.eventlog import EventLog, Held
from prov4ml.leases import LEASE, Leases
from prov4ml.liveness import Liveness, Waited, here
from prov4ml.publish import Publisher, check_kept
from prov4ml.recovery import orphans
from prov4ml.talk import log
from prov4ml.transport import Server
from prov4ml.witness import VANISHED, of_return_code

__all__ = ["Collector", "Progress"]


_GROUP: Final = 0.05  # s that a sync may wait for more
_LOOK: Final = 1.0  # s between looks at who lives
_PARTING: Final = 1.0  # s in which ranks may follow a collector that was terminated
_CLOSING: Final = 8.0  # s in which it then closes runs that nobody is in any more
_ROOM: Final = 60.0  # s in which a run that is over may wait for room on a disk
_IDLE: Final = 2.0  # s without work after which an automatic collector ends
_REMEMBERED: Final = 1000  # closed runs of which a client that missed the word may still ask

_OURS: Final = frozenset(
    ("events", "artifacts", "metrics", "run.json", "undelivered", "series.parquet", "ranks.parquet")
)


class Progress(msgspec.Struct, frozen=True):
    """What a progress line shows."""

    events: int
    alive: int
    runs: tuple[str, ...]
    last: tuple[tuple[str, float], ...]  # the series heard of last, and their last values
    malformed: int = 0  # messages that were none of ours


class _Run:
    """An open run: its log, its processes, and the thread that publishes it."""

    def __init__(
        self,
        run: str,
        directory: Path,
        results: Callable[[_Run], None],
        options: Mapping[str, Mapping[str, object]],
        leases: Leases,
        waited: Waited,
    ) -> None:
        self.id = run
        self.directory = directory
        self.log = EventLog(directory / "events", run)
        self._more = threading.Event()
        try:
            self.publisher = Publisher(self.log, directory, options, self.notify)
        except BaseException:  # a full disk: the next hello tries it again
            with contextlib.suppress(OSError):
                self.log.close()
            raise
        self.liveness = Liveness(self.log, self.publisher, leases, waited)
        self.waiting: dict[bytes, bytes] = {}  # producer: address of a client that is ending
        self.unsynced: dict[bytes, bytes] = {}  # producer: address to ack
        self.dirty = False
        self.first_unsynced = 0.0
        self.rewound: dict[bytes, tuple[int, float]] = {}
        self.asks = False  # for a look: somebody is dead, and only that keeps it from being closed
        self.living = True  # whether a process of it was, at the last look
        self.last_alive = leases.awake
        self.undelivered = 0  # when that folder changed last (ns), as far as we took it up
        self.unfinished = False  # it could not be closed, and is let go
        self._leases = leases
        self._closing: float | None = None  # since when nobody has more to say, as ``last_alive``
        self._results = results
        self._over = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, name=f"prov4ml-{run}", daemon=True)

    def begin(self) -> None:
        """Publish; once it is known who is there, for an earlier attempt may have ended the run."""
        self._thread.start()
        self.notify()

    def notify(self) -> None:
        self._more.set()

    def give_up(self) -> None:
        """No rank lives any more: close with what there is."""
        self._over.set()
        self._more.set()

    @property
    def packing(self) -> bool:
        """Whether the publishing thread still works."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait for the publishing thread."""
        self._thread.join(timeout)

    def abandon(self) -> None:
        """The collector ends before the run does."""
        self._stop.set()
        self._more.set()

    def _complete(self) -> bool:
        """Whether all has come, and nobody is awaited whose end, or beginning, must be told."""
        if not self.publisher.complete or self.liveness.awaited():
            return False
        self.asks = self.liveness.untold()
        return not self.asks

    def _publish(self) -> None:
        while not self._published():
            pass
        if self.publisher.closed is None:
            return
        self._results(self)
        try:
            self.publisher.pack(self._stop.is_set)
        except Exception as error:  # it is written, only not compressed
            log.warning("%s: the event log is not compressed: %s", self.directory.name, error)

    def _published(self) -> bool:
        """Look once at what there is to publish; whether that was the last time."""
        self._more.wait(0.5)
        self._more.clear()
        try:
            if self._stop.is_set():
                self.publisher.abandon()
                return True
            if self._closing is None:
                self.publisher.follow()
                if self._complete() or self._over.is_set():
                    self._closing = self.last_alive
            if self._closing is not None:
                self.publisher.close(self._late())
                return True
            self.publisher.snapshot()
            self._results(self)
        except Exception as error:  # a full disk, say: the log goes on
            log.warning("%s: %s: %s", self.directory.name, type(error).__name__, error)
            if self._stop.is_set():
                return True
            if self._late():
                self._let_go()
                return True
            self._stop.wait(1.0)
        return False

    def _late(self) -> bool:
        """Whether it is over, and has waited for room long enough."""
        return self._closing is not None and self._leases.awake - self._closing > _ROOM

    def _let_go(self) -> None:
        log.warning("%s is not complete: prov4ml collect %s", self.directory.name, self.directory)
        self.unfinished = True
        try:
            self.publisher.abandon()
        except Exception as error:
            log.warning("%s: %s: %s", self.directory.name, type(error).__name__, error)
        self._results(self)


class Collector:
    """Serves until ``stop`` is set, or until its kind's end is reached.

    ``automatic``: ends 2 s after the last client that said hello is gone and all runs are
    closed.  ``once``: ends when the runs that came have closed.  ``options``: of sinks; they win
    over those that runs bring.  ``lease``: seconds of silence for which a process of another host
    is believed to live, and after which a run without living processes is over.
    """

    def __init__(
        self,
        address: str,
        *,
        automatic: bool = False,
        once: bool = False,
        progress: Callable[[Progress], None] | None = None,
        options: Mapping[str, Mapping[str, object]] | None = None,
        lease: float = LEASE,
    ) -> None:
        self._server = Server(address)
        self.address = self._server.address
        self.stop = threading.Event()
        self.events = 0
        self.malformed = 0
        self.waited: dict[int, int | None] = {}  # our own children, see ``liveness.Waited``
        self.untold: list[tuple[Path, wire.Closed]] = []  # closed, and no client heard it
        self._automatic = automatic
        self._once = once
        self._progress = progress
        self._options = options or {}
        self._leases = Leases(time.monotonic, lease)
        self._runs: dict[str, _Run] = {}
        self._packing: list[_Run] = []  # closed, their logs being compressed
        self._let_go: set[str] = set()  # runs that found no room, for ``prov4ml collect``
        self._closed: dict[str, wire.Closed] = {}
        self._known: set[tuple[int, int, str]] = set()  # (pid, start, boot) of all who said hello
        self._prune_at = 256  # of them, the dead are forgotten
        self._results: queue.SimpleQueue[_Run] = queue.SimpleQueue()
        self._finishing = False
        self._terminated = False
        self._job: str | None = None
        self._looked = 0.0
        self._idle_since: float | None = None
        self._began = time.monotonic()

    def once_idle(self, job: str) -> None:
        """End as soon as no run of the job is open or left behind; from any thread."""
        self._job = job
        self._once = True
        self._finishing = True
        self._server.wake()

    def terminate(self) -> None:
        """End soon: SIGTERM came, and may have gone to the whole job; from a signal handler."""
        self._terminated = True
        self.stop.set()

    @property
    def open(self) -> list[Path]:
        """Directories of the runs that are not closed."""
        return [run.directory for run in list(self._runs.values())]

    # ------------------------------------------------------------------------------ loop

    def serve(self) -> None:
        """Blocks until the end; then drains, closes what is over and lets go of the rest."""
        try:
            while not self._over():
                self._step()
            self._drain()
        finally:
            for run in self._runs.values():
                self._guarded(lambda run: run.log.sync(), run)
                run.abandon()
            until = time.monotonic() + 10.0
            for run in self._runs.values():
                run.join(max(0.0, until - time.monotonic()))
            for run in self._packing:
                run.join(30.0)
            self._server.close()

    def _drain(self) -> None:
        """Take what is on the way; where everybody was to end, see how the ranks did."""
        began = time.monotonic()
        while True:
            since = time.monotonic() - began
            closing = any(not run.living for run in self._runs.values())
            patience = _CLOSING if closing else _PARTING if self._runs else 0.0
            if since > max(0.2, patience if self._terminated else 0.0):
                return
            for run in self._runs.values():
                run.liveness.terminated = self._terminated
            self._looked = min(self._looked, time.monotonic() - _LOOK + 0.1)
            self._step()

    def _step(self) -> None:
        busy = any(run.dirty for run in self._runs.values())
        for address, frames in self._server.receive(0.005 if busy else 0.1):
            try:
                self._take(address, frames)
            except WireError as error:
                self._drop(str(error))
            except Held:
                pass  # the run is being closed: it will say hello, and open it again
            except OSError as error:  # a full disk: not acked, so the producer sends it again
                log.warning("an event log cannot be written: %s", error)
            except Exception as error:  # whatever one peer sent, the others go on
                self._drop(f"{type(error).__name__}: {error}")
        now = time.monotonic()
        for run in self._runs.values():
            if run.dirty and (run.waiting or now - run.first_unsynced > _GROUP):
                self._guarded(self._sync, run)
        self._hear_results()
        if now - self._looked > _LOOK:
            self._looked = now
            self._leases.look()
            for run in list(self._runs.values()):
                self._guarded(self._look, run)
            self._look_behind()
            self._show()

    def _drop(self, why: str) -> None:
        """Count a message that is none of ours; said seldom enough for a flood."""
        self.malformed += 1
        if self.malformed & (self.malformed - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            log.warning("dropped a malformed message, %d by now: %s", self.malformed, why[:500])

    @staticmethod
    def _guarded(action: Callable[[_Run], object], run: _Run) -> None:
        """A disk that is full for one run stops no other."""
        try:
            action(run)
        except Held:
            pass  # it is being closed
        except Exception as error:
            log.warning("%s: %s: %s", run.directory, type(error).__name__, error)

    def _show(self) -> None:
        if self._progress is None:
            return
        try:
            self._progress(self._shown())
        except OSError:  # the terminal is gone
            self._progress = None

    def _over(self) -> bool:
        if self.stop.is_set():
            return True
        if self._runs or not (
            self._automatic or (self._once and (self._closed or self._let_go or self._finishing))
        ):
            self._idle_since = None
            return False
        if self._once:
            return not (self._finishing and self._adopt())
        self._known = {who for who in self._known if process.alive(*who)}
        now = time.monotonic()
        if self._known or now - self._began < 5.0:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since > _IDLE and not self._adopt()

    def _look_behind(self) -> None:
        """Forked children that outlived their run write on: stay, and take what they leave."""
        places = spool.roots(os.environ)
        left = set()
        for run in spool.runs(places):
            if run in self._closed:
                living = [who for who in salvage.writers(places, run) if salvage.lives(who)]
                self._known.update((who.pid, who.pid_start, who.boot_id) for who in living)
                if not living:
                    left.add(run)
        if left:
            self._adopt(left)

    def _adopt(self, runs: Container[str] | None = None) -> bool:
        """Take up runs whose processes are dead and left journals; whether there are any.

        Of these runs, or of any: some died before they could say hello.
        """
        found = False
        for orphan in orphans(spool.roots(os.environ), runs):
            if self._job not in (None, orphan.job) or orphan.run in self._let_go:
                continue
            try:
                run = self._run(orphan.run, orphan.directory)
            except (OSError, UsageError, FormatError) as error:
                log.warning("%s: %s", orphan.directory, error)
                self._closed.pop(orphan.run, None)
                continue
            found = True
            self._guarded(partial(self._tell_ends, producers=orphan.producers), run)
            run.begin()
        return found

    def _tell_ends(self, run: _Run, producers: Mapping[bytes, int]) -> None:
        """Of ranks that were dead before anybody looked."""
        for producer, pid in producers.items():
            code = self.waited.get(pid)
            seen = VANISHED if code is None else of_return_code(code, "waited")
            run.liveness.tell_end(producer, seen)
        run.log.sync()

    # -------------------------------------------------------------------------- messages

    def _take(self, address: bytes, frames: list[bytes]) -> None:
        if not frames:
            raise WireError("an empty message")
        request = wire.decode_request(frames[0])
        if isinstance(request, wire.Hello):
            self._welcome(address, request)
        elif len(frames) != 2:
            raise WireError(f"a batch with {len(frames)} frames")
        else:
            self._append(address, request, frames[1])

    def _welcome(self, address: bytes, hello: wire.Hello) -> None:
        if hello.protocol != wire.PROTOCOL or hello.event_format != ev.EVENT_FORMAT:
            reason = (
                f"prov4ml {hello.version} speaks protocol {hello.protocol}, the collector "
                f"{wire.PROTOCOL}: pip install -U prov4ml on both sides"
            )
            self._refuse(address, hello, reason)
            return
        if not _sound(hello):
            self._refuse(address, hello, f"run {hello.run[:40]!r} is no UUID, or a number is none")
            return
        run = self._runs.get(hello.run)
        opened = run is None
        if run is None:
            closed = self._closed.get(hello.run)
            if closed is not None and hello.ending:
                self._server.send(address, wire.encode(closed))
                return
            try:
                run = self._open(hello)
            except (OSError, UsageError, FormatError) as error:
                again = isinstance(error, (OSError, Held))
                if again:
                    log.warning("%s: %s", hello.directory, error)
                self._refuse(address, hello, f"{hello.directory}: {error}", again)
                return
        run.liveness.greet(hello)
        if opened:
            run.begin()
        if here(hello.host, hello.boot_id):
            self._known.add((hello.pid, hello.pid_start, hello.boot_id))
            if len(self._known) > self._prune_at:
                self._known = {who for who in self._known if process.alive(*who)}
                self._prune_at = max(256, 2 * len(self._known))
        run.last_alive = self._leases.awake
        if hello.ending:
            run.waiting[hello.producer] = address
            run.notify()
        if run.dirty:  # what a welcome says we have, the client forgets
            self._sync(run)
        expected = run.log.next.get(hello.producer, 0)
        answer = wire.Welcome(hello.producer, expected, hello.sent)
        self._server.send(address, wire.encode(answer))

    def _refuse(self, address: bytes, hello: wire.Hello, reason: str, again: bool = False) -> None:
        self._server.send(address, wire.encode(wire.Refused(hello.producer, reason, again)))

    def _open(self, hello: wire.Hello) -> _Run:
        directory = Path(hello.directory)
        if "\0" in hello.directory or not directory.is_absolute() or not directory.is_dir():
            raise UsageError("is no folder here")
        if hello.uid != os.getuid() or directory.stat().st_uid != os.getuid():
            raise UsageError("belongs to another user")
        foreign = [
            name
            for name in os.listdir(directory)
            if name not in _OURS and not name.startswith((".", "prov."))
        ]
        if foreign and not (directory / "events").is_dir():
            raise UsageError(f"is no run directory: it holds {foreign[0]!r}")
        return self._run(hello.run, directory)

    def _run(self, id: str, directory: Path) -> _Run:
        """Take up a run, and what dead processes of it have left in the spool."""
        for packed in self._packing:
            if packed.id == id:
                packed.abandon()
                packed.join(30.0)
        check_kept(directory)
        run = _Run(id, directory, self._result, self._options, self._leases, self.waited)
        try:
            run.liveness.take_up()
        except BaseException:
            with contextlib.suppress(OSError):
                run.log.close()
            raise
        self._runs[id] = run
        self._closed.pop(id, None)
        self._let_go.discard(id)
        return run

    def _append(self, address: bytes, batch: wire.Batch, data: bytes) -> None:
        if len(data) > wire.MAX_BATCH:
            raise WireError(f"a batch of {len(data):,} bytes; it has at most {wire.MAX_BATCH:,}")
        if not (0 <= batch.count <= len(data) and 0 <= batch.first < 1 << 62):
            raise WireError(f"{batch.count:,} events from {batch.first:,} on")
        run = self._runs.get(batch.run)
        if run is None or not run.liveness.knows(batch.producer):
            return  # from before we were here: its hello comes soon
        run.liveness.hear(batch.producer)
        with run.log.turn:
            expected = run.log.next.get(batch.producer, 0)
            first, count = batch.first, batch.count
            if count and first - batch.lost > expected:
                self._rewind(run, address, batch.producer, expected)
                return
            after = expected if count else None
            try:
                if not count or first + count > expected:
                    if count and first < expected:
                        data = wire.cut(data, expected - first)
                        count -= expected - first
                        first = expected
                    run.log.append(batch.producer, first, count, data, after=after)
                    self.events += count
            except OSError as error:  # a full disk: not acked, so it comes again
                log.warning("%s: the event log cannot be written: %s", run.directory, error)
                return
        run.unsynced[batch.producer] = address
        self._mark(run)

    def _mark(self, run: _Run) -> None:
        if not run.dirty:
            run.dirty = True
            run.first_unsynced = time.monotonic()

    def _rewind(self, run: _Run, address: bytes, producer: bytes, expected: int) -> None:
        """Ask once for what is missing, however many batches behind the gap come in."""
        now = time.monotonic()
        before = run.rewound.get(producer)
        if before is None or before[0] != expected or now - before[1] > 1.0:
            run.rewound[producer] = (expected, now)
            if run.dirty:
                self._sync(run)
            self._server.send(address, wire.encode(wire.Ack(producer, expected, True)))

    def _sync(self, run: _Run) -> None:
        run.log.sync()
        run.dirty = False
        for producer, address in run.unsynced.items():
            expected = run.log.next.get(producer, 0)
            self._server.send(address, wire.encode(wire.Ack(producer, expected)))
        run.unsynced.clear()
        run.notify()

    # --------------------------------------------------------------------------- results

    def _result(self, run: _Run) -> None:
        """From a publishing thread: there is something to tell."""
        self._results.put(run)
        self._server.wake()

    def _hear_results(self) -> None:
        while not self._results.empty():
            run = self._results.get()
            last = run.publisher.closed
            if self._runs.get(run.id) is not run:
                continue  # we have heard that it is over
            if last is not None:
                self._tell(run, last)
                self._closed[run.id] = last
                if len(self._closed) > _REMEMBERED:
                    self._closed.pop(next(iter(self._closed)))
                if not run.waiting:  # else a client says it
                    self.untold.append((run.directory, last))
                    del self.untold[:-_REMEMBERED]
                over = {p.id for p in participants.clients(run.publisher.state)}
                spool.forget(spool.roots(os.environ), run.id, over - run.liveness.damaged.keys())
                self._packing = [r for r in self._packing if r.packing] + [run]
                self._forget(run)
                continue
            if run.unfinished:
                self._let_go.add(run.id)
                self._forget(run)
                continue
            if run.asks:
                self._guarded(self._look, run)
            for producer, address in list(run.waiting.items()):
                known = run.publisher.state.producers.get(producer)
                others = self._working(run)
                if known is not None and known.ended is not None and others:
                    del run.waiting[producer]
                    self._server.send(address, wire.encode(wire.Closed(run.id, False)))

    def _forget(self, run: _Run) -> None:
        del self._runs[run.id]
        run.liveness.close()

    def _tell(self, run: _Run, last: wire.Closed) -> None:
        """The last rank to leave hears of the documents, the others that they may go."""

        def left(producer: bytes) -> tuple[int, bytes]:
            known = run.publisher.state.producers.get(producer)
            return (known.ended.time if known and known.ended else 0, producer)

        for place, producer in enumerate(sorted(run.waiting, key=left), 1):
            word = last if place == len(run.waiting) else wire.Closed(run.id, False)
            self._server.send(run.waiting[producer], wire.encode(word))

    def _working(self, run: _Run) -> list[bytes]:
        """Ranks that may still have something to say, those who are ending left out.

        A forked child that lives on is no other rank that waits for the documents.
        """
        known = run.publisher.state.producers
        return [
            producer
            for producer in run.liveness.living()
            if producer not in run.waiting
            and not ((p := known.get(producer)) and p.started and p.started.parent)
        ]

    # -------------------------------------------------------------------------- liveness

    def _look(self, run: _Run) -> None:
        """Who of the run still lives?  Take up what the dead and the impatient have left."""
        run.living, told = run.liveness.look()
        if self._take_undelivered(run) or told:
            run.log.sync()
            run.notify()
        if run.living:
            run.last_alive = self._leases.awake
        elif self._leases.awake - run.last_alive > self._leases.length:
            run.give_up()

    @staticmethod
    def _take_undelivered(run: _Run) -> bool:
        """What ranks put there because they could not wait for us; the files go at the end."""
        try:
            changed = os.stat(run.directory / "undelivered").st_mtime_ns
        except OSError:
            return False
        if changed == run.undelivered:
            return False
        appended = salvage.append_undelivered(run.log, run.directory).events
        run.undelivered = changed
        return bool(appended)

    def _shown(self) -> Progress:
        last: dict[str, float] = {}
        alive = 0
        for run in self._runs.values():
            alive += len(self._working(run))
            for producer in list(run.publisher.state.producers.values()):
                for series in list(producer.series.values())[-8:]:
                    if series.last is not None:
                        last["/".join((*series.context, series.name))] = series.last
        names = tuple(run.directory.name for run in self._runs.values())
        return Progress(self.events, alive, names, tuple(last.items())[-4:], self.malformed)


def _sound(hello: wire.Hello) -> bool:
    """Whether its values are what they stand for.

    A run is a UUID in canonical form, the only spelling that names a folder of journals.
    """
    try:
        canonical = str(uuid.UUID(hello.run)) == hello.run
    except ValueError:
        return False
    numbers = 0 < hello.pid < 1 << 31 and 0 <= hello.pid_start < 1 << 63
    return canonical and numbers and len(hello.producer) == 16
