"""Metric points as arrays of two dimensions, for formats of arrays (``zarr``, ``netcdf``).

An indexed ragged array, as the CF conventions have it (1.11, section 9.3.4): along ``point`` lie
``series_index``, ``step``, ``epoch``, ``time`` and ``value``; along ``series`` ``rank``,
``attempt``, ``context``, ``name`` and ``source``, once for each series.  The row of a point's
series is its ``series_index``.  Integers have no missing value (readers would make floats of
them), so ``has_step``, ``has_epoch`` and ``has_source`` are 1 where there is one, and 0 else.

Bytes are little endian.  Nothing here touches a file; a column never becomes Python objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prov4ml_sinks import metric_columns as columns

__all__ = ["ATTRIBUTES", "POINTS", "SERIES", "WIDTHS", "Ragged", "attributes", "rebuilt"]

POINTS: Final = {
    "series_index": "i4",
    "step": "i8",
    "has_step": "i1",
    "epoch": "i8",
    "has_epoch": "i1",
    "time": "i8",
    "value": "f8",
}
"""Variables along ``point`` and their types, as NumPy spells them."""

SERIES: Final = {
    "rank": "i4",
    "attempt": "i4",
    "context": "str",
    "name": "str",
    "source": "str",
    "has_source": "i1",
}
"""Variables along ``series``."""

WIDTHS: Final = {"i1": 1, "i4": 4, "i8": 8, "f8": 8}

SERIES_KEY: Final = ("rank", "attempt", "context", "name", "source")

ATTRIBUTES: Final = {
    "Conventions": "CF-1.11",
    "title": "metric points recorded by prov4ml",
}
"""Of the whole file."""

_ABOUT: Final[dict[str, dict[str, str]]] = {
    "series_index": {
        "long_name": "which series the point belongs to, from 0",
        "instance_dimension": "series",
    },
    "step": {"long_name": "step; without meaning where has_step is 0"},
    "epoch": {"long_name": "epoch; without meaning where has_epoch is 0"},
    "time": {
        "standard_name": "time",
        "units": "nanoseconds since 1970-01-01",
        "calendar": "proleptic_gregorian",
    },
    "value": {"long_name": "value of the metric"},
    "context": {"long_name": "path of the context, joined with /; none is empty"},
    "name": {"long_name": "name of the metric"},
    "source": {"long_name": "source of the metric; none where has_source is 0"},
}


def attributes(name: str) -> dict[str, str]:
    """Of a variable."""
    return _ABOUT.get(name, {})


class Ragged:
    """Turns groups of rows into arrays along ``point``, and gathers the series on the way."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}

    def points(self, groups: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """For each group, pyarrow arrays without nulls, by the names in ``POINTS``."""
        import pyarrow as pa

        for group in groups:
            table = group.combine_chunks()
            found = {"series_index": self._index(table)}
            for name in ("step", "epoch"):
                column = _one(table[name])
                found[name] = column.fill_null(0)
                found[f"has_{name}"] = column.is_valid().cast(pa.int8())
            found["time"] = _one(table["time"]).cast(pa.int64())
            found["value"] = _one(table["value"])
            yield found

    @property
    def series(self) -> dict[str, list[Any]]:
        """Lists by the names in ``SERIES``, complete when ``points`` is exhausted."""
        keys = list(self._numbers)
        rank, attempt, context, name, source = zip(*keys, strict=True) if keys else ([],) * 5
        return {
            "rank": list(rank),
            "attempt": list(attempt),
            "context": list(context),
            "name": list(name),
            "source": ["" if word is None else word for word in source],
            "has_source": [int(word is not None) for word in source],
        }

    def _index(self, table: Any) -> Any:
        """The numbers of the rows' series, which are counted in the order of appearance."""
        import pyarrow as pa
        import pyarrow.compute as pc

        words, codes = zip(*(_coded(table[name]) for name in SERIES_KEY), strict=True)
        mixed = codes[0]
        for known, code in zip(words[1:], codes[1:], strict=True):
            mixed = pc.add(pc.multiply(mixed, len(known)), code)
            mixed = mixed.dictionary_encode().indices.cast(pa.int64())  # so that none overflows
        first = pa.table([mixed, *codes], names=["series", *SERIES_KEY])
        first = first.group_by("series", use_threads=False).aggregate(
            [(name, "first") for name in SERIES_KEY]
        )
        parts = [first[f"{name}_first"].to_pylist() for name in SERIES_KEY]
        numbers = [
            self._numbers.setdefault(
                tuple(known[code] for known, code in zip(words, row, strict=True)),
                len(self._numbers),
            )
            for row in zip(*parts, strict=True)
        ]
        place = pc.index_in(mixed, value_set=first["series"].combine_chunks())
        return pa.array(numbers, pa.int32()).take(place)


def _coded(column: Any) -> tuple[list[Any], Any]:
    """The distinct values of a column, None behind them, and their places as int64."""
    import pyarrow as pa

    column = _one(column)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    known = column.dictionary.to_pylist()
    return [*known, None], column.indices.cast(pa.int64()).fill_null(len(known))


def rebuilt(points: Mapping[str, Any], series: Mapping[str, Sequence[Any]]) -> Any:
    """A record batch with the usual columns, from arrays along ``point`` and the series."""
    import pyarrow as pa
    import pyarrow.compute as pc

    index = points["series_index"]

    def spread(values: Sequence[Any], kind: Any) -> Any:
        each = pa.array(values, kind)
        return (each.dictionary_encode() if kind == pa.string() else each).take(index)

    def kept(name: str) -> Any:
        there = points[f"has_{name}"].cast(pa.bool_())
        return pc.if_else(there, points[name], pa.scalar(None, pa.int64()))

    sources = [
        word if there else None
        for word, there in zip(series["source"], series["has_source"], strict=True)
    ]
    table = pa.table(
        [
            spread(series["rank"], pa.int32()),
            spread(series["attempt"], pa.int32()),
            spread(series["context"], pa.string()),
            spread(series["name"], pa.string()),
            kept("step"),
            kept("epoch"),
            points["time"].cast(pa.timestamp("ns", "UTC")),
            points["value"],
            spread(sources, pa.string()),
        ],
        schema=columns.schema(),
    )
    (batch,) = table.combine_chunks().to_batches(max_chunksize=max(1, table.num_rows))
    return batch


def _one(column: Any) -> Any:
    """A column in one piece."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
    return column
