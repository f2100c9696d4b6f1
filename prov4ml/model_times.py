"""When the activities of a run began and ended, on one clock: the collector's.

Times of a producer are moved by its offset; those of a collector stand as they are.  An activity's
interval holds everything that it did: it is at least as wide as what was logged in it, whoever
logged it.  What is still running, or may be (``unreachable``), has no end.

An attempt ends when the collector, having seen its last rank end and its outputs sealed, said
so.  Where the documents are made afterwards by one that was not there (``prov4ml collect`` the next
morning), that moment says nothing of the training: the attempt ends with its last rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from prov4ml.doings import Done, Path, Span
from prov4ml.ends import RUNNING, attempt_status, ended
from prov4ml.model_names import Names
from prov4ml.participants import clients
from prov4ml.producer import Producer
from prov4ml.resumption import Origin, origins
from prov4ml.state import RunState

__all__ = ["Interval", "Times", "View", "view"]

_Key = TypeVar("_Key")

_OPEN = (RUNNING.status, "unreachable")


class Interval(msgspec.Struct, frozen=True):
    """``end`` is None while it is not known to be over; ``last`` is the last thing seen in it."""

    start: int
    last: int
    end: int | None

    def holds(self, time: int) -> bool:
        return self.start <= time and (self.end is None or time <= self.end)


class Times:
    """Intervals (ns) of the run, its attempts, processes and contexts.

    ``clients`` are the producers in the order of ``participants.clients``; there is at least one.
    """

    def __init__(self, state: RunState, clients: Sequence[Producer]) -> None:
        self._offsets = state.offsets
        self.processes: dict[bytes, Interval] = {}
        self.attempts: dict[int, Interval] = {}
        self.contexts: dict[int, dict[Path, Span]] = {}
        """Per attempt, in the order in which they were first at work."""
        self.epochs: dict[int, dict[Done, Span]] = {}
        """Those that are activities: likewise, context by context."""

        members: dict[int, list[Producer]] = {}
        for p in clients:
            if p.started is not None:
                members.setdefault(p.started.attempt, []).append(p)
                self.processes[p.id] = self._process(state, p)
        for attempt in sorted(members):
            self.contexts[attempt] = self._contexts(members[attempt])
            self.epochs[attempt] = self._epochs(members[attempt])
            self.attempts[attempt] = self._attempt(state, attempt, members[attempt])

        spans = list(self.attempts.values())
        last = max(max(i.last, i.end or i.last) for i in spans)
        over = spans[-1].end is not None
        self.run: Interval = Interval(min(i.start for i in spans), last, last if over else None)

    def at(self, p: Producer, time: int) -> int:
        """A producer's time on the collector's clock."""
        return time + self._offsets.get(p.id, 0)

    def _process(self, state: RunState, p: Producer) -> Interval:
        offset = self._offsets.get(p.id, 0)
        seen = [t + offset for t in (p.first_time, p.last_time) if t is not None]
        if p.started is not None:
            seen.append(p.started.time + offset)
        start, last = min(seen), max(seen)
        end = ended(state, p)
        if end.status in _OPEN or end.time is None:
            return Interval(start, last, None)
        return Interval(start, last, max(last, end.time))

    def _contexts(self, members: Sequence[Producer]) -> dict[Path, Span]:
        found: dict[Path, Span] = {}
        for p in members:
            for path, span in p.contexts.items():
                self._join(found, path, span, p)
        return dict(sorted(found.items(), key=lambda item: (item[1].first, item[0])))

    def _epochs(self, members: Sequence[Producer]) -> dict[Done, Span]:
        found: dict[Done, Span] = {}
        for p in members:
            for done, span in p.doings.spans.items():
                self._join(found, done, span, p)
        order = sorted(found.items(), key=lambda item: (item[0][0], item[1].first, item[0][1]))
        return dict(order)

    def _join(self, found: dict[_Key, Span], key: _Key, span: Span, p: Producer) -> None:
        """What one process saw of something that all of them have."""
        first, last = self.at(p, span.first), self.at(p, span.last)
        known = found.get(key)
        if known is None:
            found[key] = Span(first, last)
        else:
            known.widen(first)
            known.widen(last)

    def _attempt(self, state: RunState, attempt: int, members: Sequence[Producer]) -> Interval:
        inside = [self.processes[p.id] for p in members]
        start = min(i.start for i in inside)
        last = max(i.last if i.end is None else i.end for i in inside)
        ranks = [self.processes[p.id] for p in members if p.started and not p.started.parent]
        open_ = not ranks or any(i.end is None for i in ranks)
        if open_ or attempt_status(state, attempt).status in _OPEN:
            return Interval(start, last, None)
        over = state.run_ended.get(attempt)
        if over is not None:
            taken_up = max((o.time for o in state.opened.values()), default=over.time)
            if taken_up <= last <= over.time:
                return Interval(start, last, over.time)
        return Interval(start, last, last)


class View(msgspec.Struct, frozen=True):
    """A run as one pass over it sees it: who took part, what things are called, when they were."""

    state: RunState
    clients: list[Producer]
    names: Names
    times: Times
    origins: dict[int, Origin]
    """What each resumed attempt went on from."""


def view(state: RunState) -> View | None:
    """None when no process of the run has said yet who it is."""
    people = clients(state)
    if not people:
        return None
    return View(state, people, Names(people), Times(state, people), origins(state))
