"""A run that records nothing: ``PROV4ML_DISABLED=1``, and ``on_error="warn"``."""

from __future__ import annotations

from pathlib import Path

import pytest

from prov4ml.disabled import DisabledRun
from prov4ml.errors import UsageError


def test_every_call_checks_its_arguments_and_returns(tmp_path: Path) -> None:
    """Metrics of old and new series, parameters, files, models, contexts, the end."""
    file = tmp_path / "weights.bin"
    file.write_bytes(b"weights")
    with DisabledRun("digits") as run:
        for step in range(3):
            run.log_metric("loss", 0.5, "training", step)
            run.log_metrics({"loss": 1, "accuracy": 0.5})
        run.log_param("notes", "x" * 2000)
        run.set_tag("purpose", "none")
        with run.context("training"):
            run.log_artifact(file)
            run.log_artifact("weights", file, copy=False)
        run.save_model_version(b"weights", "mlp", step=3)
        run.log_model(file, "mlp")
        run.log_dataset([1, 2, 3], "train", "training")
        with pytest.raises(TypeError):
            run.log_metric("loss", "high")
        with pytest.raises(UsageError):
            run.log_artifact(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]
