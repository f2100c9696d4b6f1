"""What of a journal is still to be sent: from committed segments to batches; no sockets.

A batch begins and ends at cut points: those of the segment and those where we looked before.
After a rewind it may begin a little earlier than asked for; the collector cuts overlaps.  How
much may be on the way at once says the ``Window``, one for all that goes over a connection.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

from prov4ml import process, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError
from prov4ml.journal import CUT, Journal

__all__ = ["MOST", "ChildJournal", "Outbox", "OwnJournal", "Parcel", "Stretch", "Window"]

MOST: Final = 32 << 20
"""Bytes on the way without an ack, at most."""

_FIRST: Final = 256 << 10  # bytes on the way before anything is known of the connection
_SOON: Final = 0.5  # s beyond the quickest ack: the collector takes more than it is sent
_LATE: Final = 2.0  # s beyond the quickest ack: too much is on the way


Cut: TypeAlias = tuple[int, int]
"""(bytes, count) where a record begins."""


class Stretch(msgspec.Struct, frozen=True):
    """The committed records of one segment."""

    path: Path
    first: int
    count: int
    size: int
    cuts: tuple[Cut, ...]
    table: bytes
    read: Callable[[int, int], bytes]


class Parcel(msgspec.Struct, frozen=True):
    """A batch ready to go; ``tables`` are the segment's series, to be sent before it."""

    first: int
    count: int
    batch: bytes
    tables: list[bytes]
    lost: int = 0  # events right before it that no segment holds


class Source(Protocol):
    """A journal as the sender sees it."""

    producer: bytes
    pid: int
    pid_start: int

    def stretches(self) -> list[Stretch]: ...

    def alive(self) -> bool:
        """Whether the process that writes it lives."""

    def release(self, acked: int, over: bool) -> bool:
        """Remove what is acked (``over``: nothing more comes); whether something is left."""


class OwnJournal:
    """The journal of this process, mapped."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.producer = journal.who.producer
        self.pid = journal.who.pid
        self.pid_start = journal.who.pid_start

    def stretches(self) -> list[Stretch]:
        mark = self.journal.mark()
        found = [_committed_of(s, s.commit) for s in list(self.journal.sealed)]
        if mark.segment is not None and all(s.path != mark.segment.path for s in found):
            found.append(_committed_of(mark.segment, mark.count << 32 | mark.size))
        return found

    def alive(self) -> bool:
        return True

    def release(self, acked: int, over: bool) -> bool:
        self.journal.release(acked)
        return True


def _committed_of(s: seg.Segment, commit: int) -> Stretch:
    size, count = commit & seg.MASK, commit >> 32
    return Stretch(s.path, s.first, count, size, tuple(s.cuts), s.table, s.read)


class ChildJournal:
    """The journal of a forked child, read from its files; from any thread."""

    def __init__(self, who: seg.Identity, places: list[Path]) -> None:
        self._read: dict[Path, tuple[int, Stretch]] = {}  # with the commit word it was read at
        self.producer = who.producer
        self.pid = who.pid
        self.pid_start = who.pid_start
        self._run = who.run
        self._places = places

    def stretches(self) -> list[Stretch]:
        """Raises ``OSError`` where a file is there and cannot be read now.

        To pass over it would be to say that what it holds is lost.
        """
        known, read = self._read, {}
        for path in spool.segments(self._places, self._run, self.producer):
            try:
                commit = seg.committed(path)
                found = known.get(path)
                if found is None or found[0] != commit:
                    found = (commit, _stretch_of(path))
            except (FormatError, FileNotFoundError):
                continue  # damaged, or just removed
            read[path] = found
        self._read = read  # whole: another thread may be reading, too
        return sorted((stretch for _, stretch in read.values()), key=lambda s: s.first)

    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)  # the cheap question; a zombie and a stranger say yes, too
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return process.alive(self.pid, self.pid_start, process.boot_id())

    def release(self, acked: int, over: bool) -> bool:
        stretches = self.stretches()
        left = [s for s in stretches if s.first + s.count > acked]
        if not over:  # it may be about to write where nothing is yet, and does where it was last
            left += [s for s in stretches if not s.count]
            left += [s for s in stretches if s.count][-1:]
        for stretch in stretches:
            if stretch not in left:
                stretch.path.unlink(missing_ok=True)
        if over and not left:
            for place in self._places:
                spool.clear(place / self._run / self.producer.hex())
        return bool(left)


def _stretch_of(path: Path) -> Stretch:
    """What a segment file holds; its records are read again when they are sent."""
    view = seg.view(path, check=False)
    base = seg.HEADER + len(view.table)

    def read(start: int, end: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(base + start)
            return file.read(end - start)

    return Stretch(path, view.first, view.count, len(view.records), view.cuts, view.table, read)


class Window:
    """How many bytes may be on the way: what the collector acks within a second or so.

    What is on the way when a connection breaks was sent for nothing, and a message that takes
    longer than a connection lives would never arrive.  So little is on the way over a slow link,
    in small batches, and much over a fast one, near or far.
    """

    def __init__(self) -> None:
        self.size = _FIRST
        self.flying = 0  # bytes on the way
        self._quickest = math.inf  # s from a batch to its ack: how far the collector is

    def restart(self) -> None:
        """Nothing is known of the connection any more."""
        self.size = min(self.size, _FIRST)
        self._quickest = math.inf

    def admits(self, size: int) -> bool:
        """Whether so many bytes more may go; one batch always may."""
        return not self.flying or self.flying + size <= self.size

    @property
    def batch(self) -> int:
        """Bytes that a batch should have at most."""
        return min(wire.MAX_BATCH, max(CUT, self.size // 4))

    def acked(self, size: int, ahead: int, took: float) -> None:
        """``size`` bytes arrived; the last of them took so many seconds, with ``ahead`` before."""
        self.flying -= size
        self._quickest = min(self._quickest, took)
        if took < self._quickest + _SOON:
            self.size = min(MOST, self.size + size)
        elif took > self._quickest + _LATE:
            self.size = min(self.size, max(CUT, int(ahead / took)))


class _Flying(NamedTuple):
    """A batch on the way."""

    next: int  # the sequence behind it
    size: int  # bytes
    ahead: int  # bytes on the way, its own included, when it was sent
    when: float  # s


class Outbox:
    """How far one producer's stream has been sent and acked."""

    def __init__(self, source: Source, window: Window) -> None:
        self.source = source
        self.producer = source.producer
        self.clock: Callable[[], float] = time.monotonic  # seconds; tests put their own here
        self.welcome = False  # the collector has told us its next sequence
        self.refused = False  # it will not have this producer
        self.asked = 0.0  # when we last said hello
        self.heard = 0.0  # when it last answered
        self.spoke = 0.0  # when we last sent something else
        self.due = 0.0  # when a child's is to be looked at again
        self.sent = 0
        self.acked = 0
        self.more = False  # there is more than the window admits now
        self._window = window
        self._tabled: Path | None = None
        self._flying: deque[_Flying] = deque()
        self._marks: dict[Path, list[Cut]] = {}

    @property
    def flying(self) -> bool:
        """Whether something is on the way without an ack."""
        return bool(self._flying)

    def waits(self) -> bool:
        """Whether an answer is due: an ack, or a welcome."""
        return bool(self._flying) or (self.asked > 0.0 and not self.welcome and not self.refused)

    def silence(self) -> float:
        """Seconds for which an answer to what was sent or asked has stayed out."""
        sent = self._flying[0].when if self._flying else 0.0
        return self.clock() - max(self.asked, self.heard, sent)

    def rewind(self, sequence: int) -> None:
        """Go back (or on) to where the collector wants us."""
        self.sent = sequence
        self._tabled = None
        self.forget()
        self.ack(sequence)

    def forget(self) -> None:
        """Nothing is on the way any more."""
        self._window.flying -= sum(batch.size for batch in self._flying)
        self._flying.clear()

    def ack(self, sequence: int) -> None:
        self.acked = max(self.acked, sequence)
        self.sent = max(self.sent, sequence)
        arrived, last = 0, None
        while self._flying and self._flying[0].next <= sequence:
            last = self._flying.popleft()
            arrived += last.size
        if last is not None:
            self._window.acked(arrived, last.ahead, self.clock() - last.when)

    def parcels(self) -> Iterator[Parcel]:
        """What is committed, not sent, and may go now.

        Each parcel counts as sent when the next is asked for.
        """
        self.more = False
        stretches = self.source.stretches()
        self._marks = {s.path: self._marks.get(s.path, []) for s in stretches}
        for s in stretches:
            marks = self._marks[s.path]
            while s.first + s.count > self.sent:
                start, end = self._next(s, marks)
                tables = [] if self._tabled == s.path else wire.split(s.table, self._window.batch)
                size = end[0] - start[0] + sum(map(len, tables))
                if not self._window.admits(size):
                    self.more = True
                    return
                count = end[1] - start[1]
                try:
                    batch = wire.array_header(count) + s.read(start[0], end[0])
                except FileNotFoundError:
                    break  # its process is dead, and the collector has taken what it left
                lost = max(0, s.first - self.sent)  # dropped on a full disk
                yield Parcel(s.first + start[1], count, batch, tables, lost)
                if end not in marks:
                    marks.append(end)
                    del marks[:-256]
                self._tabled = s.path
                self.sent = s.first + end[1]
                self._window.flying += size
                self._flying.append(_Flying(self.sent, size, self._window.flying, self.clock()))

    def _next(self, s: Stretch, marks: list[Cut]) -> tuple[Cut, Cut]:
        """Where the next batch begins and ends: both are places where a record begins."""
        most = self._window.batch - 5
        whole = (s.size, s.count)
        last = marks[-1] if marks else (0, 0)
        if s.first + last[1] == self.sent and s.size - last[0] <= most:
            return last, whole  # the usual case: we keep up
        cuts = sorted({(0, 0), *s.cuts, *marks, whole})
        start = max(c for c in cuts if s.first + c[1] <= self.sent or c[1] == 0)
        later = [c for c in cuts if c[1] > start[1] and c[1] <= s.count]
        near = [c for c in later if c[0] - start[0] <= most]
        return start, near[-1] if near else later[0]

    def release(self) -> bool:
        """Remove what is acked; whether nothing is left and nothing more will come."""
        over = not self.source.alive()  # asked first: then all it wrote before its end is seen
        return not self.source.release(self.acked, over) and over

    def unacked(self) -> int:
        """Events that are committed and not acked, as far as the files can be read now."""
        try:
            stretches = self.source.stretches()
        except OSError:
            return 0
        return max(0, max((s.first + s.count for s in stretches), default=0) - self.acked)

    def delivered(self) -> bool:
        """Whether all that is committed is acked; False as long as nobody can tell."""
        try:
            stretches = self.source.stretches()
        except OSError:
            return False
        return all(s.first + s.count <= self.acked for s in stretches)
