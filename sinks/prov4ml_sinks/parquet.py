"""Sink ``parquet``: every metric point, exactly, in ``metrics/part-<first>-<last>.parquet``.

A part is named by the event-log frames, first and last, whose points it holds; a frame is never
split.  While the run goes on, points are kept in compact columns and rolled into a part (in log
order) at a million rows or after 60 s.  A part is written beside its name, synced, renamed: what
``flush`` calls safe survives the loss of the node.  ``close`` merges the parts into one, ordered
by series, whose rows and their order depend on the log alone, not on when parts were rolled or
how often the collector died.  After a crash the next instance starts at the cursor: parts beyond
it are replaced, a merged part that reaches beyond it is recognised and its frames are not taken
twice.  So each point stands once.

Never here: a decision that looks at a value.  NaN, infinities and -0.0 are kept bit for bit.
The files themselves (columns, encodings, order, ``read``) are in ``parquet_files``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from prov4ml.errors import SinkError, UsageError, no_room
from prov4ml.events import Point
from prov4ml.sink import Chunk, Output, SeriesKey, Target
from prov4ml_sinks import parquet_files as files
from prov4ml_sinks.parquet_files import context_text, read

__all__ = ["Parquet", "context_text", "read"]

_PENDING: Final = 16_384  # rows that may wait as Python objects before they become columns
_INT64: Final = range(-(1 << 63), 1 << 63)


class Parquet:
    """Metric points in columns, in files that grow with the run."""

    options: ClassVar[Mapping[str, str]] = {
        "compression_level": "zstd level, 1 to 22 (default 12)",
        "rows_per_part": "rows after which a part is written while running (default 1000000)",
    }
    seconds: ClassVar[float] = 60.0  # a part is also written when its oldest row waited this long

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        """Take up what is in ``metrics/``; writes no file before there is a point.

        Raises ``ImportError`` without pyarrow, ``UsageError`` for a wrong option.
        """
        files.require_pyarrow()
        self.clock: Callable[[], float] = time.monotonic  # seconds; tests put their own here
        self._level = _whole(options, "compression_level", 12, 22)
        self._limit = _whole(options, "rows_per_part", 1_000_000, 1 << 40)
        self._root = target.directory
        self._folder = target.directory / files.FOLDER
        for leftover in files.unfinished(self._folder):
            leftover.unlink(missing_ok=True)
        found = files.parts(self._folder)
        # Parts that begin at the cursor or later will come again from the log.  They stay until
        # their replacement is there, so that a replay never leaves a moment without points.
        self._stale = [part for part in found if part.first >= target.frame]
        before = [part for part in found if part.first < target.frame]
        self._parts = files.visible(before)
        for part in before:
            if part not in self._parts:
                part.path.unlink(missing_ok=True)
        self._held = self._parts[-1].last if self._parts else -1  # last frame that is in a part

        self._codes: dict[tuple[int, int, SeriesKey], int] = {}
        self._keys: list[tuple[int, int, SeriesKey]] = []
        self._packed: list[Any] = []  # record batches of complete frames
        self._packed_rows = 0
        self._pending: tuple[list[Any], ...] = ([], [], [], [], [])
        self._mark = 0  # pending rows before the frame that may still grow
        self._frame = max(target.frame, 0)  # the frame seen last; it may still grow
        self._first = -1  # first frame with points that are not in a part; -1: none
        self._last = -1  # last complete frame with points
        self._since = 0.0  # when the oldest waiting row came
        self._broken = False

    def write(self, chunk: Chunk) -> None:
        """Take the points of a chunk; a part may be written first, when a frame is over."""
        if self._broken:
            raise SinkError("the parquet sink failed before and takes no more")
        try:
            if chunk.frame != self._frame:
                self._next_frame(chunk.frame)
            if chunk.frame > self._held:
                self._take(chunk)
        except BaseException:
            self._broken = True
            raise

    def flush(self) -> int:
        """Write a part when it is time; the first frame that is not safely in one."""
        if self._rows() and self.clock() - self._since >= self.seconds and not self._broken:
            self._roll()
        return self._frame if self._first < 0 else self._first

    def close(self) -> list[Output]:
        """Write what waits and merge all parts into one; none without a point.

        Without room for a merged one the parts stand: they hold the same rows.
        """
        if self._broken:  # the frame that failed is not whole: leave it to the next instance
            for column in self._pending:
                del column[self._mark :]
        else:
            self._next_frame(self._frame + 1)
        self._roll()
        try:
            outputs = self._merge() if self._parts else []
        except OSError as error:
            if not no_room(error):
                raise
            outputs = [self._output(part, files.rows(part)) for part in self._parts]
        if not self._broken:
            for part in self._stale:
                part.path.unlink(missing_ok=True)
        return outputs

    # ------------------------------------------------------------------------ in memory

    def _rows(self) -> int:
        return self._packed_rows + len(self._pending[0])

    def _next_frame(self, frame: int) -> None:
        """The frame before ``frame`` is complete: it may go into a part."""
        rows = len(self._pending[0])
        if rows > self._mark:
            self._mark, self._last = rows, self._frame
        self._frame = frame
        if rows >= _PENDING:
            self._pack()
        if self._rows() >= self._limit:
            self._roll()

    def _take(self, chunk: Chunk) -> None:
        points = [event for event in chunk.events if type(event) is Point]
        numbers = {point.series for point in points}
        codes = {n: self._code(chunk, chunk.series[n]) for n in numbers if n in chunk.series}
        if len(codes) < len(numbers):
            points = [point for point in points if point.series in codes]
        if not points:
            return
        if not self._rows():
            self._since = self.clock()
        if self._first < 0:
            self._first = chunk.frame
        series, steps, epochs, times, values = self._pending
        series += [codes[point.series] for point in points]
        steps += [point.step for point in points]
        epochs += [point.epoch for point in points]
        times += [point.time for point in points]
        values += [point.value for point in points]

    def _code(self, chunk: Chunk, key: SeriesKey) -> int:
        whole = (chunk.attempt, chunk.rank, key)
        code = self._codes.get(whole)
        if code is None:
            code = self._codes[whole] = len(self._keys)
            self._keys.append(whole)
        return code

    def _pack(self) -> None:
        """Turn pending rows of complete frames from Python objects into columns."""
        if not self._mark:
            return
        series, steps, epochs, times, values = (column[: self._mark] for column in self._pending)
        try:
            batch = files.packed(series, steps, epochs, times, values)
        except OverflowError:  # the client refuses such numbers; a foreign producer may not
            steps = [n if n is None or n in _INT64 else None for n in steps]
            epochs = [n if n is None or n in _INT64 else None for n in epochs]
            times = [min(max(n, _INT64[0]), _INT64[-1]) for n in times]
            batch = files.packed(series, steps, epochs, times, values)
        self._packed.append(batch)
        self._packed_rows += self._mark
        for column in self._pending:
            del column[: self._mark]
        self._mark = 0

    # -------------------------------------------------------------------------- on disk

    def _roll(self) -> None:
        """Write all complete frames as one part.  On failure they stay in memory."""
        self._pack()
        if not self._packed:
            return
        part = files.part(self._folder, self._first, self._last)
        self._make_room(part)
        files.write(part.path, [files.resolved(self._packed, self._keys)], self._level)
        self._in_place(part)
        self._parts.append(part)
        self._held = part.last
        self._packed, self._packed_rows = [], 0
        self._first = self._frame if self._pending[0] else -1
        self._since = self.clock()

    def _merge(self) -> list[Output]:
        own = self._parts
        whole = files.part(self._folder, own[0].first, own[-1].last)
        self._make_room(whole)
        rows = files.write(whole.path, files.merged(own), self._level)
        self._in_place(whole)
        self._parts = [whole]
        for part in own:
            if part != whole:
                part.path.unlink(missing_ok=True)
        return [self._output(whole, rows)]

    def _output(self, part: files.Part, rows: int) -> Output:
        with open(part.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = part.path.relative_to(self._root).as_posix()
        return Output(path, digest, part.path.stat().st_size, rows)

    def _make_room(self, new: files.Part) -> None:
        """Remove stale parts that overlap ``new`` where neither is inside the other.

        A reader could not tell which of the two to believe; inside another's range it can.
        """
        for part in list(self._stale):
            apart = part.last < new.first or new.last < part.first
            if not (apart or part.covers(new) or new.covers(part)):
                part.path.unlink(missing_ok=True)
                self._stale.remove(part)

    def _in_place(self, new: files.Part) -> None:
        """``new`` stands: what it replaces can go."""
        for part in list(self._stale):
            if new.covers(part):
                if part != new:
                    part.path.unlink(missing_ok=True)
                self._stale.remove(part)


def _whole(options: Mapping[str, object], name: str, default: int, most: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(
            f"option {name} of the sink 'parquet' is {value!r}; it must be an integer "
            f"from 1 to {most}"
        )
    return value
