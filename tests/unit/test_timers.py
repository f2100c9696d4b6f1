"""Timers: seconds with their unit, and the two times of yProv4ML."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prov4ml import contexts, timers
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.testing.recording import Recording


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path)
    yield made
    made.close()


def test_a_timer_logs_the_seconds_of_its_block(
    book: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the context of the call, with its step, as a series in seconds."""
    ticks = itertools.count(0, 250_000_000)
    monkeypatch.setattr(timers.time, "perf_counter_ns", lambda: next(ticks))
    with contexts.context(book.to, "training"), timers.timer(book.to, "forward", None, 7):
        pass
    with timers.timer(book.to, "forward", "validation", None):
        pass
    series = book.of(ev.SeriesDefined)
    assert [(s.name, s.context, s.unit) for s in series] == [
        ("forward", ("training",), "s"),
        ("forward", ("validation",), "s"),
    ]
    assert [(p.value, p.step) for p in book.of(ev.Point)] == [(0.25, 7), (0.25, None)]


def test_timers_may_be_nested_and_repeated(book: Recording) -> None:
    """One point per block; the outer one takes at least as long as the inner one."""
    for _ in range(3):
        with timers.timer(book.to, "outer", None, None), timers.timer(book.to, "inner", None, None):
            pass
    names = {s.series: s.name for s in book.of(ev.SeriesDefined)}
    points = [(names[p.series], p.value) for p in book.of(ev.Point)]
    assert [name for name, _ in points] == ["inner", "outer"] * 3
    assert all(
        outer >= inner >= 0
        for (_, inner), (_, outer) in zip(points[::2], points[1::2], strict=True)
    )


def test_a_block_that_raises_has_no_time(book: Recording) -> None:
    """The exception passes, and no point is logged."""
    with pytest.raises(ZeroDivisionError), timers.timer(book.to, "forward", None, None):
        1 / 0  # noqa: B018
    assert book.of(ev.Point) == []


@pytest.mark.parametrize(
    ("label", "context", "step", "kind", "words"),
    [
        ("", None, None, UsageError, "label must not be empty"),
        (3, None, None, TypeError, "label must be a string"),
        ("a", 3, None, TypeError, "context must be a string"),
        ("a", None, "x", TypeError, "step must be an integer"),
    ],
)
def test_wrong_arguments_are_told_before_the_block(
    book: Recording, label: Any, context: Any, step: Any, kind: type[Exception], words: str
) -> None:
    """Not after the hours that it took."""
    entered = False
    with pytest.raises(kind, match=words), timers.timer(book.to, label, context, step):
        entered = True
    assert not entered


def test_the_execution_time_is_counted_from_its_start(book: Recording) -> None:
    """From the start of the run, and from ``log_execution_start_time`` once that is called."""
    book.to.clock.offset += 5_000_000_000  # five seconds later
    timers.log_current_execution_time(book.to, "so far", "training", 3)
    timers.log_execution_start_time(book.to)
    timers.log_current_execution_time(book.to, "so far", "training", None)
    first, second = book.of(ev.Point)
    assert 5 <= first.value < 5 + 60
    assert 0 <= second.value < 60
    assert first.step == 3
    assert book.of(ev.SeriesDefined)[0].unit == "s"


def test_start_and_end_are_parameters_in_utc(book: Recording) -> None:
    """Spelled as documents spell times, and the very time of the event's clock."""
    timers.log_execution_start_time(book.to)
    timers.log_execution_end_time(book.to)
    found = book.of(ev.Param)
    assert [p.key for p in found] == ["execution_start_time", "execution_end_time"]
    for param in found:
        said = dt.datetime.strptime(param.value, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.UTC)
        assert 0 <= param.time / 1e9 - said.timestamp() < 1
