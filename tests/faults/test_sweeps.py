"""Sweeps: many runs in one process, many processes at once, one collector for all of them.

No run pays for those before it, and none leaves anything behind but its directory.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from operator import le
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from prov4ml.testing.processes import anonymous

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]

POINTS = 200
SLOWER = 10.0  # times the first runs that the last ones may take, on a machine with other work
GROWTH = 4 << 20  # bytes that all runs but the first quarter may add, in trainer or collector

# word 0: runs that have ended, 1: how many the test has looked at
SWEEP = """
import json
RUNS, POINTS = int(sys.argv[1]), int(sys.argv[2])
words = shared("sweep")

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("RssAnon:"))

def held(name):  # a thread that was joined may take a moment to go
    return min((time.sleep(0.005), len(os.listdir(f"/proc/self/{name}")))[1] for _ in range(50))

starts, wholes, facts = [], [], []
for n in range(RUNS):
    begin = time.perf_counter()
    prov4ml.start_run("sweep")
    starts.append(time.perf_counter() - begin)
    for step in range(POINTS):
        prov4ml.log_metric("loss", step / 7, "training", step)
    prov4ml.log_param("n", n)
    prov4ml.end_run()
    wholes.append(time.perf_counter() - begin)
    words[0] = n + 1
    if n + 1 in (RUNS // 4, RUNS):
        facts.append((anonymous(), held("fd"), held("task")))
        while words[1] < n + 1:
            time.sleep(0.01)
print(json.dumps({"starts": starts, "wholes": wholes, "facts": facts}))
"""


def _figures(process: psutil.Process) -> tuple[int, int, int]:
    """(anonymous memory in bytes, open files, threads)."""
    return anonymous(process.pid), process.num_fds(), process.num_threads()


def _packed(place: Isolated) -> bool:
    """Whether no log of a run is open, or waits to be compressed."""
    return not list((place.folder / "prov").glob("*/events/*.log"))


def _last_to_first(values: list[float]) -> float:
    """Median of the last ten to that of the second to eleventh: no start-up cost per run."""
    return statistics.median(values[-10:]) / statistics.median(values[1:11])


@pytest.mark.parametrize("runs", [40, pytest.param(200, marks=pytest.mark.soak)])
def test_runs_one_after_another(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    runs: int,
) -> None:
    """A process makes run after run: one collector, the last as quick as the second, no leak."""
    isolated.write(prelude + SWEEP)
    count = words("sweep")
    seen: set[int] = set()
    child = isolated.spawn(sys.executable, "train.py", str(runs), str(POINTS))

    def reached(number: int) -> bool:
        seen.update(process.pid for process in isolated.collectors())
        assert child.poll() is None or count[0] == runs, child.communicate()
        return count[0] >= number

    looks = []
    for number in (runs // 4, runs):
        isolated.wait(lambda n=number: reached(n), f"run {number}", 300.0)
        (collector,) = isolated.collectors()
        isolated.wait(lambda: _packed(isolated), "the collector has nothing to do")
        if looks:
            isolated.wait(
                lambda c=collector: all(map(le, _figures(c)[1:], looks[0][1:])),
                "there are no more files and threads than before",
            )
        looks.append(_figures(collector))
        count[1] = number
    out, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert len(seen) == 1
    told = json.loads(out)
    closed()

    left = isolated.runs()
    assert len(left) == runs
    for run in left:
        account = isolated.manifest(run)["accounting"]
        assert (account["points"], account["lost"]) == (POINTS, 0)
        assert isolated.manifest(run)["status"] == "finished"
    evidence(left[0]).complete()
    evidence(left[-1]).complete()
    assert spool_files() == []
    assert list((isolated.spool).rglob("*")) == [next(isolated.spool.iterdir())]
    assert not (isolated.folder / "prov" / ".prov4ml").exists()
    runtime = sorted(path.suffix for path in (isolated.root / "r" / "prov4ml").iterdir())
    assert runtime == [".lock", ".log", ".sock"]

    early, late = told["facts"]
    between = runs - runs // 4
    trainer, served = late[0] - early[0], looks[1][0] - looks[0][0]
    figures(
        runs=runs,
        start_ms=1e3 * statistics.median(told["starts"]),
        whole_ms=1e3 * statistics.median(told["wholes"]),
        last_to_second_start=told["starts"][-1] / told["starts"][1],
        last_to_second_whole=told["wholes"][-1] / told["wholes"][1],
        median_ratio_start=_last_to_first(told["starts"]),
        median_ratio_whole=_last_to_first(told["wholes"]),
        trainer_bytes_per_run=trainer / between,
        collector_bytes_per_run=served / between,
        trainer_files=late[1],
        collector_files=looks[1][1],
    )
    assert late[1:] == early[1:]
    assert trainer <= GROWTH
    assert served <= GROWTH
    assert _last_to_first(told["starts"]) <= SLOWER
    assert _last_to_first(told["wholes"]) <= SLOWER


AT_ONCE = """
words = shared(sys.argv[1])
words[1] = 1
while not words[2]:
    time.sleep(0.005)
begin = time.monotonic()
prov4ml.start_run("at once")
for step in range(int(sys.argv[2])):
    prov4ml.log_metric("loss", step / 7, "training", step)
prov4ml.end_run()
words[3] = round((time.monotonic() - begin) * 1e6) + 1
"""


@pytest.mark.parametrize("number", [8, pytest.param(20, marks=pytest.mark.soak)])
def test_processes_at_once(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    number: int,
) -> None:
    """Processes that start a run each at the same moment are served by one collector."""
    isolated.write(prelude + AT_ONCE)
    counts = [words(f"p{n}") for n in range(number)]
    children = [
        isolated.spawn(sys.executable, "train.py", f"p{n}", str(POINTS), PROV4ML_EXIT_TIMEOUT="60")
        for n in range(number)
    ]
    isolated.wait(lambda: all(count[1] for count in counts), "all processes are there")
    for count in counts:
        count[2] = 1
    seen: set[int] = set()

    def over() -> bool:
        seen.update(process.pid for process in isolated.collectors())
        return all(child.poll() is not None for child in children)

    isolated.wait(over, "all have ended", 120.0)
    said = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0] * number, said
    closed()
    runs = isolated.runs()
    assert len(runs) == number
    for run in runs:
        found = evidence(run)
        found.complete()
        assert found.manifest["status"] == "finished"
        assert len(found.stored) == POINTS
    figures(
        processes=number,
        collectors=len(seen),
        longest_s=max(count[3] for count in counts) / 1e6,
    )
    assert len(seen) == 1
    assert spool_files() == []
