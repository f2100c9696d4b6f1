"""Ranks on other hosts: they are believed to live, cannot be reached, and come back.

The collector is a real one with a short lease.  Another host is another host name (a UTS namespace,
where this process may make one), or a client that names one.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from prov4ml import events as ev
from prov4ml import process, wire
from prov4ml.eventlog import Reader
from prov4ml.rundir import uuid7
from prov4ml.transport import Client

if TYPE_CHECKING:
    from tests.conftest import Isolated, Read

Figures = Callable[..., None]

LEASE = 2.0  # s

COLLECTOR = """
import signal, sys
from prov4ml.collector import Collector

served = Collector(sys.argv[1], lease=float(sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *_: served.terminate())
print(served.address, flush=True)
served.serve()
"""


@pytest.fixture
def collector(isolated: Isolated) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``collector()`` starts one at ``c.sock``; with a lease of so many seconds."""
    isolated.write(COLLECTOR, "collector.py")
    started: list[subprocess.Popen[str]] = []

    def start(lease: float = LEASE) -> subprocess.Popen[str]:
        made = isolated.spawn(sys.executable, "collector.py", address(isolated), str(lease))
        started.append(made)
        assert made.stdout is not None
        assert select.select([made.stdout], [], [], 60.0)[0], "the collector says nothing"
        made.stdout.readline()
        return made

    yield start
    for made in started:
        made.kill()
        made.communicate()


def address(isolated: Isolated) -> str:
    return f"ipc://{isolated.root}/c.sock"


class Foreign:
    """A rank of another host, as little as the protocol needs; its host and boot are made up."""

    def __init__(
        self,
        isolated: Isolated,
        rank: int = 0,
        world: int = 1,
        *,
        run: str = "",
        host: str = "elsewhere",
        boot: str = "",
        ahead: int = 0,
    ) -> None:
        self.run = run or uuid7()
        self.producer = os.urandom(16)
        self.directory = isolated.folder / "prov" / "foreign_0"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.host = host
        self.boot = boot or str(uuid.uuid4())
        self.ahead = ahead  # ns that its clock is ahead
        self.sent = 0
        self.client = Client(address(isolated))
        settings = {"sinks": ["provjson", "provn", "turtle", "svg", "parquet"], "job": "foreign"}
        self._first = ev.Started(
            self.now(),
            self.run,
            "foreign",
            "foreign_0",
            str(self.directory),
            "https://example.org/",
            1,
            rank,
            0,
            world,
            os.getpid(),
            process.pid_start(os.getpid()),
            self.boot,
            host,
            None,
            "none",
            "test",
            "none",
            settings,
        )

    def now(self) -> int:
        return time.time_ns() + self.ahead

    def hello(self, *, ending: bool = False) -> None:
        """Say hello until it is answered."""
        who = self._first
        said = wire.Hello(
            wire.PROTOCOL,
            ev.EVENT_FORMAT,
            "test",
            self.run,
            self.producer,
            str(self.directory),
            self.host,
            os.getuid(),
            who.pid,
            who.pid_start,
            self.boot,
            ending,
        )
        self._said = wire.encode(said)
        assert self._answered(wire.Welcome, 0, self._said, most=60.0)

    def begin(self) -> None:
        self.hello()
        self.send(self._first, ev.SeriesDefined(0, "loss", ("training",)))

    def log(self, count: int = 1) -> None:
        self.send(*(ev.Point(0, self.now(), 0.5, self.sent + n - 2) for n in range(count)))

    def end(self) -> None:
        self.send(ev.Ended(self.now(), "finished"))

    def send(self, *events: ev.ClientEvent) -> None:
        """Send events until they are acked."""
        head = wire.Batch(wire.PROTOCOL, self.run, self.producer, self.sent, len(events))
        batch = wire.array_header(len(events)) + b"".join(map(msgspec.msgpack.encode, events))
        self.sent += len(events)
        for _ in range(30):
            if self._answered(wire.Ack, self.sent, wire.encode(head), batch, most=2.0):
                return
            self.client.send(self._said)  # the run was closed meanwhile: open it again
        raise AssertionError("no ack")

    def _answered(self, kind: type, next: int, *parts: bytes, most: float) -> bool:
        """Whether a message that was sent is answered within ``most`` s."""
        deadline = time.monotonic() + most
        sent = False
        while time.monotonic() < deadline:
            sent = sent or self.client.send(*parts)
            for data in self.client.receive(0.05):
                answer = wire.decode_message(data)
                if isinstance(answer, kind) and answer.next >= next:
                    return True
        return False


@pytest.fixture
def foreign(isolated: Isolated) -> Iterator[Callable[..., Foreign]]:
    """``foreign(...)`` makes a rank of another host."""
    made: list[Foreign] = []

    def make(*args: Any, **kwargs: Any) -> Foreign:
        made.append(Foreign(isolated, *args, **kwargs))
        return made[-1]

    yield make
    for rank in made:
        rank.client.close()


def told(run: Path) -> Counter[str]:
    """What the event log holds of leases and ends, by kind of event."""
    found: Counter[str] = Counter()
    reader = Reader(run / "events")
    for frame in reader:
        if frame.count:
            events = wire.decode_batch(frame.batch, frame.count)
            found.update(type(event).__name__ for event in events)
    reader.close()
    return found


def status(isolated: Isolated) -> str:
    try:
        return str(isolated.manifest()["status"])
    except OSError:
        return ""


def closed(isolated: Isolated) -> bool:
    try:
        return bool(isolated.manifest()["closed"])
    except OSError:
        return False


@pytest.mark.parametrize("other", ["host", "boot"])
def test_silence_makes_unreachable_and_a_sign_takes_it_back(
    isolated: Isolated,
    collector: Callable[..., Any],
    foreign: Callable[..., Foreign],
    read: type[Read],
    figures: Figures,
    other: str,
) -> None:
    """A rank of another host, or boot, is unreachable after a lease, until it speaks again."""
    collector()
    where = {"boot": process.boot_id()} if other == "host" else {"host": process.hostname()}
    rank = foreign(**where)
    rank.begin()
    rank.log(10)
    began = time.monotonic()
    isolated.wait(lambda: status(isolated) == "unreachable", "the lease is lost")
    lost = time.monotonic() - began
    assert lost > LEASE / 2
    isolated.wait(lambda: closed(isolated), "nobody else is there: the run is closed")
    left = read(isolated.only_run())
    left.check()
    assert left.manifest["status_known_by"] == "none"
    assert left.manifest["ended"] is not None
    (row,) = left.manifest["ranks"]
    assert (row["status"], row["exit_code"]) == ("unreachable", None)

    def speaks() -> bool:
        rank.hello()
        return status(isolated) == "running"

    isolated.wait(speaks, "a hello takes it back")
    assert told(rank.directory)["LeaseLost"] == 1
    assert told(rank.directory)["LeaseRegained"] == 1
    isolated.wait(lambda: status(isolated) == "unreachable", "and is lost again")
    rank.hello()
    rank.log(10)
    rank.end()
    rank.hello(ending=True)
    isolated.wait(lambda: status(isolated) == "finished", "it has ended by its own word")
    isolated.wait(lambda: closed(isolated), "the run is closed again")
    left = read(isolated.only_run())
    left.check()
    assert left.manifest["status_known_by"] == "self"
    assert len(left.points) == 20
    assert "RankEnded" not in told(rank.directory)
    figures(
        lease_s=LEASE, lost_after_s=lost, lost=2, regained=told(rank.directory)["LeaseRegained"]
    )


def test_a_clock_that_is_ahead_deceives_nobody(
    isolated: Isolated, collector: Callable[..., Any], foreign: Callable[..., Foreign]
) -> None:
    """Events with times of tomorrow are no sign of life: their order tells, not their clock."""
    collector()
    rank = foreign(ahead=86_400 * 10**9)
    rank.begin()
    rank.log(10)
    isolated.wait(lambda: status(isolated) == "unreachable" and closed(isolated), "it is lost")


def test_a_rank_that_cannot_be_reached_holds_up_nobody(
    isolated: Isolated,
    collector: Callable[..., Any],
    foreign: Callable[..., Foreign],
    read: type[Read],
) -> None:
    """The run ends with the ranks that can be; what another says of its own end counts more."""
    collector()
    gone, ours = foreign(0, 2), None
    ours = foreign(1, 2, run=gone.run)
    gone.begin()
    ours.begin()
    until = time.monotonic() + 60
    while told(gone.directory)["LeaseLost"] == 0:
        assert time.monotonic() < until
        ours.log()
    ours.send(ev.Ended(ours.now(), "failed", 3, "RuntimeError", "bad"))
    ours.hello(ending=True)
    isolated.wait(lambda: closed(isolated), "the run is closed")
    left = read(isolated.only_run())
    left.check()
    assert [r["status"] for r in left.manifest["ranks"]] == ["unreachable", "failed"]
    assert left.manifest["status"] == "failed"


def test_a_collector_that_was_stopped_makes_nobody_unreachable(
    isolated: Isolated,
    collector: Callable[..., subprocess.Popen[str]],
    foreign: Callable[..., Foreign],
    pause: Callable[[float], None],
    figures: Figures,
) -> None:
    """SIGSTOP for longer than a lease: silence counts only while the collector listens."""
    lease, stopped = 6.0, 10.0
    served = collector(lease)
    rank = foreign()
    rank.begin()
    isolated.wait(lambda: status(isolated) == "running", "the run is known")
    served.send_signal(signal.SIGSTOP)
    pause(stopped)
    served.send_signal(signal.SIGCONT)
    pause(1.5)  # it looks once a second
    assert told(rank.directory)["LeaseLost"] == 0
    rank.end()
    rank.hello(ending=True)
    isolated.wait(lambda: closed(isolated), "the run is closed")
    assert status(isolated) == "finished"
    assert told(rank.directory)["LeaseLost"] == 0
    figures(stopped_s=stopped, lease_s=lease, leases_lost=0)


def test_a_collector_that_takes_over_waits_a_lease(
    isolated: Isolated,
    collector: Callable[..., subprocess.Popen[str]],
    foreign: Callable[..., Foreign],
    read: type[Read],
) -> None:
    """Whom only the log names gets a lease, too; the run is closed when nobody has come."""
    served = collector()
    gone, back = foreign(0, 2), None
    back = foreign(1, 2, run=gone.run)
    gone.begin()
    back.begin()
    isolated.wait(lambda: status(isolated) == "running", "the run is known")
    served.kill()
    served.wait(60)
    collector()
    back.hello()
    back.end()
    isolated.wait(lambda: closed(isolated), "the run is closed")
    left = read(isolated.only_run())
    left.check()
    assert [r["status"] for r in left.manifest["ranks"]] == ["unreachable", "finished"]
    assert told(gone.directory)["LeaseLost"] == 1


# A real rank on another host that logs nothing for a long time, and one that is killed there.
SILENT = """
import os, sys, time
import prov4ml
from prov4ml import sender

seconds, alive = float(sys.argv[1]), float(sys.argv[2])
sender.ALIVE = alive or sender.ALIVE
prov4ml.start_run("silent")
prov4ml.log_metric("loss", 0.5, "training", 0)
pid = os.fork()
if pid == 0:  # a child there is silent, too
    prov4ml.log_metric("loss", 0.5, "worker", 0)
    time.sleep(seconds)
    os._exit(0)
time.sleep(seconds)
os.waitpid(pid, 0)
prov4ml.log_metric("loss", 0.25, "training", 1)
prov4ml.end_run()
"""


@pytest.mark.parametrize(
    ("lease", "alive"), [(3.0, 0.75), pytest.param(60.0, 0.0, marks=pytest.mark.soak)]
)
def test_a_real_rank_keeps_its_lease_without_logging(
    isolated: Isolated,
    collector: Callable[..., Any],
    read: type[Read],
    figures: Figures,
    lease: float,
    alive: float,
) -> None:
    """A sender with nothing to send says hello in time, for forked children as well."""
    unshare = shutil.which("unshare")
    if unshare is None or os.getuid() != 0:
        pytest.skip("another host name needs unshare, and the right to use it")
    collector(lease)
    isolated.write(SILENT)
    seconds = 2.5 * lease
    words = f"hostname elsewhere && exec {sys.executable} train.py {seconds} {alive}"
    done = isolated.run(
        unshare, "--uts", "sh", "-c", words, PROV4ML_COLLECTOR=address(isolated), most=300.0
    )
    assert "finished" in done.stderr
    left = read(isolated.only_run())
    left.check()
    assert left.manifest["ranks"][0]["host"] == "elsewhere"
    assert left.manifest["status"] == "finished"
    assert told(left.directory)["LeaseLost"] == 0
    assert len(left.points) == 3
    figures(lease_s=lease, silent_s=seconds, leases_lost=0)
