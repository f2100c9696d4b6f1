"""The end of a run takes ``exit_timeout`` at most, whatever has become of its collector.

What is not acked by then lies in the run directory, and one command completes the run from it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from prov4ml import documents, process
from prov4ml_sinks import parquet_files

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]

SLACK = 2.0  # times exit_timeout, on a machine that has other things to do

# word 0: calls that returned, 1: the run is open, 2: us that end_run took, 3: the fault has come,
# 4: us that the end of the process took
LEAVE = """
import atexit
words = shared(sys.argv[1])
atexit.register(lambda: words.__setitem__(4, round((time.monotonic() - begin) * 1e6) + 1))
run = prov4ml.start_run("leaving")
log = prov4ml.log_metric
for i in range(1000):
    log("loss", i / 7, "training", i)
words[1] = 1
while not words[3]:
    time.sleep(0.01)
for i in range(1000, 2000):
    log("loss", i / 7, "training", i)
words[0] = 2000
print("trained")
begin = time.monotonic()
if sys.argv[2] == "exit":
    sys.exit(3)
prov4ml.end_run()
words[2] = round((time.monotonic() - begin) * 1e6) + 1
"""


class Stage:
    """Where a fault plays: what the script is started with, and who must not be disturbed."""

    def __init__(self, place: Isolated, launch: Callable[..., Any], slow: Any, fast: bool) -> None:
        self.place = place
        self.launch = launch
        self.slow = slow
        self.environment: dict[str, str] = {}
        self.exit_timeout = 2.0 if fast else 10.0  # s
        self.left = "undelivered"  # or "nothing", "spool"
        self.owner: int | None = None  # pid of whom collect names when it refuses

    def collector(self) -> psutil.Process:
        """The automatic collector, which has taken up all runs."""
        runs = self.place.runs()
        self.place.wait(lambda: all((run / "run.json").exists() for run in runs), "a collector")
        (found,) = self.place.collectors()
        return found


Fault = Callable[[Stage], Iterator[None]]


def living(stage: Stage) -> Iterator[None]:
    """A collector that does its work."""
    stage.left = "nothing"
    stage.exit_timeout = 20.0
    yield


def killed(stage: Stage) -> Iterator[None]:
    """A launched collector that was killed a moment before."""
    collector = stage.launch()
    stage.environment["PROV4ML_COLLECTOR"] = collector.address
    yield
    collector.process.kill()
    collector.process.wait()


def killed_automatic(stage: Stage) -> Iterator[None]:
    """An automatic collector that was killed a moment before: there is time for another."""
    stage.left = "nothing"
    stage.exit_timeout = 20.0
    yield
    collector = stage.collector()
    collector.kill()


def stopped(stage: Stage) -> Iterator[None]:
    """An automatic collector that is stopped."""
    yield
    collector = stage.collector()
    collector.suspend()
    stage.owner = collector.pid
    yield
    collector.kill()
    stage.place.wait(lambda: not stage.place.collectors(), "the collector is gone")


def none(stage: Stage) -> Iterator[None]:
    """No collector at all: the run completes itself."""
    stage.environment["PROV4ML_COLLECTOR"] = "none"
    stage.left = "nothing"
    stage.exit_timeout = 20.0
    yield


def nobody(stage: Stage) -> Iterator[None]:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        stage.environment["PROV4ML_COLLECTOR"] = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    yield


def mute(stage: Stage) -> Iterator[None]:
    """An address that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stage.environment["PROV4ML_COLLECTOR"] = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        yield
        yield


def slow(stage: Stage) -> Iterator[None]:
    """A collector that acks, and whose documents take long."""
    stage.environment.update(stage.slow.environment)
    stage.left = "nothing"
    yield
    collector = stage.collector()
    stage.owner = collector.pid
    yield
    stage.slow.gate.touch()


def unwritable(stage: Stage) -> Iterator[None]:
    """No collector, and a run directory that has become read-only."""
    stage.environment["PROV4ML_COLLECTOR"] = "tcp://127.0.0.1:9"
    stage.left = "spool"
    yield
    mounted = [str(run) for run in stage.place.runs()]
    for run in mounted:
        done = subprocess.run(["mount", "--bind", run, run], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("a read-only folder needs the right to mount")
        subprocess.run(["mount", "-o", "remount,bind,ro", run], check=True)
    try:
        yield
    finally:
        for run in mounted:
            subprocess.run(["umount", run], check=True)


def _closed(run: Path) -> bool:
    return documents.read_manifest(run).get("closed") is not None


FAULTS: list[Fault] = [
    living,
    killed,
    killed_automatic,
    stopped,
    none,
    nobody,
    mute,
    slow,
    unwritable,
]
CODES = {"end_run": 0, "exit": 3}


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_bounded_end(
    isolated: Isolated,
    launch: Callable[..., Any],
    slow_sink: Any,
    prelude: str,
    words: Words,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    fault: Fault,
    fast: bool,
) -> None:
    """``end_run`` and exit keep their bound, say what is where, and one command completes it."""
    stage = Stage(isolated, launch, slow_sink, fast)
    play = fault(stage)
    next(play)
    isolated.write(prelude + LEAVE)
    environment = {**stage.environment, "PROV4ML_EXIT_TIMEOUT": str(stage.exit_timeout)}
    counts = {way: words(way) for way in CODES}
    scripts = {
        way: isolated.spawn(sys.executable, "-W", "error", "train.py", way, way, **environment)
        for way in CODES
    }
    isolated.wait(lambda: all(count[1] for count in counts.values()), "the scripts log")
    next(play, None)
    for count in counts.values():
        count[3] = 1
    said = {}
    for way, script in scripts.items():
        said[way] = script.communicate(timeout=120)
        assert script.returncode == CODES[way], said[way]
        assert said[way][0] == "trained\n"
    longest = max(counts["end_run"][2], *(count[4] for count in counts.values())) / 1e6
    figures(exit_timeout=stage.exit_timeout, longest_end=longest)
    assert 0 < longest <= SLACK * stage.exit_timeout

    runs = isolated.runs()
    errors = "".join(error for _, error in said.values())
    for run in runs:
        assert run.name in errors
        if stage.left == "spool":
            assert str(isolated.spool) in errors
            assert "prov4ml recover" in errors
        elif stage.left == "undelivered":
            assert list((run / "undelivered").glob("*/*.seg"))
            assert str(run / "undelivered") in errors
            assert f"prov4ml collect {run}" in errors
        else:
            assert not (run / "undelivered").exists()
    if stage.owner is not None:
        before = [evidence(run).bytes() for run in runs]
        refused = isolated.prov4ml("collect", *map(str, runs), code=1)
        assert refused.stderr.count(f"pid {stage.owner}") == len(runs)
        assert [evidence(run).bytes() for run in runs] == before
    next(play, None)

    if stage.left == "nothing":
        isolated.wait(lambda: all(map(_closed, runs)), "the runs are closed")
    elif stage.left == "spool":
        isolated.prov4ml("recover", **environment)
    else:
        isolated.prov4ml("collect", *map(str, runs), **environment)
    statuses = []
    for run in runs:
        found = evidence(run)
        found.complete()
        statuses.append(found.manifest["status"])
        assert found.stored == {(0, "loss", step): 1 for step in range(2000)}
    assert sorted(statuses) == ["failed", "finished"]
    assert spool_files() == []
    before = [evidence(run).bytes() for run in runs]
    isolated.prov4ml("collect", *map(str, runs), **environment)
    isolated.prov4ml("recover", **environment)
    assert [evidence(run).bytes() for run in runs] == before


# word k: calls of run k that returned, 8: us that the end of the process took
SEVERAL = """
import atexit
from prov4ml import current
words = shared("words")
atexit.register(lambda: words.__setitem__(8, round((time.monotonic() - begin) * 1e6) + 1))
runs = [current._open(f"run{k}", {}, None, None) for k in range(4)]
for i in range(1000):
    for k, run in enumerate(runs):
        run.log_metric("loss", i / 7, "training", i)
        words[k] = i + 1
print("trained")
begin = time.monotonic()
"""


def test_several_runs_at_exit(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    figures: Callable[..., None],
) -> None:
    """Four open runs end together with the interpreter, within the bound of one."""
    count = words("words")
    done = isolated.script(
        prelude + SEVERAL, PROV4ML_COLLECTOR="tcp://127.0.0.1:9", PROV4ML_EXIT_TIMEOUT="2"
    )
    assert done.stdout == "trained\n"
    figures(runs=4, exit_timeout=2.0, longest_end=count[8] / 1e6)
    assert 0 < count[8] / 1e6 <= SLACK * 2.0
    runs = isolated.runs()
    assert [run.name for run in runs] == [f"run{k}_0" for k in range(4)]
    for run in runs:
        assert f"prov4ml collect {run}" in done.stderr
    isolated.prov4ml("collect", *map(str, runs))
    for k, run in enumerate(runs):
        found = evidence(run)
        found.complete()
        assert found.manifest["status"] == "finished"
        assert len(found.stored) == count[k] == 1000


# word k: calls of thread k that returned, 8: us that the end of the process took
THREADS = """
import atexit
words = shared("words")
atexit.register(lambda: words.__setitem__(8, round((time.monotonic() - begin) * 1e6) + 1))
prov4ml.start_run("threads")

def work(k):
    i = 0
    while k % 2 or threading.main_thread().is_alive():  # odd ones go on for ever
        prov4ml.log_metric("loss", i / 7, source=str(k), step=i)
        i += 1
        words[k] = i

threads = [threading.Thread(target=work, args=(k,), daemon=k % 2 == 1) for k in range(4)]
for thread in threads:
    thread.start()
while not all(words[:4]):
    time.sleep(0.01)
print("trained")
begin = time.monotonic()
"""


@pytest.mark.parametrize("address", ["auto", "tcp://127.0.0.1:9"], ids=["living", "nobody"])
def test_threads_at_exit(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    figures: Callable[..., None],
    address: str,
) -> None:
    """Threads that log until the interpreter is gone delay nothing, say nothing, lose no call."""
    within = 20.0 if address == "auto" else 2.0
    count = words("words")
    done = isolated.script(
        prelude + THREADS, PROV4ML_COLLECTOR=address, PROV4ML_EXIT_TIMEOUT=str(within)
    )
    run = isolated.only_run()
    assert done.stdout == "trained\n"
    assert all(line.startswith(f"prov4ml: {run.name}: ") for line in done.stderr.splitlines())
    figures(exit_timeout=within, longest_end=count[8] / 1e6, calls_returned=sum(count[:4]))
    assert 0 < count[8] / 1e6 <= SLACK * within
    if address == "auto":
        isolated.wait(lambda: _closed(run), "the run is closed")
    else:
        isolated.prov4ml("collect", str(run))
    found = evidence(run)
    found.complete()
    assert found.manifest["status"] == "finished"
    table = parquet_files.read(run).select(["source", "step"]).to_pydict()
    for k in range(4):
        steps = sorted(
            step
            for source, step in zip(table["source"], table["step"], strict=True)
            if source == str(k)
        )
        assert steps == list(range(len(steps)))
        assert count[k] <= len(steps) <= count[k] + 1


# word 0: us that end_run took, 1: the run is open
HANG = """
words = shared("words")
run = prov4ml.start_run("hang")
prov4ml.log_metric("loss", 0.5)
words[1] = 1
while not words[3]:
    time.sleep(0.01)
begin = time.monotonic()
prov4ml.end_run()
words[0] = round((time.monotonic() - begin) * 1e6) + 1
"""


def test_a_run_directory_that_hangs(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
) -> None:
    """A file system that takes nothing and never says so delays no end; the journal waits."""
    count = words("words")
    script = isolated.start(
        prelude + HANG, PROV4ML_COLLECTOR="tcp://127.0.0.1:9", PROV4ML_EXIT_TIMEOUT="2"
    )
    isolated.wait(lambda: count[1], "the run is open")
    run = isolated.only_run()
    (first,) = (path for path in spool_files() if path.endswith("000000.seg"))
    producer = Path(first).parent.name
    start = process.pid_start(script.pid)
    folder = run / "undelivered" / f"{producer}.{script.pid}.{start}.new"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "000000.seg")  # who opens it for writing waits for a reader
    count[3] = 1
    out, errors = script.communicate(timeout=60)
    assert (script.returncode, out) == (0, "")
    figures(exit_timeout=2.0, longest_end=count[0] / 1e6)
    assert 0 < count[0] / 1e6 <= SLACK * 2.0
    assert str(isolated.spool) in errors
    assert "prov4ml recover" in errors
    isolated.prov4ml("recover")
    found = evidence(run)
    found.complete()
    assert found.manifest["status"] == "finished"
    assert spool_files() == []


MUCH = """
words = shared("words")
prov4ml.start_run("much")
log = prov4ml.log_metric
for i in range(int(sys.argv[1])):
    log("loss", i / 7, "training", i)
begin = time.monotonic()
prov4ml.end_run()
words[0] = round((time.monotonic() - begin) * 1e6) + 1
"""


@pytest.mark.parametrize("points", [300_000, pytest.param(5_000_000, marks=pytest.mark.soak)])
def test_much_is_left(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    figures: Callable[..., None],
    points: int,
) -> None:
    """A journal of many segments is copied within the bound, or waits where it is; it completes."""
    within = 4.0 if points < 1_000_000 else 10.0
    count = words("words")
    isolated.write(prelude + MUCH)
    done = isolated.run(
        *(sys.executable, "train.py", str(points)),
        PROV4ML_COLLECTOR="tcp://127.0.0.1:9",
        PROV4ML_EXIT_TIMEOUT=str(within),
    )
    run = isolated.only_run()
    size = sum(path.stat().st_size for path in (run / "undelivered").glob("*/*.seg"))
    figures(exit_timeout=within, longest_end=count[0] / 1e6, copied_MB=size / 1e6)
    assert 0 < count[0] / 1e6 <= SLACK * within
    assert (str(run / "undelivered") if size else str(isolated.spool)) in done.stderr
    isolated.prov4ml("collect", str(run))
    found = evidence(run)
    found.complete()
    assert len(found.stored) == points
