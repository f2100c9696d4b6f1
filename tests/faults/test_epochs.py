"""Collectors and ranks die inside epochs: each point keeps the epoch that it was logged in."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from prov4ml import events as ev
from prov4ml import replay, wire
from prov4ml.eventlog import Reader
from prov4ml.model import document
from prov4ml.testing.constraints import violations
from prov4ml_sinks import parquet_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Isolated

Words = Callable[[str], memoryview]

# word 0: points, 1: the run is open, 2: the epoch; in the file "stop" word 0: enough.  The step of
# a point tells its epoch.
EPOCHS = """
words, stop = shared("words"), shared("stop")
with prov4ml.start_run("epochs"):
    words[1] = 1
    epoch = 0
    while not stop[0]:
        with prov4ml.context("training"), prov4ml.epoch(epoch, activity=True):
            turn = stop[1]
            step = 10_000_000 * epoch
            while step % 10_000_000 < 400 or (stop[1] == turn and not stop[0]):
                for _ in range(200):
                    prov4ml.log_metric("loss", 1 / (step + 1), step=step)
                    step += 1
                    words[0] += 1
                time.sleep(0.05)
            prov4ml.save_model_version(b"%d" % epoch, "net", step=step)
        prov4ml.log_metric("between", epoch, step=epoch)
        epoch += 1
        words[2] = epoch
"""


def cursors(run: Path) -> tuple[list[int], int]:
    """Where the parquet sink of each collector that took the run up began, and where it is."""
    found: list[int] = []
    at = 0
    with contextlib.closing(Reader(run / "events")) as reader:
        for frame in reader:
            for event in wire.decode_batch(frame.batch, frame.count) if frame.count else ():
                if isinstance(event, ev.SinkCursor):
                    at = max(at, event.frame)
                elif isinstance(event, ev.CollectorStarted):
                    found.append(at)
    return found, at


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.soak)])
def test_a_sink_that_begins_inside_an_epoch_knows_it(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    launch: Callable[..., Any],
    figures: Callable[..., None],
    kills: int,
) -> None:
    """Collectors are killed in the middle of epochs; every point's column ``epoch`` is right."""
    isolated.write("[sinks.parquet]\nrows_per_part = 1000\n", "prov4ml.toml")
    stop, count = words("stop"), words("words")
    collector = launch()
    rank = isolated.start(
        prelude + EPOCHS, PROV4ML_COLLECTOR=collector.address, PROV4ML_EXIT_TIMEOUT="60"
    )

    def wait(condition: Callable[[], object], what: str) -> None:
        isolated.wait(lambda: condition() or rank.poll() is not None, what)
        assert rank.poll() is None, rank.communicate()

    wait(lambda: count[1], "the run is open")
    run = isolated.only_run()
    wait((run / "run.json").exists, "a collector has taken it up")
    for turn in range(1, kills + 1):
        before = cursors(run)[1]
        wait(lambda b=before: cursors(run)[1] > b, "a part in this epoch")
        reached = count[0]
        wait(lambda r=reached: count[0] > r + 2000, "points behind it")
        collector.close()
        collector = launch()
        epoch = count[2]
        stop[1] = turn  # the next epoch
        wait(lambda e=epoch: count[2] > e, "the next epoch")
    stop[0] = 1
    said = rank.communicate(timeout=120)
    assert rank.returncode == 0, said
    assert collector.stop() == 0
    found = evidence(run)
    found.complete()
    table = parquet_files.read(run)
    columns = [table.column(name).to_pylist() for name in ("name", "step", "epoch")]
    wrong = 0
    for name, step, epoch in zip(*columns, strict=True):
        wrong += epoch != (step // 10_000_000 if name == "loss" else None)
    assert wrong == 0
    begun, _ = cursors(run)
    assert len(begun) == kills + 1
    assert begun[0] == 0
    assert all(cursor > 0 for cursor in begun[1:]), begun  # in the middle of the log
    figures(
        collectors_killed=kills,
        epochs=count[2],
        points=table.num_rows,
        wrong_epochs=wrong,
        highest_cursor=max(begun),
    )


# Ranks die at random, in an activity in an epoch.
DIES = """
words = shared(sys.argv[1])
run = prov4ml.start_run("dies")
while not (run.get_run_dir() / "run.json").exists():
    time.sleep(0.01)  # a collector takes it up
words[1] = 1
step = 0
for epoch in range(1_000_000):
    with prov4ml.context("training"), prov4ml.epoch(epoch, activity=True):
        with prov4ml.activity("step"):
            for _ in range(10):
                prov4ml.log_metric("loss", step, step=step)
                step += 1
            words[0] = step
            time.sleep(0.005)  # documents tell of each epoch and activity: not too many of them
        prov4ml.log_artifact("data.txt", copy=False)
"""


# Soak only: on a machine at its limit a run that was killed at once was seen to stay open.
@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.soak)])
def test_killed_in_an_epoch(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    closed: Callable[..., None],
    figures: Callable[..., None],
    forget: Callable[..., None],
    pause: Callable[[float], None],
    kills: int,
) -> None:
    """SIGKILL at a random moment: what returned is in its epoch, and no open one is said over."""
    chance = random.Random()
    isolated.write(prelude + DIES)
    isolated.write("data", "data.txt")
    points = activities = unfinished = returned = 0
    for start in range(0, kills, 4):
        batch = []
        for n in range(start, min(kills, start + 4)):
            shared = words(f"words{n}")
            rank = isolated.spawn(sys.executable, "train.py", f"words{n}")
            isolated.wait(lambda s=shared, r=rank: s[0] or r.poll() is not None, "an epoch")
            assert rank.poll() is None, rank.communicate()
            batch.append((shared, rank))
        for shared, rank in batch:
            pause(chance.random() * 0.3)
            rank.kill()
            rank.communicate()
            returned += shared[0]
        closed()
        for run in isolated.runs():
            found = evidence(run)
            found.complete()
            table = parquet_files.read(run)
            columns = [table.column(name).to_pylist() for name in ("step", "epoch")]
            assert all(epoch == step // 10 for step, epoch in zip(*columns, strict=True))
            state = replay.fold(run)
            assert violations(document(state)) == []
            (p,) = (p for p in state.producers.values() if p.started is not None)
            epochs = [a.epoch for a in p.artifacts if a.kind == "artifact"]
            assert epochs == list(range(len(epochs)))
            left = [work for work in p.doings.works.values() if work.ended is None]
            assert len(left) <= 1
            points += table.num_rows
            activities += len(p.doings.works)
            unfinished += len(left)
            forget(run)
    assert points >= returned
    figures(runs_killed=kills, points=points, activities=activities, unfinished=unfinished)
