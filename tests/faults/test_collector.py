"""The collector's promises where two things happen at once, or a disk says no.

It runs in the test's own process, step by step, and its socket is a list; everything else is
real: the event log, the publishing thread, the documents.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prov4ml import collector, eventlog, process, publish, store, wire
from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.collector import Collector
from prov4ml.eventlog import EventLog, Reader
from prov4ml.journal import Journal
from prov4ml.publish import Publisher, fold
from prov4ml.version import VERSION

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
RANK, CHILD = b"r" * 16, b"c" * 16
_ANSWERS = (wire.Welcome, wire.Ack)
START = 1_767_225_600_000_000_000


class Server:
    """The collector's socket: what is put in is received, what is sent is kept."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.coming: list[list[bytes]] = []
        self.sent: list[wire.Message] = []
        self.synced: Callable[[], Mapping[bytes, int]] = dict
        self.early: list[wire.Message] = []  # said before it was so

    def receive(self, timeout: float, most: int = 256) -> Iterator[tuple[bytes, list[bytes]]]:
        time.sleep(min(timeout, 0.001))
        coming, self.coming = self.coming, []
        yield from ((b"peer", frames) for frames in coming)

    def send(self, client: bytes, message: bytes) -> None:
        said = wire.decode_message(message)
        if isinstance(said, _ANSWERS) and said.next > self.synced().get(said.producer, 0):
            self.early.append(said)
        self.sent.append(said)

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Stand:
    """A collector, step by step, with one run."""

    def __init__(self, collector: Collector, directory: Path) -> None:
        self.collector = collector
        self.directory = directory
        assert isinstance(collector._server, Server)
        self.server: Server = collector._server

    def hello(self, producer: bytes = RANK, **changes: Any) -> wire.Hello:
        said = wire.Hello(
            wire.PROTOCOL,
            ev.EVENT_FORMAT,
            VERSION,
            RUN,
            producer,
            str(self.directory),
            process.hostname(),
            os.getuid(),
            os.getpid(),
            process.pid_start(os.getpid()),
            process.boot_id(),
        )
        return msgspec.structs.replace(said, **changes)

    def say(self, *messages: wire.Hello) -> None:
        self.server.coming += [[wire.encode(message)] for message in messages]

    def batch(self, first: int, *events: ev.Event, producer: bytes = RANK) -> None:
        head = wire.Batch(wire.PROTOCOL, RUN, producer, first, len(events))
        self.server.coming.append([wire.encode(head), msgspec.msgpack.encode(events)])

    def started(self, producer: bytes = RANK, **changes: Any) -> ev.Started:
        said = ev.Started(
            START,
            RUN,
            "steps",
            "steps_0",
            str(self.directory),
            "https://example.org/",
            1,
            0,
            0,
            1,
            os.getpid(),
            process.pid_start(os.getpid()),
            process.boot_id(),
            process.hostname(),
            None,
            "none",
            VERSION,
            "3",
            {"sinks": ["provn"]},
        )
        return msgspec.structs.replace(said, **changes)

    def step(self) -> None:
        self.collector._step()

    def until(self, condition: Callable[[], object], most: float = 30.0) -> None:
        """Step until something holds."""
        deadline = time.monotonic() + most
        while not condition():
            assert time.monotonic() < deadline
            self.step()

    def heard(self, kind: type[Any], producer: bytes = RANK) -> list[Any]:
        return [m for m in self.server.sent if isinstance(m, kind) and m.producer == producer]

    def acked(self, producer: bytes = RANK) -> int:
        return max((m.next for m in self.heard(wire.Ack, producer)), default=0)

    def over(self) -> bool:
        return not self.collector._runs and not any(r.packing for r in self.collector._packing)

    def logged(self) -> dict[bytes, int]:
        """Events in the log by producer, each counted once."""
        found: dict[bytes, set[int]] = {}
        with closing(Reader(self.directory / "events")) as reader:
            for frame in reader:
                mine = found.setdefault(frame.producer, set())
                mine.update(range(frame.first, frame.first + frame.count))
        return {producer: len(mine) for producer, mine in found.items()}


def _tag(n: int) -> ev.Tag:
    return ev.Tag(START + n, f"k{n}", "v")


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setenv("PROV4ML_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr(collector, "Server", Server)
    directory = tmp_path / "steps_0"
    directory.mkdir()
    served = Collector("here")
    yield Stand(served, directory)
    served.stop.set()
    served.serve()


def test_answers_come_after_the_sync(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an answer says that we have is synced: the client will forget it."""
    synced: dict[bytes, int] = {}
    sync = EventLog.sync

    def noting(self: EventLog) -> int:
        frames = sync(self)
        synced.update(self.next)
        return frames

    monkeypatch.setattr(EventLog, "sync", noting)
    stand.server.synced = lambda: synced
    stand.say(stand.hello())
    stand.batch(0, stand.started(), *map(_tag, range(5)))
    stand.say(stand.hello(sent=6))  # in the same breath: nothing is synced yet
    stand.batch(9, _tag(9))  # a gap
    stand.batch(6, _tag(6))
    stand.batch(9, _tag(9))
    stand.say(stand.hello(sent=10))
    stand.until(lambda: stand.acked() >= 7)
    welcomes = [(m.next, m.sent) for m in stand.heard(wire.Welcome)]
    assert welcomes == [(0, -1), (6, 6), (7, 10)]
    assert [m.next for m in stand.heard(wire.Ack) if m.rewind] == [6, 7]
    assert stand.server.early == []


def test_batches_behind_the_end_of_a_run(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child says while the run is closed opens it again: acked is what documents know."""
    writes = Publisher._write_manifest

    def slowly(self: Publisher, *, closed: bool) -> None:
        writes(self, closed=closed)
        time.sleep(0.05)  # what comes now is behind the documents

    monkeypatch.setattr(Publisher, "_write_manifest", slowly)
    stand.say(stand.hello(), stand.hello(CHILD))
    stand.batch(0, stand.started(), _tag(1))
    stand.batch(0, stand.started(parent=RANK), producer=CHILD)
    stand.until(lambda: stand.acked() == 2 and stand.acked(CHILD) == 1)
    stand.batch(2, ev.Ended(START + 9, "finished"))
    wanted, sent, asked, closed = 40, 1, 0, 0
    quiet = time.monotonic()
    while stand.acked(CHILD) < wanted:
        if stand.acked(CHILD) >= sent and sent < wanted:
            stand.batch(sent, _tag(sent), producer=CHILD)
            sent += 1
            quiet = time.monotonic()
        elif time.monotonic() - quiet > 0.1:  # a client asks again when it hears nothing
            asked += 1
            stand.say(stand.hello(CHILD))
            sent = stand.acked(CHILD)
            quiet = time.monotonic()
        before = len(stand.collector._runs)
        stand.step()
        closed += len(stand.collector._runs) < before
        assert asked < 1000
    stand.until(stand.over)
    assert closed > 1
    assert asked > 0
    assert stand.collector.malformed == 0
    manifest = msgspec.json.decode((stand.directory / "run.json").read_bytes())
    assert manifest["accounting"]["received"] == wanted + 3
    logged = stand.logged()
    assert (logged[RANK], logged[CHILD]) == (3, wanted)


def test_back_while_the_log_is_compressed(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes back while the log of a closed run is compressed is let in, and loses nothing."""
    compress = eventlog.compress
    packing = threading.Event()

    def slowly(directory: Path, stop: Callable[[], bool]) -> None:
        packing.set()
        deadline = time.monotonic() + 30.0
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        compress(directory, stop)

    monkeypatch.setattr(eventlog, "compress", slowly)
    stand.say(stand.hello())
    stand.batch(0, stand.started(), *map(_tag, range(100)), ev.Ended(START + 9, "finished"))
    stand.until(packing.is_set)
    again = b"a" * 16
    stand.until(lambda: not stand.collector._runs)
    stand.say(stand.hello(again))
    stand.until(lambda: stand.heard(wire.Welcome, again), 10.0)
    assert list((stand.directory / "events").glob("*.gz*")) == []  # let go, half way
    monkeypatch.setattr(eventlog, "compress", compress)
    stand.batch(0, stand.started(attempt=2), _tag(1), producer=again)
    stand.until(lambda: stand.acked(again) == 2)
    stand.batch(2, ev.Ended(START + 99, "finished"), producer=again)
    stand.until(stand.over)
    logged = stand.logged()
    assert (logged[RANK], logged[again]) == (102, 3)
    assert fold(stand.directory).producers[again].received == 3
    assert list((stand.directory / "events").glob("*.log.gz"))


def test_log_that_cannot_be_compressed(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the compressed log: the run is closed all the same, and its thread ends."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(eventlog, "compress", full)
    stand.say(stand.hello())
    stand.batch(0, stand.started(), ev.Ended(START + 9, "finished"))
    stand.until(lambda: stand.acked() == 2)
    stand.until(stand.over, 5.0)
    EventLog(stand.directory / "events", RUN).close()  # nobody holds it any more


def test_no_room_to_open_a_run(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when a run comes refuses it for now; once there is room it is taken."""
    append = EventLog.append

    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventLog, "append", full)
    for _ in range(3):
        stand.say(stand.hello())
    stand.until(lambda: len(stand.heard(wire.Refused)) == 3)
    assert all(m.again and "No space" in m.reason for m in stand.heard(wire.Refused))
    monkeypatch.setattr(EventLog, "append", append)
    stand.say(stand.hello())
    stand.until(lambda: stand.heard(wire.Welcome))


def test_full_disk_at_the_end(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that cannot be written are tried again, and the log does not grow by it."""
    writes = Publisher._write_manifest
    tried: list[int] = []

    def full(self: Publisher, *, closed: bool) -> None:
        tried.append(self.log.frames)
        if len(tried) < 3:
            raise OSError(28, "No space left on device")
        writes(self, closed=closed)

    monkeypatch.setattr(Publisher, "_write_manifest", full)
    stand.say(stand.hello())
    stand.batch(0, stand.started(), ev.Ended(START + 9, "finished"))
    stand.until(lambda: len(tried) >= 3 and stand.over())
    assert len(set(tried)) == 1
    of = fold(stand.directory)
    assert len(of.run_ended) == 1


def test_terminal_that_is_gone(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress line that cannot be printed does not end the collector."""

    def broken(_: collector.Progress) -> None:
        raise OSError(5, "Input/output error")

    stand.collector._progress = broken
    monkeypatch.setattr(collector, "_LOOK", 0.0)
    stand.say(stand.hello())
    stand.batch(0, stand.started())
    stand.until(lambda: stand.acked() == 1)


def test_settings_of_a_stranger(stand: Stand) -> None:
    """Settings that are none do not keep a run from being closed."""
    stand.say(stand.hello())
    settings = {"sinks": 5, "options": [1]}
    stand.batch(0, stand.started(settings=settings), ev.Ended(START + 9, "finished"))
    stand.until(lambda: stand.acked() == 2)
    stand.until(stand.over)
    assert (stand.directory / "run.json").is_file()


def test_dead_children_are_looked_at_once(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six hundred children that are gone nothing is kept but their ids."""
    monkeypatch.setattr(collector, "_LOOK", 0.0)
    stand.say(stand.hello())
    stand.batch(0, stand.started())
    children = [n.to_bytes(16, "big") for n in range(1, 601)]
    for n, child in enumerate(children):
        stand.say(stand.hello(child, pid=(1 << 30) + n))
        stand.batch(0, stand.started(parent=RANK, pid=(1 << 30) + n), producer=child)
    stand.until(lambda: stand.acked(children[-1]) == 1)
    (run,) = stand.collector._runs.values()
    stand.until(lambda: len(run.liveness.clients) == 1)
    assert run.liveness._buried == set(children)
    assert not run.liveness._vanished
    assert not run.liveness._others
    assert len(stand.collector._known) <= 257
    late = children[0]  # what its parent still sends is taken
    stand.batch(1, _tag(1), producer=late)
    stand.until(lambda: stand.acked(late) == 2)
    assert len(run.liveness.clients) == 1


def test_foreign_rank_that_could_not_wait(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rank of another host left in ``undelivered/`` ends the run without anybody's help."""
    monkeypatch.setattr(collector, "_LOOK", 0.0)
    stand.say(stand.hello(host="elsewhere.example"))
    stand.batch(0, stand.started(host="elsewhere.example"))
    stand.until(lambda: stand.acked() == 1)
    who = seg.Identity(RUN, RANK, 1, 0, 1, 1, str(uuid.uuid4()))
    journal = Journal(who, [stand.directory.parent / "elsewhere"])
    for event in (stand.started(), _tag(1), ev.Ended(START + 9, "finished")):
        journal.append(msgspec.msgpack.encode(event))
    assert journal.current is not None
    left = stand.directory / "undelivered" / f"{RANK.hex()}.new"
    left.mkdir(parents=True)
    (left / "000000.seg").write_bytes(journal.current.path.read_bytes())
    journal.close(remove=True)
    for _ in range(20):
        stand.step()
    assert left.is_dir()  # it is still being copied
    left.rename(left.with_suffix(""))
    stand.until(stand.over)
    manifest = msgspec.json.decode((stand.directory / "run.json").read_bytes())
    assert (manifest["status"], manifest["accounting"]["received"]) == ("finished", 3)
    assert not (stand.directory / "undelivered").exists()


def test_last_rank_waits_for_documents(stand: Stand) -> None:
    """A forked child that lives on, and logged, is no other rank that will wait for them."""
    stand.say(stand.hello(), stand.hello(CHILD))
    stand.batch(0, stand.started(), _tag(1))
    stand.batch(0, stand.started(parent=RANK), producer=CHILD)
    stand.until(lambda: stand.acked() == 2 and stand.acked(CHILD) == 1)
    stand.batch(2, ev.Ended(START + 9, "finished"))
    stand.say(stand.hello(ending=True))
    stand.until(stand.over)
    (closed,) = [m for m in stand.server.sent if isinstance(m, wire.Closed)]
    assert closed.last
    assert closed.received == 4


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_killed_between_storing_and_saying_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """A collector that dies right behind storing a file leaves it to the next one, not lost."""
    directory = tmp_path / "steps_0"
    made = Stand.__new__(Stand)
    made.directory = directory
    incoming = store.incoming(directory, RANK, 1)
    incoming.parent.mkdir(parents=True)
    incoming.write_bytes(b"weights")
    if not links:

        def none(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", none)
    artifact = ev.Artifact(START, 1, "model", "m", None, incoming.name, 7)
    log = EventLog(directory / "events", RUN)
    log.append(RANK, 0, 2, msgspec.msgpack.encode([made.started(), artifact]))
    log.sync()
    first = Publisher(log, directory)
    put = first._decisions.put

    def killed(event: ev.CollectorEvent) -> int:
        if isinstance(event, ev.Stored):
            raise KeyboardInterrupt
        return put(event)

    monkeypatch.setattr(first._decisions, "put", killed)
    deadline = time.monotonic() + 30.0

    def live() -> None:
        while time.monotonic() < deadline:
            first.follow()

    with pytest.raises(KeyboardInterrupt):
        live()
    first._keeper.stop()
    first._reader.close()
    log.close()
    log = EventLog(directory / "events", RUN)
    second = Publisher(log, directory)
    while not second.state.stored:
        assert time.monotonic() < deadline
        second.follow()
    (stored,) = second.state.stored.values()
    assert (stored.error, stored.size) == (None, 7)
    assert incoming.exists()  # until the log is known to say so
    log.sync()
    second.follow()
    assert not incoming.exists()
    second.close()
    second.pack()
    assert stored.path is not None
    assert (directory / stored.path).read_bytes() == b"weights"
    assert not (directory / "artifacts" / ".incoming").exists()


def test_many_things_are_judged_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While only points come nobody looks through the artifacts and producers again."""
    judged: list[int] = []
    pending = publish.state.pending
    monkeypatch.setattr(publish.state, "pending", lambda s: judged.append(1) or pending(s))
    made = Stand.__new__(Stand)
    made.directory = tmp_path / "steps_0"
    log = EventLog(made.directory / "events", RUN)
    series = ev.SeriesDefined(0, "loss")
    log.append(RANK, 0, 2, msgspec.msgpack.encode([made.started(), series]))
    log.sync()
    followed = Publisher(log, made.directory)
    followed.follow()
    log.sync()
    followed.follow()  # its own words, too
    assert judged
    before = len(judged)
    for n in range(50):
        log.append(RANK, n + 2, 1, msgspec.msgpack.encode([ev.Point(0, START + n, 1.0, n)]))
        log.sync()
        followed.follow()
        assert not followed.complete
    assert followed.state.producers[RANK].points == 50
    assert len(judged) == before
    log.append(RANK, 52, 1, msgspec.msgpack.encode([ev.Ended(START + 99, "finished")]))
    log.sync()
    deadline = time.monotonic() + 10.0
    while not followed.complete:
        followed.follow()
        assert time.monotonic() < deadline
    followed.abandon()


def test_peer_of_this_name(stand: Stand) -> None:
    """The stand speaks for this host, or the tests above would test another path."""
    assert stand.hello().host == socket.gethostname()
