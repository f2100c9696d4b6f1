"""What a type checker sees of the public calls; checked by ``test_types.py``, never run."""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import prov4ml
from prov4ml import Context, Run, start_run


@prov4ml.activity
def double(x: int) -> int:
    return 2 * x


@prov4ml.activity("named", level=3)
def named(x: int) -> int:
    return x


@prov4ml.activity()
def steps(x: int) -> Iterator[int]:
    yield x


def calls() -> None:
    run = start_run("digits", provenance_save_dir=Path("prov"), sinks=["turtle", "+svg"])
    assert_type(run, Run)
    assert_type(prov4ml.log_metric("loss", 0.5, context=Context.TRAINING, step=1), None)
    assert_type(prov4ml.log_metrics({"loss": 0.5, "accuracy": 1}, "training"), None)
    assert_type(prov4ml.log_param("lr", 0.1), None)
    assert_type(prov4ml.log_params({"lr": 0.1, "layers": [1, 2]}), None)
    assert_type(prov4ml.set_tag("team", "vision"), None)
    assert_type(prov4ml.get_run_dir(), Path)
    assert_type(prov4ml.active_run(), Run | None)
    with prov4ml.context("training"):
        made = prov4ml.log_artifact("notes.txt")
        assert_type(made, prov4ml.Reference)
        assert_type(made.iri, str)
        prov4ml.log_artifact("more", {"a": 1}, derived_from=[made, "notes.txt"])
        assert_type(prov4ml.log_input([1], "values", derived_from=made), prov4ml.Reference)
        assert_type(prov4ml.log_source_code(), prov4ml.Reference | None)
        prov4ml.log_artifact("notes", Path("notes.txt"), is_input=True)
    with prov4ml.epoch(3), prov4ml.epoch(3, activity=True), prov4ml.timer("forward", step=1):
        prov4ml.log_context("warm-up", is_subcontext_of="training")
    with prov4ml.activity("tokenise", context="training", vocab=3) as step:
        assert_type(step.used("a", Path("b"), copy=False), None)
    assert_type(double(3), int)
    assert_type(named(3), int)
    assert_type(steps(3), Iterator[int])
    assert_type(prov4ml.register_final_metric("loss", 0, prov4ml.FoldOperation.MIN), None)
    prov4ml.register_final_metric("loss", 0, "min", context="training")
    prov4ml.register_final_metric("loss", 0, lambda before, value: before + value)
    prov4ml.log_current_execution_time("seconds", "training", 3)
    prov4ml.log_flops_per_batch("flops", object(), [1], step=3)
    with start_run("again") as other:
        assert_type(other, Run)
        other.log_metric("loss", 1.0)
    prov4ml.end_run(create_svg=False)


def orders() -> None:
    prov4ml.start_run("e", metrics_file_type=prov4ml.MetricsType.CSV, use_compressor=True)
    prov4ml.log_dataset("label", [1, 2])
    prov4ml.log_model("name", object(), True)
    prov4ml.save_model_version("name", object(), prov4ml.Contexts.TRAINING, 3)
    prov4ml.log_param("lr", 0.1, context="training", source="file")
    prov4ml.end_run(True, True, crate_ro_crate=True)


def mistakes() -> None:
    prov4ml.log_metric(1, 0.5)  # type: ignore[arg-type]
    prov4ml.log_metric("loss", 0.5, stpe=1)  # type: ignore[call-arg]
    prov4ml.start_run(sinks="turtle")  # type: ignore[call-arg, arg-type]
    prov4ml.start_run("e", experiment="f")  # type: ignore[arg-type]
    prov4ml.end_run(create_grph=True)  # type: ignore[arg-type]
    prov4ml.log_params([("lr", 0.1)])  # type: ignore[arg-type]
    prov4ml.epoch("3")  # type: ignore[arg-type]
    prov4ml.epoch(3, True)  # type: ignore[call-arg]
    prov4ml.activity(3)  # type: ignore[call-overload]
    double("x")  # type: ignore[arg-type]
    prov4ml.register_final_metric("loss", 0, 3)  # type: ignore[arg-type]
