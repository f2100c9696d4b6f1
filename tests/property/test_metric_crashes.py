"""Sinks of points through any series of crashes: no point twice, in the end none missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prov4ml.events import Point
from prov4ml.sink import Chunk, SeriesKey, Target
from prov4ml_sinks import csv, metric_parts, netcdf, parquet, zarr

FRAMES = 12
SERIES = {0: SeriesKey("loss", ("training",), None), 1: SeriesKey("accuracy", (), None)}
LOG = [
    Chunk(
        bytes([frame % 2]) * 16,
        frame % 2,
        1,
        frame,
        3 * frame,
        tuple(Point(n % 2, frame, float(3 * frame + n)) for n in range(3)),
        SERIES,
    )
    for frame in range(FRAMES)
]
EXPECTED = [
    value
    for _, _, value in sorted(
        (chunk.rank, SERIES[event.series].context, event.value)
        for chunk in LOG
        for event in chunk.events
        if isinstance(event, Point)
    )
]


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def dying_after(steps: int) -> Iterator[None]:
    """Raise ``Crash`` before the step after so many renames and removals."""
    real = {"replace": os.replace, "unlink": Path.unlink}
    left = [steps]

    def counted(name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            real[name](*arguments, **keywords)

        return call

    with (
        mock.patch.object(os, "replace", counted("replace")),
        mock.patch.object(Path, "unlink", counted("unlink")),
        mock.patch.object(metric_parts, "_sync"),
    ):
        yield


SINKS: dict[str, tuple[Any, Any, str]] = {
    "parquet": (parquet.Parquet, parquet.read, ".parquet"),
    "csv": (csv.Csv, csv.read, ".csv"),
    "zarr": (zarr.Zarr, zarr.read, ".zarr.zip"),
    "netcdf": (netcdf.NetCdf, netcdf.read, ".nc"),
}


def life(rows: int, stop: int = FRAMES, *, close: bool = False) -> dict[str, Any]:
    """A life whose cursors are never logged and that the process survives to ``stop``."""
    logged = [False] * FRAMES
    named = {"steps": 10_000, "stop": stop, "rows": rows, "close": close}
    return {**named, "logged": logged, "replay": False}


lives = st.fixed_dictionaries(
    {
        "steps": st.integers(0, 12) | st.just(10_000),
        "stop": st.integers(0, FRAMES),
        "rows": st.sampled_from([1, 4, 7, 1000]),
        "replay": st.booleans(),
        "close": st.booleans(),
        "logged": st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES),
    }
)


def check(name: str, past: list[dict[str, Any]]) -> None:
    """Some lives, then one that the process survives."""
    kind, read, suffix = SINKS[name]
    with TemporaryDirectory() as folder:
        directory, cursor = Path(folder), 0
        for now in [*past, life(7, close=True)]:
            cursor = 0 if now["replay"] else cursor
            try:
                with dying_after(now["steps"]):
                    options = {"rows_per_part": now["rows"]}
                    sink = kind(Target(directory, "run", "digits", cursor), options)
                    for chunk in LOG[cursor : now["stop"]]:
                        sink.write(chunk)
                        reached = sink.flush()
                        if now["logged"][chunk.frame]:
                            cursor = reached
                    if now["close"] and now["stop"] == FRAMES:
                        sink.close()
            except Crash:
                pass
            seen = read(directory)["value"].to_pylist()
            assert len(seen) == len(set(seen))
        assert seen == EXPECTED
        assert os.listdir(directory / "metrics") == [f"part-0-{FRAMES - 1}{suffix}"]


NEW_PARTS = [life(7), life(4, 5)]  # cut elsewhere than those they replace
MERGED = [life(4, close=True)]  # a merged part that no cursor knows of, written again


@settings(max_examples=60, deadline=None)
@given(st.lists(lives, max_size=5))
@example(NEW_PARTS)
@example(MERGED)
def test_any_series_of_crashes(past: list[dict[str, Any]]) -> None:
    """Readers never see a point twice, and the last life leaves one file with every point."""
    check("parquet", past)


@pytest.mark.parametrize("name", [name for name in SINKS if name != "parquet"])
@settings(max_examples=12, deadline=None)
@given(st.lists(lives, max_size=3))
@example(NEW_PARTS)
@example(MERGED)
def test_other_formats_through_crashes(name: str, past: list[dict[str, Any]]) -> None:
    """The same holds for each format, whose parts are handled alike."""
    if name == "netcdf":
        pytest.importorskip("h5netcdf")
    check(name, past)
