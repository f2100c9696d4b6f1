"""Kills at random moments: of ranks, and of collectors.

What a log call returned for is in the event log, exactly once, whoever dies.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]

# word 0: calls that returned, 1: the run is open, 2: parameters that returned
KILLED = """
words = shared(sys.argv[1])
prov4ml.start_run("killed")
words[1] = 1
log = prov4ml.log_metric
i = 0
while True:
    log("loss", i / 7, "training", i)
    i += 1
    words[0] = i
    if not i % 10_000:
        prov4ml.log_param(f"p{i}", i)
        words[2] += 1
"""


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.soak)])
def test_killed_ranks(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    forget: Callable[..., None],
    pause: Callable[[float], None],
    kills: int,
) -> None:
    """Every call that returned before a SIGKILL under full load is in the event log, once."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    isolated.write(prelude + KILLED)
    returned: list[tuple[int, int]] = []
    at_stake = lost = doubled = 0
    for start in range(0, kills, 4):
        batch: list[tuple[memoryview, subprocess.Popen[str]]] = []
        for n in range(start, min(kills, start + 4)):
            shared = words(f"c{n}")
            child = isolated.spawn(sys.executable, "train.py", f"c{n}")
            batch.append((shared, child))
        for shared, child in batch:
            isolated.wait(lambda s=shared, c=child: s[1] or c.poll() is not None, "a run")
            assert child.poll() is None, child.communicate()
            pause(chance.random() ** 2 * 0.4)
            child.send_signal(signal.SIGKILL)
        for shared, child in batch:
            _, errors = child.communicate()
            assert child.returncode == -signal.SIGKILL, errors
            returned.append((shared[0], shared[2]))
    closed()
    assert spool_files() == []
    left = []
    for run in isolated.runs():
        found = evidence(run)
        found.complete()
        assert found.manifest["status"] in ("killed", "died"), seed
        left.append((found.logged.total(), found.kinds["Param"]))
        steps = sorted(step for _, _, step in found.stored)
        assert steps == list(range(len(steps))), seed
        doubled += found.stored.total() - len(found.stored)
        forget(run)
    # Runs are numbered as they started, which need not be the order of our list.
    assert len(left) == kills
    for there, was in zip(sorted(left), sorted(returned), strict=True):
        at_stake += was[0] + was[1]
        lost += max(0, was[0] - there[0]) + max(0, was[1] - there[1])
        assert was[0] <= there[0] <= was[0] + 1, seed
        assert was[1] <= there[1] <= was[1] + 1, seed
    figures(runs_killed=kills, calls_returned=at_stake, lost=lost, duplicated=doubled)


# word 0: calls that returned, 1: the run is open; in the file "stop" word 0: enough
RANK = """
words, stop = shared("rank" + os.environ["RANK"]), shared("stop")
with prov4ml.start_run("steady"):
    words[1] = 1
    i = 0
    while not stop[0]:
        for _ in range(200):
            prov4ml.log_metric("loss", i / 7, "training", i)
            i += 1
        words[0] = i
        time.sleep(0.01)
"""


@pytest.mark.parametrize("kills", [8, pytest.param(30, marks=pytest.mark.soak)])
def test_killed_collectors(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    pause: Callable[[float], None],
    kills: int,
) -> None:
    """Collectors are killed while four ranks log: nothing lost, nothing twice, all written."""
    chance = random.Random()
    isolated.write(prelude + RANK)
    stop = words("stop")
    counts = [words(f"rank{rank}") for rank in range(4)]
    ranks = [
        isolated.spawn(
            sys.executable,
            "train.py",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="4",
            PROV4ML_JOB="kills",
            PROV4ML_EXIT_TIMEOUT="30",
        )
        for rank in range(4)
    ]
    isolated.wait(lambda: all(count[1] for count in counts), "all ranks log")
    killed: set[int] = set()

    def another() -> psutil.Process | None:
        found = [p for p in isolated.collectors() if p.pid not in killed]
        return found[0] if found else None

    for _ in range(kills):
        isolated.wait(another, "a collector is there again", 120.0)
        pause(chance.random() * 2.0)
        victim = another()
        if victim is not None:
            victim.kill()
            killed.add(victim.pid)
    stop[0] = 1
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4, said
    closed()
    assert spool_files() == []
    found = evidence(isolated.only_run())
    found.complete()
    assert found.manifest["status"] == "finished"
    assert [r["status"] for r in found.manifest["ranks"]] == ["finished"] * 4
    lost = 0
    for rank, count in enumerate(counts):
        steps = sorted(step for r, _, step in found.stored if r == rank)
        lost += max(0, count[0] - len(steps))
        assert steps == list(range(count[0]))
    points = found.stored.total()
    figures(
        collectors_killed=len(killed),
        events_at_stake=points,
        lost=lost,
        duplicated=points - len(found.stored),
    )
