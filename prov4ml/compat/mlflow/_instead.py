"""What MLflow has and we do not: each name, and what to use instead.

``missing`` makes the error for a name.  ``from prov4ml.compat.mlflow import name`` would turn an
AttributeError into "cannot import name"; there an ImportError carries the same text.
"""

from __future__ import annotations

import dis
import sys
from typing import Final

from prov4ml.errors import UsageError

__all__ = ["INSTEAD", "autolog", "missing"]

_RUNS: Final = (
    "`prov4ml runs` and `prov4ml show RUN` list runs; their run.json, metrics/*.parquet and "
    "prov.ttl (SPARQL) answer questions about them"
)
_REGISTRY: Final = (
    "there is no model registry: log_model keeps the model and its provenance in the run directory"
)
_TRACES: Final = "traces of applications are not recorded: prov4ml keeps what training runs do"
_GENAI: Final = "generative applications are not covered: prov4ml keeps what training runs do"
_EXPERIMENTS: Final = "an experiment is a name and has no tags: set_tag says the same of a run"
_KEPT: Final = "what was recorded is kept: remove or move run directories as you would any folder"
_HARDWARE: Final = "metrics of the hardware are not there yet: log_metric takes those you measure"
_FLAVOR: Final = (
    "save the model to a file and use log_artifact, or log_model of sklearn (anything that can be "
    "pickled) or pytorch"
)
_LOAD: Final = (
    "stored models are files below get_artifacts_dir() of a run, named by their SHA-256; prov.json "
    "says which is which"
)
_WORKSPACES: Final = "set_tracking_uri chooses the folder in which runs are kept"


def _all(names: str, text: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), text)


INSTEAD: Final[dict[str, str]] = {
    **_all("MlflowClient client tracking", "the functions of this module act on the active run"),
    **_all("get_logged_model last_logged_model search_logged_models search_runs", _RUNS),
    **_all("search_experiments search_sessions", _RUNS),
    **_all("ActiveModel clear_active_model create_external_model finalize_logged_model", _REGISTRY),
    **_all("get_active_model_id import_checkpoints initialize_logged_model", _REGISTRY),
    **_all("register_model search_model_versions search_registered_models", _REGISTRY),
    **_all("set_active_model set_model_version_tag get_registry_uri set_registry_uri", _REGISTRY),
    "log_model_params": "log_model takes params=",
    "log_outputs": "log_model says that the run made a model",
    **_all("set_logged_model_tags delete_logged_model_tag", "log_model takes tags="),
    **_all("set_experiment_tag set_experiment_tags delete_experiment_tag", _EXPERIMENTS),
    **_all("delete_experiment delete_run restore_experiment restore_run", _KEPT),
    "delete_tag": "a tag that was set is kept: set_tag with another value counts from then on",
    **_all("pyfunc load_table", _LOAD),
    "load_model": _LOAD,
    "save_model": "log_model keeps the model in the run directory",
    "log_stream": "write it to a file and use log_artifact",
    **_all("set_system_metrics_node_id set_system_metrics_samples_before_logging", _HARDWARE),
    "set_system_metrics_sampling_interval": _HARDWARE,
    **_all("run projects", "`prov4ml run -- python train.py` runs a command and records it"),
    "doctor": "`prov4ml doctor` looks at spool, collector, kernel, settings and sinks",
    "login": "there is no server to log in to",
    "evaluate": "log_metrics takes what you measured, log_input the data that it was measured on",
    "validate_evaluation_results": "compare the numbers in your script",
    "metrics": "log_metrics takes what you measured",
    "artifacts": _LOAD,
    **_all("create_workspace delete_workspace get_workspace list_workspaces", _WORKSPACES),
    **_all("set_workspace update_workspace", _WORKSPACES),
    **_all("add_trace context delete_trace_tag flush_trace_async_logging", _TRACES),
    **_all("get_active_trace_id get_current_active_span get_last_active_trace_id", _TRACES),
    **_all("get_trace log_trace search_traces set_trace_tag start_span", _TRACES),
    **_all("start_span_no_context trace tracing update_current_trace otel", _TRACES),
    **_all("delete_assessment get_assessment log_assessment log_expectation", _GENAI),
    **_all("log_feedback log_issue override_feedback update_assessment test", _GENAI),
    **_all("delete_prompt_alias load_prompt register_prompt search_prompts", _GENAI),
    **_all("set_prompt_alias gateway genai prompt agent", _GENAI),
    **_all("catboost diffusers h2o johnsnowlabs keras lightgbm onnx paddle", _FLAVOR),
    **_all("pmdarima prophet pyspark rfunc sentence_transformers shap spacy spark", _FLAVOR),
    **_all("statsmodels tensorflow transformers xgboost", _FLAVOR),
    **_all("ag2 agno anthropic autogen bedrock crewai dspy gemini groq haystack", _GENAI),
    **_all("langchain litellm llama_index mistral openai pydantic_ai", _GENAI),
    **_all("semantic_kernel smolagents strands txtai typesafe", _GENAI),
}


def missing(module: str, name: str) -> AttributeError | ImportError:
    """The error for a name that a module does not have; called by its ``__getattr__``."""
    instead = INSTEAD.get(name)
    if instead is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    text = f"{module}.{name} is not there: {instead}"
    asking = sys._getframe(2)
    wanted = asking.f_lasti >= 0 and asking.f_code.co_code[asking.f_lasti]
    return ImportError(text) if wanted == dis.opmap["IMPORT_FROM"] else AttributeError(text)


def autolog(disable: bool, instead: str) -> None:
    """Refuse what would patch other people's libraries; switching it off is fine."""
    if not disable:
        raise UsageError(f"autolog() is not there: libraries are not patched; use {instead}")
