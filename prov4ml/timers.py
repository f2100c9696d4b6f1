"""How long things took: as metrics in seconds, by the monotonic clock."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prov4ml import hot, params
from prov4ml.recorder import Recorder

__all__ = [
    "log_current_execution_time",
    "log_execution_end_time",
    "log_execution_start_time",
    "timer",
]


@contextmanager
def timer(to: Recorder, label: str, context: str | None, step: int | None) -> Iterator[None]:
    """See ``Run.timer``."""
    name = hot.text("label", label)
    number = None if step is None else hot.whole("step", step)
    if context is not None:
        hot.context_path(context)
    begin = time.perf_counter_ns()
    yield  # what raises took no time that means anything
    to.measure(name, (time.perf_counter_ns() - begin) / 1e9, context, number, "s")


def log_current_execution_time(
    to: Recorder, label: str, context: str | None, step: int | None
) -> None:
    """See ``Run.log_current_execution_time``."""
    name = hot.text("label", label)
    to.measure(name, (to.now() - to.execution) / 1e9, context, step, "s")


def log_execution_start_time(to: Recorder) -> None:
    """See ``Run.log_execution_start_time``."""
    to.execution = to.now()
    params.log_param(to, "execution_start_time", _iso(to.execution))


def log_execution_end_time(to: Recorder) -> None:
    """See ``Run.log_execution_end_time``."""
    params.log_param(to, "execution_end_time", _iso(to.now()))


def _iso(moment: int) -> str:
    """As documents print times: UTC, six decimals, cut."""
    seconds, rest = divmod(moment, 1_000_000_000)
    time_utc = dt.datetime.fromtimestamp(seconds, dt.UTC).replace(microsecond=rest // 1000)
    return time_utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
