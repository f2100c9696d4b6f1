"""``sinks/README.md`` lists every built-in sink, every option and every clause."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from prov4ml import testing
from prov4ml.sink import available, is_stream, load
from prov4ml.testing import sinks

README = (Path(__file__).parents[2] / "sinks" / "README.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z0-9_-]+)` \| (.*)$", README, re.MULTILINE))
BUILT_IN = [name for name, entry in available().items() if entry.value.startswith("prov4ml_sinks")]


def test_the_table_lists_the_built_in_sinks() -> None:
    """Neither is a sink missing from the table nor does the table promise one."""
    assert len(BUILT_IN) >= 5
    assert sorted(ROWS) == sorted(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_table_lists_kind_and_options(name: str) -> None:
    """A row says of which kind its sink is, and names its options and no others."""
    kind = load(name)
    cells = [cell.strip() for cell in ROWS[name].strip("| ").split(" | ")]
    assert cells[0] == ("stream" if is_stream(kind) else "document")
    assert re.findall(r"`([a-z_]+)`:", cells[2]) == list(kind.options)
    assert (cells[2] == "none") == (not kind.options)
    if not is_stream(kind):
        assert f"`prov.{kind.suffix}`" in cells[1]


def test_every_clause_is_written_and_checked() -> None:
    """The clauses of the page and those that ``check_sink`` can name are the same."""
    written = set(re.findall(r"^- \*\*([RDS][0-9])\*\* ", README, re.MULTILINE))
    checked = set(re.findall(r"\b([RDS][0-9])\b[\":]", inspect.getsource(sinks)))
    assert len(written) >= 18
    assert written == checked
    assert testing.__doc__
