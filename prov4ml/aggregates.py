"""Metrics of which one value is wanted at the end.

The built-in folds cost nothing here: the value follows from the points that every process logs
anyway, and is computed where the log is read, over all of them.  A callable runs in this process:
at each point of that metric, on the thread that logs it, right after the point is kept.  Such a
metric takes the careful way of ``log_metric`` (a few microseconds); all others are as fast as ever.
"""

from __future__ import annotations

import math
import operator
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from prov4ml import events as ev
from prov4ml import hot
from prov4ml.errors import UsageError
from prov4ml.recorder import Recorder
from prov4ml.talk import log, short

__all__ = ["FoldOperation", "register_final_metric"]


class FoldOperation(str, Enum):
    """How the points of a metric come to one value; the names are those of yProv4ML, and two more.

    MULTIPLY is computed by each rank, over its own points; all others over all ranks.
    """

    ADD = "add"
    SUBTRACT = "subtract"
    MULTIPLY = "multiply"
    MIN = "min"
    MAX = "max"
    MEAN = "mean"
    LAST = "last"

    def __str__(self) -> str:
        return self.value


_FUNCTIONS: Final[dict[Any, FoldOperation]] = {
    min: FoldOperation.MIN,
    max: FoldOperation.MAX,
    operator.add: FoldOperation.ADD,
    operator.sub: FoldOperation.SUBTRACT,
    operator.mul: FoldOperation.MULTIPLY,
}
"""Functions that are one of the built-in folds, so that they are computed over all ranks too."""


def register_final_metric(
    to: Recorder,
    metric_name: str,
    initial_value: float,
    fold_operation: Any,
    context: str | None,
) -> None:
    """See ``Run.register_final_metric``."""
    name = hot.text("metric_name", metric_name)
    initial = hot.real("initial_value", initial_value)
    fold, function, label = _fold(fold_operation)
    path = () if context is None else hot.context_path(context)
    n = to.next_final()
    to.append(ev.FinalMetric(to.now(), n, name, fold, initial, path, label))
    if function is None or not to.keeps:
        return
    running = _Running(function, initial, hot.placed(path, to.parents))
    before = to.watchers.get(name)
    to.watchers[name] = running.see if before is None else _both(before, running.see)
    to.forget_series()

    def say() -> None:
        value, count, error = running.result()
        event = ev.FinalMetric(to.now(), n, name, fold, initial, path, label, value, count, error)
        to.append(event)

    to.finals.append(say)


def _fold(given: Any) -> tuple[str, Callable[[Any, Any], Any] | None, str]:
    """(fold, the function that is called here, its label) as ``ev.FinalMetric`` has them."""
    known = given
    if isinstance(given, str):
        try:
            known = FoldOperation(given.strip().lower())
        except ValueError:
            names = ", ".join(each.name for each in FoldOperation)
            raise UsageError(
                f"fold_operation {short(given)} is unknown; known: {names}, or any function of two"
            ) from None
    elif callable(given):
        try:
            known = _FUNCTIONS.get(given, given)
        except TypeError:  # not hashable
            known = given
    else:
        raise TypeError(
            "fold_operation must be a FoldOperation, its name or a function of two arguments, "
            f"not {type(given).__name__}"
        )
    if known is FoldOperation.MULTIPLY:
        return "callable", operator.mul, known.value
    if isinstance(known, FoldOperation):
        return known.value, None, ""
    label = getattr(known, "__qualname__", type(known).__qualname__)
    module = getattr(known, "__module__", None) or type(known).__module__
    return "callable", known, short(f"{module}.{label}")


def _both(
    one: Callable[[tuple[str, ...], float], None], other: Callable[[tuple[str, ...], float], None]
) -> Callable[[tuple[str, ...], float], None]:
    def see(path: tuple[str, ...], value: float) -> None:
        one(path, value)
        other(path, value)

    return see


class _Running:
    """A callable fold.  Values go through a queue: nobody waits, each one counts once.

    A thread that comes while another one folds leaves its value there; so does a signal handler.
    """

    def __init__(
        self, function: Callable[[Any, Any], Any], initial: float, context: tuple[str, ...]
    ) -> None:
        self._function = function
        self._value: Any = initial
        self._context = context
        self._count = 0
        self._error: str | None = None
        self._waiting: deque[float] = deque()
        self._busy = threading.Lock()

    def see(self, path: tuple[str, ...], value: float) -> None:
        """A point was logged."""
        if self._context and path != self._context:
            return
        self._waiting.append(value)
        while self._waiting and self._busy.acquire(blocking=False):
            try:
                while self._waiting:
                    self._take(self._waiting.popleft())
            finally:
                self._busy.release()

    def _take(self, value: float) -> None:
        if self._error is not None:
            return
        try:
            self._value = self._function(self._value, value)
        except Exception as error:  # a callable may raise anything; the training goes on
            self._error = f"{type(error).__name__}: {short(str(error))}"
            log.warning("a final metric is not computed: its fold raised %s", self._error)
        else:
            self._count += 1

    def result(self) -> tuple[float | None, int, str | None]:
        """(value, points, why there is none)."""
        if self._error is None:
            try:
                return _number(self._value), self._count, None
            except (TypeError, ValueError) as error:
                self._error = short(f"the fold gave no number: {error}")
        return None, self._count, self._error


def _number(value: Any) -> float:
    """What a fold came to as binary64; beyond 2**53 it is rounded, it is no count."""
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return hot.real("value", value)
