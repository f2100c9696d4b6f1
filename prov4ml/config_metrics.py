"""Metric files as yProv4ML's ``start_run`` asks for them: a sink more, and its options.

``metrics_file_type`` names a sink, which is added to the list; a format of yProv4ML whose sink
is not installed gives a warning, anything else is an error that names what is there.
``csv_separator`` is the option ``separator`` of the sink ``csv``; ``use_compressor`` the option
``compressor`` (or ``compression``) of the sink that was asked for (of ``parquet`` when none was),
and has no effect, which is said, where that sink has no such option.
"""

from __future__ import annotations

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
    if compressor:
        name = (given.get("metrics_file_type") or "parquet").lower()
        known = getattr(sink.load(name), "options", {}) if name in listed else {}
        option = next((o for o in ("compressor", "compression") if o in known), None)
        if option is not None:
            made.setdefault(name, {})[option] = compressor
        else:
            log.warning(
                "use_compressor=%r has no effect: the sink %r has no choice of compression",
                compressor,
                name,
            )
    return made
