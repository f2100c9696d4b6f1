"""Metric values on a slow device: who ends, dies or forks while they wait makes nothing up.

The device is a stand-in whose scalars are read only when its gate opens; everything else is real.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prov.model as pm
import pytest

from prov4ml import events as ev
from prov4ml import wire
from prov4ml.eventlog import Reader

if TYPE_CHECKING:
    from tests.conftest import Isolated

DEVICES = """
from prov4ml.testing.devices import Device
device = Device()
"""

# word 0: the run is open and everything is logged
KILLED = """
words = shared("killed")
prov4ml.start_run("killed")
for step in range(1000):
    prov4ml.log_metric("loss", device.scalar(step), "training", step)
    prov4ml.log_metric("speed", step / 2, "training", step)
    if step % 10 == 0:  # behind the value that waits
        prov4ml.log_metric("loss", -1.0, "training", step)
words[0] = 1
while True:
    time.sleep(1)
"""


def test_a_killed_process_claims_no_value_that_was_not_read(
    isolated: Isolated,
    prelude: str,
    words: Callable[[str], memoryview],
    evidence: Any,
    closed: Callable[..., None],
    figures: Callable[..., None],
) -> None:
    """What was there is kept; what waited is neither a point nor a series, nor counted as lost."""
    shared = words("killed")
    child = isolated.start(prelude + DEVICES + KILLED)
    isolated.wait(lambda: shared[0] or child.poll() is not None, "everything is logged")
    assert child.poll() is None, child.communicate()
    isolated.wait((isolated.only_run() / "run.json").exists, "a collector has it")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    closed()
    found = evidence(isolated.only_run())
    found.complete()
    assert {name for _, name, _ in found.stored} == {"speed"}
    assert found.stored.total() == 1000
    document = pm.ProvDocument.deserialize(str(found.directory / "prov.json"), format="json")
    series = [
        record
        for record in document.get_records(pm.ProvEntity)
        if "p4:MetricSeries" in {str(t) for t in record.get_asserted_types()}
    ]
    labels = [str(v) for record in series for v in record.get_attribute("prov:label")]
    assert [label for label in labels if "loss" in label] == []
    figures(points_kept=found.stored.total(), values_waiting=1100)


# word 0: the run is open
ANYWHERE = """
words = shared(sys.argv[1])
chance = random.Random(int(sys.argv[2]))

def gate():
    while True:
        time.sleep(chance.random() * 0.02)
        device.gate.set()
        time.sleep(chance.random() * 0.005)
        device.gate.clear()

threading.Thread(target=gate, daemon=True).start()
prov4ml.start_run("anywhere")
words[0] = 1
step = 0
while True:
    prov4ml.log_metric("values", device.scalar(step), "training", step)
    prov4ml.log_metric("mixed", device.scalar(step) if chance.random() < 0.3 else float(step),
                       "training", step)
    prov4ml.log_metric("numbers", step / 7, "training", step)
    step += 1
    if step % 200 == 0:
        time.sleep(0.001)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.soak)])
def test_killed_anywhere_each_series_is_a_beginning_of_its_calls(
    isolated: Isolated,
    prelude: str,
    words: Callable[[str], memoryview],
    evidence: Any,
    closed: Callable[..., None],
    figures: Callable[..., None],
    forget: Callable[..., None],
    pause: Callable[[float], None],
    kills: int,
) -> None:
    """Without a hole, in order, each once and with its value; values and numbers mixed too."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    isolated.write(prelude + DEVICES + ANYWHERE)
    kept: Counter[str] = Counter()
    for start in range(0, kills, 2):
        children = []
        for n in range(start, min(kills, start + 2)):
            child = isolated.spawn(sys.executable, "train.py", f"c{n}", str(seed + n))
            children.append((words(f"c{n}"), child))
        for shared, child in children:
            isolated.wait(lambda s=shared, c=child: s[0] or c.poll() is not None, "a run")
            assert child.poll() is None, child.communicate()
        isolated.wait(
            lambda: all((run / "run.json").exists() for run in isolated.runs()),
            "a collector has them",
        )
        for _, child in children:
            pause(0.05 + chance.random() * 0.5)
            child.send_signal(signal.SIGKILL)
            child.communicate()
        isolated.wait(lambda: all(map(over, isolated.runs())), "all runs are closed")
        for run in isolated.runs():
            found = evidence(run)
            found.complete()
            for name in ("values", "mixed", "numbers"):
                told = [(step, value) for step, value, _ in points(found, name)]
                factor = 7 if name == "numbers" else 1
                assert told == [(n, n / factor) for n in range(len(told))], (name, seed)
                kept[name] += len(told)
            forget(run)
    closed()
    figures(killed=kills, **{f"{name}_kept": count for name, count in sorted(kept.items())})


def over(run: Path) -> bool:
    """Whether a run is closed."""
    path = run / "run.json"
    return path.is_file() and bool(json.loads(path.read_text())["closed"])


ENDED = """
prov4ml.start_run("ended")
running = device.scalar(-1)
for step in range(3000):
    running.fill_(step)  # in place, as a running loss is
    prov4ml.log_metric("loss", running, "training", step)
    if step % 7 == 0:
        prov4ml.log_metric("loss", step + 0.5, "training", step)
assert device.readers in ([], ["prov4ml-readback"])
if sys.argv[1] != "never":
    opened = threading.Timer(0.3, device.gate.set)
    opened.daemon = True
    opened.start()
if sys.argv[2] == "ended":
    prov4ml.end_run()
"""


@pytest.mark.parametrize("end", ["ended", "left open"])
def test_the_end_waits_for_values_that_come(
    isolated: Isolated, prelude: str, evidence: Any, end: str
) -> None:
    """A device that is behind at the end: every value stands, in order, with its own step."""
    isolated.script(prelude + DEVICES + ENDED, "soon", end)
    found = evidence(isolated.only_run())
    found.complete()
    wanted = []
    for step in range(3000):
        wanted.append((step, float(step)))
        if step % 7 == 0:
            wanted.append((step, step + 0.5))
    rows = points(found)
    assert [(step, value) for step, value, _ in rows] == wanted
    times = [moment for *_, moment in rows]
    assert times == sorted(times)  # those of the calls


def points(found: Any, name: str = "loss") -> list[tuple[int, float, int]]:
    """(step, value, time) of a series in the order of the event log, each sequence once."""
    told = []
    reached = 0
    numbers: set[int] = set()
    for frame in Reader(found.directory / "events"):
        if not frame.count:
            continue
        for n, event in enumerate(wire.decode_batch(frame.batch, frame.count), frame.first):
            if isinstance(event, ev.SeriesDefined) and event.name == name:
                numbers.add(event.series)
            elif isinstance(event, ev.Point) and event.series in numbers and n >= reached:
                told.append((event.step, event.value, event.time))
                reached = n + 1
    return told


@pytest.mark.parametrize("address", ["auto", "none"])
def test_the_end_does_not_wait_for_ever(
    isolated: Isolated,
    prelude: str,
    evidence: Any,
    figures: Callable[..., None],
    address: str,
) -> None:
    """A device that never answers: the run ends in its time, and says how much it lost, and why."""
    begun = time.monotonic()
    done = isolated.script(
        prelude + DEVICES + ENDED,
        "never",
        "ended",
        PROV4ML_EXIT_TIMEOUT="4",
        PROV4ML_COLLECTOR=address,
    )
    took = time.monotonic() - begun
    assert took < 60  # the gate of the device gives up then; ours is 4 s
    run = isolated.only_run()
    if address == "none" and not (run / "run.json").exists():
        isolated.prov4ml("collect", str(run))  # its own had too little time left
    isolated.wait(lambda: over(run), "the documents, if there was too little time")
    waiting = 3000 + len(range(0, 3000, 7))
    found = evidence(isolated.only_run())
    account = found.manifest["accounting"]
    assert account["lost"] == waiting
    assert account["sent"] == account["received"] + waiting
    assert account["points"] == 0
    assert found.manifest["status"] == "finished"
    assert "nothing is lost" not in done.stderr
    if address == "auto":
        assert f"{waiting:,} " in done.stderr  # lost; said by the collector, or without it
    document = pm.ProvDocument.deserialize(str(found.directory / "prov.json"), format="json")
    gaps = [
        record
        for record in document.get_records(pm.ProvEntity)
        if "p4:Gap" in {str(t) for t in record.get_asserted_types()}
    ]
    (gap,) = gaps
    assert [str(v) for v in gap.get_attribute("p4:count")] == [str(waiting)]
    assert [str(v) for v in gap.get_attribute("p4:reason")] == [
        "its device did not give the value before the run's end"
    ]
    figures(values_lost=waiting, seconds=took)


FOLDED = """
prov4ml.start_run("folded")
prov4ml.register_final_metric("loss", 0, lambda sum, value: sum + value)
prov4ml.register_final_metric("loss", 0, "last")
for step in range(100):
    prov4ml.log_metric("loss", device.scalar(step) if step % 4 else float(step), "training", step)
opened = threading.Timer(0.2, device.gate.set)
opened.start()
prov4ml.end_run()
"""


def test_a_final_metric_sees_every_value_in_order(
    isolated: Isolated, prelude: str, evidence: Any
) -> None:
    """Folds of the user's own, and the last one, wait for the device as the points do."""
    isolated.script(prelude + DEVICES + FOLDED)
    found = evidence(isolated.only_run())
    found.complete()
    document = pm.ProvDocument.deserialize(str(found.directory / "prov.json"), format="json")
    values = sorted(
        float(value)
        for record in document.get_records(pm.ProvEntity)
        if "mls:ModelEvaluation" in {str(t) for t in record.get_asserted_types()}
        for value in record.get_attribute("prov:value")
    )
    assert values == [99.0, float(sum(range(100)))]


FORKED = """
with prov4ml.start_run("forked") as run:
    for step in range(100):
        prov4ml.log_metric("parents", device.scalar(step), "training", step)
    child = os.fork()
    if child == 0:
        own = Device()
        prov4ml.log_metric("parents", 0.5, "training", 1000)
        prov4ml.log_metric("childs", own.scalar(1), "training", 0)
        own.gate.set()
        while run._readback.waiting:
            time.sleep(0.001)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    device.gate.set()
"""


def test_a_forked_child_leaves_its_parents_values_alone(
    isolated: Isolated, prelude: str, evidence: Any
) -> None:
    """What waited at the fork is written once, by the parent; the child's own by the child."""
    isolated.script(prelude + DEVICES + FORKED)
    found = evidence(isolated.only_run())
    found.complete()
    names = {name for _, name, _ in found.stored}
    assert names == {"parents", "childs"}
    wanted = {(0, "parents", step): 1 for step in (*range(100), 1000)}
    assert found.stored == {**wanted, (0, "childs", 0): 1}


SIGNALLED = """
words = shared("signalled")
caught = 0

def handler(*_):
    global caught
    prov4ml.log_metric("loss", device.scalar(caught), "signals", caught)
    caught += 1

signal.signal(signal.SIGALRM, handler)
with prov4ml.start_run("signalled"):
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    until = time.monotonic() + float(sys.argv[1])
    step = 0
    while time.monotonic() < until:
        prov4ml.log_metric("loss", device.scalar(step), "training", step)
        step += 1
        if step % 500 == 0:
            device.gate.set()
            time.sleep(0.05)
            device.gate.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    device.gate.set()
words[0], words[1] = step, caught
"""


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_values_logged_in_signal_handlers_do_not_hang(
    isolated: Isolated,
    prelude: str,
    words: Callable[[str], memoryview],
    evidence: Any,
    figures: Callable[..., None],
    seconds: int,
) -> None:
    """A handler that interrupts a log call of a value logs one itself: all of them stand."""
    shared = words("signalled")
    isolated.script(prelude + DEVICES + SIGNALLED, str(seconds))
    found = evidence(isolated.only_run())
    found.complete()
    assert shared[1] > 100
    assert found.stored.total() == shared[0] + shared[1]
    figures(values=shared[0], in_handlers=shared[1])
