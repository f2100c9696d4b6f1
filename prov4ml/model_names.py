"""What the things of a run are called: prefixes and identifiers, minted once.

Every name follows from what the events say (run id, attempt, rank, the client's own counts,
names that people gave), never from the order in which they arrived.  Names are ``prefix:local``
with percent-encoded segments; things of a run lie under ``<namespace>run/<run id>/``, what is
shared by runs (experiments, users, contents) beside it.

A rank belongs to the process that started first; a forked child, and any further process that
says it is the same rank, count for themselves and get ``child/<16 hex>`` or ``process/<16 hex>``
of their producer behind the rank.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from prov4ml import events as ev
from prov4ml.doings import Path
from prov4ml.errors import UsageError
from prov4ml.producer import Producer
from prov4ml.provdm import NAMESPACES, namespace, segment, split

__all__ = ["DEFAULT_NAMESPACE", "Names", "alike"]

DEFAULT_NAMESPACE: Final = "https://w3id.org/prov4ml/"

_coded = lru_cache(maxsize=4096)(segment)

_RUN: Final = re.compile(r"run/([^/]+)/$")
_LOCAL: Final = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+")
_OCCURRENCE: Final = re.compile(
    r"(?P<space>.+[/#]run/[A-Za-z0-9._~-]{1,120}/)"
    r"(?P<local>attempt/\d{1,18}/rank/\d{1,18}(?:/(?:child|process)/[0-9a-f]{16})?"
    r"/artifact/[1-9]\d{0,17})"
)
_INSIDE: Final = re.compile(r"[/#]run/[^/]+/")
_MINTED: Final = re.compile(r"(?:run|experiment|agent|tag|sha256)/|ns#")


class Names:
    """The names of one run.  ``clients`` are its producers, ordered by ``participants.clients``."""

    def __init__(self, clients: Sequence[Producer]) -> None:
        first = next((p.started for p in clients if p.started is not None), None)
        run = first.run if first is not None else ""
        try:
            space = namespace(first.namespace) if first is not None else DEFAULT_NAMESPACE
        except UsageError:  # the producer checks it; a document is written all the same
            space = DEFAULT_NAMESPACE
        user = "prov4ml" if space == DEFAULT_NAMESPACE else f"ns_{_hash(space)[:8]}"
        label = _label(run)

        self.label: str = label
        """Unique to the run: the last 12 hex digits of its id.

        They are random in a UUIDv7; the first 12 are its millisecond, which runs may share.
        """
        self.prefixes: dict[str, str] = {
            f"run_{label}": f"{space}run/{segment(run)}/",
            user: space,
            **{key: value for key, value in NAMESPACES.items() if key not in ("prov", "xsd")},
        }
        """All prefixes in use but ``prov`` and ``xsd``; each means the same IRI in every file."""

        self._run = f"run_{label}:"
        self._user = f"{user}:"
        self.run: str = f"{self._run}run"
        self.results: str = f"{self._run}results"
        self.command: str = f"{self._run}command"
        self.source: str = f"{self._run}source"
        self.metrics: str = f"{self._run}metrics"
        self._holders: dict[tuple[int, int], bytes] = {}
        self._hold(clients)
        told = [p.started.part_of for p in clients if p.started is not None]
        outer = (self._of_another(iri) for iri in dict.fromkeys(told) if iri)
        self.outer: tuple[str, ...] = tuple(name for name in outer if name not in (None, self.run))
        """The runs that this one is nested in: one, unless its processes disagree."""
        self._given: dict[str, str | None] = {}
        for p in clients:
            for a in p.artifacts:
                for source in a.derived:
                    if isinstance(source, str) and source not in self._given:
                        self._given[source] = None if source in told else self._source(source)

    def _hold(self, clients: Sequence[Producer]) -> None:
        since: dict[tuple[int, int], tuple[int, bytes]] = {}
        for p in clients:
            s = p.started
            if s is not None and not s.parent:
                place, order = (s.attempt, s.rank), (s.time, p.id)
                if place not in since or order < since[place]:
                    since[place] = order
        self._holders = {place: order[1] for place, order in since.items()}

    def _of_another(self, iri: str) -> str | None:
        """The name of something in another run, its prefix declared; None for what is no IRI.

        The prefix is the one that the documents of that run have.
        """
        cut = max(iri.rfind("/"), iri.rfind("#")) + 1
        space, local = iri[:cut], iri[cut:]
        try:
            fine = namespace(space) == space and _LOCAL.fullmatch(local)
        except UsageError:
            fine = None
        if not fine:
            return None
        return f"{self._declared(space)}:{local}"

    def _declared(self, space: str) -> str:
        """The prefix of a space that is not ours: what the documents of that run call it."""
        run = _RUN.search(space)
        prefix = f"run_{_label(run[1])}" if run is not None else f"ns_{_hash(space)[:8]}"
        if self.prefixes.setdefault(prefix, space) != space:
            prefix = f"ns_{_hash(space)[:8]}"
            self.prefixes[prefix] = space
        return prefix

    # ---------------------------------------------------------------- shared between runs

    def experiment(self, name: str) -> str:
        return f"{self._user}experiment/{segment(name)}"

    def person(self, user: str) -> str:
        return f"{self._user}agent/{segment(user)}"

    def tag(self, key: str) -> str:
        """The name of the run's attribute that holds a tag."""
        return f"{self._user}tag/{segment(key)}"

    # ------------------------------------------------------------------------- activities

    def attempt(self, attempt: int) -> str:
        return f"{self._run}attempt/{attempt}"

    def context(self, attempt: int, path: Path) -> str:
        """The activity of a context; of the attempt itself for ``()``."""
        if not path:
            return self.attempt(attempt)
        return f"{self._run}attempt/{attempt}/context/{'/'.join(map(_coded, path))}"

    def epoch(self, attempt: int, path: Path, number: int) -> str:
        """An epoch that is an activity; no context is called so, whatever its path."""
        inside = f"/context/{'/'.join(map(_coded, path))}" if path else ""
        return f"{self._run}attempt/{attempt}/epoch/{number}{inside}"

    def activity(self, p: Producer, n: int) -> str:
        """An activity of the user's own."""
        return f"{self.process(p)}/activity/{n}"

    def holder(self, attempt: int, rank: int) -> str | None:
        """The process that is that rank, or None when nothing of it has arrived."""
        held = (attempt, rank) in self._holders
        return f"{self._run}attempt/{attempt}/rank/{rank}" if held else None

    def holds(self, p: Producer) -> bool:
        """Whether a producer is its rank, not a child or a second process of it."""
        s = p.started
        return s is not None and self._holders.get((s.attempt, s.rank)) == p.id

    def process(self, p: Producer) -> str:
        """The activity of a producer; its occurrences are counted below."""
        s = _started(p)
        base = f"{self._run}attempt/{s.attempt}/rank/{s.rank}"
        if self.holds(p):
            return base
        return f"{base}/{'child' if s.parent else 'process'}/{p.id.hex()[:16]}"

    # --------------------------------------------------------------------------- entities

    def occurrence(self, p: Producer, n: int) -> str:
        return f"{self.process(p)}/artifact/{n}"

    def series(self, attempt: int | None, rank: int | None, path: Path) -> str:
        """What stands before the name of a series.

        ``rank`` is None for one of all ranks, ``attempt`` too for one of the whole run.
        """
        of = f"attempt/{attempt}/" if attempt is not None else ""
        of += f"rank/{rank}/" if rank is not None else ""
        inside = f"context/{'/'.join(map(_coded, path))}/" if path else ""
        return f"{self._run}{of}{inside}series/"

    def param(self, key: str, datatype: str, value: str) -> str:
        return f"{self._run}param/{segment(key)}/{_hash(f'{datatype}:{value}')[:16]}"

    def final(self, name: str, fold: str, path: Path) -> str:
        """The one value that the points of all processes come to."""
        inside = f"/context/{'/'.join(map(_coded, path))}" if path else ""
        return f"{self._run}final/{_coded(name)}/{fold}{inside}"

    def final_of(self, p: Producer, n: int) -> str:
        """The one value that a process computed itself."""
        return f"{self.process(p)}/final/{n}"

    def split(self, name: str, facts: str = "") -> str:
        """``facts`` tells apart what has the same name and is not the same."""
        return f"{self._run}split/{_coded(name)}{f'/{_hash(facts)[:16]}' if facts else ''}"

    def model(self, name: str) -> str:
        return f"{self._run}model/{_coded(name)}"

    def host(self, name: str) -> str:
        return f"{self._run}host/{_coded(name)}"

    def other(self, base: str, facts: str) -> str:
        """A second command or source beside the first."""
        return f"{base}/{_hash(facts)[:16]}"

    def gap(self, producer: bytes) -> str:
        """Events of a process that nobody knows."""
        return f"{self._run}gap/{producer.hex()}"

    def given(self, iri: str) -> str | None:
        """The name of the entity behind an IRI that an occurrence says it derives from.

        None for what is no IRI, and for one in a space of ours that is no occurrence's: it may be
        an activity, an agent, or a content, of which nothing derives.
        """
        return self._given.get(iri)

    def _source(self, iri: str) -> str | None:
        parts = split(iri)
        if parts is None:
            return None
        found = _OCCURRENCE.fullmatch(iri)
        if found is not None:
            parts = found["space"], found["local"]
        else:
            user = self.prefixes[self._user[:-1]]
            ours = iri.startswith(user) and _MINTED.match(iri[len(user) :])
            if ours or _INSIDE.search(iri):
                return None
        if any(iri.startswith(space) for space in NAMESPACES.values()):
            return None
        return f"{self._declared(parts[0])}:{parts[1]}"

    def output(self, path: str) -> str:
        """A file that a sink wrote; ``path`` is relative to the run directory."""
        return f"{self._run}{'/'.join(map(segment, path.split('/')))}"

    def content(self, sha256: str) -> str:
        return f"sha256:{segment(sha256)}"


def alike(name: str, word: str) -> str:
    """A word with the capitals of a name: Training beside Validation, TRAINING beside TESTING."""
    if name.isupper():
        return word.upper()
    return word.capitalize() if name[:1].isupper() else word


def _started(p: Producer) -> ev.Started:
    if p.started is None:
        raise ValueError(f"producer {p.id.hex()} has not said who it is")
    return p.started


def _label(run: str) -> str:
    digits = run.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{32}", digits):  # no UUID; a foreign producer's own id
        digits = _hash(run)
    return digits[-12:]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
