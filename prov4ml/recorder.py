"""What log calls write through: one producer's journal, clock and numbering, and its files.

Each kind of call has a module of its own (``params``, ``artifacts``, ``datasets``,
``checkpoints``, ``origin``); all of them take a ``Recorder``, and none knows the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from prov4ml import events as ev
from prov4ml import handover, hot
from prov4ml.errors import UsageError
from prov4ml.journal import Journal
from prov4ml.known import Ledger
from prov4ml.talk import log
from prov4ml.wire import MAX_RECORD

__all__ = ["Inside", "NoRecorder", "Recorder", "inside"]

T = TypeVar("T")


class Inside:
    """What the calls inside are done by: the activity of that number; 0: none of the user's."""

    def __init__(self, to: Recorder, n: int, around: Inside | None) -> None:
        self.to = to
        self.n = n
        self.around = around
        self.open = True
        self.generation = to.generation


inside: ContextVar[Inside | None] = ContextVar("prov4ml.activity", default=None)
"""What was entered last; of whatever run."""


_IN_CONTEXTS: Final = (
    ev.Activity,
    ev.Artifact,
    ev.ContextEnded,
    ev.ContextStarted,
    ev.EpochEnded,
    ev.EpochStarted,
    ev.FinalMetric,
    ev.Linked,
    ev.Split,
)
_IN_ACTIVITIES: Final = (ev.Artifact, ev.Linked, ev.Split)


class Recorder:
    """``incoming``: the run's folder for bytes that the collector has not hashed yet."""

    def __init__(self, journal: Journal, clock: hot.Clock, incoming: Path) -> None:
        self.journal = journal
        self.incoming = incoming
        self._begin(clock)
        self.metrics = hot.bind(journal, clock, self.parents, self.watchers)

    def _begin(self, clock: hot.Clock) -> None:
        self.clock = clock
        self.params: dict[str, str] = {}  # key: datatype and value of the last one
        self.datasets: dict[int, tuple[Any, int]] = {}  # by id(); kept alive so ids stay true
        self.parents: dict[str, str] = {}  # contexts that stand under another one
        self.watchers: dict[str, Callable[[tuple[str, ...], float], None]] = {}  # by metric
        self.epochs: list[ev.EpochStarted] = []  # open ones
        self.finals: list[Callable[[], None]] = []  # what is said at the end of the run
        self.execution = clock.now()  # when it started, ns
        self.generation = 0  # of processes, since this was made
        self.restart()

    def now(self) -> int:
        """ns since 1970, UTC."""
        return self.clock.now()

    def number(self) -> int:
        """The next occurrence's number, from 1."""
        return next(self._numbers)

    def activity(self) -> int:
        """The number of the activity around the call; 0 without one."""
        found = inside.get()
        while found is not None:
            if found.to is self and found.open and found.generation == self.generation:
                return found.n
            found = found.around
        return 0

    def open_epochs(self) -> list[ev.ClientEvent]:
        """What a forked child has to say so that it is in the epochs of its parent."""
        now = self.now()
        return [self._placed(msgspec.structs.replace(e, time=now)) for e in self.epochs]

    def next_activity(self) -> int:
        """The next activity's number, from 1."""
        return next(self._activities)

    def next_final(self) -> int:
        """The number of the next metric of which one value is wanted, from 1."""
        return next(self._final_numbers)

    def restart(self) -> None:
        """In a forked child: numbers are counted per producer, and its parent's are not its own."""
        self._numbers = itertools.count(1)
        self._activities = itertools.count(1)
        self._final_numbers = itertools.count(1)
        self.generation += 1
        self.datasets.clear()
        self.known = Ledger()
        self.finals.clear()
        self.watchers.clear()

    def file(self, n: int) -> str:
        """The name in ``incoming`` of an occurrence's bytes."""
        return f"{self.journal.who.producer.hex()}-{n}"

    def append(self, event: ev.ClientEvent) -> None:
        """Keep an event, with what is around the call: its whole context, its activity.

        Raises ``UsageError`` for one that is too big, or after the end.
        """
        event = self._placed(event)
        record = msgspec.msgpack.encode(event)
        if len(record) > MAX_RECORD:
            raise UsageError(
                f"{type(event).__name__} has {len(record):,} bytes; an event holds {MAX_RECORD:,}"
            )
        self.journal.append(record)
        if type(event) is ev.Artifact:
            self.known.add(event)

    def _placed(self, event: ev.ClientEvent) -> ev.ClientEvent:
        changed: dict[str, Any] = {}
        if self.parents and isinstance(event, _IN_CONTEXTS):
            path = hot.placed(event.context, self.parents)
            if path != event.context:
                changed["context"] = path
        if isinstance(event, _IN_ACTIVITIES) and not event.activity:
            activity = self.activity()
            if activity:
                changed["activity"] = activity
        return msgspec.structs.replace(event, **changed) if changed else event

    def link(self, n: int, use: str, *, activity: int = 0, at: tuple[str, ...] = ()) -> None:
        """An occurrence that another call logged is used or generated, too.

        By the activity of that number, else by the context ``at``.
        """
        self.append(ev.Linked(self.now(), n, use, activity, at))

    def finish(self) -> None:
        """Say what is said at the end of the run."""
        for say in self.finals:
            say()

    def measure(
        self,
        name: str,
        value: float,
        context: str | None,
        step: int | None,
        unit: str,
        source: str | None = None,
    ) -> None:
        """A point of a series that has a unit."""
        self.metrics[3](name, value, context, step, source, None, unit)

    def forget_series(self) -> None:
        """After a change of ``parents`` or ``watchers``: metric calls look again."""
        self.metrics[1].clear()

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
        handed: handover.Handed,
        *,
        location: str | None = None,
        at: tuple[str, ...] = (),
        step: int | None = None,
        use: str = "",
        facts: dict[str, ev.Scalar] | None = None,
    ) -> None:
        """One occurrence of something with content; the fields are those of ``ev.Artifact``."""
        self.append(
            ev.Artifact(
                self.now(),
                n,
                kind,
                name,
                location,
                handed.incoming or None,
                handed.size,
                handed.mtime,
                handed.media_type,
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
        self.incoming = Path()
        self._begin(hot.Clock())
        self.metrics = hot.nowhere(hot.checked)

    def file(self, n: int) -> str:
        return str(n)

    def append(self, event: ev.ClientEvent) -> None:
        pass

    def guarded(self, hand_over: Callable[[], T]) -> T | None:
        return None
