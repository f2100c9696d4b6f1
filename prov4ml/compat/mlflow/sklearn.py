"""``mlflow.sklearn``: models of scikit-learn, kept as they are pickled."""

from __future__ import annotations

from typing import Any

from prov4ml.compat.mlflow import _instead, models

__all__ = ["autolog", "log_model"]


def log_model(
    sk_model: Any,
    artifact_path: str | None = None,
    conda_env: Any = None,
    code_paths: Any = None,
    serialization_format: Any = None,
    registered_model_name: str | None = None,
    signature: Any = None,
    input_example: Any = None,
    await_registration_for: int = 300,
    pip_requirements: Any = None,
    extra_pip_requirements: Any = None,
    pyfunc_predict_fn: str = "predict",
    metadata: Any = None,
    extra_files: Any = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
    model_type: str | None = None,
    step: int = 0,
    model_id: str | None = None,
    name: str | None = None,
    skops_trusted_types: list[str] | None = None,
    **kwargs: Any,
) -> models.ModelInfo:
    """A model of the active run; a ``step`` above 0 makes it a checkpoint of that step."""
    return models.keep(
        "sklearn",
        sk_model,
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
            "serialization_format": serialization_format,
            "pip_requirements": pip_requirements,
            "extra_pip_requirements": extra_pip_requirements,
            "extra_files": extra_files,
            "model_id": model_id,
            "skops_trusted_types": skops_trusted_types,
            **kwargs,
        },
    )


def autolog(
    log_input_examples: bool = False,
    log_model_signatures: bool = True,
    log_models: bool = True,
    log_datasets: bool = True,
    disable: bool = False,
    exclusive: bool = False,
    disable_for_unsupported_versions: bool = False,
    silent: bool = False,
    max_tuning_runs: int | None = 5,
    log_post_training_metrics: bool = True,
    serialization_format: str = "cloudpickle",
    registered_model_name: str | None = None,
    pos_label: Any = None,
    extra_tags: Any = None,
) -> None:
    """Refused, unless it is to be switched off: libraries are not patched."""
    _instead.autolog(disable, "mlflow.log_params(model.get_params())")


def __getattr__(name: str) -> Any:
    raise _instead.missing(__name__, name)
