"""Parameters, datasets, splits, files and models of a run as PROV statements.

A thing with content has two entities: its occurrence in this run, and the content, which is
named by its hash, the same in every run, and only has a size.

A revision is stated only where the older version was generated strictly before the newer one
(in microseconds, as documents print them): a checkpoint revises the nearest one saved before it
on its rank of which that is true, and the first of a burst with equal times revises nothing.
The first one of a resumed attempt revises the version that the attempt went on from.
Values of parameters go in the order of their first use, so that a value which returns (a, b, a)
makes no circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prov4ml import events as ev
from prov4ml.model_times import View
from prov4ml.provdm import (
    Attributes,
    Element,
    Literal,
    Name,
    Relation,
    Statement,
    Time,
    Value,
    integer_type,
    segment,
)
from prov4ml.state import Path, Producer

__all__ = ["artifacts", "parameters", "plain", "splits"]

Pair = tuple[str, Value]

_MANY: Final = 16
"""Ranks that are named one by one; the same bound as for series."""

_SETTING: Final = ("prov:type", Name("mls:HyperParameterSetting"))
_REVISION: Final = (("prov:type", Name("prov:Revision")),)
_HYPERPARAMETER: Final = (("prov:role", Name("p4:hyperparameter")),)
_EVALUATED: Final = (("prov:role", Name("p4:evaluatedModel")),)
_SPLIT: Final = ("prov:type", Name("p4:DataSplit"))
_CONTENT: Final = ("prov:type", Name("p4:Content"))
_ARTIFACT: Final = ("prov:type", Name("p4:Artifact"))
_TYPES: Final[Mapping[str, tuple[Pair, ...]]] = {
    "dataset": (("prov:type", Name("mls:Dataset")), _ARTIFACT),
    "checkpoint": (("prov:type", Name("p4:ModelVersion")), _ARTIFACT),
    "model": (("prov:type", Name("p4:ModelVersion")), _ARTIFACT),
    "environment": (("prov:type", Name("p4:Environment")),),
}
_ROLES: Final[Mapping[tuple[str, str], Attributes]] = {
    (kind, use): (("prov:role", Name(role)),)
    for kind, use, role in (
        ("checkpoint", "generated", "p4:checkpoint"),
        ("model", "generated", "p4:finalModel"),
        ("dataset", "used", "p4:data"),
        ("environment", "used", "p4:environment"),
    )
}
_DATA_ROLES: Final[Mapping[str, Attributes]] = {
    name: (("prov:role", Name(role)),)
    for name, role in (
        ("training", "p4:trainingData"),
        ("validation", "p4:validationData"),
        ("testing", "p4:testData"),
        ("", "p4:data"),
    )
}


def plain(attributes: Mapping[str, ev.Scalar]) -> list[Pair]:
    """Attributes with plain names (samples, cores, ...) as ``p4:`` ones; None says nothing."""
    return [(f"p4:{segment(key)}", value) for key, value in attributes.items() if value is not None]


# ----------------------------------------------------------------------------- parameters


class _Setting:
    """One value of a parameter, wherever it was set."""

    __slots__ = ("files", "id", "order", "param", "ranks", "time")

    def __init__(self, id: str, param: ev.Param, order: int, time: int) -> None:
        self.id = id
        self.param = param
        self.order = order
        self.time = time
        self.ranks: set[int] = set()
        self.files: list[str] = []  # occurrences of a long value


_Settings = dict[str, dict[tuple[str, str], _Setting]]  # by key, by datatype and value


def parameters(view: View) -> Iterator[Statement]:
    """One entity per value, used by the run when it was first set."""
    run = view.names.run
    found = _settings(view)
    for key, values in found.items():
        several = len(values) > 1
        for setting in values.values():
            attributes: list[Pair] = [_SETTING, ("prov:label", key)]
            attributes += _value(setting.param)
            if several and len(setting.ranks) <= _MANY:
                attributes += [("p4:rank", rank) for rank in sorted(setting.ranks)]
            yield Element("entity", setting.id, tuple(attributes))
            yield Relation("used", (run, setting.id), _HYPERPARAMETER, setting.time)
            for file in setting.files:
                yield Relation("alternateOf", (setting.id, file))
    yield from _revisions(view, found)


def _settings(view: View) -> _Settings:
    found: _Settings = {}
    order = 0
    for p in view.clients:
        files = {a.n for a in p.artifacts if a.kind == "parameter"}
        rank = p.started.rank if p.started is not None else 0
        for param in p.params:
            values = found.setdefault(param.key, {})
            same = (param.datatype, param.value)
            time = view.times.at(p, param.time)
            setting = values.get(same)
            if setting is None:
                name = view.names.param(param.key, *same)
                setting = values[same] = _Setting(name, param, order, time)
                order += 1
            elif time < setting.time:
                setting.time = time
            setting.ranks.add(rank)
            if param.artifact in files and param.artifact is not None:
                file = view.names.occurrence(p, param.artifact)
                if file not in setting.files:
                    setting.files.append(file)
    return found


def _revisions(view: View, found: _Settings) -> Iterator[Statement]:
    """A second value on the same rank (in any attempt) revises the one before."""
    before: dict[tuple[int | bytes, str], _Setting] = {}
    told: set[tuple[str, str]] = set()
    for p in view.clients:
        place = p.started.rank if p.started is not None and view.names.holds(p) else p.id
        for param in p.params:
            values = found[param.key]
            if len(values) == 1:
                continue
            new = values[(param.datatype, param.value)]
            old = before.get((place, param.key))
            before[(place, param.key)] = new
            if old is None or (old.time, old.order) >= (new.time, new.order):
                continue
            if (new.id, old.id) not in told:
                told.add((new.id, old.id))
                yield _derived(new.id, old.id, _REVISION)


def _value(param: ev.Param) -> list[Pair]:
    if param.artifact is not None:
        return [("p4:sha256", param.value), ("p4:valueType", param.datatype)]
    text = param.value
    try:
        match param.datatype:
            case "str":
                return [("prov:value", text)]
            case "int":
                number = int(text)
                kind = integer_type(number)
                exact = number if kind != "xsd:integer" else Literal(text, kind)
                return [("prov:value", exact)]
            case "float":
                return [("prov:value", float(text))]
            case "bool" if text in ("true", "false"):
                return [("prov:value", text == "true")]
    except ValueError:
        pass
    return [("prov:value", text), ("p4:valueType", param.datatype)]


# --------------------------------------------------------------------------------- splits


def splits(view: View) -> Iterator[Statement]:
    """Parts of datasets as contexts use them; the same name and facts are the same split."""
    names = view.names
    ids: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    uses: dict[tuple[int, Path, str], int] = {}
    for p in view.clients:
        datasets = {a.n for a in p.artifacts} if p.splits else set()
        attempt = p.started.attempt if p.started is not None else 0
        for split in p.splits:
            facts = (split.name, repr(split.attributes))  # a text: NaN equals itself
            id = ids.get(facts)
            if id is None:
                id = names.split(split.name)
                if id in taken:
                    id = names.split(*facts)
                taken.add(id)
                ids[facts] = id
                label: Pair = ("prov:label", split.name)
                yield Element("entity", id, (_SPLIT, label, *plain(split.attributes)))
                if split.dataset in datasets and split.dataset is not None:
                    yield _derived(id, names.occurrence(p, split.dataset))
            use = (attempt, tuple(split.context), id)
            time = view.times.at(p, split.time)
            if use not in uses or time < uses[use]:
                uses[use] = time
    for (attempt, path, id), time in uses.items():
        role = _DATA_ROLES.get(path[-1] if path else "", _DATA_ROLES[""])
        yield Relation("used", (names.context(attempt, path), id), role, time)


# ------------------------------------------------------------------------ files and models


class _Version:
    """The versions of one model that one rank saved so far."""

    __slots__ = ("attempt", "count", "earlier")

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.count = 0
        self.earlier: list[tuple[int, str]] = []  # times strictly rising

    def resume(self, attempt: int, time: int, id: str | None) -> None:
        """A later attempt goes on from the version ``id``, saved at that time.

        None: from one of another model; then what was saved after it is left behind.
        """
        self.attempt = attempt
        micro = time // 1000
        if id is not None:
            self.earlier = [(micro, id)]
        while self.earlier[-1:] and self.earlier[-1][0] > micro:
            self.earlier.pop()

    def before(self, time: int, id: str) -> str | None:
        """The nearest version before this one that was generated strictly earlier."""
        micro = time // 1000
        earlier = self.earlier
        while earlier and earlier[-1][0] >= micro:
            earlier.pop()
        found = earlier[-1][1] if earlier else None
        earlier.append((micro, id))
        return found


def artifacts(view: View) -> Iterator[Statement]:
    """Occurrences with their generation or use, and what they are versions and contents of."""
    contents: set[str] = set()
    models: set[str] = set()
    versions: dict[tuple[int | bytes, str], _Version] = {}
    for p in view.clients:
        place = p.started.rank if p.started is not None and view.names.holds(p) else p.id
        yield from _of_process(view, p, place, contents, models, versions)


def _of_process(
    view: View,
    p: Producer,
    place: int | bytes,
    contents: set[str],
    models: set[str],
    versions: dict[tuple[int | bytes, str], _Version],
) -> Iterator[Statement]:
    names, stored, offset = view.names, view.state.stored, view.times.at(p, 0)
    attempt, rank, _ = p.key
    base = names.process(p) + "/artifact/"
    activities: dict[Path, str] = {}
    numbers: set[int] = set()
    for a in p.artifacts:
        if a.n in numbers:  # no two things have one name, whatever a client says
            continue
        numbers.add(a.n)
        id = f"{base}{a.n}"
        kind, use, time, path = a.kind, a.use, a.time + offset, tuple(a.context)
        outcome = stored.get((p.id, a.n))
        digest = outcome.sha256 if outcome is not None else None
        is_model = kind in ("checkpoint", "model")
        version = None
        label = a.name
        if is_model:
            version = versions.get((place, a.name))
            if version is None:
                version = versions[(place, a.name)] = _Version(0)
            if version.attempt != attempt:
                origin = view.origins.get(attempt)
                if origin is None:
                    version.attempt = attempt
                else:
                    old = origin.of(rank)
                    same = old.artifact.name == a.name
                    from_ = names.occurrence(old.producer, old.artifact.n) if same else None
                    version.resume(attempt, old.time, from_)
            if use != "used":
                version.count += 1
                label += ", final" if kind == "model" else f", version {version.count}"
        yield Element("entity", id, _facts(a, label, outcome))

        activity = activities.get(path)
        if activity is None:
            activity = activities[path] = names.context(attempt, path)
        if kind == "environment" and not path:
            activity = names.run
        role = _ROLES.get((kind, use), ())
        if use == "generated":
            yield Relation("wasGeneratedBy", (id, activity), role, time)
        elif use == "used":
            yield Relation("used", (activity, id), role, time)

        if version is not None:
            model = names.model(a.name)
            if model not in models:
                models.add(model)
                yield Element("entity", model, (*_MODEL, ("prov:label", a.name)))
            yield Relation("specializationOf", (id, model))
            if use == "generated":
                older = version.before(time, id)
                if older is not None:
                    yield _derived(id, older, _REVISION)
                yield from _evaluation(view, attempt, path, id, time)
            if use != "used":
                yield Relation("hadMember", (names.results, id))
        if digest is not None:
            content = names.content(digest)
            if digest not in contents:
                contents.add(digest)
                yield Element("entity", content, _content(digest, outcome))
            yield Relation("specializationOf", (id, content))


_MODEL: Final = (("prov:type", Name("mls:Model")), ("prov:type", Name("fair4ml:MLModel")))


def _facts(a: ev.Artifact, label: str, outcome: ev.Stored | None) -> Attributes:
    made: list[Pair] = [*_TYPES.get(a.kind, (_ARTIFACT,)), ("prov:label", label)]
    if a.media_type is not None:
        made.append(("p4:mediaType", a.media_type))
    if a.step is not None:
        made.append(("p4:step", a.step))
    if a.epoch is not None:
        made.append(("p4:epoch", a.epoch))
    if a.attributes:
        made += plain(a.attributes)
    if a.location is not None:
        made.append(("prov:location", a.location))
    if outcome is not None and outcome.path is not None and outcome.path != a.location:
        made.append(("prov:location", outcome.path))
    if outcome is None or outcome.sha256 is None:  # no content entity: what is known stands here
        if a.size is not None:
            made.append(("p4:size", a.size))
        error = a.error if outcome is None else outcome.error
        if error is not None:
            made.append(("p4:notStored", error))
    if a.mtime is not None:
        made.append(("dcterms:modified", Time(a.mtime)))
    return tuple(made)


def _content(digest: str, outcome: ev.Stored | None) -> Attributes:
    size = outcome.size if outcome is not None else None
    known: Attributes = (("p4:size", size),) if size is not None else ()
    return (_CONTENT, *known, ("p4:sha256", digest))


def _evaluation(view: View, attempt: int, path: Path, id: str, time: int) -> Iterator[Statement]:
    """Validation beside the context that made a version, still at work after it, evaluated it.

    When exactly is not in the log, so the use has no time.
    """
    beside = (*path[:-1], "validation")
    span = view.times.contexts[attempt].get(beside)
    if path != beside and span is not None and time // 1000 < span.last // 1000:
        yield Relation("used", (view.names.context(attempt, beside), id), _EVALUATED)


def _derived(newer: str, older: str, attributes: Attributes = ()) -> Relation:
    return Relation("wasDerivedFrom", (newer, older, None, None, None), attributes)
