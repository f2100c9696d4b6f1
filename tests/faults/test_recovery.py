"""``prov4ml recover``: over everything that runs of this user left on this host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml import wire

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]

NOBODY = "tcp://127.0.0.1:9"

# word 0: calls that returned, 1: the first points are logged, 2: go on, 3: the others are logged,
# 4: end the run
LOG = """
name, points = sys.argv[1], int(sys.argv[2])
words = shared(name)
prov4ml.start_run(name)
for i in range(points):
    prov4ml.log_metric("loss", i / 7, "training", i)
    words[0] = i + 1
words[1] = 1
while not words[2]:
    time.sleep(0.01)
for i in range(points, points + 1000):
    prov4ml.log_metric("loss", i / 7, "training", i)
    words[0] = i + 1
words[3] = 1
while not words[4]:
    time.sleep(0.01)
prov4ml.end_run()
"""


class Runs:
    """Processes with a run each, and where their journals lie."""

    def __init__(self, place: Isolated, words: Words, script: str) -> None:
        self.place = place
        self.words = words
        place.write(script)

    def start(self, name: str, points: int, address: str) -> subprocess.Popen[str]:
        """A process that has logged its first points."""
        child = self.place.spawn(
            *(sys.executable, "train.py", name, str(points)),
            PROV4ML_COLLECTOR=address,
            PROV4ML_EXIT_TIMEOUT="1",
        )
        count = self.words(name)
        self.place.wait(lambda: count[1] or child.poll() is not None, f"{name} logs")
        assert child.poll() is None, child.communicate()
        return child

    def go_on(self, name: str) -> None:
        """Log the other points."""
        count = self.words(name)
        count[2] = 1
        self.place.wait(lambda: count[3], f"{name} goes on")

    def kill(self, child: subprocess.Popen[str]) -> None:
        child.send_signal(signal.SIGKILL)
        child.communicate()

    def end(self, name: str, child: subprocess.Popen[str]) -> None:
        """Let it end its run, and wait for it."""
        self.words(name)[4] = 1
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors

    def path(self, name: str) -> Path:
        return self.place.folder / "prov" / f"{name}_0"

    def segments(self, name: str) -> list[Path]:
        """Those of a process that hold anything."""
        paths = filter(seg.committed, self.place.spool.rglob("*.seg"))
        return sorted(path for path in paths if seg.identity(path).pid == self.pids[name])

    pids: dict[str, int]


def test_recover(
    isolated: Isolated,
    launch: Callable[..., Any],
    prelude: str,
    words: Words,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
) -> None:
    """The dead are completed, the living left alone, the damaged told of; again: no change."""
    runs = Runs(isolated, words, prelude + LOG)
    collector = launch()
    children = {
        "acked": runs.start("acked", 40_000, collector.address),
        "early": runs.start("early", 100, NOBODY),
        "undelivered": runs.start("undelivered", 100, NOBODY),
        "living": runs.start("living", 100, NOBODY),
        "torn": runs.start("torn", 40_000, NOBODY),
        "blank": runs.start("blank", 100, NOBODY),
        "gone": runs.start("gone", 100, NOBODY),
    }
    runs.pids = {name: child.pid for name, child in children.items()}
    isolated.wait(
        lambda: all(path.name != "000000.seg" for path in runs.segments("acked")),
        "the first segments are acked and gone",
    )
    collector.process.kill()
    collector.process.wait()
    for name in children:
        runs.go_on(name)
    runs.end("undelivered", children["undelivered"])
    for name in ("acked", "early", "torn", "blank", "gone"):
        runs.kill(children[name])
    *_, before_last, last = runs.segments("torn")
    view = seg.view(last)
    held = wire.decode_batch(wire.array_header(view.count) + view.records, view.count)
    points = sum(isinstance(event, ev.Point) for event in held)
    os.truncate(last, seg.HEADER + 500)  # behind the series table
    (blank,) = runs.segments("blank")
    blank.write_bytes(bytes(blank.stat().st_size))
    shutil.rmtree(runs.path("gone"))

    done = isolated.prov4ml("recover", code=1)
    said = {name: _line(done.stdout, runs.path(name)) for name in children}
    for name in ("acked", "early", "undelivered"):
        found = evidence(runs.path(name))
        found.complete()
        assert sorted(s for _, _, s in found.stored) == list(range(words(name)[0]))
        assert found.manifest["status"] == ("finished" if name == "undelivered" else "died")
        assert " 0 lost" in said[name]
    assert f"pid {children['living'].pid}" in said["living"]
    assert "left alone" in said["living"]
    assert not (runs.path("living") / "events").exists()

    refused = isolated.prov4ml("collect", str(runs.path("living")), code=1)
    assert f"pid {children['living'].pid}" in refused.stderr
    assert not (runs.path("living") / "events").exists()

    torn, account = evidence(runs.path("torn")), isolated.manifest(runs.path("torn"))["accounting"]
    assert str(last) in said["torn"]
    assert account["lost"] == len(held)
    assert account["points"] + points == words("torn")[0]
    assert sorted(s for _, _, s in torn.stored) == list(range(account["points"]))
    assert last.exists()
    assert not before_last.exists()
    assert str(blank) in said["blank"]
    assert isolated.manifest(runs.path("blank"))["status"] == "died"
    assert "is gone" in said["gone"]

    names = [name for name in children if name != "gone"]
    before = [evidence(runs.path(name)).bytes() for name in names]
    left = spool_files()
    again = isolated.prov4ml("recover", code=1)
    for name in ("living", "torn", "blank", "gone"):
        assert _line(again.stdout, runs.path(name)) == said[name]
    assert len(again.stdout.splitlines()) == 4
    assert [evidence(runs.path(name)).bytes() for name in names] == before
    assert spool_files() == left

    runs.end("living", children["living"])
    isolated.prov4ml("recover", code=1)
    found = evidence(runs.path("living"))
    found.complete()
    assert found.manifest["status"] == "finished"
    figures(
        completed=4,
        left_alone=1,
        damaged=2,
        events_at_stake=sum(words(name)[0] for name in names),
        lost_and_counted=len(held),
    )


def test_a_collector_killed_at_the_end(
    isolated: Isolated,
    launch: Callable[..., Any],
    slow_sink: Any,
    prelude: str,
    words: Words,
    evidence: Any,
    spool_files: Callable[[], list[str]],
) -> None:
    """A run whose journals are all taken, and whose documents nobody wrote, is still found."""
    runs = Runs(isolated, words, prelude + LOG)
    collector = launch(**slow_sink.environment)
    child = isolated.spawn(
        *(sys.executable, "train.py", "taken", "100"),
        PROV4ML_COLLECTOR=collector.address,
        **slow_sink.environment,
    )
    isolated.wait(lambda: words("taken")[1], "it logs")
    runs.go_on("taken")
    isolated.wait((runs.path("taken") / "run.json").exists, "the collector has the run")
    runs.kill(child)
    isolated.wait(
        lambda: not list(isolated.spool.rglob("*.seg")), "the collector has taken the journal"
    )
    collector.process.kill()
    collector.process.wait()
    assert isolated.manifest(runs.path("taken"))["closed"] is None
    slow_sink.gate.touch()
    isolated.prov4ml("recover", **slow_sink.environment)
    found = evidence(runs.path("taken"))
    found.complete()
    assert found.logged.total() == words("taken")[0]
    assert found.manifest["status"] in ("killed", "died")
    assert spool_files() == []
    assert "nothing to recover" in isolated.prov4ml("recover").stdout


def _line(text: str, run: Path) -> str:
    """What was said of a run."""
    (line,) = (line for line in text.splitlines() if str(run) in line)
    return line
