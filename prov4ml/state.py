"""What is known of a run: a fold over its event log.

The rules, all of them:

* ``apply`` takes the next stretch of one producer's stream: into what that producer said
  (``prov4ml.producer``), and here what a collector decided about the run and its producers.
* Producers may be interleaved in any way: nothing here depends on the order *between*
  producers.  Statistics are kept per producer in sequence order and combined, when a document
  is written, in the order (attempt, rank, producer).
* Points that a later attempt left behind are known only once that attempt is: a second pass,
  over the producers named in ``RunState.cuts`` alone (``recut``), counts them apart.  Which cuts
  a state asks for says ``prov4ml.resumption``.

What follows from a state is asked elsewhere: who took part (``prov4ml.participants``), how they
came to their end (``prov4ml.ends``), what has not arrived (``prov4ml.delivery``).

No sockets, files, clocks or threads here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from prov4ml import events as ev
from prov4ml import producer as stream
from prov4ml.producer import Producer
from prov4ml.series import Cut

__all__ = ["RunState", "apply", "define", "recut"]


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


def define(state: RunState, producer: bytes, table: Sequence[ev.SeriesDefined]) -> None:
    """Take a repeated series table: it has no sequence numbers and may come any time."""
    p = _producer(state, producer)
    for definition in table:
        stream.define(p, definition)


def apply(state: RunState, producer: bytes, first: int, events: Sequence[ev.Event | str]) -> None:
    """Take the events ``first``, ``first + 1``, ... of a producer.

    An item that is a ``str`` stands for a received event that did not decode, and says why.
    """
    p = _producer(state, producer)
    for event in stream.take(p, first, events):
        _DECIDED[type(event)](state, p, event)


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


# One small function per kind of event that a collector decided.


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


_DECIDED: Final[dict[type, Callable[[RunState, Producer, Any], None]]] = {
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
