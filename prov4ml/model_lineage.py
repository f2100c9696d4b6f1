"""What occurrences derive from, as far as it can be stated without breaking a constraint of PROV.

A derivation runs from a newer occurrence to an older one.  Of one process the numbers say which is
older, of two the times; where both were generated, the older one strictly before (in microseconds,
as documents print times).  What cannot be ordered so is stated as an influence, which has no order;
what is no entity that we can name is told as text.

An occurrence that never arrived and an entity of another run have a name and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prov4ml import events as ev
from prov4ml.model_times import View
from prov4ml.producer import Producer
from prov4ml.provdm import Attributes, Element, Name, Relation, Statement, Value

__all__ = ["MODELS", "Lineage", "Source"]

MODELS: Final = ("checkpoint", "model")

_TUNED: Final = (("prov:type", Name("p4:FineTuning")),)
_REVISION: Final = (("prov:type", Name("prov:Revision")),)
_UNORDERED: Final = (("prov:type", Name("p4:UnorderedDerivation")),)
_WEIGHTS: Final = (("prov:role", Name("p4:initialWeights")),)

Pair = tuple[str, Value]


class Source(NamedTuple):
    """Something that an occurrence derives from."""

    id: str
    artifact: ev.Artifact | None  # None: of another run, or never arrived
    tuned: bool  # a model that this one was tuned from
    older: bool  # as PROV's order has it


class Lineage:
    """The sources of every occurrence of a run."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._stated: set[str] = set()  # entities that have nothing but a name
        self._uses: set[tuple[str, str]] = set()
        self._numbers: dict[bytes, dict[int, ev.Artifact]] = {}
        self._processes: dict[str, Producer] | None = None
        self._bases: dict[bytes, set[int]] = {}
        self._claimed = {
            (p.id, link.n)
            for p in view.clients
            for link in p.doings.links
            if link.use == "generated"
        }

    def numbers(self, p: Producer) -> Mapping[int, ev.Artifact]:
        """The occurrences of a process by their number; the first of those that share one."""
        found = self._numbers.get(p.id)
        if found is None:
            found = self._numbers[p.id] = {a.n: a for a in reversed(p.artifacts)}
        return found

    def bases(self, p: Producer) -> set[int]:
        """Which of a process's occurrences models were tuned from."""
        found = self._bases.get(p.id)
        if found is None:
            tuned = (d for a in p.artifacts if a.kind in MODELS for d in a.derived[: a.tuned])
            found = self._bases[p.id] = {d for d in tuned if isinstance(d, int)}
        return found

    def sources(self, p: Producer, a: ev.Artifact) -> tuple[list[Source], list[str]]:
        """What an occurrence derives from, and what of it has no name."""
        found: dict[str, Source] = {}
        unnamed: list[str] = []
        for place, given in enumerate(a.derived):
            source = self._source(p, a, given, tuned=a.kind in MODELS and place < a.tuned)
            if source is None:
                unnamed.append(str(given))
            else:
                found.setdefault(source.id, source)
        return list(found.values()), unnamed

    def facts(self, sources: Sequence[Source], unnamed: Sequence[str]) -> list[Pair]:
        """What of it stands on the occurrence itself."""
        told: list[Pair] = [("fair4ml:fineTunedFrom", Name(s.id)) for s in sources if s.tuned]
        return told + [("p4:derivedFrom", text) for text in unnamed]

    def statements(
        self, id: str, a: ev.Artifact, activity: str, sources: Sequence[Source]
    ) -> Iterator[Statement]:
        """The derivations of an occurrence; ``activity`` is what made or used it."""
        for s in sources:
            if s.artifact is None and s.id not in self._stated:
                self._stated.add(s.id)
                yield Element("entity", s.id)
            if s.older:
                kind: Attributes = _TUNED if s.tuned else ()
                if is_version(a, s):
                    kind = _REVISION
                yield Relation("wasDerivedFrom", (id, s.id, None, None, None), kind)
            else:
                yield Relation("wasInfluencedBy", (id, s.id), _UNORDERED)
            ours = s.artifact is not None and s.artifact.use == "used"
            if s.tuned and s.older and not ours and (activity, s.id) not in self._uses:
                self._uses.add((activity, s.id))  # its own use has no time: it is not in the log
                yield Relation("used", (activity, s.id), _WEIGHTS)

    # ------------------------------------------------------------------------- inside

    def _source(
        self, p: Producer, a: ev.Artifact, given: int | str, *, tuned: bool
    ) -> Source | None:
        names = self._view.names
        if isinstance(given, int):
            if not 0 < given < a.n:
                return None
            owner, number, id = p, given, names.occurrence(p, given)
        else:
            known = names.given(given)
            if known is None:
                return None
            base, _, last = known.rpartition("/artifact/")
            found = self._process(base) if last.isdigit() else None
            if found is None:
                return Source(known, None, tuned, True)
            owner, number, id = found, int(last), known
            if owner.id == p.id and number >= a.n:
                return None
        artifact = self.numbers(owner).get(number)
        if artifact is None:
            return Source(id, None, tuned, True)
        return Source(id, artifact, tuned, self._older(owner, artifact, p, a))

    def _process(self, name: str) -> Producer | None:
        if self._processes is None:
            names = self._view.names
            self._processes = {names.process(p): p for p in reversed(self._view.clients)}
        return self._processes.get(name)

    def _older(self, p: Producer, old: ev.Artifact, q: Producer, new: ev.Artifact) -> bool:
        times = self._view.times
        before, after = times.at(p, old.time) // 1000, times.at(q, new.time) // 1000
        if p.id != q.id or (self._made(p, old) and self._made(q, new)):
            return before < after
        return before <= after

    def _made(self, p: Producer, a: ev.Artifact) -> bool:
        """Whether an occurrence is, or may be, generated in this run."""
        return a.use == "generated" or (p.id, a.n) in self._claimed


def is_version(a: ev.Artifact, source: Source) -> bool:
    """Whether the source is another version of the same model."""
    old = source.artifact
    return old is not None and a.kind in MODELS and old.kind in MODELS and old.name == a.name
