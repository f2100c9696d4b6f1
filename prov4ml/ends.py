"""How ranks, attempts and a run came to their end, and whether all have.

What a process says of its own end counts first, then what a witness saw, then that it lost its
lease.  Nothing is claimed that nobody saw: what cannot be reached may still live, and who is heard
of again is running again.

Pure functions of a state.
"""

from __future__ import annotations

from typing import Final

import msgspec

from prov4ml import events as ev
from prov4ml.participants import attempts, ranks
from prov4ml.producer import Producer
from prov4ml.state import RunState

__all__ = [
    "RUNNING",
    "End",
    "attempt_status",
    "closed",
    "complete",
    "ended",
    "run_status",
    "unreachable",
]

_SIGTERM: Final = 15
_SIGUSR1: Final = 10
_AFTERMATH: Final = 30 * 10**9  # ns
_NOTICED: Final = 2 * 10**9  # ns by which two ends may have been seen in the wrong order


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


def closed(state: RunState) -> int | None:
    """When the run was last closed; None while its last attempt goes on."""
    last = max(attempts(state), default=0)
    return max((e.time for n, e in state.run_ended.items() if n >= last), default=None)


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
