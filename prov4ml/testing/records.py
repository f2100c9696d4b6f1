"""What log calls record, without a run: a recorder on a journal of its own, and what is in it.

``Record`` is a training process and its collector in one: calls take its ``recorder``, the bytes
that they hand over are stored as a collector would, and the documents are made of the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prov4ml import events as ev
from prov4ml import hashing, hot, process, store, wire
from prov4ml import segment as seg
from prov4ml.delivery import pending
from prov4ml.journal import Journal
from prov4ml.model import document
from prov4ml.participants import clients
from prov4ml.provdm import NAMESPACES, Document, Element, Relation, Value
from prov4ml.recorder import Recorder
from prov4ml.references import Reference
from prov4ml.state import RunState, apply
from prov4ml.testing.constraints import violations

__all__ = ["Record", "Told"]

RUN: Final = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"


class Record:
    """``folder``: its own; ``run`` in it is the run directory."""

    def __init__(
        self,
        folder: Path,
        *,
        lenient: bool = False,
        producer: bytes = b"p" * 16,
        rank: int = 0,
        run: str = RUN,
    ) -> None:
        self.run = folder / "run"
        self.run.mkdir(parents=True, exist_ok=True)
        self.namespace = "https://lab.example/"
        who = seg.Identity(run, producer, 1, rank, 4, 5, RUN)
        self.journal = Journal(who, [folder / f"spool{rank}"])
        clock = hot.Clock()
        incoming = self.run / "artifacts" / ".incoming"
        self.recorder = Recorder(self.journal, clock, incoming, self.namespace, lenient=lenient)
        self.recorder.append(
            ev.Started(
                clock.now(),
                run,
                "things",
                "things_0",
                str(self.run),
                self.namespace,
                1,
                rank,
                rank,
                1,
                4,
                5,
                RUN,
                process.hostname(),
                None,
                "none",
                "0",
                "3",
                {},
            )
        )

    def close(self) -> None:
        self.journal.close(remove=True)

    @property
    def events(self) -> list[Any]:
        """What was recorded, without the introduction."""
        found: list[Any] = []
        for path in sorted((self.run.parent).glob(f"spool{self.journal.who.rank}/**/*.seg")):
            view = seg.view(path)
            found += wire.decode_batch(wire.array_header(view.count) + view.records, view.count)
        return found[1:]

    @property
    def artifacts(self) -> list[ev.Artifact]:
        return [event for event in self.events if isinstance(event, ev.Artifact)]

    def artifact(self, reference: Reference) -> ev.Artifact:
        """The event of a handle."""
        (found,) = [a for a in self.artifacts if a.n == reference.n]
        return found

    def state(self, *others: Record) -> RunState:
        """The fold of what was recorded (by others too), with what became of the bytes."""
        state = RunState()
        for each in (self, *others):
            told = [each.introduction, *each.events]
            apply(state, each.journal.who.producer, 0, told)
        for producer, artifact in list(pending(state)):
            kept = store.keep(self.run, producer, artifact, hashing.Pace())
            state.stored[producer.id, artifact.n] = kept
        assert clients(state)
        return state

    @property
    def introduction(self) -> ev.Started:
        (path, *_) = sorted(self.run.parent.glob(f"spool{self.journal.who.rank}/**/*.seg"))
        view = seg.view(path)
        batch = wire.array_header(view.count) + view.records
        first = wire.decode_batch(batch, view.count)[0]
        assert isinstance(first, ev.Started)
        return first

    def told(self, *others: Record) -> Told:
        """The statements, which keep every rule that ``constraints`` knows."""
        made = document(self.state(*others))
        assert violations(made) == []
        return Told(made)


class Told:
    """Statements, by what they are about; names are IRIs."""

    def __init__(self, made: Document) -> None:
        self.document = made
        self._all = list(made.statements())

    def iri(self, name: str) -> str:
        prefix, _, local = name.partition(":")
        return {**NAMESPACES, **self.document.prefixes}[prefix] + local

    def facts(self, iri: str) -> dict[str, list[Value]]:
        """The attributes of an element."""
        (found,) = [e for e in self._all if isinstance(e, Element) and self.iri(e.id) == iri]
        made: dict[str, list[Value]] = {}
        for key, value in found.attributes:
            made.setdefault(key, []).append(value)
        return made

    def relations(self, kind: str, *arguments: str | None) -> Iterator[tuple[str, ...]]:
        """Arguments of the relations of a kind as IRIs; given ones must be the same."""
        for r in self._all:
            if isinstance(r, Relation) and r.kind == kind:
                names = tuple(self.iri(a) if a is not None else "" for a in r.arguments)
                if all(a in (None, b) for a, b in zip(arguments, names, strict=False)):
                    yield names

    def attributes(self, kind: str, *arguments: str | None) -> list[str]:
        """Roles and types of those relations."""
        wanted = set(self.relations(kind, *arguments))
        return [
            str(value)
            for r in self._all
            if isinstance(r, Relation) and r.kind == kind
            if tuple(self.iri(a) if a is not None else "" for a in r.arguments) in wanted
            for _, value in r.attributes
        ]

    def sources(self, newer: Reference) -> dict[str, list[str]]:
        """What an occurrence was derived from, each with the type of the derivation."""
        found = [names[1] for names in self.relations("wasDerivedFrom", newer.iri)]
        return {iri: self.attributes("wasDerivedFrom", newer.iri, iri) for iri in found}
