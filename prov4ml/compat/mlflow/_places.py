"""Where runs are kept and which experiment they belong to, as MLflow's calls choose them.

A tracking URI that is a path or ``file:`` chooses the folder of the run directories
(``provenance_save_dir``); any other names a server or a database, to which nothing is sent, and
runs are kept where prov4ml's own settings say.  An experiment is its name; its id is the name
too, but that of "Default" is "0", as in MLflow.  State of the process: the URI, the experiment.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from prov4ml import attempts, config, hot, redaction, spool
from prov4ml.compat.mlflow.exceptions import MlflowException
from prov4ml.errors import UsageError
from prov4ml.provdm import segment
from prov4ml.talk import log

__all__ = [
    "Experiment",
    "base",
    "chosen",
    "create",
    "current_experiment",
    "experiment",
    "experiment_of",
    "manifest",
    "set_experiment",
    "set_uri",
    "uri",
    "uri_is_set",
]

_DEFAULT: Final = "Default"
_DEFAULT_ID: Final = "0"
_REMOTE: Final = ("databricks", "databricks-uc", "uc", "unity-catalog")  # names without "://"

_uri: str | None = None
_experiment: str | None = None
_made: set[str] = set()


class Experiment(msgspec.Struct, frozen=True):
    """What MLflow tells of an experiment."""

    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: str = "active"
    tags: dict[str, str] = {}


# ------------------------------------------------------------------------------- the place


def set_uri(uri: str | os.PathLike[str]) -> None:
    """Choose where the runs that start from now on are kept; ``""`` goes back to the settings."""
    global _uri
    if isinstance(uri, os.PathLike):
        uri = Path(uri).absolute().as_uri()
    if not isinstance(uri, str):
        raise TypeError(f"uri must be a path or a URI, not {type(uri).__name__}")
    _folder(uri)
    _uri = uri or None


def uri() -> str:
    """As it was set, else ``MLFLOW_TRACKING_URI``, else the folder of the settings."""
    return _given() or base().as_uri()


def uri_is_set() -> bool:
    return _given() is not None


def chosen() -> str | None:
    """The folder that a tracking URI chose; None: the settings decide."""
    given = _given()
    return None if given is None else _folder(given)


def base() -> Path:
    """The folder in which run directories are made, absolute."""
    folder = chosen()
    if folder is None:
        folder = config.load({}, os.environ, Path.cwd()).directory
    return Path(folder).absolute()


def _given() -> str | None:
    return _uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def _folder(uri: str) -> str | None:
    """The folder that a URI names; None, with a warning, for a server or a database."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"uri: {uri!r} names another host; a folder is file:///path")
        return unquote(parts.path) or None
    if parts.scheme or uri in _REMOTE:
        (shown,) = redaction.command_line([uri])
        log.warning("nothing is sent to %s: runs are kept in their folder on this machine", shown)
        return None
    return uri or None


def manifest(run_id: str) -> dict[str, Any]:
    """``run.json`` of a run below ``base``; raises ``MlflowException`` when there is none."""
    try:
        places = spool.roots(os.environ)
        found = attempts.find(base(), hot.text("run_id", run_id), places)
        return dict(json.loads((found / "run.json").read_bytes()))
    except (UsageError, OSError):
        raise MlflowException(f"run_id: no run {run_id!r} in {base()}") from None


# ------------------------------------------------------------------------------ experiments


def set_experiment(name: str) -> Experiment:
    """The experiment of the runs that start from now on."""
    global _experiment
    found = experiment(name)
    _experiment = name
    _made.add(name)
    return found


def current_experiment() -> str:
    """The name: set by a call, else by MLflow's variables, else "Default"."""
    named = _experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if named:
        return named
    id = os.environ.get("MLFLOW_EXPERIMENT_ID")
    return experiment_of(id) if id else _DEFAULT


def experiment_of(experiment_id: str | int) -> str:
    """The name of the experiment with that id."""
    id = hot.text("experiment_id", str(experiment_id) if _whole(experiment_id) else experiment_id)
    return _DEFAULT if id == _DEFAULT_ID else id


def experiment(name: str) -> Experiment:
    name = hot.text("experiment_name", name)
    if name == _DEFAULT_ID:
        raise UsageError(f"experiment_name: {name!r} is the id of the experiment {_DEFAULT!r}")
    id = _DEFAULT_ID if name == _DEFAULT else name
    return Experiment(id, name, base().as_uri())


def exists(name: str) -> bool:
    """Whether a run of the experiment is there, or a call of this process named it."""
    if name in _made or name == _DEFAULT:
        return True
    stem = f"{segment(name)}_"
    folder = base()
    names = os.listdir(folder) if folder.is_dir() else []
    return any(each.startswith(stem) and each[len(stem) :].isdigit() for each in names)


def create(name: str) -> Experiment:
    made = experiment(name)
    if exists(name):
        raise MlflowException(f"name: the experiment {name!r} exists", "RESOURCE_ALREADY_EXISTS")
    _made.add(name)
    return made


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
