"""What a run took in and gave out, whatever it is: files, data, models, numbers.

A number has no bytes to keep: it is an occurrence that says its value, by default ``input 1``,
``input 2``, ... and ``output 1``, ... in the order of the calls of its process.
"""

from __future__ import annotations

import sys
from numbers import Integral, Number
from typing import Any

from prov4ml import artifacts, checkpoints, contents, datasets, hot, paths, saving
from prov4ml.asking import peek
from prov4ml.events import Scalar
from prov4ml.handover import Handed
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
    if _is_number(inp):
        return _value(to, "input", inp, name, context, step, derived_from)
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
    if _is_number(out):
        return _value(to, "output", out, name, context, step, derived_from)
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


def _value(
    to: Recorder,
    what: str,
    number: Any,
    name: str | None,
    context: str | None,
    step: int | None,
    derived_from: Derivable,
) -> Reference:
    use = "used" if what == "input" else "generated"
    where = artifacts.place(to, context, step, use=use, derived_from=derived_from)
    if name is None:
        count = to.counts[what] = to.counts.get(what, 0) + 1
        name = f"{what} {count}"
    else:
        name = hot.text("name", name)
    facts = {"value": _scalar(number)}
    return to.occurrence(to.number(), "artifact", name, Handed(), facts=facts, **where._asdict())


def _is_number(thing: Any) -> bool:
    """A number of Python or NumPy, or a tensor or array of none dimension."""
    if isinstance(thing, Number):
        return True
    return peek(thing, "ndim") == 0 and callable(peek(thing, "item"))


def _scalar(number: Any) -> Scalar:
    """As it can stand in an event: exactly, or as text."""
    if not isinstance(number, Number):
        number = number.item()
    if isinstance(number, bool | float):
        return bool(number) if isinstance(number, bool) else float(number)
    if isinstance(number, Integral):
        whole = int(number)
        if whole.bit_length() < 64:
            return whole
        return str(whole) if whole.bit_length() < 10_000 else hex(whole)
    return str(number)


def _is_array(thing: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(thing, getattr(numpy, "ndarray", ()))
