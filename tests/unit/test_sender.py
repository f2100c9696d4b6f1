"""The sender's decisions, without its thread and without a socket: a link that records."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from prov4ml import hot, process, sender, spool, wire
from prov4ml import segment as seg
from prov4ml.journal import Journal
from prov4ml.outbox import Outbox
from prov4ml.sender import PATIENCE, Sender
from prov4ml.talk import log

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
OWN, CHILD = b"p" * 16, b"c" * 16


def _nothing() -> Generator[None, None, None]:
    """A task that is over at once."""
    yield from ()


class Link:
    """Takes what is said."""

    def __init__(self) -> None:
        self.said: list[wire.Request] = []

    def send(self, *parts: bytes) -> bool:
        self.said.append(wire.decode_request(parts[0]))
        return True

    def hellos(self, producer: bytes) -> int:
        return sum(isinstance(m, wire.Hello) and m.producer == producer for m in self.said)

    def batches(self, producer: bytes) -> list[int]:
        return [
            m.first
            for m in self.said
            if isinstance(m, wire.Batch) and m.producer == producer and m.count
        ]


class Made:
    """A sender with a journal, a clock of its own, and a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        self.journal = Journal(self.who(OWN), [folder])
        self.link = Link()
        self.sender = Sender(self.journal, "tcp://127.0.0.1:1", "/run", None, _nothing())
        self.sender._own.clock = lambda: self.now
        self.children: list[Journal] = []
        self.log_metric = hot.metric_logger(self.journal, hot.Clock())

    def who(self, producer: bytes, parent: bytes = b"", rank: int = 0) -> seg.Identity:
        return seg.Identity(RUN, producer, 1, rank, os.getpid(), 5, process.boot_id(), parent)

    def points(self, count: int = 10) -> None:
        for step in range(count):
            self.log_metric("loss", step / 7, step=step)

    def child(self, producer: bytes = CHILD, parent: bytes = OWN, rank: int = 0) -> Journal:
        """A child that has logged; its process is gone, by its start time."""
        made = Journal(self.who(producer, parent, rank), [self.folder])
        hot.metric_logger(made, hot.Clock())("loss", 1.0)
        self.children.append(made)
        return made

    def box(self, producer: bytes) -> Outbox:
        box = self.sender._boxes[producer]
        box.clock = lambda: self.now
        return box

    def look(self) -> None:
        self.sender._looked = 0.0
        self.sender._find_children()
        for box in list(self.sender._boxes.values()):
            box.due = 0.0
        self.sender._catching_up = True
        self.sender._tend_children(self.link)  # type: ignore[arg-type]

    def ship(self) -> None:
        for box in list(self.sender._boxes.values()):
            self.sender._ship(self.link, box)  # type: ignore[arg-type]

    def hear(self, message: wire.Message) -> None:
        self.sender._hear(message)

    def nothing(self, timeout: float, **_: object) -> Iterator[bytes]:
        """What comes while a socket is waited for: nothing."""
        self.now += timeout
        return iter(())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    it = Made(tmp_path)
    monkeypatch.setattr(sender, "time", SimpleNamespace(monotonic=lambda: it.now, sleep=None))
    yield it
    for journal in (it.journal, *it.children):
        journal.close(remove=True)


def test_welcome_does_not_recall_what_is_on_the_way(made: Made) -> None:
    """An answer that is late, because much is on the way before it, has nothing sent again."""
    made.points()
    made.ship()
    made.hear(wire.Welcome(OWN, 0, 0))
    made.ship()
    made.now += PATIENCE + 0.1  # no answer
    made.points()
    made.ship()
    (hello,) = [m for m in made.link.said if isinstance(m, wire.Hello)][1:]
    assert hello.sent == 11  # the series and ten points
    before = made.link.batches(OWN)
    made.hear(wire.Welcome(OWN, 11, hello.sent))  # all that was sent before it has come
    made.ship()
    assert made.link.batches(OWN) == before
    made.hear(wire.Welcome(OWN, 5, hello.sent))  # what was sent before it has not
    made.ship()
    assert made.link.batches(OWN)[len(before) :][0] <= 5


def test_welcome_of_one_who_does_not_say(made: Made) -> None:
    """A collector that does not repeat what the hello said is believed to have lost the rest."""
    made.points()
    made.ship()
    made.hear(wire.Welcome(OWN, 0))
    made.ship()
    made.hear(wire.Welcome(OWN, 5))
    made.ship()
    assert made.link.batches(OWN) == [0, 0]


def test_each_journal_waits_for_its_own_answer(made: Made) -> None:
    """Acks of one journal do not hide that nobody answers for another."""
    made.child()
    made.look()
    made.points()
    made.ship()
    made.box(CHILD)
    for producer in (OWN, CHILD):
        made.hear(wire.Welcome(producer, 0, 0))
    made.ship()
    assert made.link.batches(CHILD) == [0]
    for _ in range(50):  # another collector, which knows the parent only
        made.now += 0.1
        made.points(1)
        made.ship()
        made.hear(wire.Ack(OWN, made.journal.sent))
    assert made.link.hellos(OWN) == 1
    assert made.link.hellos(CHILD) >= 2


def test_event_now_and_then_needs_no_hello(made: Made) -> None:
    """A pause in which nothing was to be said is no silence."""
    made.points()
    made.ship()
    made.hear(wire.Welcome(OWN, 0, 0))
    for _ in range(5):
        made.now += 5 * PATIENCE
        made.points(1)
        made.ship()
        made.now += 0.05
        made.ship()
        made.hear(wire.Ack(OWN, made.journal.sent))
    assert made.link.hellos(OWN) == 1


def test_dead_children_are_let_go(made: Made) -> None:
    """A thousand children come and go, and neither boxes nor folders pile up."""
    for number in range(1000):
        producer = number.to_bytes(16, "big")
        child = made.child(producer)
        made.look()
        made.hear(wire.Welcome(producer, child.sent, 0))
        made.children.remove(child)
        child.close(remove=False)
    made.look()
    assert list(made.sender._boxes) == [OWN]
    assert not made.sender._others
    assert spool.producers([made.folder], RUN) == [OWN]


def test_grandchild_of_one_who_is_gone(made: Made) -> None:
    """What a child's child logs after that child is gone is shipped as well."""
    child = made.child()
    made.look()
    made.hear(wire.Welcome(CHILD, child.sent, 0))
    made.look()
    assert list(made.sender._boxes) == [OWN]
    made.child(b"g" * 16, CHILD)
    made.look()
    assert list(made.sender._boxes) == [OWN, b"g" * 16]


def test_others_in_the_spool_are_forgotten(made: Made) -> None:
    """The producers of other ranks are remembered as long as they are there."""
    other = made.child(b"o" * 16, rank=1)
    made.look()
    assert list(made.sender._others) == [b"o" * 16]
    made.children.remove(other)
    other.close(remove=True)
    made.look()
    assert not made.sender._others


def test_collector_that_dies_while_nothing_is_said(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced as soon as there is something to say, not at the end of the run."""
    spawned: list[float] = []
    monkeypatch.setattr(sender.service, "served", lambda _: False)
    monkeypatch.setattr(sender.service, "spawn", lambda _: spawned.append(made.now) is None)
    made.sender.address = "auto"
    made.sender._service = sender.service.Service(Path("s"), Path("k"), Path("g"))
    made.points()
    made.ship()
    made.hear(wire.Welcome(OWN, 0, 0))
    made.ship()
    made.hear(wire.Ack(OWN, made.journal.sent))
    nobody = SimpleNamespace(send=lambda *_: False, receive=made.nothing)
    made.sender._client = nobody  # type: ignore[assignment]
    for _ in range(100):
        made.now += 0.1
        made.sender._cycle()
    assert spawned == []  # all is said
    made.points(1)
    for _ in range(10):
        made.now += 0.1
        made.sender._cycle()
    assert len(spawned) == 1
    for day in range(1, 30):  # each of its successors serves a day and dies
        made.hear(wire.Welcome(OWN, 0, 0))
        made.now += 86_400.0
        made.hear(wire.Ack(OWN, 1))
        made.now += PATIENCE + 0.1
        made.points(1)
        made.sender._cycle()
        made.sender._cycle()
        assert len(spawned) == 1 + day
    for _ in range(3000):  # but one that cannot start is tried ten times
        made.now += 1.0
        made.sender._cycle()
    assert len(spawned) == 30 + sender.STARTS - 1


class Socket(Link):
    """A connection on which nobody answers."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.made = made
        self.opened = made.now
        self.closed: float | None = None

    def receive(self, timeout: float, **_: object) -> Iterator[bytes]:
        return self.made.nothing(timeout)

    def close(self) -> None:
        self.closed = self.made.now


def test_connection_on_which_nobody_answers(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after 10 s, the next one after 20; one that is slow gets the time it takes."""
    opened: list[Socket] = []

    def connect(_: object) -> Socket:
        opened.append(Socket(made))
        return opened[-1]

    monkeypatch.setattr("prov4ml.transport.Client", connect)

    def cycle(seconds: float) -> None:
        until = made.now + seconds
        while made.now < until:
            made.sender._cycle()

    made.points()
    cycle(85.0)
    assert [round((s.closed or made.now) - s.opened) for s in opened[:3]] == [10, 20, 40]
    made.hear(wire.Welcome(OWN, 0, 0))
    cycle(16.0)
    made.hear(wire.Ack(OWN, made.journal.sent))  # it came, after 16 s
    known = len(opened)
    cycle(300.0)  # nothing is to be said
    assert len(opened) == known
    made.points(1)
    cycle(31.0)
    assert len(opened) == known  # it may take twice as long as it did
    cycle(3.0)
    assert len(opened) == known + 1


def test_refused_for_now(made: Made) -> None:
    """A collector whose disk is full is asked again; one of another version is not."""
    made.points()
    made.ship()
    made.hear(wire.Refused(OWN, "no space", True))
    assert made.sender.refused is None
    assert made.sender.doubt == "no space"
    made.now += PATIENCE + 0.1
    made.ship()
    assert made.link.hellos(OWN) == 2
    made.hear(wire.Welcome(OWN, 0, 0))
    assert made.sender.doubt is None
    made.hear(wire.Refused(OWN, "another version"))
    assert made.sender.refused == "another version"
    assert made.sender.finish(60.0) is False  # at once


def test_refused_child(made: Made) -> None:
    """A child that is refused stops nobody else."""
    made.child()
    made.look()
    made.points()
    made.ship()
    made.hear(wire.Welcome(OWN, 0, 0))
    made.hear(wire.Refused(CHILD, "a number is none"))
    made.ship()
    assert made.link.batches(OWN) == [0]
    assert made.sender.refused is None
    assert not made.sender.complete()


def test_unreadable_child(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of one journal that cannot be read now stop no other."""
    made.child()
    made.look()
    made.points()
    made.ship()
    for producer in (CHILD, OWN):
        made.hear(wire.Welcome(producer, 0, 0))

    def committed(path: Path) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(seg, "committed", committed)
    made.sender._client = SimpleNamespace(  # type: ignore[assignment]
        send=made.link.send, receive=made.nothing
    )
    for _ in range(3):
        made.sender._cycle()
    assert made.link.batches(OWN) == [0]
    assert made.link.batches(CHILD) == []
    assert not made.sender.complete()


def test_log_handler_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log handler of the user's that raises does not end the thread."""

    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("no")

    def record() -> Generator[None, None, None]:
        yield
        raise RuntimeError("record")

    cycles: list[int] = []
    journal = Journal(seg.Identity(RUN, OWN, 1, 0, 1, 1, process.boot_id()), [tmp_path])
    made = Sender(journal, "tcp://127.0.0.1:1", "/run", None, record())

    def cycle() -> None:
        cycles.append(1)
        if len(cycles) > 2:
            made._stop = True
        raise RuntimeError(f"cycle {len(cycles)}")

    monkeypatch.setattr(made, "_cycle", cycle)
    monkeypatch.setattr(made, "_rest", lambda _: None)
    bad = Bad()
    log.addHandler(bad)
    try:
        made._run()
    finally:
        log.removeHandler(bad)
        journal.close(remove=True)
    assert len(cycles) == 3
    assert made.recorded(0.0)
