"""What a producer was doing when it logged something: its open epochs and its activities.

Both are resolved in the order of its sequence numbers, where the log is folded and where it is
handed to stream sinks.  The rules:

* An event belongs to the innermost open epoch: of those whose context is its own or one around
  it, the one with the longest path, of several there the one entered last.  An epoch that the
  event names itself wins.
* Only points and what people log as files, data and models (``IN_EPOCHS``) have epochs.
* Where events were lost, nobody knows which epochs are still open: none is taken to be, until the
  next one starts.  Points alone that were given up (``Dropped``) change nothing.
* Epochs that are activities, and activities, are held with the time in which they were seen at
  work; other epochs leave nothing behind.

Pure, like the fold that it is a part of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from prov4ml import events as ev

__all__ = ["IN_EPOCHS", "Doings", "Done", "Epoch", "Epochs", "Path", "Span", "Work"]

Path = tuple[str, ...]
"""A context: the names of those around it, outermost first, then its own."""

IN_EPOCHS: Final = frozenset(("artifact", "dataset", "checkpoint", "model"))
"""Kinds of occurrences that an epoch can have; any other is the run's own, and is often recorded
in the background while the training goes on."""

_DEEPEST: Final = 64
"""Epochs of a producer that are open at a time; one more, and the oldest is forgotten."""


class Span(msgspec.Struct):
    """First and last time (ns) at which something was seen at work."""

    first: int
    last: int

    def widen(self, time: int) -> None:
        if time < self.first:
            self.first = time
        if time > self.last:
            self.last = time


class Epoch(NamedTuple):
    """An open epoch."""

    context: Path
    number: int
    activity: bool


class Epochs:
    """The open epochs of one producer, in the order in which they were entered."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: list[Epoch] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def start(self, e: ev.EpochStarted) -> None:
        self._open.append(Epoch(tuple(e.context), e.epoch, e.activity))
        if len(self._open) > _DEEPEST:
            del self._open[0]

    def end(self, e: ev.EpochEnded) -> None:
        """The last one of that number and context is over; threads may leave them in any order."""
        path = tuple(e.context)
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][:2] == (path, e.epoch):
                del self._open[place]
                return

    def holds(self, path: Path, number: int) -> bool:
        return any(o[:2] == (path, number) for o in self._open)

    def around(self, path: Path) -> Epoch | None:
        """The one that an event of this context belongs to."""
        return _innermost(self._open, path)

    def of(self, path: Path, named: int | None) -> int | None:
        """The epoch that something belongs to: the one that it names, else the open one."""
        if named is not None or not self._open:
            return named
        around = self.around(path)
        return None if around is None else around.number

    def doing(self, path: Path) -> Epoch | None:
        """The one that does what is logged in this context: only an activity does."""
        return _innermost([o for o in self._open if o.activity], path)

    def gap(self, after: Sequence[ev.Event | str]) -> None:
        """Events before ``after`` are lost."""
        told = after[0] if after else None
        if not (type(told) is ev.Dropped and told.points == told.count):
            self._open.clear()


def _innermost(epochs: list[Epoch], path: Path) -> Epoch | None:
    found: Epoch | None = None
    for epoch in reversed(epochs):
        depth = len(epoch.context)
        if path[:depth] == epoch.context and (found is None or depth > len(found.context)):
            found = epoch
    return found


Done = tuple[Path, int]
"""An epoch that is an activity: its context and its number."""


class Work(Span):
    """An activity of a producer, and when it was at work (its own clock)."""

    name: str
    context: Path
    parent: int  # 0: none
    ended: ev.Activity | None = None
    epoch: Done | None = None  # around it


class Doings(msgspec.Struct):
    """Of one producer."""

    epochs: Epochs = msgspec.field(default_factory=Epochs)
    spans: dict[Done, Span] = msgspec.field(default_factory=dict)  # of epochs that are activities
    works: dict[int, Work] = msgspec.field(default_factory=dict)  # by number
    links: list[ev.Linked] = msgspec.field(default_factory=list)
    within: dict[tuple[str, int], Done] = msgspec.field(default_factory=dict)
    """The epoch that did it: by ("artifact", its number), ("split" or "link", its place)."""

    def start(self, e: ev.EpochStarted) -> None:
        self.epochs.start(e)
        if e.activity:
            self._widen((tuple(e.context), e.epoch), e.time)

    def end(self, e: ev.EpochEnded) -> None:
        self.epochs.end(e)
        span = self.spans.get((tuple(e.context), e.epoch))
        if span is not None:
            span.widen(e.time)

    def work(self, e: ev.Activity) -> Work | None:
        """What is said of an activity; None for one that cannot be told from none."""
        if e.n < 1:
            return None
        path = tuple(e.context)
        work = self.works.get(e.n)
        if work is None:
            since = e.time if e.started is None else min(e.started, e.time)
            around = self.epochs.doing(path)
            work = self.works[e.n] = Work(
                since,
                e.time,
                e.name,
                path,
                e.parent,
                epoch=None if around is None else around[:2],
            )
        else:
            work.widen(e.time)
        if work.ended is None and e.status != "running":
            work.ended = e
        return work

    def did(self, what: str, number: int, activity: int, path: Path, time: int) -> Work | None:
        """Somebody did something in a context: the activity, if it is known, else an epoch."""
        work = self.works.get(activity)
        if work is not None:
            work.widen(time)
            return work
        around = self.epochs.doing(path) if self.epochs and not activity else None
        if around is not None:
            self.within.setdefault((what, number), around[:2])
            self._widen(around[:2], time)
        return None

    def _widen(self, done: Done, time: int) -> None:
        span = self.spans.get(done)
        if span is None:
            self.spans[done] = Span(time, time)
        else:
            span.widen(time)
