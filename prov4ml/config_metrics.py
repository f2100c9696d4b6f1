"""Metric files as yProv4ML's ``start_run`` asks for them: a sink more, and its options.

``metrics_file_type`` names a sink, which is added to the list; a format of yProv4ML whose sink
is not installed gives a warning, anything else is an error that names what is there.
``csv_separator`` is the option ``separator`` of the sink ``csv``; ``use_compressor`` the option
``compressor`` of the sink that was asked for (of ``parquet`` when none was), and has no effect,
which is said, where that sink has no such choice.  Its choices are the words that the line on the
option begins with ("zstd, zlib or none (default zstd)"); True takes the first that compresses,
False takes "none".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from prov4ml import sink
from prov4ml.errors import UsageError
from prov4ml.talk import log

__all__ = ["FORMATS", "add_options", "add_sink"]

FORMATS: Final = ("csv", "zarr", "netcdf", "parquet")

Options = dict[str, dict[str, Any]]


def add_sink(wanted: str, listed: tuple[str, ...]) -> tuple[str, ...]:
    """The list of sinks, with the one for metric files of the format ``wanted``.

    Raises ``UsageError``.
    """
    name = wanted.lower()
    if name in listed and name in FORMATS:
        return listed
    found = sink.available()
    if name not in found:
        if name in FORMATS:
            log.warning(
                "metrics_file_type=%r: there is no sink for it; metrics are written as %s",
                wanted,
                ", ".join(n for n in listed if n in FORMATS) or "nothing else",
            )
            return listed
        there = [n for n in FORMATS if n in found]
        raise UsageError(
            f"metrics_file_type: {sink.unknown('format of metric files', name, there)}"
        )
    if name not in FORMATS and not sink.is_stream(sink.load(name)):
        raise UsageError(f"metrics_file_type: the sink {name!r} writes a document, not metrics")
    return listed if name in listed else (*listed, name)


def add_options(options: Options, listed: tuple[str, ...], given: Mapping[str, Any]) -> Options:
    """The options of sinks, with those that the keywords ask for."""
    made = {name: dict(table) for name, table in options.items()}
    separator, compressor = given.get("csv_separator"), given.get("use_compressor")
    if separator is not None and "csv" in listed:
        made.setdefault("csv", {})["separator"] = separator
    if compressor is not None:
        name = (given.get("metrics_file_type") or "parquet").lower()
        choices = _compressors(name) if name in listed else []
        if isinstance(compressor, bool):
            fitting = [c for c in choices if (c != "none") is compressor]
        else:
            fitting = [c for c in choices if c == compressor]
        if fitting:
            made.setdefault(name, {})["compressor"] = fitting[0]
        elif compressor is not False:
            log.warning(
                "use_compressor=%r has no effect: the sink %r offers %s",
                compressor,
                name,
                ", ".join(choices) or "no choice",
            )
    return made


def _compressors(name: str) -> list[str]:
    line = getattr(sink.load(name), "options", {}).get("compressor", "")
    words = re.findall(r"\w+", line.partition("(")[0])
    return [word for word in words if word != "or"]
