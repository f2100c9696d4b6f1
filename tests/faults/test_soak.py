"""A long time in a short one: what a week does to memory, files, threads and disk, in minutes.

One run logs fast and forks now and then; beside it short runs follow each other.  Timers are
shortened, so that documents, parts, files of the event log and segments turn hundreds of times.
The second half of the time is compared with the first: nothing may grow.

``SOAK_SECONDS`` sets the length of the long variant.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest

from prov4ml import spool
from prov4ml.testing.processes import anonymous

if TYPE_CHECKING:
    from tests.conftest import Isolated

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "720"))

HURRY = """
import sys
from prov4ml import cli, eventlog, publish
from prov4ml_sinks.parquet import Parquet

eventlog.SEGMENT, publish._SNAPSHOT = int(sys.argv[1]), float(sys.argv[2])
Parquet.seconds, Parquet.whole = float(sys.argv[3]), int(sys.argv[4])  # and [sinks.parquet]
sys.exit(cli.main(sys.argv[8:]))  # behind: python -m prov4ml
"""

# word 0: points logged, 1: open, 2: enough, 3: short runs over, 4: children, 5: files
LONG = """
words = shared("words")
rate, every = int(sys.argv[1]), float(sys.argv[2])
run = prov4ml.start_run("long")
log = prov4ml.log_metric
words[1] = 1
step, begun, forked = 0, time.monotonic(), time.monotonic()
while not words[2]:
    with prov4ml.context("training"):
        while step < (time.monotonic() - begun) * rate:
            for _ in range(500):
                log("loss", step / 7, None, step)
                step += 1
    words[0] = step
    prov4ml.set_tag("progress", str(step))
    if time.monotonic() - forked > every:
        forked = time.monotonic()
        prov4ml.save_model_version(os.urandom(1000), "model", step=step)
        words[5] += 1
        child = os.fork()
        if not child:
            for k in range(50):
                log("child", k / 7, "child", k)
            os._exit(0)
        os.waitpid(child, 0)
        words[4] += 1
    time.sleep(0.005)
prov4ml.end_run()
"""

SHORT = """
words = shared("words")
while not words[2]:
    with prov4ml.start_run("short"):
        for step in range(1000):
            prov4ml.log_metric("loss", step / 7, step=step)
        prov4ml.log_param("lr", 0.1)
    words[3] += 1
    time.sleep(0.1)
"""


class Sample(NamedTuple):
    """What is in use at a moment."""

    trainer: int  # anonymous bytes
    trainer_files: int
    trainer_threads: int
    collector: int
    collector_files: int
    collector_threads: int
    spool: int  # bytes
    folders: int  # of journals


# What the second half may have more than the first: a sawtooth need not be hit at its tip.
MORE = Sample(3_000_000, 3, 1, 25_000_000, 6, 3, 12 << 20, 3)


def _sample(place: Isolated, trainer: psutil.Process, collector: Any) -> Sample:
    files = folders = 0
    for folder, _, names in os.walk(place.spool):
        folders += 1
        for name in names:
            try:
                files += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue  # acked meanwhile
    seen = trainer.num_fds(), trainer.num_threads()
    return Sample(anonymous(trainer.pid), *seen, *collector.figures(), files, folders)


def _most(samples: list[Sample]) -> Sample:
    return Sample(*map(max, zip(*samples, strict=True)))


def _forget(place: Isolated) -> None:
    """Remove short runs that are closed and packed, but for the last."""
    for run in place.runs()[:-1]:
        if run.name.startswith("short"):
            names = [path.name for path in run.glob("events/*.log*")]
            if names and all(name.endswith(".log.gz") for name in names):
                shutil.rmtree(run)


@pytest.mark.parametrize(
    ("seconds", "rate", "turns", "whole"),
    [
        (8.0, 30_000, 2 << 20, 50_000),
        pytest.param(SOAK_SECONDS, 50_000, 64 << 20, 1_000_000, marks=pytest.mark.soak),
    ],
    ids=["short", "long"],
)
def test_nothing_grows(
    isolated: Isolated,
    prelude: str,
    words: Callable[[str], memoryview],
    launch: Callable[..., Any],
    figures: Callable[..., None],
    seconds: float,
    rate: int,
    turns: int,
    whole: int,
) -> None:
    """Files, threads, memory and spool of a rank and its collector are as they were half way."""
    (isolated.root / "hurry.py").write_text(HURRY)
    isolated.write(f"[sinks.parquet]\nrows_per_part = {whole}\n", "prov4ml.toml")
    hurry = ["hurry.py", turns, max(1.0, seconds / 300), max(1.0, seconds / 150), whole]
    collector = launch(sys.executable, *map(str, hurry))
    said = {"PROV4ML_COLLECTOR": collector.address, "PROV4ML_EXIT_TIMEOUT": "120"}
    shared = words("words")
    isolated.write(prelude + LONG, "long.py")
    isolated.write(prelude + SHORT, "short.py")
    every = str(max(0.1, seconds / 600))
    long = isolated.spawn(sys.executable, "long.py", str(rate), every, **said)
    isolated.wait(lambda: shared[1], "the long run is open")
    short = isolated.spawn(sys.executable, "short.py", **said)
    trainer = psutil.Process(long.pid)
    of_collector = psutil.Process(collector.process.pid)
    samples: list[Sample] = []
    work: list[tuple[int, float]] = []  # (points, seconds of processor)
    begin = time.monotonic()
    warm = seconds / 5

    def over() -> bool:
        if time.monotonic() - begin > warm:
            samples.append(_sample(isolated, trainer, collector))
            used = of_collector.cpu_times()
            work.append((shared[0] + 1000 * shared[3], used.user + used.system))
        if len(samples) % 50 == 0:
            _forget(isolated)
        return time.monotonic() - begin > seconds + warm or long.poll() is not None

    isolated.wait(over, "the time is over", seconds + warm + 60.0)
    assert long.poll() is None, long.communicate()
    shared[2] = 1
    half = len(samples) // 2
    first, second = _most(samples[:half]), _most(samples[half:])
    costs = [
        1e6 * (work[b][1] - work[a][1]) / (work[b][0] - work[a][0])
        for a, b in ((0, half), (half, -1))
    ]
    for process in (short, long):
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
    run = next(path for path in isolated.runs() if path.name == "long_0")
    manifest = isolated.manifest(run)
    account = manifest["accounting"]
    points = shared[0] + 50 * shared[4]
    parts = sorted((run / "metrics").iterdir())
    logs = len(list((run / "events").glob("*.log*")))
    halves = {}
    for name, before, after in zip(Sample._fields, first, second, strict=True):
        scale = 1e6 if before > 1e5 else 1
        halves |= {f"{name}_first": before / scale, f"{name}_second": after / scale}
    figures(
        seconds=seconds,
        points=account["points"],
        lost=account["lost"],
        short_runs=shared[3],
        children=shared[4],
        log_files=logs,
        parts=len(parts),
        collector_us_per_point_first=costs[0],
        collector_us_per_point_second=costs[1],
        **halves,
    )
    assert manifest["status"] == "finished"
    assert manifest["failures"] == []
    assert (account["lost"], account["rejected"]) == (0, 0)
    assert account["points"] == points
    assert sum(pq.read_metadata(part).num_rows for part in parts) == points
    assert {output["path"] for output in manifest["outputs"]} == {
        f"metrics/{part.name}" for part in parts
    }
    assert logs > 2
    assert len(parts) > 2
    assert [
        (name, before, after)
        for name, before, after, more in zip(Sample._fields, first, second, MORE, strict=True)
        if after > before + more
    ] == []
    assert costs[1] <= 2 * costs[0]
    isolated.wait(lambda: not list(isolated.spool.rglob("*.seg")), "the spool is empty")
    assert spool.runs([isolated.spool / f"prov4ml-{os.getuid()}"]) == []
    assert collector.stop() == 0
    assert "Traceback" not in collector.said()
    _left_behind(run)


def _left_behind(run: Path) -> None:
    """A run that is over holds what it should and nothing else."""
    assert not [path for path in run.rglob("*") if path.name.endswith((".tmp", ".new"))]
    assert not (run / "artifacts" / ".incoming").exists()
