"""Contexts and epochs: what the calls inside belong to.

A context is a path of names.  ``log_context`` says which context a flat name stands under; from
then on a path that begins with it is put under its parent, where an event is written
(``Recorder.append``, ``hot.bind``), so that events carry whole paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prov4ml import events as ev
from prov4ml import hot
from prov4ml.errors import UsageError
from prov4ml.recorder import Inside, Recorder, inside

__all__ = ["context", "epoch", "log_context"]


@contextmanager
def context(to: Recorder, name: str) -> Iterator[None]:
    """See ``Run.context``."""
    path = (hot.scope.get() or ()) + hot.context_path(name)
    to.append(ev.ContextStarted(to.now(), path))
    token = hot.scope.set(path)
    try:
        yield
    finally:
        hot.scope.reset(token)
        with suppress(UsageError):  # the run was ended inside
            to.append(ev.ContextEnded(to.now(), path))


@contextmanager
def epoch(to: Recorder, number: int, activity: bool) -> Iterator[None]:
    """See ``Run.epoch``."""
    n = hot.whole("number", number)
    if not isinstance(activity, bool):
        raise TypeError(f"activity must be True or False, not {type(activity).__name__}")
    path = hot.scope.get() or ()
    event = ev.EpochStarted(to.moment(), n, path, activity)
    to.append(event)
    to.epochs.append(event)
    token = inside.set(Inside(to, 0, inside.get())) if activity else None
    try:
        yield
    finally:
        if token is not None:
            inside.reset(token)
        to.epochs.remove(event)
        with suppress(UsageError):
            to.append(ev.EpochEnded(to.now(), n, path))


def log_context(to: Recorder, context: str, is_subcontext_of: str | None) -> None:
    """See ``Run.log_context``."""
    name = hot.text("context", context)
    if is_subcontext_of is not None:
        parent = hot.text("is_subcontext_of", is_subcontext_of)
        known = to.parents.get(name, parent)
        if known != parent:
            raise UsageError(
                f"context {name!r} stands under {known!r} already: it cannot move to {parent!r}"
            )
        if name in hot.placed((parent,), to.parents):
            raise UsageError(f"is_subcontext_of: {parent!r} is {name!r}, or stands under it")
        to.parents[name] = parent
        to.forget_series()
    to.append(ev.ContextStarted(to.now(), (name,)))
