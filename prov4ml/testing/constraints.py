"""What must hold of any run's statements: the rules of PROV-CONSTRAINTS that trackers break.

``violations`` reads statements and names what is wrong, as texts; an empty list is a sound
document.  It knows the statements' shape and PROV's rules, not how a run is modelled.
Times are compared as documents print them, in microseconds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from prov4ml.provdm import NAMESPACES, RELATIONS, Document, Element, Name, Relation

__all__ = ["violations"]

_KINDS = {
    "prov:activity": "activity",
    "prov:informed": "activity",
    "prov:informant": "activity",
    "prov:starter": "activity",
    "prov:ender": "activity",
    "prov:agent": "agent",
    "prov:delegate": "agent",
    "prov:responsible": "agent",
}  # all other arguments that are elements are entities
_LOCAL = re.compile(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+")


def violations(document: Document) -> list[str]:
    """What is wrong with a document's statements; it is held in memory."""
    statements = list(document.statements())
    elements = {s.id: s for s in statements if isinstance(s, Element)}
    relations = [s for s in statements if isinstance(s, Relation)]
    found: list[str] = []
    for text, count in Counter(map(repr, statements)).items():
        if count > 1:
            found.append(f"said {count} times: {text}")
    ids = Counter(s.id for s in statements if s.id is not None)
    found += [f"id used {n} times: {id}" for id, n in ids.items() if n > 1]
    for s in statements:
        found += _spelling(document, s)
        if isinstance(s, Element):
            found += _element(document, elements, s)
        else:
            found += _arguments(elements, s)
    found += _times(elements, relations)
    for kinds in (("wasDerivedFrom",), ("specializationOf",), ("wasInformedBy",)):
        edges = [r.arguments[:2] for r in relations if r.kind in kinds]
        found += [f"a circle of {kinds[0]} through {name}" for name in _circles(edges)]
    return found


def _spelling(document: Document, s: Element | Relation) -> Iterator[str]:
    names = [key for key, _ in s.attributes] + [v for _, v in s.attributes if isinstance(v, Name)]
    names += [s.id] if isinstance(s, Element) else [a for a in s.arguments if a is not None]
    for name in names:
        prefix, _, local = name.partition(":")
        if prefix not in document.prefixes and prefix not in ("prov", "xsd"):
            yield f"undeclared prefix: {name}"
        if not _LOCAL.fullmatch(local):
            yield f"no local name: {name!r}"
        if any(len(part) > 120 or part in ("", ".", "..") for part in local.split("/")):
            yield f"a bad segment: {name}"
    for prefix, space in NAMESPACES.items():
        if document.prefixes.get(prefix, space) != space:
            yield f"{prefix} has another meaning"


def _element(document: Document, elements: dict[str, Element], s: Element) -> Iterator[str]:
    if s.kind != "activity" and (s.start is not None or s.end is not None):
        yield f"times on {s.id}"
    if s.start is not None and s.end is not None and s.start > s.end:
        yield f"ends before it starts: {s.id}"
    for key, value in s.attributes:
        if key == "prov:role":
            yield f"a role on {s.id}"
        if key in ("dcterms:isPartOf", "p4:context"):
            whole = elements.get(str(value))
            own = f"run_{document.label}:"
            if isinstance(value, Name) and s.id == f"{own}run" and not value.startswith(own):
                pass  # nested in another run, which has a document of its own
            elif whole is None or not isinstance(value, Name):
                yield f"{s.id} is part of {value!r}, which nobody stated"
            elif s.kind == whole.kind == "activity" and not (
                _within(whole, s.start) and _within(whole, s.end)
            ):
                yield f"{s.id} is not inside {value}"


def _arguments(elements: dict[str, Element], s: Relation) -> Iterator[str]:
    shape = RELATIONS[s.kind]
    if len(s.arguments) != len(shape.arguments):
        yield f"wrong number of arguments: {s}"
    if not shape.qualified and (s.attributes or s.id is not None):
        yield f"{s.kind} has neither id nor attributes: {s}"
    if s.time is not None and shape.time_at is None:
        yield f"{s.kind} has no time: {s}"
    for place, name in zip(shape.arguments, s.arguments, strict=False):
        if name is not None and place not in ("prov:generation", "prov:usage"):
            kind = elements[name].kind if name in elements else "missing"
            if kind != _KINDS.get(place, "entity"):
                yield f"{name} is {kind}, as {place} of {s.kind}"
    if s.kind == "hadMember":
        collection = elements.get(s.arguments[0] or "")
        if collection is None or ("prov:type", "prov:Collection") not in collection.attributes:
            yield f"{s.arguments[0]} has a member and is no collection"


def _within(activity: Element, time: int | None) -> bool:
    if time is None:
        return True
    after = activity.start is None or time >= activity.start
    return after and (activity.end is None or time <= activity.end)


def _times(elements: dict[str, Element], relations: list[Relation]) -> Iterator[str]:
    made: dict[str, int | None] = {}
    for r in relations:
        if r.kind == "wasGeneratedBy":
            entity = r.arguments[0] or ""
            if entity in made:
                yield f"{entity} is generated twice"
            made[entity] = r.time
    for r in relations:
        first, second = r.arguments[0] or "", (r.arguments[1] or "")
        if r.kind in ("wasGeneratedBy", "used"):
            activity = elements.get(second if r.kind == "wasGeneratedBy" else first)
            if activity is not None and not _within(activity, r.time):
                yield f"{r.kind} outside of its activity's time: {r}"
        if r.kind == "used":
            since = made.get(second)
            end = elements[first].end if first in elements else None
            for time in (r.time, end):
                if since is not None and time is not None and time < since:
                    yield f"used before it was generated: {r}"
        elif r.kind == "wasInvalidatedBy":
            activity, since = elements.get(second), made.get(first)
            if activity is not None and not _within(activity, r.time):
                yield f"invalidated outside of its activity's time: {r}"
            for time in (r.time, activity.end if activity is not None else None):
                if since is not None and time is not None and time // 1000 <= since // 1000:
                    yield f"invalidated before it was generated: {r}"
        elif r.kind == "wasStartedBy" and r.time != elements[first].start:
            yield f"start times differ: {r}"
        elif r.kind == "wasDerivedFrom":
            newer, older = made.get(first), made.get(second)
            if newer is not None and older is not None and older // 1000 >= newer // 1000:
                yield f"derived from what is not older: {r}"
        elif r.kind == "wasInformedBy":
            end, start = elements[first].end, elements[second].start
            if end is not None and start is not None and start > end:
                yield f"informed by what started later: {r}"
        if r.kind in ("wasGeneratedBy", "used", "wasDerivedFrom"):
            yield from (f"a content in {r}" for a in r.arguments if a and a.startswith("sha256:"))


def _circles(edges: Iterable[tuple[str | None, ...]]) -> list[str]:
    """Nodes that are left when those without a way out are taken away again and again."""
    out: dict[str, set[str]] = {}
    for source, target in edges:
        if source is not None and target is not None:
            out.setdefault(source, set()).add(target)
    while True:
        done = [n for n, targets in out.items() if not any(t in out for t in targets)]
        if not done:
            return sorted(out)
        for n in done:
            del out[n]
