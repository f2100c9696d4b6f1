"""The metric call: exact values, named errors, contexts, odd keys; and what it imports."""

from __future__ import annotations

import datetime as dt
import math
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prov4ml import events as ev
from prov4ml import hot, wire
from prov4ml import segment as seg
from prov4ml.errors import UsageError
from prov4ml.journal import Journal

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"


class Book:
    """A logger, and what it has written."""

    def __init__(self, folder: Path) -> None:
        who = seg.Identity(RUN, b"p" * 16, 1, 0, 4, 5, RUN)
        self.journal = Journal(who, [folder])
        self.log: Callable[..., None] = hot.metric_logger(self.journal, hot.Clock())

    @property
    def events(self) -> list[Any]:
        assert self.journal.current is not None
        view = seg.view(self.journal.current.path)
        return list(wire.decode_batch(wire.array_header(view.count) + view.records, view.count))

    @property
    def points(self) -> list[tuple[ev.SeriesDefined, ev.Point]]:
        series: dict[int, ev.SeriesDefined] = {}
        found = []
        for event in self.events:
            if isinstance(event, ev.SeriesDefined):
                series[event.series] = event
            else:
                found.append((series[event.series], event))
        return found


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """A logger on a journal of its own."""
    made = Book(tmp_path)
    yield made
    made.journal.close(remove=True)


# -------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.1, 0.1),
        (-0.0, -0.0),
        (5e-324, 5e-324),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (math.nan, math.nan),
        (7, 7.0),
        (1 << 53, 2.0**53),
        (-(1 << 53), -(2.0**53)),
        (True, 1.0),
        (Decimal("0.25"), 0.25),
        (Decimal("Infinity"), math.inf),
        (Fraction(1, 3), 1 / 3),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(0.5), 0.5),
        (np.int64(-3), -3.0),
        (np.uint8(255), 255.0),
        (np.bool_(True), 1.0),
        (np.longdouble("0.5"), 0.5),
        (np.array(2.5), 2.5),
        (np.array([2.5]), 2.5),
        (np.array([[3]]), 3.0),
    ],
    ids=repr,
)
def test_a_number_of_any_kind_is_kept_exactly(book: Book, value: Any, wanted: float) -> None:
    """Bit for bit, at the first call and at the second."""
    book.log("k", value)
    book.log("k", value, step=1)
    bits = [struct.pack(">d", point.value) for _, point in book.points]
    assert bits == [struct.pack(">d", wanted)] * 2


def test_tensors_of_one_number_are_numbers(book: Book) -> None:
    """Scalars, arrays of one, every usual type, with gradients or without."""
    torch = pytest.importorskip("torch")
    for value in (
        torch.tensor(0.5),
        torch.tensor([0.5], requires_grad=True),
        torch.tensor(0.5, dtype=torch.bfloat16),
        torch.tensor(0.5, dtype=torch.float64),
        torch.nn.Parameter(torch.tensor(0.5)),
    ):
        book.log("loss", value, step=torch.tensor(3))
    book.log("loss", torch.tensor(1 << 53), step=np.int64(3))
    book.log("loss", torch.tensor(True), step=3.0)
    assert [p.value for _, p in book.points] == [0.5] * 5 + [2.0**53, 1.0]
    assert {p.step for _, p in book.points} == {3}
    with pytest.raises(TypeError, match=r"value must be a single number, not Tensor of shape \(2,"):
        book.log("loss", torch.tensor([1.0, 2.0]))
    with pytest.raises(UsageError, match=r"value 9007199254740993 is beyond 2\*\*53"):
        book.log("loss", torch.tensor((1 << 53) + 1))
    with pytest.raises(TypeError, match="step must be an integer, not Tensor"):
        book.log("loss", 0.5, step=torch.tensor(0.5))


@pytest.mark.parametrize("step", [None, 0, -1, (1 << 63) - 1, -(1 << 63)])
def test_steps_over_the_whole_range_of_int64(book: Book, step: int | None) -> None:
    """Negative, large, none: the same step comes back."""
    for value in (0.5, 1):
        book.log("k", value, None, step)
        book.log("k", value, None, step)
    assert [p.step for _, p in book.points] == [step] * 4


@pytest.mark.parametrize("step", [True, 3.0, np.int32(3), np.float64(3.0)], ids=repr)
def test_steps_that_are_whole_numbers_of_another_type(book: Book, step: Any) -> None:
    """Kept as the integer they are."""
    book.log("k", 0.5, step=step)
    ((_, point),) = book.points
    assert point.step == int(step)
    assert type(point.step) is int


# -------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("", 1.0), UsageError, "key must not be empty"),
        ((3, 1.0), TypeError, "key must be a string, not int"),
        ((None, 1.0), TypeError, "key must be a string, not NoneType"),
        (([], 1.0), TypeError, "key must be a string, not list"),
        ((b"loss", 1.0), TypeError, "key must be a string, not bytes"),
        (("k" * 20_000, 1.0), UsageError, "key has 20,000 bytes"),
        (("k", None), TypeError, "value must be a number, not NoneType"),
        (("k", "0.5"), TypeError, "value must be a number, not str"),
        (("k", b"1"), TypeError, "value must be a number, not bytes"),
        (("k", [0.5]), TypeError, "value must be a single number, not list"),
        (("k", 1j), TypeError, "value must be a single number, not complex"),
        (("k", np.array([1.0, 2.0])), TypeError, r"ndarray of shape \(2,\)"),
        (("k", np.array([])), TypeError, r"value must be a single number, not ndarray"),
        (("k", np.array("x")), TypeError, "value must be a number, not str"),
        (("k", np.complex64(1j)), TypeError, "value must be a single number, not complex64"),
        (("k", object()), TypeError, "value must be a single number, not object"),
        (("k", (1 << 53) + 1), UsageError, r"value 9007199254740993 is beyond 2\*\*53"),
        (("k", -(1 << 53) - 1), UsageError, r"value -9007199254740993 is beyond 2\*\*53"),
        (("k", np.int64((1 << 53) + 1)), UsageError, r"is beyond 2\*\*53"),
        (("k", 10**5000), UsageError, "value of 16,610 bits is beyond"),
        (("k", Decimal("1e400")), UsageError, "value is beyond the largest binary64"),
        (("k", Fraction(10**400, 3)), UsageError, "value is beyond the largest binary64"),
        (("k", 1.0, ""), UsageError, "context must not be empty"),
        (("k", 1.0, 5), TypeError, "context must be a string, not int"),
        (("k", 1.0, ["training"]), TypeError, "context must be a string, not list"),
        (("k", 1.0, ("training", 5)), TypeError, "context must be a string, not int"),
        (("k", 1.0, None, "1"), TypeError, "step must be an integer, not str"),
        (("k", 1.0, None, 1.5), TypeError, "step must be an integer, not 1.5"),
        (("k", 1.0, None, math.nan), TypeError, "step must be an integer, not nan"),
        (("k", 1.0, None, 1 << 63), UsageError, "step 9223372036854775808 does not fit"),
        (("k", 1.0, None, -(1 << 63) - 1), UsageError, "step -9223372036854775809 does not fit"),
        (("k", 1.0, None, 10**5000), UsageError, "step of 16,610 bits does not fit"),
        (("k", 1.0, None, None, ""), UsageError, "source must not be empty"),
        (("k", 1.0, None, None, 7), TypeError, "source must be a string, not int"),
        (("k", 1.0, None, None, None, dt.datetime(2026, 1, 1)), UsageError, "timestamp is a naive"),
        (("k", 1.0, None, None, None, "now"), TypeError, "timestamp must be an aware datetime"),
        (("k", 1.0, None, None, None, True), TypeError, "timestamp must be a datetime"),
        (("k", 1.0, None, None, None, math.nan), UsageError, "timestamp must be finite"),
        (("k", 1.0, None, None, None, 1e300), UsageError, "timestamp does not fit"),
        (("k", 1.0, None, None, None, 10**5000), UsageError, "timestamp does not fit"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(
    book: Book, arguments: tuple[Any, ...], kind: type[Exception], words: str
) -> None:
    """For a new series and for a known one; the next call works."""
    with pytest.raises(kind, match=words):
        book.log(*arguments)
    assert book.journal.sent == 0
    book.log("k", 0.5)
    with pytest.raises(kind, match=words):
        book.log(*arguments)
    book.log("k", 0.5)
    assert [p.value for _, p in book.points] == [0.5, 0.5]
    assert not book.journal.busy


def test_key_context_and_source_together_fit_into_an_event(book: Book) -> None:
    """Each may be long, all of them beyond an event are refused by name."""
    long = "x" * 16_000
    book.log(long, 1.0, long, None, long)
    with pytest.raises(UsageError, match="key, context and source have"):
        book.log(long, 1.0, (long, long, long), None, long)
    assert len(book.points) == 1


# ---------------------------------------------------------------------- keys and contexts


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("k" * 10_000, "k" * 10_000),
        ("\U0001f600 loss", "\U0001f600 loss"),
        ("a b/\"<&>%\n'..", "a b/\"<&>%\n'.."),
        ("\ud800", "\\ud800"),
        ("\0", "\0"),
    ],
)
def test_odd_keys_are_kept(book: Book, key: str, kept: str) -> None:
    """Long, emoji, markup, control characters; a lone surrogate becomes readable text."""
    for value in (0.5, 0.5, 1):
        book.log(key, value)
    assert [d.name for d, _ in book.points] == [kept] * 3
    assert len(book.events) == 4


def test_an_enum_and_its_string_are_one_context(book: Book) -> None:
    """Ours and any other enum of strings."""
    from prov4ml.run import Context

    class Mine(str, Enum):
        TRAINING = "training"

    for context in ("training", Context.TRAINING, Mine.TRAINING, ("training",)):
        book.log("k", 0.5, context)
        book.log("k", 0.5, context)
    assert {d.context for d, _ in book.points} == {("training",)}
    assert len(book.events) == 9


def test_a_default_context_holds_inside_and_ends(book: Book) -> None:
    """Paths as ``context(...)`` nests them; an explicit one wins."""
    for path, given, wanted in (
        (None, None, ()),
        (("a",), None, ("a",)),
        (("a", "b"), None, ("a", "b")),
        (("a", "b"), "c", ("c",)),
        (("a", "b"), ("a", "b"), ("a", "b")),
        (None, (), ()),
    ):
        token = hot.scope.set(path)
        book.log("k", 0.5, given)
        book.log("k", 0.5, given)
        hot.scope.reset(token)
        assert [d.context for d, _ in book.points[-2:]] == [wanted] * 2


def test_source_and_context_are_never_taken_for_a_path(book: Book) -> None:
    """("training", source "warm-up") is another series than training/warm-up."""
    for _ in range(2):
        book.log("k", 1.0, "training", None, "warm-up")
        book.log("k", 2.0, ("training", "warm-up"))
        book.log("k", 3.0, "warm-up", None, "training")
        book.log("k", 4.0, None, None, "training")
    found = {(d.context, d.source): p.value for d, p in book.points}
    assert found == {
        (("training",), "warm-up"): 1.0,
        (("training", "warm-up"), None): 2.0,
        (("warm-up",), "training"): 3.0,
        ((), "training"): 4.0,
    }
    assert len(book.points) == 8


# --------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("timestamp", "wanted"),
    [
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 1_767_225_600_000_000_000),
        (
            dt.datetime(2026, 1, 1, 1, 0, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
            1_767_225_600_000_001_000,
        ),
        (dt.datetime(1969, 12, 31, 23, 59, 59, tzinfo=dt.UTC), -1_000_000_000),
        (1_767_225_600.5, 1_767_225_600_500_000_000),
        (1_767_225_600_123, 1_767_225_600_123_000_000),
        (0, 0),
    ],
)
def test_a_timestamp_is_the_points_time_and_the_call_keeps_its_own(
    book: Book, timestamp: Any, wanted: int
) -> None:
    """Aware datetime, float seconds, int milliseconds; exact to the microsecond and beyond."""
    book.log("k", 0.5, timestamp=timestamp)
    book.log("k", 0.5)
    (_, first), (_, second) = book.points
    assert first.time == wanted
    assert first.logged is not None
    assert first.logged <= second.time
    assert second.logged is None


def test_times_never_go_back(book: Book) -> None:
    """Whichever way a point takes, later calls have later times."""
    for n in range(100):
        book.log("k", 0.5 if n % 3 else 1)
    times = [p.time for _, p in book.points]
    assert times == sorted(times)


# ------------------------------------------------------------------------------- imports


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Not even msgspec, before the first call is used; then msgspec alone."""
    code = """
import sys
import prov4ml
heavy = {"torch", "pandas", "numpy", "pyarrow", "codecarbon", "psutil", "zmq"}
print(sorted((heavy | {"msgspec"}) & set(sys.modules)))
prov4ml.log_metric, prov4ml.start_run, prov4ml.Context
print(sorted((heavy | {"msgspec"}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["[]", "['msgspec']"]
