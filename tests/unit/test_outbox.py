"""What is sent when: the window, batches that fit the link, and children's journals.

The link is a list and the clock a number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prov4ml import hot, process, spool, wire
from prov4ml import segment as seg
from prov4ml.journal import CUT, Journal
from prov4ml.outbox import MOST, ChildJournal, Outbox, OwnJournal, Window

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
POINT = 34  # bytes


def _who(producer: bytes = b"p" * 16, pid_start: int = 5) -> seg.Identity:
    return seg.Identity(RUN, producer, 1, 0, os.getpid(), pid_start, process.boot_id())


def _living() -> seg.Identity:
    return _who(pid_start=process.pid_start(os.getpid()))


def _points(journal: Journal, count: int) -> None:
    log_metric = hot.metric_logger(journal, hot.Clock())
    for step in range(count):
        log_metric("loss", step / 7, step=step)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal of 680,000 points, 22 MiB of them in six segments or so."""
    made = Journal(_who(), [tmp_path])
    _points(made, 680_000)
    yield made
    made.close(remove=True)


class Link:
    """Takes batches at so many bytes a second, and acks each ``far`` seconds behind its arrival."""

    def __init__(self, journal: Journal, rate: float, far: float = 0.05) -> None:
        self.now = 1000.0
        self.rate = rate
        self.far = far
        self.window = Window()
        self.box = Outbox(OwnJournal(journal), self.window)
        self.box.clock = lambda: self.now
        self.sizes: list[int] = []
        self.most = 0  # bytes on the way
        self.slowest = 0.0  # s that a batch took
        self._free = self.now  # when the link has taken what was sent
        self._coming: list[tuple[float, float, int]] = []  # (due, sent at, sequence)

    def run(self, seconds: float) -> int:
        """Send what may be sent, let time pass; how many events were acked."""
        before = self.box.acked
        until = self.now + seconds
        while self.now < until:
            for parcel in self.box.parcels():
                size = len(parcel.batch) + sum(map(len, parcel.tables))
                self.sizes.append(len(parcel.batch))
                self._free = max(self._free, self.now) + size / self.rate
                sequence = parcel.first + parcel.count
                self._coming.append((self._free + self.far, self.now, sequence))
            self.most = max(self.most, self.window.flying)
            self.now += 0.01
            while self._coming and self._coming[0][0] <= self.now:
                _, sent, sequence = self._coming.pop(0)
                self.slowest = max(self.slowest, self.now - sent)
                self.box.ack(sequence)
        return self.box.acked - before


@pytest.mark.parametrize("rate", [4_000, 20_000])
def test_slow_link(journal: Journal, rate: int) -> None:
    """Over a few kB/s batches are small, few are on the way, and the link is kept busy."""
    link = Link(journal, rate)
    link.window.size = MOST  # it was a fast one a moment ago, and then silent
    link.window.restart()
    link.run(120.0)
    link.slowest = link.most = 0
    acked = link.run(120.0)
    assert max(link.sizes) <= 2 * CUT
    assert link.most <= 5 * CUT
    assert link.slowest <= 5 * CUT / rate
    assert acked * POINT >= 0.7 * 120.0 * rate


def test_fast_link(journal: Journal) -> None:
    """Over a fast one batches soon have a MiB, and nothing waits for an ack."""
    link = Link(journal, 1e9)
    while link.run(0.01) or link.box.flying:
        assert link.now < 1003.0
    assert link.box.acked == link.box.sent == journal.sent
    assert sum(size > wire.MAX_BATCH // 2 for size in link.sizes) >= 10


def test_far_link(journal: Journal) -> None:
    """A link that is slow only to answer is filled as well."""
    link = Link(journal, 1e9, far=1.0)
    link.run(8.0)
    assert link.window.size >= MOST // 2


def test_full_window(journal: Journal) -> None:
    """A collector that takes everything and acks nothing gets 32 MiB at most, nothing twice."""
    window = Window()
    window.size = MOST
    box = Outbox(OwnJournal(journal), window)
    _points(journal, 680_000)
    sent: list[int] = []
    for _ in range(100):
        sent += [parcel.first for parcel in box.parcels()]
    assert len(set(sent)) == len(sent)
    assert MOST - 2 * wire.MAX_BATCH < window.flying <= MOST
    box.forget()
    assert window.flying == 0


def test_window_is_one_for_all(tmp_path: Path) -> None:
    """What the journals of many children have on the way counts together."""
    window = Window()
    sent = 0
    for number in range(20):
        journal = Journal(_who(bytes([number]) * 16), [tmp_path])
        _points(journal, 3_000)
        for parcel in Outbox(OwnJournal(journal), window).parcels():
            sent += len(parcel.batch)
        journal.close(remove=True)
    assert sent - 64 * 20 <= window.flying <= window.size == 256 << 10


# ----------------------------------------------------------------------- children's journals


def test_child_read_by_two_threads(tmp_path: Path) -> None:
    """Whoever asks gets all segments, or what was passed over would count as lost."""
    journal = Journal(_who(), [tmp_path])
    _points(journal, 100_000)
    child = ChildJournal(journal.who, [tmp_path])
    whole = len(child.stretches())
    assert whole > 2
    found: set[int] = set()

    def read() -> None:
        for _ in range(100):
            child._read = {}  # as if the child had logged
            found.add(len(child.stretches()))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close(remove=True)
    assert found == {whole}


def test_child_that_cannot_be_read_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file descriptor is left: the segment is waited for, not declared lost."""
    journal = Journal(_who(), [tmp_path])
    _points(journal, 20_000)
    child = ChildJournal(journal.who, [tmp_path])
    box = Outbox(child, Window())
    first = spool.segments([tmp_path], RUN, child.producer)[0]
    true = seg.committed

    def committed(path: Path) -> int:
        if path == first:
            raise OSError(24, "Too many open files")
        return true(path)

    monkeypatch.setattr(seg, "committed", committed)
    with pytest.raises(OSError, match="Too many"):
        list(box.parcels())
    assert not box.delivered()
    monkeypatch.setattr(seg, "committed", true)
    parcels = list(box.parcels())
    assert (parcels[0].first, parcels[0].lost) == (0, 0)
    journal.close(remove=True)


def test_living_child_keeps_empty_segments(tmp_path: Path) -> None:
    """A segment made ahead, and the reserve, stay where the child will write into them."""
    journal = Journal(_living(), [tmp_path])
    _points(journal, 20_000)
    journal.prepare()
    child = ChildJournal(journal.who, [tmp_path])
    assert child.alive()
    before = spool.segments([tmp_path], RUN, child.producer)
    empty = {path for path in before if not seg.committed(path)}
    assert empty
    assert child.release(journal.sent, False)
    after = spool.segments([tmp_path], RUN, child.producer)
    assert empty < set(after)
    assert journal.current is not None
    assert journal.current.path in after
    assert len(before) - len(after) == len(journal.sealed) > 0
    journal.close(remove=True)


def test_dead_child_leaves_nothing(tmp_path: Path) -> None:
    """Once the child is gone and everything acked, its files and folder go."""
    journal = Journal(_who(), [tmp_path])
    _points(journal, 20_000)
    child = ChildJournal(journal.who, [tmp_path])
    assert not child.alive()
    box = Outbox(child, Window())
    list(box.parcels())
    assert not box.delivered()
    assert not box.release()
    box.ack(journal.sent)
    assert box.delivered()
    assert box.release()
    assert not [path for path in tmp_path.rglob("*") if path.name != RUN]
    journal.close(remove=False)
