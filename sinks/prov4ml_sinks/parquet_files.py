"""The files of the ``parquet`` sink: names, columns, encodings, order; and how to read them.

``metrics/part-<first>-<last>.parquet``: frames of the event log, both inclusive.  A part whose
range lies inside another's is a leftover of a merge and is ignored.  Columns: rank, attempt,
context, name, step, epoch, time, value, source.  The path of a nested context is joined with
``/``; inside a name ``%`` and ``/`` are written ``%25`` and ``%2F`` (an empty name ``%``), so
``("a", "b/c")`` is ``a/b%2Fc`` and no two paths are spelled the same; no context is ``""``.

Encodings were chosen by measuring a digits run of 2,300 points (bytes per point in brackets):
rows in the order of their series beat log order (5.6, 5.9); step, epoch and time as
DELTA_BINARY_PACKED, value as BYTE_STREAM_SPLIT, all else dictionaries; no copy of the Arrow
schema in the footer (0.4) and statistics of step and time only (0.2).  Times, at 2.7, and values
are most of it.

Nothing here keeps state; memory is bounded by a group of rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from prov4ml.sink import SeriesKey

__all__ = [
    "FOLDER",
    "GROUP",
    "Part",
    "context_text",
    "merged",
    "packed",
    "part",
    "parts",
    "read",
    "require_pyarrow",
    "resolved",
    "schema",
    "unfinished",
    "visible",
    "write",
]

FOLDER: Final = "metrics"
GROUP: Final = 1 << 18
"""Rows of a row group, and of one sort: what a merge holds in memory."""

_NAME: Final = re.compile(r"part-(0|[1-9][0-9]*)-(0|[1-9][0-9]*)\.parquet")
_WORDS: Final = ("context", "name", "source")
_ORDER: Final = ("attempt", "rank", "context", "name", "source")


class Part(NamedTuple):
    """A file of points, and the frames it holds."""

    first: int
    last: int
    path: Path

    def covers(self, other: Part) -> bool:
        return self.first <= other.first and other.last <= self.last


def require_pyarrow() -> None:
    """Import pyarrow, or raise an ``ImportError`` that names the pip line."""
    try:
        import pyarrow.compute
        import pyarrow.parquet  # noqa: F401  (imported here once, so that no write pays for it)
    except ImportError as error:
        raise ImportError(
            "the sink 'parquet' needs the package 'pyarrow': pip install 'pyarrow>=16' "
            "(or take 'parquet' off the list of sinks)",
            name="pyarrow",
        ) from error


def read(directory: str | os.PathLike[str]) -> Any:
    """All points below a run directory (or its ``metrics/``) as a ``pyarrow.Table``.

    May be called while the run goes on: parts inside another's range are ignored, and parts
    that are merged away in the meantime are looked up again.  No points: an empty table.
    """
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(directory)
    if (folder / FOLDER).is_dir():
        folder /= FOLDER
    while True:
        found = visible(parts(folder))
        try:
            tables = [_exact(pq.ParquetFile(p.path, read_dictionary=_WORDS).read()) for p in found]
        except FileNotFoundError:
            if visible(parts(folder)) == found:
                raise
            continue
        return pa.concat_tables([schema().empty_table(), *tables]).unify_dictionaries()


def context_text(context: Iterable[str]) -> str:
    """How the path of a context is spelled in the column ``context``."""
    names = (name.replace("%", "%25").replace("/", "%2F") or "%" for name in context)
    return "/".join(names)


def schema() -> Any:
    """The columns, as pyarrow has them."""
    import pyarrow as pa

    word = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("attempt", pa.int32(), nullable=False),
            pa.field("context", word, nullable=False),
            pa.field("name", word, nullable=False),
            pa.field("step", pa.int64()),
            pa.field("epoch", pa.int64()),
            pa.field("time", pa.timestamp("ns", "UTC"), nullable=False),
            pa.field("value", pa.float64(), nullable=False),
            pa.field("source", word),
        ]
    )


# ---------------------------------------------------------------------------------- names


def part(folder: Path, first: int, last: int) -> Part:
    return Part(first, last, folder / f"part-{first}-{last}.parquet")


def parts(folder: Path) -> list[Part]:
    """All parts in a folder by first frame, the wider one first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = [match for match in map(_NAME.fullmatch, names) if match]
    listed = [part(folder, int(match[1]), int(match[2])) for match in found]
    return sorted(listed, key=lambda p: (p.first, -p.last))


def visible(listed: Sequence[Part]) -> list[Part]:
    """Those of ``parts(...)`` that are not inside another's range."""
    kept: list[Part] = []
    for candidate in listed:
        if not kept or candidate.last > kept[-1].last:
            kept.append(candidate)
    return kept


def unfinished(folder: Path) -> list[Path]:
    """Files that a crash left half written."""
    return sorted(folder.glob("part-*.parquet.tmp"))


# ---------------------------------------------------------------------------------- rows


def rows(one: Part) -> int:
    """How many a part holds."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(one.path) as file:
        number: int = file.metadata.num_rows
        return number


def packed(
    series: list[int],
    steps: list[int | None],
    epochs: list[int | None],
    times: list[int],
    values: list[float],
) -> Any:
    """Columns of 36 bytes a row; the series as a number.  ``OverflowError`` beyond int64."""
    import pyarrow as pa

    try:
        return pa.record_batch(
            [
                pa.array(series, pa.int32()),
                pa.array(steps, pa.int64()),
                pa.array(epochs, pa.int64()),
                pa.array(times, pa.int64()),
                pa.array(values, pa.float64()),
            ],
            names=["series", "step", "epoch", "time", "value"],
        )
    except pa.ArrowInvalid as error:  # what pyarrow raises for an int just beyond int64
        raise OverflowError(str(error)) from error


def resolved(batches: Sequence[Any], keys: Sequence[tuple[int, int, SeriesKey]]) -> Any:
    """A table with the final columns from packed batches.

    ``keys[number]`` is (attempt, rank, series) of the series with that number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.Table.from_batches(batches).combine_chunks()
    numbers = table["series"].combine_chunks()
    used = pc.unique(numbers)
    index = pc.index_in(numbers, value_set=used)
    rows = [keys[number] for number in used.to_pylist()]

    def column(values: list[Any], kind: Any) -> Any:
        each = pa.array(values, kind)
        return (each.dictionary_encode() if kind == pa.string() else each).take(index)

    return pa.table(
        [
            column([rank for _, rank, _ in rows], pa.int32()),
            column([attempt for attempt, _, _ in rows], pa.int32()),
            column([_utf8(context_text(key.context)) for _, _, key in rows], pa.string()),
            column([_utf8(key.name) for _, _, key in rows], pa.string()),
            table["step"],
            table["epoch"],
            table["time"].cast(pa.timestamp("ns", "UTC")),
            table["value"],
            column(
                [None if key.source is None else _utf8(key.source) for _, _, key in rows],
                pa.string(),
            ),
        ],
        schema=schema(),
    )


def merged(listed: Sequence[Part]) -> Iterator[Any]:
    """The rows of all parts, ``GROUP`` at a time, each group in the order of its series.

    Groups are cut by the number of rows since the start of the log, and sorting is stable:
    neither how the log was cut into parts nor an earlier merge changes the outcome.
    """
    import pyarrow.parquet as pq

    held: list[Any] = []
    room = GROUP
    for one in listed:
        with pq.ParquetFile(one.path, read_dictionary=_WORDS) as file:
            for batch in file.iter_batches(batch_size=GROUP // 4):
                while batch.num_rows >= room:
                    yield _by_series([*held, batch.slice(0, room)])
                    batch, held, room = batch.slice(room), [], GROUP
                if batch.num_rows:
                    held.append(batch)
                    room -= batch.num_rows
    if held:
        yield _by_series(held)


def write(path: Path, groups: Iterable[Any], level: int) -> int:
    """Write a file whole: beside its name, synced, renamed.  Returns the number of rows."""
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    rows = 0
    try:
        with pq.ParquetWriter(
            beside,
            schema(),
            compression="zstd",
            compression_level=level,
            use_dictionary=["rank", "attempt", *_WORDS],
            column_encoding={
                "step": "DELTA_BINARY_PACKED",
                "epoch": "DELTA_BINARY_PACKED",
                "time": "DELTA_BINARY_PACKED",
                "value": "BYTE_STREAM_SPLIT",
            },
            write_statistics=["step", "time"],
            store_schema=False,
        ) as writer:
            for group in groups:
                writer.write_table(group, row_group_size=GROUP)
                rows += group.num_rows
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)  # or the name may be lost with the node
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return rows


def _by_series(batches: Sequence[Any]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    keys = {}
    for name in _ORDER:
        column = table[name].combine_chunks()
        if name in _WORDS:
            words = column.dictionary.to_pylist()
            place = {word: number for number, word in enumerate(sorted(words))}
            column = pa.array([place[word] for word in words], pa.int32()).take(column.indices)
        keys[name] = column
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in _ORDER])
    return _exact(table.take(order))


def _exact(table: Any) -> Any:
    """The same rows with our schema (a file does not say that words are dictionaries)."""
    return table.cast(schema())


def _utf8(text: str) -> str:
    """Parquet strings are UTF-8: lone surrogates are escaped as text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
