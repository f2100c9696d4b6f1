"""Parameters, datasets, splits, files and models of a run as PROV statements.

A thing with content has two entities: its occurrence in this run, and the content, which is
named by its hash, the same in every run, and only has a size.

A revision is stated only where the older version was generated strictly before the newer one
(in microseconds, as documents print them): a checkpoint revises the nearest one saved before it
on its rank of which that is true, and the first of a burst with equal times revises nothing.
The first one of a resumed attempt revises the version that the attempt went on from; one that
says which version of its model it derives from revises that.
Values of parameters go in the order of their first use, so that a value which returns (a, b, a)
makes no circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prov4ml import events as ev
from prov4ml.doings import Path
from prov4ml.model_activities import Doers
from prov4ml.model_lineage import MODELS, Lineage, Source, is_version
from prov4ml.model_names import alike
from prov4ml.model_times import View
from prov4ml.producer import Producer
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
    "layers": (("prov:type", Name("p4:LayerTree")),),
    "source": (("prov:type", Name("p4:SourceCode")),),
    "diff": (("prov:type", Name("p4:Diff")), _ARTIFACT),
}
_OF_THE_RUN: Final = ("environment", "source", "diff")
"""Kinds that the run used where they say no context."""

_COLLECTION: Final = ("prov:type", Name("prov:Collection"))
_ROLES: Final[Mapping[tuple[str, str], Attributes]] = {
    (kind, use): (("prov:role", Name(role)),)
    for kind, use, role in (
        ("checkpoint", "generated", "p4:checkpoint"),
        ("model", "generated", "p4:finalModel"),
        ("dataset", "used", "p4:data"),
        ("environment", "used", "p4:environment"),
        ("source", "used", "p4:sourceCode"),
        ("diff", "used", "p4:sourceCode"),
        ("checkpoint", "used", "p4:inputModel"),
        ("model", "used", "p4:inputModel"),
    )
}
_INITIAL: Final = (("prov:role", Name("p4:initialWeights")),)
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

    __slots__ = ("contexts", "files", "id", "order", "param", "ranks", "sources", "time", "users")

    def __init__(self, id: str, param: ev.Param, order: int) -> None:
        self.id = id
        self.param = param
        self.order = order
        self.time: int | None = None  # when the run first used it; None: only activities did
        self.ranks: set[int] = set()
        self.users: dict[str, int] = {}  # activities, and when
        self.sources: set[str] = set()
        self.contexts: dict[tuple[int, Path], int] = {}  # which used it too, and when first
        self.files: list[str] = []  # occurrences of a long value


_Settings = dict[str, dict[tuple[str, str], _Setting]]  # by key, by datatype and value


def parameters(view: View) -> Iterator[Statement]:
    """One entity per value, used by the run when it was first set, and by the contexts named.

    One of an activity is used by that activity alone.
    """
    run = view.names.run
    found = _settings(view)
    for key, values in found.items():
        several = sum(setting.time is not None for setting in values.values()) > 1
        for setting in values.values():
            attributes: list[Pair] = [_SETTING, ("prov:label", key)]
            attributes += _value(setting.param)
            if several and len(setting.ranks) <= _MANY:
                attributes += [("p4:rank", rank) for rank in sorted(setting.ranks)]
            attributes += [("p4:source", source) for source in sorted(setting.sources)]
            yield Element("entity", setting.id, tuple(attributes))
            if setting.time is not None:
                yield Relation("used", (run, setting.id), _HYPERPARAMETER, setting.time)
            for (attempt, path), time in sorted(setting.contexts.items()):
                context = view.names.context(attempt, path)
                yield Relation("used", (context, setting.id), _HYPERPARAMETER, time)
            for user, time in setting.users.items():
                yield Relation("used", (user, setting.id), _HYPERPARAMETER, time)
            for file in setting.files:
                yield Relation("alternateOf", (setting.id, file))
    yield from _revisions(view, found)


def _settings(view: View) -> _Settings:
    found: _Settings = {}
    order = 0
    for p in view.clients:
        files = {a.n for a in p.artifacts if a.kind == "parameter"}
        rank = p.started.rank if p.started is not None else 0
        doers = Doers(view, p)
        for param in p.params:
            values = found.setdefault(param.key, {})
            same = (param.datatype, param.value)
            time = view.times.at(p, param.time)
            setting = values.get(same)
            if setting is None:
                name = view.names.param(param.key, *same)
                setting = values[same] = _Setting(name, param, order)
                order += 1
            if param.source is not None:
                setting.sources.add(param.source)
            doer = doers.of("param", 0, param.activity, (), param.time)
            if doer.own:
                setting.users.setdefault(doer.id, time)
            else:
                setting.time = time if setting.time is None else min(time, setting.time)
                setting.ranks.add(rank)
                if param.context and p.started is not None:
                    where = (p.started.attempt, tuple(param.context))
                    setting.contexts[where] = min(time, setting.contexts.get(where, time))
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
            new = values[(param.datatype, param.value)]
            if len(values) == 1 or param.activity or new.time is None:
                continue
            old = before.get((place, param.key))
            before[(place, param.key)] = new
            if old is None or (old.time or 0, old.order) >= (new.time, new.order):
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
    uses: dict[tuple[str, Path, str], int] = {}
    for p in view.clients:
        latest: dict[str, str] = {}
        datasets = {a.n for a in p.artifacts} if p.splits else set()
        doers = Doers(view, p)
        for place, split in enumerate(p.splits, 1):
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
                if split.parent in latest:  # stated before, so no circle
                    yield _derived(id, latest[split.parent])
            latest[split.name] = id
            path = tuple(split.context)
            use = (doers.of("split", place, split.activity, path, split.time).id, path, id)
            time = view.times.at(p, split.time)
            if use not in uses or time < uses[use]:
                uses[use] = time
    for (doer, path, id), time in uses.items():
        role = _DATA_ROLES.get(path[-1].lower() if path else "", _DATA_ROLES[""])
        yield Relation("used", (doer, id), role, time)


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
    lineage = Lineage(view)
    for p in view.clients:
        place = p.started.rank if p.started is not None and view.names.holds(p) else p.id
        yield from _of_process(view, p, place, contents, models, versions, lineage)


def _of_process(
    view: View,
    p: Producer,
    place: int | bytes,
    contents: set[str],
    models: set[str],
    versions: dict[tuple[int | bytes, str], _Version],
    lineage: Lineage,
) -> Iterator[Statement]:
    names, stored, offset = view.names, view.state.stored, view.times.at(p, 0)
    attempt, rank, _ = p.key
    base = names.process(p) + "/artifact/"
    doers = Doers(view, p)
    numbers: set[int] = set()
    folders = {a.folder for a in p.artifacts if a.folder}
    for a in p.artifacts:
        if a.n in numbers:  # no two things have one name, whatever a client says
            continue
        numbers.add(a.n)
        id = f"{base}{a.n}"
        kind, use, time, path = a.kind, a.use, a.time + offset, tuple(a.context)
        outcome = stored.get((p.id, a.n))
        digest = outcome.sha256 if outcome is not None else None
        is_model = kind in MODELS
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
        sources: list[Source] = []
        told: list[Pair] = []
        if a.derived:
            sources, unnamed = lineage.sources(p, a)
            told = lineage.facts(sources, unnamed)
        if a.n in folders:
            told.append(_COLLECTION)
        doer, maker, users = doers.part(a)
        if path and doer.context != path:
            told.append(("p4:context", Name(names.context(attempt, path))))
        yield Element("entity", id, _facts(a, label, outcome, told, _layers(view, p, a, lineage)))

        activity = doer.id
        if not path and kind in _OF_THE_RUN and not doer.own:
            activity = names.run
        if maker is not None:
            by = activity if maker == doer.id else maker
            yield Relation("wasGeneratedBy", (id, by), _ROLES.get((kind, "generated"), ()), time)
        role = _ROLES.get((kind, "used"), ())
        if is_model and use == "used" and a.n in lineage.bases(p):
            role = _INITIAL
        for user, when in users.items():
            yield Relation("used", (activity if user == doer.id else user, id), role, when)

        if version is not None:
            model = names.model(a.name)
            if model not in models:
                models.add(model)
                yield Element("entity", model, (*_MODEL, ("prov:label", a.name)))
            yield Relation("specializationOf", (id, model))
            if use == "generated":
                older = version.before(time, id)
                if older is not None and not any(is_version(a, s) and s.older for s in sources):
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
        if sources:
            yield from lineage.statements(id, a, activity, sources)
        if a.folder and a.folder != a.n and a.folder in lineage.numbers(p):
            yield Relation("hadMember", (f"{base}{a.folder}", id))


_MODEL: Final = (("prov:type", Name("mls:Model")), ("prov:type", Name("fair4ml:MLModel")))


def _layers(view: View, p: Producer, a: ev.Artifact, lineage: Lineage) -> str:
    """The file in which the layers of a model stand."""
    n = a.attributes.get("layers")
    if a.kind not in MODELS or not isinstance(n, int):
        return ""
    file = lineage.numbers(p).get(n)
    return view.names.occurrence(p, n) if file is not None and file.kind == "layers" else ""


def _facts(
    a: ev.Artifact, label: str, outcome: ev.Stored | None, more: list[Pair], layers: str
) -> Attributes:
    made: list[Pair] = [*_TYPES.get(a.kind, (_ARTIFACT,)), ("prov:label", label), *more]
    if a.media_type is not None:
        made.append(("p4:mediaType", a.media_type))
    if a.step is not None:
        made.append(("p4:step", a.step))
    if a.epoch is not None:
        made.append(("p4:epoch", a.epoch))
    if layers:
        made += plain({k: v for k, v in a.attributes.items() if k != "layers"})
        made.append(("p4:layers", Name(layers)))
    elif a.attributes:
        made += plain(a.attributes)
    if a.location is not None:
        link = "://" in a.location and a.size is None
        place: Value = Literal(a.location, "xsd:anyURI") if link else a.location
        made.append(("prov:location", place))
    if outcome is not None and outcome.path is not None and outcome.path != a.location:
        made.append(("prov:location", outcome.path))
    if outcome is None or outcome.sha256 is None:  # no content entity: what is known stands here
        if a.size is not None:
            made.append(("p4:size", a.size))
        if outcome is not None and outcome.error is not None:
            made.append(("p4:notStored", outcome.error))
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
    beside = (*path[:-1], alike(path[-1] if path else "", "validation"))
    span = view.times.contexts[attempt].get(beside)
    if path != beside and span is not None and time // 1000 < span.last // 1000:
        yield Relation("used", (view.names.context(attempt, beside), id), _EVALUATED)


def _derived(newer: str, older: str, attributes: Attributes = ()) -> Relation:
    return Relation("wasDerivedFrom", (newer, older, None, None, None), attributes)
