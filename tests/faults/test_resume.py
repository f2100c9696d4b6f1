"""A run that was cut off and goes on: the same run, a new attempt, no point counted twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pytest

from prov4ml_sinks import parquet_files

if TYPE_CHECKING:
    from tests.conftest import Isolated, Read

Figures = Callable[..., None]

# A loss at each step, a checkpoint after every tenth; goes on from the last one that was saved.
TRAIN = """
import json
rank, resume = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")), os.environ.get("AGAIN")

def train(last, dies_at=None):
    run = prov4ml.start_run("train", resume=resume)
    saved, step = f"saved {rank}", 0
    if os.path.exists(saved):
        with open(saved) as file:
            step = int(file.read())
    deadline = time.monotonic() + 60
    while "KNOWN" in os.environ and not os.path.exists(run.get_run_dir() / "run.json"):
        assert time.monotonic() < deadline  # a collector is to see the end
        time.sleep(0.01)
    while step < last:
        prov4ml.log_metric("loss", 1 / (step + 1), "training", step)
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1
        if step % 10 == 0:
            prov4ml.save_model_version(b"%d" % step, "net", "training", step - 1)
            with open(saved, "w") as file:
                file.write(str(step))
    prov4ml.end_run()

train(*map(int, sys.argv[1:]))
"""


class Series:
    """What the documents and files say of the loss, attempt by attempt."""

    def __init__(self, left: Read) -> None:
        def facts(record: Any) -> dict[str, Any]:
            return {str(name): value for name, value in record.attributes}

        found = [(r, facts(r)) for r in left.records("p4:MetricSeries")]
        gone = [(r, facts(r)) for r in left.records("p4:AbandonedPoints")]
        # Each attempt's series: how many points of it stand.
        self.kept = {
            (int(f["p4:attempt"]), int(f["p4:rank"])): int(f["p4:count"])
            for _, f in found
            if "p4:attempt" in f
        }
        self.left = {
            (int(f["p4:attempt"]), int(f["p4:rank"])): (
                int(f["p4:count"]),
                int(f["p4:firstStep"]),
                int(f["p4:lastStep"]),
            )
            for _, f in gone
        }
        self.combined = [int(f["p4:count"]) for _, f in found if "p4:attempt" not in f]
        whole = [str(r.identifier) for r, f in found if "p4:attempt" not in f]
        parts = {str(r.identifier) for r, f in found if "p4:attempt" in f}
        derived = left.json.get("wasDerivedFrom", {}).values()
        self.derived = {d["prov:usedEntity"] for d in derived if d["prov:generatedEntity"] in whole}
        assert not whole or self.derived == parts
        invalid = left.json.get("wasInvalidatedBy", {}).values()
        self.invalidated = {d["prov:entity"] for d in invalid}
        assert self.invalidated == {str(r.identifier) for r, _ in gone}
        table = parquet_files.read(left.directory)
        self.points = table.num_rows
        keys = [
            f"{a}/{r}/{s}"
            for a, r, s in zip(
                *(table.column(name).to_pylist() for name in ("attempt", "rank", "step")),
                strict=True,
            )
        ]
        assert len(set(keys)) == len(keys)


@pytest.fixture
def over(isolated: Isolated) -> Callable[..., None]:
    """Wait until the only run is closed with so many attempts."""

    def wait(attempts: int) -> None:
        def closed() -> bool:
            try:
                manifest = isolated.manifest()
            except OSError:
                return False
            return bool(manifest["closed"]) and manifest["attempts"] == attempts

        isolated.wait(closed, f"the run is closed with {attempts} attempts")

    return wait


def killed(isolated: Isolated, script: str, *arguments: str, **environment: str) -> None:
    """Run a script that kills itself."""
    isolated.script(script, *arguments, code=-signal.SIGKILL, **environment)


REQUEUED = {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}
ELASTIC = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "elastic"}

# how it is resumed: environment of both, of the first, of the second
WAYS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "name": ({}, {}, {"AGAIN": "train_0"}),
    "path": ({}, {}, {"AGAIN": "prov/train_0"}),
    "id": ({}, {}, {"AGAIN": "the id"}),
    "variable": ({}, {}, {"PROV4ML_RESUME": "train_0"}),
    "Slurm": (REQUEUED, {}, {"SLURM_RESTART_COUNT": "1"}),
    "torchelastic": (
        ELASTIC,
        {"TORCHELASTIC_RESTART_COUNT": "0"},
        {"TORCHELASTIC_RESTART_COUNT": "1"},
    ),
}


# The id is known only when a collector has come, so that one is always later.
@pytest.mark.parametrize(
    ("way", "later"),
    [
        *((way, True) for way in WAYS),
        *((way, False) for way in ("name", "Slurm", "torchelastic")),
    ],
)
def test_resumed(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    over: Callable[..., None],
    figures: Figures,
    way: str,
    later: bool,
) -> None:
    """Killed behind a checkpoint, resumed, finished: one run, two attempts, the rest abandoned."""
    both, first, second = WAYS[way]
    script = prelude + TRAIN
    if later:
        first = {**first, "KNOWN": "1"}
    killed(isolated, script, "40", "24", **both, **first)
    run = isolated.only_run()
    if later:
        over(1)
        before = read(run)
        before.check()
        assert before.manifest["status"] in ("killed", "died")
        second = {k: v.replace("the id", before.manifest["run"]) for k, v in second.items()}
    isolated.script(script, "40", **both, **second)
    over(2)
    assert isolated.only_run() == run
    left = read(run)
    left.check()
    found = Series(left)
    assert found.kept == {(1, 0): 20, (2, 0): 20}
    assert found.left == {(1, 0): (5, 20, 24)}
    assert found.combined == [40]
    assert found.points == 45
    assert left.manifest["status"] == "finished"
    statuses = [(r["attempt"], r["status"]) for r in left.manifest["ranks"]]
    assert statuses[1] == (2, "finished")
    assert statuses[0][1] in ("killed", "died")
    assert left.manifest["accounting"]["lost"] == 0
    (used,) = [
        r
        for r in left.json["used"].values()
        if r.get("prov:role") and "resumedFrom" in str(r["prov:role"])
    ]
    assert used["prov:activity"].endswith("attempt/2")
    markers = isolated.folder / "prov" / ".prov4ml"
    isolated.wait(lambda: not markers.exists(), "no marker is left of a run that finished")
    figures(kept=40, abandoned=5, twice=0)


def test_three_attempts(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    over: Callable[..., None],
) -> None:
    """Each attempt goes on from the one before; what each left behind is told apart."""
    script = prelude + TRAIN
    killed(isolated, script, "40", "24")
    killed(isolated, script, "40", "34", AGAIN="train_0")
    isolated.script(script, "40", AGAIN="train_0")
    over(3)
    left = read(isolated.only_run())
    left.check()
    found = Series(left)
    assert found.kept == {(1, 0): 20, (2, 0): 10, (3, 0): 10}
    assert found.left == {(1, 0): (5, 20, 24), (2, 0): (5, 30, 34)}
    assert found.combined == [40]
    assert found.points == 50
    statuses = [r["status"] for r in left.manifest["ranks"]]
    assert statuses[2] == "finished"
    assert {*statuses[:2]} <= {"killed", "died"}


def test_a_finished_run_may_go_on(
    isolated: Isolated, prelude: str, read: type[Read], over: Callable[..., None]
) -> None:
    """More epochs of a run that had finished: a second attempt that leaves nothing behind."""
    script = prelude + TRAIN
    isolated.script(script, "20")
    over(1)
    isolated.script(script, "40", AGAIN="train_0")
    over(2)
    left = read(isolated.only_run())
    left.check()
    found = Series(left)
    assert found.kept == {(1, 0): 20, (2, 0): 20}
    assert found.left == {}
    assert found.combined == [40]
    assert [r["status"] for r in left.manifest["ranks"]] == ["finished", "finished"]


def test_a_run_goes_on_while_its_log_is_being_packed(
    isolated: Isolated, prelude: str, read: type[Read], over: Callable[..., None], figures: Figures
) -> None:
    """A resume in the very moment of the end loses nothing to the compression of the log."""
    script = (
        prelude
        + """
calls, resume = 200_000, None
for attempt in range(4):
    prov4ml.start_run("again", resume=resume)
    for step in range(calls):
        prov4ml.log_metric("loss", 0.5, "training", attempt * calls + step)
    resume = str(prov4ml.get_run_dir())
    prov4ml.end_run()
"""
    )
    isolated.script(script, PROV4ML_EXIT_TIMEOUT="60")
    over(4)
    left = read(isolated.only_run())
    left.check()
    steps = parquet_files.read(left.directory).column("step")
    assert len(steps) == pc.count_distinct(steps).as_py() == 800_000
    assert left.manifest["accounting"]["lost"] == 0
    assert left.manifest["status"] == "finished"
    figures(attempts=4, points=len(steps), lost=0)


# ------------------------------------------------------------ attempts that were not delivered


@pytest.mark.parametrize("left_in", ["the spool", "undelivered"])
def test_the_first_attempt_was_never_delivered(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    over: Callable[..., None],
    left_in: str,
) -> None:
    """No collector ever came to it: the resume finds the run by its journal, and takes it along."""
    script = prelude + TRAIN
    if left_in == "the spool":
        killed(isolated, script, "40", "24", PROV4ML_COLLECTOR="none")
    else:
        nobody = {"PROV4ML_COLLECTOR": "tcp://127.0.0.1:9", "PROV4ML_EXIT_TIMEOUT": "1"}
        isolated.script(
            script.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise KeyError"),
            "40",
            "24",
            code=1,
            **nobody,
        )
    run = isolated.only_run()
    assert not (run / "run.json").exists()
    assert (run / "undelivered").exists() == (left_in == "undelivered")
    isolated.script(script, "40", AGAIN="train_0")
    over(2)
    left = read(run)
    left.check()
    found = Series(left)
    assert found.kept == {(1, 0): 20, (2, 0): 20}
    assert found.left == {(1, 0): (5, 20, 24)}
    assert found.combined == [40]
    assert left.manifest["accounting"]["lost"] == 0
    ends = {"the spool": ("died", "none"), "undelivered": ("failed", "self")}
    rank = left.manifest["ranks"][0]
    assert (rank["status"], rank["status_known_by"]) == ends[left_in]
    assert not (run / "undelivered").exists()


def test_no_attempt_was_delivered(
    isolated: Isolated, prelude: str, read: type[Read], over: Callable[..., None]
) -> None:
    """Three attempts without any collector have three numbers; recover makes one run of them."""
    script = prelude + TRAIN
    none = {"PROV4ML_COLLECTOR": "none"}
    killed(isolated, script, "40", "24", **none)
    killed(isolated, script, "40", "34", AGAIN="train_0", **none)
    killed(isolated, script, "50", "44", AGAIN="train_0", **none)
    isolated.prov4ml("recover")
    over(3)
    left = read(isolated.only_run())
    left.check()
    found = Series(left)
    assert found.kept == {(1, 0): 20, (2, 0): 10, (3, 0): 15}
    assert found.combined == [45]
    assert left.manifest["accounting"]["lost"] == 0
    assert left.manifest["status"] == "died"
    assert isolated.prov4ml("recover").stdout == "nothing to recover\n"


# --------------------------------------------------------------------------- several ranks


def ranks(isolated: Isolated, *arguments: str, **environment: str) -> list[int]:
    """Run two ranks at once; how they ended."""
    started = [
        isolated.spawn(
            sys.executable,
            "-W",
            "error",
            "train.py",
            *arguments,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            PROV4ML_EXIT_TIMEOUT="30",
            **environment,
        )
        for rank in range(2)
    ]
    ends = []
    for process in started:
        _, errors = process.communicate(timeout=120)
        ends.append(process.returncode)
        assert "Traceback" not in errors, errors
    return ends


@pytest.mark.parametrize("by", ["another job", "the same job"])
def test_ranks_resume_together(
    isolated: Isolated,
    prelude: str,
    read: type[Read],
    over: Callable[..., None],
    by: str,
) -> None:
    """Ranks of one job join one new attempt, whether they name the run or are restarted."""
    isolated.write(prelude + TRAIN)
    assert ranks(isolated, "40", "24", TORCHELASTIC_RUN_ID="one") == [-9, -9]
    for attempt, last in (2, "34"), (3, ""):
        job = "one" if by == "the same job" else f"job {attempt}"
        again = {"TORCHELASTIC_RESTART_COUNT": str(attempt - 1)}
        if by == "another job":
            again = {"AGAIN": "train_0"}
        code = -9 if last else 0
        words = ["40", last] if last else ["40"]
        assert ranks(isolated, *words, TORCHELASTIC_RUN_ID=job, **again) == [code, code]
    over(3)
    left = read(isolated.only_run())
    left.check()
    found = Series(left)
    assert found.kept == {
        (attempt, rank): n for attempt, n in ((1, 20), (2, 10), (3, 10)) for rank in range(2)
    }
    assert found.combined == [80]
    rows = [(r["attempt"], r["rank"]) for r in left.manifest["ranks"]]
    assert rows == [(attempt, rank) for attempt in (1, 2, 3) for rank in (0, 1)]
    assert left.manifest["status"] == "finished"


@pytest.mark.parametrize("how", ["closed", "at once"])
def test_a_second_start_is_another_run(
    isolated: Isolated, prelude: str, over: Callable[..., None], how: str
) -> None:
    """Without a restart count or a name, a job that is started again begins a run of its own."""
    script = prelude + TRAIN.replace("resume=resume", "rank=0")
    known = {"KNOWN": "1"} if how == "closed" else {}
    killed(isolated, script, "40", "5", PROV4ML_JOB="again", **known)
    if how == "closed":
        over(1)
    isolated.script(script, "40", PROV4ML_JOB="again")

    def attempts() -> list[tuple[int, int]]:
        written = [run for run in isolated.runs() if (run / "run.json").exists()]
        manifests = [isolated.manifest(run) for run in written]
        return [(m["attempts"], len(m["ranks"])) for m in manifests if m["closed"]]

    isolated.wait(lambda: attempts() == [(1, 1), (1, 1)], "two runs of one attempt")


# ------------------------------------------------------------------------------- refusals


def test_a_run_that_still_runs_is_not_resumed(
    isolated: Isolated, prelude: str, over: Callable[..., None], words: Callable[[str], memoryview]
) -> None:
    """Whoever holds its ranks: a first attempt, a resumed one, one without a collector."""
    isolated.write(prelude + TRAIN, "again.py")
    shared = words("shared")
    hold = (
        prelude
        + """
words = shared("shared")
prov4ml.start_run("train", resume=os.environ.get("AGAIN"))
prov4ml.log_metric("loss", 0.5, "training", 0)
words[0] = 1
while not words[1]:
    time.sleep(0.01)
prov4ml.end_run()
"""
    )
    ways: list[dict[str, str]] = [
        {"PROV4ML_COLLECTOR": "none"},
        {"AGAIN": "train_0"},
        {"AGAIN": "train_0", "PROV4ML_COLLECTOR": "none"},
        {"AGAIN": "train_0", "PROV4ML_JOB": "held"},
    ]
    for number, way in enumerate(ways, 1):
        shared[0] = shared[1] = 0
        with isolated.start(hold, **way) as holder:
            isolated.wait(lambda: shared[0] or holder.poll() is not None, "the run is open")
            assert holder.poll() is None, holder.communicate()
            for job in {}, {"PROV4ML_JOB": "another"}:
                refused = isolated.run(
                    sys.executable, "again.py", "40", AGAIN="train_0", code=1, **job
                )
                assert f"still runs (rank 0 of attempt {number}, pid {holder.pid})" in (
                    refused.stderr
                )
            shared[1] = 1
            assert holder.wait(60) == 0
        over(number)


def test_two_cannot_resume_at_once(
    isolated: Isolated, prelude: str, read: type[Read], over: Callable[..., None]
) -> None:
    """Of eight that resume a run at the same moment one goes on, and the others are told."""
    script = prelude + TRAIN
    killed(isolated, script, "40", "24")
    started: list[subprocess.Popen[str]] = [
        isolated.spawn(sys.executable, "train.py", "40", AGAIN="train_0") for _ in range(8)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    done = [text for process, text in zip(started, said, strict=True) if not process.returncode]
    refused = [text for process, text in zip(started, said, strict=True) if process.returncode]
    assert all("still runs" in text for text in refused)
    assert done
    over(1 + len(done))  # one that came when another had finished goes on behind it
    left = read(isolated.only_run())
    left.check()
    attempts = [r["attempt"] for r in left.manifest["ranks"]]
    assert attempts == list(range(1, 2 + len(done)))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("prov/nothing_0", "there is no run 'prov/nothing_0'"),
        ("nothing_0", "there is no run 'nothing_0'"),
        ("0190b6f2-7c1e-7000-8000-2f1d5c3a9e01", "there is no run '0190b6f2"),
        ("empty", "says of no run"),
        (".", "says of no run"),
    ],
)
def test_what_is_not_there_is_not_resumed(
    isolated: Isolated, prelude: str, named: str, message: str
) -> None:
    """A path, a name, an id, a folder that is none: a clear error, and nothing is made."""
    (isolated.folder / "empty").mkdir()
    done = isolated.script(prelude + TRAIN, "5", AGAIN=named, code=1)
    (line,) = [text for text in done.stderr.splitlines() if "UsageError: resume:" in text]
    assert message in line
    assert isolated.runs() == []


def test_a_run_that_keeps_no_events_is_not_resumed(
    isolated: Isolated, prelude: str, read: type[Read], over: Callable[..., None]
) -> None:
    """Its documents are all there is of it, and a new attempt would write over them."""
    isolated.write("[run]\nkeep_events = false\n", "prov4ml.toml")
    script = prelude + TRAIN
    isolated.script(script, "20")
    over(1)
    before = {path: path.read_bytes() for path in isolated.only_run().rglob("*") if path.is_file()}
    refused = isolated.script(script, "40", AGAIN="train_0", code=1)
    assert "keeps no events (keep_events = false)" in refused.stderr
    isolated.prov4ml("collect", str(isolated.only_run()))  # there is nothing to add
    assert {Path(path): path.read_bytes() for path in before} == before
    read(isolated.only_run()).check()
