"""A bad network between a rank and its collector: cut, held, slow, deaf, down; on one host and two.

The collector listens on loopback only, so a relay stands between (as a tunnel would); it is where
the faults are made, and runs without root.  Two hosts are network namespaces with a link that is
pulled out.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from prov4ml.testing.hosts import Hosts, named
from prov4ml.testing.relay import Relay

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]
Pause = Callable[[float], None]
LONG = pytest.mark.soak

# word 0: calls that returned, 1: the run is open, 2: enough, 3: phase, 4: events acked
RANK = """
import array, json
words = shared("words")
now, took = time.perf_counter_ns, [array.array("I") for _ in range(3)]

def percentile(values, part):
    return sorted(values)[int(len(values) * part)] if values else 0

run = prov4ml.start_run("net")
words[1] = 1
step = 0
while not words[2]:
    mine = took[words[3]]
    for _ in range(100):
        before = now()
        prov4ml.log_metric("loss", step / 7, "training", step)
        mine.append(now() - before)
        step += 1
    words[0] = step
    words[4] = run._sender.acked
    time.sleep(0.01)
before = time.monotonic()
prov4ml.end_run()
print(json.dumps({
    "end": time.monotonic() - before,
    "p99": [percentile(values, 0.99) for values in took],
    "max": [max(values, default=0) for values in took],
}))
"""
QUIET, FAULT, AFTER = range(3)


class Training:
    """A rank at work behind a bad network, and what it told at its end."""

    def __init__(
        self, place: Isolated, prelude: str, words: Words, address: str, *before: str, **more: str
    ) -> None:
        self.place = place
        place.write(prelude + RANK)
        self.words = words("words")
        self.process = place.spawn(
            *before,
            sys.executable,
            "-W",
            "error",
            "train.py",
            **{"PROV4ML_COLLECTOR": f"tcp://{address}", "PROV4ML_EXIT_TIMEOUT": "30", **more},
        )
        place.wait(lambda: self.words[1] or self.process.poll() is not None, "a run")
        assert self.process.poll() is None, self.process.communicate()

    def phase(self, number: int) -> None:
        self.words[3] = number

    def caught_up(self, most: float = 90.0) -> float:
        """Wait until what has been logged so far is acked; the seconds that takes."""
        logged, began = self.words[0], time.monotonic()
        self.place.wait(lambda: self.words[4] >= logged, "acked what was logged", most)
        return time.monotonic() - began

    def end(self, most: float = 60.0) -> dict[str, Any]:
        self.words[2] = 1
        out, err = self.process.communicate(timeout=most)
        assert self.process.returncode == 0, err
        return dict(json.loads(out))


@pytest.fixture
def train(isolated: Isolated, prelude: str, words: Words) -> Callable[..., Training]:
    """``train(address, *before)``: a rank of 10,000 calls a second."""

    def start(address: str, *before: str, **more: str) -> Training:
        return Training(isolated, prelude, words, address, *before, **more)

    return start


def _whole(found: Any, training: Training) -> None:
    """Every call of the rank is there once, and everything else is in order."""
    found.complete()
    steps = sorted(step for _, _, step in found.stored)
    assert steps == list(range(training.words[0]))
    assert found.manifest["status"] == "finished"
    assert found.manifest["status_known_by"] == "self"


# ------------------------------------------------------------------------ faults of the relay


def cut(relay: Relay, seconds: float, pause: Pause) -> None:
    """Connections are cut at random moments."""
    chance = random.Random()
    left = seconds
    while left > 0:
        moment = chance.random() ** 2
        pause(moment)
        relay.tell("cut")
        left -= moment + 0.01


def delayed(relay: Relay, seconds: float, pause: Pause) -> None:
    """Everything arrives 0.4 s later."""
    relay.tell("delay", 0.4)
    pause(seconds)


def slow(relay: Relay, seconds: float, pause: Pause) -> None:
    """3 kB/s, a hundredth of what is logged; anew, so that much is waiting when it begins."""
    relay.kill()
    pause(seconds / 3)
    relay.start()
    relay.tell("rate", 3000)
    pause(seconds)


def held(relay: Relay, seconds: float, pause: Pause) -> None:
    """Nothing gets through for a while, then all of it."""
    relay.tell("hold")
    pause(seconds)


def half_open(relay: Relay, seconds: float, pause: Pause) -> None:
    """Connections stay, and whatever is sent on them is gone."""
    relay.tell("swallow")
    pause(seconds)


def killed(relay: Relay, seconds: float, pause: Pause) -> None:
    """The relay dies, and comes back."""
    relay.kill()
    pause(seconds)
    relay.start()


@pytest.mark.parametrize("seconds", [2.0, pytest.param(20.0, marks=LONG)])
@pytest.mark.parametrize("fault", [cut, delayed, slow, held, half_open, killed])
def test_faults(
    isolated: Isolated,
    launch: Callable[..., Any],
    relay: Callable[..., Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
    pause: Pause,
    fault: Callable[[Relay, float, Pause], None],
    seconds: float,
) -> None:
    """Whatever the network does, log calls do not notice, and once it is good all is delivered."""
    collector = launch(address="tcp://127.0.0.1:*")
    between = relay(collector.address.removeprefix("tcp://"))
    training = train(between.address)
    pause(1.0)
    training.phase(FAULT)
    fault(between, seconds, pause)
    training.phase(AFTER)
    between.tell("pass")
    behind = training.words[0] - training.words[4]
    took = training.caught_up()
    told = training.end()
    found = evidence(isolated.only_run())
    _whole(found, training)
    figures(
        events=found.manifest["accounting"]["sent"],
        lost=found.manifest["accounting"]["lost"],
        duplicated=found.stored.total() - len(found.stored),
        behind=behind,
        caught_up_s=took,
        p99_ratio=told["p99"][FAULT] / told["p99"][QUIET],
        longest_call_us=told["max"][FAULT] / 1e3,
        exit_s=told["end"],
    )
    assert told["p99"][FAULT] <= 20 * told["p99"][QUIET]
    assert told["end"] <= 30.0


@pytest.mark.parametrize("rate", [40_000, pytest.param(4_000, marks=LONG)])
def test_slow_link_gets_on(
    isolated: Isolated,
    launch: Callable[..., Any],
    relay: Callable[..., Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
    pause: Pause,
    rate: int,
) -> None:
    """Over a few kB/s, with megabytes waiting, events arrive at about the pace of the link."""
    collector = launch(address="tcp://127.0.0.1:*")
    between = relay(collector.address.removeprefix("tcp://"))
    training = train(between.address)
    between.kill()
    pause(5.0)  # 1.7 MB are waiting
    between.start()
    between.tell("rate", rate)
    seconds = 320_000 / rate  # for five of the smallest batches
    before = training.words[4]
    pause(seconds)
    acked = training.words[4] - before
    between.tell("pass")
    training.caught_up()
    told = training.end()
    _whole(evidence(isolated.only_run()), training)
    part = acked * 34 / (rate * seconds)
    figures(rate=rate, seconds=seconds, acked=acked, part_of_the_link=part, exit_s=told["end"])
    assert part >= 0.25


@pytest.mark.parametrize("fault", ["hold", "swallow", "kill"])
def test_end_without_network(
    isolated: Isolated,
    launch: Callable[..., Any],
    relay: Callable[..., Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
    pause: Pause,
    fault: str,
) -> None:
    """A rank that cannot reach its collector ends in time, and leaves what completes the run."""
    collector = launch(address="tcp://127.0.0.1:*")
    between = relay(collector.address.removeprefix("tcp://"))
    training = train(between.address, PROV4ML_EXIT_TIMEOUT="3")
    training.caught_up()
    between.kill() if fault == "kill" else between.tell(fault)
    pause(1.0)
    told = training.end()
    run = isolated.only_run()
    isolated.wait(lambda: isolated.manifest(run)["closed"], "its collector completes the run")
    _whole(evidence(run), training)
    figures(events=evidence(run).manifest["accounting"]["sent"], lost=0, exit_s=told["end"])
    assert told["end"] <= 3.0 + 1.0
    assert collector.stop() == 0


def test_network_that_hangs_up_at_once(
    isolated: Isolated,
    launch: Callable[..., Any],
    relay: Callable[..., Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
    pause: Pause,
) -> None:
    """A port where connections are taken and dropped costs the rank next to nothing."""
    collector = launch(address="tcp://127.0.0.1:*")
    between = relay(collector.address.removeprefix("tcp://"))
    training = train(between.address)
    seen = psutil.Process(training.process.pid)

    def used(seconds: float) -> float:
        before = seen.cpu_times()
        pause(seconds)
        after = seen.cpu_times()
        return (after.user + after.system - before.user - before.system) / seconds

    pause(0.5)
    quiet, files = used(2.0), seen.num_fds()
    between.tell("refuse")
    refused, more = used(2.0), seen.num_fds()
    between.tell("pass")
    training.caught_up()
    training.end()
    _whole(evidence(isolated.only_run()), training)
    figures(cpu_quiet=quiet, cpu_refused=refused, files=files, files_refused=more)
    assert refused <= quiet + 0.1
    assert more <= files + 3


# ------------------------------------------------------------------------------- two hosts


@pytest.fixture
def far(
    hosts: Hosts, launch: Callable[..., Any], relay: Callable[..., Relay]
) -> tuple[Any, str, Relay]:
    """(collector on one host, address for a rank on the other, the relay on the collector's)."""
    collector = launch(*hosts.here, address="tcp://127.0.0.1:*")
    here = relay(collector.address.removeprefix("tcp://"), *hosts.here, host=hosts.address_here)
    there = relay(here.address, *hosts.there)
    return collector, there.address, here


@pytest.mark.parametrize("seconds", [3.0, pytest.param(20.0, marks=LONG)])
def test_link_down(
    isolated: Isolated,
    hosts: Hosts,
    far: tuple[Any, str, Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
    pause: Pause,
    seconds: float,
) -> None:
    """The link between two hosts goes down under load and comes up again: nothing is lost."""
    training = train(far[1], *hosts.there)
    pause(1.0)
    training.phase(FAULT)
    hosts.down()
    pause(seconds)
    training.phase(AFTER)
    hosts.up()
    behind = training.words[0] - training.words[4]
    took = training.caught_up()
    told = training.end()
    found = evidence(isolated.only_run())
    _whole(found, training)
    assert behind >= 5_000 * seconds  # it was down
    figures(
        seconds=seconds,
        events=found.manifest["accounting"]["sent"],
        lost=found.manifest["accounting"]["lost"],
        behind=behind,
        caught_up_s=took,
        p99_ratio=told["p99"][FAULT] / told["p99"][QUIET],
        exit_s=told["end"],
    )
    assert told["p99"][FAULT] <= 20 * told["p99"][QUIET]


OTHER = "other.example"


def test_rank_of_another_host(
    isolated: Isolated,
    hosts: Hosts,
    far: tuple[Any, str, Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
    pause: Pause,
) -> None:
    """A rank with another host's name and spool delivers over a link with faults, and says its
    end itself."""
    spool = isolated.root / "t"
    training = train(far[1], *hosts.there, *named(OTHER), PROV4ML_SPOOL=str(spool))
    far[2].tell("cut")
    pause(0.5)
    hosts.down()
    pause(1.0)
    hosts.up()
    took = training.caught_up()
    told = training.end()
    found = evidence(isolated.only_run())
    _whole(found, training)
    (rank,) = found.manifest["ranks"]
    assert (rank["host"], rank["status"]) == (OTHER, "finished")
    assert not [path for path in spool.rglob("*") if path.is_file()]
    figures(events=rank["sent"], lost=rank["lost"], caught_up_s=took, exit_s=told["end"])


def test_rank_of_another_host_that_cannot_wait(
    isolated: Isolated,
    hosts: Hosts,
    far: tuple[Any, str, Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
) -> None:
    """The link is down at its end: what it leaves in the run directory ends the run."""
    training = train(
        far[1],
        *hosts.there,
        *named(OTHER),
        PROV4ML_SPOOL=str(isolated.root / "t"),
        PROV4ML_EXIT_TIMEOUT="3",
    )
    training.caught_up()
    hosts.down()
    told = training.end()
    run = isolated.only_run()
    isolated.wait(lambda: isolated.manifest(run)["closed"], "the collector takes it up")
    _whole(evidence(run), training)
    figures(events=evidence(run).manifest["accounting"]["sent"], exit_s=told["end"])
    assert told["end"] <= 3.0 + 1.0


def test_rank_of_another_host_that_is_killed(
    isolated: Isolated,
    hosts: Hosts,
    far: tuple[Any, str, Relay],
    train: Callable[..., Training],
    evidence: Any,
    figures: Callable[..., None],
    pause: Pause,
) -> None:
    """Nobody looks at pids of another host: the run stays open, until its own host recovers it."""
    spool = isolated.root / "t"
    training = train(far[1], *hosts.there, *named(OTHER), PROV4ML_SPOOL=str(spool))
    training.caught_up()
    training.process.send_signal(signal.SIGKILL)
    training.process.communicate()
    run = isolated.only_run()
    pause(3.0)  # on this host it would be over in one
    assert far[0].stop() == 0
    assert isolated.manifest(run)["status"] == "running"
    command = [*named(OTHER), sys.executable, "-m", "prov4ml", "recover"]
    done = subprocess.run(
        command,
        env={**isolated.environment, "PROV4ML_SPOOL": str(spool)},
        cwd=isolated.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = evidence(run)
    found.complete()
    assert found.manifest["status"] == "died"
    assert found.stored.total() >= training.words[0]
    assert not [path for path in Path(spool).rglob("*") if path.is_file()]
    figures(returned=training.words[0], kept=found.stored.total(), lost=0)
