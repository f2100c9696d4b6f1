"""Metric points in files that grow with the run: what the sinks of points do alike.

``metrics/part-<first>-<last><suffix>``: a part is named by the event-log frames, first and last,
whose points it holds; a frame is never split.  While the run goes on, points are kept in compact
columns and rolled into a part (in log order) at a million rows or after 60 s.  A part is written
beside its name, synced, renamed: what ``flush`` calls safe survives the loss of the node.
``close`` merges the parts into one, ordered by series, whose rows and their order depend on the
log alone, not on when parts were rolled or how often the collector died.  After a crash the next
instance starts at the cursor: parts beyond it are replaced, a merged part that reaches beyond it
is recognised and its frames are not taken twice.  So each point stands once.  A part whose range
lies inside another's is a leftover of a merge and is ignored.

Never here: a decision that looks at a value.  NaN, infinities and -0.0 go to the format bit for
bit.  What a file looks like inside says the ``Format``.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from prov4ml.errors import SinkError, UsageError
from prov4ml.events import Point
from prov4ml.sink import Chunk, Output, SeriesKey, Target
from prov4ml_sinks import metric_columns as columns

__all__ = [
    "FOLDER",
    "Format",
    "MetricParts",
    "Part",
    "one_of",
    "parts",
    "read",
    "visible",
    "whole_number",
]

FOLDER: Final = "metrics"

_PENDING: Final = 16_384  # rows that may wait as Python objects before they become columns
_INT64: Final = range(-(1 << 63), 1 << 63)


class Format(Protocol):
    """The inside of a file of points.  Tables have the columns of ``metric_columns.schema``."""

    @property
    def suffix(self) -> str:
        """Such as ".parquet"."""
        ...

    def write(self, path: Path, groups: Iterable[Any]) -> None:
        """Write rows, given in tables that have ``GROUP`` of them each, the last one up to it."""

    def batches(self, path: Path) -> Iterator[Any]:
        """The record batches of a file, in its order, at most ``GROUP`` rows at a time."""
        ...


# ---------------------------------------------------------------------------------- names


class Part(NamedTuple):
    """A file of points, and the frames it holds."""

    first: int
    last: int
    path: Path

    def covers(self, other: Part) -> bool:
        return self.first <= other.first and other.last <= self.last


def part(folder: Path, first: int, last: int, suffix: str) -> Part:
    return Part(first, last, folder / f"part-{first}-{last}{suffix}")


def parts(folder: Path, suffix: str) -> list[Part]:
    """All parts of a format in a folder by first frame, the wider one first."""
    pattern = re.compile(rf"part-(0|[1-9][0-9]*)-(0|[1-9][0-9]*){re.escape(suffix)}")
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = [match for match in map(pattern.fullmatch, names) if match]
    listed = [part(folder, int(match[1]), int(match[2]), suffix) for match in found]
    return sorted(listed, key=lambda p: (p.first, -p.last))


def visible(listed: Sequence[Part]) -> list[Part]:
    """Those of ``parts(...)`` that are not inside another's range."""
    kept: list[Part] = []
    for candidate in listed:
        if not kept or candidate.last > kept[-1].last:
            kept.append(candidate)
    return kept


def read(directory: str | os.PathLike[str], format: Format) -> Any:
    """All points below a run directory (or its ``metrics/``) as a ``pyarrow.Table``.

    May be called while the run goes on: parts inside another's range are ignored, and parts
    that are merged away in the meantime are looked up again.  No points: an empty table.
    """
    import pyarrow as pa

    folder = Path(directory)
    if (folder / FOLDER).is_dir():
        folder /= FOLDER
    while True:
        found = visible(parts(folder, format.suffix))
        tables = [columns.schema().empty_table()]
        try:
            for each in found:
                batches = list(format.batches(each.path))
                tables.append(columns.exact(pa.Table.from_batches(batches).unify_dictionaries()))
        except FileNotFoundError:
            if visible(parts(folder, format.suffix)) == found:
                raise
            continue
        return pa.concat_tables(tables).unify_dictionaries()


# --------------------------------------------------------------------------------- the sink


class MetricParts:
    """A stream sink that writes points in files of one format."""

    options: ClassVar[Mapping[str, str]] = {
        "rows_per_part": "rows after which a part is written while running (default 1000000)",
    }
    seconds: ClassVar[float] = 60.0  # a part is also written when its oldest row waited this long

    def __init__(
        self, name: str, format: Format, target: Target, options: Mapping[str, object]
    ) -> None:
        """Take up what is in ``metrics/``; writes no file before there is a point.

        Raises ``ImportError`` without pyarrow, ``UsageError`` for a wrong option.
        """
        columns.require_pyarrow(name)
        self.clock: Callable[[], float] = time.monotonic  # seconds; tests put their own here
        self._name = name
        self._format = format
        self._limit = whole_number(name, options, "rows_per_part", 1_000_000, 1 << 40)
        self._root = target.directory
        self._folder = target.directory / FOLDER
        for leftover in self._folder.glob(f"part-*{format.suffix}.tmp"):  # a crash left it
            leftover.unlink(missing_ok=True)
        found = parts(self._folder, format.suffix)
        # Parts that begin at the cursor or later will come again from the log.  They stay until
        # their replacement is there, so that a replay never leaves a moment without points.
        self._stale = [part for part in found if part.first >= target.frame]
        before = [part for part in found if part.first < target.frame]
        self._parts = visible(before)
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
            raise SinkError(f"the {self._name} sink failed before and takes no more")
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
        """Write what waits and merge all parts into one; none without a point."""
        if self._broken:  # the frame that failed is not whole: leave it to the next instance
            for column in self._pending:
                del column[self._mark :]
        else:
            self._next_frame(self._frame + 1)
        self._roll()
        merged = self._merge() if self._parts else []
        if not self._broken:
            for part in self._stale:
                part.path.unlink(missing_ok=True)
        return merged

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
            batch = columns.packed(series, steps, epochs, times, values)
        except OverflowError:  # the client refuses such numbers; a foreign producer may not
            steps = [n if n is None or n in _INT64 else None for n in steps]
            epochs = [n if n is None or n in _INT64 else None for n in epochs]
            times = [min(max(n, _INT64[0]), _INT64[-1]) for n in times]
            batch = columns.packed(series, steps, epochs, times, values)
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
        part_ = self._part(self._first, self._last)
        self._make_room(part_)
        table = columns.resolved(self._packed, self._keys)
        starts = range(0, table.num_rows, columns.GROUP)
        self._write(part_, (table.slice(at, columns.GROUP) for at in starts))
        self._in_place(part_)
        self._parts.append(part_)
        self._held = part_.last
        self._packed, self._packed_rows = [], 0
        self._first = self._frame if self._pending[0] else -1
        self._since = self.clock()

    def _merge(self) -> list[Output]:
        own = self._parts
        whole = self._part(own[0].first, own[-1].last)
        self._make_room(whole)
        rows = self._write(whole, self._merged(own))
        self._in_place(whole)
        self._parts = [whole]
        for part_ in own:
            if part_ != whole:
                part_.path.unlink(missing_ok=True)
        with open(whole.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = whole.path.relative_to(self._root).as_posix()
        return [Output(path, digest, whole.path.stat().st_size, rows)]

    def _merged(self, listed: Sequence[Part]) -> Iterator[Any]:
        """The rows of all parts, ``GROUP`` at a time, each group in the order of its series.

        Groups are cut by the number of rows since the start of the log, and sorting is stable:
        neither how the log was cut into parts nor an earlier merge changes the outcome.
        """
        held: list[Any] = []
        room = columns.GROUP
        for one in listed:
            for batch in self._format.batches(one.path):
                while batch.num_rows >= room:
                    yield columns.by_series([*held, batch.slice(0, room)])
                    batch, held, room = batch.slice(room), [], columns.GROUP
                if batch.num_rows:
                    held.append(batch)
                    room -= batch.num_rows
        if held:
            yield columns.by_series(held)

    def _part(self, first: int, last: int) -> Part:
        return part(self._folder, first, last, self._format.suffix)

    def _write(self, new: Part, groups: Iterable[Any]) -> int:
        """Write a file whole: beside its name, synced, renamed.  Returns the number of rows."""
        new.path.parent.mkdir(exist_ok=True)
        beside = new.path.with_name(f"{new.path.name}.tmp")
        rows = 0

        def counted() -> Iterator[Any]:
            nonlocal rows
            for group in groups:
                rows += group.num_rows
                yield group

        try:
            self._format.write(beside, counted())
            _sync(beside)
            os.replace(beside, new.path)
            _sync(new.path.parent)  # or the name may be lost with the node
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        return rows

    def _make_room(self, new: Part) -> None:
        """Remove stale parts that overlap ``new`` where neither is inside the other.

        A reader could not tell which of the two to believe; inside another's range it can.
        """
        for part in list(self._stale):
            apart = part.last < new.first or new.last < part.first
            if not (apart or part.covers(new) or new.covers(part)):
                part.path.unlink(missing_ok=True)
                self._stale.remove(part)

    def _in_place(self, new: Part) -> None:
        """``new`` stands: what it replaces can go."""
        for part in list(self._stale):
            if new.covers(part):
                if part != new:
                    part.path.unlink(missing_ok=True)
                self._stale.remove(part)


def whole_number(
    sink: str, options: Mapping[str, object], name: str, default: int, most: int
) -> int:
    """An option that is a number from 1 to ``most``."""
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(
            f"option {name} of the sink {sink!r} is {value!r}; it must be an integer "
            f"from 1 to {most}"
        )
    return value


def one_of(sink: str, options: Mapping[str, object], name: str, known: Sequence[str]) -> str:
    """An option that is one of some words, the first of them by default."""
    value = options.get(name, known[0])
    if value not in known:
        raise UsageError(
            f"option {name} of the sink {sink!r} is {value!r}; it must be one of {', '.join(known)}"
        )
    return str(value)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
