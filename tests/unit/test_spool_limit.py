"""The limit of the spool, the reserve behind it, and segments that are written, not mapped."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prov4ml import events as ev
from prov4ml import hot, spool, unmapped, wire
from prov4ml import segment as seg
from prov4ml.errors import UsageError
from prov4ml.journal import LARGEST, SMALLEST, WRITTEN, Journal

MODES = ("map", "write")


def _who() -> seg.Identity:
    return seg.Identity(
        str(uuid.uuid4()), os.urandom(16), 1, 0, os.getpid(), 1, str(uuid.uuid4()), b""
    )


class Free:
    """A file system with room; ``statvfs`` as the tests like it."""

    f_blocks = 1 << 30
    f_frsize = 4096
    f_bavail = 1 << 29


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> type[Free]:
    """Every disk has room, so that only the limit counts."""
    monkeypatch.setattr(os, "statvfs", lambda _: Free)
    monkeypatch.setattr(spool, "_AGAIN", 0.0)
    return Free


def _held(journal: Journal) -> dict[int, Any]:
    """Events by sequence, read from the files."""
    found: dict[int, Any] = {}
    for path in spool.segments(journal.places, journal.who.run, journal.who.producer):
        view = seg.view(path)
        batch = wire.array_header(view.count) + view.records
        found |= dict(enumerate(wire.decode_batch(batch, view.count), view.first))
    return dict(sorted(found.items()))


def _journal(folder: Path, limit: int, mode: str = "map") -> Journal:
    return Journal(_who(), [folder], spool.Quota([folder], limit), mode)


def _tag(text: str) -> bytes:
    return msgspec.msgpack.encode(ev.Tag(1, "key", text))


@pytest.mark.parametrize("mode", MODES)
def test_beyond_the_limit_points_are_dropped_and_all_else_is_kept(
    tmp_path: Path, roomy: type[Free], mode: str
) -> None:
    """Counts are exact, and one event says what was dropped, how many, since when and why."""
    journal = _journal(tmp_path, 1 << 20, mode)
    journal.prepare()
    log = hot.metric_logger(journal, hot.Clock())
    points = 100_000
    for step in range(points):
        log("loss", 0.5, step=step)
        if step % 1000 == 0:
            journal.append(_tag(str(step)))
            journal.prepare()
    assert spool.used([tmp_path]) <= (1 << 20) + SMALLEST
    lost = journal.lost
    journal.end(_tag("last"))
    events = _held(journal)
    kept = [e for e in events.values() if isinstance(e, ev.Point)]
    tags = [e.value for e in events.values() if isinstance(e, ev.Tag)]
    notes = [e for e in events.values() if isinstance(e, ev.Dropped)]
    assert tags == [*map(str, range(0, points, 1000)), "last"]
    assert lost > 0
    assert len(kept) + lost == points
    assert [p.step for p in kept] == list(range(len(kept)))
    assert sum(n.count for n in notes) == sum(n.points for n in notes) == lost
    assert all("spool_limit, 1,048,576 bytes" in n.reason and n.since for n in notes)
    told = {n for note in notes for n in range(note.first, note.first + note.count)}
    assert told.isdisjoint(events)
    assert sorted(told | set(events)) == list(range(len(events) + lost))
    assert journal.sent == len(events) + lost
    journal.close(remove=True)
    assert spool.used([tmp_path]) == 0


@pytest.mark.parametrize("mode", MODES)
def test_room_again_ends_the_dropping(tmp_path: Path, roomy: type[Free], mode: str) -> None:
    """What the collector acks makes room: points are kept again, behind a count of the others."""
    journal = _journal(tmp_path, 1 << 20, mode)
    journal.prepare()
    log = hot.metric_logger(journal, hot.Clock())
    while not journal.lost:
        log("loss", 0.5, step=1)
    journal.append(_tag("in the reserve"))
    lost = journal.lost
    journal.release(journal.sent)
    journal.retry_at = 0
    log("loss", 0.5, step=2)
    assert journal.lost == lost
    events = list(_held(journal).values())
    assert [type(e) for e in events[-2:]] == [ev.Dropped, ev.Point]
    assert events[-2].count == lost
    assert not journal.reserving
    journal.prepare()
    assert journal.reserve is not None  # and there is one again
    journal.close(remove=True)


def test_a_collector_that_keeps_up_is_heard_at_any_limit(tmp_path: Path, roomy: type[Free]) -> None:
    """Where all but the current segment are acked there is always a small next one."""
    roomy.f_bavail = 0
    try:
        journal = _journal(tmp_path, 1)
        log = hot.metric_logger(journal, hot.Clock())
        for step in range(50_000):
            log("loss", 0.5, step=step)
            if step % 100 == 0:
                journal.prepare()
                journal.release(journal.sent)
    finally:
        roomy.f_bavail = 1 << 29
    assert journal.lost == 0
    assert journal.current is not None
    assert journal.current.size <= SMALLEST
    journal.close(remove=True)


def test_the_limit_counts_all_producers_of_the_node(tmp_path: Path, roomy: type[Free]) -> None:
    """A second producer gets what the first has left over."""
    first = _journal(tmp_path, 2 << 20)
    log = hot.metric_logger(first, hot.Clock())
    while not first.lost:
        log("loss", 0.5, step=1)
    second = _journal(tmp_path, 2 << 20)
    log = hot.metric_logger(second, hot.Clock())
    step = 0
    while not second.lost:
        log("loss", 0.5, step=step)
        step += 1
    assert spool.used([tmp_path]) <= (2 << 20) + 2 * SMALLEST
    assert len(second.sealed) <= 1
    for journal in (first, second):
        journal.close(remove=True)


def test_the_disk_keeps_a_part_for_others(tmp_path: Path, roomy: type[Free]) -> None:
    """5 % of the file system, or 512 MiB, stay free, and the reason says so."""
    quota = spool.Quota([tmp_path], 1 << 40)
    kept = roomy.f_blocks * roomy.f_frsize // 20
    roomy.f_bavail = (kept + (4 << 20)) // roomy.f_frsize + 1
    try:
        quota.ask(tmp_path, 4 << 20)
        with pytest.raises(spool.Full, match="nearly full"):
            quota.ask(tmp_path, (4 << 20) + 8192)
        roomy.f_blocks, roomy.f_bavail = 1 << 18, (512 << 20) // 4096  # 1 GiB, half of it free
        with pytest.raises(spool.Full, match="536,870,912"):
            quota.ask(tmp_path, 4096)
    finally:
        roomy.f_blocks, roomy.f_bavail = 1 << 30, 1 << 29


def test_the_end_is_kept_when_the_reserve_is_full(tmp_path: Path, roomy: type[Free]) -> None:
    """A flood of tags may fill the reserve, but the last event and the count still fit."""
    journal = _journal(tmp_path, 1)
    journal.prepare()
    text = "x" * 1000
    tags = 0
    while journal.lost < 10:
        journal.append(_tag(text))
        tags += 1
    log = hot.metric_logger(journal, hot.Clock())
    for step in range(5):
        log("loss", 0.5, step=step)
    lost = journal.lost
    journal.end(_tag("last"))
    events = list(_held(journal).values())
    assert isinstance(events[-2], ev.Dropped)
    assert events[-1] == ev.Tag(1, "key", "last")
    assert events[-2].count == lost
    assert events[-2].points == 6  # five points, and their series
    assert len(events) - 2 + lost == tags + 6
    journal.close(remove=True)


def test_a_full_disk_leaves_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no file can be made, the one made in good time takes what is no metric."""
    journal = Journal(_who(), [tmp_path])
    journal.prepare()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    log = hot.metric_logger(journal, hot.Clock())
    while not journal.lost:
        log("loss", 0.5, step=1)
    journal.append(_tag("kept"))
    journal.end(_tag("last"))
    events = list(_held(journal).values())
    assert [e.value for e in events if isinstance(e, ev.Tag)] == ["kept", "last"]
    (note,) = [e for e in events if isinstance(e, ev.Dropped)]
    assert (note.count, note.points, note.reason) == (1, 1, "no room in the spool")
    journal.close(remove=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_end_is_kept_when_there_is_no_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """No file can be made at all: the last bytes of the only one hold the count and the end."""
    journal = Journal(_who(), [tmp_path], None, mode)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    journal.prepare()
    log = hot.metric_logger(journal, hot.Clock())
    tags = points = 0
    while journal.lost < 1000:
        log("loss", 0.5, step=points)
        journal.append(_tag("x" * (points % 50)))
        points += 1
        tags += 1
        journal.prepare()
    lost = journal.lost
    assert journal.reserve is None
    journal.end(_tag("last"))
    events = list(_held(journal).values())
    assert events[-1] == ev.Tag(1, "key", "last")
    assert isinstance(events[-2], ev.Dropped)
    assert events[-2].count == lost
    assert len(events) - 3 + lost == tags + points  # and the series
    assert journal.sent == len(events) + lost
    journal.close(remove=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_segment_is_used_to_its_end_when_there_is_a_reserve(tmp_path: Path, mode: str) -> None:
    """Nothing is kept back in it."""
    journal = Journal(_who(), [tmp_path], None, mode)
    journal.prepare()
    log = hot.metric_logger(journal, hot.Clock())
    step = 0
    while not journal.sealed:
        log("loss", 0.5, step=step)
        step += 1
    (first,) = journal.sealed
    assert first.size - first.base - (first.commit & seg.MASK) < 64
    journal.close(remove=True)


# ------------------------------------------------------------------------------- written


def test_written_and_mapped_segments_are_the_same_bytes(tmp_path: Path) -> None:
    """A reader cannot tell how a segment was made."""
    who = _who()
    journals = [Journal(who, [tmp_path / mode], None, mode) for mode in MODES]
    for journal in journals:
        for n in range(3000):
            journal.append(_tag("x" * (n % 100)))
    mapped, written = (
        [path.read_bytes() for path in spool.segments(j.places, who.run, who.producer)]
        for j in journals
    )
    assert written == mapped
    for journal in journals:
        journal.close(remove=True)


def test_written_segments_hold_no_memory_once_sealed(tmp_path: Path) -> None:
    """Sealed ones are read from their files, which stay small, and no file stays open."""
    journal = Journal(_who(), [tmp_path], None, "write")
    before = len(os.listdir("/proc/self/fd"))
    log = hot.metric_logger(journal, hot.Clock())
    for step in range(200_000):
        log("loss", step / 3, step=step)
    assert len(journal.sealed) > 3
    assert all(s.buffer is None and s.size < WRITTEN for s in journal.sealed)
    assert LARGEST > WRITTEN
    assert len(os.listdir("/proc/self/fd")) <= before
    head = journal.sealed[0]
    table = wire.decode_table(head.table)
    count = head.commit >> 32
    batch = wire.array_header(count) + head.read(0, head.commit & seg.MASK)
    events = wire.decode_batch(batch, count)
    assert isinstance(events[0], ev.SeriesDefined)
    assert not table or table == [events[0]]
    assert len(_held(journal)) == 200_001
    journal.close(remove=True)


def test_a_failing_write_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call returns, the sender has the event from memory, the file gets it later."""
    journal = Journal(_who(), [tmp_path], None, "write")
    journal.append(_tag("before"))
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", _refuse)
    log = hot.metric_logger(journal, hot.Clock())
    log("loss", 0.5, step=1)
    journal.append(_tag("during"))
    assert len(_held(journal)) == 1
    mark = journal.mark()
    assert mark.segment is not None
    assert mark.count == 4
    batch = wire.array_header(4) + mark.segment.read(0, mark.size)
    assert [type(e).__name__ for e in wire.decode_batch(batch, 4)] == [
        "Tag",
        "SeriesDefined",
        "Point",
        "Tag",
    ]
    monkeypatch.setattr(os, "pwrite", real)
    journal.append(_tag("after"))
    assert [type(e).__name__ for e in _held(journal).values()] == [
        "Tag",
        "SeriesDefined",
        "Point",
        "Tag",
        "Tag",
    ]
    journal.close(remove=True)


def _refuse(*_: object) -> int:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("by", ["point", "tag"])
def test_an_interrupted_write_leaves_no_half_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, after: bool
) -> None:
    """An exception from a signal handler between copy and commit costs that call at most."""
    journal = Journal(_who(), [tmp_path], None, "write")
    log = hot.metric_logger(journal, hot.Clock())
    log("loss", 0.0, step=0)
    real = unmapped.Words.__setitem__

    def interrupted(self: unmapped.Words, index: int, value: int) -> None:
        if after:
            real(self, index, value)
        raise KeyboardInterrupt

    monkeypatch.setattr(unmapped.Words, "__setitem__", interrupted)
    call: Callable[[], object] = (
        (lambda: log("loss", 1.0, step=1)) if by == "point" else (lambda: journal.append(_tag("x")))
    )
    with pytest.raises(KeyboardInterrupt):
        call()
    monkeypatch.setattr(unmapped.Words, "__setitem__", real)
    log("loss", 2.0, step=2)
    journal.append(_tag("end"))
    events = list(_held(journal).values())
    assert isinstance(events[0], ev.SeriesDefined)
    assert [e.step for e in events if isinstance(e, ev.Point)] in ([0, 2], [0, 1, 2])
    assert [e.value for e in events if isinstance(e, ev.Tag)] in (["end"], ["x", "end"])
    assert journal.sent == len(events)
    journal.close(remove=True)


MOUNTS = r"""
1 0 8:1 / / rw - ext4 /dev/a rw
2 1 0:2 / /home rw,relatime shared:1 - nfs4 server:/home rw
3 1 0:3 / /home/scratch rw - xfs /dev/b rw
4 1 0:4 / /with\040space rw - fuse.sshfs host: rw
5 1 0:5 / /over rw - nfs server:/ rw
6 1 0:6 / /over rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tmp/x", "ext4"),
        ("/home/ada", "nfs4"),
        ("/homely", "ext4"),
        ("/home/scratch/spool", "xfs"),
        ("/with space/x", "fuse.sshfs"),
        ("/over/x", "tmpfs"),
    ],
)
def test_the_type_of_a_file_system(path: str, kind: str) -> None:
    """The longest mount point counts, and of equal ones the last."""
    assert spool._type_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "safe"),
    [("ext4", True), ("tmpfs", True), ("fuseblk", True), ("overlay", True)]
    + [(k, False) for k in ("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "beegfs", "ceph")]
    + [(k, False) for k in ("9p", "fuse", "fuse.sshfs")],
)
def test_where_mapping_is_safe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, safe: bool
) -> None:
    """Network file systems and user-space ones are written; the variable has the last word."""
    monkeypatch.setattr(spool, "_type_of", lambda _: kind)
    assert spool.mappable(tmp_path) is safe
    assert spool.mappable(tmp_path, "map")
    assert not spool.mappable(tmp_path, "write")
    with pytest.raises(UsageError, match="'mmap' is neither"):
        spool.mappable(tmp_path, "mmap")
