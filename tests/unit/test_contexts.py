"""Contexts and epochs: what the events say, and what it costs the metric call (nothing)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prov4ml import contexts
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.testing.recording import Recording


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path)
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.txt"
    path.write_text("data")
    return path


def epochs(book: Recording) -> list[int | None]:
    """The epochs of the occurrences, in order, as the fold has them."""
    return [a.epoch for a in book.folded().artifacts]


# ------------------------------------------------------------------------------- epochs


def test_an_epoch_says_where_it_begins_and_ends(book: Recording) -> None:
    """Two events with its number, its context and nothing else."""
    with contexts.context(book.to, "training"), contexts.epoch(book.to, 3, False):
        pass
    start, end = book.events[1:3]
    assert (type(start), start.epoch, start.context) == (ev.EpochStarted, 3, ("training",))
    assert (type(end), end.epoch, end.context) == (ev.EpochEnded, 3, ("training",))
    assert start.activity is False
    assert start.time <= end.time


def test_points_in_an_epoch_are_written_as_ever(book: Recording) -> None:
    """A point with a step takes 34 bytes inside an epoch and outside, and names no epoch."""
    sizes = []
    for number in (None, 1, 2):
        scope = contexts.epoch(book.to, number, True) if number is not None else _Nothing()
        with scope:
            book.log_metric("loss", 0.5, "training", 1)
            before = book.journal.position
            book.log_metric("loss", 0.5, "training", 2)
            sizes.append(book.journal.position - before)
    assert sizes == [34, 34, 34]
    assert {p.epoch for p in book.of(ev.Point)} == {None}


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_occurrences_belong_to_the_innermost_epoch(book: Recording, file: Path) -> None:
    """Epochs in contexts, contexts in epochs, epochs in epochs; and none outside."""
    to = book.to
    book.save(file)  # None
    with contexts.epoch(to, 1, False):
        book.save(file)  # 1: of no context, so it is around every one
        with contexts.context(to, "training"):
            book.save(file)  # 1
            with contexts.epoch(to, 7, False):
                book.save(file)  # 7
                with contexts.context(to, "warm-up"):
                    book.save(file)  # 7
                book.save(file, "validation")  # 1: the epoch of training is not around it
            book.save(file)  # 1
    book.save(file)  # None
    assert epochs(book) == [None, 1, 1, 7, 7, 1, 1, None]


def test_the_same_number_twice(book: Recording, file: Path) -> None:
    """One inside the other, and one after the other: leaving one leaves the other open."""
    to = book.to
    with contexts.epoch(to, 4, False):
        with contexts.epoch(to, 4, False):
            book.save(file)
        book.save(file)
    book.save(file)
    with contexts.epoch(to, 4, False):
        book.save(file)
    assert epochs(book) == [4, 4, None, 4]


def test_an_exception_leaves_the_epoch_and_passes(book: Recording, file: Path) -> None:
    """What is logged afterwards belongs to no epoch."""
    with pytest.raises(UsageError, match="no file"), contexts.epoch(book.to, 4, True):
        book.save(file.parent / "missing")
    assert isinstance(book.events[-1], ev.EpochEnded)
    book.save(file)
    assert epochs(book) == [None]


def test_threads_have_epochs_of_their_own_contexts(book: Recording, file: Path) -> None:
    """Two threads in two contexts, at work at once, each in its own epochs."""
    together = threading.Barrier(2, timeout=30)
    failed: list[BaseException] = []

    def work(name: str, first: int) -> None:
        try:
            with contexts.context(book.to, name):
                for number in range(first, first + 20):
                    with contexts.epoch(book.to, number, False):
                        together.wait()
                        book.save(file)
                        together.wait()
        except BaseException as error:  # shown below
            failed.append(error)

    threads = [threading.Thread(target=work, args=args) for args in (("a", 0), ("b", 100))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    found = book.folded().artifacts
    assert [a.epoch for a in found if a.context == ("a",)] == list(range(20))
    assert [a.epoch for a in found if a.context == ("b",)] == list(range(100, 120))


def test_an_epoch_that_an_event_names_wins(book: Recording) -> None:
    """A foreign producer may say the epoch itself."""
    to = book.to
    with contexts.epoch(to, 4, False):
        to.append(ev.Artifact(to.now(), to.number(), "artifact", "a", epoch=9))
        to.append(ev.Artifact(to.now(), to.number(), "artifact", "b"))
    assert epochs(book) == [9, 4]


def test_what_is_recorded_in_the_background_has_no_epoch(book: Recording) -> None:
    """The environment, and side files of parameters, are the run's own."""
    to = book.to
    with contexts.epoch(to, 0, True):
        for kind in ("environment", "parameter", "artifact"):
            to.append(ev.Artifact(to.now(), to.number(), kind, kind, use="used"))
    assert epochs(book) == [None, None, 0]
    assert list(book.folded().doings.within) == [("artifact", 3)]


@pytest.mark.parametrize("number", [0, -1, (1 << 63) - 1, True, 3.0])
def test_any_whole_number_is_an_epoch(book: Recording, number: Any) -> None:
    """Negative, large, of another type: kept as the integer it is."""
    with contexts.epoch(book.to, number, False):
        pass
    assert book.of(ev.EpochStarted)[0].epoch == int(number)


@pytest.mark.parametrize(
    ("number", "activity", "kind", "words"),
    [
        ("3", False, TypeError, "number must be an integer, not str"),
        (3.5, False, TypeError, "number must be an integer, not 3.5"),
        (1 << 63, False, UsageError, "does not fit into 64 bits"),
        (3, 1, TypeError, "activity must be True or False, not int"),
    ],
)
def test_wrong_epochs_are_told_and_leave_nothing(
    book: Recording, number: Any, activity: Any, kind: type[Exception], words: str
) -> None:
    """The error names the argument, and no event is written."""
    with pytest.raises(kind, match=words), contexts.epoch(book.to, number, activity):
        pass
    assert book.events == []


def test_a_run_that_ends_inside_ends_its_epochs_quietly(book: Recording) -> None:
    """Leaving contexts and epochs of a run that is over raises nothing."""
    with contexts.context(book.to, "training"), contexts.epoch(book.to, 1, True):
        book.journal.end()


# ----------------------------------------------------------------------------- log_context


def test_a_declared_context_stands_under_its_parent(book: Recording, file: Path) -> None:
    """Its flat name means the nested one in every later call, and in ``with context``."""
    to = book.to
    contexts.log_context(to, "warm-up", "training")
    contexts.log_context(to, "first", "warm-up")
    book.log_metric("loss", 0.5, "first", 1)
    book.log_metric("loss", 0.5, "first", 2)
    book.save(file, "warm-up")
    with contexts.context(to, "warm-up"):
        book.log_metric("lr", 0.5)
        book.log_metric("lr", 0.5)
        with contexts.epoch(to, 1, False):
            book.save(file)
    deep = ("training", "warm-up", "first")
    assert [(s.name, s.context) for s in book.of(ev.SeriesDefined)] == [
        ("loss", deep),
        ("lr", deep[:2]),
    ]
    assert [a.context for a in book.of(ev.Artifact)] == [deep[:2], deep[:2]]
    assert book.of(ev.EpochStarted)[0].context == deep[:2]
    assert {len(p.context) for p in book.of(ev.ContextEnded)} == {2}
    assert epochs(book) == [None, 1]
    assert list(book.folded().contexts) == [deep[:1], deep[:2], deep]


def test_points_before_the_declaration_stay_where_they_were(book: Recording) -> None:
    """Later calls of the same metric go to the nested context, on the short way too."""
    for _ in range(3):
        book.log_metric("loss", 0.5, "warm-up", 1)
    contexts.log_context(book.to, "warm-up", "training")
    for _ in range(3):
        book.log_metric("loss", 0.5, "warm-up", 1)
    flat, deep = book.of(ev.SeriesDefined)
    assert (flat.context, deep.context) == (("warm-up",), ("training", "warm-up"))
    assert [p.series for p in book.of(ev.Point)] == [flat.series] * 3 + [deep.series] * 3


def test_a_name_inside_another_context_is_not_moved(book: Recording) -> None:
    """Only a path that begins with the declared name is put under its parent."""
    contexts.log_context(book.to, "warm-up", "training")
    with contexts.context(book.to, "testing"), contexts.context(book.to, "warm-up"):
        book.log_metric("loss", 0.5)
    assert book.of(ev.SeriesDefined)[0].context == ("testing", "warm-up")


def test_a_context_can_be_declared_without_a_parent(book: Recording) -> None:
    """Then it is known, and so it is when declared again."""
    contexts.log_context(book.to, "warm-up", None)
    contexts.log_context(book.to, "warm-up", "training")
    contexts.log_context(book.to, "warm-up", "training")
    contexts.log_context(book.to, "warm-up", None)
    assert list(book.folded().contexts) == [("warm-up",), ("training",), ("training", "warm-up")]


@pytest.mark.parametrize(
    ("calls", "kind", "words"),
    [
        ([("a", "a")], UsageError, "is_subcontext_of: 'a' is 'a', or stands under it"),
        ([("a", "b"), ("b", "c"), ("c", "a")], UsageError, "is_subcontext_of"),
        ([("a", "b"), ("a", "c")], UsageError, "stands under 'b' already: it cannot move to 'c'"),
        ([("", None)], UsageError, "context must not be empty"),
        ([(3, None)], TypeError, "context must be a string"),
        ([("a", 3)], TypeError, "is_subcontext_of must be a string"),
    ],
)
def test_wrong_declarations_are_told(
    book: Recording, calls: list[tuple[Any, Any]], kind: type[Exception], words: str
) -> None:
    """A circle, a second parent, what is no name: the argument is named, the call has no effect."""
    for name, parent in calls[:-1]:
        contexts.log_context(book.to, name, parent)
    before = dict(book.to.parents)
    with pytest.raises(kind, match=words):
        contexts.log_context(book.to, *calls[-1])
    assert book.to.parents == before
