"""``mlflow.pytorch``: modules and state dicts of PyTorch, kept as state dicts."""

from __future__ import annotations

from typing import Any

from prov4ml.compat.mlflow import _instead, models

__all__ = ["autolog", "log_model", "log_state_dict"]


def log_model(
    pytorch_model: Any,
    artifact_path: str | None = None,
    conda_env: Any = None,
    code_paths: Any = None,
    pickle_module: Any = None,
    registered_model_name: str | None = None,
    signature: Any = None,
    input_example: Any = None,
    await_registration_for: int = 300,
    extra_files: Any = None,
    pip_requirements: Any = None,
    extra_pip_requirements: Any = None,
    metadata: Any = None,
    name: str | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
    model_type: str | None = None,
    step: int = 0,
    model_id: str | None = None,
    export_model: bool = False,
    serialization_format: Any = None,
    **kwargs: Any,
) -> models.ModelInfo:
    """A model of the active run; a ``step`` above 0 makes it a checkpoint of that step."""
    return models.keep(
        "pytorch",
        pytorch_model,
        artifact_path if name is None else name,
        signature=signature,
        input_example=input_example,
        step=step,
        told={
            "registered_model_name": registered_model_name,
            "metadata": metadata,
            "params": params,
            "tags": tags,
            "model_type": model_type,
        },
        unused={
            "conda_env": conda_env,
            "code_paths": code_paths,
            "pickle_module": pickle_module,
            "extra_files": extra_files,
            "pip_requirements": pip_requirements,
            "extra_pip_requirements": extra_pip_requirements,
            "model_id": model_id,
            "export_model": export_model,
            "serialization_format": serialization_format,
            **kwargs,
        },
    )


def log_state_dict(state_dict: Any, artifact_path: str, **kwargs: Any) -> None:
    """Weights of the active run, as a model of that name."""
    models.keep(
        "pytorch",
        state_dict,
        artifact_path,
        signature=None,
        input_example=None,
        step=0,
        told={},
        unused=kwargs,
    )


def autolog(
    log_every_n_epoch: int = 1,
    log_every_n_step: int | None = None,
    log_models: bool = True,
    log_datasets: bool = True,
    disable: bool = False,
    exclusive: bool = False,
    disable_for_unsupported_versions: bool = False,
    silent: bool = False,
    registered_model_name: str | None = None,
    extra_tags: Any = None,
    checkpoint: bool = True,
    checkpoint_monitor: str | None = "val_loss",
    checkpoint_mode: str | None = "min",
    checkpoint_save_best_only: bool = True,
    checkpoint_save_weights_only: bool = False,
    checkpoint_save_freq: str | int = "epoch",
    log_model_signatures: bool = True,
) -> None:
    """Refused, unless it is to be switched off: libraries are not patched."""
    _instead.autolog(disable, "mlflow.log_metric(...) in the training loop")


def __getattr__(name: str) -> Any:
    raise _instead.missing(__name__, name)
