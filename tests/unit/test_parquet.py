"""The ``parquet`` sink: exact points, each once after any crash, small files."""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prov4ml.errors import SinkError, UsageError
from prov4ml.events import Event, Point, Tag
from prov4ml.sink import Chunk, SeriesKey, Target
from prov4ml_sinks import metric_columns, metric_parts
from prov4ml_sinks.parquet import Parquet, context_text, read

START = 1_767_225_600_000_000_000
COLUMNS = ["rank", "attempt", "context", "name", "step", "epoch", "time", "value", "source"]
LOSS = SeriesKey("loss", ("training",), None)
ACCURACY = SeriesKey("accuracy", ("validation",), "sklearn")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(directory: Path, frame: int = 0, **options: object) -> Parquet:
    sink = Parquet(Target(directory, "run", "digits", frame), options)
    sink.clock = Clock()
    return sink


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
    return [
        chunk(
            frame,
            [
                Point(n % 2, START + 1000 * (frame * each + n), float(frame * each + n), n, frame)
                for n in range(each)
            ],
            rank=frame % 2,
        )
        for frame in range(frames)
    ]


def names(directory: Path) -> list[str]:
    folder = directory / "metrics"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def rows(directory: Path) -> list[tuple[Any, ...]]:
    """Rows in file order, values as bits, times in ns."""
    table = read(directory)
    columns = [
        table[name].cast(pa.int64()).to_pylist() if name == "time" else table[name].to_pylist()
        for name in COLUMNS
    ]
    columns[7] = [struct.pack(">d", value) for value in columns[7]]
    return list(zip(*columns, strict=True))


def given(chunks: Iterable[Chunk]) -> list[tuple[Any, ...]]:
    """What ``rows`` must give, in log order."""
    found = []
    for c in chunks:
        for event in c.events:
            if isinstance(event, Point) and event.series in c.series:
                key = c.series[event.series]
                found.append(
                    (
                        c.rank,
                        c.attempt,
                        context_text(key.context),
                        key.name,
                        event.step,
                        event.epoch,
                        event.time,
                        struct.pack(">d", event.value),
                        key.source,
                    )
                )
    return found


def ordered(points: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """By series, then log order: the promise about a merged file."""
    return sorted(points, key=lambda r: (r[1], r[0], r[2], r[3], r[8] is None, r[8] or ""))


def test_columns(tmp_path: Path) -> None:
    """The columns and their types are those of the design."""
    sink = make(tmp_path)
    sink.write(chunk(0, [Point(0, START, 1.0)]))
    sink.close()
    word = pa.dictionary(pa.int32(), pa.string())
    assert read(tmp_path).schema.names == COLUMNS
    assert read(tmp_path).schema.types == [
        pa.int32(),
        pa.int32(),
        word,
        word,
        pa.int64(),
        pa.int64(),
        pa.timestamp("ns", "UTC"),
        pa.float64(),
        word,
    ]
    assert read(tmp_path).equals(read(tmp_path / "metrics"))


def test_encodings(tmp_path: Path) -> None:
    """Step, epoch and time are delta packed, values byte-stream split, everything zstd."""
    sink = make(tmp_path)
    sink.write(chunk(0, [Point(0, START + n, float(n), n, n) for n in range(100)]))
    (output,) = sink.close()
    group = pq.ParquetFile(tmp_path / output.path).metadata.row_group(0)
    encodings = {
        group.column(n).path_in_schema: group.column(n).encodings for n in range(group.num_columns)
    }
    for name in ("step", "epoch", "time"):
        assert "DELTA_BINARY_PACKED" in encodings[name]
    assert "BYTE_STREAM_SPLIT" in encodings["value"]
    assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD"}


def test_points_come_back_exactly(tmp_path: Path) -> None:
    """Every bit of odd values, steps, times and names is kept."""
    values = [
        math.nan,
        struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0],  # a NaN with a payload
        math.inf,
        -math.inf,
        -0.0,
        0.0,
        5e-324,
        1.7976931348623157e308,
        0.1,
    ]
    steps = [None, 0, -1, (1 << 63) - 1, -(1 << 63), 1 << 53, None, 3, 3]
    times = [0, -1, START, (1 << 63) - 1, -(1 << 63), 1, START, START, 2]
    series = {
        7: SeriesKey("loss 🎉 \"<&>'\n%/..", ("a/b", "50%", ""), ""),
        9: SeriesKey("x" * 10_000, (), None),
    }
    events = [
        Point(n, time, value, step, step)
        for n in (7, 9)
        for time, value, step in zip(times, values, steps, strict=True)
    ]
    sink = make(tmp_path)
    sink.write(chunk(3, events, series, rank=2, attempt=4))
    (output,) = sink.close()
    assert output.rows == len(events)
    expected = given([chunk(3, events, series, rank=2, attempt=4)])
    assert len(expected) == 18
    assert sorted(rows(tmp_path), key=repr) == sorted(expected, key=repr)
    assert rows(tmp_path) == ordered(expected)


def test_contexts_are_spelled_apart() -> None:
    """Nested contexts are joined with "/" and no two paths are spelled the same."""
    paths: list[tuple[str, ...]] = [
        (),
        ("",),
        ("", ""),
        ("%",),
        ("%25",),
        ("a/b",),
        ("a", "b"),
        ("a%2Fb",),
    ]
    assert context_text(("training", "warm-up")) == "training/warm-up"
    assert len({context_text(path) for path in paths}) == len(paths)


def test_only_points_of_known_series_count(tmp_path: Path) -> None:
    """Other events and points of an undefined series are passed over."""
    sink = make(tmp_path)
    sink.write(chunk(0, [Tag(START, "k", "v"), Point(5, START, 1.0), Point(0, START, 2.0)]))
    (output,) = sink.close()
    assert output.rows == 1
    assert read(tmp_path)["value"].to_pylist() == [2.0]


def test_lone_surrogates_and_unrepresentable_numbers_do_not_end_the_sink(tmp_path: Path) -> None:
    """What no column can hold is escaped, left out or bounded; the other points stay."""
    sink = make(tmp_path)
    series = {0: SeriesKey("a\ud800", ("\udfff",), "\ud801")}
    sink.write(chunk(0, [Point(0, 1 << 70, 1.0, 1 << 63, -(1 << 64)), Point(0, 5, 2.0)], series))
    sink.close()
    first, second = rows(tmp_path)
    assert first[2:7] == ("\\udfff", "a\\ud800", None, None, (1 << 63) - 1)
    assert second[6] == 5


@pytest.mark.parametrize("events", [[], [Tag(START, "k", "v")]])
def test_no_points_no_file(tmp_path: Path, events: list[Event]) -> None:
    """A run without points leaves no folder and no output."""
    sink = make(tmp_path)
    for frame in range(3):
        sink.write(chunk(frame, events))
    assert sink.flush() == 2
    assert sink.close() == []
    assert names(tmp_path) == []
    assert read(tmp_path).num_rows == 0


def test_rolls_by_time_at_frame_borders(tmp_path: Path) -> None:
    """After 60 s whole frames go into a part; the frame that may still grow waits."""
    sink = make(tmp_path)
    first, second, third = log(3)
    sink.write(first)
    sink.write(second)
    assert (sink.flush(), names(tmp_path)) == (0, [])
    sink.clock.now = 59.0  # type: ignore[attr-defined]
    assert sink.flush() == 0
    sink.clock.now = 60.0  # type: ignore[attr-defined]
    assert sink.flush() == 1
    assert names(tmp_path) == ["part-0-0.parquet"]
    sink.write(second)  # more of the same frame
    sink.write(third)
    sink.clock.now = 120.0  # type: ignore[attr-defined]
    assert sink.flush() == 2
    assert names(tmp_path) == ["part-0-0.parquet", "part-1-1.parquet"]
    assert rows(tmp_path) == given([first, second, second])


def test_rolls_by_rows(tmp_path: Path) -> None:
    """A part is written as soon as it has enough rows, without waiting for a flush."""
    sink = make(tmp_path, rows_per_part=10)
    for each in log(5):
        sink.write(each)
    assert names(tmp_path) == ["part-0-1.parquet", "part-2-3.parquet"]
    assert sink.flush() == 4


def test_close_merges(tmp_path: Path) -> None:
    """At the end one part stands, named by all frames, and the output describes it."""
    sink = make(tmp_path, rows_per_part=10)
    chunks = log(20)
    for each in chunks:
        sink.write(each)
    (output,) = sink.close()
    data = (tmp_path / output.path).read_bytes()
    assert output.path == "metrics/part-0-19.parquet"
    assert (output.size, output.rows) == (len(data), 140)
    assert output.sha256 == hashlib.sha256(data).hexdigest()
    assert names(tmp_path) == ["part-0-19.parquet"]
    assert rows(tmp_path) == ordered(given(chunks))


def test_frames_without_points_are_not_in_the_name(tmp_path: Path) -> None:
    """A part is named by the frames whose points it holds."""
    sink = make(tmp_path)
    for frame in range(9):
        sink.write(chunk(frame, [Point(0, START, 1.0)] if frame in (3, 5) else []))
    assert [output.path for output in sink.close()] == ["metrics/part-3-5.parquet"]


@pytest.mark.parametrize("limit", [1, 20, 50, 1000])
def test_order_does_not_depend_on_parts(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged rows are cut into sorted groups by the log alone."""
    monkeypatch.setattr(metric_columns, "GROUP", 32)
    chunks = log(20)
    sink = make(tmp_path, rows_per_part=limit)
    for each in chunks:
        sink.write(each)
    sink.close()
    plain = given(chunks)
    expected = [row for cut in range(0, 140, 32) for row in ordered(plain[cut : cut + 32])]
    assert rows(tmp_path) == expected


@pytest.mark.parametrize("stale", [False, True], ids=["cursor-logged", "cursor-of-before"])
@pytest.mark.parametrize("crash", range(13))
def test_crash_and_continue(tmp_path: Path, crash: int, stale: bool) -> None:
    """A crash after any chunk, with the last cursor logged or not, loses and doubles nothing."""
    chunks = log(12)
    sink = make(tmp_path, rows_per_part=20)
    cursors = [0, 0]
    for each in chunks[:crash]:
        sink.write(each)
        cursors.append(sink.flush())
    (tmp_path / "metrics").mkdir(exist_ok=True)
    (tmp_path / "metrics/part-0-99.parquet.tmp").write_bytes(b"half")
    frame = cursors[-2] if stale else cursors[-1]

    sink = make(tmp_path, frame, rows_per_part=30)
    assert not any(name.endswith(".tmp") for name in names(tmp_path))
    for each in chunks[frame:]:
        sink.write(each)
        seen = rows(tmp_path)
        assert len(seen) == len(set(seen))
        assert sink.flush() >= frame
    (output,) = sink.close()
    assert output.path == "metrics/part-0-11.parquet"
    assert names(tmp_path) == ["part-0-11.parquet"]
    assert rows(tmp_path) == ordered(given(chunks))


@pytest.mark.parametrize("frame", range(9))
def test_crash_after_the_merge(tmp_path: Path, frame: int) -> None:
    """A merged part beyond the cursor is replaced or recognised, then the run goes on."""
    chunks = log(10)
    sink = make(tmp_path, rows_per_part=20)
    for each in chunks[:8]:
        sink.write(each)
    sink.close()
    sink = make(tmp_path, frame, rows_per_part=5)
    for each in chunks[frame:]:
        sink.write(each)
        sink.flush()
        assert len(rows(tmp_path)) == len(set(rows(tmp_path))) >= 7 * 8
    sink.close()
    assert names(tmp_path) == ["part-0-9.parquet"]
    assert rows(tmp_path) == ordered(given(chunks))


def test_crash_inside_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the merged part stands but the parts in it do too, each point is read once."""
    chunks = log(8)
    sink = make(tmp_path, rows_per_part=10)
    for each in chunks:
        sink.write(each)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sink.close()
    assert len(names(tmp_path)) == 5
    assert rows(tmp_path) == ordered(given(chunks))
    (output,) = make(tmp_path, 8).close()
    assert names(tmp_path) == ["part-0-7.parquet"]
    assert output.rows == 56


def test_replay_keeps_the_old_part_until_the_new_one_stands(tmp_path: Path) -> None:
    """A replay from the start never leaves a moment without the points."""
    chunks = log(8)
    outputs = []
    for _ in range(2):
        sink = make(tmp_path, rows_per_part=10)
        for each in chunks:
            sink.write(each)
            if outputs:
                assert rows(tmp_path) == ordered(given(chunks))
        outputs.append(sink.close())
    assert outputs[0] == outputs[1]


def test_parts_beyond_a_shorter_log_go(tmp_path: Path) -> None:
    """What the log does not hold does not stay: parts written before a log's torn end."""
    chunks = log(8)
    sink = make(tmp_path)
    for each in chunks:
        sink.write(each)
    sink.close()
    sink = make(tmp_path)
    for each in chunks[:3]:
        sink.write(each)
    sink.close()
    assert names(tmp_path) == ["part-0-2.parquet"]
    assert rows(tmp_path) == ordered(given(chunks[:3]))


def test_a_failed_write_leaves_its_frame_out(tmp_path: Path) -> None:
    """After an error, close keeps whole frames, and the next instance takes up from there."""
    chunks = log(4)
    sink = make(tmp_path)
    for each in chunks[:3]:
        sink.write(each)
    with pytest.raises(TypeError):
        sink.write(msgspec.structs.replace(chunks[2], series=None))
    assert sink.flush() == 0
    with pytest.raises(SinkError):
        sink.write(chunks[3])
    (output,) = sink.close()
    assert output.path == "metrics/part-0-1.parquet"
    sink = make(tmp_path, 2)
    for each in chunks[2:]:
        sink.write(each)
    sink.close()
    assert rows(tmp_path) == ordered(given(chunks))


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that cannot be written leaves nothing behind and the cursor where it was."""
    sink = make(tmp_path, rows_per_part=10)
    chunks = log(4)
    sink.write(chunks[0])
    sink.write(chunks[1])

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metric_parts, "_sync", full)
        with pytest.raises(OSError, match="No space"):
            sink.write(chunks[2])
    assert (names(tmp_path), sink.flush()) == ([], 0)
    assert [output.path for output in sink.close()] == ["metrics/part-0-1.parquet"]


def test_readers_ignore_parts_inside_anothers_range(tmp_path: Path) -> None:
    """``visible`` keeps the widest parts and everything outside them."""
    listed = [(0, 9), (0, 3), (4, 9), (10, 10), (11, 20), (12, 13)]
    for first, last in listed:
        (tmp_path / f"part-{first}-{last}.parquet").touch()
    (tmp_path / "part-1-2.parquet.tmp").touch()
    (tmp_path / "part-01-2.parquet").touch()
    found = metric_parts.visible(metric_parts.parts(tmp_path, ".parquet"))
    assert [(p.first, p.last) for p in found] == [(0, 9), (10, 10), (11, 20)]


def test_digits_run_is_small(tmp_path: Path) -> None:
    """At most 6 bytes per point for a digits-like run: float32 losses, accuracies of 32."""
    chance = random.Random(0)
    training = [SeriesKey(name, ("training",), None) for name in ("loss", "accuracy", "rate")]
    validation = [SeriesKey(name, ("validation",), None) for name in ("loss", "accuracy")]
    series = dict(enumerate([*training, *validation]))
    events: list[Point] = []
    time = START

    def point(number: int, value: float, step: int, epoch: int) -> None:
        nonlocal time
        time += 14_000 + int(chance.expovariate(1 / 1_000))
        events.append(Point(number, time, value, step, epoch))

    def loss(step: int) -> float:
        value = 2.3 * math.exp(-step / 200) + chance.uniform(0.05, 0.3)
        return float(struct.unpack("f", struct.pack("f", value))[0])

    # Times and their jitter as seen when a small network was trained on one core.
    for epoch in range(20):
        for batch in range(45):
            time += 215_000 + int(chance.expovariate(1 / 25_000))
            step = epoch * 45 + batch
            point(0, loss(step), step, epoch)
            point(1, chance.randint(20, 32) / 32, step, epoch)
        point(2, 0.001 * 0.95**epoch, epoch, epoch)
        for batch in range(12):
            time += 30_000 + int(chance.expovariate(1 / 8_000))
            point(3, loss(epoch * 45), epoch * 12 + batch, epoch)
            point(4, chance.randint(20, 32) / 32, epoch * 12 + batch, epoch)
    sink = make(tmp_path)
    for frame in range(0, len(events), 50):
        sink.write(chunk(frame // 50, events[frame : frame + 50], series))
    (output,) = sink.close()
    assert output.rows == len(events) == 2300
    assert output.size / output.rows <= 6


def test_random_values_are_small(tmp_path: Path) -> None:
    """At most 10 bytes per point for random doubles, of which the value needs 8."""
    chance = random.Random(0)
    sink = make(tmp_path)
    time = START
    for frame in range(20):
        events = []
        for n in range(1000):
            time += 250_000 + chance.getrandbits(18)
            events.append(Point(n % 2, time, chance.uniform(-1e9, 1e9), frame * 500 + n // 2))
        sink.write(chunk(frame, events))
    (output,) = sink.close()
    assert output.size / output.rows <= 10


@pytest.mark.parametrize("value", [0, 23, "9", True, 1.0])
def test_wrong_options_are_refused(tmp_path: Path, value: object) -> None:
    """An option that cannot work is an error that names it and the value."""
    with pytest.raises(UsageError, match=f"compression_level .* is {value!r}"):
        make(tmp_path, compression_level=value)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow the error names the pip line."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.compute", None)
    with pytest.raises(ImportError, match="pip install 'pyarrow>=16'"):
        make(tmp_path)
