"""Sinks ``csv``, ``zarr``, ``netcdf``: the rows of ``parquet``, read back by other people."""

from __future__ import annotations

import csv as text_csv
import gzip
import hashlib
import math
import random
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from prov4ml.errors import MissingExtra, SinkError, UsageError
from prov4ml.events import Event, Point, Tag
from prov4ml.sink import Chunk, SeriesKey, Target
from prov4ml.testing.samples import ODD
from prov4ml_sinks import csv, metric_columns, metric_parts, netcdf, parquet, zarr
from prov4ml_sinks.csv import Csv
from prov4ml_sinks.metric_parts import MetricParts
from prov4ml_sinks.netcdf import NetCdf
from prov4ml_sinks.parquet import Parquet
from prov4ml_sinks.zarr import Zarr

START = 1_767_225_600_000_000_000
COLUMNS = ["rank", "attempt", "context", "name", "step", "epoch", "time", "value", "source"]
KINDS: dict[str, tuple[type[Any], ModuleType, str]] = {
    "csv": (Csv, csv, ".csv"),
    "zarr": (Zarr, zarr, ".zarr.zip"),
    "netcdf": (NetCdf, netcdf, ".nc"),
}
LOSS = SeriesKey("loss", ("training",), None)
ACCURACY = SeriesKey("accuracy", ("validation",), "sklearn")
PAYLOAD = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]  # a NaN with one


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "netcdf":
        pytest.importorskip("h5netcdf")
        pytest.importorskip("h5py")
    return str(request.param)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(sink: type[Any], directory: Path, frame: int = 0, **options: object) -> MetricParts:
    made: MetricParts = sink(Target(directory, "run", "digits", frame), options)
    made.clock = Clock()
    return made


def chunk(
    frame: int,
    events: Iterable[Event],
    series: Mapping[int, SeriesKey] | None = None,
    rank: int = 0,
    attempt: int = 1,
) -> Chunk:
    table = {0: LOSS, 1: ACCURACY} if series is None else series
    return Chunk(bytes([rank]) * 16, rank, attempt, frame, 0, tuple(events), table)


def log(frames: int, each: int = 7) -> list[Chunk]:
    """A log of two ranks in turn; values tell where a point came from."""
    made = []
    for frame in range(frames):
        points = [
            Point(n % 2, START + 1000 * (frame * each + n), float(frame * each + n), n, frame)
            for n in range(each)
        ]
        made.append(chunk(frame, points, rank=frame % 2))
    return made


def odd(payload: bool = True) -> list[Chunk]:
    """Every kind of value, step, time and name that a column may meet."""
    values = [math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1, 1 / 3]
    values += [PAYLOAD] if payload else [2.5]
    steps = [None, 0, -1, (1 << 63) - 1, -(1 << 63), (1 << 53) + 1, None, 3, 3, 0]
    times = [0, -1, START, (1 << 63) - 1, -(1 << 63) + 1, 1, START, START, 2, START + 1]
    series = {
        0: SeriesKey('comma, "quote" \n and \r\n line; tab\t|', ("a/b", "50%", ""), ""),
        1: SeriesKey("x" * 10_000, (), None),
        2: SeriesKey("NA", ("nan",), "null"),
        3: SeriesKey("", ("",), "é \U0001f600"),
        4: SeriesKey("0012", ("1e5",), "2026-01-01"),
        5: SeriesKey("=1+1", (" leading",), "trailing "),
    }
    rows = list(zip(times, values, steps, strict=True))
    first = [Point(n, time, value, step, step) for n in series for time, value, step in rows]
    again = [Point(n, time, value, step) for time, value, step in rows for n in reversed(series)]
    return [
        chunk(3, first, series, rank=2, attempt=4),
        chunk(4, again, series, rank=1),
        chunk(5, again[:7], series, rank=2, attempt=4),
    ]


def write(sink: MetricParts, chunks: Iterable[Chunk]) -> Any:
    for each in chunks:
        sink.write(each)
    (output,) = sink.close()
    return output


def bits(table: Any) -> list[tuple[Any, ...]]:
    """Rows in file order, values as bits, times in ns."""
    lists = [
        table[name].cast(pa.int64()).to_pylist() if name == "time" else table[name].to_pylist()
        for name in COLUMNS
    ]
    lists[7] = [struct.pack(">d", value) for value in lists[7]]
    return list(zip(*lists, strict=True))


def names(directory: Path) -> list[str]:
    folder = directory / "metrics"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# --------------------------------------------------------------------- the rows of parquet


@pytest.mark.parametrize("limit", [1000, 4], ids=["one-part", "many-parts"])
def test_the_rows_are_those_of_parquet(tmp_path: Path, kind: str, limit: int) -> None:
    """Odd values, steps, times and names: the same rows in the same order, bit for bit."""
    sink, module, suffix = KINDS[kind]
    chunks = odd(payload=kind != "csv")
    output = write(make(sink, tmp_path, rows_per_part=limit), chunks)
    write(make(Parquet, tmp_path, rows_per_part=limit), chunks)
    expected = parquet.read(tmp_path)
    found = module.read(tmp_path)
    assert found.schema == expected.schema
    assert bits(found) == bits(expected)
    assert output.rows == expected.num_rows == 127
    data = (tmp_path / output.path).read_bytes()
    assert (output.path, output.size) == (f"metrics/part-3-5{suffix}", len(data))
    assert output.sha256 == hashlib.sha256(data).hexdigest()
    assert names(tmp_path) == sorted([f"part-3-5{suffix}", "part-3-5.parquet"])


def test_what_no_format_can_hold_is_text(tmp_path: Path, kind: str) -> None:
    """Lone surrogates are escaped as in Parquet; NUL in NetCDF, whose strings end there."""
    sink, module, _ = KINDS[kind]
    series = {0: SeriesKey(ODD, ("\ud800", "a\0b"), "\udfff")}
    chunks = [chunk(0, [Point(0, 1 << 70, 1.0, 1 << 63), Point(0, 5, 2.0, 7)], series)]
    write(make(sink, tmp_path), chunks)
    write(make(Parquet, tmp_path), chunks)
    expected = bits(parquet.read(tmp_path))
    if kind == "netcdf":
        expected = [
            tuple(v.replace("\0", "\\x00") if isinstance(v, str) else v for v in row)
            for row in expected
        ]
    assert bits(module.read(tmp_path)) == expected


@pytest.mark.parametrize("limit", [1, 20, 50, 1000])
def test_order_does_not_depend_on_parts(
    tmp_path: Path, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged rows are cut into sorted groups by the log alone, over several chunks of a file."""
    monkeypatch.setattr(metric_columns, "GROUP", 32)
    sink, module, _ = KINDS[kind]
    write(make(sink, tmp_path, rows_per_part=limit), log(20))
    write(make(Parquet, tmp_path), log(20))
    assert bits(module.read(tmp_path)) == bits(parquet.read(tmp_path))
    assert module.read(tmp_path).num_rows == 140


def test_the_same_log_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """However it was cut into parts; but for NetCDF, where HDF5 has its own mind."""
    sink, _, _ = KINDS[kind]
    outputs = []
    for limit in (1000, 10):
        (tmp_path / str(limit)).mkdir()
        outputs.append(write(make(sink, tmp_path / str(limit), rows_per_part=limit), log(9)))
    if kind != "netcdf":
        assert outputs[0] == outputs[1]
    assert outputs[0].rows == outputs[1].rows == 63


def test_many_series_in_one_file(tmp_path: Path, kind: str) -> None:
    """Thousands of series in any order keep their points apart."""
    sink, module, _ = KINDS[kind]
    chance = random.Random(0)
    series = {n: SeriesKey(f"m{n % 900}", (f"c{n % 7}",), None) for n in range(2000)}
    points = [Point(chance.randrange(2000), START + n, float(n), n) for n in range(6000)]
    chunks = [chunk(n, points[n * 600 : n * 600 + 600], series, rank=n % 3) for n in range(10)]
    write(make(sink, tmp_path, rows_per_part=1500), chunks)
    write(make(Parquet, tmp_path), chunks)
    assert bits(module.read(tmp_path)) == bits(parquet.read(tmp_path))


# --------------------------------------------------------------------- other people's readers


def written(directory: Path, kind: str, chunks: Iterable[Chunk], **options: object) -> Path:
    output = write(make(KINDS[kind][0], directory, **options), chunks)
    write(make(Parquet, directory), chunks)
    return directory / output.path


@pytest.mark.parametrize(
    "options", [{}, {"separator": ";"}, {"separator": "\t", "compressor": "gzip"}]
)
def test_pandas_reads_csv(tmp_path: Path, options: dict[str, object]) -> None:
    """With the line of the README every column is that of Parquet, bit for bit."""
    pd = pytest.importorskip("pandas")
    path = written(tmp_path, "csv", odd(payload=False), **options)
    assert path.suffix == (".gz" if "compressor" in options else ".csv")
    old = tuple(int(n) for n in pd.__version__.split(".")[:2]) < (3, 1)
    frame = pd.read_csv(
        path,
        sep=options.get("separator", ","),
        **({"float_precision": "round_trip"} if old else {}),
        keep_default_na=False,
        na_values={"step": [""], "epoch": [""], "value": ["nan"], "source": [""]},
        dtype={"step": "Int64", "epoch": "Int64", "context": str, "name": str, "source": str},
        parse_dates=["time"],
        lineterminator="\n",
    )
    expected = parquet.read(tmp_path)
    assert list(frame.columns) == COLUMNS
    for name in ("rank", "attempt", "context", "name"):
        assert frame[name].tolist() == expected[name].to_pylist()
    for name in ("step", "epoch"):
        assert [None if pd.isna(v) else v for v in frame[name]] == expected[name].to_pylist()
    assert [struct.pack(">d", v) for v in frame["value"]] == [row[7] for row in bits(expected)]
    assert [t.value for t in frame["time"]] == [row[6] for row in bits(expected)]
    sources = [None if pd.isna(v) else v for v in frame["source"]]
    assert sources == [row[8] or None for row in bits(expected)]  # pandas knows no quotes


def test_csv_is_plain(tmp_path: Path) -> None:
    """The module of the standard library reads it; a missing source is not an empty one."""
    path = written(tmp_path, "csv", log(1), separator="|", compressor="gzip")
    data = gzip.decompress(path.read_bytes()).decode()
    head, *rows = text_csv.reader(data.splitlines(), delimiter="|")
    assert head == COLUMNS
    assert rows[0] == [
        *("0", "1", "training", "loss", "0", "0", "2026-01-01 00:00:00.000000000Z", "0", ""),
    ]
    assert data.splitlines()[1].endswith("|0|")
    (tmp_path / "empty").mkdir()
    nameless = [chunk(0, [Point(0, START, 1.0)], {0: SeriesKey("m", (), "")})]
    other = written(tmp_path / "empty", "csv", nameless)
    assert other.read_text().splitlines()[1].endswith(',1,""')


def _rows_of(ds: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of arrays that a reader gave, as the README says how to put them together."""
    series = ds["series_index"].astype(int)
    found = []
    for n in range(len(series)):
        k = series[n]
        source = str(ds["source"][k]) if ds["has_source"][k] else None
        step, epoch = (
            int(ds[name][n]) if ds[f"has_{name}"][n] else None for name in ("step", "epoch")
        )
        bits_ = struct.pack(">d", float(ds["value"][n]))
        who = (int(ds["rank"][k]), int(ds["attempt"][k]), str(ds["context"][k]), str(ds["name"][k]))
        found.append((*who, step, epoch, int(ds["time"][n].astype("int64")), bits_, source))
    return found


@pytest.mark.parametrize("compressor", ["zstd", "zlib", "none"])
def test_zarr_reads_zarr(tmp_path: Path, compressor: str) -> None:
    """The library opens the file; all values, bit for bit, strings and compressors included."""
    library = pytest.importorskip("zarr")
    path = written(tmp_path, "zarr", odd(), compressor=compressor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reader's own
        group = library.open_group(library.storage.ZipStore(path, mode="r"), mode="r")
        assert set(group.array_keys()) == {
            *("series_index", "step", "has_step", "epoch", "has_epoch", "time", "value"),
            *("rank", "attempt", "context", "name", "source", "has_source"),
        }
        ds = {name: group[name][:] for name in group.array_keys()}
    assert _rows_of(ds) == bits(parquet.read(tmp_path))


def test_xarray_reads_zarr(tmp_path: Path) -> None:
    """As a dataset with two dimensions and decoded times."""
    library = pytest.importorskip("zarr")
    xr = pytest.importorskip("xarray")
    path = written(tmp_path, "zarr", odd())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with xr.open_zarr(library.storage.ZipStore(path, mode="r"), chunks=None) as ds:
            _check_dataset(ds, tmp_path)


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
@pytest.mark.parametrize("compressor", ["zlib", "none"])
def test_xarray_reads_netcdf(tmp_path: Path, engine: str, compressor: str) -> None:
    """As a dataset with two dimensions and decoded times, by either library."""
    pytest.importorskip("h5netcdf")
    if engine == "netcdf4":
        pytest.importorskip("netCDF4")
    xr = pytest.importorskip("xarray")
    path = written(tmp_path, "netcdf", odd(), compressor=compressor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with xr.open_dataset(path, engine=engine) as ds:
            _check_dataset(ds, tmp_path)


def _check_dataset(ds: Any, directory: Path) -> None:
    expected = bits(parquet.read(directory))
    assert dict(ds.sizes) == {"point": len(expected), "series": 12}
    assert str(ds["time"].dtype) == "datetime64[ns]"
    assert ds.attrs["Conventions"] == "CF-1.11"
    assert _rows_of({name: ds[name].values for name in ds.variables}) == expected
    # the lines of the README
    spread = ds["name"][ds["series_index"]].values.tolist()
    assert spread == [row[3] for row in expected]
    one = ds.isel(point=(ds["series_index"] == 3).values)
    assert one.sizes["point"] == sum(ds["series_index"].values == 3) > 0


# ------------------------------------------------------------------------ parts and crashes


def test_rolls_by_time_and_merges(tmp_path: Path, kind: str) -> None:
    """Whole frames go into parts, that can be read while the run goes on; close leaves one."""
    sink, module, suffix = KINDS[kind]
    made = make(sink, tmp_path)
    first, second, third = log(3)
    made.write(first)
    made.write(second)
    made.clock.now = 60.0  # type: ignore[attr-defined]
    assert made.flush() == 1
    assert names(tmp_path) == [f"part-0-0{suffix}"]
    assert module.read(tmp_path).num_rows == 7
    made.write(third)
    made.close()
    assert names(tmp_path) == [f"part-0-2{suffix}"]


@pytest.mark.parametrize("events", [[], [Tag(START, "k", "v"), Point(9, START, 1.0)]])
def test_no_points_no_file(tmp_path: Path, kind: str, events: list[Event]) -> None:
    """A run without points leaves no folder and no output, and reads as an empty table."""
    sink, module, _ = KINDS[kind]
    made = make(sink, tmp_path)
    made.write(chunk(0, events))
    assert made.close() == []
    assert names(tmp_path) == []
    assert module.read(tmp_path).num_rows == 0


@pytest.mark.parametrize("stale", [False, True], ids=["cursor-logged", "cursor-of-before"])
@pytest.mark.parametrize("crash", range(9))
def test_crash_and_continue(tmp_path: Path, kind: str, crash: int, stale: bool) -> None:
    """A crash after any chunk, with the last cursor logged or not, loses and doubles nothing."""
    sink, module, suffix = KINDS[kind]
    chunks = log(8)
    made = make(sink, tmp_path, rows_per_part=20)
    cursors = [0, 0]
    for each in chunks[:crash]:
        made.write(each)
        cursors.append(made.flush())
    (tmp_path / "metrics").mkdir(exist_ok=True)
    (tmp_path / f"metrics/part-0-99{suffix}.tmp").write_bytes(b"half")
    frame = cursors[-2] if stale else cursors[-1]
    made = make(sink, tmp_path, frame, rows_per_part=30)
    for each in chunks[frame:]:
        made.write(each)
        seen = bits(module.read(tmp_path))
        assert len(seen) == len(set(seen))
    made.close()
    write(make(Parquet, tmp_path), chunks)
    assert bits(module.read(tmp_path)) == bits(parquet.read(tmp_path))
    assert names(tmp_path) == sorted([f"part-0-7{suffix}", "part-0-7.parquet"])


def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that cannot be written leaves nothing behind and the cursor where it was."""
    sink, _, suffix = KINDS[kind]
    made = make(sink, tmp_path, rows_per_part=10)
    chunks = log(4)
    made.write(chunks[0])
    made.write(chunks[1])

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metric_parts, "_sync", full)
        with pytest.raises(OSError, match="No space"):
            made.write(chunks[2])
    assert (names(tmp_path), made.flush()) == ([], 0)
    with pytest.raises(SinkError, match=f"the {kind} sink failed before"):
        made.write(chunks[3])
    assert [output.path for output in made.close()] == [f"metrics/part-0-1{suffix}"]


def test_formats_do_not_see_each_other(tmp_path: Path) -> None:
    """Files of several sinks lie side by side; each takes up and removes its own only."""
    pytest.importorskip("h5netcdf")
    for _ in range(2):
        for sink in (Parquet, Csv, Zarr, NetCdf):
            write(make(sink, tmp_path), log(3))
    ends = [".csv", ".nc", ".parquet", ".zarr.zip"]
    assert names(tmp_path) == [f"part-0-2{end}" for end in ends]


# ---------------------------------------------------------------------------------- options

WRONG: list[tuple[str, dict[str, object], str]] = [
    ("csv", {"separator": "ab"}, "option separator of the sink 'csv' is 'ab'"),
    ("csv", {"separator": "e"}, "stands in no number"),
    ("csv", {"separator": "-"}, "stands in no number"),
    ("csv", {"separator": '"'}, "is no quote"),
    ("csv", {"separator": "\n"}, "line end"),
    ("csv", {"separator": "é"}, "one ASCII character"),
    ("csv", {"separator": 7}, "is 7"),
    ("csv", {"compressor": "zstd"}, "must be one of none, gzip"),
    ("zarr", {"compressor": "blosc"}, "must be one of zstd, zlib, none"),
    ("zarr", {"compressor": None}, "is None"),
    ("netcdf", {"compressor": ["zlib"]}, "must be one of zlib, none"),
    ("netcdf", {"rows_per_part": 0}, "option rows_per_part of the sink 'netcdf' is 0"),
]


@pytest.mark.parametrize(("name", "options", "text"), WRONG)
def test_wrong_options_are_refused(
    tmp_path: Path, name: str, options: dict[str, object], text: str
) -> None:
    """An option that cannot work is an error that names it and the value."""
    if name == "netcdf":
        pytest.importorskip("h5netcdf")
    with pytest.raises(UsageError, match=text):
        make(KINDS[name][0], tmp_path, **options)


@pytest.mark.parametrize("package", ["h5netcdf", "h5py"])
def test_without_the_library(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is a MissingExtra whose text is the pip line."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install 'prov4ml\[netcdf\]'") as caught:
        make(NetCdf, tmp_path)
    assert "the sink 'netcdf' needs the package" in str(caught.value)


def test_listing_and_writing_import_little() -> None:
    """No library of arrays is imported to list the sinks, nor NumPy to write CSV or Zarr."""
    look = """
import sys
from prov4ml.sink import load
for name in ("csv", "zarr", "netcdf", "parquet"):
    load(name)
heavy = {"h5py", "h5netcdf", "zarr", "numpy", "pandas", "xarray", "pyarrow"}
print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", look],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
