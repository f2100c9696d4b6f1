"""``ProvenanceTrackedFunction``: what a function gives is a metric of its name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prov4ml import current, hot
from prov4ml.integrations.wrapped import Wrapped, is_module, needs_of, wrap
from prov4ml.talk import log

__all__ = ["ProvenanceTrackedFunction"]


class ProvenanceTrackedFunction(Wrapped):
    """A function or module, for example a loss, whose results are logged as a metric.

    The series has the function's name; its step is the number of the call in its context, from 0.
    ``context``: the metric's, else the default one.  What it is stands in the parameter
    ``<name>.function``.  A result that is no single number is passed on, not logged, and that is
    said once.  A module stays a module (see ``wrapped``); works as a decorator, of methods too.
    """

    __slots__ = ()

    def __new__(cls, func: Callable[..., Any], context: str | None = None) -> Any:
        if not callable(func):
            raise TypeError(f"func must be callable, not {type(func).__name__}")
        if context is not None:
            hot.context_path(context)
        needs = _Results(func, context)
        if is_module(func):
            return wrap(ProvenanceTrackedFunction, func, needs)
        return _function(func, needs)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        result = super().__call__(*arguments, **keywords)  # type: ignore[misc]
        needs = needs_of(self, ProvenanceTrackedFunction)
        if needs is not None:
            needs.tell(result)
        return result


class _Function(ProvenanceTrackedFunction):
    """Of a callable that is no module: passes everything on to it."""

    __wrapped__: Any

    def __init__(self, *_: Any, **__: Any) -> None:
        """``_function`` has made it."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        result = self.__wrapped__(*arguments, **keywords)
        needs_of(self, ProvenanceTrackedFunction).tell(result)
        return result

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _function, (self.__wrapped__, needs_of(self, ProvenanceTrackedFunction))

    def __copy__(self) -> Any:
        return _function(self.__wrapped__, needs_of(self, ProvenanceTrackedFunction))


def _function(func: Callable[..., Any], needs: _Results) -> _Function:
    made: _Function = object.__new__(_Function)
    object.__setattr__(made, "_prov4ml", {ProvenanceTrackedFunction: needs})
    functools.update_wrapper(made, func, updated=())
    return made


class _Results:
    """What a wrapper remembers."""

    def __init__(self, func: Any, context: str | None) -> None:
        self.name = _name(func)
        self.text = _text(func)
        self.context = context
        self.calls: dict[tuple[str, ...], int] = {}
        self.run = ""  # the one that the counts are of
        self.silent = False

    def tell(self, result: Any) -> None:
        """Log a result; whatever goes wrong, it is passed on."""
        run = current.active_run()
        if run is None or self.silent:
            return
        try:
            if self.run != run.id:
                self.run, self.calls = run.id, {}
                run.log_param(f"{self.name}.function", self.text)
            path = hot.current_path(self.context)
            step = self.calls.get(path, 0)
            self.calls[path] = step + 1
            run.log_metric(self.name, result, self.context, step)
        except Exception as error:
            self.silent = True
            log.warning("results of %s are not logged: %s", self.name, error)


def _name(func: Any) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None)
    return name if isinstance(name, str) and name else type(func).__name__


def _text(func: Any) -> str:
    if is_module(func) or isinstance(func, functools.partial):
        return str(func)
    name = getattr(func, "__qualname__", None)
    return f"{func.__module__}.{name}" if name else str(func)
