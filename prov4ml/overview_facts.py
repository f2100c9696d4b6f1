"""What a drawing has to know of a run before it places the first box.

Names of things (IRIs), times on one clock, which contexts get a box of their own and which are
gathered into one.  Everything depends on the fold alone, never on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from prov4ml import events as ev
from prov4ml.doings import Path
from prov4ml.model_metrics import MANY
from prov4ml.model_times import View
from prov4ml.participants import ranks
from prov4ml.producer import Producer
from prov4ml.provdm import segment
from prov4ml.series import Series

__all__ = ["MORE", "Facts", "box_key", "path_text"]

MORE: Final = "context:+"
"""Key of the box that stands for all contexts without a box of their own."""

_TOPS: Final = 4  # boxes of contexts in the run, the gathering one included
_NESTED: Final = 2  # boxes of contexts in a context
_FAMILIAR: Final = ("training", "validation", "testing")


SplitFacts: TypeAlias = tuple[str, tuple[tuple[str, ev.Scalar], ...]]


def box_key(path: Path) -> str:
    """The key of a context's box; the run's for no context."""
    return "/".join(["context", *map(segment, path)]) if path else "run"


def path_text(path: Path) -> str:
    return "/".join(path)


class Facts:
    """One run, looked at once.  There is at least one process that has said who it is."""

    def __init__(self, view: View) -> None:
        self.state = view.state
        self.names = view.names
        self.times = view.times
        self.clients: list[Producer] = view.clients
        self.ranks: list[Producer] = list(ranks(view.state))
        first = next(p.started for p in self.clients if p.started is not None)
        self.started: ev.Started = first
        self.attempt: int = max(view.times.attempts)
        self.drawn: set[str] = set()  # names of the things that stand in the picture
        self._combined: dict[int, bool] = {}
        self.splits: dict[SplitFacts, str] = self._splits()
        self.contexts: dict[Path, tuple[int, int]] = self._spans()
        self.boxes: dict[Path, list[Path]] = {}  # path with a box: its children with one
        self.hidden: dict[Path, list[Path]] = {}  # the others, below whom they are named
        self._choose()

    # -------------------------------------------------------------------------- names

    def iri(self, name: str) -> str:
        """The absolute IRI of a name; of none for none."""
        prefix, _, local = name.partition(":")
        return self.names.prefixes[prefix] + local if name else ""

    def draw(self, name: str) -> str:
        """Count a thing as drawn, and give back what its box links to."""
        self.drawn.add(name)
        return self.iri(name)

    def occurrence(self, p: Producer, a: ev.Artifact) -> str:
        return self.names.occurrence(p, a.n)

    def context(self, path: Path) -> str:
        """The name of a context in the last attempt that has it."""
        found = [attempt for attempt, paths in self.times.contexts.items() if path in paths]
        return self.names.context(max(found, default=self.attempt), path)

    def series(self, p: Producer, s: Series) -> str:
        """The name of the series to which a process contributed."""
        started = p.started
        if started is None:
            return ""
        attempt = started.attempt
        if attempt not in self._combined:
            self._combined[attempt] = self._combines(attempt)
        rank = None if self._combined[attempt] else started.rank
        name = self.names.series(attempt, rank, s.context) + segment(s.name)
        return name if s.source is None else f"{name}/source/{segment(s.source)}"

    def combined(self, s: Series) -> str:
        """The name of a series over all attempts."""
        name = self.names.series(None, None, s.context) + segment(s.name)
        return name if s.source is None else f"{name}/source/{segment(s.source)}"

    def _combines(self, attempt: int) -> bool:
        """Whether the model states one series for all ranks of an attempt."""
        members = [q.started for q in self.clients if q.started and q.started.attempt == attempt]
        size = max(*(m.world_size for m in members), len({m.rank for m in members}))
        return size > MANY and str(members[-1].settings.get("detail", "series")) != "rank"

    def split(self, split: ev.Split) -> str:
        return self.splits[(split.name, tuple(split.attributes.items()))]

    def _splits(self) -> dict[SplitFacts, str]:
        """As the model names them: a second one of a name is told apart by its facts."""
        made: dict[SplitFacts, str] = {}
        taken: set[str] = set()
        for p in self.clients:
            for split in p.splits:
                facts = (split.name, tuple(split.attributes.items()))
                if facts not in made:
                    name = self.names.split(split.name)
                    if name in taken:
                        name = self.names.split(split.name, repr(facts[1]))
                    taken.add(name)
                    made[facts] = name
        return made

    # -------------------------------------------------------------------------- times

    def time(self, p: Producer, time: int) -> int:
        """A producer's time on the collector's clock."""
        return self.times.at(p, time)

    def span(self, first: int, last: int) -> tuple[float, float]:
        """A stretch of time as fractions of the run's."""
        start, length = self.start, max(self.end - self.start, 1)
        return max((first - start) / length, 0.0), min((last - start) / length, 1.0)

    @property
    def start(self) -> int:
        return self.times.run.start

    @property
    def end(self) -> int:
        """The run's end, or the last thing seen of it."""
        run = self.times.run
        return run.last if run.end is None else run.end

    def _spans(self) -> dict[Path, tuple[int, int]]:
        found: dict[Path, tuple[int, int]] = {}
        for contexts in self.times.contexts.values():
            for path, span in contexts.items():
                old = found.get(path, (span.first, span.last))
                found[path] = (min(span.first, old[0]), max(span.last, old[1]))
        return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))

    # ----------------------------------------------------------------------- contexts

    def _choose(self) -> None:
        def pick(parent: Path, room: int) -> tuple[list[Path], list[Path]]:
            below = [p for p in self.contexts if len(p) == len(parent) + 1 and p[:-1] == parent]
            if len(below) <= room:
                return below, []
            weight = {p: (p[-1] not in _FAMILIAR, at) for at, p in enumerate(below)}
            chosen = set(sorted(below, key=weight.__getitem__)[: room - 1 if not parent else room])
            return [p for p in below if p in chosen], [p for p in below if p not in chosen]

        self.boxes[()], self.hidden[()] = pick((), _TOPS)
        room = 3  # nested boxes in the whole picture
        for top in list(self.boxes[()]):
            inner, rest = pick(top, min(_NESTED, room))
            room -= len(inner)
            self.boxes[top], self.hidden[top] = inner, rest
            for path in inner:
                self.boxes[path] = []
                self.hidden[path] = pick(path, 0)[1]

    def home(self, path: Path) -> str:
        """The key of the box in which a context is drawn."""
        if not path:
            return "run"
        if path[:1] not in self.boxes:
            return MORE if path[:1] in self.contexts else "run"
        while path not in self.boxes:
            path = path[:-1]
        return box_key(path)

    def homes(self) -> list[tuple[str, Path]]:
        """Boxes of contexts in the order in which they are drawn: (key, path)."""
        made: list[tuple[str, Path]] = [("run", ())]
        for top in self.boxes[()]:
            made.append((box_key(top), top))
            made += [(box_key(inner), inner) for inner in self.boxes[top]]
        if self.hidden[()]:
            made.append((MORE, ()))
        return made

    # ------------------------------------------------------------------------- things

    def artifacts(self) -> Iterator[tuple[Producer, ev.Artifact]]:
        for p in self.clients:
            for a in p.artifacts:
                yield p, a

    def digest(self, p: Producer, a: ev.Artifact) -> str:
        stored = self.state.stored.get((p.id, a.n))
        return (stored.sha256 or "") if stored else ""

    def size(self, p: Producer, a: ev.Artifact) -> int | None:
        stored = self.state.stored.get((p.id, a.n))
        return stored.size if stored and stored.size is not None else a.size

    def trouble(self, p: Producer, a: ev.Artifact) -> str:
        """Why the bytes of an occurrence are not there."""
        stored = self.state.stored.get((p.id, a.n))
        if stored is None:
            return str(a.attributes.get("notStored", ""))
        return (stored.error or "") if stored.sha256 is None else ""
