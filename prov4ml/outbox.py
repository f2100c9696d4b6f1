"""What of a journal is still to be sent: from committed segments to batches; no sockets.

A batch begins and ends at cut points: those of the segment and those where we looked before.
After a rewind it may begin a little earlier than asked for; the collector cuts overlaps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from prov4ml import process, spool, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError
from prov4ml.journal import Journal

__all__ = ["ChildJournal", "Outbox", "OwnJournal", "Parcel", "Stretch"]


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
    """The journal of a forked child, read from its files."""

    def __init__(self, who: seg.Identity, places: list[Path]) -> None:
        self._read: dict[Path, tuple[int, Stretch]] = {}  # with the commit word it was read at
        self.producer = who.producer
        self.pid = who.pid
        self.pid_start = who.pid_start
        self._run = who.run
        self._places = places

    def stretches(self) -> list[Stretch]:
        known, self._read = self._read, {}
        for path in spool.segments(self._places, self._run, self.producer):
            try:
                commit = seg.committed(path)
                if path not in known or known[path][0] != commit:
                    known[path] = (commit, _stretch_of(path))
            except (FormatError, OSError):
                continue  # just being made, or just removed
            self._read[path] = known[path]
        return sorted((stretch for _, stretch in self._read.values()), key=lambda s: s.first)

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
        if not over and stretches and stretches[-1] not in left:
            left.append(stretches[-1])  # it writes there
        for stretch in stretches:
            if stretch not in left:
                stretch.path.unlink(missing_ok=True)
        if over and not left:
            spool.remove_empty(self._places, self._run, self.producer)
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


class Outbox:
    """How far one producer's stream has been sent and acked."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.producer = source.producer
        self.welcome = False  # the collector has told us its next sequence
        self.asked = 0.0  # when we last said hello (monotonic s)
        self.spoke = 0.0  # when we last sent something else
        self.due = 0.0  # when a child's is to be looked at again
        self.sent = 0
        self.acked = 0
        self._tabled: Path | None = None
        self._flying: list[tuple[int, int]] = []  # (next sequence, bytes)
        self._marks: dict[Path, list[Cut]] = {}

    @property
    def flying(self) -> int:
        """Bytes on the way without an ack."""
        return sum(size for _, size in self._flying)

    def rewind(self, sequence: int) -> None:
        """Go back (or on) to where the collector wants us."""
        self.sent = sequence
        self._flying.clear()
        self._tabled = None
        self.ack(sequence)

    def ack(self, sequence: int) -> None:
        self.acked = max(self.acked, sequence)
        self.sent = max(self.sent, sequence)
        self._flying = [item for item in self._flying if item[0] > sequence]

    def parcels(self) -> Iterator[Parcel]:
        """What is committed and not sent; each parcel counts as sent when the next is asked for."""
        stretches = self.source.stretches()
        self._marks = {s.path: self._marks.get(s.path, []) for s in stretches}
        for s in stretches:
            marks = self._marks[s.path]
            while s.first + s.count > self.sent:
                start, end = self._next(s, marks)
                count = end[1] - start[1]
                try:
                    batch = wire.array_header(count) + s.read(start[0], end[0])
                except FileNotFoundError:
                    break  # its process is dead, and the collector has taken what it left
                tables = [] if self._tabled == s.path else wire.split(s.table)
                lost = max(0, s.first - self.sent)  # dropped on a full disk
                yield Parcel(s.first + start[1], count, batch, tables, lost)
                if end not in marks:
                    marks.append(end)
                    del marks[:-256]
                self._tabled = s.path
                self.sent = s.first + end[1]
                self._flying.append((self.sent, len(batch)))

    def _next(self, s: Stretch, marks: list[Cut]) -> tuple[Cut, Cut]:
        """Where the next batch begins and ends: both are places where a record begins."""
        whole = (s.size, s.count)
        last = marks[-1] if marks else (0, 0)
        if s.first + last[1] == self.sent and s.size - last[0] <= wire.MAX_BATCH - 5:
            return last, whole  # the usual case: we keep up
        cuts = sorted({(0, 0), *s.cuts, *marks, whole})
        start = max(c for c in cuts if s.first + c[1] <= self.sent or c[1] == 0)
        later = [c for c in cuts if c[1] > start[1] and c[1] <= s.count]
        near = [c for c in later if c[0] - start[0] <= wire.MAX_BATCH - 5]
        return start, near[-1] if near else later[0]

    def release(self) -> bool:
        """Remove what is acked; whether nothing is left and nothing more will come."""
        over = not self.source.alive()  # asked first: then all it wrote before its end is seen
        return not self.source.release(self.acked, over) and over

    def committed(self) -> int:
        """The sequence behind the last committed event."""
        stretches = self.source.stretches()
        return max((s.first + s.count for s in stretches), default=self.acked)
