"""What can be said of a dataset object without reading it: what it is part of, and its counts.

Understands what looks like a torch ``DataLoader``, ``Subset``, ``ConcatDataset`` or
``TensorDataset``, a Hugging Face dataset, an array, a table, a mapping of these, and anything
with a length.  Counts are true or not there: a length that nobody knows is not guessed, and an
attribute that raises says nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from prov4ml import tables
from prov4ml.asking import peek
from prov4ml.events import Scalar
from prov4ml.handover import class_name
from prov4ml.tables import sized
from prov4ml.talk import short

__all__ = ["Described", "describe"]

_MISSING: Final = object()


class Described(NamedTuple):
    """``whole``: what it goes over or is a part of; ``parts``: what it was joined from."""

    facts: dict[str, Scalar]
    whole: Any = None
    parts: tuple[Any, ...] = ()


def describe(dataset: Any) -> Described:
    """What a dataset object says of itself."""
    facts: dict[str, Scalar] = {"class": class_name(dataset)}
    library = type(dataset).__module__.partition(".")[0]
    inner = peek(dataset, "dataset")
    if inner is not None and peek(dataset, "batch_size", _MISSING) is not _MISSING:
        return Described(facts | _loader(dataset, inner), inner)
    indices = peek(dataset, "indices")
    if inner is not None and indices is not None:
        return Described(facts | _samples(sized(dataset)), inner)
    if library == "datasets":
        return Described(facts | _hugging_face(dataset))
    parts = peek(dataset, "datasets")
    if isinstance(parts, (list, tuple)) and parts:
        facts["parts"] = len(parts)
        return Described(facts | _samples(sized(dataset)), None, tuple(parts))
    return Described(facts | _plain(dataset))


def _samples(count: int | None) -> dict[str, Scalar]:
    return {"length": "unknown"} if count is None else {"samples": count}


# ------------------------------------------------------------------------------- loaders


def _loader(loader: Any, dataset: Any) -> dict[str, Scalar]:
    """Counts and order of one pass over a data loader, on this rank."""
    facts: dict[str, Scalar] = {}
    size = _whole(peek(loader, "batch_size"))
    drop = peek(loader, "drop_last")
    drop = drop if isinstance(drop, bool) else None
    sampler, grouping = peek(loader, "sampler"), peek(loader, "batch_sampler")
    iterable = "InfiniteConstant" in class_name(sampler)  # what torch gives an IterableDataset
    if size is None and grouping is not None:  # a batch sampler of the user's own
        facts["batch_sampler"] = class_name(grouping)
        sampler = peek(grouping, "sampler")
        size = _whole(peek(grouping, "batch_size"))
        drop = peek(grouping, "drop_last")
        drop = drop if isinstance(drop, bool) else None
    if size is not None:
        facts["batch_size"] = size
    if drop is not None:
        facts["drop_last"] = drop
    visited = total = sized(dataset)
    if iterable:  # its loader is not asked: it would remember, and warn while it is iterated
        batches = (
            total
            if size is None or total is None
            else (total if drop else total + size - 1) // size
        )
    else:
        batches = sized(loader)
        facts |= _order(sampler)
        if sampler is not None:
            visited = sized(sampler)
        elif grouping is not None:  # only that one knows
            visited = None
    if batches is not None:
        facts["batches"] = batches
    if drop and size is not None and batches is not None:
        visited = batches * size
    facts |= _samples(visited)
    if total is not None and total != visited:
        facts["dataset_samples"] = total
    workers = _whole(peek(loader, "num_workers"))
    if workers is not None:
        facts["workers"] = workers
    seed = _seed(loader, sampler)
    if seed is not None:
        facts["seed"] = seed
    return facts


def _order(sampler: Any) -> dict[str, Scalar]:
    """In which order a sampler goes, as far as it tells."""
    if sampler is None:
        return {}
    facts: dict[str, Scalar] = {}
    name = type(sampler).__name__
    shuffle = peek(sampler, "shuffle")
    if isinstance(shuffle, bool):
        facts["shuffle"] = shuffle
    elif "Random" in name:
        facts["shuffle"] = True
    elif "Sequential" in name:
        facts["shuffle"] = False
    if name not in ("RandomSampler", "SequentialSampler"):
        facts["sampler"] = class_name(sampler)
    for mine, theirs in (("replicas", "num_replicas"), ("replica", "rank")):
        number = _whole(peek(sampler, theirs))
        if number is not None:
            facts[mine] = number
    replacement = peek(sampler, "replacement")
    if replacement is True:
        facts["replacement"] = True
    return facts


def _seed(loader: Any, sampler: Any) -> int | None:
    """The seed of the generator that orders the samples, where it has one of its own."""
    for owner in (sampler, loader):
        seeded = peek(peek(owner, "generator"), "initial_seed")
        if callable(seeded):
            try:
                return int(seeded())
            except Exception:
                continue
    return _whole(peek(sampler, "seed"))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# ------------------------------------------------------------------------ other datasets


def _hugging_face(dataset: Any) -> dict[str, Scalar]:
    """Of the package ``datasets``: name, split, schema and fingerprint."""
    if isinstance(dataset, Mapping):
        rows = {str(name): sized(split) for name, split in dataset.items()}
        return {"splits": json.dumps(rows)}
    facts = _samples(sized(dataset))
    for name, source in (
        ("fingerprint", "_fingerprint"),
        ("split", "split"),
        ("builder", "builder_name"),
        ("config", "config_name"),
        ("version", "version"),
    ):
        text = _text(peek(dataset, source))
        if text:
            facts[name] = text
    features = peek(dataset, "features")
    if isinstance(features, Mapping):
        columns = {str(name): _text(kind) or "" for name, kind in features.items()}
        facts["columns"] = len(columns)
        facts["schema"] = short(json.dumps(columns, ensure_ascii=False), 4000)
    return facts


def _plain(dataset: Any) -> dict[str, Scalar]:
    if isinstance(dataset, Mapping):
        return _mapping({str(name): value for name, value in dataset.items()})
    tensors = peek(dataset, "tensors")
    if isinstance(tensors, (list, tuple)) or isinstance(dataset, tuple):
        inner = dataset if isinstance(dataset, tuple) else tensors
        shapes = [tables.integers(peek(each, "shape", 0)) for each in inner]
        facts = _samples(sized(dataset))
        if shapes and None not in shapes and all(shapes):
            firsts = {shape[0] for shape in shapes if shape}
            facts = _samples(firsts.pop() if len(firsts) == 1 else None)
            facts["shapes"] = json.dumps(shapes)
        return facts
    facts = tables.describe(dataset)
    if "samples" not in facts:
        facts["length"] = "unknown"
    for name in ("root", "train", "split"):  # as torchvision's have them
        value = peek(dataset, name)
        if isinstance(value, (bool, str, os.PathLike)):
            facts[name] = value if isinstance(value, bool) else os.fspath(value)
    return facts


def _mapping(columns: dict[str, Any]) -> dict[str, Scalar]:
    """Of named arrays or columns: what they are called, and how long they are if all agree."""
    facts: dict[str, Scalar] = {"columns": len(columns)}
    asked = ((name, tables.integers(peek(each, "shape", 0))) for name, each in columns.items())
    shapes = {name: shape for name, shape in asked if shape}
    counts = {shape[0] for shape in shapes.values()}
    if "data" in shapes:  # a Bunch of scikit-learn, where names have arrays too
        counts = {shapes["data"][0]}
    if not shapes:
        columns_ = [each for each in columns.values() if not isinstance(each, (str, bytes))]
        counts = {-1 if (n := sized(each)) is None else n for each in columns_}
    count = counts.pop() if len(counts) == 1 and -1 not in counts else None
    facts |= _samples(count)
    facts["names"] = short(json.dumps(list(columns), ensure_ascii=False), 4000)
    if shapes:
        facts["shapes"] = short(json.dumps(shapes, ensure_ascii=False), 4000)
    return facts


def _text(thing: Any) -> str | None:
    try:
        return None if thing is None else short(str(thing), 1000)
    except Exception:
        return None
