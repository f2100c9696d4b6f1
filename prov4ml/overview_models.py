"""Checkpoints and models in the right lane: first, best and last of each, the final one stands out.

What several ranks saved at the same step is one version, told once.
"""

from __future__ import annotations

from prov4ml import events as ev
from prov4ml import overview_words as words
from prov4ml.overview_best import Version, best_of
from prov4ml.overview_facts import Facts
from prov4ml.picture import Arrow, Box

__all__ = ["model_boxes", "models"]


def models(facts: Facts) -> dict[str, list[Version]]:
    """By box: versions in the order in which they were saved, the ranks' copies as one."""
    groups: dict[tuple[object, ...], list[Version]] = {}
    for p, a in facts.artifacts():
        if a.kind not in ("checkpoint", "model") or p.started is None:
            continue
        earlier = sum(
            b.n < a.n and (b.kind, b.name, b.step, b.epoch) == (a.kind, a.name, a.step, a.epoch)
            for b in p.artifacts
        )
        key = (p.started.attempt, a.kind, a.name, a.context, a.step, a.epoch, earlier)
        groups.setdefault(key, []).append(Version(p, a, 1, facts.time(p, a.time)))
    found: dict[str, list[Version]] = {}
    for members in groups.values():
        version = members[0]._replace(copies=len(members))
        found.setdefault(facts.home(version.artifact.context), []).append(version)
    for versions in found.values():
        versions.sort(key=lambda v: (v.producer.key[0], v.time, v.producer.key, v.artifact.n))
    return found


def model_boxes(
    facts: Facts, key: str, versions: list[Version], crowded: bool
) -> tuple[list[Box], list[Arrow]]:
    finals = [v for v in versions if v.artifact.kind == "model"]
    checkpoints = [v for v in versions if v.artifact.kind == "checkpoint"]
    names = list(dict.fromkeys(v.artifact.name for v in checkpoints))
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    last_of: dict[str, tuple[str, int, Version]] = {}
    for name in names[:3]:
        mine = [v for v in checkpoints if v.artifact.name == name]
        best = best_of(facts, mine)
        shown = sorted({0, len(mine) - 1} | ({best[0]} if best else set()))
        facts.drawn.update(facts.occurrence(mine[i].producer, mine[i].artifact) for i in shown)
        if (crowded or len(names) > 1) and len(mine) > 1:
            box = _gathered(facts, f"{key}:{name}", mine, shown=shown, best=best)
            boxes.append(box)
            arrows += _made_by(box, key, mine[-1])
        else:
            for at, i in enumerate(shown):
                box = _checkpoint(facts, f"{key}:{name}", mine, i, best)
                boxes.append(box)
                arrows += _made_by(box, key, mine[i])
                if at and _revises(mine[i], mine[shown[at - 1]]):
                    between = i - shown[at - 1] - 1
                    label = f"revision of · {between} between" if between else "revision of"
                    arrows.append(Arrow(box.key, boxes[-2].key, label))
        last_of[name] = (boxes[-1].key, len(mine), mine[-1])
    if len(names) > 3:
        told, _ = words.pack(names[3:], 2)
        boxes.append(
            Box(
                key=f"checkpoints:{key}:+",
                shape="entity",
                title=f"checkpoints of {words.many(len(names) - 3, 'more model')}",
                lines=tuple(told),
                tooltip=words.tooltip(names[3:]),
            )
        )
        arrows.append(Arrow(boxes[-1].key, key))
    shown_finals = list({v.artifact.name: v for v in finals}.values())[-3:]
    for v in shown_finals:
        before = last_of.get(v.artifact.name)
        box = _final(facts, key, v, before)
        newest = before is not None and boxes and boxes[-1].key == before[0]
        if before is not None and newest and _revises(v, before[2]):
            arrows.append(Arrow(box.key, before[0], "revision of"))
        boxes.append(box)
        arrows += _made_by(box, key, v)
    return boxes, arrows


def _made_by(box: Box, key: str, v: Version) -> list[Arrow]:
    return [Arrow(box.key, key)] if v.artifact.use == "generated" else []


def _revises(newer: Version, older: Version) -> bool:
    """As the model has it: saved strictly later by the same rank."""
    same = newer.producer.key[1] == older.producer.key[1]
    return same and newer.time // 1000 > older.time // 1000


def _where(a: ev.Artifact) -> str:
    parts = [f"epoch {a.epoch}" if a.epoch is not None else ""]
    parts.append(f"step {a.step:,}" if a.step is not None else "")
    return " · ".join(part for part in parts if part)


def _details(facts: Facts, v: Version) -> list[str]:
    """Short facts on a version: parameters, size, hash."""
    made: list[str] = []
    parameters = v.artifact.attributes.get("parameters")
    if isinstance(parameters, int):
        made.append(words.many(parameters, "parameter"))
    size = facts.size(v.producer, v.artifact)
    if size is not None:
        made.append(words.size(size))
    digest = facts.digest(v.producer, v.artifact)
    if digest:
        made.append(words.short_hash(digest))
    return made


def _told(facts: Facts, v: Version, *first: str) -> str:
    """A tooltip: everything on one occurrence."""
    a = v.artifact
    digest = facts.digest(v.producer, a)
    return words.tooltip(
        [
            *first,
            a.name,
            _where(a),
            *_details(facts, v)[: -1 if digest else None],
            f"sha256 {digest}" if digest else "",
            f"location: {a.location}" if a.location else "",
            f"saved by {v.copies} ranks" if v.copies > 1 else "",
            *(f"{name}: {value}" for name, value in a.attributes.items()),
        ]
    )


def _checkpoint(
    facts: Facts, key: str, mine: list[Version], at: int, best: tuple[int, str] | None
) -> Box:
    v = mine[at]
    star = best is not None and best[0] == at
    lines = [" · ".join(filter(None, [words.clip(v.artifact.name, 32), _where(v.artifact)]))]
    if star and best is not None:
        lines.append(best[1])
    else:
        lines.append(" · ".join(_details(facts, v)[-2:]))
    return Box(
        key=f"checkpoint:{key}:{at}",
        shape="entity",
        title=f"checkpoint {at + 1}" + (" ★ best" if star else ""),
        note=f"{at + 1} of {len(mine)}" if len(mine) > 1 else "checkpoint",
        lines=tuple(line for line in lines if line),
        tooltip=_told(facts, v, f"checkpoint {at + 1} of {len(mine)}"),
        iri=facts.iri(facts.occurrence(v.producer, v.artifact)),
        alert=_alert(facts, v),
    )


def _gathered(
    facts: Facts,
    key: str,
    mine: list[Version],
    *,
    shown: list[int],
    best: tuple[int, str] | None,
) -> Box:
    name = mine[0].artifact.name
    lines = []
    for i in shown:
        star = " ★ best" if best and best[0] == i else ""
        lines.append(f"{i + 1}{star}: {_where(mine[i].artifact) or _details(facts, mine[i])[0]}")
    if best:
        lines.append(best[1])
    return Box(
        key=f"checkpoints:{key}",
        shape="entity",
        title=f"checkpoints of {name}",
        note=f"{len(mine)} checkpoints",
        lines=tuple(lines),
        tooltip=words.tooltip(
            [
                name,
                *(f"{i + 1}: {_where(v.artifact)}" for i, v in enumerate(mine)),
            ]
        ),
        iri=facts.iri(facts.occurrence(mine[-1].producer, mine[-1].artifact)),
        alert=_alert(facts, mine[-1]),
    )


def _final(facts: Facts, key: str, v: Version, before: tuple[str, int, Version] | None) -> Box:
    facts.drawn.add(facts.occurrence(v.producer, v.artifact))
    same = ""
    if before is not None:
        digest = facts.digest(v.producer, v.artifact)
        old = before[2]
        if digest and digest == facts.digest(old.producer, old.artifact):
            same = f"= checkpoint {before[1]}, byte for byte"
    lines = [" · ".join(filter(None, [same, _where(v.artifact) if not same else ""]))]
    lines.append(" · ".join(_details(facts, v)))
    return Box(
        key=f"model:{key}:{v.artifact.name}",
        shape="entity",
        title=v.artifact.name,
        note="final model",
        lines=tuple(line for line in lines if line),
        tooltip=_told(facts, v, "final model", same),
        iri=facts.iri(facts.occurrence(v.producer, v.artifact)),
        emphasis=True,
        alert=_alert(facts, v),
    )


def _alert(facts: Facts, v: Version) -> str:
    trouble = facts.trouble(v.producer, v.artifact)
    return f"not stored: {trouble}" if trouble else ""
