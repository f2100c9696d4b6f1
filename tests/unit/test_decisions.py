"""A collector's own events: in order, none lost to a full disk, none behind the last word."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prov4ml import events as ev
from prov4ml import wire
from prov4ml.decisions import Decisions
from prov4ml.eventlog import EventLog, Reader

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
END = ev.RunEnded(99, 1)


def _cursor(n: int) -> ev.SinkCursor:
    return ev.SinkCursor(n, "lines", n)


def _told(log: EventLog) -> list[Any]:
    found = []
    with closing(Reader(log.directory)) as reader:
        for frame in reader:
            assert frame.first == len(found)
            found += wire.decode_batch(frame.batch, frame.count)
    return found


class Disk:
    """Full, or not; under the event log only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def _no(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(self) -> None:
        self._patch.setattr("prov4ml.eventlog._write", self._no)

    def fail_to_sync(self) -> None:
        self._patch.setattr(os, "fdatasync", self._no)

    def mend(self) -> None:
        self._patch.undo()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_what_finds_no_room_is_told_later_in_order(tmp_path: Path, disk: Disk) -> None:
    """It waits, and comes before what is said after it."""
    log = EventLog(tmp_path, RUN)
    decisions = Decisions(log)
    decisions.tell(_cursor(1))
    disk.fill()
    decisions.tell(_cursor(2))
    decisions.tell(_cursor(3))
    with pytest.raises(OSError, match="No space"):
        decisions.put(_cursor(9))  # not said: who puts it says it again
    with pytest.raises(OSError, match="No space"):
        decisions.end(END)
    assert not decisions.ended
    disk.mend()
    decisions.put(_cursor(4))
    decisions.end(END)
    assert _told(log) == [*map(_cursor, (1, 2, 3, 4)), END]
    log.close()


def test_what_the_log_took_back_is_told_again(tmp_path: Path, disk: Disk) -> None:
    """After a sync that failed nothing is missing, and nothing that was safe comes twice."""
    log = EventLog(tmp_path, RUN)
    decisions = Decisions(log)
    decisions.tell(_cursor(1))
    decisions.settle()
    decisions.tell(_cursor(2))
    decisions.put(_cursor(3))
    disk.fail_to_sync()
    with pytest.raises(OSError, match="No space"):
        decisions.settle()
    disk.mend()
    assert _told(log) == [_cursor(1)]
    decisions.tell(_cursor(4))
    decisions.settle()
    assert _told(log) == [*map(_cursor, (1, 2, 3, 4))]
    log.close()


def test_others_that_are_safe_do_not_stand_for_what_was_taken_back(
    tmp_path: Path, disk: Disk
) -> None:
    """Their frames have the numbers that ours had; ours are told again all the same."""
    log = EventLog(tmp_path, RUN)
    decisions = Decisions(log)
    first = decisions.put(_cursor(1))
    disk.fail_to_sync()
    with pytest.raises(OSError, match="No space"):
        log.sync()
    disk.mend()
    log.append(b"p" * 16, 0, 1, wire.array_header(1) + wire.encode(_cursor(9)))
    log.sync()
    assert not decisions.safe(first)
    decisions.catch_up()
    assert decisions.safe(first)
    assert log.next[decisions.id] == 1
    assert log.frames == log.synced == 2
    decisions.catch_up()
    assert log.frames == 2
    log.close()


def test_the_last_word_survives_a_failed_sync(tmp_path: Path, disk: Disk) -> None:
    """It is told again as the last one, and nobody else comes in between."""
    log = EventLog(tmp_path, RUN)
    decisions = Decisions(log)
    decisions.tell(_cursor(1))
    decisions.settle()
    decisions.end(END)
    disk.fail_to_sync()
    with pytest.raises(OSError, match="No space"):
        decisions.settle()
    disk.mend()
    decisions.tell(_cursor(2))
    decisions.settle()
    assert _told(log) == [_cursor(1), END]
    log.close()


def test_nothing_is_told_behind_the_end(tmp_path: Path) -> None:
    """Of others; what the publisher itself puts there still comes."""
    log = EventLog(tmp_path, RUN)
    decisions = Decisions(log)
    decisions.end(END)
    decisions.tell(_cursor(1))
    decisions.put(ev.SinkFailed(100, "svg", "x"))
    assert _told(log) == [END, ev.SinkFailed(100, "svg", "x")]
    log.close()
    decisions.tell(_cursor(2))  # and nothing is raised once the log is closed


def test_a_closed_log_is_no_error(tmp_path: Path) -> None:
    """A sink that is late may still have something to say."""
    log = EventLog(tmp_path, RUN)
    decisions = Decisions(log)
    log.close()
    decisions.tell(_cursor(1))
    assert _told(log) == []
