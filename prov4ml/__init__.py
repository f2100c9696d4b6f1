"""prov4ml records where a trained model came from, as W3C PROV.

    import prov4ml

    prov4ml.start_run("digits")
    prov4ml.log_param("lr", 0.001)
    prov4ml.log_metric("loss", 0.5, context="training", step=1)
    prov4ml.end_run()

The calls are in ``prov4ml.current``; importing this package imports nothing else until one of
them is used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from prov4ml.version import VERSION as __version__

if TYPE_CHECKING:
    from prov4ml.current import (
        CompressorType,
        Context,
        Contexts,
        FoldOperation,
        MetricsType,
        Reference,
        Run,
        active_run,
        activity,
        context,
        end_run,
        epoch,
        get_artifacts_dir,
        get_run_dir,
        log_artifact,
        log_artifacts,
        log_carbon_metrics,
        log_context,
        log_current_execution_time,
        log_dataset,
        log_environment,
        log_execution_command,
        log_execution_end_time,
        log_execution_start_time,
        log_flops_per_batch,
        log_flops_per_epoch,
        log_input,
        log_metric,
        log_metrics,
        log_model,
        log_output,
        log_param,
        log_params,
        log_source_code,
        log_system_metrics,
        register_final_metric,
        save_model_version,
        set_tag,
        start_run,
        timer,
    )
    from prov4ml.errors import MissingExtra, SinkError, UsageError, WireError
    from prov4ml.integrations import (
        IndexedDatasetWrapper,
        ProvenanceTrackedFunction,
        ProvenanceTrackedModel,
        WeightDistributionTrackedModel,
    )

__all__ = [
    "CompressorType",
    "Context",
    "Contexts",
    "FoldOperation",
    "IndexedDatasetWrapper",
    "MetricsType",
    "MissingExtra",
    "ProvenanceTrackedFunction",
    "ProvenanceTrackedModel",
    "Reference",
    "Run",
    "SinkError",
    "UsageError",
    "WeightDistributionTrackedModel",
    "WireError",
    "__version__",
    "active_run",
    "activity",
    "context",
    "end_run",
    "epoch",
    "get_artifacts_dir",
    "get_run_dir",
    "log_artifact",
    "log_artifacts",
    "log_carbon_metrics",
    "log_context",
    "log_current_execution_time",
    "log_dataset",
    "log_environment",
    "log_execution_command",
    "log_execution_end_time",
    "log_execution_start_time",
    "log_flops_per_batch",
    "log_flops_per_epoch",
    "log_input",
    "log_metric",
    "log_metrics",
    "log_model",
    "log_output",
    "log_param",
    "log_params",
    "log_source_code",
    "log_system_metrics",
    "register_final_metric",
    "save_model_version",
    "set_tag",
    "start_run",
    "timer",
]


def __getattr__(name: str) -> Any:
    """Import the calls at the first use of one (PEP 562); then all are plain attributes.

    This function goes with it: the interpreter finds attributes of a module without one faster.
    """
    if name not in __all__:
        raise AttributeError(f"module 'prov4ml' has no attribute {name!r}")
    if sys.platform == "win32" and name == "start_run":
        from prov4ml.errors import UsageError

        raise UsageError("prov4ml records on Linux; on Windows it can only be imported")
    from prov4ml import current, errors, integrations

    space = globals()
    for public in __all__:
        source = next((m for m in (current, integrations) if hasattr(m, public)), errors)
        space.setdefault(public, getattr(source, public, None))
    space.pop("__getattr__", None)
    return space[name]


def __dir__() -> list[str]:
    return __all__
