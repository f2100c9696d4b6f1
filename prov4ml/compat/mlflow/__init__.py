"""MLflow's calls, recorded by prov4ml: ``import prov4ml.compat.mlflow as mlflow``.

A script that logs through MLflow's functions runs with that import changed.  Signatures are
MLflow's; what a call becomes in the provenance stands in ``prov4ml/docs/logging.md``.  A run
without ``set_experiment`` belongs to the experiment "Default", a metric without a step has step
0, a log call without a run starts one: as in MLflow.  A name of MLflow's that is missing here is
an error that says what to use instead.  Nothing of MLflow is imported, nothing is sent anywhere.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from prov4ml import hot
from prov4ml.compat.mlflow import _contents, _instead, _places, _runs, data
from prov4ml.compat.mlflow._places import Experiment
from prov4ml.compat.mlflow._runs import ActiveRun
from prov4ml.compat.mlflow.exceptions import MlflowException
from prov4ml.errors import UsageError
from prov4ml.talk import log

if TYPE_CHECKING:
    from prov4ml.compat.mlflow import exceptions, models, pytorch, sklearn

__all__ = [
    "ActiveRun",
    "Experiment",
    "Image",
    "MlflowException",
    "active_run",
    "autolog",
    "create_experiment",
    "data",
    "disable_system_metrics_logging",
    "enable_system_metrics_logging",
    "end_run",
    "exceptions",
    "flush_artifact_async_logging",
    "flush_async_logging",
    "get_artifact_uri",
    "get_experiment",
    "get_experiment_by_name",
    "get_parent_run",
    "get_run",
    "get_tracking_uri",
    "is_tracking_uri_set",
    "last_active_run",
    "log_artifact",
    "log_artifacts",
    "log_dict",
    "log_figure",
    "log_image",
    "log_input",
    "log_inputs",
    "log_metric",
    "log_metrics",
    "log_param",
    "log_params",
    "log_table",
    "log_text",
    "models",
    "pytorch",
    "set_experiment",
    "set_tag",
    "set_tags",
    "set_tracking_uri",
    "sklearn",
    "start_run",
]


class RunOperations:
    """What a call with ``synchronous=False`` gives: nothing is left to wait for."""

    def wait(self) -> None:
        """Return at once: the event was kept when the call returned."""


class Image:
    """A picture for ``log_image``, from an array; see there."""

    def __init__(self, image: Any) -> None:
        self._picture = image if hasattr(image, "save") else _contents.picture(image)

    def to_pil(self) -> Any:
        return self._picture

    def save(self, path: str | os.PathLike[str]) -> None:
        self._picture.save(path)


# ------------------------------------------------------------------------- where and which


def set_tracking_uri(uri: str | Path) -> None:
    """A path or ``file:`` URI is the folder of the runs to come; anything else warns.

    Nothing is sent to a server: its runs are kept where prov4ml's settings say.
    """
    _places.set_uri(uri)


def get_tracking_uri() -> str:
    """As it was set, else the folder of the runs."""
    return _places.uri()


def is_tracking_uri_set() -> bool:
    return _places.uri_is_set()


def set_experiment(
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    trace_location: Any = None,
) -> Experiment:
    """The experiment of the runs to come; give one of name and id."""
    if (experiment_name is None) == (experiment_id is None):
        raise MlflowException("give one of experiment_name and experiment_id")
    if trace_location is not None:
        raise UsageError("trace_location: traces of applications are not recorded")
    if experiment_name is None:
        assert experiment_id is not None
        experiment_name = _places.experiment_of(experiment_id)
    return _places.set_experiment(experiment_name)


def create_experiment(
    name: str,
    artifact_location: str | None = None,
    tags: dict[str, Any] | None = None,
    trace_location: Any = None,
) -> str:
    """The id of a new experiment; ``MlflowException`` when there is one of that name."""
    made = _places.create(name)
    given = {"artifact_location": artifact_location, "tags": tags, "trace_location": trace_location}
    for argument, value in given.items():
        if value:
            log.warning("%s of an experiment is not kept: an experiment is a name", argument)
    return made.experiment_id


def get_experiment(experiment_id: str) -> Experiment:
    """``MlflowException`` when there is none."""
    found = get_experiment_by_name(_places.experiment_of(experiment_id))
    if found is None:
        raise MlflowException(f"experiment_id: no experiment {experiment_id!r}")
    return found


def get_experiment_by_name(name: str) -> Experiment | None:
    """None when no run of it is there and no call named it."""
    found = _places.experiment(name)
    return found if _places.exists(name) else None


# ------------------------------------------------------------------------------------- runs


def start_run(
    run_id: str | None = None,
    experiment_id: str | None = None,
    run_name: str | None = None,
    nested: bool = False,
    parent_run_id: str | None = None,
    tags: dict[str, Any] | None = None,
    description: str | None = None,
    log_system_metrics: bool | None = None,
) -> ActiveRun:
    """Open a run and make it this thread's active one; ``with`` ends it.

    ``run_id`` (or ``MLFLOW_RUN_ID``): go on with an earlier run, as its next attempt.
    ``nested``: inside of the active run, which it says it is part of.  ``parent_run_id``: the
    same, of a run of another thread or process.  ``run_name``, ``description``: tags of MLflow's
    names.
    """
    return _runs.start_run(
        run_id,
        experiment_id,
        run_name,
        nested,
        parent_run_id,
        tags,
        description,
        log_system_metrics,
    )


def end_run(status: str = "FINISHED") -> None:
    """End the active run, if there is one, as FINISHED, FAILED or KILLED; documents are written."""
    _runs.end_run(status)


def active_run() -> ActiveRun | None:
    """The active run of this thread; its ``data`` is what this process has logged."""
    return _runs.active_run()


def last_active_run() -> ActiveRun | None:
    """The active run of this thread, else the one that ended last."""
    return _runs.last_active_run()


def get_run(run_id: str) -> ActiveRun:
    """A run of this process (of those that have ended the last hundred)."""
    return _runs.get_run(run_id)


def get_parent_run(run_id: str) -> ActiveRun | None:
    return _runs.parent_of(run_id)


# ---------------------------------------------------------------------- metrics, params, tags


def log_metric(
    key: str,
    value: float,
    step: int | None = None,
    synchronous: bool | None = None,
    timestamp: int | None = None,
    run_id: str | None = None,
    model_id: str | None = None,
    dataset: Any = None,
) -> RunOperations | None:
    """One value of a metric, at step 0 if none is given.  ``timestamp`` in ms.

    ``dataset`` becomes an input of the run.  ``model_id`` is not recorded.
    """
    run = _runs.at(run_id)
    if model_id is not None or dataset is not None:
        _beside(run, model_id, dataset)
    run.log_metric(key, value, step, timestamp)
    return None if synchronous is not False else RunOperations()


def log_metrics(
    metrics: dict[str, float],
    step: int | None = None,
    synchronous: bool | None = None,
    run_id: str | None = None,
    timestamp: int | None = None,
    model_id: str | None = None,
    dataset: Any = None,
) -> RunOperations | None:
    """``log_metric`` for each item."""
    _mapping("metrics", metrics)
    run = _runs.at(run_id)
    if model_id is not None or dataset is not None:
        _beside(run, model_id, dataset)
    for key, value in metrics.items():
        run.log_metric(key, value, step, timestamp)
    return None if synchronous is not False else RunOperations()


def _beside(run: ActiveRun, model_id: str | None, dataset: Any) -> None:
    if model_id is not None:
        log.warning("model_id of a metric is not recorded: step and run say which model it is of")
    if dataset is not None and id(dataset) not in run.run._recorder.datasets:
        data.log(run, dataset, None, None)


def log_param(key: str, value: Any, synchronous: bool | None = None) -> Any:
    """A parameter; gives the value back.  ``MlflowException`` for another value of a key."""
    _runs.at().log_param(key, value)
    return value if synchronous is not False else RunOperations()


def log_params(
    params: dict[str, Any], synchronous: bool | None = None, run_id: str | None = None
) -> RunOperations | None:
    """``log_param`` for each item."""
    _mapping("params", params)
    run = _runs.at(run_id)
    for key, value in params.items():
        run.log_param(key, value)
    return None if synchronous is not False else RunOperations()


def set_tag(key: str, value: Any, synchronous: bool | None = None) -> RunOperations | None:
    """A tag of the run; the last value of a key counts."""
    _runs.at().set_tag(key, value)
    return None if synchronous is not False else RunOperations()


def set_tags(tags: dict[str, Any], synchronous: bool | None = None) -> RunOperations | None:
    """``set_tag`` for each item."""
    _mapping("tags", tags)
    run = _runs.at()
    for key, value in tags.items():
        run.set_tag(key, value)
    return None if synchronous is not False else RunOperations()


def _mapping(argument: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a mapping, not {type(value).__name__}")


def flush_async_logging() -> None:
    """Nothing to wait for: a call that returned is kept."""


def flush_artifact_async_logging() -> None:
    """Nothing to wait for: a call that returned is kept."""


# --------------------------------------------------------------------------------- artifacts


def log_artifact(
    local_path: str, artifact_path: str | None = None, run_id: str | None = None
) -> None:
    """A file, or a folder of files, below ``artifact_path``; bytes are safe on return."""
    path = _path("local_path", local_path)
    if not path.exists():
        raise UsageError(f"local_path: there is no file or folder {str(path)!r}")
    name = path.absolute().name or "root"
    _runs.at(run_id).run.log_artifact(_below(artifact_path, name), path)


def log_artifacts(
    local_dir: str, artifact_path: str | None = None, run_id: str | None = None
) -> None:
    """The files in a folder, at any depth, below ``artifact_path``."""
    folder = _path("local_dir", local_dir)
    if not folder.is_dir():
        raise UsageError(f"local_dir: there is no folder {str(folder)!r}")
    run = _runs.at(run_id).run
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        run.log_artifact(_below(artifact_path, file.relative_to(folder).as_posix()), file)


def _path(argument: str, given: str | os.PathLike[str]) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{argument} must be a path, not {type(given).__name__}")
    return Path(given)


def _below(artifact_path: str | None, name: str) -> str:
    return posixpath.join(hot.text("artifact_path", artifact_path), name) if artifact_path else name


def log_text(text: str, artifact_file: str, run_id: str | None = None) -> None:
    """A text as an artifact."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {type(text).__name__}")
    _contents.keep(_runs.at(run_id), artifact_file, text.encode("utf-8", "backslashreplace"))


def log_dict(dictionary: dict[str, Any], artifact_file: str, run_id: str | None = None) -> None:
    """A dict or list as JSON, which is also what stands in a ``.yaml`` (YAML reads JSON)."""
    if not isinstance(dictionary, (Mapping, list, tuple)):
        raise TypeError(f"dictionary must be a dict, not {type(dictionary).__name__}")
    made = _contents.json_bytes("dictionary", dictionary)
    _contents.keep(_runs.at(run_id), artifact_file, made)


def log_figure(
    figure: Any, artifact_file: str, *, save_kwargs: dict[str, Any] | None = None
) -> None:
    """A figure of Matplotlib or Plotly, in the format of the file's ending."""
    made = _contents.figure(figure, artifact_file, save_kwargs or {})
    _contents.keep(_runs.at(), artifact_file, made)


def log_image(
    image: Any,
    artifact_file: str | None = None,
    key: str | None = None,
    step: int | None = None,
    timestamp: int | None = None,
    synchronous: bool | None = False,
) -> None:
    """A picture: an array, one of Pillow or ``mlflow.Image``.

    With ``artifact_file`` under that name, with ``key`` as ``images/<key>`` of a step.
    ``timestamp`` is that of the call.
    """
    if (artifact_file is None) == (key is None):
        raise UsageError("give one of artifact_file and key")
    if key is None:
        assert artifact_file is not None
        name, step = artifact_file, None
    else:
        name, step = f"images/{hot.text('key', key)}.png", hot.whole("step", step or 0)
    _contents.keep(_runs.at(), name, _contents.image(image, name), step)


def log_table(data: Any, artifact_file: str, run_id: str | None = None) -> None:
    """A dict of columns or a DataFrame, as ``.json`` or ``.parquet``.

    Each call is an occurrence of its own: rows are not added to an earlier one.
    """
    made = _contents.table(data, artifact_file)
    _contents.keep(_runs.at(run_id), artifact_file, made)


def get_artifact_uri(artifact_path: str | None = None) -> str:
    """The folder of the active run's stored copies, which are named by content.

    A name has no place of its own there: with one it is ``runs:/<run id>/<name>``.
    """
    run = _runs.at()
    if artifact_path is None:
        return run.info.artifact_uri
    return f"runs:/{run.info.run_id}/{quote(hot.text('artifact_path', artifact_path))}"


# ----------------------------------------------------------------------------------- inputs


def log_input(
    dataset: Any = None,
    context: str | None = None,
    tags: dict[str, str] | None = None,
    model: Any = None,
) -> None:
    """A dataset of ``mlflow.data`` that the run uses, in a context ("training", ...)."""
    if model is not None:
        raise UsageError("model: use prov4ml.log_artifact(path, is_input=True) for a model used")
    if dataset is None:
        raise TypeError("dataset must be a dataset of mlflow.data, not None")
    data.log(_runs.at(), dataset, context, tags)


def log_inputs(
    datasets: list[Any] | None = None,
    contexts: list[str | None] | None = None,
    tags_list: list[dict[str, str] | None] | None = None,
    models: list[Any] | None = None,
) -> None:
    """``log_input`` for each; the lists go side by side."""
    given: list[Sequence[Any]] = [datasets or (), contexts or (), tags_list or (), models or ()]
    most = max(map(len, given))
    if any(len(each) not in (0, most) for each in given):
        raise MlflowException("datasets, contexts, tags_list and models differ in length")
    rows = ([each[n] if each else None for each in given] for n in range(most))
    for dataset, context, tags, model in rows:
        log_input(dataset, context, tags, model)


# -------------------------------------------------------------------------- what is not there


def autolog(
    log_input_examples: bool = False,
    log_model_signatures: bool = True,
    log_models: bool = True,
    log_datasets: bool = True,
    log_traces: bool = True,
    disable: bool = False,
    exclusive: bool = False,
    disable_for_unsupported_versions: bool = False,
    silent: bool = False,
    extra_tags: dict[str, str] | None = None,
    exclude_flavors: list[str] | None = None,
) -> None:
    """Refused, unless it is to be switched off: libraries are not patched."""
    _instead.autolog(disable, "log_params, log_metric and log_model where your script knows them")


def enable_system_metrics_logging() -> None:
    """Warns: metrics of the hardware are not there yet."""
    log.warning("metrics of the hardware are not there yet")


def disable_system_metrics_logging() -> None:
    """Nothing to switch off."""


_MODULES = ("exceptions", "models", "pytorch", "sklearn")


def __getattr__(name: str) -> Any:
    """Modules of flavors at their first use; for any other name an error that helps."""
    if name in _MODULES:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise _instead.missing(__name__, name)
