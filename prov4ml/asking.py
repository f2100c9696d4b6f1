"""Asking things that we do not know: whatever they raise is no error of the call."""

from __future__ import annotations

from typing import Any

__all__ = ["interrupted", "is_a", "peek"]


def interrupted(error: BaseException) -> bool:
    """Whether a signal handler raised it: then it is for whoever set the handler, not for us."""
    import signal

    handlers = {
        getattr(handler, "__code__", None)
        for handler in map(signal.getsignal, signal.valid_signals())
    } - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def is_a(thing: Any, kinds: type | tuple[type, ...]) -> bool:
    """``isinstance``, but of the class alone: a thing that lets nobody ask is what it is."""
    return issubclass(type(thing), kinds)


def peek(thing: Any, name: str, default: Any = None) -> Any:
    """An attribute; the default for one that is not there, or that raises, whatever it raises."""
    try:
        return getattr(thing, name, default)
    except Exception:
        return default
