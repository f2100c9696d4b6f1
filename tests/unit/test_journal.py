"""The journal under threads, signals, finalizers, interrupts, forks, kills and full disks."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import random
import resource
import signal
import struct
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prov4ml import events as ev
from prov4ml import hot, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import UsageError
from prov4ml.journal import Journal

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
pytestmark = pytest.mark.usefixtures("deadline")


def _who(producer: bytes = b"p" * 16, parent: bytes = b"") -> seg.Identity:
    return seg.Identity(RUN, producer, 1, 0, os.getpid(), 5, RUN, parent)


@pytest.fixture
def deadline() -> Iterator[None]:
    """A hang becomes a failure with a traceback, not a stuck test run."""
    import faulthandler

    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal in a folder of its own."""
    made = Journal(_who(), [tmp_path])
    yield made
    made.close(remove=True)


def _sequenced(places: list[Path], producer: bytes = b"p" * 16) -> dict[int, ev.Event | str]:
    """Every event in a journal's files by its sequence; sequences stand once."""
    found: dict[int, ev.Event | str] = {}
    for path in spool.segments(places, RUN, producer):
        if not path.stat().st_size:
            continue  # an interrupt came right behind the system call that made it
        view = seg.view(path)
        events = wire.decode_batch(wire.array_header(view.count) + view.records, view.count)
        for n, event in enumerate(events, view.first):
            assert n not in found, f"sequence {n} stands twice"
            found[n] = event
    return dict(sorted(found.items()))


def _by_series(events: dict[int, ev.Event | str]) -> dict[str, list[int | None]]:
    """The steps of each series, in the order of the journal; definitions come first."""
    names: dict[int, str] = {}
    steps: dict[str, list[int | None]] = {}
    for event in events.values():
        if isinstance(event, ev.SeriesDefined):
            assert names.setdefault(event.series, event.name) == event.name
        elif isinstance(event, ev.Point):
            steps.setdefault(names[event.series], []).append(event.step)
        else:
            raise AssertionError(f"a torn or false event: {event}")
    return steps


def _log_into(journal: Journal) -> Callable[..., None]:
    return hot.metric_logger(journal, hot.Clock())


# ------------------------------------------------------------------------------- growing


def test_segments_turn_and_every_event_keeps_its_sequence(journal: Journal, tmp_path: Path) -> None:
    """100,000 points over several files: no gap, no repeat, series known in each file."""
    log = _log_into(journal)
    for step in range(100_000):
        log("loss", 0.5, "training", step)
    events = _sequenced([tmp_path])
    paths = spool.segments([tmp_path], RUN, b"p" * 16)
    assert len(paths) > 2
    assert list(events) == list(range(100_001))
    assert _by_series(events) == {"loss": list(range(100_000))}
    for path in paths[1:]:
        assert [d.name for d in wire.decode_table(seg.view(path).table)] == ["loss"]
    assert journal.sent == 100_001


def test_cut_points_are_never_far_apart(journal: Journal, tmp_path: Path) -> None:
    """A batch may begin every 64 KiB or so, whatever mix of records comes."""
    log = _log_into(journal)
    for step in range(40_000):
        log("loss", 0.5, None, step)
        if step % 100 == 0:
            journal.append(msgspec.msgpack.encode(ev.Tag(1, "k", "v" * 60_000)))
    checked = 0
    for path in spool.segments([tmp_path], RUN, b"p" * 16):
        view = seg.view(path)
        ends = [0, *(size for size, _ in view.cuts), len(view.records)]
        gaps = [after - before for before, after in itertools.pairwise(ends)]
        assert max(gaps) <= 2 * (64 << 10) + 64
        checked += len(gaps)
    assert checked > 50


def test_acked_segments_go_and_the_current_one_stays(journal: Journal, tmp_path: Path) -> None:
    """Release removes full files whose events are all acked, no other."""
    log = _log_into(journal)
    for step in range(30_000):
        log("loss", 0.5, None, step)
    before = spool.segments([tmp_path], RUN, b"p" * 16)
    first = journal.sealed[0]
    journal.release(first.first + (first.commit >> 32) - 1)
    assert spool.segments([tmp_path], RUN, b"p" * 16) == before
    journal.release(first.first + (first.commit >> 32))
    assert spool.segments([tmp_path], RUN, b"p" * 16) == before[1:]
    journal.release(1 << 40)
    assert spool.segments([tmp_path], RUN, b"p" * 16) == before[-1:]
    log("loss", 0.5, None, 1)


def test_a_spare_made_ahead_is_used_and_none_is_left(journal: Journal, tmp_path: Path) -> None:
    """The sender's spare becomes the next file; closing removes files and folders."""
    log = _log_into(journal)
    while journal.spare is None:
        log("loss", 0.5)
        journal.prepare()
    spare = journal.spare
    while journal.current is not spare:
        log("loss", 0.5)
    journal.prepare()
    while journal.spare is None:
        log("loss", 0.5)
        journal.prepare()
    journal.close(remove=True)
    assert not list(tmp_path.iterdir())


def test_the_sender_preparing_while_the_writer_turns_drops_nothing(
    journal: Journal, tmp_path: Path
) -> None:
    """Both make files at once and never fight for a name."""
    log = _log_into(journal)
    stop = threading.Event()

    def prepare() -> None:
        while not stop.is_set():
            journal.prepare()

    thread = threading.Thread(target=prepare)
    thread.start()
    for step in range(150_000):
        log("loss", 0.5, None, step)
    stop.set()
    thread.join()
    assert journal.lost == 0
    assert _by_series(_sequenced([tmp_path])) == {"loss": list(range(150_000))}


def test_after_the_end_every_call_says_so(journal: Journal) -> None:
    """Fast way, careful way, and plain records; also once the files are closed."""
    log = _log_into(journal)
    log("loss", 0.5)
    journal.end()
    for _ in range(2):
        with pytest.raises(UsageError, match="has ended"):
            log("loss", 0.5)
        with pytest.raises(UsageError, match="has ended"):
            log("loss", 1)
        with pytest.raises(UsageError, match="has ended"):
            journal.append(b"\xc0")
        journal.close(remove=True)


def test_threads_that_log_while_the_run_ends_are_told(tmp_path: Path) -> None:
    """Each thread's calls are kept until one raises UsageError; nothing else is ever raised."""
    for _ in range(5):
        journal = Journal(_who(), [tmp_path])
        log = _log_into(journal)
        returned: Counter[str] = Counter()
        errors: list[BaseException] = []

        def work(
            name: str,
            log: Callable[..., None] = log,
            returned: Counter[str] = returned,
            errors: list[BaseException] = errors,
        ) -> None:
            try:
                for step in range(10_000_000):
                    log(name, 0.5, None, step)
                    returned[name] += 1
            except BaseException as problem:
                errors.append(problem)

        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        while len(returned) < 4:
            time.sleep(0)
        journal.end()
        for thread in threads:
            thread.join()
        assert [type(error) for error in errors] == [UsageError] * 4
        kept = _by_series(_sequenced([tmp_path]))
        assert {name: len(steps) for name, steps in kept.items()} == dict(returned)
        journal.close(remove=True)


# ---------------------------------------------------------------------------- reentrancy


def test_eight_threads_lose_nothing_and_keep_their_order(journal: Journal, tmp_path: Path) -> None:
    """20,000 calls each: counts exact per series, the order of each thread kept."""
    log = _log_into(journal)
    start = threading.Barrier(8)

    def work(name: str) -> None:
        start.wait()
        for step in range(20_000):
            log(name, float(step), "training", step)

    threads = [threading.Thread(target=work, args=(f"series {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps = _by_series(_sequenced([tmp_path]))
    assert steps == {f"series {n}": list(range(20_000)) for n in range(8)}


def test_threads_that_define_series_at_once_mix_none_up(journal: Journal, tmp_path: Path) -> None:
    """New and shared names from eight threads; each point stands under its own name."""
    log = _log_into(journal)
    start = threading.Barrier(8)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(n: int) -> None:
        start.wait()
        for k in range(400):
            log(f"own {n} {k}", 1.0, None, n * 1000 + k)
            log(f"shared {k}", 1.0, None, k)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    steps = _by_series(_sequenced([tmp_path]))
    wanted: dict[str, list[int | None]] = {
        f"own {n} {k}": [n * 1000 + k] for n in range(8) for k in range(400)
    }
    wanted.update({f"shared {k}": [k] * 8 for k in range(400)})
    assert steps == wanted


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Calls a function from a signal handler at a high rate, until the test is over."""

    def arm(function: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)

    before = signal.getsignal(signal.SIGALRM)
    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_calls_from_a_signal_handler_hang_nothing_and_tear_nothing(
    journal: Journal, tmp_path: Path, alarm: Any
) -> None:
    """The handler logs while the main thread logs: both counts are exact."""
    log = _log_into(journal)
    fired = 0

    def handler() -> None:
        nonlocal fired
        n, fired = fired, fired + 1  # a handler may interrupt itself
        log("signal", 1.0, None, n)
        log(f"signal {n % 50}", 1, None, n)

    alarm(handler)
    step = 0
    while fired < 2000:
        log("main", 0.5, "training", step)
        if step % 10 == 0:
            log(f"main {step % 70}", 1, None, step)
        step += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    log("main", 0.5, "training", step)
    steps = _by_series(_sequenced([tmp_path]))
    assert steps["main"] == list(range(step + 1))
    assert sorted(step or 0 for step in steps["signal"]) == list(range(fired))
    assert sum(len(found) for name, found in steps.items() if name.startswith("signal ")) == fired
    assert not journal.deferred


def test_handlers_and_threads_together(journal: Journal, tmp_path: Path, alarm: Any) -> None:
    """A handler on the main thread, three other threads: counts exact for all."""
    log = _log_into(journal)
    fired = 0
    stop = False
    counts: Counter[str] = Counter()

    def handler() -> None:
        nonlocal fired
        n, fired = fired, fired + 1
        log("signal", 1.0, None, n)

    def work(name: str) -> None:
        while not stop:
            log(name, 1.0, None, counts[name])
            counts[name] += 1

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    alarm(handler)
    main = 0
    while fired < 500:
        log("main", 0.5, None, main)
        main += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    stop = True
    for thread in threads:
        thread.join()
    log("main", 0.5, None, main)
    steps = _by_series(_sequenced([tmp_path]))
    assert steps["main"] == list(range(main + 1))
    assert sorted(step or 0 for step in steps["signal"]) == list(range(fired))
    for name, count in counts.items():
        assert steps[name] == list(range(count))


def test_finalizers_that_log_while_a_call_allocates(journal: Journal, tmp_path: Path) -> None:
    """``__del__`` and weakref callbacks run by the collector inside log calls."""
    log = _log_into(journal)
    gone = 0
    called = 0

    class Node:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            nonlocal gone
            log("del", 1.0, None, gone)
            gone += 1

    def callback(_: Any) -> None:
        nonlocal called
        log("weak", 2, None, called)
        called += 1

    class Plain:
        itself: Any

    before = gc.get_threshold()
    gc.set_threshold(20)
    watched = []
    try:
        for step in range(20_000):
            Node()
            plain = Plain()
            plain.itself = plain
            watched.append(weakref.ref(plain, callback))
            del plain
            log("main", 1, None, step)
            log("main", 1.0, None, step)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    log("main", 0.5)
    steps = _by_series(_sequenced([tmp_path]))
    assert (gone, called) == (20_000, 20_000)
    assert steps["del"] == list(range(gone))
    assert steps["weak"] == list(range(called))
    assert len(steps["main"]) == 40_001


def test_interrupts_in_the_middle_of_calls_leave_a_journal_that_works(
    journal: Journal, tmp_path: Path, alarm: Any
) -> None:
    """KeyboardInterrupt from a handler, many times: what returned is there, in order, once."""
    log = _log_into(journal)
    returned: dict[str, list[int | None]] = {"main": [], "int": [], "handler": []}
    interrupts = 0
    armed = False

    def handler() -> None:
        nonlocal interrupts, armed
        n = interrupts = interrupts + 1
        log("handler", 1.0, None, n)
        returned["handler"].append(n)
        if armed:  # not while the test deals with the last one
            armed = False
            raise KeyboardInterrupt

    step = 0
    alarm(handler)
    while interrupts < 1500:
        try:
            armed = True
            while True:
                log("main", 0.5, "training", step)
                returned["main"].append(step)
                log("int", 1, None, step)
                returned["int"].append(step)
                log(f"new {step}" if step % 100 == 0 else "old", 1.0, None, step)
                step += 1
        except KeyboardInterrupt:
            step += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    log("main", 0.5, "training", step)
    assert not journal.busy
    assert not journal.deferred
    events = _sequenced([tmp_path])
    assert list(events) == list(range(len(events)))
    assert journal.sent == len(events)
    kept = _by_series(events)
    for name, steps in returned.items():
        assert len(kept[name]) == len(set(kept[name])), f"{name}: a point stands twice"
        assert set(steps) <= set(kept[name])
        in_order = sorted(kept[name], key=lambda n: n or 0)
        assert name == "handler" or kept[name] == in_order


def test_an_interrupted_turn_of_segments_is_made_good(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in making the file and in naming it: no event lost, no file left over."""
    log = _log_into(journal)
    begin = seg.Segment.begin
    interrupted = 0

    def broken(segment: seg.Segment, first: int, table: bytes) -> None:
        nonlocal interrupted
        begin(segment, first, table)
        if interrupted < 40 and first:
            interrupted += 1
            raise KeyboardInterrupt

    monkeypatch.setattr(seg.Segment, "begin", broken)
    done = []
    for step in range(60_000):
        try:
            log("loss", 0.5, None, step)
            done.append(step)
        except KeyboardInterrupt:
            pass
    assert interrupted == 40
    assert journal.lost == 0
    assert _by_series(_sequenced([tmp_path])) == {"loss": done}
    assert len(spool.segments([tmp_path], RUN, b"p" * 16)) == len(journal.sealed) + 1


# --------------------------------------------------------------------------------- kills


def test_what_returned_survives_sigkill(tmp_path: Path) -> None:
    """20 processes killed at random moments: recovered is a whole prefix, and >= reported."""
    chance = random.Random(7)
    for attempt in range(20):
        place = tmp_path / str(attempt)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read)
                journal = Journal(_who(), [place])
                log = _log_into(journal)
                step = 0
                while True:
                    for _ in range(7):
                        log("loss", float(step), "training", step)
                        step += 1
                    log("count", step, None, step)
                    os.write(write, struct.pack("<q", step))
            finally:
                os._exit(1)
        os.close(write)
        reported = struct.unpack("<q", os.read(read, 8))[0]
        until = time.monotonic() + chance.random() * 0.08
        while time.monotonic() < until:
            reported = struct.unpack("<q", os.read(read, 8))[0]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while rest := os.read(read, 8):
            reported = struct.unpack("<q", rest)[0]
        os.close(read)
        events = _sequenced([place])
        assert list(events) == list(range(len(events)))
        steps = _by_series(events)
        assert steps["loss"] == list(range(len(steps["loss"])))
        assert len(steps["loss"]) >= reported >= 7
        values = [e.value for e in events.values() if isinstance(e, ev.Point)]
        assert float(reported - 1) in values


# --------------------------------------------------------------------------------- forks


def _in_child(work: Callable[[], None]) -> int:
    """Fork, work in the child, give back how it ended (0: without an error)."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_forks_while_threads_log_give_each_process_its_own_journal(
    journal: Journal, tmp_path: Path
) -> None:
    """Children of a logging process, and a child of a child: all journals are right."""
    log = _log_into(journal)
    stop = False
    counts: Counter[str] = Counter()

    def work(name: str) -> None:
        while not stop:
            log(name, 1.0, None, counts[name])
            counts[name] += 1

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    while len(counts) < 3:
        time.sleep(0)
    journal.prologue = lambda: [
        msgspec.msgpack.encode(ev.Tag(0, "child", journal.who.parent.decode()))
    ]

    def grandchild() -> None:
        journal.forked(lambda: _who(b"g" * 16, journal.who.producer))
        for step in range(50):
            log("grandchild", 1.0, None, step)

    for n in range(10):

        def child(n: int = n) -> None:
            journal.forked(lambda: _who(bytes([n]) * 16, journal.who.producer))
            for step in range(20_000):
                log("t0", 1.0, None, step)
                if step == 100:
                    log("child's own", 1, None, n)
            if n == 9:
                assert _in_child(grandchild) == 0

        assert _in_child(child) == 0
        log("parent", 1.0, None, n)
    stop = True
    for thread in threads:
        thread.join()
    mine = _by_series(_sequenced([tmp_path]))
    assert mine["parent"] == list(range(10))
    assert all(mine[name] == list(range(count)) for name, count in counts.items())
    assert "child's own" not in mine
    families = [(bytes([n]) * 16, b"p" * 16) for n in range(10)] + [(b"g" * 16, b"\x09" * 16)]
    for producer, parent in families:
        events = _sequenced([tmp_path], producer)
        paths = spool.segments([tmp_path], RUN, producer)
        assert seg.view(paths[0]).who.parent == parent
        introduction = events.pop(0)
        assert isinstance(introduction, ev.Tag)
        assert introduction.value == parent.decode()
        names = {d.series: d.name for d in wire.decode_table(seg.view(paths[0]).table)}
        points: dict[str, list[int | None]] = {}
        for event in events.values():
            if isinstance(event, ev.SeriesDefined):
                names[event.series] = event.name
            else:
                assert isinstance(event, ev.Point)
                points.setdefault(names[event.series], []).append(event.step)
        if producer == b"g" * 16:
            assert points == {"grandchild": list(range(50))}
        else:
            assert points == {"t0": list(range(20_000)), "child's own": [producer[0]]}


def test_a_child_that_logs_nothing_makes_no_file(journal: Journal, tmp_path: Path) -> None:
    """DataLoader workers and the like leave no trace, and do not touch the parent's files."""
    log = _log_into(journal)
    log("loss", 0.5)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.seg")}

    def child() -> None:
        journal.forked(lambda: _who(b"c" * 16, b"p" * 16))
        gc.collect()

    assert _in_child(child) == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.seg")} == before


def test_a_child_forked_while_a_thread_holds_the_journal_does_not_wait(
    journal: Journal, tmp_path: Path
) -> None:
    """The holder does not exist in the child; its lock must not either."""
    log = _log_into(journal)
    log("loss", 0.5)
    journal.busy = True

    def child() -> None:
        journal.forked(lambda: _who(b"c" * 16, b"p" * 16))
        log("loss", 0.25, None, 1)

    assert _in_child(child) == 0
    journal.busy = False
    (point,) = _sequenced([tmp_path], b"c" * 16).values()
    assert isinstance(point, ev.Point)
    assert point.value == 0.25


# ----------------------------------------------------------------------------- full disk


def test_a_full_disk_is_counted_and_never_raised(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drops keep their sequences; one Dropped event says so once there is room again."""
    log = _log_into(journal)
    create = seg.create
    full = True

    def no_room(path: Path, who: seg.Identity, size: int) -> seg.Segment:
        if full:
            raise OSError(errno.ENOSPC, "no space left")
        return create(path, who, size)

    monkeypatch.setattr(seg, "create", no_room)
    for step in range(20_000):
        log("loss", 0.5, None, step)
    journal.append(msgspec.msgpack.encode(ev.Tag(1, "lost", "too" * 50)))
    journal.prepare()
    lost = journal.lost
    assert lost > 5000
    assert journal.sent == 20_002
    full = False
    journal.retry_at = 0
    for step in range(10_000, 20_000):
        log("loss", 0.5, None, step)
    events = _sequenced([tmp_path])
    notes = [(n, e) for n, e in events.items() if isinstance(e, ev.Dropped)]
    ((n, note),) = notes
    assert (note.first, note.count) == (n - lost, lost)
    assert list(events) == [*range(n - lost), *range(n, 20_002 + 1 + 10_000)]
    assert journal.sent == 20_002 + 1 + 10_000
    assert journal.lost == lost
    steps = _by_series({k: e for k, e in events.items() if not isinstance(e, ev.Dropped)})
    assert steps["loss"] == [*range(n - lost - 1), *range(10_000, 20_000)]


def test_a_disk_that_stays_full_is_asked_once_a_second(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training does not pay for a system call with every point."""
    log = _log_into(journal)
    asked = 0

    def no_room(*_: object) -> seg.Segment:
        nonlocal asked
        asked += 1
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(seg, "create", no_room)
    began = time.monotonic()
    for step in range(50_000):
        log("loss", 0.5, None, step)
    assert journal.lost > 30_000
    assert 1 <= asked <= 2 + (time.monotonic() - began)


def test_a_child_on_a_full_disk_introduces_itself_when_there_is_room(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First what was dropped, then who it is, then its events."""
    log = _log_into(journal)
    log("loss", 0.5)
    journal.prologue = lambda: [msgspec.msgpack.encode(ev.Tag(0, "child", "me"))]
    create = seg.create

    def child() -> None:
        def no_room(*_: object) -> seg.Segment:
            raise OSError(errno.ENOSPC, "no space left")

        journal.forked(lambda: _who(b"c" * 16, b"p" * 16))
        monkeypatch.setattr(seg, "create", no_room)
        log("loss", 0.5)
        log("loss", 0.5)
        monkeypatch.setattr(seg, "create", create)
        journal.retry_at = 0
        log("loss", 0.25)

    assert _in_child(child) == 0
    events = _sequenced([tmp_path], b"c" * 16)
    assert [type(e) for e in events.values()] == [ev.Dropped, ev.Tag, ev.Point]
    assert list(events) == [2, 3, 4]


def test_a_file_size_limit_is_a_full_disk_too(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a real process: no signal, no exception, drops are counted."""

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal = Journal(_who(), [tmp_path])
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        log = _log_into(journal)
        for step in range(20_000):
            log("loss", 0.5, None, step)
        kept = [segment.commit >> 32 for segment in (*journal.sealed, journal.current) if segment]
        assert journal.sent == 20_001
        assert journal.lost == 20_001 - sum(kept)
        assert journal.lost > 1000

    assert _in_child(child) == 0
    steps = _by_series(_sequenced([tmp_path]))["loss"]
    assert steps == list(range(len(steps)))


def test_a_spool_on_a_tiny_file_system_drops_and_recovers(tmp_path: Path) -> None:
    """A tmpfs of 1 MiB fills up: no SIGBUS, no exception; room comes back with acks."""
    place = tmp_path / "tiny"
    place.mkdir()
    done = os.system(f"mount -t tmpfs -o size=1m tmpfs {place} 2>/dev/null")
    if done != 0:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        journal = Journal(_who(), [place])
        log = _log_into(journal)
        for step in range(60_000):
            log("loss", 0.5, None, step)
        assert journal.lost > 0
        kept = _by_series(_sequenced([place]))["loss"]
        assert kept == list(range(len(kept)))
        journal.release(1 << 40)
        journal.size = 256 << 10
        journal.retry_at = 0
        log("loss", 0.5, None, 60_000)
        events = list(_sequenced([place]).values())
        assert sum(isinstance(e, ev.Dropped) for e in events) == 1
        assert isinstance(events[-1], ev.Point)
        assert events[-1].step == 60_000
        journal.close(remove=True)
        assert not list(place.iterdir())
    finally:
        os.system(f"umount {place}")


def test_a_spool_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    """What the user can mend before training starts is raised when the journal is made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Journal(_who(), [tmp_path / "file"])
