"""A recorder on a journal of its own, and what it has written: log calls without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from prov4ml import artifacts, datasets, hot, wire
from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.journal import Journal
from prov4ml.producer import Producer
from prov4ml.readback import Readback
from prov4ml.recorder import Recorder
from prov4ml.references import Reference
from prov4ml.state import RunState, apply

__all__ = ["Recording"]

T = TypeVar("T")

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
START = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


class Recording:
    """``to`` is what log calls take; ``log_metric`` writes into the same journal."""

    def __init__(self, folder: Path, producer: bytes = b"p" * 16) -> None:
        who = seg.Identity(RUN, producer, 1, 0, 4, 5, RUN)
        self.journal = Journal(who, [folder / "spool"])
        clock = hot.Clock()
        self.to = Recorder(self.journal, clock, folder / "incoming", "https://w3id.org/prov4ml/")
        self.readback = Readback(self.journal, hot.number)
        self.to.metrics = hot.bind(
            self.journal, clock, self.readback, self.to.parents, self.to.watchers
        )
        self.log_metric = hot.follower(self.to.metrics)[0]
        self.producer = producer

    def close(self) -> None:
        self.readback.close(0.0)
        self.journal.close(remove=True)

    def save(
        self, path: Path, context: str | None = None, *, used: bool = False, copy: bool = False
    ) -> Reference:
        """``log_artifact``."""
        return artifacts.log_artifact(
            self.to, path, None, context, None, is_input=used, copy=copy, derived_from=None
        )

    def data(self, thing: Any, name: str, context: str | None = None) -> Reference:
        """``log_dataset``."""
        return datasets.log_dataset(
            self.to, thing, name, context, copy=True, hash=False, about=None, derived_from=None
        )

    @property
    def events(self) -> list[Any]:
        """Everything that was written, in order."""
        found: list[Any] = []
        for segment in [*self.journal.sealed, self.journal.current]:
            assert segment is not None
            view = seg.view(segment.path)
            found += wire.decode_batch(wire.array_header(view.count) + view.records, view.count)
        return found

    def of(self, kind: type[T]) -> list[T]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def stream(self, rank: int = 0, attempt: int = 1, *, ended: bool = True) -> list[Any]:
        """What a process would have sent: its first word, the events, its last word."""
        now = self.to.now()
        started = ev.Started(
            min([now, *(e.time for e in self.events if hasattr(e, "time"))]),
            RUN,
            "recorded",
            "recorded_0",
            "/prov/recorded_0",
            "https://w3id.org/prov4ml/",
            attempt,
            rank,
            rank,
            1,
            4,
            5,
            RUN,
            "node",
            None,
            "none",
            "0.1.0",
            "3.11",
            {},
        )
        last = [ev.Ended(now, "finished", 0)] if ended else []
        return [started, *self.events, *last]

    def state(self, *, ended: bool = True) -> RunState:
        """The fold of that stream."""
        made = RunState()
        apply(made, self.producer, 0, self.stream(ended=ended))
        return made

    def folded(self) -> Producer:
        """What is known of the process."""
        return self.state().producers[self.producer]
