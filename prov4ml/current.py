"""The module functions: the public calls on the current run.

``start_run`` makes one current and ``end_run`` ends it; a forked child has none of its own
until it calls ``start_run``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar, overload

from prov4ml import activities, config, hot, lifecycle, rundir
from prov4ml.aggregates import FoldOperation
from prov4ml.disabled import DisabledRun
from prov4ml.errors import MissingExtra, UsageError
from prov4ml.recorder import Recorder
from prov4ml.run import Context, Run
from prov4ml.talk import say

__all__ = [
    "Context",
    "FoldOperation",
    "Run",
    "activity",
    "context",
    "end_run",
    "epoch",
    "get_artifacts_dir",
    "get_run_dir",
    "log_artifact",
    "log_context",
    "log_current_execution_time",
    "log_dataset",
    "log_execution_end_time",
    "log_execution_start_time",
    "log_flops_per_batch",
    "log_flops_per_epoch",
    "log_metric",
    "log_metrics",
    "log_model",
    "log_param",
    "log_params",
    "register_final_metric",
    "save_model_version",
    "set_tag",
    "start_run",
    "timer",
]

F = TypeVar("F", bound=Callable[..., Any])

_run: Run | None = None
_ordinals: dict[str, int] = {}


def _none(*_: Any, **__: Any) -> None:
    raise UsageError("no run is open: call start_run first")


log_metric, _follow = hot.follower(hot.nowhere(_none))


def start_run(
    experiment_name: str,
    prov_user_namespace: str | None = None,
    provenance_save_dir: str | os.PathLike[str] | None = None,
    collect_all_processes: bool = True,
    save_after_n_logs: int | None = None,
    rank: int | None = None,
    disable_codecarbon: bool = False,
    resume: str | os.PathLike[str] | None = None,
    sinks: list[str] | tuple[str, ...] | None = None,
    on_error: str | None = None,
) -> Run:
    """Open a run and make it the current one.  Returns at once; nobody is waited for.

    ``experiment_name``: runs of one name are numbered, ``<experiment>_<n>``.
    ``prov_user_namespace``: IRI that identifiers begin with.  ``provenance_save_dir``: folder of
    the run directories ("prov").  ``rank``: overrides the launcher's.  ``sinks``: replaces the
    list, items ``"+name"`` add to it.  ``on_error="warn"``: what the user could mend (unwritable
    folder, unknown sink, bad configuration) gives a warning and a run that records nothing.
    ``resume``: an earlier run (path, name or id) that this one continues as a new attempt; so
    does the variable ``PROV4ML_RESUME``.  ``save_after_n_logs`` is accepted and has no effect;
    nothing is kept in memory here.

    Raises ``TypeError``, ``UsageError`` (also for a second run while one is open, and a bad
    configuration), ``OSError`` for a folder that cannot be written.
    """
    global _run
    name = hot.text("experiment_name", experiment_name)
    if rank is not None:
        rank = hot.whole("rank", rank)
        if rank < 0:
            raise UsageError(f"rank must not be negative: {rank}")
    if _run is not None and _run.active:
        if not _interactive():
            raise UsageError(
                f"the run {_run.name} is still open: call end_run() before the next start_run()"
            )
        say(logging.WARNING, f"{_run.name} was still open and is ended as finished")
        _run.end_run()
    if resume is not None:
        resume = hot.text("resume", resume if isinstance(resume, str) else os.fspath(resume))
    try:
        run: Run = _open(
            name,
            {
                "prov_user_namespace": prov_user_namespace,
                "provenance_save_dir": provenance_save_dir,
                "sinks": sinks,
                "on_error": on_error,
            },
            rank,
            resume or os.environ.get("PROV4ML_RESUME") or None,
        )
    except (UsageError, OSError, MissingExtra) as error:
        if on_error != "warn":
            raise
        say(logging.WARNING, f"nothing is recorded: {error}")
        run = DisabledRun(name)
    _run = run
    _follow(run._metrics)
    return run


def _open(name: str, arguments: Mapping[str, Any], rank: int | None, resume: str | None) -> Run:
    if sys.platform != "linux":
        raise UsageError(f"prov4ml records on Linux; this is {sys.platform}")
    environment = os.environ
    settings = config.load(arguments, environment, Path.cwd())
    if settings.disabled:
        return DisabledRun(name)
    where = rundir.launch(environment, rank)
    ordinal = _ordinals[name] = _ordinals.get(name, 0) + 1
    base = Path(settings.directory).absolute()
    try:
        key = rundir.run_key(where, name, ordinal)
        if resume is None:
            claimed = rundir.claim(base, name, key, where)
        else:
            claimed, where = rundir.continued(base, resume, key, where)
        run = Run(name, settings, where, claimed, environment)
    except OSError as error:
        raise type(error)(
            error.errno, f"{error.strerror or error}: the run cannot be kept", str(base)
        ) from None
    lifecycle.watch(run)
    return run


def _interactive() -> bool:
    return "get_ipython" in vars(sys.modules.get("builtins"))


def active_run() -> Run | None:
    """The current run, if one is open in this process."""
    return _run if _run is not None and _run.active else None


def _current() -> Run:
    if _run is None:
        _none()
    assert _run is not None
    return _run


def end_run(
    create_graph: bool | None = None,
    create_svg: bool | None = None,
    create_ro_crate: bool | None = None,
    create_card: bool | None = None,
) -> None:
    """End the current run; see ``Run.end_run``.  Raises ``UsageError`` when none is open."""
    global _run
    run = _current()
    try:
        run.end_run(create_graph, create_svg, create_ro_crate, create_card)
    finally:
        _run = None
        _follow(hot.nowhere(_none))


def log_metrics(
    metrics: Mapping[str, Any],
    context: str | None = None,
    step: int | None = None,
    source: str | None = None,
    timestamp: Any = None,
) -> None:
    """``log_metric`` for each item."""
    _current().log_metrics(metrics, context, step, source, timestamp)


def log_param(key: str, value: Any) -> None:
    """A parameter; see ``Run.log_param``."""
    _current().log_param(key, value)


def log_params(params: Mapping[str, Any]) -> None:
    """``log_param`` for each item."""
    _current().log_params(params)


def set_tag(key: str, value: Any) -> None:
    """A tag of the run; the last value of a key counts."""
    _current().set_tag(key, value)


def context(name: str) -> AbstractContextManager[None]:
    """The default context of the calls inside; see ``Run.context``."""
    return _current().context(name)


def log_context(context: str, is_subcontext_of: str | None = None) -> None:
    """A context, and where it stands; see ``Run.log_context``."""
    _current().log_context(context, is_subcontext_of)


def epoch(number: int, *, activity: bool = False) -> AbstractContextManager[None]:
    """The epoch of the calls inside; see ``Run.epoch``."""
    return _current().epoch(number, activity=activity)


@overload
def activity(name: F, /) -> F: ...


@overload
def activity(
    name: str | None = None, /, *, context: str | None = None, **parameters: Any
) -> activities.Activity: ...


def activity(name: Any = None, /, *, context: str | None = None, **parameters: Any) -> Any:
    """An activity of its own, as a block or a decorator; see ``Run.activity``.

    A decorated function looks for the current run at each call; without one it is called plainly.
    """
    return activities.activity(_recorder, name, context, parameters)


def _recorder() -> Recorder | None:
    """Of the current run; a forked child writes through that of its parent."""
    return None if _run is None or _run._ended is not None else _run._recorder


def register_final_metric(
    metric_name: str,
    initial_value: float,
    fold_operation: FoldOperation | str | Callable[[Any, Any], Any],
    context: str | None = None,
) -> None:
    """One value for all points of a metric; see ``Run.register_final_metric``."""
    _current().register_final_metric(metric_name, initial_value, fold_operation, context)


def timer(
    label: str, context: str | None = None, step: int | None = None
) -> AbstractContextManager[None]:
    """The seconds that the block takes, as a metric; see ``Run.timer``."""
    return _current().timer(label, context, step)


def log_current_execution_time(
    label: str, context: str | None = None, step: int | None = None
) -> None:
    """Seconds since the start, as a metric; see ``Run.log_current_execution_time``."""
    _current().log_current_execution_time(label, context, step)


def log_execution_start_time() -> None:
    """Now, as a parameter; ``log_current_execution_time`` counts from here."""
    _current().log_execution_start_time()


def log_execution_end_time() -> None:
    """Now, as a parameter."""
    _current().log_execution_end_time()


def log_flops_per_batch(
    label: str, model: Any, batch: Any, context: str | None = None, step: int | None = None
) -> None:
    """Operations of one forward pass; see ``Run.log_flops_per_batch``."""
    _current().log_flops_per_batch(label, model, batch, context, step)


def log_flops_per_epoch(
    label: str, model: Any, dataset: Any, context: str | None = None, step: int | None = None
) -> None:
    """Operations of the forward passes over a dataset; see ``Run.log_flops_per_epoch``."""
    _current().log_flops_per_epoch(label, model, dataset, context, step)


def log_artifact(
    artifact_name: str | os.PathLike[str],
    artifact_path: str | os.PathLike[str] | None = None,
    context: str | None = None,
    step: int | None = None,
    *,
    is_input: bool = False,
    copy: bool = True,
) -> None:
    """A file that was made or used; see ``Run.log_artifact``."""
    _current().log_artifact(
        artifact_name, artifact_path, context, step, is_input=is_input, copy=copy
    )


def log_dataset(dataset: Any, label: str, context: str | None = None) -> None:
    """A dataset, or the part of one that a context uses; see ``Run.log_dataset``."""
    _current().log_dataset(dataset, label, context)


def log_model(model: Any, model_name: str, context: str | None = None) -> None:
    """The final model; see ``Run.log_model``."""
    _current().log_model(model, model_name, context)


def save_model_version(
    model: Any, model_name: str, context: str | None = None, step: int | None = None
) -> None:
    """A checkpoint; see ``Run.save_model_version``."""
    _current().save_model_version(model, model_name, context, step)


def get_run_dir() -> Path:
    """The current run's directory, absolute; it is there right after ``start_run``."""
    return _current().get_run_dir()


def get_artifacts_dir() -> Path:
    """Where the current run's stored copies lie."""
    return _current().get_artifacts_dir()
