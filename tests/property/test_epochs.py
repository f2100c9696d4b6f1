"""Whatever a script nests and however its log arrives: each thing belongs to the epoch around it.

Scripts are made up as trees of contexts, epochs and log calls; they run through the real calls
into a real journal.  What each call must belong to is told by the tree alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prov4ml import artifacts, contexts, wire
from prov4ml import events as ev
from prov4ml.eventlog import Frame
from prov4ml.feed import Chunks
from prov4ml.testing.recording import Recording
from prov4ml.testing.streams import Log, arrivals, folded

some = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Node = tuple[Any, ...]
_NAMES = st.sampled_from(("training", "validation"))


def scripts() -> st.SearchStrategy[list[Node]]:
    """("context", name, inside), ("epoch", number, activity, inside, raises), ("log", context)."""
    calls = st.tuples(st.just("log"), st.none() | _NAMES | st.just(("training", "warm-up")))

    def blocks(inside: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        some_inside = st.lists(inside, max_size=4)
        return st.one_of(
            st.tuples(st.just("context"), _NAMES, some_inside),
            st.tuples(
                st.just("epoch"), st.integers(0, 3), st.booleans(), some_inside, st.booleans()
            ),
        )

    return st.lists(st.recursive(calls, blocks, max_leaves=12), min_size=1, max_size=6)


class Runner:
    """Runs a script, and notes what each call must belong to."""

    def __init__(self, book: Recording, file: Path) -> None:
        self.book = book
        self.file = file
        self.points: dict[int, int | None] = {}  # by step
        self.files: list[int | None] = []
        self._open: list[tuple[tuple[str, ...], int]] = []

    def run(self, nodes: list[Node], path: tuple[str, ...] = ()) -> None:
        for node in nodes:
            if node[0] == "log":
                self._log(node[1], path)
            elif node[0] == "context":
                with contexts.context(self.book.to, node[1]):
                    self.run(node[2], (*path, node[1]))
            else:
                self._epoch(node, path)

    def _epoch(self, node: Node, path: tuple[str, ...]) -> None:
        _, number, activity, inside, raises = node
        self._open.append((path, number))
        try:
            with contexts.epoch(self.book.to, number, activity):
                self.run(inside, path)
                if raises:
                    raise KeyError
        except KeyError:
            pass
        self._open.pop()

    def _log(self, given: Any, path: tuple[str, ...]) -> None:
        at = path if given is None else (given,) if isinstance(given, str) else given
        depth, epoch = -1, None
        for context, number in self._open:
            if at[: len(context)] == context and len(context) >= depth:
                depth, epoch = len(context), number
        step = len(self.points)
        # The lowest of all so far, so that each is where the minimum of its series stands.
        self.book.log_metric("loss", -float(step), given, step)
        artifacts.log_artifact(
            self.book.to,
            self.file,
            None,
            given,
            step,
            is_input=False,
            copy=False,
            derived_from=None,
        )
        self.points[step] = epoch
        self.files.append(epoch)


@some
@given(st.data())
def test_everything_belongs_to_the_epoch_around_it(data: st.DataObject) -> None:
    """In the fold and for stream sinks; two processes, any interleaving, cut and repetition."""
    runners: dict[bytes, Runner] = {}
    log: Log = {}
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(data.draw(st.integers(1, 2))):
            producer = bytes([112 + rank]) * 16
            book = Recording(Path(folder) / str(rank), producer)
            file = Path(folder) / "data"
            file.write_text("data")
            runners[producer] = Runner(book, file)
            runners[producer].run(data.draw(scripts()))
            log[producer] = ((0, tuple(book.stream(rank))),)
            book.close()
    batches = data.draw(arrivals(log))
    state = folded(batches)
    for producer, runner in runners.items():
        p = state.producers[producer]
        assert [a.epoch for a in p.artifacts] == runner.files
        for series in p.series.values():
            assert series.minimum_at == (series.last_step, runner.points[series.last_step or 0])
    seen: dict[bytes, dict[int, int | None]] = {producer: {} for producer in runners}
    chunks = Chunks()
    for number, (producer, first, events) in enumerate(batches):
        encoded = b"".join(map(wire.encode, events))  # type: ignore[arg-type]  # no text in these
        batch = wire.array_header(len(events)) + encoded
        chunk = chunks.take(Frame(number, producer, first, len(events), batch))
        for event in chunk.events if chunk is not None else ():
            if isinstance(event, ev.Point):
                assert event.step is not None
                seen[producer][event.step] = event.epoch
            elif isinstance(event, ev.Artifact):
                assert event.epoch == runners[producer].points[event.step or 0]
    assert seen == {producer: runner.points for producer, runner in runners.items()}
