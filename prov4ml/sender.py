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
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from prov4ml import process, service, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError
from prov4ml.events import EVENT_FORMAT
from prov4ml.journal import Journal
from prov4ml.outbox import ChildJournal, Outbox, OwnJournal
from prov4ml.talk import log
from prov4ml.version import VERSION

if TYPE_CHECKING:
    from prov4ml.transport import Client

__all__ = ["Sender"]

TICK: Final = 0.05  # s between looks at the journal
PATIENCE: Final = 2.0  # s without an answer until hello is said again
ENDING: Final = 0.2  # s without an answer until an ending run sees whether anybody serves
WINDOW: Final = 32 << 20  # bytes on the way without an ack
CHILDREN: Final = 1.0  # s between looks for children's journals
STARTS: Final = 10  # collectors that one sender starts at most


class Sender:
    """``address``: "auto", "none", or where the collector listens.

    ``record`` is called once, first, on the thread.  ``closed`` holds the collector's last word.
    """

    def __init__(
        self,
        journal: Journal,
        address: str,
        directory: str,
        service_: service.Service | None,
        record: Callable[[], None],
    ) -> None:
        self.journal = journal
        self.address = address
        self.directory = directory
        self.closed: wire.Closed | None = None
        self.refused: str | None = None
        self._service = service_
        self._record = record
        self._own = Outbox(OwnJournal(journal))
        self._boxes: dict[bytes, Outbox] = {self._own.producer: self._own}
        self._client: Client | None = None
        self._ending = False
        self._said_ending = False
        self._unsaid = False  # a hello that could not be sent yet
        self._stop = False
        self._last: Callable[[], None] | None = None
        self._done = threading.Event()
        self._recorded = threading.Event()
        self._kick = threading.Event()  # where there is no socket to wait on
        self._starts = 0
        self._start_at = 0.0
        self._looked = 0.0
        self._looks = 0
        self._others: dict[bytes, seg.Identity] = {}  # in the same spool: of other ranks, mostly
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="prov4ml-sender", daemon=True)

    # ------------------------------------------------------------- on the training thread

    def start(self) -> None:
        self._thread.start()

    def recorded(self, timeout: float) -> bool:
        """Wait until what the run came from is recorded; before the end is."""
        return self._recorded.wait(max(0.0, timeout))

    def catch_up(self, until: float) -> None:
        """Wait until what forked children have committed is acked; before our own end is logged.

        No longer than ``until`` (monotonic s).
        """
        if self.address == "none":
            return
        looks = self._looks
        self._looked = 0.0
        self._wake()
        while time.monotonic() < until and self.refused is None:
            children = [box for box in list(self._boxes.values()) if box is not self._own]
            if self._looks > looks and all(b.acked >= b.committed() for b in children):
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
        while self.refused is None and (left := until - time.monotonic()) > 0:
            if self._done.wait(min(left, 0.1)):
                break
        return self._done.is_set() and self.complete()

    def let_go(self, last: Callable[[], None] | None = None) -> None:
        """Stop the thread soon.  ``last``: done by it before it ends, so that nobody waits for
        a file system that hangs longer than he wants to."""
        self._last = last
        self._stop = True
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait for the thread, after ``let_go``."""
        self._thread.join(max(0.0, timeout))

    @property
    def acked(self) -> int:
        """Events of our own journal that are safe in the event log."""
        return self._own.acked

    def children(self) -> list[bytes]:
        """Producers of forked children found so far."""
        return [producer for producer in self._boxes if producer != self._own.producer]

    def unacked(self) -> int:
        """Events of ours and of our children that are not safe in the event log."""
        boxes = list(self._boxes.values())
        return sum(max(0, box.committed() - box.acked) for box in boxes)

    def complete(self) -> bool:
        """Whether everything, of our children too, is acked."""
        return not self.unacked()

    def _wake(self) -> None:
        self._kick.set()
        client = self._client
        if client is not None:
            client.wake()

    # ---------------------------------------------------------------------- on the thread

    def _run(self) -> None:
        try:
            self._record()
        except (Exception, SystemExit) as error:  # whatever it is, the training goes on
            log.warning("what this run came from is incomplete: %s", error)
        self._recorded.set()
        while not self._stop and not self._done.is_set():
            try:
                self._cycle()
            except (Exception, SystemExit) as error:  # SystemExit: a late call at the exit
                log.warning("sender: %s: %s", type(error).__name__, error)
                self._disconnect()
                self._rest(1.0)
        self._disconnect()
        while not self._stop:
            self._rest(1.0)
        if self._last is not None:
            self._last()

    def _cycle(self) -> None:
        self.journal.prepare()
        if self.journal.dropped:
            log.warning("events are dropped, and counted: %s", self.journal.why)
        if self.journal.deferred:
            self.journal.drain()
        if self.address == "none" or self.refused is not None:
            self._rest(TICK if not self._ending else 1.0)
            return
        self._find_children()
        if not self._connect():
            self._rest(TICK)
            return
        client = self._client
        assert client is not None
        self._unsaid = False
        for box in list(self._boxes.values()):
            self._ship(client, box)
        for data in client.receive(TICK, sendable=self._unsaid):
            self._hear(wire.decode_message(data))

    def _rest(self, seconds: float) -> None:
        self._kick.wait(seconds)
        self._kick.clear()

    def _ship(self, client: Client, box: Outbox) -> None:
        now = time.monotonic()
        waiting = bool(box.flying) or (self._ending and box is self._own)
        silent = now - max(box.asked, self._heard) > PATIENCE
        if not box.welcome or (waiting and silent):
            if now - box.asked > (PATIENCE if box.asked else 0):
                self._hello(client, box)
            if not box.welcome:
                return
        run = self.journal.who.run
        for parcel in box.parcels():
            for table in parcel.tables:
                head = wire.Batch(wire.PROTOCOL, run, box.producer, parcel.first, 0)
                if not client.send(wire.encode(head), table):
                    return
            head = wire.Batch(
                wire.PROTOCOL, run, box.producer, parcel.first, parcel.count, parcel.lost
            )
            if not client.send(wire.encode(head), parcel.batch):
                return
            if box.flying + len(parcel.batch) > WINDOW:
                break
        if self._ending and box is self._own and not self._said_ending:
            self._said_ending = self._hello(client, box)

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
        )
        said = client.send(wire.encode(hello))
        if not said:  # nobody is there yet: say it as soon as somebody is
            box.asked = 0.0
            self._unsaid = True
        return said

    def _hear(self, message: wire.Message) -> None:
        self._heard = time.monotonic()
        if isinstance(message, wire.Closed):
            self.closed = message
            self._done.set()
            return
        box = self._boxes.get(message.producer)
        if box is None:
            return
        if isinstance(message, wire.Ack):
            if message.rewind:
                box.rewind(message.next)
            else:
                box.ack(message.next)
        elif isinstance(message, wire.Welcome):
            box.welcome = True
            box.rewind(message.next)  # an ack, too: the one we wait for may have been lost
        else:
            self.refused = message.reason
            log.warning("the collector refuses this run: %s", message.reason)

    # ------------------------------------------------------------------------ connections

    def _connect(self) -> bool:
        """Whether there is a socket; starts an automatic collector where none serves."""
        if self.address == "auto" and not self._serve():
            return False
        if self._client is None:
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
        waiting = self._own.flying or self._ending or not self._own.welcome
        if self._client is not None and not waiting:
            return True
        assert self._service is not None
        if now >= self._start_at and not service.served(self._service):
            if self._starts >= STARTS:
                if self._starts == STARTS:
                    self._starts += 1
                    log.warning("no collector after %d starts; see %s", STARTS, self._service.log)
                return self._client is not None
            if service.spawn(self._service):
                self._start_at = now + min(60.0, 2.0**self._starts)
                self._starts += 1
            for box in self._boxes.values():
                box.welcome = False
        return True

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        for box in self._boxes.values():
            box.welcome = False
            box.asked = 0.0

    # --------------------------------------------------------------------------- children

    def _find_children(self) -> None:
        now = time.monotonic()
        if now - self._looked < CHILDREN and not self._ending:
            return
        self._looked = now
        who = self.journal.who
        for producer in spool.producers(self.journal.places, who.run):
            if producer in self._boxes or producer in self._others:
                continue
            for path in spool.segments(self.journal.places, who.run, producer)[:1]:
                try:
                    self._others[producer] = seg.identity(path)
                except (FormatError, OSError):
                    continue
        while ours := [other for other in self._others.values() if other.parent in self._boxes]:
            for child in ours:  # and in the next round its own children
                del self._others[child.producer]
                self._boxes[child.producer] = Outbox(ChildJournal(child, self.journal.places))
        self._looks += 1
