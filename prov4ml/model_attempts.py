"""What a resume makes of metric series: points left behind, and the series over all attempts.

Each series of an attempt is stated up to where a later attempt went on from.  What lies beyond is
an entity of its own: its context generated it, the later attempt invalidated it at its start.  Its
points stay in the metric store; their attempt and step (or time) tell them there.  The run's own
series, without attempt and rank in its name, is derived from those that stand.
"""

from __future__ import annotations

from collections.abc import Iterator

from prov4ml.model_metrics import Kept, detailed, statistics, store_of, summed
from prov4ml.model_names import Names
from prov4ml.model_times import View
from prov4ml.producer import Producer
from prov4ml.provdm import Element, Name, Relation, Statement, Time, Value, segment
from prov4ml.series import Key, Limit

__all__ = ["abandoned", "combined"]

Pair = tuple[str, Value]


class _Left:
    """Points of one series (of a rank, or of all) that one attempt left behind."""

    def __init__(self, limit: Limit, until: int) -> None:
        self.limit = limit
        self.until = until  # ns, the collector's clock
        self.ranks: set[int] = set()
        self.count = 0
        self.last = 0
        self.steps: list[int] = []  # lowest and highest of each process


def abandoned(view: View) -> Iterator[Statement]:
    """What later attempts left behind of each series; nothing where they left nothing."""
    if not view.state.cuts:
        return
    store = store_of(view)
    for attempt in view.times.attempts:
        taken = {view.names.context(attempt, path) for path in view.times.contexts[attempt]}
        for rank, producers in detailed(view, attempt):
            for (key, by), left in _left(view, producers).items():
                yield from _entity(view, attempt, rank, key, by, left, store, taken)


def _left(view: View, producers: list[Producer]) -> dict[tuple[Key, int], _Left]:
    found: dict[tuple[Key, int], _Left] = {}
    for p in producers:
        for number in sorted(p.series):
            s = p.series[number]
            for by, stretch in sorted((s.abandoned or {}).items()):
                place = ((s.name, s.context, s.source), by)
                until = view.times.at(p, stretch.limit.time or 0)
                left = found.get(place)
                if left is None:
                    left = found[place] = _Left(stretch.limit, until)
                left.ranks.add(p.key[1])
                left.count += stretch.count
                left.last = max(left.last, view.times.at(p, stretch.last_time))
                left.steps += [n for n in (stretch.low, stretch.high) if n is not None]
    return found


def _entity(
    view: View,
    attempt: int,
    rank: int | None,
    key: Key,
    by: int,
    left: _Left,
    store: Name | None,
    taken: set[str],
) -> Iterator[Statement]:
    names, (name, context, source) = view.names, key
    activity = names.context(attempt, context)
    id = f"{_series(names, attempt, rank, key)}/abandoned/{by}"
    while id in taken:  # a context may be named so
        id += "/points"
    of = ("p4:rank", min(left.ranks)) if len(left.ranks) == 1 else ("p4:ranks", len(left.ranks))
    facts: list[Pair] = [("prov:type", Name("p4:AbandonedPoints")), ("prov:label", name)]
    if context:
        facts.append(("p4:context", Name(activity)))
    facts += [("p4:attempt", attempt), of]
    if source is not None:
        facts.append(("p4:source", source))
    facts.append(("p4:count", left.count))
    if left.steps:
        facts += [("p4:firstStep", min(left.steps)), ("p4:lastStep", max(left.steps))]
    if left.limit.step is not None:
        facts.append(("p4:keptUpToStep", left.limit.step))
    elif left.limit.time is not None:
        facts.append(("p4:keptUpToTime", Time(left.until)))
    if store is not None:
        facts.append(("dcterms:isPartOf", store))
    yield Element("entity", id, tuple(facts))
    yield Relation("wasGeneratedBy", (id, activity), (), left.last)
    interval = view.times.attempts[by]
    made = left.last // 1000
    if made < interval.start // 1000:
        yield Relation("wasInvalidatedBy", (id, names.attempt(by)), (), interval.start)
    elif interval.end is None or made < interval.end // 1000:
        # The earlier process still logged, or a clock is wrong: when exactly cannot be said.
        yield Relation("wasInvalidatedBy", (id, names.attempt(by)))


def combined(view: View, kept: Kept) -> Iterator[Statement]:
    """Each series over all attempts and ranks, derived from what stands of it."""
    if len(view.times.attempts) < 2:
        return
    store = store_of(view)
    names = view.names
    for key, total in summed(view, view.clients).items():
        parts = kept.get(key, [])
        if not parts:
            continue
        name, context, source = key
        id = _series(names, None, None, key)
        facts: list[Pair] = [("prov:type", Name("p4:MetricSeries")), ("prov:label", name)]
        if context:
            activities = dict.fromkeys(part.activity for part in parts)
            facts += [("p4:context", Name(activity)) for activity in activities]
        facts.append(total.of)
        if source is not None:
            facts.append(("p4:source", source))
        facts += statistics(total.series)
        if store is not None:
            facts.append(("dcterms:isPartOf", store))
        yield Element("entity", id, tuple(facts))
        yield Relation("wasGeneratedBy", (id, names.run))
        for part in parts:
            yield Relation("wasDerivedFrom", (id, part.id, None, None, None))
        yield Relation("hadMember", (names.results, id))


def _series(names: Names, attempt: int | None, rank: int | None, key: Key) -> str:
    name, context, source = key
    id = names.series(attempt, rank, context) + segment(name)
    return id if source is None else f"{id}/source/{segment(source)}"
