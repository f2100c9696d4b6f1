"""Versions of models: saved on the caller's thread, because the weights are moving.

A model that cannot be saved is an error of the caller, at once; with ``on_error="warn"`` it is a
warning, and the version stands in the record without its bytes.  A disk that takes no more is
always a warning.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from prov4ml import artifacts, handover, hot, paths, saving
from prov4ml.artifacts import Place
from prov4ml.errors import UsageError
from prov4ml.events import Scalar
from prov4ml.handover import Handed
from prov4ml.recorder import Recorder
from prov4ml.references import Derivable, Reference
from prov4ml.talk import log

__all__ = ["log_version"]


def log_version(
    to: Recorder,
    kind: str,
    model: Any,
    model_name: str,
    context: str | None,
    step: int | None,
    *,
    epoch: int | None = None,
    format: str | None = None,
    is_input: bool = False,
    copy: bool = True,
    derived_from: Derivable = None,
    described: bool = True,
    layered: bool = True,
    kept: bool = True,
) -> Reference:
    """``kind``: "checkpoint" or "model" (the final one); see ``Run.save_model_version``.

    ``described``: say what it is; ``layered``: with the tree of its layers.  ``kept``: with its
    weights; else only that it was there.
    """
    name = hot.text("model_name", model_name)
    use = "used" if is_input else "generated"
    where = artifacts.place(
        to, context, step, epoch, use=use, derived_from=derived_from, model=name
    )
    if kept and paths.is_path(model):
        if format is not None:
            raise UsageError("format: a file or folder is kept as it is; format is for objects")
        ending = os.path.splitext(os.fsdecode(model))[1].lstrip(".")
        facts: dict[str, Scalar] = {"format": paths.plain(ending) or "file"} if described else {}
        return artifacts.log_path(
            to, kind, name, model, where, copy=copy, argument="model", facts=facts
        )
    saver = saving.saver(model, format)
    facts = saving.facts(model) if described else {}
    if layered:
        _tell_layers(to, name, model, where, facts)
    n = to.number()
    if not kept:
        return to.occurrence(n, kind, name, Handed(), facts=facts, **where._asdict())
    if described:
        facts = {"format": saver.format, **facts}
    folder: list[Path] = []
    try:
        handed = to.hand_over(name, n, lambda incoming, file: saver.write(incoming, file, folder))
    except UsageError as error:
        if not to.lenient:
            raise
        log.warning("%s is not saved: %s", name, error)
        handed = Handed(lost=str(error))
    made = to.occurrence(n, kind, name, handed, facts=facts, **where._asdict())
    for each in folder:
        _take_folder(to, name, each, where, n)
    return made


def _tell_layers(
    to: Recorder, name: str, model: Any, where: Place, facts: dict[str, Scalar]
) -> None:
    """The tree of the layers as a file of its own; once, unless it changes."""
    tree = saving.layers(model)
    if tree is None:
        return
    digest = hashlib.sha256(tree).hexdigest()
    known = to.layers.get(name)
    if known is None or known[0] != digest:
        n = to.number()
        handed = to.hand_over(
            f"the layers of {name}",
            n,
            lambda incoming, file: handover.hand_over_bytes(
                tree, incoming, file, "application/jsonl"
            ),
        )
        inner = Place(where.at, where.step, where.epoch, where.use)
        to.occurrence(n, "layers", f"layers of {name}", handed, **inner._asdict())
        known = to.layers[name] = (digest, n)
    facts["layers"] = known[1]


def _take_folder(to: Recorder, name: str, folder: Path, where: Place, collection: int) -> None:
    """The files in which a model saved itself, moved from where it put them."""
    inner = where._replace(derived=(), tuned=0)
    for below, path, found in paths.Walk(folder).files():
        n = to.number()

        def take(incoming: Path, file: str, path: Path = path, size: int = found.st_size) -> Handed:
            os.replace(path, incoming / file)
            return Handed(file, size, None, handover.media_type(path.name))

        title = f"{name}/{paths.plain(below)}"
        handed = to.hand_over(title, n, take)
        to.occurrence(n, "artifact", title, handed, folder=collection, **inner._asdict())
    shutil.rmtree(folder, ignore_errors=True)
