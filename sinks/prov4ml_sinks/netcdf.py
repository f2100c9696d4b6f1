"""Sink ``netcdf``: every metric point, exactly, in ``metrics/part-<first>-<last>.nc``.

A NetCDF-4 file (HDF5), written by ``h5netcdf``, as xarray, netCDF4 and the tools of the Earth
sciences open it.  What lies in it says ``metric_arrays``.  In a name, the character NUL, which
HDF5 cannot hold in a string, is written ``\\x00``.  When parts are written, merged and taken up
again is in ``metric_parts``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from prov4ml.errors import MissingExtra
from prov4ml.sink import Target
from prov4ml_sinks import metric_arrays as arrays
from prov4ml_sinks import metric_columns as columns
from prov4ml_sinks import metric_parts
from prov4ml_sinks.metric_parts import MetricParts

__all__ = ["NetCdf", "read"]

_COMPRESSORS: Final[dict[str, dict[str, Any]]] = {
    "zlib": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    "none": {},
}


class NetCdf(MetricParts):
    """Metric points as arrays in a NetCDF-4 file."""

    options: ClassVar[Mapping[str, str]] = {
        "compressor": "zlib or none (default zlib)",
        **MetricParts.options,
    }

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        """Raises ``MissingExtra`` without h5netcdf, ``UsageError`` for a wrong option."""
        _require()
        compressor = metric_parts.one_of("netcdf", options, "compressor", tuple(_COMPRESSORS))
        super().__init__("netcdf", _Files(compressor), target, options)


def read(directory: str | os.PathLike[str]) -> Any:
    """All points below a run directory (or its ``metrics/``) as a ``pyarrow.Table``.

    May be called while the run goes on.  No points: an empty table.
    """
    _require()
    columns.require_pyarrow("netcdf")
    return metric_parts.read(directory, _Files("none"))


def _require() -> None:
    try:
        import h5netcdf  # noqa: F401  (imported here once, so that no write pays for it)
        import h5py  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "h5netcdf", "netcdf", "the sink 'netcdf'") from error


class _Files:
    suffix: ClassVar[str] = ".nc"

    def __init__(self, compressor: str) -> None:
        self._how = _COMPRESSORS[compressor]

    def write(self, path: Path, groups: Iterable[Any]) -> None:
        import h5netcdf
        import h5py
        import numpy as np

        ragged = arrays.Ragged()
        with h5netcdf.File(path, "w") as file:
            file.attrs.update(arrays.ATTRIBUTES)
            file.dimensions["point"] = None  # grows
            at = 0
            for found in ragged.points(groups):
                end = at + len(found["value"])
                if not at:  # the first group: no other is longer
                    for name, kind in arrays.POINTS.items():
                        how = {"chunks": (end,), **self._how}
                        made = file.create_variable(name, ("point",), f"<{kind}", **how)
                        made.attrs.update(arrays.attributes(name))
                file.resize_dimension("point", end)
                for name, array in found.items():
                    file.variables[name][at:end] = array.to_numpy(zero_copy_only=False)
                at = end
            series = ragged.series
            file.dimensions["series"] = len(series["name"])
            for name, kind in arrays.SERIES.items():
                text = kind == "str"
                dtype = h5py.string_dtype() if text else f"<{kind}"
                made = file.create_variable(name, ("series",), dtype)
                made.attrs.update(arrays.attributes(name))
                values = [w.replace("\0", "\\x00") for w in series[name]] if text else series[name]
                if values:
                    made[:] = np.array(values, dtype=object if text else kind)

    def batches(self, path: Path) -> Iterator[Any]:
        import h5netcdf
        import pyarrow as pa

        with h5netcdf.File(path, "r", decode_vlen_strings=True) as file:
            series = {name: list(file.variables[name][:]) for name in arrays.SERIES}
            rows = len(file.dimensions["point"])
            for at in range(0, rows, columns.GROUP):
                end = min(rows, at + columns.GROUP)
                points = {name: pa.array(file.variables[name][at:end]) for name in arrays.POINTS}
                yield arrays.rebuilt(points, series)
