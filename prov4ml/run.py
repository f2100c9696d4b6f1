"""A run as its training process sees it: the public calls.

``Run`` has every call as a method and may be used as a context manager; several may coexist.
The module functions of ``prov4ml`` act on the current one.  A call checks its arguments,
writes an event into the journal and returns; only calls that hand over files do I/O, and
none waits for another process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import Any, Never, TypeVar, overload

import msgspec

from prov4ml import (
    activities,
    aggregates,
    artifacts,
    checkpoints,
    config,
    contexts,
    datasets,
    flops,
    hardware,
    hot,
    inputs,
    legacy,
    origin,
    params,
    process,
    rundir,
    service,
    spool,
    timers,
)
from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.journal import Journal
from prov4ml.leaving import leave
from prov4ml.readback import Readback
from prov4ml.recorder import Recorder
from prov4ml.references import Derivable, Reference
from prov4ml.sender import Sender
from prov4ml.talk import log, short
from prov4ml.version import VERSION

__all__ = ["Context", "Run"]

_encode = msgspec.msgpack.encode

F = TypeVar("F", bound=Callable[..., Any])


class Context(str, Enum):
    """The usual contexts; any other non-empty string is one too."""

    TRAINING = "training"
    VALIDATION = "validation"
    TESTING = "testing"
    EVALUATION = "evaluation"
    DATASETS = "datasets"
    MODELS = "models"

    def __str__(self) -> str:
        return self.value


class Run:
    """An open run.  Made by ``start_run``; every method may be called from any thread."""

    def __init__(
        self,
        experiment: str,
        settings: config.Settings,
        where: rundir.Launch,
        claimed: rundir.Claim,
        environment: Mapping[str, str],
        part_of: str = "",
    ) -> None:
        """``part_of``: IRI of the run that this one is nested in."""
        self.experiment = experiment
        self.settings = settings
        self.id = claimed.run
        self.name = claimed.name
        self.directory = claimed.directory
        self.rank = where.rank
        self._where = where
        self._clock = hot.Clock()
        self._ended: str | None = None
        self._pid = os.getpid()
        self._places = spool.roots(environment)
        self._journal = Journal(
            self._identity(),
            self._places,
            spool.Quota(self._places, settings.spool_limit),
            environment.get("PROV4ML_SPOOL_MODE", ""),
        )
        incoming = claimed.directory / "artifacts" / ".incoming"
        lenient = settings.on_error == "warn"
        self._recorder = Recorder(
            self._journal, self._clock, incoming, settings.namespace, lenient=lenient
        )
        self._wanted = origin.Wanted(settings.code, settings.environment, settings.user is True)
        self._started = self._introduction(claimed.key, part_of)
        first = _encode(self._started)
        self._journal.append(first)
        spool.introduce(self._places, self.id, self._journal.who.producer, first)
        self._journal.prologue = self._child_introduction
        self._readback = Readback(self._journal, hot.number)
        self._metrics = hot.nowhere(hot.checked)  # of other ranks, when only rank 0 is to log them
        if settings.collect_all_processes or where.rank == 0:
            self._metrics = hot.bind(
                self._journal,
                self._clock,
                self._readback,
                self._recorder.parents,
                self._recorder.watchers,
            )
        self._recorder.metrics = self._metrics
        self.log_metric, _ = hot.follower(self._metrics)
        self._service = service.find(environment) if settings.address == "auto" else None
        self._sender = Sender(
            self._journal,
            settings.address,
            str(self.directory),
            self._service,
            origin.record(self._recorder, self._wanted),
        )
        self._sender.start()

    # -------------------------------------------------------------------------- logging

    log_metric: hot.MetricCall
    """``log_metric(key, value, context=None, step=None, source=None, timestamp=None)``

    One value of a metric series.  ``value``: any single number, kept as binary64 (an int beyond
    2**53 is a ``UsageError``); ``step``: int64; steps may come in any order and repeat;
    ``source``: told apart from other sources of the same metric; ``timestamp``: aware datetime,
    float seconds or int milliseconds (default: now).  Source of the keywords: yProv4ML, MLflow.
    """

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        context: str | None = None,
        step: int | None = None,
        source: str | None = None,
        timestamp: Any = None,
    ) -> None:
        """``log_metric`` for each item."""
        if not isinstance(metrics, Mapping):
            raise TypeError(f"metrics must be a mapping, not {type(metrics).__name__}")
        for key, value in metrics.items():
            self.log_metric(key, value, context, step, source, timestamp)

    def log_param(
        self,
        key: str,
        value: Any,
        context: str | None = None,
        source: str | None = None,
        is_input: bool = False,
    ) -> None:
        """A parameter: any value; numbers exactly, lists and dicts as JSON, objects as text.

        Another value for the same key is kept as a revision of the first, with a warning.
        ``context``: it is used there too, not by the run alone.  ``source``: where it came from.
        ``is_input`` has no effect: every parameter is an input.
        """
        params.log_param(self._recorder, key, value, context, source)

    def log_params(
        self, params: Mapping[str, Any], context: str | None = None, source: str | None = None
    ) -> None:
        """``log_param`` for each item."""
        if not isinstance(params, Mapping):
            raise TypeError(f"params must be a mapping, not {type(params).__name__}")
        for key, value in params.items():
            self.log_param(key, value, context, source)

    def log_system_metrics(
        self,
        context: str | None = None,
        step: int | None = None,
        synchronous: bool = True,
        timestamp: Any = None,
    ) -> None:
        """Marks a moment at which the machine is to be measured.  Not recorded yet."""
        hardware.mark(self._recorder, "log_system_metrics", context, step, timestamp)

    def log_carbon_metrics(
        self,
        context: str | None = None,
        step: int | None = None,
        synchronous: bool = True,
        timestamp: Any = None,
    ) -> None:
        """Marks a moment at which energy is to be measured.  Not recorded yet."""
        call = "" if self.settings.disable_codecarbon else "log_carbon_metrics"
        hardware.mark(self._recorder, call, context, step, timestamp)

    def set_tag(self, key: str, value: Any) -> None:
        """A tag of the run; the last value of a key counts."""
        params.set_tag(self._recorder, key, value)

    # --------------------------------------------------------- what the calls are part of

    def context(self, name: str) -> AbstractContextManager[None]:
        """The default context of the calls inside; may be nested."""
        return contexts.context(self._recorder, name)

    def log_context(self, context: str, is_subcontext_of: str | None = None) -> None:
        """A context, also one in which nothing happens; and where it stands.

        From now on the name given to any call means the context inside ``is_subcontext_of``.
        Raises ``UsageError`` for a second parent and for a circle.
        """
        contexts.log_context(self._recorder, context, is_subcontext_of)

    def epoch(self, number: int, *, activity: bool = False) -> AbstractContextManager[None]:
        """Points, files and checkpoints logged inside belong to an epoch.

        That is, those of the context around it and of contexts inside of that.  ``activity=True``
        makes it an activity that makes and uses what is logged inside.  ``number``: int64; the
        same number twice in a context is the same epoch.
        """
        return contexts.epoch(self._recorder, number, activity)

    @overload
    def activity(self, name: F, /) -> F: ...

    @overload
    def activity(
        self, name: str | None = None, /, *, context: str | None = None, **parameters: Any
    ) -> activities.Activity: ...

    def activity(
        self, name: Any = None, /, *, context: str | None = None, **parameters: Any
    ) -> Any:
        """An activity of its own, such as preprocessing: a block, or a decorator.

        Calls inside are done by it, ``a.used(...)`` and ``a.generated(...)`` name more.
        ``parameters``: any values, as in ``log_param``; the activity used them.  A decorator may
        do without a name; it takes functions, coroutines and generators.
        """
        return activities.activity(lambda: self._recorder, name, context, parameters)

    # ------------------------------------------------------------------ values, times, work

    def register_final_metric(
        self,
        metric_name: str,
        initial_value: float,
        fold_operation: aggregates.FoldOperation | str | Callable[[Any, Any], Any],
        context: str | None = None,
    ) -> None:
        """One value for all points of a metric, beginning with ``initial_value``.

        ``fold_operation``: a ``FoldOperation`` or its name (over all ranks), or a function of the
        value so far and the next one (called here, as points are logged by this process).
        ``context``: only its points; else those of every context.
        """
        aggregates.register_final_metric(
            self._recorder, metric_name, initial_value, fold_operation, context
        )

    def timer(
        self, label: str, context: str | None = None, step: int | None = None
    ) -> AbstractContextManager[None]:
        """The seconds that the block takes, as a metric; nothing for one that raises."""
        return timers.timer(self._recorder, label, context, step)

    def log_current_execution_time(
        self, label: str, context: str | None = None, step: int | None = None
    ) -> None:
        """Seconds since ``log_execution_start_time``, else since the run began, as a metric."""
        timers.log_current_execution_time(self._recorder, label, context, step)

    def log_execution_start_time(self) -> None:
        """The parameter ``execution_start_time``: now, in UTC."""
        timers.log_execution_start_time(self._recorder)

    def log_execution_end_time(self) -> None:
        """The parameter ``execution_end_time``: now, in UTC."""
        timers.log_execution_end_time(self._recorder)

    def log_flops_per_batch(
        self,
        label: str,
        model: Any,
        batch: Any,
        context: str | None = None,
        step: int | None = None,
    ) -> None:
        """Operations of one forward pass, as a metric.

        ``model``: a torch module; it is left as it was.  ``batch``: what it takes, or a tuple or
        list that begins with that; a mapping is given by keywords.
        """
        flops.log_flops_per_batch(self._recorder, label, model, batch, context, step)

    def log_flops_per_epoch(
        self,
        label: str,
        model: Any,
        dataset: Any,
        context: str | None = None,
        step: int | None = None,
    ) -> None:
        """Operations of the forward passes over a dataset or data loader, as a metric.

        Those of its first two samples stand for all.
        """
        flops.log_flops_per_epoch(self._recorder, label, model, dataset, context, step)

    # ------------------------------------------------------- calls that hand over files

    def log_artifact(
        self,
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
        """A file or another thing that the run made (or, with ``is_input``, used).

        ``artifact_path``: a file, a folder, a pattern (``plots/*.png``), a URL (a reference, never
        fetched), bytes, a dict or list (JSON), a figure, an image, an array, an open file;
        ``text=`` a text.  With one argument it is the path.  The bytes are safe when the call
        returns; ``copy=False`` only refers to a file, and a change of it is noticed.  A folder is
        an occurrence, and each file in it one of its own.  ``derived_from``: what it was made of;
        see ``references``.  ``is_model``: a version of the model ``artifact_name``; the final one,
        when there is no step.  Raises ``TypeError``, and ``UsageError`` for what is not there or
        cannot be read.
        """
        name, path, context, step = legacy.artifact(artifact_name, artifact_path, context, step)
        if log_copy_in_prov_directory is not None:
            copy = log_copy_in_prov_directory
        if timestamp is not None:
            hot.nanoseconds(timestamp)
        if is_model:
            path, name = (name, os.path.basename(os.fspath(name))) if path is None else (path, name)
            return checkpoints.log_version(
                self._recorder,
                "model" if step is None else "checkpoint",
                path,
                name,
                context,
                step,
                epoch=epoch,
                is_input=is_input,
                copy=copy,
                derived_from=derived_from,
            )
        return artifacts.log_artifact(
            self._recorder,
            name,
            path,
            context,
            step,
            is_input=is_input,
            copy=copy,
            derived_from=derived_from,
            text=text,
            epoch=epoch,
        )

    def log_artifacts(
        self,
        artifacts_dir: str | os.PathLike[str],
        artifact_name: str | None = None,
        context: str | None = None,
        step: int | None = None,
        *,
        is_input: bool = False,
        copy: bool = True,
        derived_from: Derivable = None,
    ) -> Reference:
        """A folder with all its files; the same as ``log_artifact``, but it must be a folder."""
        return artifacts.log_artifacts(
            self._recorder,
            artifacts_dir,
            artifact_name,
            context,
            step,
            is_input=is_input,
            copy=copy,
            derived_from=derived_from,
        )

    def log_input(
        self,
        inp: Any,
        name: str | bool | None = None,
        context: str | None = None,
        step: int | None = None,
        *,
        copy: bool = True,
        derived_from: Derivable = None,
        log_copy_in_prov_directory: bool | None = None,
    ) -> Reference:
        """Whatever the run used: what ``log_artifact`` or ``log_dataset`` takes."""
        name, copy = legacy.either(name, copy)  # yProv4ML says there whether to copy
        if log_copy_in_prov_directory is not None:
            copy = log_copy_in_prov_directory
        return inputs.log_input(
            self._recorder, inp, name, context, step, copy=copy, derived_from=derived_from
        )

    def log_output(
        self,
        out: Any,
        name: str | bool | None = None,
        context: str | None = None,
        step: int | None = None,
        *,
        copy: bool = True,
        derived_from: Derivable = None,
        log_copy_in_prov_directory: bool | None = None,
    ) -> Reference:
        """Whatever the run made: what ``log_artifact`` or ``log_model`` takes."""
        name, copy = legacy.either(name, copy)  # yProv4ML says there whether to copy
        if log_copy_in_prov_directory is not None:
            copy = log_copy_in_prov_directory
        return inputs.log_output(
            self._recorder, out, name, context, step, copy=copy, derived_from=derived_from
        )

    def log_dataset(
        self,
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
        """A dataset, or the part of one that a context uses; gives the handle of the dataset.

        A path is a file to keep (``copy=False``: to refer to), a folder or pattern is referred
        to; a Croissant file tells of itself.  A data loader or subset is a split of the dataset
        behind it (logged before under its own name, or named after the split); anything else is
        described by its counts, shape and schema, without reading it.  ``hash=True`` hashes the
        values of an array or table, or the indices of a subset, before the call returns.
        ``croissant``: file or URL of a description.  (label, dataset) works too;
        ``log_dataset_info=False``: nothing is said of it.
        """
        label = legacy.one_of_two("log_dataset", label=label, dataset_label=dataset_label)
        dataset, label = legacy.named(dataset, label)
        context, log_dataset_info = legacy.either(context, log_dataset_info)
        return datasets.log_dataset(
            self._recorder,
            dataset,
            label,
            context,
            copy=copy,
            hash=hash,
            about=croissant,
            derived_from=derived_from,
            described=log_dataset_info,
        )

    def save_model_version(
        self,
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
        """A checkpoint: the next version of ``model_name``; (model_name, model) works too.

        ``model``: torch module or state dict, scikit-learn estimator, what has a ``save`` of its
        own, a path, bytes, or anything that can be pickled.  ``format``: "torch", "safetensors",
        "pickle" or "native" (the model's own ``save``).  ``derived_from``: the version that it
        goes on from, instead of the last one; or the base model that it was tuned from, or data.
        ``is_input``: a model that the run used.  ``incremental`` has no effect: every version is
        kept.  Raises ``UsageError`` for what cannot be saved; with ``start_run(on_error="warn")``
        that is a warning, and the record says so.
        """
        model, model_name = legacy.named(model, model_name)
        if timestamp is not None:
            hot.nanoseconds(timestamp)
        return checkpoints.log_version(
            self._recorder,
            "checkpoint",
            model,
            model_name,
            context,
            step,
            epoch=epoch,
            format=format,
            is_input=is_input,
            copy=copy,
            derived_from=derived_from,
        )

    def log_model(
        self,
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
        """The final model, the same kinds and orders as in ``save_model_version``.

        ``log_model_info=False``: nothing is said of its parameters and layers;
        ``log_as_artifact=False``: its weights are not kept.
        """
        model, model_name = legacy.named(model, model_name)
        context, log_model_info = legacy.either(context, log_model_info)
        return checkpoints.log_version(
            self._recorder,
            "model",
            model,
            model_name,
            context,
            step,
            epoch=epoch,
            format=format,
            is_input=is_input,
            copy=copy,
            derived_from=derived_from,
            described=log_model_info,
            layered=log_model_info and log_model_layers,
            kept=log_as_artifact,
        )

    # --------------------------------------------------------------------------- origin

    def log_source_code(self, path: str | os.PathLike[str] | None = None) -> Reference | None:
        """The code that runs: a file, the sources in a folder, a URL; None: what git says of it.

        Without a path it is taken in the background, as at the start of a run (where that is
        switched off by ``code = false``, here it is not), and nothing is given back.
        """
        if path is not None:
            return origin.log_source_code(self._recorder, path)
        if self._recorder.keeps:
            self._sender.later(origin.code(self._recorder))
        return None

    def log_execution_command(
        self,
        cmd: str | list[str] | tuple[str, ...] | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        """The command that the run is repeated with, instead of the one that was typed."""
        origin.log_execution_command(self._recorder, cmd, path)

    def log_environment(self) -> None:
        """Python, packages, variables, CUDA and machine as they are now; in the background."""
        if self._recorder.keeps:
            self._sender.later(origin.surroundings(self._recorder, self._wanted))

    # ------------------------------------------------------------------------ questions

    def get_run_dir(self) -> Path:
        """The run's directory, absolute; it is there."""
        return self.directory

    def get_artifacts_dir(self) -> Path:
        """Where stored copies lie, by content."""
        return self.directory / "artifacts"

    @property
    def active(self) -> bool:
        return self._ended is None and self._pid == os.getpid()

    @property
    def ended(self) -> bool:
        """Whether ``end_run`` was called; it is not in a forked child."""
        return self._ended is not None

    @property
    def iri(self) -> str:
        """What the documents call the run."""
        return f"{self.settings.namespace}run/{self.id}/run"

    # ------------------------------------------------------------------------------ end

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.end_run(error=error)

    def end_run(
        self,
        create_graph: bool | None = None,
        create_svg: bool | None = None,
        create_ro_crate: bool | None = None,
        create_card: bool | None = None,
        *,
        crate_ro_crate: bool | None = None,
        error: BaseException | None = None,
        status: str | None = None,
        exit_code: int | None = None,
        **unknown: Never,
    ) -> None:
        """Log the end, wait until the documents are written, at most ``exit_timeout`` seconds.

        ``create_...``: True adds an output, False drops it, None leaves it to the list of sinks.
        ``error`` is the exception that ended the run (``with`` passes it).  Ending a run that
        has ended does nothing.
        """
        legacy.no_others(Run.end_run, unknown)
        create_ro_crate = legacy.one_of_two(
            "end_run", create_ro_crate=create_ro_crate, crate_ro_crate=crate_ro_crate
        )
        if not self.active:
            return
        begin = time.monotonic()
        changes = _sink_changes(
            self.settings.sinks,
            dot=create_graph,
            svg=create_svg,
            rocrate=create_ro_crate,
            card=create_card,
        )
        self._log_end(begin, error=error, status=status, exit_code=exit_code, changes=changes)
        leave([self], begin)

    def _log_end(
        self,
        begin: float,
        *,
        error: BaseException | None = None,
        status: str | None = None,
        exit_code: int | None = None,
        changes: tuple[str, ...] = (),
        exiting: bool = False,
    ) -> None:
        """The first part of ``end_run``, begun at ``begin`` (monotonic s): take the last event.

        ``exiting``: with the interpreter.  ``leaving.leave`` is the other part.
        """
        if status is None:
            status, exit_code = _status_of(error)
        kind = None if error is None or status == "finished" else type(error).__name__
        message = None if kind is None else short(str(error), 2000)
        within = self.settings.exit_timeout
        self._sender.recorded(begin + 0.4 * within - time.monotonic())
        self._sender.catch_up(min(begin + 0.6 * within, time.monotonic() + 0.2 * within))
        lost = self._readback.close(begin + 0.5 * within - time.monotonic())
        self._recorder.finish()
        self._ended = status
        self._journal.leaving = exiting
        ended = ev.Ended(self._clock.now(), status, exit_code, kind, message, changes)
        # A thread that still logs is told, instead of logging into nothing.
        self._journal.end(_encode(ended), lost, self._readback.why)
        self.log_metric = self._late

    def _late(self, *_: Any, **__: Any) -> None:
        self._journal.late()

    # ---------------------------------------------------------------------------- inside

    def _identity(self, parent: bytes = b"") -> seg.Identity:
        pid = os.getpid()
        return seg.Identity(
            self.id,
            os.urandom(16),
            self._where.attempt,
            self._where.rank,
            pid,
            process.pid_start(pid),
            process.boot_id(),
            parent,
        )

    def _introduction(self, key: str | None, part_of: str) -> ev.Started:
        who, where, settings = self._journal.who, self._where, self.settings
        user: str | None = process.user() if settings.user is True else settings.user or None
        return ev.Started(
            self._clock.now(),
            self.id,
            self.experiment,
            self.name,
            str(self.directory),
            settings.namespace,
            where.attempt,
            where.rank,
            where.local_rank,
            where.world_size,
            who.pid,
            who.pid_start,
            who.boot_id,
            process.hostname(),
            user,
            where.launcher,
            VERSION,
            origin.python(),
            {**config.shaping(settings), "key": key, "job": where.job},
            part_of=part_of,
            scheduler=where.scheduler,
        )

    def _child_introduction(self) -> list[bytes]:
        """First records of a forked child's journal: who it is, and in which epochs."""
        who = self._journal.who
        started = msgspec.structs.replace(
            self._started,
            time=self._clock.now(),
            pid=who.pid,
            pid_start=who.pid_start,
            parent=who.parent,
        )
        return [_encode(event) for event in (started, *self._recorder.open_epochs())]

    def after_fork(self) -> None:
        """In a forked child: from now on a journal of its own, and nothing else."""
        self._journal.forked(lambda: self._identity(parent=self._started_producer()))
        self._readback.restart()
        self._recorder.restart()

    def _started_producer(self) -> bytes:
        """The nearest forebear that has a journal."""
        who = self._journal.who
        return who.parent if who.parent and self._journal.current is None else who.producer


def _status_of(error: BaseException | None) -> tuple[str, int | None]:
    if error is None:
        return "finished", None
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else (0 if error.code is None else 1)
        return ("finished" if code == 0 else "failed"), code
    return "failed", None


def _sink_changes(sinks: tuple[str, ...], **wanted: bool | None) -> tuple[str, ...]:
    changes = []
    for name, want in wanted.items():
        if want is True and name not in sinks:
            if name in config.SINKS:
                changes.append(f"+{name}")
            else:
                log.warning("there is no sink %r: nothing is written for it", name)
        elif want is False and name in sinks:
            changes.append(f"-{name}")
    return tuple(changes)
