"""What a type checker sees of the public calls; checked by ``test_types.py``, never run."""

from pathlib import Path
from typing import assert_type

import prov4ml
from prov4ml import Context, Run, start_run


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
        prov4ml.log_artifact("notes.txt")
        prov4ml.log_artifact("notes", Path("notes.txt"), is_input=True)
    with start_run("again") as other:
        assert_type(other, Run)
        other.log_metric("loss", 1.0)
    prov4ml.end_run(create_svg=False)


def mistakes() -> None:
    prov4ml.log_metric(1, 0.5)  # type: ignore[arg-type]
    prov4ml.log_metric("loss", 0.5, stpe=1)  # type: ignore[call-arg]
    prov4ml.start_run(sinks="turtle")  # type: ignore[call-arg, arg-type]
    prov4ml.log_params([("lr", 0.1)])  # type: ignore[arg-type]
