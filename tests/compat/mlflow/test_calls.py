"""What MLflow's calls do and refuse on prov4ml: stacks, ends, places, wrong input."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import prov4ml
from prov4ml.compat import mlflow
from prov4ml.compat.mlflow import _places, _runs

if TYPE_CHECKING:
    from tests.conftest import Isolated

HEAD = """
import os, sys, threading
import prov4ml
import prov4ml.compat.mlflow as mlflow
from prov4ml.compat.mlflow import MlflowException

def refused(call, kind=MlflowException):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError("not refused")
"""


def points(left: Any) -> Counter[tuple[str, int, float]]:
    return Counter((p["name"], p["step"], p["value"]) for p in left.points)


def test_calls_go_to_the_innermost_run(isolated: Isolated, read: Any) -> None:
    """Also those of prov4ml itself; when an inner run ends the outer one is current again."""
    isolated.script(
        HEAD
        + """
with mlflow.start_run() as outer:
    mlflow.log_metric("m", 1)
    with mlflow.start_run(nested=True) as inner:
        assert mlflow.active_run() is inner
        mlflow.log_metric("m", 2)
        prov4ml.log_metric("m", 3.0, step=9)
        mlflow.log_metric("m", 4, run_id=outer.info.run_id)
        assert prov4ml.active_run().id == inner.info.run_id
    prov4ml.log_metric("m", 5.0)
    third = mlflow.start_run(nested=True)
    prov4ml.end_run()
    assert mlflow.active_run() is outer
    mlflow.log_metric("m", 6)
    mlflow.start_run(nested=True)  # left open: ends with the outer one
assert mlflow.active_run() is None
assert prov4ml.active_run() is None
assert inner.info.status == outer.info.status == "FINISHED"
assert outer.data.metrics == {"m": 6.0} and inner.data.metrics == {"m": 2.0}
"""
    )
    outer, inner, third, fourth = (read(run) for run in isolated.runs())
    assert points(outer) == {("m", 0, 1): 1, ("m", 0, 4): 1, ("m", None, 5): 1, ("m", 0, 6): 1}
    assert points(inner) == {("m", 0, 2): 1, ("m", 9, 3): 1}
    for left in (outer, inner, third, fourth):
        left.check()
        assert left.manifest["status"] == "finished"
    assert {r.manifest["part_of"] for r in (inner, third, fourth)} == {
        f"https://w3id.org/prov4ml/run/{outer.manifest['run']}/run"
    }


def test_each_thread_has_runs_of_its_own(isolated: Isolated, read: Any) -> None:
    """A thread sees no other's run; one that logs without a run starts one, as with MLflow."""
    isolated.script(
        HEAD
        + """
seen = []

def work(n):
    assert mlflow.active_run() is None
    with mlflow.start_run(run_name=f"thread {n}"):
        barrier.wait(30)
        for step in range(100):
            mlflow.log_metric("m", n, step)
        barrier.wait(30)
    assert mlflow.last_active_run().info.run_name == f"thread {n}"

def bare():
    mlflow.log_metric("bare", 1)
    seen.append(mlflow.active_run().info.run_id)
    mlflow.end_run()

mlflow.set_experiment("threads")
with mlflow.start_run(run_name="main") as run:
    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    threads.append(threading.Thread(target=bare))
    [t.start() for t in threads]
    barrier.wait(30)
    mlflow.log_metric("m", 7)
    barrier.wait(30)
    [t.join(30) for t in threads]
    assert seen and seen[0] != run.info.run_id
    mlflow.log_metric("m", 8)
"""
    )
    assert sorted(sum(points(read(run)).values()) for run in isolated.runs()) == [1, 2, 100, 100]
    for run in isolated.runs():
        left = read(run)
        assert left.manifest["part_of"] is None
        assert len({p["value"] for p in left.points if p["step"]}) <= 1
        left.check()


def test_ends(isolated: Isolated) -> None:
    """An exception, a status, the end of the script: each is told as it was."""
    done = isolated.script(
        HEAD
        + """
try:
    with mlflow.start_run():
        raise ValueError("bad loss")
except ValueError:
    pass
assert mlflow.last_active_run().info.status == "FAILED"
mlflow.start_run()
mlflow.end_run("KILLED")
mlflow.end_run()  # none is active: nothing happens
mlflow.start_run()
said = refused(lambda: mlflow.end_run("RUNNING"))
assert said == "status: 'RUNNING' ends no run; give FINISHED, FAILED, KILLED", said
mlflow.end_run(status="FAILED")
mlflow.log_param("left", "open")
with mlflow.start_run(nested=True):
    mlflow.log_metric("deep", 1)
    sys.exit(3)
""",
        code=3,
    )
    ends = [isolated.manifest(run) for run in isolated.runs()]
    assert [end["status"] for end in ends] == ["failed", "killed", "failed", "failed", "failed"]
    assert ends[0]["error"] == "ValueError: bad loss"
    assert ends[3]["ranks"][0]["exit_code"] == ends[4]["ranks"][0]["exit_code"] == 3
    assert ends[4]["part_of"].endswith(f"{ends[3]['run']}/run")
    assert all(end["closed"] for end in ends)
    assert "Traceback" not in done.stderr


def test_a_kill_inside_of_a_nested_run(isolated: Isolated, read: Any) -> None:
    """SIGKILL ends both runs; what both had logged stands in both records."""
    child = isolated.start(
        HEAD
        + """
import glob, time
with mlflow.start_run():
    with mlflow.start_run(nested=True):
        deadline = time.monotonic() + 30
        while len(glob.glob("prov/*/run.json")) < 2:  # the collector knows both
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for step in range(1000):
            mlflow.log_metric("inner", step, step)
            mlflow.log_metric("outer", step, step, run_id=mlflow.get_parent_run(
                mlflow.active_run().info.run_id).info.run_id)
        os.kill(os.getpid(), 9)
"""
    )
    assert child.wait(60) == -9
    child.communicate()

    def closed() -> bool:
        told = [run / "run.json" for run in isolated.runs()]
        return len(told) == 2 and all(
            p.exists() and isolated.manifest(p.parent)["closed"] for p in told
        )

    isolated.wait(closed, "both runs are closed")
    outer, inner = (read(run) for run in isolated.runs())
    for left, name in ((outer, "outer"), (inner, "inner")):
        left.check()
        assert left.manifest["status"] in ("died", "killed")
        assert left.manifest["accounting"]["lost"] == 0
        assert points(left) == {(name, step, float(step)): 1 for step in range(1000)}
    assert inner.manifest["part_of"] == f"https://w3id.org/prov4ml/run/{outer.manifest['run']}/run"


def test_forked_children(isolated: Isolated, read: Any) -> None:
    """A child logs into the run that it was forked in, and starts runs that are part of it."""
    isolated.script(
        HEAD
        + """
with mlflow.start_run() as run:
    pid = os.fork()
    if not pid:
        mlflow.log_metric("child", 1)
        with mlflow.start_run(nested=True):
            mlflow.log_metric("own", 2)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    mlflow.log_metric("parent", 3)
    assert mlflow.active_run() is run
"""
    )
    outer, inner = (read(run) for run in isolated.runs())
    assert points(outer) == {("child", 0, 1): 1, ("parent", 0, 3): 1}
    assert points(inner) == {("own", 0, 2): 1}
    assert inner.manifest["part_of"].endswith(f"{outer.manifest['run']}/run")
    inner.check()
    for left in (outer, inner):
        assert left.document == left.provn
        assert left.manifest["status"] == "finished"
        assert left.manifest["accounting"]["lost"] == 0


def test_refusals_and_returned_values(isolated: Isolated) -> None:
    """What MLflow refuses is a MlflowException; values and run data are those of MLflow."""
    isolated.script(
        HEAD
        + """
with mlflow.start_run(tags={"a": 1}) as run:
    assert "start_run(nested=True)" in refused(mlflow.start_run, prov4ml.UsageError)
    assert "is not the active run" in refused(
        lambda: mlflow.start_run(nested=True, parent_run_id="other"))
    assert mlflow.log_param("x", [1, 2]) == [1, 2]
    assert mlflow.log_param("x", [1, 2], synchronous=False).wait() is None
    assert "parameter 'x' is '[1, 2]'" in refused(lambda: mlflow.log_param("x", 3))
    assert mlflow.log_params({"y": 1}) is None
    assert mlflow.log_metric("m", 1) is None
    assert mlflow.log_metric("m", float("nan"), 2, synchronous=False).wait() is None
    assert run.data.params == {"x": "[1, 2]", "y": "1"}
    assert run.data.tags == {"a": "1"}
    mlflow.set_tags({"a": 2, "mlflow.runName": "renamed"})
    assert run.info.run_name == "renamed"
    assert "not open in this process" in refused(lambda: mlflow.log_metric("m", 1, run_id="zz"))
    assert "is open" in refused(
        lambda: mlflow.start_run(run_id=run.info.run_id, nested=True))
    assert "try: prov4ml show" in refused(lambda: mlflow.get_run("zz"))
    assert mlflow.get_artifact_uri() == run.info.artifact_uri
    assert mlflow.get_artifact_uri("a b") == f"runs:/{run.info.run_id}/a%20b"
    both = {"mlflow.note.content": "a"}
    assert refused(lambda: mlflow.start_run(nested=True, tags=both, description="b"))
assert "no run 'zz'" in refused(lambda: mlflow.start_run(run_id="zz"))
assert "no run 'zz'" in refused(lambda: mlflow.start_run(parent_run_id="zz"))
assert mlflow.get_parent_run(run.info.run_id) is None
assert mlflow.get_run(run.info.run_id).info.end_time >= run.info.start_time
for name in ("mlflow", "numpy", "pandas", "pyarrow", "torch", "sklearn", "PIL"):
    assert name not in sys.modules, name
"""
    )
    assert len(isolated.runs()) == 1


def test_places_and_experiments(isolated: Isolated) -> None:
    """A path or file: URI chooses the folder, a server's URI warns once and hides secrets."""
    done = isolated.script(
        HEAD
        + """
from pathlib import Path
here = Path.cwd()
assert not mlflow.is_tracking_uri_set()
assert mlflow.get_tracking_uri() == (here / "prov").as_uri()
mlflow.set_tracking_uri("file://" + str(here / "a b").replace(" ", "%20"))
mlflow.start_run(); mlflow.end_run()
mlflow.set_tracking_uri("plain")
mlflow.set_experiment("second")
mlflow.start_run(); mlflow.end_run()
mlflow.set_tracking_uri(here / "path")
assert mlflow.get_tracking_uri() == (here / "path").as_uri()
id = mlflow.create_experiment("made")
assert "exists" in refused(lambda: mlflow.create_experiment("made"))
assert mlflow.get_experiment_by_name("nobody") is None
assert mlflow.get_experiment_by_name("made").experiment_id == id
with mlflow.start_run(experiment_id=id) as run:
    assert run.info.experiment_id == id
assert mlflow.get_experiment(id).name == "made"
assert "no experiment" in refused(lambda: mlflow.get_experiment("nobody"))
assert mlflow.get_experiment("0").name == "Default"
assert mlflow.set_experiment(experiment_id="0").name == "Default"
refused(lambda: mlflow.set_experiment("a", "b"))
refused(lambda: mlflow.set_experiment())
refused(lambda: mlflow.set_tracking_uri("file://otherhost/x"), prov4ml.UsageError)
mlflow.set_tracking_uri("http://me:secret@127.0.0.1:9/x")
for _ in range(3):
    mlflow.start_run(); mlflow.end_run()
assert mlflow.get_tracking_uri() == "http://me:secret@127.0.0.1:9/x"
"""
    )
    made = {f"{p.parent.name}/{p.name}" for p in isolated.folder.glob("*/*_*") if p.is_dir()}
    assert made == {
        "a b/Default_0",
        "plain/second_0",
        "path/made_0",
        "prov/Default_0",
        "prov/Default_1",
        "prov/Default_2",
    }
    warned = [line for line in done.stderr.splitlines() if "nothing is sent to" in line]
    assert len(warned) == 1
    assert "***@127.0.0.1" in warned[0]
    assert "secret" not in done.stderr


def test_variables_of_mlflow(isolated: Isolated) -> None:
    """Folder, experiment and the run to go on with are taken from MLflow's variables."""
    text = "import prov4ml.compat.mlflow as mlflow\nwith mlflow.start_run() as run:\n"
    text += "    mlflow.log_metric('m', 1)\nprint(run.info.run_id)\n"
    place = {"MLFLOW_TRACKING_URI": "store", "MLFLOW_EXPERIMENT_NAME": "from outside"}
    first = isolated.script(text, **place).stdout.strip()
    again = isolated.script(text, **place, MLFLOW_RUN_ID=first).stdout.strip()
    assert again == first
    (run,) = isolated.runs("store")
    manifest = isolated.manifest(run)
    assert (manifest["experiment"], manifest["attempts"]) == ("from outside", 2)
    assert manifest["accounting"]["points"] == 2
    isolated.script(text, MLFLOW_TRACKING_URI="store", MLFLOW_EXPERIMENT_ID="by id")
    assert (isolated.folder / "store" / "by%20id_0").is_dir()


# ----------------------------------------------------------------- wrong input, nothing recorded


@pytest.fixture
def off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder in which runs record nothing."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PROV4ML_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROV4ML_DISABLED", "1")
    monkeypatch.setattr(_places, "_uri", None)
    monkeypatch.setattr(_places, "_experiment", None)
    yield tmp_path
    while mlflow.active_run() is not None:
        mlflow.end_run()
    _runs._known.clear()


class Bad:
    """Neither text nor size."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __len__(self) -> int:
        raise RuntimeError("no size")


def cyclic() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["self"] = made
    return made


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("log_metric", ("m", "high"), TypeError, "value must be a number"),
    ("log_metric", ("", 1.0), ValueError, "key must not be empty"),
    ("log_metric", ("m", 1.0, 1.5), TypeError, "step must be an integer"),
    ("log_metric", ("m", Bad()), TypeError, "value must be a single number"),
    ("log_metrics", ([("m", 1)],), TypeError, "metrics must be a mapping"),
    ("log_param", (3, 1), TypeError, "key must be a string"),
    ("log_param", ("k", Bad()), ValueError, r"value: a Bad whose str\(\) fails"),
    ("log_params", (["k"],), TypeError, "params must be a mapping"),
    ("set_tags", ("k",), TypeError, "tags must be a mapping"),
    ("start_run", (None, None, None, True, None, "tag"), TypeError, "tags must be a mapping"),
    ("start_run", (None, 3.5, None, True), TypeError, "experiment_id must be a string"),
    ("set_experiment", (7,), TypeError, "experiment_name must be a string"),
    ("set_experiment", ("0",), ValueError, "is the id of the experiment 'Default'"),
    ("set_tracking_uri", (7,), TypeError, "uri must be a path or a URI"),
    ("log_artifact", ("missing.bin",), ValueError, "local_path: there is no file or folder"),
    ("log_artifact", (7,), TypeError, "local_path must be a path"),
    ("log_artifacts", ("missing",), ValueError, "local_dir: there is no folder"),
    ("log_text", (b"bytes", "a.txt"), TypeError, "text must be a string"),
    ("log_text", ("text", ""), ValueError, "artifact_file must not be empty"),
    ("log_dict", (cyclic(), "a.json"), ValueError, "dictionary cannot be written as JSON"),
    ("log_dict", ({"a": Bad()}, "a.json"), ValueError, "dictionary cannot be written as JSON"),
    ("log_dict", ({(1, 2): 3}, "a.json"), ValueError, "dictionary cannot be written as JSON"),
    ("log_dict", ("text", "a.json"), TypeError, "dictionary must be a dict"),
    ("log_figure", (Bad(), "a.png"), TypeError, "figure must be a figure"),
    ("log_image", (Bad(), "a.png"), TypeError, "image must be an array"),
    ("log_image", (Bad(), "a.png", "key"), ValueError, "give one of artifact_file and key"),
    ("log_table", ({"a": [1, 2], "b": [1]}, "a.json"), ValueError, "the columns differ in length"),
    ("log_table", ({"a": [1, 2], "b": 1}, "a.json"), ValueError, "the column 'b' is no list"),
    ("log_table", ({"a": [1]}, "a.csv"), ValueError, r"must end with .json or .parquet"),
    ("log_table", ([1], "a.json"), TypeError, "data must be a dict or a DataFrame"),
    ("log_input", ([1, 2],), TypeError, "dataset must come from mlflow.data"),
    ("log_input", (mlflow.data.from_numpy([1]), 7), TypeError, "context must be a string"),
    ("log_inputs", ([mlflow.data.from_numpy([1])], ["a", "b"]), ValueError, "differ in length"),
    ("autolog", (), ValueError, "use log_params, log_metric and log_model"),
    ("end_run", ("DONE",), ValueError, "'DONE' ends no run"),
]


@pytest.mark.parametrize(("name", "arguments", "kind", "text"), WRONG)
def test_wrong_arguments(
    name: str, arguments: tuple[Any, ...], kind: type[Exception], text: str, off: Path
) -> None:
    """Each is a TypeError or UsageError that names the argument."""
    with mlflow.start_run():
        with pytest.raises(kind, match=text) as caught:
            getattr(mlflow, name)(*arguments)
        assert isinstance(caught.value, TypeError | prov4ml.UsageError)


def test_disabled_calls_leave_nothing(off: Path) -> None:
    """``PROV4ML_DISABLED=1``: right calls return, nested runs too, and no file is made."""
    mlflow.autolog(disable=True)
    mlflow.set_experiment("nothing")
    with mlflow.start_run(run_name="a", description="b", log_system_metrics=False) as run:
        mlflow.log_param("k", 1, synchronous=True)
        mlflow.log_metric("m", 1, run_id=run.info.run_id)
        mlflow.log_dict({"a": float("nan"), "b": {1: 2}}, "a.json")
        mlflow.log_table({"a": 1, "b": "x"}, "a.json")
        mlflow.log_input(mlflow.data.from_numpy([1, 2]), "training", {"a": "b"})
        mlflow.log_inputs([mlflow.data.from_numpy([1])] * 2, ["training", None])
        info = mlflow.sklearn.log_model({"w": 1}, name="model", input_example={"x": [1.0]}, step=2)
        assert info.signature is not None
        assert json.loads(str(info.signature.to_dict()["inputs"]))[0]["name"] == "x"
        with mlflow.start_run(nested=True):
            mlflow.log_metrics({"m": 1})
        assert mlflow.active_run() is run
        mlflow.flush_async_logging()
    assert not list(off.iterdir())
