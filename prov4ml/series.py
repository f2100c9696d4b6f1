"""One metric series of one producer: its statistics, and how far later attempts let it stand.

``standing`` parts points that stand from those that a later attempt left behind, ``extend`` takes
the former into the statistics.  The rules:

* Points come in sequence order, however they are cut into batches: additions are plain float
  additions in that order, so cutting elsewhere changes no bit of a sum.
* Memory does not grow with points: a sketch is thinned, what was left behind is only counted.

Pure, like the fold that it is a part of (``prov4ml.producer``).
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Final

import msgspec

from prov4ml import events as ev
from prov4ml.doings import Epochs, Path

__all__ = ["SKETCH", "Cut", "Key", "Limit", "Series", "Stretch", "extend", "standing"]

SKETCH: Final = 64
"""A series keeps at most this many points (every 2**k-th) for drawing."""


class Limit(msgspec.Struct, frozen=True):
    """How far a later attempt let a series stand.

    Beyond it lie points with a higher step than ``step``; where a point or the limit has no
    step, those logged later than ``time`` (ns, the producer's own clock).  None limits nothing.
    """

    attempt: int  # the one that left behind what lies beyond
    step: int | None = None
    time: int | None = None


Key = tuple[str, Path, str | None]
"""What a series is, whatever its number: name, context, source."""

Cut = dict[Key | None, tuple[Limit, ...]]
"""The limits of a producer's series; those under None hold for each that is not named."""


class Stretch(msgspec.Struct):
    """Points of a series beyond a limit: how many, their lowest and highest step, when logged."""

    limit: Limit
    count: int = 0
    low: int | None = None
    high: int | None = None
    first_time: int = 0
    last_time: int = 0

    def add(self, point: ev.Point, time: int) -> None:
        if not self.count:
            self.first_time = self.last_time = time
        self.count += 1
        self.first_time, self.last_time = min(self.first_time, time), max(self.last_time, time)
        step = point.step
        if step is not None:
            self.low = step if self.low is None else min(self.low, step)
            self.high = step if self.high is None else max(self.high, step)


class Series(msgspec.Struct):
    """Statistics of one metric series of one producer, in sequence order.

    ``total``, ``minimum`` and ``maximum`` leave NaN out; ``mean`` is total / (count - nan_count).
    Times are those of the log calls (ns).  ``sketch`` holds every ``stride``-th value.
    ``minimum_at`` and ``maximum_at`` are (step, epoch) of the first point with that value.
    All of that is of the points that stand; ``abandoned`` has those that attempts left behind.
    """

    name: str
    context: Path
    source: str | None
    unit: str | None
    count: int = 0
    nan_count: int = 0
    total: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    first: float | None = None
    last: float | None = None
    first_step: int | None = None
    last_step: int | None = None
    first_time: int = 0
    last_time: int = 0
    sketch: list[float] = msgspec.field(default_factory=list)
    stride: int = 1
    minimum_at: tuple[int | None, int | None] = (None, None)
    maximum_at: tuple[int | None, int | None] = (None, None)
    abandoned: dict[int, Stretch] | None = None  # by the attempt that left them behind

    @property
    def mean(self) -> float | None:
        numbers = self.count - self.nan_count
        return self.total / numbers if numbers else None


def extend(s: Series, points: list[ev.Point], times: list[int], epochs: Epochs) -> None:
    """Take the next points of a series, at least one.

    ``times`` are those of the log calls (ns), ``epochs`` the open ones.
    """
    head, tail = points[0], points[-1]
    first_time, last_time = times[0], times[-1]
    values = [point.value for point in points]
    if s.count == 0:
        s.first, s.first_step, s.first_time = head.value, head.step, first_time
    s.last, s.last_step, s.last_time = tail.value, tail.step, last_time

    offset = -s.count % s.stride
    s.sketch += values[offset :: s.stride]
    while len(s.sketch) > SKETCH:
        s.sketch = s.sketch[::2]
        s.stride *= 2

    s.count += len(values)
    numbers = values
    total = reduce(add, values, s.total)
    if total != total:  # a NaN among them (or inf - inf): look closer
        numbers = [v for v in values if v == v]
        s.nan_count += len(values) - len(numbers)
        total = reduce(add, numbers, s.total)
    s.total = total
    if numbers:
        low, high = min(numbers), max(numbers)
        if s.minimum is None or low < s.minimum:
            s.minimum, at = low, points[values.index(low)]
            s.minimum_at = (at.step, epochs.of(s.context, at.epoch))
        if s.maximum is None or high > s.maximum:
            s.maximum, at = high, points[values.index(high)]
            s.maximum_at = (at.step, epochs.of(s.context, at.epoch))


def standing(
    s: Series, cut: Cut, points: list[ev.Point], times: list[int]
) -> tuple[list[ev.Point], list[int]]:
    """The points that no limit leaves behind, and their times; the others are counted."""
    limits = cut.get((s.name, s.context, s.source)) or cut.get(None)
    if not limits:
        return points, times
    kept: list[ev.Point] = []
    kept_times: list[int] = []
    for point, time in zip(points, times, strict=True):
        for limit in limits:
            if limit.step is not None and point.step is not None:
                beyond = point.step > limit.step
            else:
                beyond = limit.time is not None and time > limit.time
            if beyond:
                if s.abandoned is None:
                    s.abandoned = {}
                stretch = s.abandoned.get(limit.attempt)
                if stretch is None:
                    stretch = s.abandoned[limit.attempt] = Stretch(limit)
                stretch.add(point, time)
                break
        else:
            kept.append(point)
            kept_times.append(time)
    return kept, kept_times
