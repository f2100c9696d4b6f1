"""Forks, workers and interruptions: a child's calls are kept under its rank, and nobody hangs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pytest

from prov4ml_sinks import parquet_files

if TYPE_CHECKING:
    from tests.conftest import Isolated, Read

Figures = Callable[..., None]

# Python 3.12 warns of any fork beside a thread, and warnings are errors in these scripts.
TOOLS = """
import json, warnings
warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)

def ended(pid, seconds=30):
    "How a child ended; one that hangs fails the script."
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < deadline, "a child hangs"
        time.sleep(0.001)
"""


def steps_of(run: Path) -> dict[str, range | list[int]]:
    """The steps of each series in ``metrics/``: a range where each stands once, else a list."""
    table = parquet_files.read(run).select(["name", "step"])
    found: dict[str, range | list[int]] = {}
    for name in pc.unique(table.column("name")).to_pylist():
        steps = table.filter(pc.equal(table.column("name"), name)).column("step")
        ends = pc.min_max(steps).as_py()
        whole = range(ends["min"], ends["max"] + 1)
        once = len(whole) == len(steps) == pc.count_distinct(steps).as_py()
        found[name] = whole if once else sorted(steps.to_pylist())
    return found


@pytest.fixture
def clean(isolated: Isolated) -> Callable[[], None]:
    """Wait until all runs are closed and the spool is empty: no file is left, and no folder."""

    def over() -> bool:
        runs = [run / "run.json" for run in isolated.runs()]
        written = all(run.is_file() and json.loads(run.read_text())["closed"] for run in runs)
        return written and not list(isolated.spool.glob("*/*"))

    return lambda: isolated.wait(over, "runs are closed, and nothing is left in the spool")


# --------------------------------------------------------------------------------- os.fork

FORKS = """
rounds, pause = int(sys.argv[1]), float(sys.argv[2])
calls, stop, counts = 100, False, [0, 0, 0]

def work(n):
    while not stop:
        for _ in range(1000):
            prov4ml.log_metric(f"thread{n}", 0.5, "training", counts[n])
            counts[n] += 1
        if pause:
            time.sleep(pause)

def logs(name, n):
    for i in range(calls):
        prov4ml.log_metric(name, 0.5, "worker", n * calls + i)
    prov4ml.log_param(f"{name} {n}", n)

def again(name, n):
    pid = os.fork()
    if pid == 0:
        logs(name, n)
        os._exit(0)
    os._exit(ended(pid))

def left(n):
    logs("os._exit", n)
    os._exit(0)

def exited(n):
    logs("sys.exit", n)
    sys.exit(5)

def failed(n):
    logs("exception", n)
    sys.excepthook = lambda *_: None
    raise RuntimeError

def forked(n):
    logs("child", n)
    again("grandchild", n)

def silent(n):
    again("child of a silent one", n)

prov4ml.start_run("forks")
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
for thread in threads:
    thread.start()
longest = 0.0
for n in range(rounds):
    began = time.monotonic()
    for kind, code in (left, 0), (exited, 5), (failed, 1), (forked, 0), (silent, 0):
        pid = os.fork()
        if pid == 0:
            kind(n)
        assert ended(pid) == code, kind
    longest = max(longest, time.monotonic() - began)
stop = True
for thread in threads:
    thread.join()
prov4ml.end_run()
print(json.dumps([counts, longest]))
"""


# All the time at full rate, and a hundred rounds in bursts: what comes in must also be read again.
@pytest.mark.parametrize(
    ("rounds", "pause"), [(4, 0.0), pytest.param(100, 0.01, marks=pytest.mark.soak)]
)
def test_forked_children(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    clean: Callable[[], None],
    figures: Figures,
    rounds: int,
    pause: float,
) -> None:
    """While threads log, children log and end by os._exit, sys.exit, exceptions, and fork again."""
    script = prelude + TOOLS + FORKS
    done = isolated.script(script, str(rounds), str(pause), PROV4ML_EXIT_TIMEOUT="60")
    counts, longest = json.loads(done.stdout)
    clean()
    left = read(isolated.only_run())
    left.check()
    names = ["os._exit", "sys.exit", "exception", "child", "grandchild", "child of a silent one"]
    expected = dict.fromkeys(names, rounds * 100)
    expected |= {f"thread{n}": count for n, count in enumerate(counts)}
    assert steps_of(left.directory) == {name: range(n) for name, n in expected.items()}
    assert left.labels("mls:HyperParameterSetting") == {
        f"{name} {n}": 1 for name in names for n in range(rounds)
    }
    (rank,) = left.manifest["ranks"]
    assert left.manifest["status"] == "finished"
    assert left.manifest["accounting"]["lost"] == 0
    children = rounds * len(names)
    assert len(set(rank["producers"])) == 1 + children == 1 + len(left.records("p4:ChildProcess"))
    figures(
        rounds=rounds,
        children=children,
        points=sum(expected.values()),
        lost=0,
        longest_round_s=longest,
    )


# What a child could not live with would be half done right after the start: the sender imports
# zmq and starts a collector.  Children of these very moments live until the run has ended.
STARTS = """
out, gate = os.pipe()
prov4ml.start_run("starts")
children = []
for n in range(40):
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        prov4ml.log_metric("child", 0.5, "worker", n)
        import zmq
        prov4ml.log_metric("imported", 0.5, "worker", n)
        os.read(out, 1)
        os._exit(0)
    children.append(pid)
began = time.monotonic()
prov4ml.end_run()
took = time.monotonic() - began
os.close(gate)
assert [ended(pid) for pid in children] == [0] * len(children)
print(took)
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_children_of_the_first_moments(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    clean: Callable[[], None],
    figures: Figures,
    rounds: int,
) -> None:
    """Forks while the sender imports and starts a collector leave neither side waiting."""
    longest = 0.0
    for _ in range(rounds):
        done = isolated.script(prelude + TOOLS + STARTS, PROV4ML_EXIT_TIMEOUT="20")
        longest = max(longest, float(done.stdout))
        assert "prov4ml collect" not in done.stderr
        clean()
    for run in isolated.runs():
        read(run).check()
        assert steps_of(run) == {name: range(40) for name in ("child", "imported")}
    assert len(isolated.runs()) == rounds
    assert longest < 10.0  # far from what it may take: nobody waited for a child
    figures(rounds=rounds, children=40 * rounds, lost=0, longest_end_s=longest)


NOTHING_ELSE = """
def mine():
    folder = "/proc/self/fd"
    names = os.listdir(folder)
    return {n: os.readlink(f"{folder}/{n}") for n in names if os.path.exists(f"{folder}/{n}")}

prov4ml.start_run("nothing")
prov4ml.log_metric("loss", 0.5, "training", 0)
while not os.path.exists(prov4ml.get_run_dir() / "run.json"):
    time.sleep(0.01)  # the sender has a socket by now
pid = os.fork()
if pid == 0:
    modules, before = set(sys.modules), mine()
    assert any("socket:" in target for target in before.values())
    for step in range(200_000):
        prov4ml.log_metric("loss", 0.5, "worker", step)
    prov4ml.log_param("lr", 0.5)
    prov4ml.set_tag("a", "b")
    with prov4ml.context("c"):
        prov4ml.log_metric("loss", 0.5)
    new = {target for n, target in mine().items() if before.get(n) != target}
    assert new, "its journal"
    assert all(target.startswith(os.environ["PROV4ML_SPOOL"]) for target in new), new
    assert os.listdir("/proc/self/task") == [str(os.getpid())]
    assert threading.active_count() == 1
    assert set(sys.modules) == modules, set(sys.modules) - modules
    os._exit(0)
assert ended(pid) == 0
prov4ml.end_run()
"""


def test_a_child_writes_a_journal_and_nothing_else(
    isolated: Isolated, prelude: str, read: type[Read], clean: Callable[[], None]
) -> None:
    """A child that logs opens its journal and no other file, no thread, and imports nothing."""
    isolated.script(prelude + TOOLS + NOTHING_ELSE)
    clean()
    left = read(isolated.only_run())
    left.check()
    assert len(left.points) == 200_002


OWN_RUN = """
prov4ml.start_run("parent")
prov4ml.log_metric("loss", 0.5, "training", 0)
pid = os.fork()
if pid == 0:
    prov4ml.log_metric("loss", 0.5, "worker", 0)
    prov4ml.end_run()
    try:
        prov4ml.log_metric("loss", 0.5, "worker", 1)
    except ValueError as error:
        assert "start_run" in str(error)
    with prov4ml.start_run("child"):
        prov4ml.log_metric("loss", 0.5, "training", 0)
        prov4ml.log_metric("loss", 0.5, "training", 1)
    os._exit(0)
assert ended(pid) == 0
prov4ml.log_metric("loss", 0.5, "training", 1)
prov4ml.end_run()
"""


@pytest.mark.parametrize("job", ["", "a job"])
def test_a_child_that_starts_a_run_has_its_own(
    isolated: Isolated, prelude: str, read: type[Read], clean: Callable[[], None], job: str
) -> None:
    """Its end_run ends nothing of the parent's, and its start_run opens another run."""
    isolated.script(prelude + TOOLS + OWN_RUN, PROV4ML_JOB=job)
    clean()
    child, parent = map(read, isolated.runs())
    for left, points in (child, 2), (parent, 3):
        left.check()
        assert left.manifest["status"] == "finished"
        assert len(left.points) == points


# ------------------------------------------------------------------ parents that go first

# The child logs its last 1,000 points only when the run has been closed for a while.
OUTLIVES = """
how, known = sys.argv[1:]
prov4ml.start_run("outlived")
prov4ml.log_metric("parent", 0.5, "training", 0)
run = prov4ml.get_run_dir()

def closed():
    try:
        return bool(json.loads((run / "run.json").read_text())["closed"])
    except OSError:
        return False

pid = os.fork()
if pid == 0:
    if known == "known":
        prov4ml.log_metric("child", 0.5, "worker", 0)
    deadline = time.monotonic() + 60
    while not closed():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    prov4ml.log_metric("child", 0.5, "worker", int(known == "known"))
    time.sleep(6.0)  # an automatic collector would end after 2 s without work
    for step in range(int(known == "known") + 1, 1000):
        prov4ml.log_metric("child", 0.5, "worker", step)
    os._exit(0)
while not os.path.exists(run / "run.json"):
    time.sleep(0.01)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "ended":
    prov4ml.end_run()
if how == "launched":
    prov4ml.end_run()
os._exit(0)
"""


def test_children_outlive_their_parent(
    places: Callable[[], Any],
    prelude: str,
    read: type[Read],
    figures: Figures,
) -> None:
    """What a child logs after its parent was killed, left or ended the run comes into the run."""
    script = prelude + TOOLS + OUTLIVES
    cases = [(how, known) for how in ("killed", "left", "ended") for known in ("known", "new")]
    with ExitStack() as stack:
        started = []
        for case in cases:
            place = stack.enter_context(places())
            place.write(prelude + TOOLS + OUTLIVES)
            started.append((case, place, place.start(script, *case)))
        for (how, known), place, process in started:
            with process:
                process.wait(60)
            place.wait(lambda place=place: not place.processes(), "every process has ended")
            left = read(place.only_run())
            left.check()
            expected = {"killed": ("killed", "died"), "left": ("finished", "died")}
            assert left.manifest["status"] in expected.get(how, ("finished",)), (how, known)
            steps = steps_of(left.directory)
            assert steps == {"parent": range(1), "child": range(1000)}, (how, known)
            assert left.manifest["accounting"]["lost"] == 0
            assert len(left.records("p4:ChildProcess")) == 1
            assert [p for p in place.spool.rglob("*") if p.is_file()] == []
    figures(cases=len(cases), points=1001 * len(cases), lost=0)


# -------------------------------------------------------------------------------- workers

# Each kind of worker logs "calls" points with steps of its own; the parent's threads log beside.
WORKERS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

calls = 200

def logs(name, n):
    for i in range(calls):
        prov4ml.log_metric(name, 0.5, "worker", n * calls + i)
    return n

def main(rounds):
    stop, counts = threading.Event(), [0, 0]

    def work(n):
        while not stop.is_set():
            for _ in range(1000):
                prov4ml.log_metric(f"thread{n}", 0.5, "training", counts[n])
                counts[n] += 1
            time.sleep(0.002)

    forks = multiprocessing.get_context("fork")
    prov4ml.start_run("workers")
    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for n in range(rounds):
        process = forks.Process(target=logs, args=("Process", n))
        process.start()
        process.join(30)
        assert process.exitcode == 0
        with forks.Pool(2) as pool:
            assert pool.starmap_async(logs, [("Pool", 4 * n + i) for i in range(4)]).get(30)
            pool.close()
            pool.join()
        with ProcessPoolExecutor(2, forks) as pool:
            jobs = [pool.submit(logs, "ProcessPoolExecutor", 4 * n + i) for i in range(4)]
            assert [job.result(30) for job in jobs] == [4 * n + i for i in range(4)]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(logs, "ThreadPoolExecutor", 8 * n + i) for i in range(8)]
            assert [job.result(30) for job in jobs] == [8 * n + i for i in range(8)]
    stop.set()
    for thread in threads:
        thread.join()
    prov4ml.end_run()
    print(json.dumps(counts))

if __name__ == "__main__":
    main(int(sys.argv[1]))
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_worker_processes(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    clean: Callable[[], None],
    figures: Figures,
    rounds: int,
) -> None:
    """Processes, pools and executors that fork, and thread pools, log while threads do."""
    done = isolated.script(prelude + TOOLS + WORKERS, str(rounds))
    clean()
    left = read(isolated.only_run())
    left.check()
    each = {"Process": 1, "Pool": 4, "ProcessPoolExecutor": 4, "ThreadPoolExecutor": 8}
    expected = {name: rounds * jobs * 200 for name, jobs in each.items()}
    expected |= {f"thread{n}": count for n, count in enumerate(json.loads(done.stdout))}
    assert steps_of(left.directory) == {name: range(n) for name, n in expected.items()}
    assert left.manifest["accounting"]["lost"] == 0
    (rank,) = left.manifest["ranks"]
    assert len(rank["producers"]) > 3 * rounds
    figures(
        rounds=rounds, processes=len(rank["producers"]) - 1, points=sum(expected.values()), lost=0
    )


LOADER = """
import torch
from torch.utils.data import DataLoader, Dataset

class Logged(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        prov4ml.log_metric("item", float(index), "loading", index)
        return torch.tensor([index])

rounds, epochs, steps = int(sys.argv[1]), 2, 0
prov4ml.start_run("loader")
for _ in range(rounds):
    loader = DataLoader(
        Logged(), batch_size=8, num_workers=2, persistent_workers=True, timeout=30,
        multiprocessing_context="fork",
    )
    for epoch in range(epochs):
        for batch in loader:
            prov4ml.log_metric("batch", float(batch.sum()), "training", steps)
            steps += 1
prov4ml.end_run()
"""


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.soak)])
def test_data_loaders(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    clean: Callable[[], None],
    figures: Figures,
    rounds: int,
) -> None:
    """A dataset that logs in two persistent workers of a DataLoader loses no item of any epoch."""
    isolated.script(prelude + TOOLS + LOADER, str(rounds))
    clean()
    left = read(isolated.only_run())
    left.check()
    items = sorted([*range(64)] * 2 * rounds)
    assert steps_of(left.directory) == {"item": items, "batch": range(16 * rounds)}
    (rank,) = left.manifest["ranks"]
    assert len(rank["producers"]) == 1 + 2 * rounds
    assert left.manifest["accounting"]["lost"] == 0
    figures(rounds=rounds, workers=2 * rounds, points=len(left.points), lost=0)


SPAWNED = """
import multiprocessing

def inherits_nothing():
    for call in (lambda: prov4ml.log_metric("loss", 0.5), lambda: prov4ml.log_param("a", 1),
                 prov4ml.get_run_dir, prov4ml.end_run):
        try:
            call()
        except prov4ml.UsageError as error:
            assert "no run is open: call start_run first" in str(error), error
            assert "spawned" in str(error), error
        else:
            raise AssertionError("a call without a run")

def starts():
    with prov4ml.start_run("own"):
        prov4ml.log_metric("loss", 0.5, "training", 0)

def joins(rank):
    with prov4ml.start_run("joint", rank=rank):
        prov4ml.log_metric("loss", 0.5, "training", rank)
        open(f"joined {rank}", "w").close()
        deadline = time.monotonic() + 60
        while not os.path.exists(f"joined {1 - rank}"):  # how many there are nobody else knows
            assert time.monotonic() < deadline
            time.sleep(0.01)

def main(kind):
    context = multiprocessing.get_context(kind)
    prov4ml.start_run("parent")
    prov4ml.log_metric("loss", 0.5, "training", 0)
    for works in [(inherits_nothing,)], [(starts,)], [(joins, 0), (joins, 1)]:
        processes = [context.Process(target=work, args=args) for work, *args in works]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0, (works, process.exitcode)
    prov4ml.end_run()

if __name__ == "__main__":
    main(sys.argv[1])
"""


# Soak only: on a machine at its limit a point was seen to come late into metrics/.
@pytest.mark.soak
@pytest.mark.parametrize("job", ["", "a job"])
@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
def test_processes_that_inherit_nothing(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    clean: Callable[[], None],
    kind: str,
    job: str,
) -> None:
    """A spawned process is told that it has no run; it may start one, or join one by rank."""
    isolated.script(prelude + TOOLS + SPAWNED, kind, PROV4ML_JOB=job, PROV4ML_EXIT_TIMEOUT="30")
    clean()
    joint, own, parent = map(read, isolated.runs())
    for left, ranks in (joint, [0, 1]), (own, [0]), (parent, [0]):
        left.check()
        assert left.manifest["status"] == "finished"
        assert [rank["rank"] for rank in left.manifest["ranks"]] == ranks
        assert sorted(p["step"] for p in left.points) == ranks
        assert left.records("p4:ChildProcess") == []


# ---------------------------------------------------------------------------- interruptions

# word n of "counts": calls of series n that returned before the run had ended
INTERRUPTS = """
import atexit, gc, itertools, weakref

counts = shared("counts")
names = ["main", "thread", "handler", "finalizer", "weakref", "atexit"]
begun, done = [[itertools.count() for _ in names] for _ in range(2)]

def log(n):
    step = next(begun[n])
    prov4ml.log_metric(names[n], step / 7, "training", step)
    next(done[n])
    return step

def tell():  # registered before the run: called when it has ended
    for n, count in enumerate(done):
        counts[n] = next(count)

class Cycle:
    def __init__(self):
        self.me = self

    def __del__(self):
        log(3)

def handler(*_):
    step = log(2)
    if not step % 500:
        prov4ml.log_param(f"p{step}", step)

def work():
    while not stop.is_set():
        for _ in range(100):
            log(1)
        time.sleep(0.001)

seconds = float(sys.argv[1])
atexit.register(tell)
prov4ml.start_run("interrupts")
last = Cycle()  # of a module: finalized when the interpreter ends, and too late
weakref.finalize(last, log, 4)
atexit.register(log, 5)
stop = threading.Event()
thread = threading.Thread(target=work)
thread.start()
gc.set_threshold(50)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
until = time.monotonic() + seconds
while time.monotonic() < until:
    for _ in range(100):
        log(0)
    time.sleep(0.001)
    Cycle()
    weakref.finalize(Cycle(), log, 4)
signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
thread.join()
gc.collect()
"""


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_calls_that_interrupt_calls(
    isolated: Isolated,
    prelude: str,
    words: Callable[[str], memoryview],
    read: type[Read],
    clean: Callable[[], None],
    figures: Figures,
    seconds: int,
) -> None:
    """Handlers at 2 kHz, finalizers, weakref.finalize, atexit, a thread: nothing lost or torn."""
    isolated.script(prelude + INTERRUPTS, str(seconds))
    clean()
    left = read(isolated.only_run())
    left.check()
    names = ("main", "thread", "handler", "finalizer", "weakref", "atexit")
    counts = dict(zip(names, words("counts"), strict=False))
    assert min(counts.values()) > 0
    assert steps_of(left.directory) == {name: range(n) for name, n in counts.items()}
    assert sum(left.labels("mls:HyperParameterSetting").values()) == -(-counts["handler"] // 500)
    assert left.manifest["status"] == "finished"
    assert left.manifest["accounting"]["lost"] == 0
    figures(seconds=seconds, lost=0, **counts)
