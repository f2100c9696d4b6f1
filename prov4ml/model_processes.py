"""Attempts, processes and contexts of a run: what was at work, and what became of its events.

An attempt owns ranks; a rank is a process and its software agent, with the account of its events:
sent = received + lost, rejected is part of received.  Each stretch of lost events is an entity
that the process generated and nobody has, so that no loss is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import structs

from prov4ml import events as ev
from prov4ml.delivery import sent
from prov4ml.doings import Path
from prov4ml.ends import End, attempt_status, ended
from prov4ml.model_names import alike
from prov4ml.model_times import View
from prov4ml.producer import Producer
from prov4ml.provdm import Attributes, Element, Name, Relation, Statement, Time, Value
from prov4ml.state import RunState

__all__ = [
    "account",
    "accounts",
    "attempts",
    "commands",
    "contexts",
    "ending",
    "host_of",
    "processes",
    "strangers",
    "types",
]

Pair = tuple[str, Value]

_CONTEXTS: Final = {  # by the name in small letters
    "training": Name("p4:Training"),
    "validation": Name("p4:Validation"),
    "testing": Name("p4:Testing"),
    "evaluation": Name("p4:Testing"),
}
_RESUMED: Final = (("prov:role", Name("p4:resumedFrom")),)
_HARDWARE: Final = (("prov:role", Name("p4:hardware")),)


def attempts(seen: View) -> Iterator[Statement]:
    """Each attempt; a later one is informed by the one before and used what that had saved."""
    names = seen.names
    launched, _ = commands(seen)
    before: int | None = None
    for attempt, interval in seen.times.attempts.items():
        members = [s for p in seen.clients if (s := p.started) and s.attempt == attempt]
        facts: list[Pair] = [
            *types("p4:Attempt"),
            ("prov:label", f"attempt {attempt}"),
            ("dcterms:isPartOf", Name(names.run)),
            ("p4:worldSize", max(s.world_size for s in members)),
            ("p4:launcher", members[0].launcher),
            *ending(attempt_status(seen.state, attempt)),
        ]
        id = names.attempt(attempt)
        yield Element("activity", id, tuple(facts), interval.start, interval.end)
        if before is not None:
            if attempt in launched:
                trigger = launched[attempt]
                yield Relation("wasStartedBy", (id, trigger, None), (), interval.start)
            if seen.times.attempts[before].start <= interval.start:  # clocks may disagree
                yield Relation("wasInformedBy", (id, names.attempt(before)))
        origin = seen.origins.get(attempt)
        if origin is not None:
            versions = [origin.of(s.rank) for s in members]
            for version in dict.fromkeys(
                names.occurrence(v.producer, v.artifact.n) for v in versions
            ):
                yield Relation("used", (id, version), _RESUMED, interval.start)
        before = attempt


def processes(seen: View) -> Iterator[Statement]:
    state, names = seen.state, seen.names
    reasons: dict[bytes, list[ev.Gap]] = {}
    for gap in state.gaps.values():
        reasons.setdefault(gap.producer, []).append(gap)
    for p in seen.clients:
        s = p.started
        if s is None:
            continue
        id, agent = names.process(p), f"{names.process(p)}/agent"
        interval = seen.times.processes[p.id]
        what = f"child of rank {s.rank}" if s.parent else f"rank {s.rank}"
        facts: list[Pair] = [
            *types("p4:ChildProcess" if s.parent else "p4:RankProcess"),
            ("prov:label", what),
            ("dcterms:isPartOf", Name(names.attempt(s.attempt))),
            ("p4:rank", s.rank),
            ("p4:localRank", s.local_rank),
            ("p4:pid", s.pid),
            *ending(ended(state, p)),
        ]
        witness = state.ends.get(p.id)
        if p.ended is None and witness is not None and witness.signal is not None:
            facts.append(("p4:signal", witness.signal))
        facts += accounts(account(state, p))
        if s.rank and s.settings.get("collect_all_processes") is False:
            facts.append(("p4:collectsMetrics", False))  # it was asked to log none
        facts += [
            ("p4:rejectedReason", f"{count}: {why}") for why, count in sorted(p.rejected.items())
        ]
        if p.id in state.offsets:
            facts.append(("p4:timeOffset", state.offsets[p.id] / 1e9))  # seconds, already added
        if p.steps:
            facts.append(("p4:clockSteps", len(p.steps)))
        yield Element("activity", id, tuple(facts), interval.start, interval.end)

        software: list[Pair] = [
            *types("prov:SoftwareAgent"),
            ("prov:label", f"process of {what}"),
            ("p4:python", s.python),
            ("p4:prov4ml", s.version),
        ]
        yield Element("agent", agent, tuple(software))
        parent = names.holder(s.attempt, s.rank) if s.parent else None
        if parent is not None:  # which it may outlive: no part of it
            yield Relation("wasStartedBy", (id, None, parent), (), interval.start)
        yield Relation("wasAssociatedWith", (id, agent, None))
        if s.user is not None:
            yield Relation("actedOnBehalfOf", (agent, names.person(s.user), id))
        host = names.host(host_of(p))
        yield Relation("used", (id, host), _HARDWARE, interval.start)
        yield from _gaps(seen, p, id, reasons.get(p.id, ()))


class _Cause(msgspec.Struct, frozen=True):
    """Why some events are missing: told by the producer itself, or by a collector."""

    first: int
    count: int
    reason: str = "not received"
    points: int | None = None  # of them points of metrics, or their series
    since: int | None = None  # when the first of them was lost
    until: int | None = None  # when that was over


def _gaps(
    seen: View, p: Producer, process: str, told: list[ev.Gap] | tuple[()]
) -> Iterator[Statement]:
    """Each stretch of events that the process made and nobody has, with what is known of why."""
    causes = [_Cause(g.first, g.count, g.reason) for g in told]
    causes += [
        _Cause(d.first, d.count, d.reason, d.points, d.since, d.time if d.since else None)
        for d in p.dropped
    ]
    causes.sort(key=lambda c: (c.first, c.count, c.reason))
    tail = sent(seen.state, p) - p.next
    for first, count in [*p.missing, *([(p.next, tail)] if tail > 0 else [])]:
        for gap in _explained(first, first + count, causes):
            id, lost = f"{process}/gap/{gap.first}", gap.count
            facts: list[Pair] = [
                *types("p4:Gap"),
                ("prov:label", f"{lost} event{'s' if lost > 1 else ''} lost"),
                ("p4:first", gap.first),
                ("p4:count", lost),
                ("p4:reason", gap.reason),
            ]
            if gap.points is not None:
                facts.append(("p4:points", gap.points))
            since = None if gap.since is None else seen.times.at(p, gap.since)
            if since is not None and gap.until is not None:
                facts.append(("p4:since", Time(since)))
                facts.append(("p4:until", Time(seen.times.at(p, gap.until))))
            yield Element("entity", id, tuple(facts))
            yield Relation("wasGeneratedBy", (id, process), (), since)


def _explained(first: int, end: int, causes: list[_Cause]) -> Iterator[_Cause]:
    """The stretch cut where its reasons change; no event stands in two pieces."""
    at = first
    for cause in causes:
        low, high = max(at, cause.first), min(end, cause.first + cause.count)
        if low < high:
            if at < low:
                yield _Cause(at, low - at)
            whole = high - low == cause.count  # else nobody knows what is in this part
            points = cause.points if whole else None
            yield structs.replace(cause, first=low, count=high - low, points=points)
            at = high
    if at < end:
        yield _Cause(at, end - at)


def strangers(seen: View) -> Iterator[Statement]:
    """Producers of whom events came, but not the first one: all that can be said is how many."""
    state, names = seen.state, seen.names
    for id in sorted(state.producers):
        p = state.producers[id]
        said = p.points or p.params or p.artifacts or p.contexts or p.tags or p.ended
        if p.started is None and said:
            gap = names.gap(id)
            facts: Attributes = (
                *types("p4:Gap"),
                ("prov:label", f"{p.next} events of an unknown process"),
                ("p4:count", p.next),
                ("p4:reason", "its first event did not arrive"),
            )
            yield Element("entity", gap, facts)
            yield Relation("wasGeneratedBy", (gap, names.run))


# ----------------------------------------------------------------------------- contexts


def contexts(seen: View) -> Iterator[Statement]:
    names = seen.names
    for attempt, found in seen.times.contexts.items():
        over = seen.times.attempts[attempt].end is not None
        for path, span in found.items():
            id, name = names.context(attempt, path), path[-1]
            facts: Attributes = (
                ("prov:type", _CONTEXTS.get(name.lower(), Name("p4:Context"))),
                ("prov:label", name),
                ("dcterms:isPartOf", Name(names.context(attempt, path[:-1]))),
            )
            yield Element("activity", id, facts, span.first, span.last if over else None)
            if name.lower() in ("validation", "testing"):
                trained: Path = (*path[:-1], alike(name, "training"))
                # Data is often declared before any training: the end tells, not the start.
                if trained in found and found[trained].first < span.last:
                    yield Relation("wasInformedBy", (id, names.context(attempt, trained)))


# ------------------------------------------------------------------ shared with the run


def commands(seen: View) -> tuple[dict[int, str], dict[str, ev.Command]]:
    """The launch command of each attempt that has one, and each distinct command by its name.

    Ranks of an attempt are launched by one command; it is told by the first of them.
    """
    names = seen.names
    ids: dict[str, str] = {}
    of: dict[int, str] = {}
    found: dict[str, ev.Command] = {}
    for p in seen.clients:
        if p.command is None or p.started is None or p.started.parent:
            continue
        attempt = p.started.attempt
        if attempt in of:
            continue
        facts = repr((p.command.argv, p.command.directory))
        if facts not in ids:
            ids[facts] = names.other(names.command, facts) if ids else names.command
        of[attempt] = ids[facts]
        found[ids[facts]] = p.command
    return of, found


def types(*names: str) -> Attributes:
    """``prov:type`` once per name."""
    return tuple(("prov:type", Name(name)) for name in names)


def host_of(p: Producer) -> str:
    """The name of the machine of a process."""
    if p.host is not None:
        return p.host.name
    return p.started.host if p.started is not None else ""


def ending(end: End) -> list[Pair]:
    """Status, how it is known, and what went wrong."""
    facts: list[Pair] = [("p4:status", end.status), ("p4:statusKnownBy", end.known)]
    if end.exit_code is not None:
        facts.append(("p4:exitCode", end.exit_code))
    if end.error_type is not None:
        facts.append(("p4:errorType", end.error_type))
    if end.error_message is not None:
        facts.append(("p4:errorMessage", end.error_message))
    return facts


def account(state: RunState, p: Producer) -> tuple[int, int, int, int]:
    """Sent, received, rejected (part of received), lost."""
    total = sent(state, p)
    return total, p.received, sum(p.rejected.values()), total - p.received


def accounts(numbers: Iterator[int] | tuple[int, ...]) -> list[Pair]:
    words = ("p4:sent", "p4:received", "p4:rejected", "p4:lost")
    return list(zip(words, numbers, strict=True))
