"""How far what a run said has come: to the log, to the store, to its sinks.

What was sent and not received is lost; bytes are pending until a collector said what became of
them; a sink's failure stands until the sink gets on.

Pure functions of a state.
"""

from __future__ import annotations

from typing import Any

from prov4ml import events as ev
from prov4ml.participants import clients, ranks
from prov4ml.producer import Producer
from prov4ml.state import RunState

__all__ = ["failures", "pending", "sent", "sinks"]


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
