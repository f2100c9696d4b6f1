"""The left lane: code, parameters, data, environment and machines that a run used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prov4ml import events as ev
from prov4ml import overview_words as words
from prov4ml.overview_facts import Facts, path_text
from prov4ml.picture import Arrow, Box
from prov4ml.producer import Producer

__all__ = ["inputs"]

_DATASETS: Final = 3  # boxes; more are gathered in the last


def inputs(facts: Facts) -> tuple[list[Box], list[Arrow]]:
    """Boxes of the left lane from top to bottom, and the arrows that point to them."""
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    for box in (_source(facts), _parameters(facts)):
        if box is not None:
            boxes.append(box)
            arrows.append(Arrow("run", box.key, dashed=box.note == "plan"))
    for box, users in _datasets(facts):
        boxes.append(box)
        arrows += [Arrow(user, box.key) for user in users]
    for box in (_files(facts), _environment(facts), _machines(facts)):
        if box is not None:
            boxes.append(box)
            arrows.append(Arrow("run", box.key))
    return boxes, arrows


def _attributes(attributes: dict[str, ev.Scalar]) -> Iterable[str]:
    return (f"{name}: {value}" for name, value in attributes.items())


def _source(facts: Facts) -> Box | None:
    source = next((p.source for p in facts.clients if p.source is not None), None)
    if source is None:
        return None
    iri = facts.draw(facts.names.source)
    script = (source.script or "").rstrip("/").rpartition("/")[2] or "source code"
    title = f"{script} @ {source.commit[:7]}" if source.commit else script
    lines = [part for part in (source.remote, source.branch) if part]
    dirty = source.attributes.get("dirty")
    return Box(
        key="source",
        shape="entity",
        title=title,
        note="plan",
        lines=(
            *([" · ".join(lines)] if lines else []),
            *(["with uncommitted changes"] if dirty else []),
        ),
        tooltip=words.tooltip(
            [
                f"script: {source.script}",
                f"remote: {source.remote}" if source.remote else "",
                f"commit: {source.commit}" if source.commit else "",
                f"branch: {source.branch}" if source.branch else "",
                *_attributes(source.attributes),
            ]
        ),
        iri=iri,
    )


def _value(param: ev.Param) -> str:
    if param.artifact is not None:
        return f"(long, {words.short_hash(param.value)})"
    return param.value


def _parameters(facts: Facts) -> Box | None:
    found: dict[str, dict[tuple[str, str], ev.Param]] = {}
    for p in facts.clients:
        for param in p.params:
            found.setdefault(param.key, {})[(param.datatype, param.value)] = param
    if not found:
        return None
    items = []
    for key, values in found.items():
        told = ", ".join(_value(param) for param in values.values())
        items.append(f"{key} {told}" if len(values) <= 3 else f"{key}: {len(values)} values")
    lines, shown = words.pack(items, 5)
    names = {
        key: [facts.names.param(key, *same) for same in values] for key, values in found.items()
    }
    for key in list(found)[:shown]:
        facts.drawn.update(names[key])
    return Box(
        key="parameters",
        shape="entity",
        title=words.many(len(found), "parameter"),
        note="hyperparameters",
        lines=tuple(lines),
        tooltip=words.tooltip(
            f"{key} = {', '.join(_value(param) for param in values.values())}"
            for key, values in found.items()
        ),
        iri=facts.iri(next(iter(names.values()))[0]) if len(found) == 1 else "",
    )


# ------------------------------------------------------------------------------- datasets


def _datasets(facts: Facts) -> Iterable[tuple[Box, list[str]]]:
    """Boxes with the keys of those who used them; the ranks' occurrences of one file are one."""
    groups: dict[tuple[str, str | None, str], list[tuple[Producer, ev.Artifact]]] = {}
    of: dict[tuple[bytes, int], tuple[str, str | None, str]] = {}
    for p, a in facts.artifacts():
        if a.kind == "dataset":
            key = (a.name, a.location, facts.digest(p, a))
            groups.setdefault(key, []).append((p, a))
            of[(p.id, a.n)] = key
    splits: dict[object, dict[tuple[str, tuple[str, ...]], ev.Split]] = {}
    for p in facts.clients:
        for split in p.splits:
            owner = of.get((p.id, split.dataset)) if split.dataset is not None else None
            splits.setdefault(owner, {})[(split.name, split.context)] = split
    made: list[tuple[Box, list[str]]] = []
    many = list(groups)
    for at, key in enumerate(many[:_DATASETS]):
        mine = splits.pop(key, {})
        if at == _DATASETS - 1 and len(many) > _DATASETS:
            rest = many[at:]
            for other in rest[1:]:
                mine = mine | splits.pop(other, {})
            made.append(_more_datasets(facts, [groups[k] for k in rest], list(mine.values())))
        else:
            made.append(_dataset(facts, at, groups[key], list(mine.values())))
    loose = [split for mine in splits.values() for split in mine.values()]
    if loose:
        lines, shown = words.pack(_split_words(loose), 4)
        facts.drawn.update(facts.split(split) for split in loose[:shown])
        box = Box(
            key="splits",
            shape="entity",
            title=words.many(len(loose), "data split"),
            note="data",
            lines=tuple(lines),
            tooltip=words.tooltip(_split_details(loose)),
            iri=facts.iri(facts.split(loose[0])),
        )
        made.append((box, _users(facts, loose)))
    return made


def _users(facts: Facts, splits: list[ev.Split]) -> list[str]:
    return list(dict.fromkeys(facts.home(split.context) for split in splits))


def _split_words(splits: list[ev.Split]) -> list[str]:
    made = []
    for split in splits:
        samples = split.attributes.get("samples")
        made.append(f"{split.name} {samples:,}" if isinstance(samples, int) else split.name)
    return made


def _split_details(splits: list[ev.Split]) -> Iterable[str]:
    for split in splits:
        used = f" for {path_text(split.context)}" if split.context else ""
        yield f"split {split.name}{used}: " + ", ".join(_attributes(split.attributes))


def _dataset(
    facts: Facts, at: int, members: list[tuple[Producer, ev.Artifact]], splits: list[ev.Split]
) -> tuple[Box, list[str]]:
    p, a = members[0]
    iri = facts.draw(facts.occurrence(p, a))
    samples, size, digest = a.attributes.get("samples"), facts.size(p, a), facts.digest(p, a)
    known = [
        words.many(samples, "sample") if isinstance(samples, int) else "",
        words.size(size) if size is not None else "",
        words.short_hash(digest) if digest else "",
    ]
    lines = [" · ".join(part for part in known if part)]
    if splits:
        told, shown = words.pack(_split_words(splits), 2, 34)
        facts.drawn.update(facts.split(split) for split in splits[:shown])
        lines += [f"split: {told[0]}", *told[1:]]
    trouble = facts.trouble(p, a)
    box = Box(
        key=f"dataset:{at}",
        shape="entity",
        title=a.name,
        note="dataset",
        lines=tuple(line for line in lines if line),
        tooltip=words.tooltip(
            [
                a.name,
                f"location: {a.location}" if a.location else "",
                f"sha256 {digest}" if digest else "",
                *_attributes(a.attributes),
                *_split_details(splits),
                f"recorded by {len(members)} processes" if len(members) > 1 else "",
            ]
        ),
        iri=iri,
        alert=f"not stored: {trouble}" if trouble else "",
    )
    if splits:
        return box, _users(facts, splits)
    return box, [facts.home(a.context)] if a.use == "used" else []


def _more_datasets(
    facts: Facts, groups: list[list[tuple[Producer, ev.Artifact]]], splits: list[ev.Split]
) -> tuple[Box, list[str]]:
    firsts = [members[0] for members in groups]
    lines, shown = words.pack([a.name for _, a in firsts], 3)
    facts.drawn.update(facts.occurrence(p, a) for p, a in firsts[:shown])
    users = [facts.home(a.context) for _, a in firsts if a.use == "used"]
    box = Box(
        key="dataset:+",
        shape="entity",
        title=words.many(len(groups), "more dataset"),
        note="datasets",
        lines=tuple(lines),
        tooltip=words.tooltip([*(a.name for _, a in firsts), *_split_details(splits)]),
        iri=facts.iri(facts.occurrence(*firsts[0])),
    )
    return box, _users(facts, splits) or list(dict.fromkeys(users))


# ------------------------------------------------------------------- files, surroundings


def _files(facts: Facts) -> Box | None:
    found: dict[tuple[str, str], tuple[Producer, ev.Artifact]] = {}
    for p, a in facts.artifacts():
        if a.kind == "artifact" and a.use == "used" and not a.folder:  # that one stands for it
            found.setdefault((a.name, facts.digest(p, a)), (p, a))
    if not found:
        return None
    files = list(found.values())
    lines, shown = words.pack([a.name for _, a in files], 3)
    facts.drawn.update(facts.occurrence(p, a) for p, a in files[:shown])
    return Box(
        key="files",
        shape="entity",
        title=words.many(len(files), "input file"),
        note="files",
        lines=tuple(lines),
        tooltip=words.tooltip(
            " · ".join(filter(None, [a.name, a.location, facts.digest(p, a)])) for p, a in files
        ),
        iri=facts.iri(facts.occurrence(*files[0])),
    )


def _environment(facts: Facts) -> Box | None:
    found = [(p, a) for p, a in facts.artifacts() if a.kind == "environment"]
    if not found:
        return None
    p, a = found[0]
    iri = facts.draw(facts.occurrence(p, a))
    python, packages = a.attributes.get("python"), a.attributes.get("packages")
    digests = {facts.digest(q, b) for q, b in found} - {""}
    parts = [words.many(packages, "package") if isinstance(packages, int) else ""]
    parts.append(words.short_hash(facts.digest(p, a)) if facts.digest(p, a) else "")
    lines = [" · ".join(part for part in parts if part)]
    if len(digests) > 1:
        lines.append(f"{len(digests)} different ones among the ranks")
    return Box(
        key="environment",
        shape="entity",
        title=f"Python {python}" if python else a.name,
        note="environment",
        lines=tuple(line for line in lines if line),
        tooltip=words.tooltip(
            [a.name, *_attributes(a.attributes), *(f"sha256 {d}" for d in sorted(digests))]
        ),
        iri=iri,
    )


def _machines(facts: Facts) -> Box | None:
    hosts: dict[str, ev.Host | None] = {}
    for p in facts.clients:
        name = p.host.name if p.host is not None else p.started.host if p.started else ""
        if hosts.get(name) is None:
            hosts[name] = p.host
    if not hosts:
        return None
    told = {name: _machine(host) for name, host in hosts.items()}
    if len(hosts) == 1:
        lines, shown = [next(iter(told.values()))], 1
    else:
        lines, shown = words.pack(list(hosts), 3)
        if len(set(told.values())) == 1:
            same = next(iter(told.values()))
            lines += [f"each {same}"] if same else []
    facts.drawn.update(facts.names.host(name) for name in list(hosts)[:shown])
    return Box(
        key="machines",
        shape="entity",
        title=next(iter(hosts)) if len(hosts) == 1 else words.many(len(hosts), "machine"),
        note="machine" if len(hosts) == 1 else "machines",
        lines=tuple(line for line in lines if line),
        tooltip=words.tooltip(
            f"{name}: " + ", ".join(_attributes(host.attributes) if host else [])
            for name, host in hosts.items()
        ),
        iri=facts.iri(facts.names.host(next(iter(hosts)))) if len(hosts) == 1 else "",
    )


def _machine(host: ev.Host | None) -> str:
    if host is None:
        return ""
    cores, memory = host.attributes.get("cores"), host.attributes.get("memory")
    system = host.attributes.get("os")
    parts = [
        words.many(cores, "core") if isinstance(cores, int) else "",
        words.size(memory, 1024) if isinstance(memory, int) else "",
        str(system) if system else "",
    ]
    return " · ".join(part for part in parts if part)
