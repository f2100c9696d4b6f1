"""What happens at a bound, where no test of the bounded thing itself shows it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from prov4ml import artifacts, handover, hot, process, provdm, publish, references, sender, spool
from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.errors import UsageError
from prov4ml.eventlog import EventLog
from prov4ml.journal import LARGEST, SMALLEST, Journal
from prov4ml.params import log_param
from prov4ml.publish import Publisher
from prov4ml.testing.records import Record

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
RANK = b"r" * 16


class Clock:
    """Stands for ``time`` in a module; ``now`` is the test's own."""

    def __init__(self) -> None:
        self.begin = self.now = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return self.now


def _journal(*places: Path) -> Journal:
    who = seg.Identity(RUN, RANK, 1, 0, os.getpid(), 5, str(uuid.uuid4()), b"")
    return Journal(who, list(places))


def _put(record: Record, name: str, **more: Any) -> references.Reference:
    given = {"is_input": False, "copy": True, "derived_from": None, "text": name, **more}
    return artifacts.log_artifact(record.recorder, name, None, None, None, **given)


# -------------------------------------------------------------------------------- events


def test_a_long_value_is_a_side_file(record: Record) -> None:
    """Up to 1,000 characters stand in the event; a longer value is a file, named by its hash."""
    log_param(record.recorder, "short", "x" * 1000)
    log_param(record.recorder, "long", "y" * 100_000)
    short, kept, long = record.events
    assert (short.value, short.artifact) == ("x" * 1000, None)
    assert isinstance(kept, ev.Artifact)
    assert (long.artifact, len(long.value)) == (kept.n, 64)
    assert kept.incoming is not None
    incoming = record.run / "artifacts" / ".incoming" / kept.incoming
    assert incoming.read_bytes() == b"y" * 100_000


def test_an_event_beyond_its_bound_is_an_error_of_the_caller(record: Record) -> None:
    """64 KiB are what an event may hold: more is refused, and nothing of it is written."""
    with pytest.raises(UsageError):
        record.recorder.append(ev.Tag(1, "key", "x" * (64 << 10)))
    assert record.events == []
    record.recorder.append(ev.Tag(1, "key", "x" * (63 << 10)))
    assert len(record.events) == 1


def test_a_long_fact_is_cut(record: Record) -> None:
    """Of what a thing says of itself at most 4,000 characters are kept."""
    facts: dict[str, ev.Scalar] = {"notes": "x" * 10_000, "samples": 3}
    made = record.recorder.occurrence(1, "dataset", "data", handover.Handed(), facts=facts)
    told = record.artifact(made).attributes
    assert len(str(told["notes"])) == 4000
    assert told["samples"] == 3


def test_the_oldest_name_is_forgotten(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """``derived_from=`` finds the names that were logged last; an older thing by its handle."""
    monkeypatch.setattr(references, "_NAMES", 10)
    made = [_put(record, f"f{n}") for n in range(20)]
    _put(record, "from a late one", derived_from="f19")
    _put(record, "from a handle", derived_from=made[0])
    with pytest.raises(UsageError, match="f0"):
        _put(record, "from an early one", derived_from="f0")


def test_a_file_without_a_size_is_cut(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of /proc, whose size is 0, is read as far as the bound goes."""
    monkeypatch.setattr(handover, "_SIZELESS", 10)
    made = artifacts.log_artifact(
        *(record.recorder, "/proc/version", None, None, None),
        is_input=False,
        copy=True,
        derived_from=None,
    )
    assert record.artifact(made).size == 10


def test_a_part_of_an_identifier_is_bounded() -> None:
    """At most 120 bytes; what is cut is told apart by its hash."""
    names = ["x" * 500, "x" * 501, "\U0001f600" * 200, "/" * 100]
    made = [provdm.segment(name) for name in names]
    assert all(len(each) <= 120 for each in made)
    assert len(set(made)) == len(names)


# ------------------------------------------------------------------------------ journals


def test_segments_double(tmp_path: Path) -> None:
    """From 256 KiB to 4 MiB, and no further."""
    journal = _journal(tmp_path)
    log = hot.metric_logger(journal, hot.Clock())
    while len(journal.sealed) < 7:
        log("loss", 0.5, step=1)
    sizes = [path.stat().st_size for path in spool.segments([tmp_path], RUN, RANK)][:7]
    assert [size // SMALLEST for size in sizes] == [1, 1, 2, 4, 8, 16, 16]
    assert LARGEST <= max(sizes) <= LARGEST + 8192  # header and end
    journal.close(remove=True)


def test_a_journal_goes_from_memory_to_disk(tmp_path: Path) -> None:
    """The first 8 MiB of a producer lie in the first place (memory), the others in the second."""
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    journal = _journal(memory, disk)
    log = hot.metric_logger(journal, hot.Clock())
    while len(spool.segments([disk], RUN, RANK)) < 2:
        log("loss", 0.5, step=1)
    held = sum(path.stat().st_size for path in spool.segments([memory], RUN, RANK))
    assert spool.MEMORY_SHARE <= held < spool.MEMORY_SHARE + LARGEST
    journal.close(remove=True)


# ---------------------------------------------------------------------------- collectors


def _nothing() -> Generator[None, None, None]:
    yield from ()


def test_starts_of_a_collector_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that never answers is started ten times, 1, 2, 4 ... 60 s apart, and that is said."""
    clock = Clock()
    started: list[float] = []
    monkeypatch.setattr(sender, "time", clock)
    monkeypatch.setattr(sender.service, "served", lambda *_: False)
    monkeypatch.setattr(sender.service, "spawn", lambda *_: started.append(clock.now) is None)
    monkeypatch.setattr(sender.log, "propagate", True)
    journal = _journal(tmp_path)
    wanted: Any = SimpleNamespace(address="ipc:///nowhere", log=tmp_path / "collector.log")
    made = sender.Sender(journal, "auto", "/run", wanted, _nothing())
    for _ in range(900):
        made._serve()
        clock.now += 1.0
    gaps = [later - sooner for sooner, later in pairwise(started)]
    assert [round(gap) for gap in gaps] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert caplog.text.count("no collector after 10 starts") == 1
    journal.close(remove=True)


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Publisher]:
    """The publisher of a run that has begun."""
    directory = tmp_path / "run"
    log = EventLog(directory / "events", RUN)
    started = ev.Started(
        *(1, RUN, "seldom", "seldom_0", str(directory), "https://example.org/"),
        *(1, 0, 0, 1, os.getpid(), process.pid_start(os.getpid()), process.boot_id()),
        *(process.hostname(), None, "none", "0", "3", {"sinks": ["provn"]}),
    )
    log.append(RANK, 0, 1, msgspec.msgpack.encode([started]))
    log.sync()
    made = Publisher(log, directory)
    made.follow()
    yield made
    made.abandon()
    log.close()


def _opened_at(made: Publisher, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When documents are written from here on, on the test's clock; each takes ten seconds."""
    monkeypatch.setattr(publish, "time", clock)
    write = publish.documents.write
    written: list[float] = []

    def slowly(*arguments: Any) -> Any:
        written.append(clock.now)
        clock.now += 10.0
        return write(*arguments)

    monkeypatch.setattr(publish.documents, "write", slowly)
    made.snapshot()  # the manifest
    return written


def test_documents_of_a_running_run_are_seldom(
    followed: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 60 s; where rendering takes long, not before 20 times that has passed."""
    clock = Clock()
    written = _opened_at(followed, clock, monkeypatch)
    assert (followed.directory / "run.json").is_file()
    for _ in range(600):
        followed.snapshot()
        clock.now += 1.0
    assert (followed.directory / "prov.provn").is_file()
    first, second, third = written
    assert 59 <= first - clock.begin <= 61
    assert second - first >= 200
    assert third - second >= 200


def test_a_change_of_status_is_written_soon(
    followed: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a rank has ended, 5 s after the documents before."""
    clock = Clock()
    written = _opened_at(followed, clock, monkeypatch)
    followed.log.append(RANK, 1, 1, msgspec.msgpack.encode([ev.Ended(9, "failed")]))
    followed.log.sync()
    for _ in range(30):
        followed.follow()
        followed.snapshot()
        clock.now += 1.0
    assert [round(when - clock.begin) for when in written] == [5]
