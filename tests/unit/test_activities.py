"""Activities: what is done in them, how functions become one, and what cannot be claimed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prov4ml import activities, contexts, known, params
from prov4ml import events as ev
from prov4ml.errors import UsageError
from prov4ml.references import Reference
from prov4ml.testing.recording import Recording


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path)
    yield made
    made.close()


@pytest.fixture
def activity(book: Recording) -> Callable[..., Any]:
    """As ``Run.activity``."""

    def make(name: Any = None, /, *, context: str | None = None, **parameters: Any) -> Any:
        return activities.activity(lambda: book.to, name, context, parameters)

    return make


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.txt"
    path.write_text("raw")
    return path


def links(book: Recording) -> list[tuple[int, str, int]]:
    return [(e.n, e.use, e.activity) for e in book.of(ev.Linked)]


def did(book: Recording) -> list[tuple[str, str, int]]:
    """(name, use, activity) of the occurrences."""
    return [(e.name, e.use, e.activity) for e in book.of(ev.Artifact)]


def told(book: Recording) -> list[tuple[int, str, int, str]]:
    """(number, name, parent, status) of what was said of activities."""
    return [(e.n, e.name, e.parent, e.status) for e in book.of(ev.Activity)]


Make = Callable[..., Any]


# -------------------------------------------------------------------------------- blocks


def test_a_block_says_when_it_starts_and_how_it_ends(book: Recording, activity: Make) -> None:
    """Two events: the second has its status and repeats what the first one said."""
    with contexts.context(book.to, "training"), activity("tokenise"):
        book.log_metric("loss", 0.5)
    start, end = book.of(ev.Activity)
    assert told(book) == [(1, "tokenise", 0, "running"), (1, "tokenise", 0, "finished")]
    assert start.context == end.context == ("training",)
    assert start.started is None
    assert end.started == start.time <= end.time


def test_an_exception_is_the_status_and_passes(book: Recording, activity: Make) -> None:
    """The error's class and text stand in the event; the exception is the user's own."""
    with pytest.raises(ValueError, match="bad row") as caught, activity("tokenise"):
        raise ValueError("bad row")
    assert caught.value.__context__ is None
    end = book.of(ev.Activity)[-1]
    assert (end.status, end.error_type, end.error_message) == ("failed", "ValueError", "bad row")
    assert book.to.activity() == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(0), "finished"),
        (SystemExit(None), "finished"),
        (SystemExit(3), "failed"),
        (KeyboardInterrupt(), "failed"),
    ],
    ids=repr,
)
def test_ways_to_leave(book: Recording, activity: Make, error: BaseException, status: str) -> None:
    """An exit without a code is no failure."""
    with pytest.raises(type(error)), activity("a"):
        raise error
    assert book.of(ev.Activity)[-1].status == status


def test_what_is_logged_inside_is_done_by_it(book: Recording, activity: Make, raw: Path) -> None:
    """Files, datasets and splits; before, after and in a nested one by whom it is due."""
    book.save(raw)
    with activity("outer"):
        book.save(raw, used=True)
        with activity("inner"):
            book.data([1, 2], "rows", "training")
        book.save(raw)
    book.save(raw)
    assert did(book) == [
        ("raw.txt", "generated", 0),
        ("raw.txt", "used", 1),
        ("rows", "used", 2),
        ("raw.txt", "generated", 1),
        ("raw.txt", "generated", 0),
    ]
    assert [s.activity for s in book.of(ev.Split)] == [2]
    assert told(book)[:2] == [(1, "outer", 0, "running"), (2, "inner", 1, "running")]


def test_parameters_are_those_of_the_activity(
    book: Recording, activity: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Any values, exactly; another activity may have others, and the run's own are apart."""
    params.log_param(book.to, "vocab", 1)
    with activity("a", vocab=2, name="x", self=None, sizes=[1, 2], big="long " * 300):
        params.log_param(book.to, "vocab", 1)
    with activity("a", vocab=3):
        pass
    found = [(p.key, p.datatype, p.value, p.activity) for p in book.of(ev.Param)]
    assert found[:5] == [
        ("vocab", "int", "1", 0),
        ("vocab", "int", "2", 1),
        ("name", "str", "x", 1),
        ("self", "none", "", 1),
        ("sizes", "json", "[1,2]", 1),
    ]
    assert found[6:] == [("vocab", "int", "1", 0), ("vocab", "int", "3", 2)]
    (side,) = book.of(ev.Artifact)
    assert (side.kind, book.of(ev.Param)[5].artifact) == ("parameter", side.n)
    assert caplog.records == []  # nothing is a second value of anything


def test_a_context_is_the_default_of_the_calls_inside(
    book: Recording, activity: Make, raw: Path
) -> None:
    """As in ``with context(...)``; afterwards the one from before."""
    with activity("a", context="preparation"):
        book.save(raw)
    book.save(raw)
    assert [a.context for a in book.of(ev.Artifact)] == [("preparation",), ()]
    assert {a.context for a in book.of(ev.Activity)} == {("preparation",)}


def test_an_epoch_inside_does_what_is_logged_in_it(
    book: Recording, activity: Make, raw: Path
) -> None:
    """Where the epoch is an activity; one inside the epoch does it itself."""
    with activity("outer"):
        with contexts.epoch(book.to, 0, True):
            book.save(raw)
            with activity("inner"):
                book.save(raw)
        with contexts.epoch(book.to, 1, False):
            book.save(raw)
    assert [a.activity for a in book.of(ev.Artifact)] == [0, 2, 1]
    doings = book.folded().doings
    assert doings.within == {("artifact", 1): ((), 0)}
    assert doings.works[2].epoch == ((), 0)


def test_an_open_block_cannot_be_entered_again(book: Recording, activity: Make) -> None:
    """One object is one activity at a time; afterwards it may be another one."""
    block = activity("a")
    with block, pytest.raises(UsageError, match="this activity is open"), block:
        pass
    with block:
        pass
    assert [e.n for e in book.of(ev.Activity)] == [1, 1, 2, 2]


def test_threads_do_not_work_for_each_other(book: Recording, activity: Make, raw: Path) -> None:
    """What another thread logs meanwhile is not done by the activity."""
    with activity("a"):
        thread = threading.Thread(target=book.save, args=(raw,))
        thread.start()
        thread.join(60)
        book.save(raw)
    assert [a.activity for a in book.of(ev.Artifact)] == [0, 1]


def test_runs_do_not_work_for_each_other(tmp_path: Path, raw: Path) -> None:
    """An activity of one run has nothing to do with what is logged into another."""
    one, other = Recording(tmp_path / "1"), Recording(tmp_path / "2")
    try:
        with (
            activities.activity(lambda: one.to, "a", None, {}),
            activities.activity(lambda: other.to, "b", None, {}),
        ):
            one.save(raw)
            other.save(raw)
        for book in (one, other):
            assert [a.activity for a in book.of(ev.Artifact)] == [1]
            assert {e.parent for e in book.of(ev.Activity)} == {0}
    finally:
        one.close()
        other.close()


def test_a_forked_child_does_nothing_of_its_parents(
    book: Recording, activity: Make, raw: Path
) -> None:
    """Numbers are counted anew there, so those of its parent mean nothing."""
    with activity("a"):
        book.save(raw)
        book.journal.who = msgspec.structs.replace(
            book.journal.who, producer=b"c" * 16, parent=book.producer
        )
        book.to.restart()  # what a fork does in the child
        assert book.to.activity() == 0
        raw.unlink()
        with activity("b") as inner:
            assert (inner.n, book.of(ev.Activity)[-1].parent) == (1, 0)
            with pytest.raises(UsageError, match="was logged by another process or run"):
                inner.used("raw.txt")


# -------------------------------------------------------------------- used and generated


def test_paths_become_occurrences(book: Recording, activity: Make, raw: Path) -> None:
    """As text or path, kept or referred to; a folder as the files in it."""
    folder = raw.parent / "folder"
    folder.mkdir()
    (folder / "x").write_text("x")
    with activity("a") as a:
        a.used(raw)
        a.generated(str(folder), copy=False)
    assert did(book) == [
        ("raw.txt", "used", 1),
        ("folder", "generated", 1),
        ("folder/x", "generated", 1),
    ]
    kept, _, referred = book.of(ev.Artifact)
    assert kept.incoming is not None
    assert referred.incoming is None
    assert links(book) == []


def test_a_file_that_has_not_changed_is_the_same_thing(
    book: Recording, activity: Make, raw: Path
) -> None:
    """Made in one activity and used in others: one occurrence; written anew, it is another."""
    with activity("a") as a:
        a.generated(raw)
    with activity("b") as b:
        b.used(raw)
    with activity("c") as c:
        c.used(os.path.relpath(raw))
    raw.write_text("other")
    with activity("d") as d:
        d.used(raw)
    assert did(book) == [("raw.txt", "generated", 1), ("raw.txt", "used", 4)]
    assert links(book) == [(1, "used", 2), (1, "used", 3)]


def test_a_folder_that_has_not_changed_is_the_same_thing(
    book: Recording, activity: Make, tmp_path: Path
) -> None:
    """As many files, each of them the same; one more, or one written anew, and it is another."""
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for name in ("x", "deep/y"):
        (folder / name).write_text(name)
    with activity("a") as a:
        a.generated(folder)
    with activity("b") as b:
        b.used(str(folder))
        b.used(folder / "x")
    assert links(book) == [(1, "used", 2), (3, "used", 2)]
    (folder / "z").write_text("z")
    with activity("c") as c:
        c.used(folder)
    assert [name for name, _, n in did(book) if n == 3] == [
        "folder",
        "folder/deep/y",
        "folder/x",
        "folder/z",
    ]
    (folder / "x").write_text("other")
    with activity("d") as d:
        d.used(folder)
    assert sum(n == 4 for _, _, n in did(book)) == 4


def test_urls_and_patterns(book: Recording, activity: Make, tmp_path: Path) -> None:
    """A URL is a reference, the second time the same one; a pattern the files that match."""
    for name in ("a.txt", "b.txt", "c.bin"):
        (tmp_path / name).write_text(name)
    with activity("a") as a:
        a.used("https://data.example/raw.csv", str(tmp_path / "*.txt"))
    with activity("b") as b:
        b.used("https://data.example/raw.csv")
    assert [name for name, _, n in did(book) if n == 1] == [
        "raw.csv",
        "*.txt",
        "*.txt/a.txt",
        "*.txt/b.txt",
    ]
    assert links(book) == [(1, "used", 2)]


def test_names_and_results_of_log_calls(book: Recording, activity: Make, raw: Path) -> None:
    """A name means the last thing of it; what a call returned means that occurrence."""
    first = book.save(raw)
    book.data([1, 2], "rows")
    raw.unlink()
    with activity("a") as a:
        a.used("raw.txt", "rows", first)
    assert links(book) == [(1, "used", 1), (2, "used", 1), (1, "used", 1)]


def test_what_another_call_logged_can_be_claimed(
    book: Recording, activity: Make, raw: Path
) -> None:
    """What the activity itself logged needs no claim; what was logged while it went on has one."""
    with activity("a") as a:
        book.save(raw)
        a.generated(raw)
        thread = threading.Thread(target=book.data, args=([1, 2], "rows"))
        thread.start()
        thread.join(60)
        a.generated("rows")
        a.generated("rows")
        with activity("b") as b, pytest.raises(UsageError, match="made by another activity"):
            b.generated(raw)
    assert links(book) == [(2, "generated", 1)]


@pytest.mark.parametrize("what", ["path", "name", "handle"])
def test_nothing_is_made_before_the_activity_began(
    book: Recording, activity: Make, raw: Path, what: str
) -> None:
    """A claim that cannot be is refused, by whatever it is named; its use can be said."""
    made = book.save(raw)
    thing: Any = {"path": raw, "name": "raw.txt", "handle": made}[what]
    if what == "name":
        raw.unlink()
    with activity("a") as a:
        with pytest.raises(UsageError, match=r"'raw\.txt' was logged before the activity 'a'"):
            a.generated(thing)
        a.used(thing)
    assert links(book) == [(1, "used", 1)]


def test_an_outer_activity_can_be_told_from_inside_another(
    book: Recording, activity: Make, raw: Path
) -> None:
    """``outer.used(...)`` is outer's, whatever is open; and its context too."""
    with activity("outer", context="one") as outer, activity("inner", context="two"):
        outer.used(raw)
    (file,) = book.of(ev.Artifact)
    assert (file.activity, file.context) == (1, ("one",))


@pytest.mark.parametrize(
    ("thing", "kind", "words"),
    [
        ("missing.txt", UsageError, r"there is no file 'missing\.txt', and nothing was logged"),
        (Path("missing.txt"), UsageError, "there is no file"),
        (None, TypeError, "must be a path, a name or what a log call returned, not NoneType"),
        (3, TypeError, "not int"),
        (b"bytes", TypeError, "not bytes"),
        ("no\0path", UsageError, "there is no file"),
        (
            Reference(1, "a", "artifact", "r", "https://w3id.org/prov4ml/run/r/artifact/1"),
            UsageError,
            "'a' was logged by another process or run",
        ),
    ],
    ids=repr,
)
def test_wrong_things_are_told(
    book: Recording, activity: Make, thing: Any, kind: type[Exception], words: str
) -> None:
    """By ``used`` and ``generated`` alike; nothing is written."""
    with activity("a") as a:
        with pytest.raises(kind, match=words):
            a.used(thing)
        with pytest.raises(kind, match=words):
            a.generated(thing)
    assert len(book.events) == 2


def test_an_activity_that_has_ended_does_nothing_more(
    book: Recording, activity: Make, raw: Path
) -> None:
    """Naming things afterwards is an error, and what is logged then is not done by it."""
    with activity("a") as a:
        pass
    with pytest.raises(UsageError, match="the activity 'a' has ended"):
        a.used(raw)


def test_the_memory_of_things_is_bounded(
    book: Recording, activity: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is forgotten can still be used; nobody can claim it."""
    monkeypatch.setattr(known, "MOST", 10)
    made = []
    for n in range(20):
        file = tmp_path / f"f{n}"
        file.write_text("x")
        made.append(book.save(file))
    assert len(book.to.known._numbers) == len(book.to.known._paths) == 10
    with activity("a") as a:
        a.used(made[0], "f0", tmp_path / "f19")
        with pytest.raises(UsageError, match="was logged before the activity"):
            a.generated(made[0])
    assert links(book) == [(1, "used", 1), (1, "used", 1), (20, "used", 1)]


# ---------------------------------------------------------------------------- decorators


def test_each_call_of_a_function_is_an_activity(book: Recording, activity: Make, raw: Path) -> None:
    """With its own name or another, with parameters, its result and its signature kept."""

    @activity
    def clean(x: int, *, y: int = 2) -> int:
        """Cleans."""
        book.save(raw)
        return x + y

    @activity("named", level=3)
    def other() -> None: ...

    @activity()
    def third() -> None: ...

    assert (clean(1), clean(2, y=3)) == (3, 5)
    other()
    third()
    assert (clean.__name__, clean.__doc__) == ("clean", "Cleans.")
    assert [(n, name) for n, name, _, status in told(book) if status == "finished"] == [
        (1, "clean"),
        (2, "clean"),
        (3, "named"),
        (4, "third"),
    ]
    assert [a.activity for a in book.of(ev.Artifact)] == [1, 2]
    assert [(p.key, p.activity) for p in book.of(ev.Param)] == [("level", 3)]


def test_a_function_may_call_itself(book: Recording, activity: Make) -> None:
    """Each call is part of the one around it."""

    @activity
    def down(n: int) -> None:
        if n:
            down(n - 1)

    down(2)
    assert told(book)[:3] == [(n, "down", n - 1, "running") for n in (1, 2, 3)]


def test_methods_keep_their_object(book: Recording, activity: Make) -> None:
    """Below ``@classmethod`` too."""

    class Step:
        @activity
        def run(self) -> Step:
            return self

        @classmethod
        @activity
        def make(cls) -> type[Step]:
            return cls

    step = Step()
    assert step.run() is step
    assert Step.make() is Step


def test_a_generator_works_in_its_steps_only(book: Recording, activity: Make, raw: Path) -> None:
    """What its consumer logs between the steps is not done by it; values go in and out as ever."""

    @activity
    def rows() -> Generator[int, str, str]:
        book.save(raw)
        got = yield 1
        book.save(raw)
        try:
            yield int(got)
        except KeyError:
            book.save(raw)
            yield 3
        return "over"

    def consume() -> Generator[int, str, None]:
        result.append((yield from rows()))

    result: list[str] = []
    steps = consume()
    assert told(book) == []  # it begins with its first step
    assert next(steps) == 1
    book.save(raw)
    assert steps.send("2") == 2
    book.save(raw)
    assert steps.throw(KeyError()) == 3
    with pytest.raises(StopIteration):
        next(steps)
    assert result == ["over"]
    assert [a.activity for a in book.of(ev.Artifact)] == [1, 0, 1, 0, 1]
    assert told(book) == [(1, "rows", 0, "running"), (1, "rows", 0, "finished")]


@pytest.mark.parametrize("how", ["closed", "raised", "thrown"])
def test_how_a_generator_ends(book: Recording, activity: Make, how: str) -> None:
    """Closed early is finished; an error, its own or thrown in, is a failure."""
    cleaned = []

    @activity
    def rows() -> Iterator[int]:
        try:
            yield 1
            raise ValueError("bad")
        finally:
            cleaned.append(book.to.activity())

    steps: Any = rows()
    next(steps)
    if how == "closed":
        steps.close()
    elif how == "raised":
        with pytest.raises(ValueError, match="bad"):
            next(steps)
    else:
        with pytest.raises(OSError, match="gone"):
            steps.throw(OSError("gone"))
    status = {"closed": None, "raised": "ValueError", "thrown": "OSError"}[how]
    assert book.of(ev.Activity)[-1].error_type == status
    assert told(book)[-1][3] == ("finished" if how == "closed" else "failed")
    assert cleaned == [1]
    assert book.to.activity() == 0


def test_coroutines_run_side_by_side(book: Recording, activity: Make, raw: Path) -> None:
    """Tasks at work at once do their own things, in the order of an event loop."""

    @activity
    async def fetch(first: asyncio.Event, second: asyncio.Event) -> int:
        first.set()
        await second.wait()
        book.save(raw)
        return book.to.activity()

    async def main() -> list[int]:
        one, two = asyncio.Event(), asyncio.Event()
        found = await asyncio.gather(fetch(one, two), fetch(two, one))
        assert book.to.activity() == 0
        return list(found)

    assert asyncio.run(main()) == [1, 2]
    assert sorted(a.activity for a in book.of(ev.Artifact)) == [1, 2]
    assert asyncio.iscoroutinefunction(fetch)


def test_without_a_run_functions_are_called_plainly(tmp_path: Path) -> None:
    """All kinds of them; a block says what to do."""

    def decorate(function: Any) -> Any:
        return activities.activity(lambda: None, "a", None, {})(function)

    @decorate
    def plain() -> int:
        return 1

    @decorate
    def steps() -> Iterator[int]:
        yield 1

    @decorate
    async def later() -> int:
        return 1

    assert plain() == 1
    assert list(steps()) == [1]
    assert asyncio.run(later()) == 1
    with (
        pytest.raises(UsageError, match="call start_run first"),
        activities.activity(lambda: None, "a", None, {}),
    ):
        pass


async def _rows() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (_rows, "cannot decorate an async generator"),
        (int, "decorates functions, not a type"),
        (staticmethod(print), "not a staticmethod: put it on the function"),
        (3, "not a int"),
    ],
    ids=["async generator", "class", "staticmethod", "number"],
)
def test_what_cannot_be_decorated_is_told(activity: Make, thing: Any, words: str) -> None:
    """At once, by its kind."""
    with pytest.raises(TypeError, match=words):
        activity("a")(thing)


@pytest.mark.parametrize(
    ("arguments", "keywords", "kind", "words"),
    [
        (("",), {}, UsageError, "name must not be empty"),
        (("a",), {"context": ""}, UsageError, "context must not be empty"),
        (("a",), {"context": 3}, TypeError, "context must be a string"),
    ],
)
def test_wrong_arguments_are_told(
    book: Recording,
    activity: Make,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    kind: type[Exception],
    words: str,
) -> None:
    """Before anything is written."""
    with pytest.raises(kind, match=words):
        activity(*arguments, **keywords)
    assert book.events == []


def test_a_block_needs_a_name(book: Recording, activity: Make) -> None:
    """Only a function has one of its own."""
    with pytest.raises(TypeError, match="must be given a name"), activity():
        pass


def test_a_run_that_ends_inside_ends_its_activities_quietly(
    book: Recording, activity: Make
) -> None:
    """Leaving the block raises nothing, and the generator of a run that is over may be closed."""

    @activity
    def rows() -> Iterator[int]:
        yield 1

    steps: Any = rows()
    next(steps)
    with activity("a"):
        book.journal.end()
    steps.close()
