"""Rows of metric points in columns, as every file of points has them, whatever its format.

Columns: rank, attempt, context, name, step, epoch, time, value, source.  The path of a nested
context is joined with ``/``; inside a name ``%`` and ``/`` are written ``%25`` and ``%2F`` (an
empty name ``%``), so ``("a", "b/c")`` is ``a/b%2Fc`` and no two paths are spelled the same; no
context is ``""``.  Nothing here touches a file or looks at a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from prov4ml.sink import SeriesKey

__all__ = [
    "GROUP",
    "ORDER",
    "WORDS",
    "by_series",
    "context_text",
    "exact",
    "packed",
    "require_pyarrow",
    "resolved",
    "schema",
]

GROUP: Final = 1 << 18
"""Rows of a group, and of one sort: what a merge holds in memory."""

WORDS: Final = ("context", "name", "source")
ORDER: Final = ("attempt", "rank", "context", "name", "source")
"""What a series is; groups are sorted by it."""


def require_pyarrow(sink: str) -> None:
    """Import pyarrow, or raise an ``ImportError`` that names the pip line."""
    try:
        import pyarrow.compute  # noqa: F401  (imported here once, so that no write pays for it)
    except ImportError as error:
        raise ImportError(
            f"the sink {sink!r} needs the package 'pyarrow': pip install 'pyarrow>=16' "
            f"(or take {sink!r} off the list of sinks)",
            name="pyarrow",
        ) from error


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


def by_series(batches: Sequence[Any]) -> Any:
    """The rows in the order of their series, those of one in the order they had."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    keys = {}
    for name in ORDER:
        column = table[name].combine_chunks()
        if name in WORDS:
            words = column.dictionary.to_pylist()
            place = {word: number for number, word in enumerate(sorted(words))}
            column = pa.array([place[word] for word in words], pa.int32()).take(column.indices)
        keys[name] = column
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in ORDER])
    return exact(table.take(order))


def exact(table: Any) -> Any:
    """The same rows with our schema (a file does not say that words are dictionaries)."""
    return table.cast(schema())


def _utf8(text: str) -> str:
    """Strings of these files are UTF-8: lone surrogates are escaped as text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
