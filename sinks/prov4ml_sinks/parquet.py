"""Sink ``parquet``: every metric point, exactly, in ``metrics/part-<first>-<last>.parquet``.

When parts are written, merged and taken up again is in ``metric_parts``, the inside of the files
in ``parquet_files``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from prov4ml.sink import Target
from prov4ml_sinks.metric_columns import context_text
from prov4ml_sinks.metric_parts import MetricParts, whole_number
from prov4ml_sinks.parquet_files import ParquetFiles, read

__all__ = ["Parquet", "context_text", "read"]


class Parquet(MetricParts):
    """Metric points in columns, in files that grow with the run."""

    options: ClassVar[Mapping[str, str]] = {
        "compression_level": "zstd level, 1 to 22 (default 12)",
        **MetricParts.options,
    }

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        """Raises ``ImportError`` without pyarrow, ``UsageError`` for a wrong option."""
        level = whole_number("parquet", options, "compression_level", 12, 22)
        super().__init__("parquet", ParquetFiles(level), target, options)
