"""Batches and messages: poison is taken apart, and nothing raises but by name."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prov4ml import events as ev
from prov4ml import wire
from prov4ml.errors import WireError

_TAGS = [ev.Tag(n, "k", str(n)) for n in range(4)]


def _batch(*records: bytes) -> bytes:
    return wire.array_header(len(records)) + b"".join(records)


def _records() -> list[bytes]:
    return [wire.encode(tag) for tag in _TAGS]


def test_a_batch_is_a_slice_behind_an_array_header() -> None:
    """What was encoded one by one decodes as a whole."""
    assert list(wire.decode_batch(_batch(*_records()), 4)) == _TAGS


@pytest.mark.parametrize(
    ("poison", "why"),
    [
        (b"\xc0", "array"),
        (b"\x00", "array"),
        (msgspec.msgpack.encode([63, 1, 2]), "unknown kind|Invalid value"),
        (msgspec.msgpack.encode([5, "no time", "k", "v"]), "Expected `int`"),
        (msgspec.msgpack.encode([5, 1]), "at least"),
        (b"\x94\x05\x01\xa1k\xa1\xff", "utf-8|UTF-8"),
        (msgspec.msgpack.encode({"a": 1}), "array"),
        (msgspec.msgpack.encode([]), "length|at least|tag"),
    ],
)
def test_poison_is_one_event_and_its_neighbours_stay(poison: bytes, why: str) -> None:
    """The bad one becomes the reason, as text; sequences of the others stand."""
    records = _records()
    events = list(wire.decode_batch(_batch(records[0], poison, records[2]), 3))
    assert events[0] == _TAGS[0]
    assert events[2] == _TAGS[2]
    assert isinstance(events[1], str)
    assert re.search(why, events[1]), events[1]


def test_an_event_of_a_later_release_keeps_the_fields_known_here() -> None:
    """Fields are only appended: what is behind the last known one is passed over."""
    record = msgspec.msgpack.encode([5, 1, "k", "v", "new", {"deep": [1]}])
    assert list(wire.decode_batch(_batch(record), 1)) == [ev.Tag(1, "k", "v")]


def test_a_batch_that_says_another_count_has_that_many_places() -> None:
    """Fewer events than announced are named as missing, more are left out."""
    data = _batch(*_records())
    assert list(wire.decode_batch(data, 2)) == _TAGS[:2]
    assert list(wire.decode_batch(data, 5)) == [*_TAGS, "missing from its batch"]
    assert list(wire.decode_batch(b"\xc1", 2)) == ["batch is no msgpack array"] * 2
    assert list(wire.decode_batch(data[:-1], 4)) == ["batch is no msgpack array"] * 4


def test_nesting_without_end_is_poison_like_any_other() -> None:
    """No RecursionError: not in a batch, an event's field, a table, a message."""
    deep = b"\x91" * 200_000
    assert list(wire.decode_batch(deep, 1)) == ["batch is no msgpack array"]
    assert wire.decode_table(deep) == []
    assert wire.cut(deep, 1) == deep
    for decode in (wire.decode_request, wire.decode_message):
        with pytest.raises(WireError):
            decode(deep)


def test_cutting_takes_events_off_the_front() -> None:
    """As many as asked for, all of them at most; what is no array stays as it is."""
    records = _records()
    for skip in range(5):
        left = wire.cut(_batch(*records), skip)
        assert left == _batch(*records[skip:])
    assert wire.cut(_batch(*records), 9) == _batch()
    assert wire.cut(b"\xc1", 1) == b"\xc1"


def test_a_table_is_split_into_batches_of_bounded_size() -> None:
    """Every definition stands once, in order; an empty table is none."""
    definitions = [ev.SeriesDefined(n, f"{n} " + "x" * 3000) for n in range(1000)]
    data = _batch(*(wire.encode(d) for d in definitions))
    assert len(data) > 2 * wire.MAX_BATCH
    parts = wire.split(data)
    assert all(len(part) <= wire.MAX_BATCH for part in parts)
    assert [d for part in parts for d in wire.decode_table(part)] == definitions
    small = _batch(wire.encode(definitions[0]))
    assert wire.split(small) == [small]
    assert wire.split(b"") == []


@settings(max_examples=100, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.lists(st.binary(max_size=20), max_size=5).map(lambda parts: _batch(*parts)),
        st.recursive(
            st.none() | st.integers(-5, 80) | st.text(max_size=3) | st.binary(max_size=3),
            lambda inner: st.lists(inner, max_size=16),
            max_leaves=30,
        ).map(msgspec.msgpack.encode),
    ),
    count=st.integers(0, 6),
    skip=st.integers(0, 6),
)
def test_arbitrary_bytes_never_raise(data: bytes, count: int, skip: int) -> None:
    """Decoding gives exactly ``count`` events or reasons; cutting and tables give something."""
    events = wire.decode_batch(data, count)
    assert len(events) == count
    assert all(isinstance(event, (str, msgspec.Struct)) for event in events)
    wire.cut(data, skip)
    wire.decode_table(data)
    for decode in (wire.decode_request, wire.decode_message):
        try:
            decode(data)
        except WireError:
            pass


@pytest.mark.parametrize(
    "message",
    [
        wire.Batch(1, "run", b"p", 3, 4),
        wire.Hello(1, 1, "0.1", "run", b"p", "/d", "host", 0, 1, 2, "boot"),
    ],
)
def test_requests_come_back_as_they_went(message: Any) -> None:
    """Both kinds of requests survive the way."""
    assert wire.decode_request(wire.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        wire.Welcome(b"p", 3),
        wire.Ack(b"p", 3, True),
        wire.Closed("run", True, "finished", 1, 1, 0, 0, ("prov.json",), ()),
        wire.Refused(b"p", "why"),
    ],
)
def test_messages_come_back_as_they_went(message: Any) -> None:
    """All four kinds of answers survive the way."""
    assert wire.decode_message(wire.encode(message)) == message
