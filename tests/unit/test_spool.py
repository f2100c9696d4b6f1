"""What lies beside the journals of a run, and how a run is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from prov4ml import spool

RUN = "0191e6a4-8f00-7000-8000-000000000001"
P, Q = b"p" * 16, b"q" * 16


def test_the_first_event_of_a_rank_is_kept_on_disk(tmp_path: Path) -> None:
    """Not in memory, which a reboot takes; where the disk has no room, there after all."""
    memory, disk = tmp_path / "m", tmp_path / "d"
    spool.introduce([memory, disk], RUN, P, b"first")
    assert spool.introduction([memory, disk], RUN, P) == b"first"
    assert not memory.exists()
    disk.joinpath(RUN, Q.hex()).write_bytes(b"in the way")
    spool.introduce([memory, disk], RUN, Q, b"other")
    assert spool.introduction([memory, disk], RUN, Q) == b"other"
    assert spool.introduction([memory, disk], RUN, b"r" * 16) is None


def test_a_closed_run_is_forgotten(tmp_path: Path) -> None:
    """Its empty folders go; a producer that has not ended, and what holds a segment, stay."""
    places = [tmp_path / "m", tmp_path / "d"]
    for producer in (P, Q):
        spool.introduce(places, RUN, producer, b"first")
    spool.forget(places, RUN, {P})
    assert spool.producers(places, RUN) == [Q]
    assert spool.introduction(places, RUN, Q) == b"first"
    held = tmp_path / "m" / RUN / P.hex() / "000000.seg"
    held.parent.mkdir(parents=True)
    held.touch()
    spool.forget(places, RUN, {P, Q})
    assert held.exists()
    spool.clear(held.parent)
    spool.clear(held.parent)  # as somebody else does at the same moment
    assert spool.runs(places) == []


@pytest.mark.parametrize("name", ["000000.seg", "000001.5.6.new"])
def test_clearing_takes_segments_only(tmp_path: Path, name: str) -> None:
    """Also those being made; other files are not ours to remove."""
    folder = tmp_path / RUN / P.hex()
    folder.mkdir(parents=True)
    for each in (name, "notes"):
        (folder / each).touch()
    spool.clear(folder)
    assert spool.listed(folder) == ["notes"]
