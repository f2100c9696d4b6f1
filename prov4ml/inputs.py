"""What a run took in and gave out, whatever it is: files, data, models, values."""

from __future__ import annotations

import sys
from typing import Any

from prov4ml import artifacts, checkpoints, contents, datasets, paths, saving
from prov4ml.recorder import Recorder
from prov4ml.references import Derivable, Reference

__all__ = ["log_input", "log_output"]


def log_input(
    to: Recorder,
    inp: Any,
    name: str | None,
    context: str | None,
    step: int | None,
    *,
    copy: bool,
    derived_from: Derivable,
) -> Reference:
    """See ``Run.log_input``."""
    if paths.is_path(inp) or (contents.writer("", inp) is not None and not _is_array(inp)):
        return _artifact(
            to, inp, name, context, step, is_input=True, copy=copy, derived_from=derived_from
        )
    label = type(inp).__name__ if name is None else name
    return datasets.log_dataset(
        to,
        inp,
        label,
        context,
        copy=copy,
        hash=False,
        about=None,
        derived_from=derived_from,
        step=step,
    )


def log_output(
    to: Recorder,
    out: Any,
    name: str | None,
    context: str | None,
    step: int | None,
    *,
    copy: bool,
    derived_from: Derivable,
) -> Reference:
    """See ``Run.log_output``."""
    if not paths.is_path(out) and saving.is_model(out):
        title = type(out).__name__ if name is None else name
        return checkpoints.log_version(
            to, "model", out, title, context, step, derived_from=derived_from
        )
    return _artifact(
        to, out, name, context, step, is_input=False, copy=copy, derived_from=derived_from
    )


def _artifact(
    to: Recorder,
    thing: Any,
    name: str | None,
    context: str | None,
    step: int | None,
    *,
    is_input: bool,
    copy: bool,
    derived_from: Derivable,
) -> Reference:
    first, second = (name, thing) if name is not None else (thing, None)
    if name is None and not paths.is_path(thing):
        first, second = type(thing).__name__, thing
    return artifacts.log_artifact(
        to,
        first,
        second,
        context,
        step,
        is_input=is_input,
        copy=copy,
        derived_from=derived_from,
    )


def _is_array(thing: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(thing, getattr(numpy, "ndarray", ()))
