"""Every registered sink keeps the contract of ``sinks/README.md``."""

from __future__ import annotations

from pathlib import Path

import pytest

from prov4ml.sink import available
from prov4ml.testing.sinks import check_sink

SMALL_PARTS = {
    "parquet": {"rows_per_part": 10, "compression_level": 1},
    "csv": {"rows_per_part": 10, "separator": ";", "compressor": "gzip"},
    "zarr": {"rows_per_part": 10, "compressor": "zlib"},
    "netcdf": {"rows_per_part": 10, "compressor": "none"},
}
"""Options with which a small log passes through everything a sink does while it runs."""


def test_the_default_sinks_are_registered() -> None:
    """The built-in sinks are found through the entry points."""
    assert {"parquet", "provjson", "provn", "svg", "turtle"} <= set(available())
    assert set(SMALL_PARTS) <= set(available())


@pytest.mark.parametrize("name", available())
def test_contract(name: str, tmp_path: Path) -> None:
    """A registered sink passes ``check_sink`` as it is installed."""
    check_sink(name, tmp_path)


@pytest.mark.parametrize("name", SMALL_PARTS)
def test_contract_with_options(name: str, tmp_path: Path) -> None:
    """A sink passes ``check_sink`` when it writes parts all the time."""
    check_sink(name, tmp_path, SMALL_PARTS[name])
