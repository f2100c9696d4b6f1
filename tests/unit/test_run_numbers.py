"""A run that asks for its number: made, joined by its ranks, continued when it is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from prov4ml import attempts, process, rundir
from prov4ml.errors import UsageError

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
ALONE = rundir.Launch("none", None)


def ranks(count: int) -> list[rundir.Launch]:
    return [rundir.Launch("torchrun", "job", n, n, count) for n in range(count)]


def earlier(base: Path, name: str = "digits_3", **rank: Any) -> Path:
    """A run that is over, as its manifest tells, or that runs."""
    directory = base / name
    (directory / "events").mkdir(parents=True)
    manifest = {
        "run": RUN,
        "attempts": 1,
        "ranks": [{"rank": 0, "attempt": 1, "status": "finished", **rank}],
    }
    (directory / "run.json").write_text(json.dumps(manifest))
    return directory


def test_the_number_is_taken_when_it_is_free(tmp_path: Path) -> None:
    """The next one without a number goes on behind it."""
    claim, where = attempts.numbered(tmp_path / "prov", "digits", 3, None, ALONE, [])
    assert (claim.name, where) == ("digits_3", ALONE)
    assert claim.directory.is_dir()
    assert rundir.claim(tmp_path / "prov", "digits", None, ALONE).name == "digits_4"


def test_ranks_of_a_job_share_the_run_of_that_number(tmp_path: Path) -> None:
    """Whoever comes first makes it; for the others it is no earlier run."""
    places = [attempts.numbered(tmp_path, "a b", 0, "key", where, []) for where in ranks(3)]
    assert {claim.name for claim, _ in places} == {"a%20b_0"}
    assert len({claim.run for claim, _ in places}) == 1
    assert {where.attempt for _, where in places} == {1}


def test_an_earlier_run_of_that_number_is_continued(tmp_path: Path) -> None:
    """By one process, and by all ranks of a job as the same attempt."""
    directory = earlier(tmp_path)
    claim, where = attempts.numbered(tmp_path, "digits", 3, None, ALONE, [])
    assert (claim.run, claim.directory, where.attempt) == (RUN, directory, 2)
    places = [attempts.numbered(tmp_path, "digits", 3, "key", where, []) for where in ranks(2)]
    assert {(claim.run, where.attempt) for claim, where in places} == {(RUN, 3)}


def test_a_run_that_still_runs_is_not_continued(tmp_path: Path) -> None:
    """By two processes at once nothing could be told apart."""
    pid = os.getppid()  # ourselves would not count: our last run has ended
    earlier(
        tmp_path,
        status="running",
        host=process.hostname(),
        pid=pid,
        pid_start=process.pid_start(pid),
        boot_id=process.boot_id(),
    )
    with pytest.raises(UsageError, match="still runs"):
        attempts.numbered(tmp_path, "digits", 3, None, ALONE, [])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """Nothing is written into what somebody else made."""
    (tmp_path / "digits_3").mkdir()
    with pytest.raises(UsageError, match=r"use_run_id: .* says nothing of a run"):
        attempts.numbered(tmp_path, "digits", 3, None, ALONE, [])
    assert list((tmp_path / "digits_3").iterdir()) == []
