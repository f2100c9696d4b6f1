"""A run as PROV statements: the only place where training words meet PROV words.

``statements`` is a pure function of the state: the same log gives the same statements in the
same order, however its producers were interleaved.  They are made while they are read; what is
held beside the state grows with contexts, ranks and distinct names, not with what was logged.
Elements stand once, no statement stands twice, an id is an activity, an entity or an agent.

This module tells of the run itself: who and what started it, from which code, and its tags.
``model_processes`` has attempts, ranks and contexts, ``model_things`` parameters, data, files and
models, ``model_metrics`` the series, ``model_attempts`` what a resume made of them,
``model_names`` the identifiers and ``model_times`` the intervals.  Sources: W3C PROV-DM and
PROV-CONSTRAINTS; ML-Schema, FAIR4ML and DCMI terms where they have the word.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Final

from prov4ml import events as ev
from prov4ml.model_attempts import abandoned, combined
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
from prov4ml.picture import Picture
from prov4ml.provdm import Attributes, Document, Element, Name, Relation, Statement, Value
from prov4ml.state import RunState, clients, failures, run_status

__all__ = ["document", "statements"]

Pair = tuple[str, Value]

_MAX_KEY: Final = 120
"""Bytes of a name's segment (``provdm.segment``); longer keys of tags are told beside it."""

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
    yield from parameters(seen)
    yield from splits(seen)
    yield from artifacts(seen)
    kept: Kept = {}
    yield from metrics(seen, kept)
    yield from abandoned(seen)
    yield from combined(seen, kept)


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
    for id, source in _sources(seen).values():
        yield Element("entity", id, _source(source))
    for name, host in hosts.items():
        told = plain(host.attributes) if host is not None else []
        facts = [*types("p4:Host"), ("prov:label", name), *told]
        yield Element("entity", names.host(name), tuple(facts))


def _sources(seen: View) -> dict[str, tuple[str, ev.Source]]:
    """Distinct states of the code; the first one heads the list."""
    found: dict[str, tuple[str, ev.Source]] = {}
    for p in seen.clients:
        if p.source is not None:
            facts = _code(p.source)
            if facts not in found:
                id = seen.names.source
                found[facts] = (seen.names.other(id, facts) if found else id, p.source)
    return found


def _code(s: ev.Source) -> str:
    return repr((s.script, s.remote, s.commit, s.branch, s.attributes))


def _source(s: ev.Source) -> Attributes:
    facts: list[Pair] = [*types("prov:Plan", "mls:Implementation")]
    facts.append(("prov:label", s.script if s.script is not None else "interactive"))
    for name, value in (("remote", s.remote), ("commit", s.commit), ("branch", s.branch)):
        if value is not None:
            facts.append((f"p4:{name}", value))
    return (*facts, *plain(s.attributes))


# ------------------------------------------------------------------------------ the run


def _run(seen: View) -> Iterator[Statement]:
    state, names, run = seen.state, seen.names, seen.times.run
    first = next(p.started for p in seen.clients if p.started is not None)
    facts: list[Pair] = [*types("mls:Run"), ("prov:label", first.name), *ending(run_status(state))]
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
            mine[sources[_code(p.source)][0]] = None
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
