"""``docs/calls.md`` has every public call, and nothing that is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prov4ml
from prov4ml import Run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "prov4ml" / "docs" / "calls.md").read_text()

INSIDE = {"after_fork"}  # of Run, not for users


def rows() -> list[list[str]]:
    """The rows of the tables of calls, a list of cells each."""
    found = []
    for block in re.findall(r"^\| call \|.*?(?=\n\n)", PAGE, re.S | re.M):
        for line in block.splitlines()[2:]:
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def named() -> list[str]:
    """The calls in the first cells, and what the page says of a run."""
    cells = [name for row in rows() for name in re.findall(r"`(\w+)", row[0])]
    return cells + re.findall(r"`Run\.(\w+)`", PAGE) + re.findall(r"`(__version__)`", PAGE)


def public() -> set[str]:
    """What a user can call: names of the package, and methods and properties of a run."""
    methods = {name for name in dir(Run) if not name.startswith("_")} - INSIDE
    return {*prov4ml.__all__, *methods, "log_metric"}


@pytest.mark.parametrize("name", sorted(public()))
def test_every_public_call_has_its_row(name: str) -> None:
    """One and only one."""
    assert named().count(name) == 1


def test_no_row_is_about_nothing() -> None:
    """Each names a call that is there."""
    assert set(named()) <= public()


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_row_says_all_four(row: list[str]) -> None:
    """Ours, yProv4ML's, MLflow's, and what becomes of it (questions and names leave nothing)."""
    assert len(row) == 4
    assert row[0]
    silent = ("`active_run()`", "`get_run_dir()`", "`get_artifacts_dir()`")
    assert bool(row[3]) is (row[0] not in silent)


def test_keywords_without_effect_are_parameters() -> None:
    """The page explains keywords that the calls take."""
    import inspect

    block = PAGE.split("without effect, and why\n")[1]
    lines = [line.split("|")[1:3] for line in block.splitlines() if line.startswith("| `")]
    assert len(lines) == 7
    for keywords, calls in lines:
        for call in re.findall(r"`(\w+)`", calls):
            taken = inspect.signature(getattr(prov4ml, call)).parameters
            for keyword in re.findall(r"`(\w+)(?:=\w+)?`", keywords):
                assert keyword in taken or keyword == "False", (call, keyword)
