"""What a dead process left in the spool, beside its segments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prov4ml import process, salvage
from prov4ml import segment as seg

RUN = "0191e6a4-8f00-7000-8000-000000000001"


def _unfinished(folder: Path, pid: int, start: int, number: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:06d}.{pid}.{start}{seg.NEW}"
    path.write_bytes(bytes(64))
    return path


def test_a_file_that_a_dead_process_was_making_goes(tmp_path: Path) -> None:
    """With it go the folders that hold nothing else."""
    left = _unfinished(tmp_path / RUN / "ab", 1, 1)  # pid 1 started at another tick
    salvage.sweep([tmp_path], RUN)
    assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_living_process_is_making_stays(tmp_path: Path) -> None:
    """So does whatever has another name."""
    mine = _unfinished(tmp_path / RUN / "ab", os.getpid(), process.pid_start(os.getpid()))
    odd = mine.with_name(f"notes{seg.NEW}")
    odd.write_bytes(b"")
    salvage.sweep([tmp_path], RUN)
    assert mine.exists()
    assert odd.exists()


@pytest.mark.parametrize(
    "name", ["000001.seg", "000001.5.new", "000001.5.x.new", "1.-5.6.new", "000001.5.6.7.new"]
)
def test_no_maker_is_read_into_other_names(name: str) -> None:
    """Only the form that ``begin_file`` gives names a process."""
    assert seg.maker(Path(name)) is None
    assert seg.maker(Path("000001.5.6.new")) == (5, 6)
