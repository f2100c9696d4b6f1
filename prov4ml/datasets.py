"""Datasets, and the parts of them that contexts use.

A dataset is an occurrence, a part of one (a subset, a loader) a split of it.  An object that was
logged is known again, by identity, for as long as it lives.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, Final

from prov4ml import artifacts, contents, croissant, dataset_facts, hot, paths, tables
from prov4ml import events as ev
from prov4ml.artifacts import Place
from prov4ml.asking import peek
from prov4ml.errors import UsageError
from prov4ml.handover import Handed
from prov4ml.recorder import Recorder
from prov4ml.references import Derivable, Reference
from prov4ml.talk import short

__all__ = ["log_dataset"]

_DEEP: Final = 32  # subsets of subsets that are followed
_HELD: Final = 100  # objects without weak references, which are kept alive


def log_dataset(
    to: Recorder,
    dataset: Any,
    label: str,
    context: str | None,
    *,
    copy: bool,
    hash: bool,
    about: str | os.PathLike[str] | None,
    derived_from: Derivable,
    step: int | None = None,
    described: bool = True,
) -> Reference:
    """See ``Run.log_dataset``; ``about`` is its ``croissant``.  ``described``: say what it is."""
    name = hot.text("label", label)
    where = artifacts.place(to, context, step, use="used", derived_from=derived_from)
    facts = {} if about is None else _croissant(about)
    if paths.is_path(dataset):
        path = os.fsdecode(dataset)
        if path.endswith(".json") and not paths.is_url(path):
            facts |= croissant.facts(Path(path)) or {}
        if hash:
            raise UsageError("hash: files are hashed anyway; hash=True is for arrays and tables")
        return artifacts.log_path(
            to,
            "dataset",
            name,
            path,
            where,
            copy=copy,
            copy_folders=False,
            argument="dataset",
            facts=facts,
        )
    if dataset is None:
        raise TypeError("dataset must be a dataset, a data loader or a path, not None")
    return _object(to, name, dataset, where, facts, hash, described)


def _object(
    to: Recorder,
    name: str,
    dataset: Any,
    where: Place,
    facts: dict[str, ev.Scalar],
    hash: bool,
    described: bool,
) -> Reference:
    try:
        found = dataset_facts.describe(dataset)
    except Exception as error:  # an object that cannot even be asked
        raise contents.complaint("dataset", dataset, "described", error) from error
    told = found.facts | facts if described else facts
    if hash and found.whole is None:
        told["fingerprint"] = tables.digest(dataset)
    elif hash:
        told["indices"] = tables.indices_digest(peek(dataset, "indices"))
    if found.whole is None:
        for part in found.parts:
            known = _recall(to, part)
            if known is not None:
                where = _derived(where, known[0], to)
        made = _occurrence(to, name, dataset, told, where)
        if where.at:
            to.append(ev.Split(to.now(), name, where.at, made.n, told))
        return made
    whole, parent = _root(to, dataset, found.whole)
    known = _recall(to, whole)
    if known is None:
        title = f"{type(whole).__name__} of {name}"
        inner = dataset_facts.describe(whole).facts if described else {}
        made = _occurrence(to, title, whole, inner, where._replace(at=(), step=None))
    elif where.derived:
        raise UsageError(
            f"derived_from: {short(name)!r} is a part of {short(known[0].name)!r}, "
            "which was logged before: say it there"
        )
    else:
        made = known[0]
    to.append(ev.Split(to.now(), name, where.at, made.n, told, parent))
    _remember(to, dataset, made, name)
    return made


def _occurrence(
    to: Recorder, name: str, thing: Any, facts: dict[str, ev.Scalar], where: Place
) -> Reference:
    made = to.occurrence(to.number(), "dataset", name, Handed(), facts=facts, **where._asdict())
    _remember(to, thing, made, "")
    return made


def _derived(where: Place, source: Reference, to: Recorder) -> Place:
    more, _ = to.references.resolve(source)
    return where._replace(derived=tuple(dict.fromkeys((*where.derived, *more))))


def _root(to: Recorder, dataset: Any, whole: Any) -> tuple[Any, str]:
    """The dataset at the end of subsets of subsets, and the nearest split on the way."""
    parent = ""
    for _ in range(_DEEP):
        known = _recall(to, whole)
        if known is not None and known[1] and not parent:
            parent = known[1]
        further = dataset_facts.describe(whole).whole
        if further is None or further is dataset or further is whole:
            break
        whole = further
    return whole, parent


# -------------------------------------------------------------------- what was logged before


def _remember(to: Recorder, thing: Any, reference: Reference, split: str) -> None:
    """An object is known again while it lives; one that has no weak references is kept alive."""
    known, key = to.datasets, id(thing)

    def forget(_: object) -> None:
        known.pop(key, None)  # an id is used again

    try:
        held: Any = weakref.ref(thing, forget)
    except TypeError:
        strong = [k for k, entry in known.items() if not isinstance(entry[0], weakref.ref)]
        if len(strong) >= _HELD:
            known.pop(strong[0], None)
        held = thing
    known[key] = (held, reference, split)


def _recall(to: Recorder, thing: Any) -> tuple[Reference, str] | None:
    """Its dataset, and its name as a split ("" when it is none)."""
    entry = to.datasets.get(id(thing))
    if entry is None:
        return None
    held = entry[0]() if isinstance(entry[0], weakref.ref) else entry[0]
    return (entry[1], entry[2]) if held is thing else None


def _croissant(about: Any) -> dict[str, ev.Scalar]:
    """What ``croissant=`` says: a file that is read, or a URL that is not."""
    if not paths.is_path(about):
        raise TypeError(f"croissant must be a path or a URL, not {type(about).__name__}")
    text = os.fsdecode(about)
    if paths.is_url(text):
        return {"croissant": artifacts.address(text)}
    found = croissant.facts(Path(text))
    if found is None:
        raise UsageError(f"croissant: {short(text)!r} describes no dataset in Croissant's terms")
    return found
