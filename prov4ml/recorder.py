"""What log calls write through: one producer's journal, clock and numbering, and its files.

Each kind of call has a module of its own (``params``, ``artifacts``, ``datasets``,
``checkpoints``, ``origin``); all of them take a ``Recorder``, and none knows the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import msgspec

from prov4ml import events as ev
from prov4ml import handover, hot
from prov4ml.asking import interrupted
from prov4ml.errors import UsageError
from prov4ml.journal import Journal
from prov4ml.known import Ledger
from prov4ml.references import Reference, References
from prov4ml.talk import log, short
from prov4ml.wire import MAX_RECORD

__all__ = ["Inside", "NoRecorder", "Recorder", "inside"]

_LONG: Final = 4000  # characters of a fact that are kept

_IN_CONTEXTS: Final = (
    ev.Activity,
    ev.Artifact,
    ev.ContextEnded,
    ev.ContextStarted,
    ev.EpochEnded,
    ev.EpochStarted,
    ev.FinalMetric,
    ev.Linked,
    ev.Param,
    ev.Split,
)
_IN_ACTIVITIES: Final = (ev.Artifact, ev.Linked, ev.Split)


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


class Recorder:
    """``incoming``: the run's folder for bytes that the collector has not hashed yet.

    ``namespace``: what identifiers begin with.  ``lenient``: a model that cannot be saved is a
    warning and a gap in the record, not an error.
    """

    keeps = True  # False: arguments are checked, and that is all

    def __init__(
        self,
        journal: Journal,
        clock: hot.Clock,
        incoming: Path,
        namespace: str = "",
        *,
        lenient: bool = False,
    ) -> None:
        self.journal = journal
        self.clock = clock
        self.incoming = incoming
        self.namespace = namespace
        self.lenient = lenient
        self._begin()
        self._outlive()

    def _outlive(self) -> None:
        """What a forked child has from its parent."""
        self.metrics = hot.nowhere(hot.checked)  # until the run says where they go
        self.parents: dict[str, str] = {}  # contexts that stand under another one
        self.epochs: list[ev.EpochStarted] = []  # open ones
        self.watchers: dict[str, Callable[[tuple[str, ...], float], None]] = {}  # by metric
        self.finals: list[Callable[[], None]] = []  # what is said at the end of the run
        self.execution = self.clock.now()  # when it started, ns
        self.generation = 0  # of processes, since this was made

    def _begin(self) -> None:
        self.params: dict[str, str] = {}  # key: datatype and value of the last one
        self.datasets: dict[int, tuple[Any, Reference, str]] = {}  # see datasets.remembered
        self.layers: dict[str, tuple[str, int]] = {}  # by model: its layers' hash, their number
        self.given: set[str] = set()  # what of the run's origin a call has told
        self.said: set[str] = set()  # what is said once
        self.counts: dict[str, int] = {}  # of things that are named by their number
        self.references = References(*self._place())
        self.known = Ledger()
        self._numbers = itertools.count(1)
        self._activities = itertools.count(1)
        self._evaluations = itertools.count(1)
        self._last = 0  # us

    def _place(self) -> tuple[str, str]:
        """(run id, IRI of this process)."""
        who = self.journal.who
        base = f"{self.namespace}run/{who.run}/attempt/{who.attempt}/rank/{who.rank}"
        return who.run, f"{base}/child/{who.producer.hex()[:16]}" if who.parent else base

    def now(self) -> int:
        """ns since 1970, UTC."""
        return self.clock.now()

    def moment(self) -> int:
        """Now, but later than every occurrence before, as documents print times (in us)."""
        now = self.now()
        if now // 1000 <= self._last:
            now = (self._last + 1) * 1000
        self._last = now // 1000
        return now

    def number(self) -> int:
        """The next occurrence's number, from 1."""
        return next(self._numbers)

    def next_activity(self) -> int:
        """The next activity's number, from 1."""
        return next(self._activities)

    def next_final(self) -> int:
        """The number of the next metric of which one value is wanted, from 1."""
        return next(self._evaluations)

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

    def restart(self) -> None:
        """In a forked child: numbers are counted per producer; what has a name keeps it."""
        before = self.params, self.references
        self._begin()
        self.params = before[0]
        self.references.inherit(before[1])
        self.generation += 1
        self.watchers.clear()
        self.finals.clear()

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
        self.append(ev.Linked(self.moment(), n, use, activity, at))

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

    def hand_over(
        self, what: str, n: int, take: Callable[[Path, str], handover.Handed]
    ) -> handover.Handed:
        """The bytes of occurrence ``n``, or why they are not here: training goes on."""
        if not self.keeps:
            return handover.Handed()
        try:
            return take(self.incoming, self.file(n))
        except (OSError, MemoryError) as error:
            if interrupted(error):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            log.warning("%s is not kept: %s", short(what), reason)
            return handover.Handed(lost=reason)

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
        epoch: int | None = None,
        use: str = "",
        facts: dict[str, ev.Scalar] | None = None,
        derived: tuple[int | str, ...] = (),
        tuned: int = 0,
        folder: int = 0,
        activity: int = 0,
    ) -> Reference:
        """One occurrence of something with content; the fields are those of ``ev.Artifact``."""
        told = {key: _told(value) for key, value in (facts or {}).items()}
        if handed.lost:
            told["notStored"] = handed.lost
        if handed.changed:
            told["changed_while_copied"] = True
            log.warning("%s changed while it was copied", short(name))
        event = ev.Artifact(
            self.moment(),
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
            epoch,
            use,
            told,
            derived,
            activity,
            tuned,
            folder,
        )
        try:
            self.append(event)
        except UsageError:
            if handed.incoming:
                (self.incoming / handed.incoming).unlink(missing_ok=True)
            raise
        return self.references.made(n, name, kind, *filter(None, (location,)))


def _told(value: ev.Scalar) -> ev.Scalar:
    """A fact as an event can hold it: bounded, and without lone surrogates."""
    if not isinstance(value, str):
        return value
    return short(value, _LONG).encode("utf-8", "backslashreplace").decode()


class NoRecorder(Recorder):
    """Of a run that records nothing."""

    keeps = False

    def __init__(self) -> None:
        self.clock = hot.Clock()
        self.incoming = Path()
        self.namespace = ""
        self.lenient = True
        self._begin()
        self._outlive()

    def _place(self) -> tuple[str, str]:
        return "", ""

    def file(self, n: int) -> str:
        return str(n)

    def append(self, event: ev.ClientEvent) -> None:
        pass
