"""A collector that serves many: each run gets its own documents, whatever becomes of the others;
an automatic one ends by itself, and never before the last living rank."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from prov4ml.testing.processes import Disk, Launched

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]

# word 0: points that returned, 1: the run is open; in the file "say" word 0: enough
TRAIN = """
rank = os.environ.get("RANK", "0")
words, say = shared(sys.argv[1] + rank), shared("say")
with prov4ml.start_run(sys.argv[1]):
    words[1] = 1
    prov4ml.log_param("experiment", sys.argv[1])
    i = 0
    while not say[0]:
        for _ in range(100):
            prov4ml.log_metric(sys.argv[1], i / 7, "training", i)
            i += 1
        words[0] = i
        time.sleep(0.01)
"""


@contextmanager
def _nonsense(address: str) -> Iterator[list[int]]:
    """A peer that sends nonsense as fast as it can; how much, when it is over."""
    over, sent = threading.Event(), [0]

    def talk() -> None:
        rng = random.Random(1)
        with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
            peer.linger = 0
            peer.connect(address)
            while not over.is_set():
                try:
                    peer.send_multipart(
                        [rng.randbytes(rng.randrange(300)) for _ in range(rng.randint(1, 3))],
                        zmq.NOBLOCK,
                    )
                    sent[0] += 1
                except zmq.Again:
                    over.wait(0.005)
                if sent[0] % 100 == 0:
                    over.wait(0.01)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join(30.0)


def _heard(run: Path) -> bool:
    """Whether the collector has points of a run."""
    return sum(path.stat().st_size for path in run.glob("events/*.log")) > 10_000


def test_runs_of_all_kinds_at_once(
    isolated: Isolated,
    prelude: str,
    words: Words,
    launch: Callable[..., Launched],
    small_disk: Callable[[Path, int], Disk],
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    pause: Callable[[float], None],
) -> None:
    """Good runs, one on a full disk, one with a sink that fails, one that is killed, and a peer
    that talks nonsense: each run is as complete as it can be, none has to do with another."""
    isolated.write(prelude + TRAIN)
    disk = small_disk(isolated.folder / "small", 8 << 20)
    collector = launch()

    def start(name: str, rank: int, world: int, base: str = "prov") -> subprocess.Popen[str]:
        return isolated.spawn(
            *(sys.executable, "-W", "error", "train.py", name),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            PROV4ML_JOB=name,
            PROV4ML_DIR=base,
            PROV4ML_COLLECTOR=collector.address,
            PROV4ML_EXIT_TIMEOUT="5",
        )

    ranks = {
        ("good", 0): start("good", 0, 2),
        ("good", 1): start("good", 1, 2),
        ("full", 0): start("full", 0, 2, "small"),
        ("full", 1): start("full", 1, 2, "small"),
        ("sink", 0): start("sink", 0, 1),
        ("killed", 0): start("killed", 0, 1),
    }
    points = {key: words(f"{key[0]}{key[1]}") for key in ranks}
    say = words("say")
    runs = {
        name: isolated.folder / ("small" if name == "full" else "prov") / f"{name}_0"
        for name, _ in ranks
    }
    isolated.wait(lambda: all(p[0] for p in points.values()), "all of them log")
    isolated.wait(lambda: all(map(_heard, runs.values())), "all of them are heard")
    (runs["sink"] / "prov.svg").mkdir()  # in the way of the picture
    with _nonsense(collector.address) as sent:
        isolated.wait(lambda: "malformed" in collector.said(), "nonsense is told")
        disk.fill()
        isolated.wait(lambda: "full_0: the event log cannot" in collector.said(), "a full disk")
        ranks["killed", 0].kill()
        before = points["good", 0][0]
        pause(1.0)
        assert points["good", 0][0] > before
        say[0] = 1
        said = {key: child.communicate(timeout=60)[1] for key, child in ranks.items()}
    for key, child in ranks.items():
        assert child.returncode == (-9 if key[0] == "killed" else 0), said[key]

    def over(run: Path) -> bool:
        return (run / "run.json").exists() and bool(isolated.manifest(run)["closed"])

    try:
        for name in ("good", "sink", "killed"):
            isolated.wait(lambda n=name: over(runs[n]), f"{name} is closed")
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), collector.said(), *spool_files()])) from None
    assert not (runs["full"] / "prov.json").exists()
    disk.empty()
    isolated.wait(lambda: over(runs["full"]), "the full one is closed")
    assert collector.stop() == 0
    assert spool_files() == []
    total = 0
    for name, run in runs.items():
        found = evidence(run)
        failures = found.manifest["failures"]
        if name == "sink":
            assert [f.split(":")[0] for f in failures] == ["sink svg"]
            found.manifest["failures"] = []
            (run / "prov.svg").rmdir()
            isolated.prov4ml("replay", str(run), "--sink", "svg")
        found.complete()
        status = found.manifest["status"]
        assert status == "finished" if name != "killed" else status in ("killed", "died")
        assert found.manifest["experiment"] == name
        assert {series for _, series, _ in found.logged} == {name}
        params = [e for e in found.entities.values() if "HyperParameter" in str(e["prov:type"])]
        assert [e["prov:value"] for e in params] == [name]
        for rank in range(2 if name in ("good", "full") else 1):
            steps = sorted(step for r, _, step in found.logged if r == rank)
            least = points[name, rank][0]
            assert steps == list(range(len(steps)))
            assert least <= len(steps) <= (least + 100 if name == "killed" else least)
            total += len(steps)
    assert "Traceback" not in collector.said()
    figures(runs=len(runs), processes=len(ranks), points=total, lost=0, nonsense=sent[0])


# In the file "say" word 0: say something again, and end.
SILENT = """
say = shared("say")
with prov4ml.start_run("silent"):
    prov4ml.log_metric("loss", 1.0, step=0)
    while not say[0]:
        time.sleep(0.05)
    prov4ml.log_metric("loss", 0.5, step=1)
"""
BRIEF = """
import prov4ml
with prov4ml.start_run("brief"):
    prov4ml.log_metric("loss", 1.0, step=0)
"""


@pytest.mark.parametrize("seconds", [8.0, pytest.param(80.0, marks=pytest.mark.soak)])
def test_a_silent_rank_keeps_its_collector(
    isolated: Isolated,
    prelude: str,
    words: Words,
    evidence: Any,
    closed: Callable[..., None],
    figures: Callable[..., None],
    pause: Callable[[float], None],
    seconds: float,
) -> None:
    """An automatic collector waits for a rank that says nothing, and ends when it is gone."""
    isolated.write(prelude + SILENT)
    isolated.write(BRIEF, "brief.py")
    rank = isolated.spawn(sys.executable, "train.py")
    isolated.wait(lambda: isolated.runs() and (isolated.only_run() / "run.json").exists(), "a run")
    (collector,) = isolated.collectors()
    pause(seconds / 2)
    isolated.run(sys.executable, "brief.py")
    pause(seconds / 2)
    assert [c.pid for c in isolated.collectors()] == [collector.pid]
    words("say")[0] = 1
    _, said = rank.communicate(timeout=60)
    assert rank.returncode == 0, said
    begin = time.monotonic()
    closed()
    took = time.monotonic() - begin
    for run in isolated.runs():
        evidence(run).complete()
        assert isolated.manifest(run)["status"] == "finished"
    logs = [path for path in (isolated.root / "r" / "prov4ml").iterdir() if path.suffix == ".log"]
    assert [log.read_text() for log in logs] == [""]
    assert os.listdir(isolated.spool) in ([], [f"prov4ml-{os.getuid()}"])
    figures(seconds_silent=seconds, seconds_until_it_ended=took)
