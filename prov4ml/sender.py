"""The sender thread of a training process: ships journals, resends until acked, never in the way.

It reads what log calls have committed and sends it until the collector has acked it.  It holds
nothing that a log call needs, survives any exception, and is a daemon: the process never waits
for it except in ``finish``, which has a deadline.  In order:

    record what the run came from -> find or start a collector -> hello -> batches <-> acks
    -> (end of the run) hello, ending -> closed

Forked children write journals and nothing else; ours finds theirs in the spool and ships them.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from prov4ml import process, service, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError
from prov4ml.events import EVENT_FORMAT
from prov4ml.journal import Journal
from prov4ml.outbox import ChildJournal, Outbox, OwnJournal, Parcel, Window
from prov4ml.talk import log
from prov4ml.version import VERSION

if TYPE_CHECKING:
    from prov4ml.transport import Client

__all__ = ["Sender"]

TICK: Final = 0.1  # s between looks at the journal: each takes the interpreter for 0.2 ms or so
STEP: Final = 0.01  # ... while a task waits for another program
PATIENCE: Final = 2.0  # s without an answer until hello is said again
DEAF: Final = 10.0  # s without an answer after which we connect anew, and twice that the next time
ENDING: Final = 0.2  # s without an answer until an ending run sees whether anybody serves
CHILDREN: Final = 1.0  # s between looks for children's journals, and at each of them
AT_ONCE: Final = 4  # of them that are looked at between two looks at our own
STARTS: Final = 10  # collectors that one sender starts at most, one after the other
SERVED: Final = 60.0  # s after which one that answers has started well
ALIVE: Final = 15.0  # s of silence after which hello is said again: a lease has 60


class Sender:
    """``address``: "auto", "none", or where the collector listens.

    ``record`` is the first task: work in steps that is done on the thread, a step at a time, so
    that shipping goes on.  ``closed`` holds the collector's last word.
    """

    def __init__(
        self,
        journal: Journal,
        address: str,
        directory: str,
        service_: service.Service | None,
        record: Generator[None, None, None],
    ) -> None:
        self.journal = journal
        self.address = address
        self.directory = directory
        self.closed: wire.Closed | None = None
        self.refused: str | None = None  # for good
        self.doubt: str | None = None  # why we wait to be taken
        self._service = service_
        self._tasks = deque([record])
        self._window = Window()
        self._own = Outbox(OwnJournal(journal), self._window)
        self._boxes: dict[bytes, Outbox] = {self._own.producer: self._own}
        self._client: Client | None = None
        self._ending = False
        self._said_ending = False
        self._unsaid = False  # a hello that could not be sent yet
        self._unsent = False  # nor could a batch: nobody is there, or they take nothing
        self._hurry = False  # there is more to send, or an answer is due at once
        self._stop = False
        self._last: Callable[[], None] | None = None
        self._done = threading.Event()
        self._recorded = threading.Event()
        self._kick = threading.Event()  # where there is no socket to wait on
        self._importing = threading.Lock()
        self._starts = 0
        self._start_at = 0.0
        self._looked = 0.0
        self._looks = 0
        self._others: set[bytes] = set()  # in the same spool: of other ranks
        self._unknown: deque[bytes] = deque()  # in the same spool: not looked at yet
        self._catching_up = False  # no log call waits: children's journals may take all our time
        self._heard = time.monotonic()
        self._due = self._heard  # since when an answer is due, or none was
        self._deaf = DEAF
        self._thread = threading.Thread(target=self._run, name="prov4ml-sender", daemon=True)

    # ------------------------------------------------------------- on the training thread

    def start(self) -> None:
        self._thread.start()

    def recorded(self, timeout: float) -> bool:
        """Wait until what the run came from is recorded; before the end is."""
        return self._recorded.wait(max(0.0, timeout))

    def later(self, task: Generator[None, None, None]) -> None:
        """Do this too on the thread, after the tasks before it."""
        self._tasks.append(task)
        self._recorded.clear()
        self._wake()

    def catch_up(self, until: float) -> None:
        """Wait until what forked children have committed is acked; before our own end is logged.

        No longer than ``until`` (monotonic s).
        """
        if self.address == "none":
            return
        looks = self._looks
        self._catching_up = True
        self._looked = 0.0
        self._wake()
        while time.monotonic() < until and self.refused is None:
            children = [box for box in list(self._boxes.values()) if box is not self._own]
            if self._looks > looks and all(box.delivered() for box in children):
                return
            time.sleep(0.005)

    def ending(self) -> None:
        """The run's end has been logged: ship it, and ask for the collector's last word."""
        self._ending = True
        self._wake()

    def finish(self, until: float) -> bool:
        """Wait until everything is acked and, for the last rank, the documents are written.

        After ``ending``.  False: it was ``until`` (monotonic s), or the collector refuses.
        """
        if self.refused is None:
            self._done.wait(max(0.0, until - time.monotonic()))
        return self.closed is not None

    def part(self, last: Callable[[], None] | None = None) -> None:
        """Stop the thread soon.

        ``last``: done by it before it ends, so that nobody waits longer than he wants to for a
        file system that hangs.
        """
        self._last = last
        self._stop = True
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait for the thread, after ``part``."""
        self._thread.join(max(0.0, timeout))

    def hold(self, timeout: float) -> bool:
        """Before a fork: wait for an import, whose lock nobody would release in the child."""
        return self._importing.acquire(timeout=timeout)

    def let_go(self) -> None:
        """After the fork, in the parent."""
        self._importing.release()

    @property
    def acked(self) -> int:
        """Events of our own journal that are safe in the event log."""
        return self._own.acked

    def children(self) -> list[bytes]:
        """Producers of forked children found so far."""
        return [producer for producer in list(self._boxes) if producer != self._own.producer]

    def release(self) -> None:
        """Remove what is acked, also of children that have ended; the thread's last act."""
        for box in list(self._boxes.values()):
            with suppress(OSError):
                box.release()

    def unacked(self) -> int:
        """Events of ours and of our children that are not safe in the event log."""
        return sum(box.unacked() for box in list(self._boxes.values()))

    def complete(self) -> bool:
        """Whether everything is acked; of children that live on, the collector takes the rest."""
        return all(
            box.delivered() or (box is not self._own and box.source.alive())
            for box in list(self._boxes.values())
        )

    def _wake(self) -> None:
        self._kick.set()
        client = self._client
        if client is not None:
            client.wake()

    # ---------------------------------------------------------------------- on the thread

    def _run(self) -> None:
        while not self._stop and not self._done.is_set():
            try:
                self._advance()
                self._cycle()
            except (Exception, SystemExit) as error:  # SystemExit: a late call at the exit
                with suppress(Exception):  # a log handler of the user's may raise, too
                    log.warning("sender: %s: %s", type(error).__name__, error)
                with suppress(Exception):
                    self._disconnect()
                self._rest(1.0)
        for task in self._tasks:
            with suppress(Exception, SystemExit):
                task.close()
        with suppress(Exception):
            self._disconnect()
        while not self._stop:
            self._rest(1.0)
        if self._last is not None:
            self._last()

    def _advance(self) -> None:
        """The next step of the tasks; all of them until one waits for somebody."""
        while self._tasks:
            try:
                next(self._tasks[0])
                return
            except StopIteration:
                pass
            except (Exception, SystemExit) as error:  # whatever it is, the training goes on
                log.warning("what this run came from is incomplete: %s", error)
            self._tasks.popleft()
        if not self._recorded.is_set():
            self._recorded.set()
            if self._tasks:  # one more, meanwhile
                self._recorded.clear()

    @property
    def _tick(self) -> float:
        return STEP if self._tasks else TICK

    def _cycle(self) -> None:
        self.journal.prepare()
        if self.journal.dropped:
            log.warning("events are dropped, and counted: %s", self.journal.why)
        if self.journal.deferred:
            self.journal.drain()
        if self.address == "none" or self.refused is not None:
            self._rest(1.0 if self._ending and not self._tasks else self._tick)
            return
        self._find_children()
        if not self._connect():
            self._rest(self._tick)
            return
        client = self._client
        assert client is not None
        if self._unanswered() > self._deaf:
            # The connection is there and nobody hears, or a batch takes longer than we thought.
            self._deaf *= 2
            self._disconnect()
            return
        self._unsaid = self._hurry = False
        self._ship(client, self._own)
        self._own.release()
        self._tend_children(client)
        self._listen(client)

    def _unanswered(self) -> float:
        """Seconds for which nothing has come although something was due."""
        now = time.monotonic()
        if not self._ending and not any(box.waits() for box in self._boxes.values()):
            self._due = now
        return now - self._due

    def _listen(self, client: Client) -> None:
        """Hear what comes until it is time to look at the journal again.

        An ack alone is no reason to look sooner: each look takes the interpreter from training.
        """
        left = self._tick
        until = time.monotonic() + left
        while left > 0:
            for data in client.receive(left, sendable=self._unsaid):
                self._hear(wire.decode_message(data))
            if self._hurry or self._unsaid or self._ending or self._stop or self._kick.is_set():
                self._kick.clear()
                return
            left = until - time.monotonic()

    def _rest(self, seconds: float) -> None:
        self._kick.wait(seconds)
        self._kick.clear()

    def _ship(self, client: Client, box: Outbox) -> None:
        if box.refused:
            return
        now = time.monotonic()
        waiting = box.flying or (self._ending and box is self._own)
        if not box.welcome or (waiting and box.silence() > PATIENCE):
            if now - box.asked > (PATIENCE if box.asked else 0):
                if box.asked:
                    self._window.restart()
                self._hello(client, box)
            if not box.welcome:
                return
        elif now - max(box.asked, box.spoke) > ALIVE and box.source.alive():
            self._hello(client, box)
        for number, parcel in enumerate(box.parcels()):
            self._hurry = self._hurry or number > 0
            if not self._send(client, box, parcel):
                self._window.restart()
                self._unsent = True
                return
            box.spoke = now
        if self._ending and box is self._own and not self._said_ending:
            self._said_ending = self._hello(client, box)

    def _send(self, client: Client, box: Outbox, parcel: Parcel) -> bool:
        run = self.journal.who.run
        for table in parcel.tables:
            head = wire.Batch(wire.PROTOCOL, run, box.producer, parcel.first, 0)
            if not client.send(wire.encode(head), table):
                return False
        head = wire.Batch(wire.PROTOCOL, run, box.producer, parcel.first, parcel.count, parcel.lost)
        return client.send(wire.encode(head), parcel.batch)

    def _hello(self, client: Client, box: Outbox) -> bool:
        who = self.journal.who
        box.asked = time.monotonic()
        hello = wire.Hello(
            wire.PROTOCOL,
            EVENT_FORMAT,
            VERSION,
            who.run,
            box.producer,
            self.directory,
            process.hostname(),
            os.getuid(),
            box.source.pid,
            box.source.pid_start,
            who.boot_id,
            self._ending and box is self._own and box.welcome,
            box.sent,
        )
        said = client.send(wire.encode(hello))
        if not said:  # nobody is there yet: say it as soon as somebody is
            box.asked = 0.0
            self._unsaid = True
        return said

    def _hear(self, message: wire.Message) -> None:
        self._heard = time.monotonic()
        self._deaf = max(DEAF, 2 * (self._heard - self._due))
        self._due = self._heard
        self._unsent = False
        if isinstance(message, wire.Closed):
            self.closed = message
            self._done.set()
            return
        box = self._boxes.get(message.producer)
        if box is None:
            return
        box.heard = self._heard
        if isinstance(message, wire.Ack):
            if message.rewind:
                box.rewind(message.next)
                self._hurry = True
            else:
                box.ack(message.next)
            if box.more:  # and now there is room for it
                box.due, self._hurry = 0.0, True
        elif isinstance(message, wire.Welcome):
            self.doubt = None
            self._hurry = True
            box.due = 0.0
            lost = message.next < (box.sent if message.sent < 0 else message.sent)
            if lost or not box.welcome:
                box.rewind(message.next)
            else:
                box.ack(message.next)
            box.welcome = True
        else:
            self._heed(box, message)

    def _heed(self, box: Outbox, message: wire.Refused) -> None:
        """We are not taken, or not now."""
        log.warning("the collector refuses this run: %s", message.reason)
        if message.again:
            self.doubt = message.reason
            return
        box.refused = True
        if box is self._own:
            self.refused = message.reason
            if self._ending:
                self._done.set()

    # ------------------------------------------------------------------------ connections

    def _connect(self) -> bool:
        """Whether there is a socket; starts an automatic collector where none serves."""
        if self.address == "auto" and not self._serve():
            return False
        if self._client is None:
            with self._importing:
                from prov4ml.transport import Client

            address = self.address
            if address == "auto":
                assert self._service is not None
                address = self._service.address
            self._client = Client(address)
            self._heard = time.monotonic()
        return True

    def _serve(self) -> bool:
        now = time.monotonic()
        patience = PATIENCE if not self._ending else ENDING
        if self._client is not None and now - self._heard < patience:
            return True
        waiting = self._window.flying or self._unsent or self._ending or not self._own.welcome
        if self._client is not None and not waiting:
            return True
        assert self._service is not None
        if now >= self._start_at and not service.served(self._service):
            if self._heard > self._start_at + SERVED:
                self._starts = 0  # what ended was no bad start
            if self._starts >= STARTS:
                if self._starts == STARTS:
                    self._starts += 1
                    log.warning("no collector after %d starts; see %s", STARTS, self._service.log)
                return self._client is not None
            with self._importing:
                started = service.spawn(self._service)
            if started:
                self._start_at = now + min(60.0, 2.0**self._starts)
                self._starts += 1
            for box in self._boxes.values():
                box.welcome = False
        return True

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._said_ending = False
        self._due = time.monotonic()
        self._window.restart()
        for box in self._boxes.values():
            box.welcome = False
            box.asked = 0.0
            box.forget()

    # --------------------------------------------------------------------------- children

    # Each look into the spool gives other threads of Python a turn: with busy ones there are some
    # fifty looks a second, and our own journal goes first.

    def _find_children(self) -> None:
        now = time.monotonic()
        hurry = self._catching_up or self._ending
        who = self.journal.who
        if not self._unknown:
            if now - self._looked < CHILDREN and not hurry:
                return
            self._looked = now
            there = spool.producers(self.journal.places, who.run)
            self._others.intersection_update(there)
            self._unknown += [p for p in there if p not in self._boxes and p not in self._others]
        for _ in range(len(self._unknown) if hurry else AT_ONCE):
            if not self._unknown:
                break
            self._meet(self._unknown.popleft())
        if not self._unknown:
            self._looks += 1

    def _meet(self, producer: bytes) -> None:
        who = self.journal.who
        for path in spool.segments(self.journal.places, who.run, producer)[:1]:
            try:
                found = seg.identity(path)
            except (FormatError, OSError):
                continue  # just being made, or just removed
            if found.parent and (found.attempt, found.rank) == (who.attempt, who.rank):
                journal = ChildJournal(found, self.journal.places)
                self._boxes[producer] = Outbox(journal, self._window)
            else:
                self._others.add(producer)

    def _tend_children(self, client: Client) -> None:
        now = time.monotonic()
        hurry = self._catching_up or self._ending
        children = [box for box in list(self._boxes.values()) if box is not self._own]
        due = children if hurry else [box for box in children if box.due <= now]
        for box in due if hurry else sorted(due, key=lambda box: box.due)[:AT_ONCE]:
            box.due = now + CHILDREN
            try:
                if not box.release():
                    self._ship(client, box)
                    continue
            except OSError as error:  # of one journal's files: the others go on
                log.warning("a journal cannot be read now: %s", error)
                continue
            box.forget()
            self._boxes.pop(box.producer, None)
