"""Processes that are stopped (SIGSTOP, a suspended laptop) and go on, or never do.

A stopped collector is noticed by nobody who logs; a stopped rank is no dead one.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]

NOTICED = 25  # times the p99 of a log call without the stop; a call that waited takes 10,000

# word 0: calls that returned, 1: the run is open, 2: us that end_run took; from 10 + 4 * phase on:
# calls, ns of the median, of p99, and at most.  In the file "stage" word 0: phase, 1: enough,
# 2: the process may end
STEADY = """
words, stage = shared("rank" + os.environ.get("RANK", "0")), shared("stage")
run = prov4ml.start_run("steady")
log, clock = prov4ml.log_metric, time.perf_counter_ns
took = [[], [], []]
words[1] = 1
i = 0
while not stage[1]:
    times = took[stage[0]]
    for _ in range(100):
        begin = clock()
        log("loss", i / 7, "training", i)
        times.append(clock() - begin)
        i += 1
    words[0] = i
    time.sleep(0.01)
for phase, times in enumerate(took):
    times.sort()
    if times:
        at = len(times), times[len(times) // 2], times[len(times) * 99 // 100], times[-1]
        words[10 + 4 * phase : 14 + 4 * phase] = memoryview(b"".join(
            n.to_bytes(8, sys.byteorder) for n in at)).cast("Q")
begin = time.monotonic()
prov4ml.end_run()
words[2] = round((time.monotonic() - begin) * 1e6) + 1
while not stage[2]:
    time.sleep(0.01)
"""

# Runs a collector whose timers are short: python fast.py <lease, s> python -m prov4ml collector ...
FAST = """
import sys
from prov4ml import cli, collector, publish, transport, witness
collector._LEASE = float(sys.argv[1])
collector._LOOK = 0.1
transport._HEARTBEAT = 100
witness._REAPED = 0.3
publish._SNAPSHOT, publish._CHANGED, publish._PATIENCE = 0.5, 0.2, 2
sys.exit(cli.main(sys.argv[5:]))
"""


def _ranks(place: Isolated, number: int, **environment: str) -> list[Any]:
    return [
        place.spawn(
            *(sys.executable, "train.py"),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(number),
            PROV4ML_JOB="stops",
            **environment,
        )
        for rank in range(number)
    ]


def _collector(place: Isolated) -> psutil.Process:
    """The automatic collector, once it has the run."""
    place.wait(lambda: place.runs() and (place.only_run() / "run.json").exists(), "a collector")
    (found,) = place.collectors()
    return found


def _steps(found: Any, counts: list[memoryview]) -> tuple[int, int]:
    """(points, lost): of each rank all steps up to its count, once."""
    lost = 0
    for rank, count in enumerate(counts):
        steps = sorted(step for r, _, step in found.stored if r == rank)
        lost += max(0, count[0] - len(steps))
        assert steps == list(range(count[0]))
    return found.stored.total(), lost


@pytest.mark.parametrize(
    ("ranks", "seconds"), [(2, 3.0), pytest.param(4, 20.0, marks=pytest.mark.soak)]
)
def test_stopped_collector(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    pause: Callable[[float], None],
    ranks: int,
    seconds: float,
) -> None:
    """A collector is stopped under load and goes on: log calls do not notice, all is there once."""
    isolated.write(prelude + STEADY)
    stage, counts = words("stage"), [words(f"rank{rank}") for rank in range(ranks)]
    children = _ranks(isolated, ranks, PROV4ML_EXIT_TIMEOUT="60")
    isolated.wait(lambda: all(count[1] for count in counts), "all ranks log")
    collector = _collector(isolated)
    pause(seconds / 2)
    collector.suspend()
    stage[0] = 1
    pause(seconds)
    stage[0] = 2
    collector.resume()
    pause(1.0)
    stage[1] = stage[2] = 1
    said = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0] * ranks, said
    closed()
    found = evidence(isolated.only_run())
    found.complete()
    assert found.manifest["status"] == "finished"
    points, lost = _steps(found, counts)
    assert spool_files() == []
    ratio = max(count[16] / count[12] for count in counts)
    figures(
        stopped_s=seconds,
        events_at_stake=points,
        calls_meanwhile=sum(count[14] for count in counts),
        lost=lost,
        duplicated=points - len(found.stored),
        p99_before_us=max(count[12] for count in counts) / 1e3,
        p99_meanwhile_us=max(count[16] for count in counts) / 1e3,
        p99_ratio=ratio,
        longest_call_before_us=max(count[13] for count in counts) / 1e3,
        longest_call_meanwhile_us=max(count[17] for count in counts) / 1e3,
    )
    assert ratio <= NOTICED


def test_stopped_for_ever(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    pause: Callable[[float], None],
) -> None:
    """A collector that never goes on delays no end; once it is gone, recover completes the run."""
    isolated.write(prelude + STEADY)
    stage, counts = words("stage"), [words(f"rank{rank}") for rank in range(2)]
    children = _ranks(isolated, 2, PROV4ML_EXIT_TIMEOUT="2")
    isolated.wait(lambda: all(count[1] for count in counts), "all ranks log")
    collector = _collector(isolated)
    pause(0.5)
    collector.suspend()
    pause(0.5)
    stage[1] = stage[2] = 1
    said = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    run = isolated.only_run()
    assert all(f"prov4ml collect {run}" in errors for _, errors in said)
    longest = max(count[2] for count in counts) / 1e6
    before = evidence(run).bytes()
    left_alone = isolated.prov4ml("recover")
    assert f"pid {collector.pid}" in left_alone.stdout
    assert evidence(run).bytes() == before
    collector.kill()
    isolated.wait(lambda: not isolated.collectors(), "the collector is gone")
    isolated.prov4ml("recover")
    found = evidence(run)
    found.complete()
    assert found.manifest["status"] == "finished"
    points, lost = _steps(found, counts)
    assert spool_files() == []
    figures(exit_timeout=2.0, longest_end=longest, events_at_stake=points, lost=lost)
    assert 0 < longest <= 2 * 2.0
    after = found.bytes()
    isolated.prov4ml("recover")
    isolated.prov4ml("collect", str(run))
    assert evidence(run).bytes() == after


def test_a_collector_that_goes_on_after_the_end(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
) -> None:
    """It takes up what a rank left undelivered, though that process lives on, and completes it."""
    stage, count = words("stage"), words("rank0")
    script = isolated.start(prelude + STEADY, PROV4ML_EXIT_TIMEOUT="1")
    isolated.wait(lambda: count[1], "the run is open")
    collector = _collector(isolated)
    collector.suspend()
    isolated.wait(lambda: count[0] > 20_000, "it logs meanwhile")
    stage[1] = 1
    isolated.wait(lambda: count[2], "the run has ended")
    run = isolated.only_run()
    assert list((run / "undelivered").glob("*/*.seg"))
    collector.resume()
    isolated.wait(lambda: isolated.manifest(run)["closed"], "the collector completes the run")
    assert script.poll() is None
    isolated.wait(lambda: not (run / "undelivered").exists(), "what was left is taken")
    stage[2] = 1
    script.communicate(timeout=60)
    found = evidence(run)
    found.complete()
    assert found.manifest["status"] == "finished"
    points, lost = _steps(found, [count])
    figures(events_at_stake=points, lost=lost, duplicated=points - len(found.stored))
    assert spool_files() == []
    after = found.bytes()
    isolated.prov4ml("collect", str(run))
    assert evidence(run).bytes() == after


def _stopped(place: Isolated, run: Path, seconds: float, pause: Callable[[float], None]) -> None:
    """Let the time pass; whatever is written meanwhile calls nobody dead."""
    for _ in range(10):
        pause(seconds / 10)
        shown = place.manifest(run)
        statuses = {shown["status"], *(rank["status"] for rank in shown["ranks"])}
        assert statuses == {"running"}
        assert shown["closed"] is None


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize("what", ["one rank", "all ranks", "ranks and collector"])
def test_stopped_ranks(
    isolated: Isolated,
    launch: Callable[..., Any],
    prelude: str,
    words: Words,
    evidence: Any,
    figures: Callable[..., None],
    pause: Callable[[float], None],
    what: str,
    fast: bool,
) -> None:
    """Ranks that are stopped for longer than any timer of the collector are no dead ones."""
    isolated.write(prelude + STEADY)
    fast_py = isolated.write(FAST, "fast.py")
    collector = launch(*((sys.executable, str(fast_py), "1.0") if fast else ()))
    seconds = 3.0 if fast else 70.0  # beyond lease, heartbeat, patience, idling
    stage, counts = words("stage"), [words(f"rank{rank}") for rank in range(2)]
    children = _ranks(isolated, 2, PROV4ML_COLLECTOR=collector.address, PROV4ML_EXIT_TIMEOUT="60")
    isolated.wait(lambda: all(count[1] for count in counts), "all ranks log")
    run = isolated.only_run()
    isolated.wait((run / "run.json").exists, "the collector has the run")
    isolated.wait(lambda: len(isolated.manifest(run)["ranks"]) == 2, "both ranks are known", 90.0)
    victims = children[1:] if what == "one rank" else children
    for child in victims:
        child.send_signal(signal.SIGSTOP)
    if what == "ranks and collector":
        collector.process.send_signal(signal.SIGSTOP)
        pause(seconds)
        collector.process.send_signal(signal.SIGCONT)
    _stopped(isolated, run, seconds, pause)
    for child in victims:
        child.send_signal(signal.SIGCONT)
    stopped_at = [count[0] for count in counts]
    isolated.wait(
        lambda: all(c[0] > was for c, was in zip(counts, stopped_at, strict=True)), "they go on"
    )
    stage[1] = stage[2] = 1
    said = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    found = evidence(run)
    found.complete()
    assert found.manifest["status"] == "finished"
    points, lost = _steps(found, counts)
    for kind in ("RankEnded", "LeaseLost"):
        assert found.kinds[kind] == 0
    assert found.kinds["RunEnded"] == 1
    figures(
        stopped_s=seconds,
        events_at_stake=points,
        lost=lost,
        duplicated=points - len(found.stored),
    )


# word 0: of rank 1: it may open the run; 1: the run is open
LATE = """
words = shared("late")
while os.environ["RANK"] == "1" and not words[0]:
    time.sleep(0.01)
run = prov4ml.start_run("late")
prov4ml.log_metric("loss", 0.5)
words[1] = 1
while os.environ["RANK"] == "0":
    time.sleep(1)
prov4ml.end_run()
"""


def test_a_lease_counts_only_while_the_collector_is_awake(
    isolated: Isolated,
    launch: Callable[..., Any],
    prelude: str,
    words: Words,
    evidence: Any,
    pause: Callable[[float], None],
) -> None:
    """A stopped collector does not take its own sleep for the silence of ranks yet to come."""
    isolated.write(prelude + LATE)
    collector = launch(sys.executable, str(isolated.write(FAST, "fast.py")), "4.0")
    count = words("late")
    first, second = _ranks(
        isolated, 2, PROV4ML_COLLECTOR=collector.address, PROV4ML_EXIT_TIMEOUT="60"
    )
    isolated.wait(lambda: count[1], "the first rank has the run")
    run = isolated.only_run()
    isolated.wait((run / "run.json").exists, "the collector has the run")
    first.kill()
    first.communicate()
    collector.process.send_signal(signal.SIGSTOP)
    pause(5.0)
    collector.process.send_signal(signal.SIGCONT)
    count[0] = 1
    said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert isolated.only_run() == run
    found = evidence(run)
    found.complete()
    assert [rank["rank"] for rank in found.manifest["ranks"]] == [0, 1]
    assert found.logged.total() == 2
    assert found.kinds["RunEnded"] == 1
