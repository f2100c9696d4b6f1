"""Metrics of which one value is wanted: each an evaluation, derived from the series it came from.

The built-in folds are computed here, from the statistics of what stands of the series (points that
a resume left behind do not count), over all attempts, ranks and children; NaN is left out.  What a
callable came to, the process that registered it has said at its end, over the points that itself
logged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from prov4ml import events as ev
from prov4ml.doings import Path
from prov4ml.model_metrics import Kept, Stated, Total
from prov4ml.model_times import View
from prov4ml.producer import Producer
from prov4ml.provdm import Element, Name, Relation, Statement, Value

__all__ = ["evaluations"]

Pair = tuple[str, Value]
_At = tuple[int | None, int | None]

_EVALUATION: Final = ("prov:type", Name("mls:ModelEvaluation"))
_FOLDS: Final = ("add", "subtract", "min", "max", "mean", "last")


def evaluations(view: View, kept: Kept) -> Iterator[Statement]:
    """``kept`` names the series of the metrics that were registered."""
    registered: dict[tuple[str, str, Path], ev.FinalMetric] = {}
    for p in view.clients:
        mine: dict[tuple[str, str, Path], ev.FinalMetric] = {}
        for _, final in sorted(p.finals.items()):
            if final.fold in _FOLDS:
                mine[final.name, final.fold, tuple(final.context)] = final
            else:
                yield from _own(view, p, final, kept)
        registered = {**mine, **registered}  # each rank says the same, or the first one counts
    for final in registered.values():
        yield from _folded(view, final, kept)


def _folded(view: View, final: ev.FinalMetric, kept: Kept) -> Iterator[Statement]:
    """Over the points of all processes."""
    total = _total(view, final)
    id = view.names.final(final.name, final.fold, tuple(final.context))
    value, (step, epoch) = _value(final, total)
    facts: list[Pair] = [_EVALUATION, ("prov:label", final.name), ("p4:fold", final.fold)]
    facts += [("p4:initial", final.initial), ("prov:value", value)]
    if total is not None:
        if total.series.unit is not None:
            facts.append(("p4:unit", total.series.unit))
        facts.append(total.of)
    if step is not None:
        facts.append(("p4:step", step))
    if epoch is not None:
        facts.append(("p4:epoch", epoch))
    facts.append(("p4:count", 0 if total is None else total.series.count))
    parts = [part for key, found in kept.items() if _is_of(final, key[0], key[1]) for part in found]
    yield from _stated(view, id, facts, parts)


def _own(view: View, p: Producer, final: ev.FinalMetric, kept: Kept) -> Iterator[Statement]:
    """What one process computed."""
    attempt, rank, _ = p.key
    facts: list[Pair] = [_EVALUATION, ("prov:label", final.name), ("p4:fold", final.label)]
    facts.append(("p4:initial", final.initial))
    if final.value is not None:
        facts.append(("prov:value", final.value))
    elif final.error is not None:
        facts.append(("p4:notEvaluated", final.error))
    elif view.times.processes[p.id].end is not None:
        facts.append(("p4:notEvaluated", "its process ended before it could say the value"))
    facts += [("p4:attempt", attempt), ("p4:rank", rank), ("p4:count", final.count)]
    parts = [
        part
        for key, found in kept.items()
        if final.count and _is_of(final, key[0], key[1])
        for part in found
        if part.attempt == attempt and part.rank in (None, rank)
    ]
    yield from _stated(view, view.names.final_of(p, final.n), facts, parts)


def _stated(view: View, id: str, facts: list[Pair], parts: list[Stated]) -> Iterator[Statement]:
    names = view.names
    yield Element("entity", id, tuple(facts))
    yield Relation("wasGeneratedBy", (id, names.run))
    for part in parts:
        yield Relation("wasDerivedFrom", (id, part.id, None, None, None))
    yield Relation("hadMember", (names.results, id))


def _is_of(final: ev.FinalMetric, name: str, context: Path) -> bool:
    """Whether points of a series count; ``()`` asks for those of every context."""
    return name == final.name and (not final.context or tuple(final.context) == context)


def _total(view: View, final: ev.FinalMetric) -> Total | None:
    total: Total | None = None
    for p in view.clients:
        for _, s in sorted(p.series.items()):
            if s.count and _is_of(final, s.name, s.context):
                place = (p.key[1], p.id, view.times.at(p, 0))
                if total is None:
                    total = Total(s, *place)
                else:
                    total.add(s, *place)
    return total


def _value(final: ev.FinalMetric, total: Total | None) -> tuple[float, _At]:
    """The value, and the step and epoch at which it was reached where one point did that."""
    start, nowhere = final.initial, (None, None)
    if total is None:
        return start, nowhere
    s = total.series
    match final.fold:
        case "add":
            return start + s.total, nowhere
        case "subtract":
            return start - s.total, nowhere
        case "mean":
            return (start if s.mean is None else s.mean), nowhere
        case "last":
            return (start if s.last is None else s.last), (s.last_step, None)
        case "min" if s.minimum is not None and (s.minimum <= start or math.isnan(start)):
            return s.minimum, s.minimum_at
        case "max" if s.maximum is not None and (s.maximum >= start or math.isnan(start)):
            return s.maximum, s.maximum_at
    return start, nowhere
