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
from typing import Any, Never, TypeVar, overload

from prov4ml import activities, config, hot, legacy, lifecycle, rundir, spool
from prov4ml.aggregates import FoldOperation
from prov4ml.disabled import DisabledRun
from prov4ml.errors import MissingExtra, UsageError
from prov4ml.legacy import CompressorType, MetricsType
from prov4ml.recorder import Recorder
from prov4ml.references import Derivable, Reference
from prov4ml.run import Context, Run
from prov4ml.talk import say

__all__ = [
    "CompressorType",
    "Context",
    "Contexts",
    "FoldOperation",
    "MetricsType",
    "Reference",
    "Run",
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

F = TypeVar("F", bound=Callable[..., Any])
Contexts = Context
"""Another name of ``Context``."""

_run: Run | None = None
_outer: list[Run] = []  # open runs that are not current while another one is, oldest first
_ordinals: dict[str, int] = {}


def _none(*_: Any, **__: Any) -> None:
    import multiprocessing

    text = "no run is open: call start_run first"
    if multiprocessing.parent_process() is not None:
        text += " (only a forked child is part of its parent's run, not a spawned one)"
    raise UsageError(text)


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
    *,
    metrics_file_type: str | None = None,
    csv_separator: str | None = None,
    use_compressor: str | bool | None = None,
    use_run_id: int | None = None,
    unified_experiment: bool | None = None,
    prov_save_path: str | os.PathLike[str] | None = None,
    **unknown: Never,
) -> Run:
    """Open a run and make it the current one.  Returns at once; nobody is waited for.

    ``experiment_name``: runs of one name are numbered, ``<experiment>_<n>``.
    ``prov_user_namespace``: IRI that identifiers begin with.  ``provenance_save_dir``: folder of
    the run directories ("prov"); ``prov_save_path`` is another name of it.
    ``collect_all_processes=False``: metrics of rank 0 only.  ``rank``: overrides the launcher's.
    ``sinks``: replaces the list, items ``"+name"`` add to it.  ``on_error="warn"``: what the user
    could mend (unwritable folder, unknown sink, bad configuration) gives a warning and a run that
    records nothing.  ``resume``: an earlier run (path, name or id) that this one continues as a
    new attempt; so does the variable ``PROV4ML_RESUME``.

    ``metrics_file_type``: "csv", "zarr", "netcdf" or "parquet", a sink that is added to the list;
    with ``csv_separator`` and ``use_compressor`` as its options.  ``use_run_id``: the n of
    ``<experiment>_<n>``; a run that is there is continued.  ``disable_codecarbon=True``: nobody
    misses energy metrics.  ``save_after_n_logs`` and ``unified_experiment`` are accepted and have
    no effect: nothing is kept in memory here, and all ranks of a run share its directory.

    Raises ``TypeError``, ``UsageError`` (also for a second run while one is open, and a bad
    configuration), ``OSError`` for a folder that cannot be written.
    """
    global _run
    legacy.no_others(start_run, unknown)
    experiment_name, prov_user_namespace = legacy.experiment(experiment_name, prov_user_namespace)
    provenance_save_dir = legacy.one_of_two(
        "start_run", provenance_save_dir=provenance_save_dir, prov_save_path=prov_save_path
    )
    name = hot.text("experiment_name", experiment_name)
    if save_after_n_logs is not None:
        hot.whole("save_after_n_logs", save_after_n_logs)
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
                "collect_all_processes": collect_all_processes,
                "disable_codecarbon": disable_codecarbon,
                "sinks": sinks,
                "on_error": on_error,
                "metrics_file_type": metrics_file_type,
                "csv_separator": csv_separator,
                "use_compressor": use_compressor,
                "use_run_id": use_run_id,
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


def start_beside(
    experiment_name: str,
    directory: str | os.PathLike[str] | None = None,
    resume: str | None = None,
    part_of: str = "",
) -> Run:
    """Open a run, whether or not one is open, and make it the current one (``compat``).

    ``part_of``: IRI of the run that it is nested in.  ``release`` makes way for the others.
    """
    global _run
    name = hot.text("experiment_name", experiment_name)
    run = _open(name, {"provenance_save_dir": directory}, None, resume, part_of)
    if _run is not None and _run.active:
        _outer.append(_run)
    _run = run
    _follow(run._metrics)
    return run


def release(run: Run) -> None:
    """A run has ended: of those that are open, the one that was started last is current."""
    global _run
    if run is not _run:
        _outer[:] = [other for other in _outer if other is not run]
        return
    _outer[:] = [other for other in _outer if other.active]
    _run = _outer.pop() if _outer else None
    _follow(hot.nowhere(_none) if _run is None else _run._metrics)


def _open(
    name: str,
    arguments: Mapping[str, Any],
    rank: int | None,
    resume: str | None,
    part_of: str = "",
) -> Run:
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
        number, places = settings.use_run_id, spool.roots(environment)
        if resume is None and number is None:
            claimed = rundir.claim(base, name, key, where)
        else:
            from prov4ml import attempts

            if resume is not None:
                claimed, where = attempts.continued(base, resume, key, where, places)
            elif number is not None:
                claimed, where = attempts.numbered(base, name, number, key, where, places)
        run = Run(name, settings, where, claimed, environment, part_of)
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
    *,
    crate_ro_crate: bool | None = None,
    **unknown: Never,
) -> None:
    """End the current run; see ``Run.end_run``.  Raises ``UsageError`` when none is open."""
    legacy.no_others(end_run, unknown)
    create_ro_crate = legacy.one_of_two(
        "end_run", create_ro_crate=create_ro_crate, crate_ro_crate=crate_ro_crate
    )
    run = _current()
    try:
        run.end_run(create_graph, create_svg, create_ro_crate, create_card)
    finally:
        release(run)


def log_metrics(
    metrics: Mapping[str, Any],
    context: str | None = None,
    step: int | None = None,
    source: str | None = None,
    timestamp: Any = None,
) -> None:
    """``log_metric`` for each item."""
    _current().log_metrics(metrics, context, step, source, timestamp)


def log_system_metrics(
    context: str | None = None,
    step: int | None = None,
    synchronous: bool = True,
    timestamp: Any = None,
) -> None:
    """Marks a moment at which the machine is to be measured; see ``Run.log_system_metrics``."""
    _current().log_system_metrics(context, step, synchronous, timestamp)


def log_carbon_metrics(
    context: str | None = None,
    step: int | None = None,
    synchronous: bool = True,
    timestamp: Any = None,
) -> None:
    """Marks a moment at which energy is to be measured; see ``Run.log_carbon_metrics``."""
    _current().log_carbon_metrics(context, step, synchronous, timestamp)


def log_param(
    key: str,
    value: Any,
    context: str | None = None,
    source: str | None = None,
    is_input: bool = False,
) -> None:
    """A parameter; see ``Run.log_param``."""
    _current().log_param(key, value, context, source, is_input)


def log_params(
    params: Mapping[str, Any], context: str | None = None, source: str | None = None
) -> None:
    """``log_param`` for each item."""
    _current().log_params(params, context, source)


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
    artifact_name: Any,
    artifact_path: Any = None,
    context: str | None = None,
    step: int | None = None,
    *,
    is_input: bool = False,
    is_model: bool = False,
    copy: bool = True,
    derived_from: Derivable = None,
    text: str | None = None,
    epoch: int | None = None,
    log_copy_in_prov_directory: bool | None = None,
    timestamp: Any = None,
) -> Reference:
    """A file or another thing that was made or used; see ``Run.log_artifact``."""
    return _current().log_artifact(
        artifact_name,
        artifact_path,
        context,
        step,
        is_input=is_input,
        is_model=is_model,
        copy=copy,
        derived_from=derived_from,
        text=text,
        epoch=epoch,
        log_copy_in_prov_directory=log_copy_in_prov_directory,
        timestamp=timestamp,
    )


def log_artifacts(
    artifacts_dir: str | os.PathLike[str],
    artifact_name: str | None = None,
    context: str | None = None,
    step: int | None = None,
    *,
    is_input: bool = False,
    copy: bool = True,
    derived_from: Derivable = None,
) -> Reference:
    """A folder with all its files; see ``Run.log_artifacts``."""
    return _current().log_artifacts(
        artifacts_dir,
        artifact_name,
        context,
        step,
        is_input=is_input,
        copy=copy,
        derived_from=derived_from,
    )


def log_input(
    inp: Any,
    name: str | bool | None = None,
    context: str | None = None,
    step: int | None = None,
    *,
    copy: bool = True,
    derived_from: Derivable = None,
    log_copy_in_prov_directory: bool | None = None,
) -> Reference:
    """Whatever the run used; see ``Run.log_input``."""
    return _current().log_input(
        inp,
        name,
        context,
        step,
        copy=copy,
        derived_from=derived_from,
        log_copy_in_prov_directory=log_copy_in_prov_directory,
    )


def log_output(
    out: Any,
    name: str | bool | None = None,
    context: str | None = None,
    step: int | None = None,
    *,
    copy: bool = True,
    derived_from: Derivable = None,
    log_copy_in_prov_directory: bool | None = None,
) -> Reference:
    """Whatever the run made; see ``Run.log_output``."""
    return _current().log_output(
        out,
        name,
        context,
        step,
        copy=copy,
        derived_from=derived_from,
        log_copy_in_prov_directory=log_copy_in_prov_directory,
    )


def log_dataset(
    dataset: Any,
    label: Any = None,
    context: str | bool | None = None,
    *,
    copy: bool = True,
    hash: bool = False,
    croissant: str | os.PathLike[str] | None = None,
    derived_from: Derivable = None,
    dataset_label: str | None = None,
    log_dataset_info: bool = True,
) -> Reference:
    """A dataset, or the part of one that a context uses; see ``Run.log_dataset``."""
    return _current().log_dataset(
        dataset,
        label,
        context,
        copy=copy,
        hash=hash,
        croissant=croissant,
        derived_from=derived_from,
        dataset_label=dataset_label,
        log_dataset_info=log_dataset_info,
    )


def log_model(
    model: Any,
    model_name: Any = "default",
    context: str | bool | None = None,
    *,
    step: int | None = None,
    epoch: int | None = None,
    format: str | None = None,
    is_input: bool = False,
    copy: bool = True,
    derived_from: Derivable = None,
    log_model_info: bool = True,
    log_model_layers: bool = True,
    log_as_artifact: bool = True,
) -> Reference:
    """The final model; see ``Run.log_model``."""
    return _current().log_model(
        model,
        model_name,
        context,
        step=step,
        epoch=epoch,
        format=format,
        is_input=is_input,
        copy=copy,
        derived_from=derived_from,
        log_model_info=log_model_info,
        log_model_layers=log_model_layers,
        log_as_artifact=log_as_artifact,
    )


def save_model_version(
    model: Any,
    model_name: Any,
    context: str | None = None,
    step: int | None = None,
    *,
    epoch: int | None = None,
    format: str | None = None,
    is_input: bool = False,
    copy: bool = True,
    derived_from: Derivable = None,
    incremental: bool = True,
    timestamp: Any = None,
) -> Reference:
    """A checkpoint; see ``Run.save_model_version``."""
    return _current().save_model_version(
        model,
        model_name,
        context,
        step,
        epoch=epoch,
        format=format,
        is_input=is_input,
        copy=copy,
        derived_from=derived_from,
        incremental=incremental,
        timestamp=timestamp,
    )


def log_source_code(path: str | os.PathLike[str] | None = None) -> Reference | None:
    """The code that runs; see ``Run.log_source_code``."""
    return _current().log_source_code(path)


def log_execution_command(
    cmd: str | list[str] | tuple[str, ...] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> None:
    """The command that the run is repeated with; see ``Run.log_execution_command``."""
    _current().log_execution_command(cmd, path)


def log_environment() -> None:
    """What the run runs in, as it is now; see ``Run.log_environment``."""
    _current().log_environment()


def get_run_dir() -> Path:
    """The current run's directory, absolute; it is there right after ``start_run``."""
    return _current().get_run_dir()


def get_artifacts_dir() -> Path:
    """Where the current run's stored copies lie."""
    return _current().get_artifacts_dir()
