"""The right lane: series with curves, checkpoints and models, files that a run made.

Series of several ranks are combined: the value is the mean over the ranks' last values, the
curve too where their points fall on the same steps, else that of the lowest rank.  Over several
attempts each rank's curve goes on; what an attempt left behind of the one before is not drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy

from prov4ml import events as ev
from prov4ml import overview_words as words
from prov4ml.doings import Path
from prov4ml.model_metrics import stored
from prov4ml.overview_facts import MORE, Facts, path_text
from prov4ml.overview_models import model_boxes, models
from prov4ml.picture import Arrow, Box, Sparkline
from prov4ml.producer import Producer
from prov4ml.series import SKETCH, Series

__all__ = ["outputs"]


def outputs(facts: Facts) -> tuple[list[Box], list[Arrow]]:
    """Boxes of the right lane from top to bottom, and their arrows."""
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    homes = facts.homes()
    series = _series(facts)
    saved = models(facts)
    files = _files(facts)
    crowded = sum(key in series for key, _ in homes) > 3
    for key, path in homes[1:] + homes[:1]:  # what belongs to no context comes last
        if key in series:
            boxes.append(_series_box(facts, key, path, series[key], 2 if crowded else 5))
            arrows.append(Arrow(boxes[-1].key, key))
        made, inner = model_boxes(facts, key, saved.get(key, []), crowded)
        boxes += made
        arrows += inner
        if key in files:
            boxes.append(_files_box(facts, key, files[key]))
            if any(a.use == "generated" for _, a in files[key]):
                arrows.append(Arrow(boxes[-1].key, key))
    return boxes, arrows


# ------------------------------------------------------------------------------- series

_Group = dict[tuple[Path, str, str | None], list[tuple[Producer, Series]]]


def _series(facts: Facts) -> dict[str, _Group]:
    """By box, by (context, name, source): each rank's series that has points."""
    found: dict[str, _Group] = {}
    for p in facts.clients:
        for s in p.series.values():
            if s.count:
                group = found.setdefault(facts.home(s.context), {})
                group.setdefault((s.context, s.name, s.source), []).append((p, s))
    return found


def _series_box(facts: Facts, key: str, path: Path, group: _Group, rows: int) -> Box:
    curves: list[Sparkline] = []
    averaged = 0
    if len(group) == rows + 1:
        rows += 1  # a line that says "+ 1 more" takes as much room
    for (context, name, source), members in list(group.items())[:rows]:
        label = name if source is None else f"{name} ({source})"
        if context != path and context:
            label = f"{path_text(context[len(path) :] or context)}/{label}"
        last = max(p.started.attempt for p, _ in members if p.started)
        recent = [_joined(p, s, members) for p, s in members if p.key[0] == last]
        curves.append(_curve(label, recent))
        averaged = max(averaged, len(recent))
        ranks = {p.key[1] for p, _ in recent}
        facts.drawn.update(facts.series(p, s) for p, s in members if p.key[1] in ranks)
        if len(facts.times.attempts) > 1:
            facts.drawn.add(facts.combined(recent[0][1]))
    total = sum(s.count for members in group.values() for _, s in members)
    more = len(group) - len(curves)
    where = f"of {path_text(path)}" if path else ""
    if key == MORE:
        where = f"of {words.many(len(facts.hidden[()]), 'more context')}"
    left = sum(
        stretch.count
        for p in facts.clients
        for s in p.series.values()
        if facts.home(s.context) == key
        for stretch in (s.abandoned or {}).values()
    )
    told = [f"+ {more:,} more series"] if more else []
    if averaged > 1:
        told.append(f"means over {words.many(averaged, 'rank')}")
    names = [
        f"{path_text(c)}/{name}" if c and c != path else name for c, name, _ in list(group)[rows:]
    ]
    return Box(
        key=f"series:{key}",
        shape="entity",
        title=f"{len(group):,} series {where}".strip(),
        note=words.many(total, "point"),
        lines=(" · ".join(told),) if told else (),
        tooltip=words.tooltip(
            [
                f"{len(group):,} series {where}".strip(),
                f"left behind by later attempts: {words.many(left, 'point')}" if left else "",
                *names,
            ]
        ),
        iri=facts.iri(facts.names.metrics) if stored(facts.state) else "",
        sparklines=tuple(curves),
    )


def _joined(
    p: Producer, s: Series, members: Sequence[tuple[Producer, Series]]
) -> tuple[Producer, Series]:
    """A series with what stands of the same rank's in earlier attempts before it."""
    mine = [e for q, e in members if q.key[0] < p.key[0] and q.key[1] == p.key[1]] + [s]
    if len(mine) == 1:
        return p, s
    made = copy(s)
    made.stride = max(e.stride for e in mine)
    made.sketch = [v for e in mine for v in e.sketch[:: made.stride // e.stride]]
    while len(made.sketch) > SKETCH:
        made.sketch = made.sketch[::2]
        made.stride *= 2
    made.count, made.nan_count = sum(e.count for e in mine), sum(e.nan_count for e in mine)
    made.minimum = min((e.minimum for e in mine if e.minimum is not None), default=None)
    made.maximum = max((e.maximum for e in mine if e.maximum is not None), default=None)
    made.first_step = mine[0].first_step
    return p, made


def _curve(label: str, members: Sequence[tuple[Producer, Series]]) -> Sparkline:
    series = [s for _, s in members]
    lasts = [s.last for s in series if s.last is not None]
    value = lasts[0] if len(lasts) == 1 else sum(lasts) / len(lasts)
    shape = {(len(s.sketch), s.stride, s.first_step, s.last_step) for s in series}
    same = len(shape) == 1
    values = (
        [sum(at) / len(series) for at in zip(*(s.sketch for s in series), strict=True)]
        if (same)
        else list(series[0].sketch)
    )
    low = min((s.minimum for s in series if s.minimum is not None), default=None)
    high = max((s.maximum for s in series if s.maximum is not None), default=None)
    unit = f" {series[0].unit}" if series[0].unit else ""
    told = [label, f"last: {words.number(value)}{unit}"]
    if len(series) > 1:
        told[-1] += f" (mean over {len(series)} ranks)"
        lowest = members[0][0].started
        assert lowest is not None
        told.append("curve: mean over the ranks" if same else f"curve: rank {lowest.rank}")
    if low is not None and high is not None:
        told.append(f"from {words.number(low)} to {words.number(high)}")
    told.append(words.many(sum(s.count for s in series), "point"))
    nans = sum(s.nan_count for s in series)
    if nans:
        told.append(f"of which NaN: {nans:,}")
    return Sparkline(label, tuple(values), words.number(value) + unit, words.tooltip(told))


# -------------------------------------------------------------------------------- files


def _files(facts: Facts) -> dict[str, list[tuple[Producer, ev.Artifact]]]:
    found: dict[str, list[tuple[Producer, ev.Artifact]]] = {}
    for p, a in facts.artifacts():
        if a.kind == "artifact" and a.use != "used" and not a.folder:
            found.setdefault(facts.home(a.context), []).append((p, a))
    return found


def _files_box(facts: Facts, key: str, files: Sequence[tuple[Producer, ev.Artifact]]) -> Box:
    if len(files) == 1:
        p, a = files[0]
        facts.drawn.add(facts.occurrence(p, a))
        size = facts.size(p, a)
        digest = facts.digest(p, a)
        parts = [words.size(size) if size is not None else "", a.media_type or ""]
        parts.append(words.short_hash(digest) if digest else "")
        trouble = facts.trouble(p, a)
        return Box(
            key=f"files:{key}",
            shape="entity",
            title=a.name,
            note="artifact",
            lines=(" · ".join(part for part in parts if part),),
            tooltip=words.tooltip(_file_words(facts, files)),
            iri=facts.iri(facts.occurrence(p, a)),
            alert=f"not stored: {trouble}" if trouble else "",
        )
    names = Counter(a.name for _, a in files)
    told = [f"{name} ×{number}" if number > 1 else name for name, number in names.items()]
    lines, shown = words.pack(told, 3)
    seen = set(list(names)[:shown])
    facts.drawn.update(facts.occurrence(p, a) for p, a in files if a.name in seen)
    missing = sum(bool(facts.trouble(p, a)) for p, a in files)
    return Box(
        key=f"files:{key}",
        shape="entity",
        title=words.many(len(files), "artifact"),
        note="files",
        lines=tuple(lines),
        tooltip=words.tooltip(_file_words(facts, files)),
        iri=facts.iri(facts.occurrence(*files[0])),
        alert=f"not stored: {missing:,} of them" if missing else "",
    )


def _file_words(facts: Facts, files: Iterable[tuple[Producer, ev.Artifact]]) -> Iterable[str]:
    for p, a in files:
        digest = facts.digest(p, a)
        yield " · ".join(filter(None, [a.name, a.location, digest and f"sha256 {digest}"]))
