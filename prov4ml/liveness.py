"""Who of a run lives, and how those that do not came to their end.

A process of this host is watched by pid and start time; when it is gone, what its journal still
holds is appended to the log, and then its end is told as far as anybody saw it.  Of a process of
another host only signs of life are known (``leases``): without them it cannot be reached, which
is no end and is taken back by the next one.  Known is who said hello, and whom the log names: a
collector that takes a run up again answers also for those that died while there was none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from prov4ml import ends, process, salvage, spool, wire
from prov4ml import events as ev
from prov4ml.eventlog import EventLog
from prov4ml.leases import Leases
from prov4ml.publish import Publisher
from prov4ml.talk import log
from prov4ml.witness import VANISHED, Sight, Witness, of_return_code

__all__ = ["Liveness", "Waited", "here"]

Waited = Mapping[int, int | None]
"""Our own children by pid: None while they run, then how they ended (as subprocess has it)."""

_SIGTERM: Final = 15


class _Client(msgspec.Struct):
    """A producer, and the process that it is."""

    pid: int
    witness: Witness | None  # None: it is on another host


def here(host: str, boot: str) -> bool:
    """Whether a process that names this host and boot is one of ours."""
    return host == process.hostname() and boot == process.boot_id()


def _client(pid: int, start: int, boot: str, host: str) -> _Client:
    return _Client(pid, Witness(pid, start, boot) if here(host, boot) else None)


class Liveness:
    """The processes of one run.  On the receiving thread, but for what says otherwise."""

    def __init__(self, log: EventLog, publisher: Publisher, leases: Leases, waited: Waited) -> None:
        self.clients: dict[bytes, _Client] = {}  # who said hello, and is not known to be dead
        self.terminated = False  # somebody wants all of us to end
        self.damaged: dict[bytes, int] = {}  # events in its journal, as far as that tells
        self._log = log
        self._publisher = publisher
        self._leases = leases
        self._waited = waited
        self._others: dict[bytes, _Client] = {}  # whom only the log names
        self._vanished: dict[bytes, float] = {}  # when it was first seen dead
        self._buried: set[bytes] = set()
        self._lost: dict[bytes, bool] = {}  # whether its lease is, as we told last

    # --------------------------------------------------------------------- signs of life

    def greet(self, hello: wire.Hello) -> None:
        """A producer said hello, perhaps not for the first time, or somebody did for it."""
        producer = hello.producer
        if producer in self._buried:
            return  # what it said may still come
        if producer not in self.clients:
            client = self._others.pop(producer, None)
            if client is None:
                client = _client(hello.pid, hello.pid_start, hello.boot_id, hello.host)
            self.clients[producer] = client
        self.hear(producer)

    def hear(self, producer: bytes) -> None:
        """A producer that said hello sent something."""
        client = self.clients.get(producer)
        if client is not None and client.witness is None:
            self._leases.hear(producer)

    def knows(self, producer: bytes) -> bool:
        """Whether it said hello."""
        return producer in self.clients or producer in self._buried

    # -------------------------------------------------------------------------- questions

    def awaited(self) -> bool:
        """Whether somebody is there of whom the log does not say so yet; from any thread.

        A new attempt's first process; one that could not be reached and is back.
        """
        of = self._publisher.state
        for producer, client in list(self.clients.items()):
            known = of.producers.get(producer)
            if known is None or known.started is None:
                return True
            back = client.witness is None and self._leases.holds(producer)
            if back and ends.unreachable(of, producer):
                return True
        return False

    def untold(self) -> bool:
        """Whether a process of this host is gone and ``look`` has not told so yet; any thread."""
        of = self._publisher.state
        return any(
            p.ended is None
            and p.id not in of.ends
            and p.id not in self._buried
            and here(s.host, s.boot_id)
            and not process.alive(s.pid, s.pid_start, s.boot_id)
            for p in list(of.producers.values())
            if (s := p.started) is not None
        )

    def living(self) -> list[bytes]:
        """Producers that said hello, have not ended and may be alive."""
        of = self._publisher.state
        return [
            producer
            for producer in list(self.clients)
            if producer not in of.ends
            and not ends.unreachable(of, producer)
            and ((known := of.producers.get(producer)) is None or known.ended is None)
        ]

    # --------------------------------------------------------------------------- looking

    def look(self) -> tuple[bool, bool]:
        """(whether anybody of the run lives, whether the log has something new); once a second."""
        now = time.monotonic()
        living = told = False
        self._meet()
        for producer, client in [*self.clients.items(), *self._others.items()]:
            known = self._publisher.state.producers.get(producer)
            ended = known is not None and known.ended is not None
            if client.witness is None:
                if not ended:
                    holds, news = self._lease(producer)
                    living, told = living or holds, told or news
            elif client.witness.alive():
                living = living or not ended
            elif self._settled(client, now - self._vanished.setdefault(producer, now)):
                try:
                    self._bury(producer, client)
                    told = True
                except OSError as error:  # a full disk: the next look tries it again
                    log.warning("%s: %s", self._log.directory.parent, error)
        return living, told

    def _meet(self) -> None:
        """Take note of processes that the log names and nobody has told the end of."""
        of = self._publisher.state
        if not self._publisher.followed:
            return  # what the log says of them may come yet
        for p in list(of.producers.values()):
            s = p.started
            if s is None or p.ended is not None or p.id in of.ends:
                continue
            if p.id in self.clients or p.id in self._others or p.id in self._buried:
                continue
            self._others[p.id] = client = _client(s.pid, s.pid_start, s.boot_id, s.host)
            if client.witness is None and not ends.unreachable(of, p.id):
                self._leases.hear(p.id)

    def _lease(self, producer: bytes) -> tuple[bool, bool]:
        """(whether its lease holds, whether that was news)."""
        holds = self._leases.holds(producer)
        lost = self._lost.get(producer, ends.unreachable(self._publisher.state, producer))
        if holds is not lost:
            return holds, False
        now = time.time_ns()
        if holds:
            self._publisher.tell(ev.LeaseRegained(now, producer))
        else:
            expected = self._log.next.get(producer, 0)
            self._publisher.tell(ev.LeaseLost(now, producer, expected))
        self._lost[producer] = not holds
        return holds, True

    def _settled(self, client: _Client, since: float) -> bool:
        """Whether nobody will tell more of an end that was seen ``since`` seconds ago."""
        if client.pid in self._waited:
            return self._waited[client.pid] is not None
        assert client.witness is not None
        return client.witness.settled(since)

    def _bury(self, producer: bytes, client: _Client) -> None:
        """A process of this host is gone: append what its journal still holds, tell its end."""
        assert client.witness is not None
        self.take_up()
        seen = client.witness.tell()
        code = self._waited.get(client.pid)
        if code is not None:
            seen = of_return_code(code, "waited")
        elif seen == VANISHED and self.terminated:
            seen = Sight("killed", "inferred", None, _SIGTERM)
        known = self._publisher.state.producers.get(producer)
        if known is None or known.ended is None:  # else it has said so itself
            self.tell_end(producer, seen)
        client.witness.close()
        self._forget(producer)

    def take_up(self) -> None:
        """Append what dead processes left in the spool; what is damaged stays there."""
        places = spool.roots(os.environ)
        taken = salvage.append_journals(self._log, places, self._log.run, remove=True)
        for producer, found in taken.damaged.items():
            self.damaged[producer] = found.claimed
            for _, text in found.damaged:
                log.warning("%s: %s", self._log.directory.parent.name, text)

    def _forget(self, producer: bytes) -> None:
        """It is dead and its end is told: of very many children only their ids stay."""
        self._buried.add(producer)
        for known in (self.clients, self._others):
            known.pop(producer, None)
        self._vanished.pop(producer, None)

    def tell_end(self, producer: bytes, seen: Sight) -> None:
        """Append how a process ended."""
        self._publisher.tell(
            ev.RankEnded(
                time.time_ns(),
                producer,
                seen.status,
                seen.known,
                seen.exit_code,
                seen.signal,
                self.damaged.get(producer) or None,
            )
        )
        self._buried.add(producer)

    def close(self) -> None:
        """Watch nobody any more."""
        for producer, client in [*self.clients.items(), *self._others.items()]:
            self._leases.forget(producer)
            if client.witness is not None:
                client.witness.close()
