"""The journal of a producer: what a log call wrote is kept when it returns.

A record is copied into a mapped file and committed by one store; no other process, no
network and no lock held across I/O is in the way.  What each part may rely on:

* **One writer at a time, without a lock object.**  ``busy`` is tested and set with no call
  between the two, which is one step under the interpreter's lock.  Who finds it set puts the
  record into ``deferred``; the writer writes that before it is done.  If the writer is another
  thread, the caller waits until its record is written.  If the caller interrupted the writer
  on the same thread (a signal handler, a finalizer), waiting would hang: it returns, and its
  record is kept once the interrupted call returns.
* **The hot path** (``hot.py``) does the same with the record of a metric point inline.
* **I/O errors never reach the caller.**  When no segment can be made (the disk is full, or the
  spool at its limit), metric points are counted as dropped and their sequence numbers stay
  unused.  Everything else goes into the *reserve*, a segment made in good time.  Its last bytes,
  or those of the current segment when there is no reserve, are kept for the end of the run and
  the count of what was dropped.
* **A call may be interrupted anywhere** by an exception that a signal handler raises
  (KeyboardInterrupt, a timeout): state changes hands in stretches without a call, between which
  the interpreter lets no handler and no other thread run.
* **A forked child** gets a journal of its own at its first event (``forked``).
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Final, NoReturn

import msgspec

from prov4ml import segment as seg
from prov4ml import spool, unmapped
from prov4ml.errors import UsageError
from prov4ml.events import Dropped
from prov4ml.wire import array_header

__all__ = ["WRITERS", "Deferred", "Journal", "Mark"]

CUT: Final = 64 << 10
"""A batch may begin at least this often (bytes)."""
SMALLEST: Final = 256 << 10
LARGEST: Final = 4 << 20
WRITTEN: Final = 1 << 20  # where segments are written, not mapped
_RETRY: Final = 1_000_000_000  # ns between two tries to make a segment on a full disk
_POINT: Final = 64  # bytes that the hot path may write without asking
_LAST: Final = 8 << 10  # bytes that are kept for the end of the run, whatever is full

WRITERS: Final[set[CodeType]] = set()
"""Code that writes into journals: who finds it further down on its own stack must not wait."""


class Mark(msgspec.Struct, frozen=True):
    """How far a journal has committed."""

    segment: seg.Segment | None
    size: int
    count: int


class Deferred:
    """A record that somebody else will write, and whether that is done."""

    __slots__ = ("record", "written")

    def __init__(self, record: bytes) -> None:
        self.record = record
        self.written = False


class Journal:
    """The writer of one producer's journal.

    ``position``, ``commit``, ``limit``, ``buffer``, ``words`` describe the current segment and
    are written only by whoever holds ``busy``.  ``definitions`` holds the encoded series, to be
    repeated in each segment.  ``prologue`` gives the first records of a forked child's journal.
    ``quota`` says whether there may be another segment; a small one may be where all but the
    current one are acked, so that a collector that keeps up is always heard.
    """

    __slots__ = (
        "buffer",
        "busy",
        "closed",
        "commit",
        "current",
        "deferred",
        "definitions",
        "dropped",
        "dropped_points",
        "dropped_since",
        "introduced",
        "leaving",
        "limit",
        "lost",
        "owner_pid",
        "places",
        "position",
        "prologue",
        "quota",
        "ready",
        "reserve",
        "reserve_at",
        "reserving",
        "retry_at",
        "sealed",
        "serial",
        "size",
        "spare",
        "unmapped",
        "who",
        "why",
        "words",
    )

    def __init__(
        self,
        who: seg.Identity,
        places: list[Path],
        quota: spool.Quota | None = None,
        mode: str = "",
    ) -> None:
        """``mode``: "map", "write", or "" (by the type of the file system).  Raises ``OSError``."""
        self.places = places
        self.quota = quota
        self.unmapped = {place for place in places if not spool.mappable(place, mode)}
        self.deferred: deque[Deferred] = deque()
        self.definitions: list[bytes] = []
        self.closed = False
        self.busy = False
        self.leaving = False  # the interpreter exits
        self.prologue: Callable[[], list[bytes]] | None = None
        self._reset(who)
        first = self._make(SMALLEST)  # raises: the user can mend it before training starts
        first.begin(0, b"")
        self.introduced = True
        self._take(first)

    def _reset(self, who: seg.Identity) -> None:
        self.who = who
        self.owner_pid = os.getpid()
        self.introduced = False
        self.serial = 0
        self.size = SMALLEST
        self.sealed: list[seg.Segment] = []  # full ones, until they are acked
        self.spare: seg.Segment | None = None  # the next one, made by the sender
        self.ready: seg.Segment | None = None  # the next one, made by a writer
        self.reserve: seg.Segment | None = None  # for what is no metric, when there is no room
        self.reserving = False  # the current one is the reserve
        self.reserve_at = 0
        self.current: seg.Segment | None = None
        self.dropped = 0  # since the last segment was made
        self.dropped_points = 0
        self.dropped_since = 0  # ns UTC
        self.why = ""  # there was no room
        self.lost = 0  # in all
        self.retry_at = 0
        self.buffer: mmap.mmap | bytearray | None = None
        self.words: memoryview | unmapped.Words | None = None
        self.position = 1  # beyond the limit: the first event makes a segment
        self.limit = 0
        self.commit = 0

    # -------------------------------------------------------------------------- writing

    def append(self, record: bytes) -> Deferred | None:
        """Keep one encoded event.  Never raises for I/O, waits only for another thread's copy.

        None: it is written.  Else the call interrupted a writer, which will write it.
        """
        if self.busy:
            return self._defer(record)
        try:
            self.busy = True
            self._write(record)
        finally:
            self.busy = False
            if self.deferred:
                self.drain()
        return None

    def drain(self) -> None:
        """Write what others left while somebody was writing."""
        while self.deferred:
            if self.busy:
                return  # that writer will
            try:
                self.busy = True
                while self.deferred:
                    item = self.deferred[0]
                    self._write(item.record)
                    item.written = True
                    self.deferred.popleft()
            finally:
                self.busy = False

    def _defer(self, record: bytes) -> Deferred | None:
        item = Deferred(record)
        self.deferred.append(item)
        if not self.busy:  # released meanwhile: nobody else may come by
            self.drain()
        if not item.written and _interrupts_writer():
            return item
        pause = 0.0
        while not item.written:
            time.sleep(pause)
            pause = min(0.001, pause + 0.00001)
            if not self.busy:
                self.drain()
        return None

    def _write(self, record: bytes, kept: int = _LAST) -> None:
        length = len(record)
        if not self.room(length, _is_metric(record), kept):
            return
        position = self.position
        self.buffer[position : position + length] = record  # type: ignore[index]
        # No call from here on: a signal cannot come between.
        self.position = position + length
        self.commit = commit = self.commit + (1 << 32) + length
        self.words[seg.COMMIT] = commit  # type: ignore[index]

    def room(self, length: int, metric: bool = True, kept: int = _LAST) -> bool:
        """Called by whoever holds ``busy``: make ``length`` bytes writable at ``position``.

        Sets cut points and turns segments.  False: the event is dropped, and counted.  ``kept``:
        bytes that must stay free in the reserve.
        """
        if self.closed:
            self.late()
        current = self.current
        if not self.introduced:
            return self._introduce(length, metric)
        if current is not None:
            if not current.mapped:  # an interrupt may have come between the copy and the commit
                current.settle(self.commit)
                self.position = current.base + (self.commit & seg.MASK)
            used = self.commit & seg.MASK
            last = current.cuts[-1][0] if current.cuts else 0
            if used - last >= CUT:
                current.cut(used, self.commit >> 32)
                if self.limit > 0:
                    self.limit = min(current.base + used + CUT, current.size - _LAST)
            end = current.size if self.reserve is not None else current.size - kept
            if self.position + length <= end and not self.reserving:
                return True
        return self._turn(length, metric, kept)

    def late(self) -> NoReturn:
        """What a call after the end gets: a thread that outlives the script ends silently."""
        if self.leaving and threading.current_thread() is not threading.main_thread():
            raise SystemExit
        raise UsageError("the run has ended: call start_run first")

    def _introduce(self, length: int, metric: bool) -> bool:
        """A forked child's first segment, and its first records."""
        records = [] if self.prologue is None else self.prologue()
        first = b"".join(records)
        if self.current is None and not self._turn(len(first) + length, False, _LAST):
            return False
        position, length, count = self.position, len(first), len(records)
        if records:
            self.buffer[position : position + length] = first  # type: ignore[index]
            # No call from here on.
            self.position = position + length
            self.commit = commit = self.commit + (count << 32) + length
            self.words[seg.COMMIT] = commit  # type: ignore[index]
        self.introduced = True
        return not (metric and self.reserving) or self._turn(length, metric, _LAST)

    def _turn(self, length: int, metric: bool, kept: int) -> bool:
        """Seal the current segment and begin the next one, or the reserve."""
        known = tuple(self.definitions)
        table = array_header(len(known)) + b"".join(known) if known else b""
        reserve = False
        segment = self._next(length, len(table))
        if segment is None:
            current = self.current
            if not metric and not self.reserving:
                segment, reserve, table = self._reserve(), True, b""
            left = 0 if current is None else current.size - self.position
            if segment is None and not metric and length + kept <= left:
                return True
            if segment is None or (reserve and seg.HEADER + length + kept > segment.size):
                self._drop(metric)
                return False
        old, dropped = self.current, self.dropped
        first = 0 if old is None else old.first + (self.commit >> 32)
        segment.begin(first + dropped, table)
        self.size = min(LARGEST, self.size * 2)
        self._take(segment, self._note(first) if dropped else b"", reserve)
        return True

    def _next(self, length: int, table: int) -> seg.Segment | None:
        """A segment that takes so much; None when none can be made now."""
        segment = self.spare if self.ready is None else self.ready
        if segment is None or segment.size < seg.HEADER + table + length + 4 * _POINT:
            now = time.monotonic_ns()
            if now < self.retry_at:
                return None
            try:
                least = seg.HEADER + table + length + 6 * _POINT
                self._discard()
                self.ready = segment = self._make(max(least, seg.HEADER + table + self.size), least)
            except OSError as error:
                self.retry_at = now + _RETRY
                self.why = _why(error)
                return None
        return segment

    def _reserve(self) -> seg.Segment | None:
        """The reserve; made now where nobody made it before."""
        if self.reserve is None and not self.reserving:
            now = time.monotonic_ns()
            if now >= self.reserve_at:
                try:
                    self.reserve = self._make(SMALLEST, reserve=True)
                except OSError:
                    self.reserve_at = now + _RETRY
        return self.reserve

    def _note(self, first: int) -> bytes:
        """The record that says what was dropped."""
        return msgspec.msgpack.encode(
            Dropped(
                time.time_ns(),
                first,
                self.dropped,
                self.why or "no room in the spool",
                self.dropped_points,
                self.dropped_since,
            )
        )

    def _take(self, segment: seg.Segment, note: bytes = b"", reserve: bool = False) -> None:
        """Make ``segment`` the current one, with ``note`` as its first record."""
        old, buffer, words = self.current, segment.buffer, segment.words
        position, limit = segment.base, min(segment.base + CUT, segment.size - _LAST)
        if reserve or not segment.mapped:
            limit = -1  # each call asks for room
        commit = 0
        if note:
            buffer[position : position + len(note)] = note
            position += len(note)
            commit = (1 << 32) + len(note)
            words[seg.COMMIT] = commit
        # No call from here on: whoever comes between two of these finds half a turn.
        if old is not None:
            self.sealed = [*self.sealed, old]
        if self.spare is segment:
            self.spare = None
        if reserve:
            self.reserve = None
        else:
            self.ready = None
        self.reserving = reserve
        self.dropped = 0
        self.dropped_points = 0
        self.buffer = buffer
        self.words = words
        self.current = segment
        self.commit = commit
        self.position = position
        self.limit = limit
        if old is not None and not old.mapped:
            old.seal()

    def _discard(self) -> None:
        """Let go of what is too small."""
        small = (self.spare, self.ready)
        self.spare = self.ready = None
        for segment in small:
            if segment is not None:
                segment.remove()

    def _drop(self, metric: bool) -> None:
        if not self.dropped:
            self.dropped_since = time.time_ns()
        self.dropped += 1
        self.dropped_points += metric
        self.lost += 1

    def _make(self, size: int, least: int = SMALLEST, *, reserve: bool = False) -> seg.Segment:
        """Make a segment file of ``least`` to ``size`` bytes.

        Raises ``OSError``; at the limit ``spool.Full``, unless all before it is acked.
        """
        held = sum(s.size for s in self.sealed) + (self.current.size if self.current else 0)
        places = self.places if held < spool.MEMORY_SHARE else self.places[1:] or self.places
        quota = None if reserve or self.current is None else self.quota
        error: OSError | None = None
        for place in places:
            try:
                if quota is not None:
                    quota.ask(place, size)
                return self._create(place, size, least)
            except OSError as problem:
                error = problem
        assert error is not None
        if isinstance(error, spool.Full) and not self.sealed:
            return self._create(places[-1], max(SMALLEST, least), least)
        raise error

    def _create(self, place: Path, size: int, least: int) -> seg.Segment:
        number = self.serial
        self.serial = number + 1  # before: the sender may be making one, too
        path = place / self.who.run / self.who.producer.hex() / f"{number:06d}.seg"
        if place in self.unmapped:  # its bytes wait in memory as long as it is the current one
            return unmapped.create(path, self.who, _pages(max(least, min(size, WRITTEN))))
        return seg.create(path, self.who, _pages(size))

    # -------------------------------------------------------------- for the sender thread

    def prepare(self) -> None:
        """Make the next segment ahead of the writer, and the reserve."""
        if self.reserve is None and not self.closed:
            self._reserve()
        if self.spare is None and self.current is not None:
            used = self.commit & seg.MASK
            if 2 * used > self.current.size or self.reserving:
                try:
                    self.spare = spare = self._make(self.size)
                except OSError:
                    return  # the writer will find out, and count
                if self.closed:
                    spare.remove()
        if self.closed and self.reserve is not None:
            self.reserve.remove()

    def mark(self) -> Mark:
        """How far the journal has got: one consistent pair, read without stopping anybody."""
        while True:
            segment = self.current
            commit = self.commit
            if segment is self.current:  # else a segment turned in between
                return Mark(segment, commit & seg.MASK, commit >> 32)

    @property
    def sent(self) -> int:
        """Events accepted so far, dropped ones included."""
        mark = self.mark()
        first = mark.segment.first if mark.segment is not None else 0
        return first + mark.count + self.dropped

    def release(self, acked: int) -> None:
        """Remove sealed segments whose events are all before sequence ``acked``."""
        while self.sealed:
            head = self.sealed[0]
            if head.first + (head.commit >> 32) > acked:
                return
            self.sealed.pop(0).remove()

    def end(self, last: bytes = b"", lost: int = 0, why: str = "") -> None:
        """Take ``last`` and nothing more: later calls, of any thread, raise ``UsageError``.

        Before it stands the count of what was dropped, when nothing has told it yet; ``lost``
        metric points that were never written, for the reason ``why``, are part of it.
        """
        if self._hold():
            try:
                while self.deferred:
                    self._write(self.deferred[0].record)
                    self.deferred.popleft().written = True
                for _ in range(lost):
                    self.why = self.why if self.dropped else why
                    self._drop(True)
                if last and not self.closed:
                    if self.dropped and self.room(len(last) + _LAST // 2, False, 0):
                        mark = self.mark()
                        if self.dropped and mark.segment is not None:
                            self._write(self._note(mark.segment.first + mark.count + 2), 0)
                    self._write(last, 0)
                self.closed = True
                self.limit = -1  # so that a late call asks for room, and is told
            finally:
                self.busy = False

    def close(self, *, remove: bool) -> None:
        """Let go of all files; ``remove`` them when everything in them is acked."""
        self.end()
        kept = [*self.sealed, self.current]
        unused = [self.spare, self.ready, self.reserve]
        held = self._hold()
        self.closed = True
        for segment in (*kept, *unused):
            if segment is None:
                continue
            if remove or segment in unused:
                segment.path.unlink(missing_ok=True)
            if held:  # else a call on this very thread is about to go on writing there
                segment.close()
        if held:
            self.buffer = self.words = None
            self.sealed, self.current = [], None
            self.spare = self.ready = self.reserve = None
            self.busy = False
        if remove:
            for place in self.places:
                spool.clear(place / self.who.run / self.who.producer.hex())

    def _hold(self) -> bool:
        """Become the writer.  False: we interrupted it on this very thread."""
        while True:
            if not self.busy:
                self.busy = True  # no call between the test and this
                return True
            if _interrupts_writer():
                return False
            time.sleep(0.0001)

    # ------------------------------------------------------------------------------ forks

    def forked(self, who: Callable[[], seg.Identity]) -> None:
        """In a forked child: forget the parent's files and begin a journal at the first event.

        ``who`` makes the identity.  A signal handler that comes meanwhile finds a writer.
        """
        self.busy = True
        self.deferred = deque()  # what lies there is the parent's
        try:
            self._reset(who())
        finally:
            self.busy = False
            if self.deferred:
                self.drain()


def _is_metric(record: bytes) -> bool:
    """Whether an event is a point, or a series, which segments repeat."""
    return record[0] & 0xF0 == 0x90 and record[1] in (2, 3)


def _why(error: OSError) -> str:
    return str(error) if isinstance(error, spool.Full) else "no room in the spool"


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _interrupts_writer() -> bool:
    """Whether a writer's frame lies further down on this thread's own stack.

    The frames of the present call come first (writers all of them) and do not count.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_code in WRITERS:
        frame = frame.f_back  # type: ignore[assignment]
    while frame is not None:
        if frame.f_code in WRITERS:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


WRITERS.update(f.__code__ for f in (Journal.append, Journal.drain, Journal._defer, Journal.forked))
