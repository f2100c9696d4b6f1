"""Segment files and points under any input: what was committed comes back, or an error does."""

from __future__ import annotations

import math
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prov4ml import events as ev
from prov4ml import hot, wire
from prov4ml import segment as seg
from prov4ml.errors import FormatError
from prov4ml.journal import Journal

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
WHO = seg.Identity(RUN, b"p" * 16, 1, 3, 4, 5, RUN)


def _journal(folder: Path) -> Journal:
    return Journal(WHO, [folder])


def _events(view: seg.View) -> list[ev.Event | str]:
    return list(wire.decode_batch(wire.array_header(view.count) + view.records, view.count))


def _outcome(path: Path) -> list[ev.Event | str] | None:
    """The events a file gives, None when it is refused."""
    try:
        return _events(seg.view(path))
    except FormatError:
        return None


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Path, bytes, list[ev.Event | str], int]]:
    """A small segment with a table: a scratch path, its bytes, its events, where they end."""
    folder = Path(tempfile.mkdtemp())
    table = msgspec.msgpack.encode([ev.SeriesDefined(0, "loss", ("training",))])
    segment = seg.create(folder / "s.seg", WHO, 8192)
    segment.begin(7, table)
    position, count = segment.base, 0
    for event in (
        ev.Param(1, "lr", "float", "0.1"),
        ev.Point(0, 2, 0.5, 10),
        ev.Point(0, 3, 123.456, -(1 << 40)),
        ev.Tag(4, "note", "x" * 20),
        ev.Point(0, 5, 987.654, (1 << 50) + 1),
    ):
        record = msgspec.msgpack.encode(event)
        segment.buffer[position : position + len(record)] = record
        position, count = position + len(record), count + 1
        segment.words[seg.COMMIT] = count << 32 | position - segment.base
        segment.cut(position - segment.base, count)
    segment.close()
    path = folder / "s.seg"
    data = path.read_bytes()
    events = _events(seg.view(path))
    assert len(events) == 5
    assert isinstance(events[0], ev.Param)
    yield path, data, events, position
    shutil.rmtree(folder)


def test_a_segment_cut_at_any_byte_gives_its_events_or_an_error(
    small: tuple[Path, bytes, list[ev.Event | str], int],
) -> None:
    """Exhaustive: shorter than what is committed is refused, longer is exact."""
    path, data, events, end = small
    for offset in range(len(data)):
        path.write_bytes(data[:offset])
        assert _outcome(path) == (None if offset < end else events), offset


def test_a_segment_zeroed_from_any_byte_on_is_refused_or_whole(
    small: tuple[Path, bytes, list[ev.Event | str], int],
) -> None:
    """Exhaustive: zeros from a byte of header, table, records or free space to the end."""
    path, data, events, _ = small
    refused = 0
    for offset in range(len(data) + 1):
        path.write_bytes(data[:offset] + bytes(len(data) - offset))
        found = _outcome(path)
        assert found is None or found == events, offset
        refused += found is None
    assert refused == len(data)


def test_one_wrong_byte_in_the_header_gives_no_false_event(
    small: tuple[Path, bytes, list[ev.Event | str], int],
) -> None:
    """Exhaustive over fields, commit word, cut points and table: zeroed and inverted."""
    path, data, events, _ = small
    table = struct.unpack_from("<Q", data, 104)[0]
    whole = 0
    for offset in range(seg.HEADER + table):
        for byte in (0, data[offset] ^ 0xFF):
            if byte == data[offset]:
                continue
            path.write_bytes(data[:offset] + bytes((byte,)) + data[offset + 1 :])
            try:
                view = seg.view(path)
            except FormatError:
                continue
            assert _events(view) == events, offset
            assert view.who == WHO, offset
            assert view.first == 7, offset
            for size, count in view.cuts:
                part = wire.array_header(count) + view.records[:size]
                assert list(wire.decode_batch(part, count)) == events[:count], offset
            whole += 1
    assert whole  # free header space and cut points are no reason to refuse


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=60),
    where=st.floats(0, 1),
    cut=st.booleans(),
)
def test_any_segment_cut_or_zeroed_anywhere(sizes: list[int], where: float, cut: bool) -> None:
    """Records of any size, damage at any offset: exactly the committed events or an error."""
    folder = Path(tempfile.mkdtemp())
    try:
        journal = _journal(folder)
        for n, size in enumerate(sizes):
            journal.append(msgspec.msgpack.encode(ev.Tag(n, "k", "v" * size)))
        assert journal.current is not None
        path = journal.current.path
        data = path.read_bytes()
        wanted = [ev.Tag(n, "k", "v" * size) for n, size in enumerate(sizes)]
        assert _outcome(path) == wanted
        end = journal.position
        offset = int(where * (end + 500))
        damaged = data[:offset] if cut else data[:offset] + bytes(len(data) - offset)
        other = folder / "other.seg"
        other.write_bytes(damaged)
        found = _outcome(other)
        assert found is None or found == wanted
        assert not cut or found == (None if offset < end else wanted)
        journal.close(remove=True)
    finally:
        shutil.rmtree(folder)


_VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True),
    st.integers(-(1 << 53), 1 << 53),
    st.sampled_from([0.0, -0.0, 5e-324, math.nan, math.inf, -math.inf, 1.7976931348623157e308]),
    st.booleans(),
    st.fractions(max_denominator=1000),
    st.decimals(allow_nan=True, allow_infinity=True, places=5).filter(lambda d: not d.is_snan()),
)
_STEPS = st.one_of(st.none(), st.integers(-(1 << 63), (1 << 63) - 1))


@settings(max_examples=100, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.text(min_size=1, max_size=20),
            _VALUES,
            st.sampled_from([None, "training", ("training", "warm-up"), "\ud800"]),
            _STEPS,
            st.sampled_from([None, "gpu", "warm-up"]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_points_decode_to_exactly_what_was_logged(
    calls: list[tuple[str, float, str | tuple[str, ...] | None, int | None, str | None]],
) -> None:
    """Each point twice (definition and hot path): bits of the value, step, series by name."""
    folder = Path(tempfile.mkdtemp())
    try:
        journal = _journal(folder)
        log = hot.metric_logger(journal, hot.Clock())
        for key, value, context, step, source in calls:
            log(key, value, context, step, source)
            log(key, float(value), context, step, source)
        assert journal.current is not None
        events = _events(seg.view(journal.current.path))
        series: dict[int, ev.SeriesDefined] = {}
        points: list[tuple[ev.SeriesDefined, bytes, int | None]] = []
        for event in events:
            if isinstance(event, ev.SeriesDefined):
                assert series.setdefault(event.series, event) == event
            else:
                assert isinstance(event, ev.Point)
                packed = struct.pack(">d", event.value)
                points.append((series[event.series], packed, event.step))
        assert len(points) == 2 * len(calls)
        for (key, value, context, step, source), *pair in zip(
            calls, points[::2], points[1::2], strict=True
        ):
            path = () if context is None else (context,) if isinstance(context, str) else context
            for defined, packed, at in pair:
                assert defined.name == _text(key)
                assert defined.context == tuple(map(_text, path))
                assert defined.source == source
                assert at == step
                assert packed == struct.pack(">d", float(value))
        journal.close(remove=True)
    finally:
        shutil.rmtree(folder)


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
