"""Values on a device: the call does not wait, their order is that of the calls, none is made up."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prov4ml import events as ev
from prov4ml import hot, readback, wire
from prov4ml import segment as seg
from prov4ml.errors import UsageError
from prov4ml.journal import Journal
from prov4ml.readback import Readback
from prov4ml.testing.devices import Device, Scalar

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"


class Book:
    """A logger, what it has written, and the values that wait."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(seg.Identity(RUN, b"p" * 16, 1, 0, 4, 5, RUN), [folder])
        self.readback = Readback(self.journal, hot.number)
        bound = hot.bind(self.journal, hot.Clock(), self.readback)
        self.tables = bound[1]
        self.log: Callable[..., None] = hot.follower(bound)[0]

    def points(self, name: str = "loss") -> list[ev.Point]:
        """The points of a series in the journal, in their order."""
        assert self.journal.current is not None
        view = seg.view(self.journal.current.path)
        events = wire.decode_batch(wire.array_header(view.count) + view.records, view.count)
        numbers = {e.series for e in events if isinstance(e, ev.SeriesDefined) and e.name == name}
        return [e for e in events if isinstance(e, ev.Point) and e.series in numbers]

    def settled(self) -> None:
        """Wait until no value waits."""
        until(lambda: not self.readback.waiting, "every value is read")


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """A logger on a journal of its own."""
    made = Book(tmp_path)
    yield made
    made.readback.close(0)
    made.journal.close(remove=True)


def test_a_call_does_not_wait_for_the_device(book: Book) -> None:
    """It returns while the gate is shut, and this thread never reads the value."""
    device = Device()
    for step in range(50):
        book.log("loss", device.scalar(step / 2), "training", step)
    assert book.points() == []
    device.gate.set()
    book.settled()
    assert [(p.step, p.value) for p in book.points()] == [(n, n / 2) for n in range(50)]
    assert set(device.readers) == {"prov4ml-readback"}


def test_points_have_the_time_of_their_call(book: Book) -> None:
    """Not of the moment when the number came; a timestamp stays what was given."""
    device, clock = Device(), hot.Clock()
    before = clock.now()
    book.log("loss", device.scalar(1))
    book.log("loss", device.scalar(2), timestamp=5.0)
    after = clock.now()
    device.gate.set()
    book.settled()
    first, second = book.points()
    assert before <= first.time <= after
    assert second.time == 5_000_000_000
    assert second.logged is not None
    assert first.time <= second.logged <= after


def test_later_numbers_of_a_series_queue_behind_a_value_that_waits(book: Book) -> None:
    """Floats, integers and tensors alike, also of a series that had its short way already."""
    device, open_ = Device(), Device(open=True)
    for step in (0, 1):
        book.log("loss", 0.5, "training", step)  # the second one takes the short way
    assert "loss" in book.tables["training"]
    book.log("loss", device.scalar(2), "training", 2)
    assert "loss" not in book.tables["training"]
    book.log("loss", 3.0, "training", 3)
    book.log("loss", 4, "training", 4)
    book.log("loss", open_.scalar(5), "training", 5)
    book.log("loss", 6.0, ("training",), 6)
    assert [p.step for p in book.points()] == [0, 1]
    device.gate.set()
    book.settled()
    assert [p.step for p in book.points()] == list(range(7))
    book.log("loss", 7.0, "training", 7)
    assert "loss" in book.tables["training"]  # the short way is open again
    book.log("loss", 8.0, "training", 8)
    assert [p.step for p in book.points()] == list(range(9))


def test_other_series_do_not_wait(book: Book) -> None:
    """A number that is there is written at once, whatever else waits."""
    device = Device()
    book.log("loss", device.scalar(1), "training", 0)
    for step in range(3):
        book.log("accuracy", step / 4, "training", step)
        book.log("loss", 0.5, "validation", step)
    assert [p.value for p in book.points("accuracy")] == [0, 0.25, 0.5]
    assert [p.value for p in book.points("loss")] == [0.5] * 3
    device.gate.set()


def test_a_change_in_place_afterwards_does_not_reach_the_value(book: Book) -> None:
    """The copy is that of the moment of the call."""
    device = Device()
    running = device.scalar(0)
    for step in range(5):
        running.fill_(step * 10)
        book.log("loss", running, step=step)
    running.fill_(-1)
    device.gate.set()
    book.settled()
    assert [p.value for p in book.points()] == [0, 10, 20, 30, 40]


def test_close_waits_and_loses_nothing(book: Book) -> None:
    """What is queued when the run ends is written before its last event."""
    device = Device()
    for step in range(2000):
        book.log("loss", device.scalar(step), step=step)
    threading.Timer(0.05, device.gate.set).start()
    assert book.readback.close(30) == 0
    book.journal.end(msgspec.msgpack.encode(ev.Ended(1, "finished")))
    assert [p.value for p in book.points()] == list(range(2000))


def test_what_does_not_come_in_time_is_counted_with_the_reason(book: Book) -> None:
    """Behind the events that stand; and a number that comes too late is written nowhere."""
    device = Device()
    book.log("other", 0.5)
    for step in range(3):
        book.log("loss", device.scalar(step), step=step)
    lost = book.readback.close(0.05)
    assert lost == 3
    size = book.journal.sent
    book.journal.end(msgspec.msgpack.encode(ev.Ended(1, "finished")), lost, book.readback.why)
    assert book.journal.sent == size + 2 + 3
    device.gate.set()
    until(lambda: book.readback._thread and not book.readback._thread.is_alive(), "it has ended")
    assert book.journal.current is not None
    view = seg.view(book.journal.current.path)
    events = wire.decode_batch(wire.array_header(view.count) + view.records, view.count)
    (dropped,) = [e for e in events if isinstance(e, ev.Dropped)]
    assert (dropped.first, dropped.count, dropped.points) == (size + 2, 3, 3)
    assert dropped.reason == "its device did not give the value before the run's end"
    assert book.points() == []
    with pytest.raises(UsageError, match="the run has ended"):
        book.log("loss", device.scalar(1))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ((1 << 53) + 1, r"value 9007199254740993 is beyond 2\*\*53"),
        (1j, "a real number, not 'complex'"),
        (RuntimeError("an illegal memory access"), "an illegal memory access"),
        ("x", "value must be a number, not str"),
    ],
)
def test_what_turns_out_to_be_no_number_is_counted_and_the_others_stand(
    book: Book, value: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The call has returned by then: a warning says so, and the next value is read."""
    device = Device(open=True)
    book.log("loss", device.scalar(1), step=0)
    book.log("loss", device.scalar(value), step=1)
    book.log("loss", device.scalar(2), step=2)
    book.settled()
    assert [(p.step, p.value) for p in book.points()] == [(0, 1), (2, 2)]
    assert "a metric value is lost, and counted" in caplog.text
    assert book.readback.close(5) == 1
    assert why.replace("\\", "") in book.readback.why


def test_a_copy_that_fails_is_counted(book: Book) -> None:
    """No memory on the device: the call returns, training goes on."""

    class Full(Scalar):
        def detach(self) -> Scalar:
            raise MemoryError

    book.log("loss", Full(Device(), [1]), step=0)
    assert book.readback.close(5) == 1
    assert "MemoryError" in book.readback.why


def test_too_many_values_that_wait_are_counted(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded; those that were in it stand."""
    monkeypatch.setattr(readback, "MOST", 10)
    device = Device()
    for step in range(15):
        book.log("loss", device.scalar(step), step=step)
    device.gate.set()
    assert book.readback.close(30) == 5
    assert [p.step for p in book.points()] == list(range(10))
    assert "10 others wait for their device" in book.readback.why


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((2,), "float32", r"value must be a single number, not Scalar of shape \(2,\)"),
        ((0,), "float32", r"value must be a single number, not Scalar of shape \(0,\)"),
        ((), "torch.complex64", "value must be a single number, not Scalar of torch.complex64"),
    ],
)
def test_what_is_no_single_number_is_told_at_once(
    book: Book, shape: tuple[int, ...], dtype: str, words: str
) -> None:
    """Shape and type are known without asking the device."""
    device = Device()
    scalar = device.scalar(1)
    scalar.shape, scalar.dtype = shape, dtype
    with pytest.raises(TypeError, match=words):
        book.log("loss", scalar)
    assert device.readers == []
    assert book.journal.sent == 0


def test_a_value_of_shape_one_is_a_number(book: Book) -> None:
    """As on the host."""
    scalar = Device(open=True).scalar(0.5)
    scalar.shape = (1, 1)
    book.log("loss", scalar)
    book.settled()
    assert [p.value for p in book.points()] == [0.5]


def test_who_wants_to_see_a_number_sees_it_when_it_is_written(book: Book) -> None:
    """In order, with the point in the journal; what it raises stops nothing."""
    device = Device()
    seen: list[tuple[float, int]] = []

    def see(number: float) -> None:
        seen.append((number, len(book.points())))
        if number == 1:
            raise ValueError(number)

    book.log("loss", 0.0, step=0)
    number = book.points()[0].series
    for value in (1, 2, 3):
        book.readback.add(ev.Point(number, 0, math.nan, value), device.scalar(value), see)
    assert seen == []
    device.gate.set()
    book.settled()
    assert seen == [(1, 2), (2, 3), (3, 4)]


def test_threads_log_values_of_a_slow_device_at_once(book: Book) -> None:
    """Every thread's points stand, each series in the order of its calls."""
    device = Device()

    def work(name: str) -> None:
        for step in range(300):
            book.log(name, device.scalar(step) if step % 3 else float(step), "training", step)

    threads = [threading.Thread(target=work, args=(f"m{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    device.gate.set()
    for thread in threads:
        thread.join()
    assert book.readback.close(30) == 0
    for n in range(4):
        assert [p.step for p in book.points(f"m{n}")] == list(range(300))


def test_only_plain_tensors_on_a_device_wait() -> None:
    """Tensors of the host, of no device (meta), and subclasses are read in the call, or refused."""
    torch = pytest.importorskip("torch")

    class Mine(torch.Tensor):  # type: ignore[misc, name-defined]
        pass

    assert not readback.elsewhere(torch.tensor(1.0))
    assert not readback.elsewhere(torch.tensor(1.0, device="meta"))
    assert not readback.elsewhere(torch.tensor(1.0).as_subclass(Mine))
    assert not readback.elsewhere(0.5)
    assert readback.elsewhere(Device("cuda").scalar(1))
    with pytest.raises(TypeError, match="value must be a single number, not Tensor"):
        hot.checked("k", torch.tensor(1.0, device="meta"), None, None, None, None)


def test_a_cuda_value_is_read_on_a_stream_of_its_own_after_its_event(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is recorded in the call, on the stream that is current there, and waited for."""
    torch = pytest.importorskip("torch")
    told: list[Any] = []
    device = Device("cuda", open=True)

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking

        def record(self, stream: str) -> None:
            told.append(("record", stream, threading.current_thread().name))

        def synchronize(self) -> None:
            told.append(("wait", threading.current_thread().name))

    class Within:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            told.append(("on", self.stream))

        def __exit__(self, *_: object) -> None:
            told.append(("off", len(device.readers)))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "ours")
    monkeypatch.setattr(torch.cuda, "stream", Within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "training's")
    book.log("loss", device.scalar(0.5))
    book.settled()
    assert told == [
        ("record", "training's", threading.current_thread().name),
        ("wait", "prov4ml-readback"),
        ("on", "ours"),
        ("off", 1),
    ]
    assert [p.value for p in book.points()] == [0.5]


def test_the_host_never_starts_the_thread(book: Book) -> None:
    """Numbers that are there cost no thread."""
    torch = pytest.importorskip("torch")
    for value in (0.5, 1, True, torch.tensor(0.5)):
        book.log("loss", value)
    assert book.readback._thread is None
    assert math.isclose(book.points()[0].value, 0.5)


def test_a_member_of_any_enum_is_a_context(book: Book) -> None:
    """By its text, or by its name in small letters; a number that equals one is none."""

    class Stage(Enum):
        PREPROCESSING = 3
        INFERENCE = "inference"

    for context in (Stage.PREPROCESSING, Stage.INFERENCE, "preprocessing"):
        for step in (0, 1):
            book.log("loss", 0.5, context, step)
    assert len({p.series for p in book.points()}) == 2
    assert len(book.points()) == 6
    with pytest.raises(TypeError, match="context must be a string, not int"):
        book.log("loss", 0.5, 3)
