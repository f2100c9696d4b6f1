"""Metrics of which one value is wanted: what is registered, what a callable sees, what is said."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prov4ml import aggregates, contexts
from prov4ml import events as ev
from prov4ml.aggregates import FoldOperation
from prov4ml.errors import UsageError
from prov4ml.model import document, statements
from prov4ml.provdm import Element
from prov4ml.state import RunState, apply
from prov4ml.testing.constraints import violations
from prov4ml.testing.recording import Recording


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path)
    yield made
    made.close()


@pytest.fixture
def register(book: Recording) -> Callable[..., None]:
    """As ``Run.register_final_metric``."""

    def call(name: Any, initial: Any, fold: Any, context: Any = None) -> None:
        aggregates.register_final_metric(book.to, name, initial, fold, context)

    return call


Register = Callable[..., None]


def values(state: RunState) -> list[dict[str, Any]]:
    """The evaluations' attributes, and what they are derived from."""
    assert violations(document(state)) == []
    said = list(statements(state))
    found = []
    for s in said:
        if isinstance(s, Element) and ("prov:type", "mls:ModelEvaluation") in s.attributes:
            facts: dict[str, Any] = dict(s.attributes)
            facts["id"] = s.id.partition(":")[2]
            facts["from"] = [
                r.arguments[1].partition(":")[2]
                for r in said
                if not isinstance(r, Element)
                and r.kind == "wasDerivedFrom"
                and r.arguments[0] == s.id
                and r.arguments[1] is not None
            ]
            found.append(facts)
    return found


# ------------------------------------------------------------------------- built-in folds


@pytest.mark.parametrize(
    ("fold", "initial", "value", "step"),
    [
        ("MIN", 10, 1.0, 2),
        ("min", 0.5, 0.5, None),
        (" Max ", 0, 4.0, 1),
        (FoldOperation.MAX, 9, 9.0, None),
        (FoldOperation.MIN, math.nan, 1.0, 2),
        (FoldOperation.ADD, 0.5, 10.5, None),
        ("subtract", 20, 10.0, None),
        ("mean", 7, 2.5, None),
        ("last", 7, 2.0, 3),
        (min, 10, 1.0, 2),
        (max, 0, 4.0, 1),
        (operator.add, 0, 10.0, None),
        (operator.sub, 0, -10.0, None),
    ],
    ids=repr,
)
def test_built_in_folds(
    book: Recording, register: Register, fold: Any, initial: Any, value: float, step: int | None
) -> None:
    """Names in any case, members, and the functions that are the same; with the best step."""
    register("loss", initial, fold)
    with contexts.epoch(book.to, 6, False):
        for n, number in enumerate((3.0, 4.0, 1.0, 2.0)):
            book.log_metric("loss", number, "training", n)
    (found,) = values(book.state())
    name = fold if isinstance(fold, str) else getattr(fold, "__name__", None) or fold.value
    word = {"sub": "subtract"}.get(name, name.strip().lower())
    assert found["prov:value"] == value
    assert found["p4:fold"] == word
    assert found["p4:count"] == 4
    assert found.get("p4:step") == step
    assert found.get("p4:epoch") == (6 if step is not None and word != "last" else None)
    assert found["from"] == ["attempt/1/rank/0/context/training/series/loss"]
    assert found["id"] == f"final/loss/{word}"


def test_a_metric_without_points_has_its_initial_value(register: Register, book: Recording) -> None:
    """It says that nothing was counted, and is derived from nothing."""
    for fold in ("min", "max", "add", "subtract", "mean", "last"):
        register("loss", 3, fold)
    found = values(book.state())
    assert {f["prov:value"] for f in found} == {3.0}
    assert [(f["p4:count"], f["from"]) for f in found] == [(0, [])] * 6


def test_nan_is_left_out(register: Register, book: Recording) -> None:
    """Of sums, means and extremes."""
    for fold in ("min", "add", "mean"):
        register("loss", 10, fold)
    for number in (math.nan, 3.0, math.nan):
        book.log_metric("loss", number)
    assert [f["prov:value"] for f in values(book.state())] == [3.0, 13.0, 3.0]


def test_points_of_every_context_or_of_one(register: Register, book: Recording) -> None:
    """Without a context all points of the name count; a declared context is the nested one."""
    contexts.log_context(book.to, "warm-up", "training")
    register("loss", 0, "add")
    register("loss", 0, "add", "warm-up")
    book.log_metric("loss", 1.0, "warm-up")
    book.log_metric("loss", 2.0, "validation", source="here")
    book.log_metric("other", 4.0)
    everything, one = values(book.state())
    assert (everything["prov:value"], len(everything["from"])) == (3.0, 2)
    assert (one["prov:value"], one["id"]) == (1.0, "final/loss/add/context/training/warm-up")
    assert one["from"] == ["attempt/1/rank/0/context/training/warm-up/series/loss"]


def test_built_in_folds_leave_the_metric_call_alone(register: Register, book: Recording) -> None:
    """The short way is taken after the first point: 34 bytes, no definition."""
    register("loss", 10, "min")
    book.log_metric("loss", 0.5, None, 1)
    assert book.to.metrics[1] == {None: {"loss": book.to.metrics[1][None]["loss"]}}


def streams(
    tmp_path: Path, count: int, log: Callable[[Recording, int], None], attempts: int = 1
) -> RunState:
    """The fold of several ranks (and attempts), each with a recording of its own."""
    state = RunState()
    for attempt in range(1, attempts + 1):
        for rank in range(count):
            book = Recording(tmp_path / f"{attempt}-{rank}", b"%08d%08d" % (attempt, rank))
            try:
                log(book, rank)
                apply(state, book.producer, 0, book.stream(rank, attempt))
            finally:
                book.close()
    return state


def test_ranks_are_folded_together(tmp_path: Path) -> None:
    """One entity over all ranks, with the initial value once and the rank's best step."""

    def log(book: Recording, rank: int) -> None:
        for fold in ("min", "add"):
            aggregates.register_final_metric(book.to, "loss", 100, fold, None)
        for step in range(3):
            book.log_metric("loss", float(10 * rank + step), None, step + rank)

    lowest, total = values(streams(tmp_path, 3, log))
    assert (lowest["prov:value"], lowest["p4:step"], lowest["p4:ranks"]) == (0.0, 0, 3)
    assert total["prov:value"] == 100 + 3 + 33 + 63
    assert len(lowest["from"]) == 3


def test_attempts_are_folded_together(tmp_path: Path) -> None:
    """Over what stands of each; derived from the series of all attempts."""

    def log(book: Recording, rank: int) -> None:
        aggregates.register_final_metric(book.to, "loss", 0, "add", None)
        book.log_metric("loss", 1.0, None, 1)

    (found,) = values(streams(tmp_path, 1, log, attempts=2))
    assert found["prov:value"] == 2.0
    assert found["from"] == [f"attempt/{k}/rank/0/series/loss" for k in (1, 2)]


# ------------------------------------------------------------------------------- callables


def test_a_callable_sees_each_point_of_its_metric(register: Register, book: Recording) -> None:
    """In order, as numbers, whatever way the point took; none of another metric or context."""
    seen: list[tuple[float, float]] = []

    def fold(before: float, value: float) -> float:
        seen.append((before, value))
        return before * 2 + value

    book.log_metric("loss", 9.0, "training")  # before it was registered
    register("loss", 1, fold)
    register("loss", 0, fold, "validation")
    for n, number in enumerate((1.0, 2, 3.0)):
        book.log_metric("loss", number, "training", n)
    book.log_metric("accuracy", 1.0, "training")
    book.log_metric("accuracy", 1.0, "training")
    book.to.finish()
    assert seen == [(1.0, 1.0), (3.0, 2.0), (8.0, 3.0)]
    said = book.of(ev.FinalMetric)
    assert [(f.n, f.value, f.count) for f in said] == [
        (1, None, 0),
        (2, None, 0),
        (1, 19.0, 3),
        (2, 0.0, 0),
    ]
    assert {f.fold for f in said} == {"callable"}
    one, other = values(book.state())
    assert one["prov:value"] == 19.0
    assert one["p4:fold"].endswith("test_a_callable_sees_each_point_of_its_metric.<locals>.fold")
    assert one["from"] == ["attempt/1/rank/0/context/training/series/loss"]
    assert (one["id"], other["id"]) == ("attempt/1/rank/0/final/1", "attempt/1/rank/0/final/2")
    assert (other["prov:value"], other["from"]) == (0.0, [])


def test_other_metrics_are_as_fast_as_before(register: Register, book: Recording) -> None:
    """Only the registered metric is looked at; the others have their prefix."""
    register("loss", 0, lambda before, value: before + value)
    for _ in range(2):
        book.log_metric("loss", 1.0, "training")
        book.log_metric("accuracy", 1.0, "training")
    assert list(book.to.metrics[1]["training"]) == ["accuracy"]


def test_multiply_is_computed_by_each_rank(tmp_path: Path) -> None:
    """One entity per rank, with its rank."""

    def log(book: Recording, rank: int) -> None:
        aggregates.register_final_metric(book.to, "x", 1, "MULTIPLY", None)
        for number in (2.0, 3.0 + rank):
            book.log_metric("x", number)
        book.to.finish()

    found = values(streams(tmp_path, 2, log))
    assert [(f["p4:rank"], f["prov:value"], f["p4:fold"]) for f in found] == [
        (0, 6.0, "multiply"),
        (1, 8.0, "multiply"),
    ]
    assert [f["from"] for f in found] == [[f"attempt/1/rank/{r}/series/x"] for r in (0, 1)]


def test_many_ranks_are_derived_from_the_series_of_all(tmp_path: Path) -> None:
    """Beyond 16 ranks each one's value comes from the one series that there is."""

    def log(book: Recording, rank: int) -> None:
        aggregates.register_final_metric(book.to, "x", 1, operator.mul, None)
        book.log_metric("x", 2.0)
        book.to.finish()

    found = values(streams(tmp_path, 17, log))
    assert len(found) == 17
    assert {tuple(f["from"]) for f in found} == {("attempt/1/series/x",)}


def test_a_callable_that_raises_stops_nobody(
    register: Register, book: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """Logging goes on, one warning is given, and the entity says why it has no value."""

    def bad(before: float, value: float) -> float:
        raise ValueError(f"no {value}")

    register("loss", 0, bad)
    for number in (1.0, 2.0):
        book.log_metric("loss", number)
    book.to.finish()
    assert [p.value for p in book.of(ev.Point)] == [1.0, 2.0]
    assert [r.getMessage() for r in caplog.records] == [
        "a final metric is not computed: its fold raised ValueError: no 1.0"
    ]
    (found,) = values(book.state())
    assert "prov:value" not in found
    assert found["p4:notEvaluated"] == "ValueError: no 1.0"


@pytest.mark.parametrize(
    ("result", "value", "words"),
    [
        (1 << 60, float(1 << 60), None),
        (1 << 5000, math.inf, None),
        (True, 1.0, None),
        ("high", None, "the fold gave no number: value must be a number, not str"),
        (None, None, "the fold gave no number"),
        ([1], None, "the fold gave no number"),
    ],
    ids=["large", "huge", "bool", "text", "nothing", "list"],
)
def test_what_a_callable_gives(
    register: Register, book: Recording, result: Any, value: float | None, words: str | None
) -> None:
    """Numbers are numbers; anything else is told."""
    register("loss", 0, lambda before, number: result)
    book.log_metric("loss", 1.0)
    book.to.finish()
    said = book.of(ev.FinalMetric)[-1]
    assert said.value == value
    assert (said.error is None) == (words is None)
    assert words is None or (said.error or "").startswith(words)


def test_a_process_that_dies_leaves_its_value_unsaid(register: Register, book: Recording) -> None:
    """The registration stands, and so does the reason."""
    register("loss", 0, lambda before, value: before + value)
    book.log_metric("loss", 1.0)
    state = book.state(ended=False)
    assert "p4:notEvaluated" not in values(state)[0]  # it may yet come
    apply(state, b"c" * 16, 0, [ev.RankEnded(book.to.now(), book.producer, "died", "pidfd")])
    assert values(state)[0]["p4:notEvaluated"].startswith("its process ended")


def test_each_point_counts_once_among_threads(register: Register, book: Recording) -> None:
    """Many threads log at once; no value is lost or taken twice."""
    register("loss", 0, lambda before, value: before + value)

    def work() -> None:
        for _ in range(500):
            book.log_metric("loss", 1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    book.to.finish()
    said = book.of(ev.FinalMetric)[-1]
    assert (said.value, said.count) == (4000.0, 4000)


def test_a_fold_that_is_interrupted_takes_the_value_later(
    register: Register, book: Recording
) -> None:
    """As a signal handler does that logs the same metric: no deadlock, nothing lost."""

    def fold(before: float, value: float) -> float:
        if value == 1.0:
            book.log_metric("loss", 2.0)
        return before + value

    register("loss", 0, fold)
    book.log_metric("loss", 1.0)
    book.to.finish()
    assert (book.of(ev.FinalMetric)[-1].value, len(book.of(ev.Point))) == (3.0, 2)


def test_a_forked_child_computes_nothing(register: Register, book: Recording) -> None:
    """It has no end of its own to say a value at."""
    register("loss", 0, lambda before, value: before + value)
    book.to.restart()
    book.log_metric("loss", 1.0)
    book.to.finish()
    assert len(book.of(ev.FinalMetric)) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("", 0, "min"), UsageError, "metric_name must not be empty"),
        ((3, 0, "min"), TypeError, "metric_name must be a string"),
        (("loss", "high", "min"), TypeError, "initial_value must be a number"),
        (("loss", 0, "median"), UsageError, "fold_operation median is unknown; known: ADD, "),
        (("loss", 0, 3), TypeError, "fold_operation must be a FoldOperation, its name or a func"),
        (("loss", 0, "min", 3), TypeError, "context must be a string"),
    ],
)
def test_wrong_arguments_are_told(
    register: Register, book: Recording, arguments: Any, kind: type[Exception], words: str
) -> None:
    """The error names the argument, and nothing is registered."""
    with pytest.raises(kind, match=words):
        register(*arguments)
    assert book.events == []
