"""A run as PROV statements: the only place where training words meet PROV words.

``statements`` is a pure function of the state: the same log gives the same statements in the
same order, however its producers were interleaved.  They are made while they are read; what is
held beside the state grows with contexts, ranks and distinct names, not with what was logged.
Elements stand once, no statement stands twice, an id is an activity, an entity or an agent.

This module tells of the run itself: who and what started it, from which code, and its tags.
``model_processes`` has attempts, ranks and contexts, ``model_activities`` what people open in
them, ``model_things`` parameters, data, files and models, ``model_metrics`` the series,
``model_attempts`` what a resume made of them, ``model_evaluations`` what they come to,
``model_names`` the identifiers and ``model_times`` the intervals.  Sources: W3C PROV-DM and
PROV-CONSTRAINTS; ML-Schema, FAIR4ML and DCMI terms where they have the word.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Final, NamedTuple

from prov4ml import events as ev
from prov4ml.delivery import failures
from prov4ml.ends import run_status
from prov4ml.model_activities import activities, epochs
from prov4ml.model_attempts import abandoned, combined
from prov4ml.model_evaluations import evaluations
from prov4ml.model_metrics import Kept, metrics
from prov4ml.model_names import Names
from prov4ml.model_processes import (
    account,
    accounts,
    attempts,
    commands,
    contexts,
    ending,
    host_of,
    processes,
    strangers,
    types,
)
from prov4ml.model_things import artifacts, parameters, plain, splits
from prov4ml.model_times import View, view
from prov4ml.participants import clients
from prov4ml.picture import Picture
from prov4ml.producer import Producer
from prov4ml.provdm import Attributes, Document, Element, Name, Relation, Statement, Value
from prov4ml.state import RunState

__all__ = ["document", "statements"]

Pair = tuple[str, Value]

_MAX_KEY: Final = 120
"""Bytes of a name's segment (``provdm.segment``); longer keys of tags are told beside it."""

_FILES: Final = ("diff", "sources")
"""Facts of the code that are numbers of occurrences."""

_LAUNCHER: Final = (("prov:role", Name("p4:launcher")),)


def document(state: RunState, picture: Picture | None = None) -> Document:
    """What document sinks render.  ``picture`` is what the ``svg`` sink draws."""
    names = Names(clients(state))
    return Document(names.label, names.prefixes, lambda: statements(state), picture)


def statements(state: RunState) -> Iterator[Statement]:
    """Everything that is known of a run; nothing before a process of it said who it is."""
    seen = view(state)
    if seen is None:
        return
    yield from _surroundings(seen)
    yield from _run(seen)
    yield from attempts(seen)
    yield from processes(seen)
    yield from strangers(seen)
    yield from contexts(seen)
    yield from epochs(seen)
    yield from activities(seen)
    yield from parameters(seen)
    yield from splits(seen)
    yield from artifacts(seen)
    kept: Kept = {}
    yield from metrics(seen, kept)
    yield from abandoned(seen)
    yield from combined(seen, kept)
    yield from evaluations(seen, kept)


# -------------------------------------------------------------- people, code, machines


def _surroundings(seen: View) -> Iterator[Statement]:
    names = seen.names
    people: dict[str, None] = {}
    hosts: dict[str, ev.Host | None] = {}
    for p in seen.clients:
        if p.started is not None:
            if p.started.user is not None:
                people[p.started.user] = None
            name = host_of(p)
            if hosts.get(name) is None:
                hosts[name] = p.host
    for user in people:
        yield Element("agent", names.person(user), (*types("prov:Person"), ("prov:label", user)))
    for id, command in commands(seen)[1].items():
        text = shlex.join(command.argv)
        facts: list[Pair] = [*types("p4:Command"), ("prov:label", text), ("prov:value", text)]
        if command.directory:
            facts.append(("p4:workingDirectory", command.directory))
        yield Element("entity", id, tuple(facts))
    for code in {code.id: code for code in _sources(seen).values()}.values():
        yield Element("entity", code.id, _source(seen, code))
    for name, host in hosts.items():
        told = plain(host.attributes) if host is not None else []
        facts = [*types("p4:Host"), ("prov:label", name), *told]
        yield Element("entity", names.host(name), tuple(facts))


class _Code(NamedTuple):
    """One state of the code, and the process that told most of it."""

    id: str
    source: ev.Source
    teller: Producer


def _sources(seen: View) -> dict[bytes, _Code]:
    """The state of the code of each process that told of it.

    One process of a run looks at what a working tree has changed: what others, who did not look,
    say of the same commit is the same state.
    """
    told: dict[bytes, str] = {}
    first: dict[str, tuple[Producer, ev.Source]] = {}
    for p in seen.clients:
        if p.source is not None:
            told[p.id] = _state(seen, p, p.source)
            first.setdefault(told[p.id], (p, p.source))
    for key, (_, source) in list(first.items()):
        if not source.attributes:
            place = _place(source)
            fuller = (k for k, (_, s) in first.items() if s.attributes and _place(s) == place)
            other = next(fuller, None)
            if other is not None:
                told = {id: other if k == key else k for id, k in told.items()}
                del first[key]
    names = seen.names
    codes: dict[str, _Code] = {}
    for key, (p, source) in first.items():
        id = names.other(names.source, key) if codes else names.source
        codes[key] = _Code(id, source, p)
    return {id: codes[key] for id, key in told.items()}


def _place(s: ev.Source) -> tuple[str | None, ...]:
    return s.script, s.remote, s.commit, s.branch


def _state(seen: View, p: Producer, s: ev.Source) -> str:
    """What tells states apart; files by their content, not by the number that they have here."""
    facts: dict[str, ev.Scalar] = dict(s.attributes)
    for name in _FILES:
        if name in facts:
            stored = seen.state.stored.get((p.id, _number(facts[name])))
            if stored is not None and stored.sha256 is not None:
                facts[name] = stored.sha256
    return repr((s.script, s.remote, s.commit, s.branch, facts))


def _number(value: ev.Scalar) -> int:
    return value if isinstance(value, int) else 0


def _source(seen: View, code: _Code) -> Attributes:
    s = code.source
    facts: list[Pair] = [*types("prov:Plan", "mls:Implementation")]
    facts.append(("prov:label", s.script if s.script is not None else "interactive"))
    for name, value in (("remote", s.remote), ("commit", s.commit), ("branch", s.branch)):
        if value is not None:
            facts.append((f"p4:{name}", value))
    kinds = {a.n: a.kind for a in reversed(code.teller.artifacts)}
    for name, fact in s.attributes.items():
        if name in _FILES and kinds.get(_number(fact)) in ("diff", "source"):
            file = seen.names.occurrence(code.teller, _number(fact))
            facts.append((f"p4:{name}", Name(file)))
        else:
            facts += plain({name: fact})
    return tuple(facts)


# ------------------------------------------------------------------------------ the run


def _run(seen: View) -> Iterator[Statement]:
    state, names, run = seen.state, seen.names, seen.times.run
    first = next(p.started for p in seen.clients if p.started is not None)
    facts: list[Pair] = [*types("mls:Run"), ("prov:label", first.name)]
    facts += [("dcterms:isPartOf", Name(outer)) for outer in names.outer]
    facts += ending(run_status(state))
    known = [account(state, p) for p in seen.clients]
    facts += accounts(sum(column) for column in zip(*known, strict=True))
    facts += [("p4:sinkFailure", f"{f.sink}: {f.error}") for f in failures(state)]
    facts += _tags(seen)
    yield Element("activity", names.run, tuple(facts), run.start, run.end)

    launched, _ = commands(seen)
    first_attempt = min(seen.times.attempts)
    if first_attempt in launched:
        command = launched[first_attempt]
        yield Relation("wasStartedBy", (names.run, command, None), (), run.start)
    yield from _associations(seen)

    results, experiment = names.results, names.experiment(first.experiment)
    facts = [*types("prov:Collection", "p4:Experiment"), ("prov:label", first.experiment)]
    yield Element("entity", experiment, tuple(facts))
    facts = [*types("prov:Collection", "p4:Results"), ("prov:label", f"results of {first.name}")]
    yield Element("entity", results, tuple(facts))
    yield Relation("hadMember", (experiment, results))


def _associations(seen: View) -> Iterator[Statement]:
    """The run with its users, following the code; without a user with its first process."""
    names = seen.names
    sources = _sources(seen)
    plans: dict[str, dict[str, None]] = {}
    people: set[str] = set()
    fallback = next((p for p in seen.clients if names.holds(p)), seen.clients[0])
    for p in seen.clients:
        user = p.started.user if p.started is not None else None
        agent = names.person(user) if user is not None else f"{names.process(fallback)}/agent"
        if user is not None:
            people.add(agent)
        mine = plans.setdefault(agent, {})
        if p.source is not None:
            mine[sources[p.id].id] = None
    for agent, mine in plans.items():
        role = _LAUNCHER if agent in people else ()
        for plan in mine or (None,):
            yield Relation("wasAssociatedWith", (names.run, agent, plan), role)


def _tags(seen: View) -> list[Pair]:
    """Attributes of the run; the latest value of a key counts."""
    found: dict[str, tuple[tuple[int, int, bytes], str]] = {}
    for p in seen.clients:
        rank = p.started.rank if p.started is not None else 0
        for tag in p.tags:
            order = (seen.times.at(p, tag.time), rank, p.id)
            if tag.key not in found or order >= found[tag.key][0]:
                found[tag.key] = (order, tag.value)
    made: list[Pair] = [(seen.names.tag(key), value) for key, (_, value) in found.items()]
    for key, (_, value) in found.items():
        if 3 * len(key) > _MAX_KEY:  # its name may be cut: keep the whole key
            made.append(("p4:tag", json.dumps([key, value], ensure_ascii=False)))
    return made
