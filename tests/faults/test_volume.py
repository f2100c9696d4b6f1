"""Many calls and many points: counts are exact, memory is bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated

THREADS = """
import json, sys, threading
import prov4ml

THREADS, CALLS = int(sys.argv[1]), int(sys.argv[2])
sys.setswitchinterval(1e-5)

def work(number):
    for step in range(CALLS):
        if step % 100 == 99:
            prov4ml.set_tag(f"tag {number}", str(step))
        else:
            prov4ml.log_metric(f"series {number % 3}", float(step), source=str(number), step=step)

run = prov4ml.start_run("threads")
threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
prov4ml.end_run()
"""

POINTS = """
import json, sys, time
import prov4ml

POINTS = int(sys.argv[1])

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("RssAnon:"))

run = prov4ml.start_run("points")
prov4ml.log_metric("loss", 0.0, step=0)
import msgspec, zmq  # what the sender imports is no growth
while run._sender.acked == 0:  # ... and what a first exchange needs
    time.sleep(0.01)
before = most = anonymous()
begin = time.monotonic()
for step in range(1, POINTS):
    prov4ml.log_metric("loss", step / 7, step=step)
    if step % 50_000 == 0:
        most = max(most, anonymous())
took = time.monotonic() - begin
most = max(most, anonymous())
prov4ml.end_run()
print(json.dumps({"before": before, "most": most, "end": anonymous(), "took": took}))
"""


def _parts(run: Any) -> list[Any]:
    return sorted((run / "metrics").glob("part-*.parquet"))


def _threads(place: Isolated, figures: Callable[..., None], calls: int) -> None:
    threads = 8
    place.script(THREADS, str(threads), str(calls), PROV4ML_EXIT_TIMEOUT="120")
    manifest = place.manifest()
    account = manifest["accounting"]
    points = threads * (calls - calls // 100)
    assert manifest["status"] == "finished"
    assert (account["lost"], account["rejected"]) == (0, 0)
    assert account["sent"] == account["received"]
    assert account["points"] == points
    (part,) = _parts(place.only_run())
    table = pq.read_table(part, columns=["source", "step"])
    assert table.num_rows == points
    for number in range(threads):
        mine = [
            step
            for source, step in zip(
                table["source"].to_pylist(), table["step"].to_pylist(), strict=True
            )
            if source == str(number)
        ]
        assert sorted(mine) == [s for s in range(calls) if s % 100 != 99]
    figures(threads=threads, calls=threads * calls, lost=account["lost"], points=points)


def test_threads(isolated: Isolated, figures: Callable[..., None]) -> None:
    """8 threads that log at once keep every call, each thread's steps once."""
    _threads(isolated, figures, 10_000)


@pytest.mark.soak
def test_threads_soak(isolated: Isolated, figures: Callable[..., None]) -> None:
    """The same with 100,000 calls each."""
    _threads(isolated, figures, 100_000)


def _points(
    place: Isolated, launch: Callable[..., Any], figures: Callable[..., None], points: int
) -> None:
    collector = launch()
    at_rest = collector.figures()[0]
    most = [at_rest]
    child = place.start(
        POINTS.replace("sys.argv[1]", f"'{points}'"),
        PROV4ML_COLLECTOR=collector.address,
        PROV4ML_EXIT_TIMEOUT="300",
    )

    def over() -> bool:
        most[0] = max(most[0], collector.figures()[0])
        return child.poll() is not None

    place.wait(over, "all points logged and written", 600.0)
    out, err = child.communicate()
    assert child.returncode == 0, err
    told = json.loads(out)
    account = place.manifest()["accounting"]
    assert (account["points"], account["lost"], account["rejected"]) == (points, 0, 0)
    assert (
        sum(pq.ParquetFile(part).metadata.num_rows for part in _parts(place.only_run())) == points
    )
    grown = (told["most"] - told["before"]) / 1e6
    figures(
        points=points,
        seconds=told["took"],
        trainer_before_MB=told["before"] / 1e6,
        trainer_grew_MB=grown,
        collector_at_rest_MB=at_rest / 1e6,
        collector_most_MB=most[0] / 1e6,
    )
    assert grown <= 20
    assert most[0] <= 300e6


def test_points(
    isolated: Isolated, launch: Callable[..., Any], figures: Callable[..., None]
) -> None:
    """A million points of one rank: all there, the trainer grows by 20 MB at most, the collector
    stays below 300 MB."""
    _points(isolated, launch, figures, 1_000_000)


@pytest.mark.soak
def test_points_soak(
    isolated: Isolated, launch: Callable[..., Any], figures: Callable[..., None]
) -> None:
    """The same with ten million points."""
    _points(isolated, launch, figures, 10_000_000)
