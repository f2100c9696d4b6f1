"""What is known of a run: a fold over its event log.

The rules, all of them:

* ``apply`` takes the next stretch of one producer's stream.  What it has seen already is cut
  off (so a batch may come twice), what is missing before it is counted as a gap.
* Producers may be interleaved in any way: nothing here depends on the order *between*
  producers.  Statistics are kept per producer in sequence order and combined, when a document
  is written, in the order (attempt, rank, producer).
* Additions are plain float additions in sequence order, so cutting batches elsewhere changes
  no bit of a sum.
* Which epoch something belongs to, and which activity did it, is decided in sequence order
  (``prov4ml.doings``).
* Memory grows with series, artifacts and parameters, never with points.
* Points that a later attempt left behind are known only once that attempt is: a second pass,
  over the producers named in ``RunState.cuts`` alone (``recut``), counts them apart.  Which cuts
  a state asks for says ``prov4ml.resumption``.

No sockets, files, clocks or threads here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Final

import msgspec
from msgspec import structs

from prov4ml import events as ev
from prov4ml.doings import IN_EPOCHS, Doings, Span

__all__ = [
    "RUNNING",
    "SKETCH",
    "Cut",
    "End",
    "Key",
    "Limit",
    "Producer",
    "RunState",
    "Series",
    "Span",
    "Stretch",
    "apply",
    "attempt_status",
    "attempts",
    "clients",
    "closed",
    "complete",
    "define",
    "ended",
    "failures",
    "family",
    "pending",
    "ranks",
    "recut",
    "run_status",
    "sent",
    "sinks",
    "unreachable",
]

SKETCH: Final = 64
"""A series keeps at most this many points (every 2**k-th) for drawing."""

Path = tuple[str, ...]

_SIGTERM: Final = 15
_SIGUSR1: Final = 10
_AFTERMATH: Final = 30 * 10**9  # ns
_NOTICED: Final = 2 * 10**9  # ns by which two ends may have been seen in the wrong order


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
    missing: list[tuple[int, int]] = msgspec.field(
        default_factory=list
    )  # (first, count) never seen
    rejected: dict[str, int] = msgspec.field(default_factory=dict)  # reason: how many
    cut: Cut | None = None

    @property
    def key(self) -> tuple[int, int, bytes]:
        """The order in which producers are combined."""
        started = self.started
        return (started.attempt, started.rank, self.id) if started else (0, 0, self.id)


class RunState(msgspec.Struct):
    """The fold of a whole event log.  ``apply`` changes it in place."""

    producers: dict[bytes, Producer] = msgspec.field(default_factory=dict)
    opened: dict[bytes, ev.RunOpened] = msgspec.field(default_factory=dict)
    stored: dict[tuple[bytes, int], ev.Stored] = msgspec.field(default_factory=dict)
    ends: dict[bytes, ev.RankEnded] = msgspec.field(default_factory=dict)
    outputs: dict[str, ev.OutputSealed] = msgspec.field(default_factory=dict)
    gaps: dict[tuple[bytes, int], ev.Gap] = msgspec.field(default_factory=dict)
    failures: dict[tuple[str, str], ev.SinkFailed] = msgspec.field(default_factory=dict)
    offsets: dict[bytes, int] = msgspec.field(default_factory=dict)
    measured: dict[bytes, ev.ClockOffset] = msgspec.field(default_factory=dict)  # the latest ones
    run_ended: dict[int, ev.RunEnded] = msgspec.field(default_factory=dict)  # by attempt
    cursors: dict[str, int] = msgspec.field(default_factory=dict)  # log frame, by sink
    got_on: dict[str, int] = msgspec.field(default_factory=dict)  # last time of a cursor, by sink
    leases: dict[bytes, ev.LeaseLost] = msgspec.field(default_factory=dict)  # the last one lost
    regained: dict[bytes, int] = msgspec.field(default_factory=dict)  # producer: last heard again
    cuts: dict[bytes, Cut] = msgspec.field(default_factory=dict)


# ------------------------------------------------------------------------------- the fold


def define(state: RunState, producer: bytes, table: Sequence[ev.SeriesDefined]) -> None:
    """Take a repeated series table: it has no sequence numbers and may come any time."""
    p = _producer(state, producer)
    for definition in table:
        _define(p, definition)


def apply(state: RunState, producer: bytes, first: int, events: Sequence[ev.Event | str]) -> None:
    """Take the events ``first``, ``first + 1``, ... of a producer.

    An item that is a ``str`` stands for a received event that did not decode, and says why.
    """
    p = _producer(state, producer)
    if first < p.next:
        events = events[p.next - first :]
        first = p.next
    if not events:
        return
    if first > p.next:
        p.missing.append((p.next, first - p.next))
        p.doings.epochs.gap(events)
    p.next = first + len(events)
    p.received += len(events)

    groups: dict[int, list[ev.Point]] = {}
    for event in events:
        if type(event) is ev.Point:
            group = groups.get(event.series)
            if group is None:
                groups[event.series] = [event]
            else:
                group.append(event)
        elif type(event) is str:
            p.rejected[event] = p.rejected.get(event, 0) + 1
        else:
            if groups and type(event) in _TURNS:  # what came before belongs to another epoch
                _all_points(p, groups)
            _APPLY[type(event)](state, p, event)
    _all_points(p, groups)


def recut(state: RunState, cuts: Mapping[bytes, Cut]) -> RunState:
    """A state for the second pass: without the producers that are cut, whose events come again.

    Everything else is shared with ``state``, which stays as it is.
    """
    rest = {id: p for id, p in state.producers.items() if id not in cuts}
    return structs.replace(state, producers=rest, cuts=dict(cuts))


def _producer(state: RunState, producer: bytes) -> Producer:
    p = state.producers.get(producer)
    if p is None:
        p = state.producers[producer] = Producer(producer, cut=state.cuts.get(producer))
    return p


def _define(p: Producer, d: ev.SeriesDefined) -> None:
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
        points, times = _kept(p.cut, s, points, times)
        if not points:
            return
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
            s.minimum_at = (at.step, _epoch(p, s.context, at.epoch))
        if s.maximum is None or high > s.maximum:
            s.maximum, at = high, points[values.index(high)]
            s.maximum_at = (at.step, _epoch(p, s.context, at.epoch))


def _epoch(p: Producer, context: Path, named: int | None) -> int | None:
    """The epoch that something belongs to: the one that it names, else the open one."""
    if named is not None or not p.doings.epochs:
        return named
    around = p.doings.epochs.around(context)
    return None if around is None else around.number


def _kept(
    cut: Cut, s: Series, points: list[ev.Point], times: list[int]
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


# One small function per kind of event.


def _started(state: RunState, p: Producer, e: ev.Started) -> None:
    if p.started is None:
        p.started = e
    _seen(p, e.time)


def _series_defined(state: RunState, p: Producer, e: ev.SeriesDefined) -> None:
    _define(p, e)


def _param(state: RunState, p: Producer, e: ev.Param) -> None:
    p.params.append(e)
    _touch(p, tuple(e.context), e.time)
    if e.activity:
        _did(p, "param", len(p.params), e.activity, (), e.time)


def _tag(state: RunState, p: Producer, e: ev.Tag) -> None:
    p.tags.append(e)
    _seen(p, e.time)


def _context(state: RunState, p: Producer, e: ev.ContextStarted | ev.ContextEnded) -> None:
    _touch(p, tuple(e.context), e.time)


def _artifact(state: RunState, p: Producer, e: ev.Artifact) -> None:
    path = tuple(e.context)
    epoch = _epoch(p, path, e.epoch) if e.kind in IN_EPOCHS else e.epoch
    p.artifacts.append(e if epoch == e.epoch else structs.replace(e, epoch=epoch))
    _touch(p, path, e.time)
    if e.activity or e.kind in IN_EPOCHS:
        _did(p, "artifact", e.n, e.activity, path, e.time)


def _split(state: RunState, p: Producer, e: ev.Split) -> None:
    p.splits.append(e)
    _touch(p, tuple(e.context), e.time)
    _did(p, "split", len(p.splits), e.activity, tuple(e.context), e.time)


def _source(state: RunState, p: Producer, e: ev.Source) -> None:
    p.source = e


def _command(state: RunState, p: Producer, e: ev.Command) -> None:
    p.command = e


def _host(state: RunState, p: Producer, e: ev.Host) -> None:
    p.host = e


def _ended(state: RunState, p: Producer, e: ev.Ended) -> None:
    p.ended = e
    _seen(p, e.time)


def _clock_stepped(state: RunState, p: Producer, e: ev.ClockStepped) -> None:
    p.steps.append(e)


def _dropped(state: RunState, p: Producer, e: ev.Dropped) -> None:
    p.dropped.append(e)
    _seen(p, e.time)
    if e.since is not None:
        _seen(p, e.since)


def _epoch_started(state: RunState, p: Producer, e: ev.EpochStarted) -> None:
    p.doings.start(e)
    _touch(p, tuple(e.context), e.time)


def _epoch_ended(state: RunState, p: Producer, e: ev.EpochEnded) -> None:
    p.doings.end(e)
    _touch(p, tuple(e.context), e.time)


def _activity(state: RunState, p: Producer, e: ev.Activity) -> None:
    work = p.doings.work(e)
    _touch(p, tuple(e.context) if work is None else work.context, e.time)
    if work is not None:
        _touch(p, work.context, work.first)


def _linked(state: RunState, p: Producer, e: ev.Linked) -> None:
    p.doings.links.append(e)
    _touch(p, tuple(e.context), e.time)
    _did(p, "link", len(p.doings.links), e.activity, tuple(e.context), e.time)


def _final_metric(state: RunState, p: Producer, e: ev.FinalMetric) -> None:
    p.finals[e.n] = e
    _seen(p, e.time)


def _did(p: Producer, what: str, number: int, activity: int, path: Path, time: int) -> None:
    """An activity or an epoch did something: then it, and what is around it, was at work."""
    work = p.doings.did(what, number, activity, path, time)
    if work is not None:
        _touch(p, work.context, time)


def _run_opened(state: RunState, p: Producer, e: ev.RunOpened) -> None:
    state.opened[p.id] = e


# A restarted collector is another producer and may say the same thing otherwise, so each of
# these decides by what was said, not by which came first.


def _stored(state: RunState, p: Producer, e: ev.Stored) -> None:
    key = (e.producer, e.n)
    old = state.stored.get(key)
    if old is None or _worth(e) < _worth(old):
        state.stored[key] = e


def _worth(e: ev.Stored) -> tuple[bool, int, str, str]:
    return e.sha256 is None, e.time, e.sha256 or "", e.error or ""


def _rank_ended(state: RunState, p: Producer, e: ev.RankEnded) -> None:
    old = state.ends.get(e.producer)
    if old is None or _finality(e) < _finality(old):
        state.ends[e.producer] = e


def _finality(e: ev.RankEnded) -> tuple[bool, int, str, str, int, int, int]:
    """The first end that somebody saw comes first; after those the latest that nobody saw."""
    lost = e.status == "unreachable"
    code, signal, sent = (-1 if n is None else n for n in (e.exit_code, e.signal, e.sent))
    return lost, -e.time if lost else e.time, e.status, e.known, code, signal, sent


def _lease_lost(state: RunState, p: Producer, e: ev.LeaseLost) -> None:
    old = state.leases.get(e.producer)
    if old is None or _lateness(old) < _lateness(e):
        state.leases[e.producer] = e


def _lateness(e: ev.LeaseLost) -> tuple[int, int]:
    return e.time, -1 if e.next is None else e.next


def _lease_regained(state: RunState, p: Producer, e: ev.LeaseRegained) -> None:
    state.regained[e.producer] = max(e.time, state.regained.get(e.producer, e.time))


def _clock_offset(state: RunState, p: Producer, e: ev.ClockOffset) -> None:
    old = state.measured.get(e.producer)
    if old is None or (old.time, old.offset) < (e.time, e.offset):
        state.measured[e.producer] = e
        state.offsets[e.producer] = e.offset


def _sink_failed(state: RunState, p: Producer, e: ev.SinkFailed) -> None:
    old = state.failures.get((e.sink, e.error))
    if old is None or e.time > old.time:
        state.failures[(e.sink, e.error)] = e


def _output_sealed(state: RunState, p: Producer, e: ev.OutputSealed) -> None:
    old = state.outputs.get(e.path)
    if old is None or _newness(old) < _newness(e):
        state.outputs[e.path] = e


def _newness(e: ev.OutputSealed) -> tuple[int, str, int, int, str]:
    return e.time, e.sha256, e.size, e.rows, e.sink


def _gap(state: RunState, p: Producer, e: ev.Gap) -> None:
    old = state.gaps.get((e.producer, e.first))
    if old is None or (old.count, old.time, old.reason) < (e.count, e.time, e.reason):
        state.gaps[(e.producer, e.first)] = e


def _run_ended(state: RunState, p: Producer, e: ev.RunEnded) -> None:
    old = state.run_ended.get(e.attempt)
    if old is None or old.time < e.time:
        state.run_ended[e.attempt] = e


def _sink_cursor(state: RunState, p: Producer, e: ev.SinkCursor) -> None:
    state.cursors[e.sink] = max(e.frame, state.cursors.get(e.sink, 0))
    state.got_on[e.sink] = max(e.time, state.got_on.get(e.sink, e.time))


def _nothing(state: RunState, p: Producer, e: ev.Event) -> None:
    """Kept in the log, of no consequence for documents."""


_TURNS: Final = frozenset((ev.EpochStarted, ev.EpochEnded))
"""Kinds of events that change what the points behind them belong to."""

_APPLY: Final[dict[type, Callable[[RunState, Producer, Any], None]]] = {
    ev.Started: _started,
    ev.SeriesDefined: _series_defined,
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
    ev.CollectorStarted: _nothing,
    ev.RunOpened: _run_opened,
    ev.Stored: _stored,
    ev.SinkCursor: _sink_cursor,
    ev.RankEnded: _rank_ended,
    ev.LeaseLost: _lease_lost,
    ev.LeaseRegained: _lease_regained,
    ev.ClockOffset: _clock_offset,
    ev.SinkFailed: _sink_failed,
    ev.OutputSealed: _output_sealed,
    ev.Gap: _gap,
    ev.Rejected: _nothing,
    ev.Received: _nothing,
    ev.RunEnded: _run_ended,
}


# --------------------------------------------------------------------- questions to a state


class End(msgspec.Struct, frozen=True):
    """How something ended and how that is known ("self", "waited", "pidfd", "inferred", "none").

    ``time`` is on the collector's clock (ns).
    """

    status: str
    known: str
    time: int | None
    error_type: str | None = None
    error_message: str | None = None
    exit_code: int | None = None


RUNNING: Final = End("running", "none", None)


def ranks(state: RunState, attempt: int | None = None) -> Iterator[Producer]:
    """The rank processes (no forked children) in the order (attempt, rank, producer)."""
    for p in clients(state):
        assert p.started is not None
        if not p.started.parent and attempt in (None, p.started.attempt):
            yield p


def clients(state: RunState) -> list[Producer]:
    """All producers of training processes in the order in which they are combined."""
    found = [p for p in state.producers.values() if p.started is not None]
    return sorted(found, key=lambda p: p.key)


def family(state: RunState, p: Producer) -> list[Producer]:
    """A rank's process, then its forked children, theirs, and so on."""
    rank = (p.key[0], p.key[1])
    forked = [c for c in clients(state) if c.key[:2] == rank and c.started and c.started.parent]
    found = [p]
    for member in found:
        found += [c for c in forked if c.started is not None and c.started.parent == member.id]
    return found


def sent(state: RunState, p: Producer) -> int:
    """Events of accepted calls, as far as anybody knows."""
    end = state.ends.get(p.id)
    known = p.next
    if end is not None and end.sent is not None:
        known = max(known, end.sent)
    for dropped in p.dropped:  # the last ones may come behind all that was received
        known = max(known, dropped.first + dropped.count)
    for gap in state.gaps.values():
        if gap.producer == p.id:
            known = max(known, gap.first + gap.count)
    return known


def ended(state: RunState, p: Producer) -> End:
    """How a rank ended: its own word first, then a witness's.

    ``unreachable`` is what nobody saw end, as long as nothing later was heard of it; also what
    had said nothing of its end when the run was closed.
    """
    if p.ended is not None:
        e = p.ended
        time = e.time + state.offsets.get(p.id, 0)
        return End(e.status, "self", time, e.error_type, e.error_message, e.exit_code)
    witness = _witness(state, p)
    if witness is None:
        over = _closed(state, p.started.attempt) if p.started is not None else None
        if over is None or over < _heard(state, p):
            return RUNNING
        return End("unreachable", "none", over)
    status = witness.status
    if status == "killed":
        if witness.signal == _SIGTERM and _follows_bad_end(state, p, witness.time):
            status = "stopped"
        elif _preempts(p, witness.signal):
            status = "preempted"
    return End(status, witness.known, witness.time, exit_code=witness.exit_code)


def unreachable(state: RunState, producer: bytes) -> bool:
    """Whether a process lost its lease and nothing was heard of it since.

    The order of its own events tells what came later, whatever its clock says; a log from before
    that was written down has only the clocks.
    """
    lost = state.leases.get(producer)
    if lost is None or state.regained.get(producer, lost.time - 1) >= lost.time:
        return False
    p = state.producers.get(producer)
    if p is None:
        return True
    return p.next <= lost.next if lost.next is not None else _heard(state, p) <= lost.time


def _witness(state: RunState, p: Producer) -> ev.RankEnded | None:
    """What was seen of a rank's end; or that it cannot be seen, unless it was heard of since."""
    seen = state.ends.get(p.id)
    if seen is not None and seen.status == "unreachable" and seen.time < _heard(state, p):
        seen = None
    if seen is None and unreachable(state, p.id):
        return ev.RankEnded(state.leases[p.id].time, p.id, "unreachable", "none")
    return seen


def _heard(state: RunState, p: Producer) -> int:
    """When the last sign of a process was given, on the collector's clock."""
    last = (p.last_time or 0) + state.offsets.get(p.id, 0)
    return max(last, state.regained.get(p.id, last))


def _closed(state: RunState, attempt: int) -> int | None:
    """When the run was first closed with this attempt, or after it."""
    return min((e.time for n, e in state.run_ended.items() if n >= attempt), default=None)


def closed(state: RunState) -> int | None:
    """When the run was last closed; None while its last attempt goes on."""
    last = max(attempts(state), default=0)
    return max((e.time for n, e in state.run_ended.items() if n >= last), default=None)


def _follows_bad_end(state: RunState, p: Producer, time: int) -> bool:
    """Whether another rank of the attempt came to a bad end in the 30 s before.

    A launcher that loses one rank terminates the others.
    """
    assert p.started is not None
    for other in ranks(state, p.started.attempt):
        if other.id == p.id:
            continue
        end = _witness(state, other)
        when: int | None = None
        if other.ended is not None:
            if other.ended.status != "finished":
                when = other.ended.time + state.offsets.get(other.id, 0)
        elif end is not None and end.status not in ("finished", "unreachable"):
            told = end.signal == _SIGTERM or _preempts(other, end.signal)
            when = None if told else end.time
        if when is not None and -_NOTICED <= time - when <= _AFTERMATH:
            return True
    return False


def _preempts(p: Producer, signal: int | None) -> bool:
    """Whether the scheduler takes a process's machine away by this signal."""
    s = p.started
    if s is None or "slurm" not in (s.scheduler, s.launcher):
        return False
    return signal in (_SIGTERM, _SIGUSR1)


def attempts(state: RunState) -> list[int]:
    return sorted({p.started.attempt for p in ranks(state) if p.started is not None})


def attempt_status(state: RunState, attempt: int) -> End:
    """The attempt's earliest bad end, else "finished" when all ranks have ended.

    A rank that was stopped was so because of another's end.  A rank that cannot be seen is no end
    that anybody saw: it counts when there is no other.  So does one that had not come when the
    run was closed.
    """
    ends = [(ended(state, p), p) for p in ranks(state, attempt)]
    bad = [
        (e.status == "unreachable", e.status == "stopped", e.time or 0, p.key, e)
        for e, p in ends
        if e.status not in ("finished", "running")
    ]
    if bad:
        return min(bad, key=lambda item: item[:4])[4]
    if not complete(state, attempt):
        over = _closed(state, attempt)
        if over is None or any(e.status == "running" for e, _ in ends):
            return RUNNING
        return End("unreachable", "none", over)
    return max(ends, key=lambda item: (item[0].time or 0, item[1].key))[0]


def run_status(state: RunState) -> End:
    """The status of the last attempt."""
    numbers = attempts(state)
    return attempt_status(state, numbers[-1]) if numbers else RUNNING


def complete(state: RunState, attempt: int | None = None) -> bool:
    """Whether as many ranks of the (last) attempt have ended as its world has.

    That the run was closed ends nobody: who comes back is waited for again.
    """
    if attempt is None:
        numbers = attempts(state)
        if not numbers:
            return False
        attempt = numbers[-1]
    members = list(ranks(state, attempt))
    size = max((p.started.world_size for p in members if p.started is not None), default=1)
    over = {
        p.started.rank
        for p in members
        if p.started is not None and (p.ended is not None or _witness(state, p) is not None)
    }
    return len(over) >= size


def pending(state: RunState) -> list[tuple[Producer, ev.Artifact]]:
    """Occurrences with bytes of which nobody has said yet what became of them.

    Copies handed over, and references to files (a size, but no copy).
    """
    return [
        (p, a)
        for p in clients(state)
        for a in p.artifacts
        if (a.incoming is not None or (a.size is not None and a.location is not None))
        and (p.id, a.n) not in state.stored
    ]


def failures(state: RunState) -> list[ev.SinkFailed]:
    """What sinks could not do, as far as none of them has got on since."""
    found = sorted(state.failures.items())
    return [f for _, f in found if f.time >= state.got_on.get(f.sink, f.time)]


def sinks(state: RunState) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """The sinks of the run and their options: as opened, with what ``end_run`` changed."""
    opened = state.opened[min(state.opened)] if state.opened else None
    names = list(opened.sinks) if opened is not None else []
    for p in ranks(state):
        for change in p.ended.sinks if p.ended is not None else ():
            if change[0] == "-" and change[1:] in names:
                names.remove(change[1:])
            elif change[0] == "+" and change[1:] not in names:
                names.append(change[1:])
    return tuple(names), dict(opened.options) if opened is not None else {}
