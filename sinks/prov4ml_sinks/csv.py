"""Sink ``csv``: every metric point as text, in ``metrics/part-<first>-<last>.csv``.

For eyes and spreadsheets; ``parquet`` is smaller and faster.  Numbers are written with as many
digits as give the same binary64 again; every NaN is ``nan``, whatever its payload.  Times are
``2026-01-01 00:00:00.123456789Z``.  Strings stand in quotes, a missing step, epoch or source is
empty without quotes.  When parts are written, merged and taken up again is in ``metric_parts``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from prov4ml.errors import UsageError
from prov4ml.sink import Target
from prov4ml_sinks import metric_columns as columns
from prov4ml_sinks import metric_parts
from prov4ml_sinks.metric_parts import MetricParts

__all__ = ["Csv", "read"]

_SUFFIXES: Final = {"none": ".csv", "gzip": ".csv.gz"}
_BLOCK: Final = 8 << 20  # bytes parsed at a time; a row is far below


class Csv(MetricParts):
    """Metric points as text, a row each."""

    options: ClassVar[Mapping[str, str]] = {
        "separator": 'one character between values (default ",")',
        "compressor": "none or gzip (default none); files then end in .csv.gz",
        **MetricParts.options,
    }

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        """Raises ``ImportError`` without pyarrow, ``UsageError`` for a wrong option."""
        compressor = metric_parts.one_of("csv", options, "compressor", tuple(_SUFFIXES))
        super().__init__("csv", _Files(_separator(options), compressor), target, options)


def _separator(options: Mapping[str, object]) -> str:
    value = options.get("separator", ",")
    text = value if isinstance(value, str) and len(value) == 1 and value.isascii() else "0"
    if not text.isalnum() and text not in '"+-.:\r\n\0':
        return text
    raise UsageError(
        f"option separator of the sink 'csv' is {value!r}; it must be one ASCII character that "
        "stands in no number and is no quote or line end"
    )


def read(directory: str | os.PathLike[str], separator: str = ",") -> Any:
    """All points below a run directory (or its ``metrics/``) as a ``pyarrow.Table``.

    May be called while the run goes on.  No points: an empty table.
    """
    columns.require_pyarrow("csv")
    import pyarrow as pa

    kinds = (_Files(separator, compressor) for compressor in _SUFFIXES)
    return pa.concat_tables(metric_parts.read(directory, each) for each in kinds)


class _Files:
    def __init__(self, separator: str, compressor: str) -> None:
        self.suffix = _SUFFIXES[compressor]
        self._separator = separator
        self._compressor = compressor

    def write(self, path: Path, groups: Iterable[Any]) -> None:
        import pyarrow as pa
        import pyarrow.csv as pc

        plain = pa.schema([(f.name, _plain(f.type)) for f in columns.schema()])
        options = pc.WriteOptions(delimiter=self._separator)
        with (
            pa.CompressedOutputStream(str(path), "gzip")
            if self._compressor == "gzip"
            else pa.OSFile(str(path), "wb") as out,
            pc.CSVWriter(out, plain, write_options=options) as writer,
        ):
            for group in groups:
                writer.write_table(group.cast(plain))

    def batches(self, path: Path) -> Iterator[Any]:
        import pyarrow.csv as pc

        kinds = {f.name: _plain(f.type) for f in columns.schema()}
        kinds["time"] = kinds["name"]  # text, see _time
        with pc.open_csv(
            path,
            read_options=pc.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=pc.ParseOptions(
                delimiter=self._separator, newlines_in_values=True, ignore_empty_lines=False
            ),
            convert_options=pc.ConvertOptions(
                column_types=kinds,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ) as reader:
            for batch in reader:
                yield from _typed(batch)


def _plain(kind: Any) -> Any:
    """The type of a column in text: words are words."""
    import pyarrow as pa

    return pa.string() if pa.types.is_dictionary(kind) else kind


def _typed(batch: Any) -> Iterator[Any]:
    """The same rows with words in dictionaries, at most a group at a time."""
    import pyarrow as pa

    for at in range(0, batch.num_rows, columns.GROUP):
        table = pa.Table.from_batches([batch.slice(at, columns.GROUP)])
        made = {name: table[name].dictionary_encode() for name in columns.WORDS}
        for name, column in {**made, "time": _time(table["time"])}.items():
            table = table.set_column(table.schema.get_field_index(name), name, column)
        yield from columns.exact(table).to_batches()


def _time(texts: Any) -> Any:
    """Times from ``2026-01-01 00:00:00.123456789Z``.

    By hand: pyarrow refuses the first day that int64 can hold, 1677-09-21; sums here wrap around.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    seconds = pc.utf8_slice_codeunits(texts, 0, 19).cast(pa.timestamp("s")).cast(pa.int64())
    rest = pc.utf8_slice_codeunits(texts, 20, 29).cast(pa.int64())
    return pc.add(pc.multiply(seconds, 1_000_000_000), rest).cast(pa.timestamp("ns", "UTC"))
