"""What log calls write through: one producer's journal, clock and numbering, and its files.

Each kind of call has a module of its own (``params``, ``artifacts``, ``datasets``,
``checkpoints``, ``origin``); all of them take a ``Recorder``, and none knows the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from prov4ml import events as ev
from prov4ml import handover, hot
from prov4ml.errors import UsageError
from prov4ml.journal import Journal
from prov4ml.talk import log
from prov4ml.wire import MAX_RECORD

__all__ = ["NoRecorder", "Recorder"]

T = TypeVar("T")


class Recorder:
    """``incoming``: the run's folder for bytes that the collector has not hashed yet."""

    def __init__(self, journal: Journal, clock: hot.Clock, incoming: Path) -> None:
        self.journal = journal
        self.clock = clock
        self.incoming = incoming
        self.params: dict[str, str] = {}  # key: datatype and value of the last one
        self.datasets: dict[int, tuple[Any, int]] = {}  # by id(); kept alive so ids stay true
        self.said: set[str] = set()  # what is said once
        self._numbers = itertools.count(1)

    def now(self) -> int:
        """ns since 1970, UTC."""
        return self.clock.now()

    def number(self) -> int:
        """The next occurrence's number, from 1."""
        return next(self._numbers)

    def restart(self) -> None:
        """In a forked child: numbers are counted per producer."""
        self._numbers = itertools.count(1)

    def file(self, n: int) -> str:
        """The name in ``incoming`` of an occurrence's bytes."""
        return f"{self.journal.who.producer.hex()}-{n}"

    def append(self, event: ev.ClientEvent) -> None:
        """Keep an event.  Raises ``UsageError`` for one that is too big, or after the end."""
        record = msgspec.msgpack.encode(event)
        if len(record) > MAX_RECORD:
            raise UsageError(
                f"{type(event).__name__} has {len(record):,} bytes; an event holds {MAX_RECORD:,}"
            )
        self.journal.append(record)

    def guarded(self, hand_over: Callable[[], T]) -> T | None:
        """The result, or None when the run directory's disk would not take it: training goes on."""
        try:
            return hand_over()
        except OSError as error:
            log.warning("not kept: %s", error)
            return None

    def occurrence(
        self,
        n: int,
        kind: str,
        name: str,
        handed: handover.Handed | None,
        *,
        location: str | None = None,
        at: tuple[str, ...] = (),
        step: int | None = None,
        use: str = "",
        facts: dict[str, ev.Scalar] | None = None,
    ) -> None:
        """One occurrence of something; the fields are those of ``ev.Artifact``.

        ``handed``: its content; None when there is none to keep.
        """
        self.append(
            ev.Artifact(
                self.now(),
                n,
                kind,
                name,
                location,
                (handed.incoming or None) if handed is not None else None,
                handed.size if handed is not None else None,
                handed.mtime if handed is not None else None,
                handed.media_type if handed is not None else None,
                at,
                step,
                None,
                use,
                facts or {},
            )
        )


class NoRecorder(Recorder):
    """Of a run that records nothing."""

    def __init__(self) -> None:
        self.clock = hot.Clock()
        self.params = {}
        self.datasets = {}
        self.said = set()
        self._numbers = itertools.count(1)
        self.incoming = Path()

    def file(self, n: int) -> str:
        return str(n)

    def append(self, event: ev.ClientEvent) -> None:
        pass

    def guarded(self, hand_over: Callable[[], T]) -> T | None:
        return None
