"""The runs that MLflow's calls open: a stack for each thread, the innermost being the active one.

As in MLflow, a thread that logs without a run of its own starts one.  Each is a ``Run`` of its
own; a nested one says which run it is part of.  ``info`` and ``data`` are what this process
knows: nothing is read back.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from prov4ml import current, hot, process, run
from prov4ml.compat.mlflow import _places
from prov4ml.compat.mlflow.exceptions import MlflowException
from prov4ml.errors import UsageError
from prov4ml.talk import log

__all__ = [
    "ActiveRun",
    "active_run",
    "at",
    "end_run",
    "get_run",
    "last_active_run",
    "parent_of",
    "start_run",
]

NAME: Final = "mlflow.runName"
NOTE: Final = "mlflow.note.content"
PARENT: Final = "mlflow.parentRunId"

_STATUS: Final = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
_ENDED: Final = 100  # runs that are remembered after their end
_LONG: Final = 6000  # characters of a parameter that ``data.params`` shows, as MLflow keeps


class RunInfo(msgspec.Struct):
    """What MLflow's ``run.info`` says.  Times are in ms since 1970, UTC."""

    run_id: str
    run_name: str
    experiment_id: str
    user_id: str
    artifact_uri: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    lifecycle_stage: str = "active"


class RunData:
    """Parameters, metrics and tags as far as this process has logged them."""

    def __init__(self) -> None:
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self._last: dict[str, Any] = {}

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return {key: hot.real(key, value) for key, value in self._last.items()}

    def keep(self, key: str, value: Any) -> None:
        """Remember a metric's last value; one on a device is copied there, and waited for later."""
        if type(value) is not float and callable(getattr(value, "detach", None)):
            value = value.detach().clone()
        self._last[key] = value


class ActiveRun:
    """An open run as MLflow shows it; ``with`` ends it, as failed when an exception passes."""

    def __init__(self, run: run.Run, experiment: _places.Experiment) -> None:
        self.run = run
        self.data = RunData()
        self.info = RunInfo(
            run.id,
            run.name,
            experiment.experiment_id,
            process.user(),
            run.get_artifacts_dir().as_uri(),
            time.time_ns() // 1_000_000,
        )

    def __repr__(self) -> str:
        return f"<ActiveRun {self.info.run_name!r}, {self.info.run_id}, {self.info.status}>"

    def __enter__(self) -> ActiveRun:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Literal[False]:
        while self in _stack() and _stack()[-1] is not self:  # left open inside
            end_run()
        if self.run.active:
            _end(self, "FINISHED" if error is None else "FAILED", error)
        return False

    # -------------------------------------------------------------------------- logging

    def log_metric(self, key: str, value: Any, step: int | None, timestamp: Any) -> None:
        self.run.log_metric(key, value, None, step or 0, None, timestamp or None)
        self.data.keep(key, value)

    def log_param(self, key: str, value: Any) -> None:
        known = self.data.params.get(key)
        shown = _text(value)
        if known is not None and known != shown:
            raise MlflowException(
                f"value: parameter {key!r} is {known!r} and cannot become {shown!r}; "
                f"log another key, or start another run"
            )
        self.run.log_param(key, value)
        self.data.params[key] = shown

    def set_tag(self, key: str, value: Any) -> None:
        self.run.set_tag(key, value)
        shown = self.data.tags[key] = str(value)
        if key == NAME:
            self.info.run_name = shown


def _text(value: Any) -> str:
    try:
        return str(value)[:_LONG]
    except Exception:  # the log call says so, naming the argument
        return ""


# -------------------------------------------------------------------------------- which run


class _Thread(threading.local):
    def __init__(self) -> None:
        self.stack: list[ActiveRun] = []
        self.last: ActiveRun | None = None


_thread = _Thread()
_known: OrderedDict[str, ActiveRun] = OrderedDict()
_lock = threading.Lock()


def _stack() -> list[ActiveRun]:
    """This thread's open runs, outermost first (a forked child has those it was born in)."""
    stack = _thread.stack
    while stack and stack[-1].run._ended is not None:  # by prov4ml's own end_run
        stack.pop()
    return stack


def active_run() -> ActiveRun | None:
    stack = _stack()
    return stack[-1] if stack else None


def last_active_run() -> ActiveRun | None:
    """The active one, else the one of this thread that ended last."""
    return active_run() or _thread.last


def at(run_id: str | None = None) -> ActiveRun:
    """The run that a call is for: that one if it is open here, or the active one, or a new one."""
    if not run_id:  # a run that records nothing has no id
        return active_run() or start_run()
    found = _known.get(hot.text("run_id", run_id))
    if found is None or found.run.ended:
        raise MlflowException(
            f"run_id: {run_id!r} is not open in this process; start_run(run_id=...) goes on with it"
        )
    return found


def get_run(run_id: str) -> ActiveRun:
    found = _known.get(run_id if run_id == "" else hot.text("run_id", run_id))
    if found is None:
        raise MlflowException(
            f"run_id: {run_id!r} is no run of this process; what is known of another one stands in "
            f"its run.json and documents, or try: prov4ml show",
            "RESOURCE_DOES_NOT_EXIST",
        )
    return found


def parent_of(run_id: str) -> ActiveRun | None:
    parent = get_run(run_id).data.tags.get(PARENT)
    return None if parent is None else get_run(parent)


# ------------------------------------------------------------------------------ start and end


def start_run(
    run_id: str | None = None,
    experiment_id: str | None = None,
    run_name: str | None = None,
    nested: bool = False,
    parent_run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    description: str | None = None,
    log_system_metrics: bool | None = None,
) -> ActiveRun:
    """See ``mlflow.start_run``."""
    if tags is not None and not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a mapping, not {type(tags).__name__}")
    said = dict(tags or {})
    if description:
        if NOTE in said:
            raise MlflowException(f"description: tags has {NOTE!r} already; give one of them")
        said[NOTE] = description
    outer = active_run()
    if outer is not None and outer.run.active and not nested:
        raise UsageError(
            f"run {outer.info.run_id} is active: call end_run() before the next start_run(), or "
            f"start_run(nested=True) for a run inside of it"
        )
    if log_system_metrics:
        log.warning("log_system_metrics: metrics of the hardware are not there yet")
    run_id = run_id or os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id:
        opened = _again(run_id)
    else:
        if run_name:
            said[NAME] = run_name
        opened, parent = _anew(experiment_id, outer, parent_run_id)
        if parent is not None:
            said[PARENT] = parent
    with _lock:
        _known[opened.info.run_id] = opened
        ended = [id for id, each in _known.items() if each.run.ended]
        for id in ended[:-_ENDED]:
            del _known[id]
    _thread.stack.append(opened)
    for key, value in said.items():
        opened.set_tag(key, value)
    return opened


def _anew(
    experiment_id: str | None, outer: ActiveRun | None, parent_run_id: str | None
) -> tuple[ActiveRun, str | None]:
    """A new run, and the id of the one it is nested in."""
    name = _places.current_experiment()
    if experiment_id is not None:
        name = _places.experiment_of(experiment_id)
    experiment = _places.experiment(name)
    if parent_run_id is not None and outer is not None and parent_run_id != outer.info.run_id:
        raise MlflowException(
            f"parent_run_id: {parent_run_id!r} is not the active run {outer.info.run_id!r}; "
            f"call end_run() first"
        )
    parent = parent_run_id or (None if outer is None else outer.info.run_id) or None
    inside = "" if parent is None else _iri(parent)
    return ActiveRun(current.start_beside(name, _places.chosen(), None, inside), experiment), parent


def _iri(run_id: str) -> str:
    known = _known.get(run_id)
    if known is not None:
        return known.run.iri
    return f"{_places.manifest(run_id)['namespace']}run/{run_id}/run"


def _again(run_id: str) -> ActiveRun:
    """The next attempt of an earlier run."""
    known = _known.get(run_id)
    if known is not None and not known.run.ended:
        raise MlflowException(f"run_id: {run_id!r} is open; log with run_id=, or end it first")
    experiment = _places.experiment(str(_places.manifest(run_id)["experiment"]))
    opened = ActiveRun(current.start_beside(experiment.name, _places.chosen(), run_id), experiment)
    if known is not None:
        opened.data = known.data
        opened.info.run_name = known.info.run_name
    return opened


def end_run(status: str = "FINISHED") -> None:
    """See ``mlflow.end_run``; without an active run nothing happens."""
    if status not in _STATUS:
        raise MlflowException(f"status: {status!r} ends no run; give {', '.join(_STATUS)}")
    active = active_run()
    if active is not None:
        _end(active, status, None)


def _end(which: ActiveRun, status: str, error: BaseException | None) -> None:
    _thread.stack = [each for each in _thread.stack if each is not which]
    _thread.last = which
    which.info.status = status
    which.info.end_time = time.time_ns() // 1_000_000
    try:
        if error is not None:
            which.run.end_run(error=error)
        else:
            which.run.end_run(status=_STATUS[status])
    finally:
        current.release(which.run)
