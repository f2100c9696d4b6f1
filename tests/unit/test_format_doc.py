"""The page on formats says what the code does, and is enough to read its files.

The first half compares tables with the code.  The second half is a reader that was written from
the page alone: struct, zlib and a msgpack decoder, nothing of prov4ml.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import types
import typing
import uuid
import zlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prov4ml import documents, eventlog, hot, segment, state, wire
from prov4ml import events as ev
from prov4ml.journal import Journal
from prov4ml.testing import samples

PAGE = (Path(__file__).parents[2] / "prov4ml" / "docs" / "format.md").read_text()
EVENTS = [*typing.get_args(ev.ClientEvent), *typing.get_args(ev.CollectorEvent)]
MESSAGES = [*typing.get_args(wire.Request), *typing.get_args(wire.Message)]


def section(heading: str) -> str:
    """The text below a heading, down to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGE, re.M | re.S)
    assert found is not None, f"the page has no section {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without heads and rulers."""
    table: list[list[str]] = []
    found: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            table.append([cell.strip().replace("\\|", "|") for cell in cells])
        else:
            found += table[2:]
            table = []
    return found


# -------------------------------------------------------------------- the tables are true


def type_text(hint: Any) -> str:
    """How the page spells a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return "any"
    if origin in (typing.Union, types.UnionType):
        if set(arguments) == set(typing.get_args(ev.Scalar)):
            return "scalar"
        names = ["nil" if each is type(None) else type_text(each) for each in arguments]
        return " or ".join(sorted(names, key="nil".__eq__))
    if origin is tuple:
        return f"array of {type_text(arguments[0])}"
    if origin is dict:
        return f"map of {type_text(arguments[1])}"
    return {int: "int", str: "str", float: "float", bytes: "bin", bool: "bool"}[hint]


def default_text(field: Any) -> str:
    """How the page spells a default; nothing for a field that must be there."""
    if field.default_factory is not msgspec.NODEFAULT:
        return json.dumps(field.default_factory())
    if field.default is msgspec.NODEFAULT:
        return ""
    if field.default is None:
        return "nil"
    if isinstance(field.default, bytes):
        return "empty"
    value = field.default
    return json.dumps(list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("kind", [*EVENTS, *MESSAGES], ids=lambda kind: kind.__name__)
def test_every_event_and_message_has_its_table(kind: Any) -> None:
    """Tag, fields, their order, types and defaults are those of the code."""
    hints = typing.get_type_hints(kind)
    wanted = [
        [str(number), f"`{f.name}`", type_text(hints[f.name]), default_text(f)]
        for number, f in enumerate(msgspec.structs.fields(kind), 1)
    ]
    found = rows(section(f"{kind.__struct_config__.tag} {kind.__name__}"))
    assert [[*row[:3], row[3].strip("`")] for row in found] == wanted
    assert all(len(row) == 5 and row[4] for row in found), "a field without a meaning"


def test_the_page_has_no_event_that_is_none() -> None:
    """A heading with a tag is an event or a message of ours."""
    headed = re.findall(r"^#+ (\d+ \w+)$", PAGE, re.M)
    assert sorted(headed) == sorted(
        f"{k.__struct_config__.tag} {k.__name__}" for k in (*EVENTS, *MESSAGES)
    )


def test_the_segment_header_is_where_the_page_says() -> None:
    """Each offset and size in the table is the one that the code writes to."""
    table = rows(section("Journal segments"))
    at = {row[3].strip("`"): int(row[0]) for row in table if row[0].isdigit() and row[3]}
    packed = sizes(segment._FIELDS)[:-2] + sizes(segment._PLACE) + [8, 8]  # commit, cuts
    numeric = [row for row in table if row[0].isdigit()]
    assert [int(row[1]) for row in numeric[: len(packed)]] == packed
    assert [int(row[0]) for row in numeric[: len(packed)]] == [*accumulate([0, *packed[:-1]])]
    assert at["first"] == segment._FIRST
    assert at["commit"] == 8 * segment.COMMIT
    assert at["cuts"] == segment.CUTS
    assert at["cut"] == segment.CUTS + 8
    assert int(numeric[-1][0]) == segment.HEADER
    text = section("Journal segments")
    assert f"at most {segment.MAX_CUTS}" in text
    assert f"`{segment.MAGIC.decode()}`" in text
    assert f"`{segment.END.decode()}`" in text


def sizes(packed: struct.Struct) -> list[int]:
    """The sizes of a struct's fields in bytes."""
    fields = re.findall(r"\d*[a-zA-Z]", packed.format.lstrip("<"))
    one_by_one: list[str] = []
    for field in fields:
        repeat = 1 if field[-1] == "s" else int(field[:-1] or 1)
        one_by_one += [field if field[-1] == "s" else field[-1]] * repeat
    return [struct.calcsize(f"<{field}") for field in one_by_one]


def test_the_frame_of_the_event_log_is_as_the_page_says() -> None:
    """File header and frame head have the documented sizes."""
    assert eventlog._HEADER.size == 40
    assert eventlog._HEAD.size == 36
    found = [(row[0], row[3].strip("`")) for row in rows(section("Event log"))]
    assert ("32", "first") in found
    assert ("36", "") in found
    assert eventlog.MAGIC.decode() in section("Event log")


def test_the_limits_are_those_of_the_code() -> None:
    """Sizes that a producer must keep to."""
    from prov4ml import transport

    text = section("Messages")
    for number in (wire.MAX_BATCH, wire.MAX_RECORD, transport.MAX_MESSAGE):
        assert f"{number:,}" in text
    assert f"{eventlog.SEGMENT >> 20} MiB" in section("Event log")


def keys(value: Any, prefix: str = "") -> Iterator[str]:
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict):
            yield from keys(inner, f"{name}.")
        elif isinstance(inner, list):
            yield f"{name}[]"
            for item in inner[:1]:
                if isinstance(item, dict):
                    yield from keys(item, f"{name}[].")
        else:
            yield name


def test_every_key_of_the_manifest_stands_on_the_page() -> None:
    """``run.json`` has the documented keys and no others."""
    of = samples.sample_state()
    sealed = ev.OutputSealed(0, "parquet", "metrics/part-0-1.parquet", "0" * 64, 1, 1)
    state.apply(of, bytes(15) + b"\xff", 0, [sealed])
    content = documents.manifest(of, [documents.Written("provn", "prov.provn", 1)])
    assert [row[0].strip("`") for row in rows(section("run.json"))] == list(keys(content))


def test_every_column_of_the_metrics_stands_on_the_page() -> None:
    """The Parquet parts have the documented columns in that order."""
    parquet_files = pytest.importorskip("prov4ml_sinks.parquet_files")
    named = [row[0].strip("`") for row in rows(section("Metrics"))]
    assert named == parquet_files.schema().names


# ---------------------------------------------------------- a reader, from the page alone


def read_segment(data: bytes) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """(header, series table, events) of a journal segment."""
    magic, version, attempt = struct.unpack_from("<8sII", data, 0)
    assert (magic, version) == (b"P4MLSEG1", 1)
    check, whole = struct.unpack_from("<QQ", data, 112)
    assert (len(data), data[-8:]) == (whole, b"P4MLEND1")
    run, producer, parent = data[16:32], data[32:48], data[48:64]
    rank, pid, pid_start = struct.unpack_from("<IIQ", data, 64)
    first, table = struct.unpack_from("<QQ", data, 96)
    commit, cuts = struct.unpack_from("<QQ", data, 128)
    count, size = commit >> 32, commit & 0xFFFFFFFF
    base = 4096 + table
    assert zlib.crc32(data[:112] + data[4096:base]) == check
    series = msgspec.msgpack.decode(data[4096:base]) if table else []
    array = b"\xdd" + struct.pack(">I", count) + data[base : base + size]
    events = msgspec.msgpack.decode(array)
    for n in range(cuts):
        cut_bytes, cut_count = struct.unpack_from("<QQ", data, 144 + 16 * n)
        if cut_bytes < size:
            rest = data[base + cut_bytes : base + size]
            tail = b"\xdd" + struct.pack(">I", count - cut_count) + rest
            # NaN is not equal to itself: compare what is written.
            assert repr(msgspec.msgpack.decode(tail)) == repr(events[cut_count:])
    header = {
        "attempt": attempt,
        "run": str(uuid.UUID(bytes=run)),
        "producer": producer,
        "parent": parent,
        "rank": rank,
        "pid": pid,
        "pid_start": pid_start,
        "boot_id": str(uuid.UUID(bytes=data[80:96])),
        "first": first,
        "cuts": cuts,
    }
    return header, series, events


def read_log(folder: Path) -> Iterator[tuple[int, bytes, int, int, list[Any]]]:
    """(number, producer, first, count, events) of each frame of an event log."""
    names: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".log", ".log.gz")):
            names[path.name[:12]] = path  # ".gz" sorts behind, and is whole
    for path in names.values():
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, version, _, _, number = struct.unpack_from("<8sII16sQ", data, 0)
        assert (magic, version) == (b"P4MLLOG1", 1)
        at = 40
        while at + 36 <= len(data):
            length, crc = struct.unpack_from("<II", data, at)
            if at + 36 + length > len(data) or zlib.crc32(data[at + 8 : at + 36 + length]) != crc:
                break
            producer, first, count = struct.unpack_from("<16sQI", data, at + 8)
            batch = msgspec.msgpack.decode(data[at + 36 : at + 36 + length])
            yield number, producer, first, count, batch
            number += 1
            at += 36 + length


def plain(events: list[Any]) -> list[Any]:
    """Events of the code as a stranger reads them."""
    return [msgspec.msgpack.decode(msgspec.msgpack.encode(event)) for event in events]


def identity() -> segment.Identity:
    return segment.Identity(
        "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01",
        os.urandom(16),
        2,
        3,
        4711,
        123456789012,
        "6f3a0b52-0000-4000-8000-00000000abcd",
        os.urandom(16),
    )


def test_a_reader_written_from_the_page_reads_a_journal(tmp_path: Path) -> None:
    """Header, series table, cut points and every point of several segments, and nothing behind."""
    who = identity()
    journal = Journal(who, [tmp_path])
    log_metric = hot.metric_logger(journal, hot.Clock())
    number = 30_000  # more than one segment holds
    for step in range(number):
        log_metric("loss", step / 8, "training", step)
        if step % 1000 == 0:
            log_metric("lr", step, ("training", "warm-up"))
    found: list[Any] = []
    tables = []
    cuts = 0
    for path in sorted(tmp_path.rglob("*.seg")):
        header, table, events = read_segment(path.read_bytes())
        if not events:
            continue
        assert header["first"] == len(found)
        assert header["producer"] == who.producer
        assert {k: v for k, v in header.items() if hasattr(who, k)} == {
            f: getattr(who, f) for f in header if hasattr(who, f)
        }
        cuts += header["cuts"]
        tables.append(table)
        found += events
    journal.close(remove=True)
    assert len(tables) > 1
    assert cuts > 1
    assert tables[0] == []
    assert tables[1] == plain(
        [
            ev.SeriesDefined(0, "loss", ("training",)),
            ev.SeriesDefined(1, "lr", ("training", "warm-up")),
        ]
    )
    points = [event for event in found if event[0] == 3 and event[1] == 0]
    assert [(p[3], p[4]) for p in points] == [(step / 8, step) for step in range(number)]
    assert [event[1:3] for event in found if event[0] == 2] == [[0, "loss"], [1, "lr"]]
    assert sum(event[0] == 3 and event[1] == 1 for event in found) == number // 1000


def test_a_reader_written_from_the_page_reads_an_event_log(tmp_path: Path) -> None:
    """Frames of two files, one compressed, and none of a torn end."""
    run, producer = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01", os.urandom(16)
    events: list[Any] = [ev.Tag(n, "key", f"value {n}") for n in range(7)]
    table = [ev.SeriesDefined(0, "loss")]

    def encode(batch: list[Any]) -> bytes:
        return msgspec.msgpack.encode(batch)

    log = eventlog.EventLog(tmp_path, run)
    log.append(producer, 0, 3, encode(events[:3]))
    log.append(producer, 3, 0, encode(table))
    log.close()
    eventlog.compress(tmp_path)
    log = eventlog.EventLog(tmp_path, run)  # goes on in a new file
    log.append(producer, 3, 4, encode(events[3:]))
    log.close()
    last = max(tmp_path.glob("*.log"))
    last.write_bytes(last.read_bytes() + b"\x10\0\0\0torn")
    assert {path.name for path in tmp_path.iterdir()} >= {last.name, "000000000000.log.gz"}
    found = list(read_log(tmp_path))
    assert [frame[:4] for frame in found] == [
        (0, producer, 0, 3),
        (1, producer, 3, 0),
        (2, producer, 3, 4),
    ]
    assert found[0][4] + found[2][4] == plain(events)
    assert found[1][4] == plain(table)
