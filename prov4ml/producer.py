"""What one producer said: a fold over its stream.

The rules, all of them:

* ``take`` takes the next stretch of the stream.  What it has seen already is cut off (so a batch
  may come twice), what is missing before it is counted as a gap.
* Everything is decided in sequence order: what a series comes to (``prov4ml.series``), which epoch
  something belongs to, which activity did it (``prov4ml.doings``).
* Memory grows with series, artifacts and parameters, never with points.
* A collector is a producer as well, but what it says is of others: that is handed back, for the
  state of the run (``prov4ml.state``).

No sockets, files, clocks or threads here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from prov4ml import events as ev
from prov4ml.doings import IN_EPOCHS, Doings, Path, Span
from prov4ml.series import Cut, Series, extend, standing

__all__ = ["Producer", "define", "take"]


class Producer(msgspec.Struct):
    """Everything one producer said, in sequence order."""

    id: bytes
    next: int = 0  # the sequence number expected next
    received: int = 0
    points: int = 0
    started: ev.Started | None = None
    ended: ev.Ended | None = None
    first_time: int | None = None
    last_time: int | None = None
    series: dict[int, Series] = msgspec.field(default_factory=dict)
    contexts: dict[Path, Span] = msgspec.field(default_factory=dict)  # in order of appearance
    params: list[ev.Param] = msgspec.field(default_factory=list)
    tags: list[ev.Tag] = msgspec.field(default_factory=list)
    artifacts: list[ev.Artifact] = msgspec.field(default_factory=list)
    splits: list[ev.Split] = msgspec.field(default_factory=list)
    source: ev.Source | None = None
    command: ev.Command | None = None
    host: ev.Host | None = None
    doings: Doings = msgspec.field(default_factory=Doings)
    finals: dict[int, ev.FinalMetric] = msgspec.field(default_factory=dict)  # by number
    steps: list[ev.ClockStepped] = msgspec.field(default_factory=list)
    dropped: list[ev.Dropped] = msgspec.field(default_factory=list)
    missing: list[tuple[int, int]] = msgspec.field(default_factory=list)  # (first, how many)
    rejected: dict[str, int] = msgspec.field(default_factory=dict)  # reason: how many
    cut: Cut | None = None

    @property
    def key(self) -> tuple[int, int, bytes]:
        """The order in which producers are combined."""
        started = self.started
        return (started.attempt, started.rank, self.id) if started else (0, 0, self.id)


def take(p: Producer, first: int, events: Sequence[ev.Event | str]) -> list[ev.Event]:
    """Take the events ``first``, ``first + 1``, ... and give back those that a collector decided.

    An item that is a ``str`` stands for a received event that did not decode, and says why.
    """
    if first < p.next:
        events = events[p.next - first :]
        first = p.next
    if not events:
        return []
    if first > p.next:
        p.missing.append((p.next, first - p.next))
        p.doings.epochs.gap(events)
    p.next = first + len(events)
    p.received += len(events)

    decided: list[ev.Event] = []
    groups: dict[int, list[ev.Point]] = {}
    for event in events:
        if type(event) is ev.Point:
            group = groups.get(event.series)
            if group is None:
                groups[event.series] = [event]
            else:
                group.append(event)
        elif isinstance(event, str):
            p.rejected[event] = p.rejected.get(event, 0) + 1
        else:
            if groups and type(event) in _TURNS:  # what came before belongs to another epoch
                _all_points(p, groups)
            say = _SAID.get(type(event))
            if say is None:
                decided.append(event)
            else:
                say(p, event)
    _all_points(p, groups)
    return decided


def define(p: Producer, d: ev.SeriesDefined) -> None:
    """A series has a name from now on; the first one that it is given stays."""
    if d.series not in p.series:
        p.series[d.series] = Series(d.name, tuple(d.context), d.source, d.unit)


def _seen(p: Producer, time: int) -> None:
    if p.first_time is None or time < p.first_time:
        p.first_time = time
    if p.last_time is None or time > p.last_time:
        p.last_time = time


def _touch(p: Producer, context: Path, time: int) -> None:
    _seen(p, time)
    for depth in range(1, len(context) + 1):  # a context is at work when one inside it is
        path = context[:depth]
        span = p.contexts.get(path)
        if span is None:
            p.contexts[path] = Span(time, time)
        else:
            span.widen(time)


def _all_points(p: Producer, groups: dict[int, list[ev.Point]]) -> None:
    for number, points in groups.items():
        _points(p, number, points)
    groups.clear()


def _points(p: Producer, number: int, points: list[ev.Point]) -> None:
    s = p.series.get(number)
    if s is None:
        reason = "point of an undefined series"
        p.rejected[reason] = p.rejected.get(reason, 0) + len(points)
        return
    p.points += len(points)
    times = [point.time if point.logged is None else point.logged for point in points]
    _touch(p, s.context, min(times))  # threads may log out of order: not simply the first
    _touch(p, s.context, max(times))
    if p.cut is not None:
        points, times = standing(s, p.cut, points, times)
        if not points:
            return
    extend(s, points, times, p.doings.epochs)


# One small function per kind of event.


def _started(p: Producer, e: ev.Started) -> None:
    if p.started is None:
        p.started = e
    _seen(p, e.time)


def _param(p: Producer, e: ev.Param) -> None:
    p.params.append(e)
    _touch(p, tuple(e.context), e.time)
    if e.activity:
        _did(p, "param", len(p.params), e.activity, (), e.time)


def _tag(p: Producer, e: ev.Tag) -> None:
    p.tags.append(e)
    _seen(p, e.time)


def _context(p: Producer, e: ev.ContextStarted | ev.ContextEnded) -> None:
    _touch(p, tuple(e.context), e.time)


def _artifact(p: Producer, e: ev.Artifact) -> None:
    path = tuple(e.context)
    epoch = p.doings.epochs.of(path, e.epoch) if e.kind in IN_EPOCHS else e.epoch
    p.artifacts.append(e if epoch == e.epoch else structs.replace(e, epoch=epoch))
    _touch(p, path, e.time)
    if e.activity or e.kind in IN_EPOCHS:
        _did(p, "artifact", e.n, e.activity, path, e.time)


def _split(p: Producer, e: ev.Split) -> None:
    p.splits.append(e)
    _touch(p, tuple(e.context), e.time)
    _did(p, "split", len(p.splits), e.activity, tuple(e.context), e.time)


def _source(p: Producer, e: ev.Source) -> None:
    p.source = e


def _command(p: Producer, e: ev.Command) -> None:
    p.command = e


def _host(p: Producer, e: ev.Host) -> None:
    p.host = e


def _ended(p: Producer, e: ev.Ended) -> None:
    p.ended = e
    _seen(p, e.time)


def _clock_stepped(p: Producer, e: ev.ClockStepped) -> None:
    p.steps.append(e)


def _dropped(p: Producer, e: ev.Dropped) -> None:
    p.dropped.append(e)
    _seen(p, e.time)
    if e.since is not None:
        _seen(p, e.since)


def _epoch_started(p: Producer, e: ev.EpochStarted) -> None:
    p.doings.start(e)
    _touch(p, tuple(e.context), e.time)


def _epoch_ended(p: Producer, e: ev.EpochEnded) -> None:
    p.doings.end(e)
    _touch(p, tuple(e.context), e.time)


def _activity(p: Producer, e: ev.Activity) -> None:
    work = p.doings.work(e)
    _touch(p, tuple(e.context) if work is None else work.context, e.time)
    if work is not None:
        _touch(p, work.context, work.first)


def _linked(p: Producer, e: ev.Linked) -> None:
    p.doings.links.append(e)
    _touch(p, tuple(e.context), e.time)
    _did(p, "link", len(p.doings.links), e.activity, tuple(e.context), e.time)


def _final_metric(p: Producer, e: ev.FinalMetric) -> None:
    p.finals[e.n] = e
    _seen(p, e.time)


def _did(p: Producer, what: str, number: int, activity: int, path: Path, time: int) -> None:
    """An activity or an epoch did something: then it, and what is around it, was at work."""
    work = p.doings.did(what, number, activity, path, time)
    if work is not None:
        _touch(p, work.context, time)


_TURNS: Final = frozenset((ev.EpochStarted, ev.EpochEnded))
"""Kinds of events that change what the points behind them belong to."""

_SAID: Final[dict[type, Callable[[Producer, Any], None]]] = {
    ev.Started: _started,
    ev.SeriesDefined: define,
    ev.Param: _param,
    ev.Tag: _tag,
    ev.ContextStarted: _context,
    ev.ContextEnded: _context,
    ev.Artifact: _artifact,
    ev.Split: _split,
    ev.Source: _source,
    ev.Command: _command,
    ev.Host: _host,
    ev.Ended: _ended,
    ev.ClockStepped: _clock_stepped,
    ev.Dropped: _dropped,
    ev.EpochStarted: _epoch_started,
    ev.EpochEnded: _epoch_ended,
    ev.Activity: _activity,
    ev.Linked: _linked,
    ev.FinalMetric: _final_metric,
}
