"""How a run ended and how that is known: each end with each kind of witness, and without any.

``waited``: ``prov4ml run`` is the parent.  ``pidfd``: the kernel tells the collector.  ``neither``:
an old kernel, by ``PROV4ML_NO_PIDFD``; then nothing is claimed.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from prov4ml.witness import pidfd_tells

if TYPE_CHECKING:
    from tests.conftest import Isolated, Read

Figures = Callable[..., None]
Places = Callable[[], Any]


class End(NamedTuple):
    """What is known of an end: status, how it is known, exit code, signal."""

    status: str
    known: str
    code: int | None = None
    signal: int | None = None


# A collector looks on when the end comes.
READY = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
prov4ml.start_run("ends")
for step in range(1000):
    prov4ml.log_metric("loss", 0.5, "training", step)
deadline = time.monotonic() + 60
while not os.path.exists(prov4ml.get_run_dir() / "run.json"):
    assert time.monotonic() < deadline
    time.sleep(0.01)
"""
HOARD = """
hoard = []
for _ in range(2000):  # a mistake in the limit must not cost more
    hoard.append(bytearray(b"x") * (1 << 20))
"""

# what happens: script, exit code (as subprocess has it), and what is known when it tells itself
ENDS: dict[str, tuple[str, int, End | None]] = {
    "return": ("", 0, End("finished", "self")),
    "exception": ("raise RuntimeError('bad')", 1, End("failed", "self")),
    "sys.exit(3)": ("sys.exit(3)", 3, End("failed", "self", 3)),
    "SIGINT": ("signal.raise_signal(signal.SIGINT)", -2, End("failed", "self")),
    "SIGTERM": ("signal.raise_signal(signal.SIGTERM)", -15, None),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -9, None),
    "os._exit(4)": ("os._exit(4)", 4, None),
    "abort": ("os.abort()", -6, None),
    "OOM": (HOARD, -9, None),
}
COLUMNS = ("waited", "pidfd", "neither")


def expected(end: str, column: str) -> End:
    """A row's cell: what its process says itself, else what somebody saw, else nothing."""
    _, code, told = ENDS[end]
    if told is not None:
        return told
    if column == "neither":
        return End("killed", "inferred", None, 9) if end == "OOM" else End("died", "none")
    return End("failed", column, code) if code > 0 else End("killed", column, None, -code)


@pytest.fixture
def limited() -> Iterator[Callable[[int], Path]]:
    """``limited(size)`` makes a cgroup of ``size`` bytes of memory; its file to join it by."""
    made: list[Path] = []

    def group(size: int) -> Path:
        why = "no memory controller is there"
        for root, limit, swap in (
            ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ):
            folder = Path(root) / f"prov4ml-{secrets.token_hex(4)}"
            try:
                folder.mkdir()
                made.append(folder)
                if not (folder / limit).exists():
                    continue  # no controller is mounted here
                (folder / limit).write_text(str(size))
                if (folder / swap).exists():
                    (folder / swap).write_text("0" if swap.endswith("max") else str(size))
            except OSError as error:
                why = str(error)
            else:
                return folder / "cgroup.procs"
        pytest.skip(f"a real OOM needs a cgroup with a memory limit: {why}")

    yield group
    for folder in made:
        deadline = time.monotonic() + 60.0
        while folder.is_dir():
            try:
                folder.rmdir()
            except OSError:  # its last processes are about to end
                assert time.monotonic() < deadline, (folder / "cgroup.procs").read_text()
                time.sleep(0.05)


def shown(left: Read) -> End:
    """What ``run.json`` and the documents say, which must be the same."""
    (rank,) = left.manifest["ranks"]
    (process,) = left.records("p4:RankProcess")
    found = {str(k): v for k, v in process.attributes}
    signal_ = found.get("p4:signal")
    end = End(
        rank["status"],
        rank["status_known_by"],
        rank["exit_code"],
        None if signal_ is None else int(signal_),
    )
    assert (found["p4:status"], found["p4:statusKnownBy"]) == (end.status, end.known)
    assert (left.manifest["status"], left.manifest["status_known_by"]) == (end.status, end.known)
    return end


def over(place: Isolated) -> bool:
    """Whether the run is closed."""
    return (place.only_run() / "run.json").is_file() and bool(place.manifest()["closed"])


def start(place: Isolated, column: str, script: str, **more: str) -> subprocess.Popen[str]:
    """Start a script as the column has it."""
    if column == "neither":
        more["PROV4ML_NO_PIDFD"] = "1"
    command = [sys.executable, "-W", "error", place.write(script).name]
    if column == "waited":
        command = [sys.executable, "-m", "prov4ml", "run", "--", *command]
    return place.spawn(*command, **more)


def code_of(process: subprocess.Popen[str], column: str) -> int:
    """How a process ended, as subprocess has it; ``prov4ml run`` ends as a shell does."""
    _, errors = process.communicate(timeout=120)
    if column == "waited" and process.returncode > 128:
        return 128 - process.returncode
    assert process.returncode is not None, errors
    return process.returncode


@pytest.mark.parametrize("end", ENDS)
def test_table_of_ends(
    places: Places,
    prelude: str,
    read: type[Read],
    figures: Figures,
    limited: Callable[[int], Path],
    end: str,
) -> None:
    """Status and how it is known, by the parent, by the kernel, by nobody; the exit code stays."""
    script, code, _ = ENDS[end]
    cells = {}
    with ExitStack() as stack:
        started = []
        for column in COLUMNS:
            if column == "pidfd" and not pidfd_tells():
                cells[column] = "this kernel tells nothing"
                continue
            place = stack.enter_context(places())
            join = ""
            if end == "OOM":
                join = f"with open({str(limited(400 << 20))!r}, 'w') as group:\n"
                join += "    group.write(str(os.getpid()))\n"
            process = start(place, column, prelude + join + READY + script)
            started.append((column, place, stack.enter_context(process)))
        for column, place, process in started:
            assert code_of(process, column) == code, column
            place.wait(lambda place=place: over(place), "the run is closed")
            left = read(place.only_run())
            left.check()
            assert shown(left) == expected(end, column), column
            assert len(left.points) == 1000
            assert left.manifest["accounting"]["lost"] == 0
            cells[column] = "{} ({})".format(*shown(left))
            if end == "OOM":
                place.close()
    figures(exit_code=code, **cells)


# -------------------------------------------------------------------------- under a scheduler


@pytest.mark.parametrize("by", ["SIGTERM", "SIGUSR1"])
def test_preempted(
    places: Places, prelude: str, read: type[Read], figures: Figures, by: str
) -> None:
    """Inside a Slurm job the signal that killed is a preemption; unseen, or outside, it is none."""
    number = int(signal.Signals[by])
    script = prelude + READY + f"signal.raise_signal(signal.{by})"
    slurm = {"SLURM_JOB_ID": "17"}
    cells = {}
    with ExitStack() as stack:
        started = []
        for column in COLUMNS:
            for job in (slurm, {}):
                place = stack.enter_context(places())
                process = stack.enter_context(start(place, column, script, **job))
                started.append((column, job, place, process))
        for column, job, place, process in started:
            assert code_of(process, column) == -number
            place.wait(lambda place=place: over(place), "the run is closed")
            left = read(place.only_run())
            left.check()
            seen = column == "waited" or (column == "pidfd" and pidfd_tells())
            status = ("preempted" if job else "killed") if seen else "died"
            known = column if seen else "none"
            assert shown(left) == End(status, known, None, number if seen else None), (column, job)
            cells[f"{column}{' in Slurm' if job else ''}"] = f"{status} ({known})"
    figures(**cells)


# Two ranks, both known to a collector; what each does then comes as an argument.
RANKS = """
run = prov4ml.start_run("ranks")
rank = int(os.environ["RANK"])
prov4ml.log_metric("loss", 0.5, "training", rank)

def wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

wait(lambda: run._sender.acked)
open(f"ready {rank}", "w").close()
wait(lambda: os.path.exists("ready 0") and os.path.exists("ready 1"))
exec(sys.argv[1 + rank])
"""


@pytest.mark.parametrize(
    ("first", "statuses", "of_the_run"),
    [
        ("raise RuntimeError", ("failed", "stopped"), "failed"),
        ("os._exit(4)", ("failed", "stopped"), "failed"),
        ("os.kill(os.getpid(), 9)", ("killed", "stopped"), "killed"),
        ("os.kill(os.getpid(), 15)", ("killed", "killed"), "killed"),
        ("prov4ml.end_run()", ("finished", "killed"), "killed"),
    ],
)
@pytest.mark.parametrize("job", [{}, {"SLURM_JOB_ID": "17"}], ids=["no scheduler", "in Slurm"])
def test_stopped(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    first: str,
    statuses: tuple[str, str],
    of_the_run: str,
    job: dict[str, str],
) -> None:
    """SIGTERM after another rank's bad end is `stopped`; the attempt takes its earliest bad end."""
    if not pidfd_tells():
        pytest.skip("this kernel does not tell which signal it was")
    if job:  # a scheduler that takes the machine away, unless a rank had gone wrong before
        statuses = tuple("preempted" if s == "killed" else s for s in statuses)
        statuses = ("killed", "stopped") if first.endswith(" 9)") else statuses
        of_the_run = next(s for s in statuses if s != "finished")
    isolated.write(prelude + RANKS)
    command = [sys.executable, "train.py", first, "time.sleep(600)"]
    ranks = [
        isolated.spawn(*command, RANK=str(n), WORLD_SIZE="2", PROV4ML_JOB="ends", **job)
        for n in range(2)
    ]
    with ranks[0], ranks[1]:
        ranks[0].wait(60)
        ranks[1].terminate()  # as a launcher does that has lost a rank
        assert ranks[1].wait(60) == -signal.SIGTERM
    isolated.wait(lambda: over(isolated), "the run is closed")
    left = read(isolated.only_run())
    left.check()
    assert tuple(rank["status"] for rank in left.manifest["ranks"]) == statuses
    assert left.manifest["status"] == of_the_run
    assert len(left.points) == 2


@pytest.mark.parametrize("job", [{}, {"SLURM_JOB_ID": "17"}], ids=["no scheduler", "in Slurm"])
def test_when_all_are_terminated(
    isolated: Isolated, prelude: str, read: type[Read], job: dict[str, str]
) -> None:
    """SIGTERM to a whole job, the collector with it: it closes the run, and infers the signal."""
    script = prelude + READY + "time.sleep(600)"
    with start(isolated, "neither", script, **job) as rank:
        isolated.wait(
            lambda: isolated.runs() and (isolated.only_run() / "run.json").is_file(), "a run"
        )
        isolated.wait(lambda: len(isolated.collectors()) == 1, "a collector")
        for process in isolated.processes():
            process.terminate()
        assert rank.wait(60) == -signal.SIGTERM
    isolated.wait(lambda: not isolated.processes(), "every process has ended")
    left = read(isolated.only_run())
    left.check()
    status = "preempted" if job else "killed"
    assert shown(left) == End(status, "inferred", None, signal.SIGTERM)


def test_ranks_that_die_while_there_is_no_collector(
    isolated: Isolated, prelude: str, read: type[Read], launch: Callable[..., Any]
) -> None:
    """The next collector finds in the log whom nobody watched: dead, of a cause that nobody saw."""
    first = launch()
    isolated.write(prelude + RANKS)
    command = [sys.executable, "train.py", "time.sleep(600)"]
    command.append("wait(lambda: os.path.exists('go')); prov4ml.end_run()")
    ranks = [
        isolated.spawn(
            *command,
            RANK=str(n),
            WORLD_SIZE="2",
            PROV4ML_JOB="ends",
            PROV4ML_COLLECTOR=first.address,
            PROV4ML_EXIT_TIMEOUT="60",
        )
        for n in range(2)
    ]
    with ranks[0], ranks[1]:

        def met() -> bool:
            run = isolated.runs()
            return bool(run) and (run[0] / "run.json").is_file()

        isolated.wait(met, "a run")
        isolated.wait((isolated.folder / "ready 1").exists, "two ranks")
        isolated.wait(lambda: not list(isolated.spool.glob("*/*/*/*.new")), "journals")
        first.close()
        ranks[0].kill()
        ranks[0].wait(60)
        launch()
        (isolated.folder / "go").touch()
        assert ranks[1].wait(60) == 0
    left = read(isolated.only_run())
    left.check()
    ends = [(rank["status"], rank["status_known_by"]) for rank in left.manifest["ranks"]]
    assert ends == [("died", "none"), ("finished", "self")]
    assert left.manifest["status"] == "died"
    assert len(left.points) == 2
