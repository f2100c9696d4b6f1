"""Sink ``zarr``: every metric point, exactly, in ``metrics/part-<first>-<last>.zarr.zip``.

A store of Zarr format 2 in one zip file, with consolidated metadata, as ``zarr`` (2 and 3) and
xarray open it.  What lies in it says ``metric_arrays``; chunks are a group of rows long.  Written
by hand: the format is JSON and compressed buffers, and the library would leave threads in the
collector.  The same rows give the same bytes.  Sources: Zarr storage specification 2, and
``vlen-utf8`` of numcodecs.  When parts are written, merged and taken up again is in
``metric_parts``.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from prov4ml.sink import Target
from prov4ml_sinks import metric_arrays as arrays
from prov4ml_sinks import metric_columns as columns
from prov4ml_sinks import metric_parts
from prov4ml_sinks.metric_parts import MetricParts

__all__ = ["Zarr", "read"]

_COMPRESSORS: Final[dict[str, dict[str, Any] | None]] = {
    "zstd": {"id": "zstd", "level": 3},
    "zlib": {"id": "zlib", "level": 6},
    "none": None,
}
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the time of every entry: same rows, same bytes


class Zarr(MetricParts):
    """Metric points as arrays in a Zarr store."""

    options: ClassVar[Mapping[str, str]] = {
        "compressor": "zstd, zlib or none (default zstd)",
        **MetricParts.options,
    }

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        """Raises ``ImportError`` without pyarrow, ``UsageError`` for a wrong option."""
        compressor = metric_parts.one_of("zarr", options, "compressor", tuple(_COMPRESSORS))
        super().__init__("zarr", _Files(compressor), target, options)


def read(directory: str | os.PathLike[str]) -> Any:
    """All points below a run directory (or its ``metrics/``) as a ``pyarrow.Table``.

    May be called while the run goes on.  No points: an empty table.
    """
    columns.require_pyarrow("zarr")
    return metric_parts.read(directory, _Files("none"))


class _Files:
    """``compressor``: for what is written; a file says itself what it has."""

    suffix: ClassVar[str] = ".zarr.zip"

    def __init__(self, compressor: str) -> None:
        self._compressor = _COMPRESSORS[compressor]

    def write(self, path: Path, groups: Iterable[Any]) -> None:
        ragged = arrays.Ragged()
        rows = chunk = 0
        told: dict[str, Any] = {}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as store:
            for number, found in enumerate(ragged.points(groups)):
                rows += len(found["value"])
                chunk = chunk or rows  # of the first group: no other is longer
                for name, kind in arrays.POINTS.items():
                    data = _raw(found[name], arrays.WIDTHS[kind])
                    data = data.ljust(chunk * arrays.WIDTHS[kind], b"\0")  # all chunks are whole
                    self._put(store, f"{name}/{number}", self._packed(data))
            for name, kind in arrays.POINTS.items():
                self._describe(told, name, kind, "point", rows, max(1, chunk))
            series = ragged.series
            count = len(series["name"])
            for name, kind in arrays.SERIES.items():
                self._describe(told, name, kind, "series", count, max(1, count))
                if count:
                    coded = _coded(series[name], kind)
                    self._put(store, f"{name}/0", self._packed(coded))
            told[".zgroup"] = {"zarr_format": 2}
            told[".zattrs"] = arrays.ATTRIBUTES
            for key, value in told.items():
                self._put(store, key, _json(value))
            whole = {"zarr_consolidated_format": 1, "metadata": told}
            self._put(store, ".zmetadata", _json(whole))

    def _describe(
        self, told: dict[str, Any], name: str, kind: str, along: str, length: int, chunk: int
    ) -> None:
        text = kind == "str"
        told[f"{name}/.zarray"] = {
            "zarr_format": 2,
            "shape": [length],
            "chunks": [chunk],
            "dtype": "|O" if text else "|i1" if kind == "i1" else f"<{kind}",
            "compressor": self._compressor,
            "fill_value": None,  # all chunks are there; xarray would take one for "missing"
            "order": "C",
            "filters": [{"id": "vlen-utf8"}] if text else None,
        }
        told[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": [along], **arrays.attributes(name)}

    def _packed(self, data: bytes) -> bytes:
        if self._compressor is None:
            return data
        if self._compressor["id"] == "zlib":
            return zlib.compress(data, self._compressor["level"])
        import pyarrow as pa

        codec = pa.Codec("zstd", compression_level=self._compressor["level"])
        return bytes(codec.compress(data, asbytes=True))

    @staticmethod
    def _put(store: zipfile.ZipFile, name: str, data: bytes) -> None:
        store.writestr(zipfile.ZipInfo(name, _EPOCH), data)

    # -------------------------------------------------------------------------- reading

    def batches(self, path: Path) -> Iterator[Any]:
        with zipfile.ZipFile(path) as store:
            told = json.loads(store.read(".zmetadata"))["metadata"]
            count = told["name/.zarray"]["shape"][0]
            series: dict[str, Sequence[Any]] = {
                name: _decoded(_chunk(store, told, name, 0, kind) if count else b"", kind, count)
                for name, kind in arrays.SERIES.items()
            }
            rows = told["value/.zarray"]["shape"][0]
            chunk = told["value/.zarray"]["chunks"][0]
            for number, at in enumerate(range(0, rows, chunk)):
                length = min(chunk, rows - at)
                points = {
                    name: _array(_chunk(store, told, name, number, kind), kind, length)
                    for name, kind in arrays.POINTS.items()
                }
                yield arrays.rebuilt(points, series)


def _chunk(store: zipfile.ZipFile, told: Any, name: str, number: int, kind: str) -> bytes:
    data = store.read(f"{name}/{number}")
    array = told[f"{name}/.zarray"]
    if array["compressor"] is None:
        return data
    if array["compressor"]["id"] == "zlib":
        return zlib.decompress(data)
    import pyarrow as pa

    (size,) = _content_size(data)
    return bytes(pa.Codec("zstd").decompress(data, decompressed_size=size, asbytes=True))


def _content_size(frame: bytes) -> tuple[int]:
    """The size of what a Zstandard frame holds, which its header says (RFC 8878, 3.1.1.1)."""
    descriptor = frame[4]
    single, width = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    if width == 0:
        return (frame[at] if single else 0,)
    size: tuple[int] = struct.unpack_from(("", "<H", "<I", "<Q")[width], frame, at)
    return (size[0] + 256,) if width == 1 else size


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _raw(array: Any, width: int) -> bytes:
    """The bytes of a pyarrow array without nulls."""
    buffer = array.buffers()[1]
    if buffer is None:
        return b""
    start = array.offset * width
    return bytes(buffer.slice(start, len(array) * width))


def _array(data: bytes, kind: str, length: int) -> Any:
    import pyarrow as pa

    types = {"i1": pa.int8(), "i4": pa.int32(), "i8": pa.int64(), "f8": pa.float64()}
    return pa.Array.from_buffers(types[kind], length, [None, pa.py_buffer(data)])


def _coded(values: Sequence[Any], kind: str) -> bytes:
    """The values of a small array: numbers, or strings as ``vlen-utf8`` has them."""
    if kind != "str":
        return struct.pack(f"<{len(values)}{'b' if kind == 'i1' else 'i'}", *values)
    words = [word.encode() for word in values]
    return struct.pack("<I", len(words)) + b"".join(
        struct.pack("<I", len(word)) + word for word in words
    )


def _decoded(data: bytes, kind: str, count: int) -> list[Any]:
    if kind != "str":
        return list(struct.unpack(f"<{count}{'b' if kind == 'i1' else 'i'}", data))
    words, at = [], 4
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        words.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return words
