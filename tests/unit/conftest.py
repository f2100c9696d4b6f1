"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prov4ml.testing.records import Record


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    """A recorder for log calls, and what they recorded."""
    made = Record(tmp_path / "record")
    yield made
    made.close()
