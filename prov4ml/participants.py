"""Who took part in a run: its training processes, in the order in which they are combined.

A participant is a producer that said what it is (``Started``); a collector did not.  A rank is a
process that a launcher started; its forked children are no ranks of their own.

Pure functions of a state.
"""

from __future__ import annotations

from collections.abc import Iterator

from prov4ml.producer import Producer
from prov4ml.state import RunState

__all__ = ["attempts", "clients", "family", "ranks"]


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


def attempts(state: RunState) -> list[int]:
    """The numbers of the attempts that ranks came of, in order."""
    return sorted({p.started.attempt for p in ranks(state) if p.started is not None})
