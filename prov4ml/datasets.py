"""Datasets, and the parts of them that contexts use."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prov4ml import artifacts, hot
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.events import Scalar
from prov4ml.handover import class_name
from prov4ml.recorder import Recorder

__all__ = ["describe", "log_dataset"]


def log_dataset(
    to: Recorder, dataset: Any, label: str, context: str | None, *, described: bool = True
) -> None:
    """See ``Run.log_dataset``; ``described``: say what it is."""
    name = hot.text("label", label)
    at = hot.current_path(context)
    if isinstance(dataset, (str, os.PathLike)):
        path = Path(dataset)
        if not path.is_file():
            raise UsageError(f"dataset: there is no file {str(path)!r}")
        artifacts.log_file(to, "dataset", name, path, at=at, use="used")
        return
    if dataset is None:
        raise TypeError("dataset must be a dataset, a data loader or a path, not None")
    parent, facts = describe(dataset)
    if not described:
        facts = {}
    if parent is None:
        n = _occurrence(to, name, dataset, facts, () if context is None else at)
        if context is not None:
            to.append(ev.Split(to.now(), name, at, n, facts))
        return
    known = to.datasets.get(id(parent))
    if known is None:
        whole = describe(parent)[1] if described else {}
        n = _occurrence(to, f"{type(parent).__name__} of {name}", parent, whole, ())
    else:
        n = known[1]
    to.append(ev.Split(to.now(), name, at, n, facts))


def _occurrence(
    to: Recorder, name: str, thing: Any, facts: dict[str, Scalar], at: tuple[str, ...]
) -> int:
    n = to.number()
    to.datasets[id(thing)] = (thing, n)
    to.append(ev.Artifact(to.now(), n, "dataset", name, context=at, use="used", attributes=facts))
    return n


def describe(dataset: Any) -> tuple[Any, dict[str, Scalar]]:
    """(what it is a part of or goes over, or None; facts) of a dataset object.

    Understands whatever looks like a torch ``DataLoader`` (``dataset``, ``batch_size``) or
    ``Subset`` (``dataset``, ``indices``), arrays with ``shape``, and anything with a length.
    """
    facts: dict[str, Scalar] = {"class": class_name(dataset)}
    parent = getattr(dataset, "dataset", None)
    if parent is not None and hasattr(dataset, "batch_size"):
        size = getattr(dataset, "batch_size", None)
        if isinstance(size, int):
            facts["batch_size"] = size
        sampler = getattr(dataset, "sampler", None)
        if sampler is not None:
            facts["shuffle"] = "Random" in type(sampler).__name__
        if isinstance(getattr(dataset, "drop_last", None), bool):
            facts["drop_last"] = bool(dataset.drop_last)
        _count(facts, "batches", dataset)
        _count(facts, "samples", parent)
        inner = getattr(parent, "dataset", None)
        if inner is not None and hasattr(parent, "indices"):
            parent = inner
        return parent, facts
    if parent is not None and hasattr(dataset, "indices"):
        _count(facts, "samples", dataset)
        return parent, facts
    shape = getattr(dataset, "shape", None)
    if isinstance(shape, tuple):
        facts["shape"] = json.dumps([int(n) for n in shape])
    _count(facts, "samples", dataset)
    return None, facts


def _count(facts: dict[str, Scalar], name: str, thing: Any) -> None:
    try:
        facts[name] = len(thing)
    except Exception:  # noqa: S110 - a dataset of unknown length is normal
        pass
