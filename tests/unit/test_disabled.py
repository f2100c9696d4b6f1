"""``PROV4ML_DISABLED=1`` and ``on_error="warn"``: calls check their arguments and leave nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import prov4ml
from prov4ml.disabled import DisabledRun
from prov4ml.testing.devices import Device


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; what a test leaves open is ended."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROV4ML_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    if prov4ml.active_run() is not None:
        prov4ml.end_run()


def _every_call(file: Path) -> None:
    prov4ml.log_param("lr", 0.1)
    prov4ml.log_param("text", "long " * 1000)
    prov4ml.log_params({"a": [1, 2], "b": None})
    prov4ml.log_metric("loss", 0.5)
    prov4ml.log_metric("loss", 0.5, "training", 3, source="here", timestamp=1.5)
    prov4ml.log_metrics({"loss": 1, "accuracy": 0.5}, context="training", step=1)
    prov4ml.set_tag("who", "me")
    with prov4ml.context("training"):
        prov4ml.log_metric("loss", 2)
    prov4ml.log_artifact(file)
    prov4ml.log_artifact("name", file, is_input=True, copy=False)
    prov4ml.log_dataset([1, 2, 3], "data")
    prov4ml.log_dataset(file, "file", "training")
    prov4ml.save_model_version(b"weights", "model", "training", 1)
    prov4ml.log_model({"w": 1}, "model")
    prov4ml.log_model("model", {"w": 1}, False, is_input=True, log_as_artifact=False)
    prov4ml.log_dataset("data", [1, 2, 3], False)
    prov4ml.log_artifact(file, prov4ml.Context.TRAINING, 3)
    prov4ml.log_artifact("weights", file, is_model=True)
    raw = prov4ml.log_artifacts(file.parent)
    made = prov4ml.log_artifact(
        "notes", text="x", derived_from=[raw, "name", "https://x.example/a"]
    )
    assert (made.name, made.iri) == ("notes", "")
    prov4ml.log_artifact("settings", {"a": 1}, derived_from=made)
    prov4ml.log_input("https://data.example/set.csv")
    prov4ml.log_input([1, 2, 3], "values")
    prov4ml.log_output(b"bytes", "out", "training", 3, derived_from="values")
    prov4ml.log_source_code(file)
    prov4ml.log_source_code()
    prov4ml.log_environment()
    prov4ml.log_execution_command("python", file)
    prov4ml.log_param("tokens", 1, "training", source="file", is_input=True)
    prov4ml.log_system_metrics("training", 1)
    prov4ml.log_carbon_metrics(prov4ml.Contexts.TRAINING, step=1)
    device = Device()
    prov4ml.log_metric("loss", device.scalar(0.5))
    assert device.readers == []
    prov4ml.log_context("warm-up", is_subcontext_of="training")
    with prov4ml.epoch(3, activity=True), prov4ml.activity("step", context="training", a=1) as step:
        step.used(file, "name of something")
        step.generated(str(file))
        with prov4ml.timer("forward", "training", 3):
            assert prov4ml.activity(len)([1]) == 1
    prov4ml.register_final_metric("loss", 10, prov4ml.FoldOperation.MIN, context="training")
    prov4ml.register_final_metric("loss", 10, lambda before, value: before + value)
    prov4ml.log_metric("loss", 0.5)
    prov4ml.log_execution_start_time()
    prov4ml.log_execution_end_time()
    prov4ml.log_current_execution_time("seconds", "training", 3)
    assert isinstance(prov4ml.get_run_dir(), Path)
    assert isinstance(prov4ml.get_artifacts_dir(), Path)


def _wrong_calls() -> None:
    with pytest.raises(TypeError, match="value must be a number"):
        prov4ml.log_metric("loss", "high")
    with pytest.raises(prov4ml.UsageError, match="derived_from: nothing named 'missing'"):
        prov4ml.log_artifact("a", b"x", derived_from="missing")
    with pytest.raises(prov4ml.UsageError, match="there is no file 'missing'"):
        prov4ml.log_artifact("missing")
    with pytest.raises(TypeError, match="dataset must be a dataset"):
        prov4ml.log_dataset(None, "a")
    with pytest.raises(prov4ml.UsageError, match="format must be one of"):
        prov4ml.log_model(object(), "a", format="onnx")
    with pytest.raises(prov4ml.UsageError, match="key must not be empty") as caught:
        prov4ml.log_metric("", 1.0)
    assert caught.value.__context__ is None
    with pytest.raises(TypeError, match="step must be an integer, not str"):
        prov4ml.log_system_metrics("training", "one")  # type: ignore[arg-type]
    with pytest.raises(prov4ml.UsageError, match="context must not be empty"):
        prov4ml.log_carbon_metrics("")
    with pytest.raises(TypeError, match="source must be a string"):
        prov4ml.log_param("lr", 1, source=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="label and dataset_label, which mean the same"):
        prov4ml.log_dataset([1], "a", dataset_label="b")
    with pytest.raises(TypeError, match="model_name must be a string, not int"):
        prov4ml.save_model_version(b"weights", 3)
    with pytest.raises(TypeError, match="step must be an integer"):
        prov4ml.log_metric("loss", 1.0, step=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be a string"):
        prov4ml.log_param(3, 1)  # type: ignore[arg-type]
    with pytest.raises(prov4ml.UsageError, match="there is no file"):
        prov4ml.log_artifact("missing.bin")
    with pytest.raises(TypeError, match="number must be an integer"), prov4ml.epoch(0.5):  # type: ignore[arg-type]
        pass
    with pytest.raises(TypeError, match="must be a path, a name"), prov4ml.activity("a") as a:
        a.used(3)
    with pytest.raises(prov4ml.UsageError, match="fold_operation median is unknown"):
        prov4ml.register_final_metric("loss", 0, "median")
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        prov4ml.log_flops_per_batch("flops", object(), [1])
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        prov4ml.log_flops_per_epoch("flops", object(), [1])
    with pytest.raises(prov4ml.UsageError, match="is_subcontext_of"):
        prov4ml.log_context("training", "warm-up")


def test_disabled_calls_check_and_leave_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right calls return, wrong ones raise, and no file or folder is made."""
    monkeypatch.setenv("PROV4ML_DISABLED", "1")
    file = folder / "data.bin"
    file.write_bytes(b"data")
    with prov4ml.start_run("nothing") as run:
        assert isinstance(run, DisabledRun)
        _every_call(file)
        _wrong_calls()
    assert [path.name for path in folder.iterdir()] == ["data.bin"]


def test_warn_makes_a_mistake_in_the_settings_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run records nothing, says why, and its calls behave as always."""
    file = folder / "data.bin"
    file.write_bytes(b"data")
    with pytest.raises(prov4ml.UsageError, match="no_such_sink"):
        prov4ml.start_run("e", sinks=["no_such_sink"])
    prov4ml.start_run("e", sinks=["no_such_sink"], on_error="warn")
    _every_call(file)
    _wrong_calls()
    prov4ml.end_run()
    assert [path.name for path in folder.iterdir()] == ["data.bin"]


def test_calls_without_a_run_are_refused(folder: Path) -> None:
    """Before start_run and after end_run each call says what to do."""
    for call in (
        lambda: prov4ml.log_metric("loss", 1.0),
        lambda: prov4ml.log_metrics({"loss": 1.0}),
        lambda: prov4ml.log_param("lr", 1),
        lambda: prov4ml.set_tag("a", "b"),
        lambda: prov4ml.log_model(b"", "m"),
        lambda: prov4ml.epoch(1),
        lambda: prov4ml.activity("a").__enter__(),
        lambda: prov4ml.timer("t"),
        lambda: prov4ml.log_context("c"),
        lambda: prov4ml.register_final_metric("loss", 0, "min"),
        prov4ml.log_execution_start_time,
        prov4ml.get_run_dir,
        prov4ml.end_run,
    ):
        with pytest.raises(prov4ml.UsageError, match="call start_run first"):
            call()
    assert prov4ml.active_run() is None
