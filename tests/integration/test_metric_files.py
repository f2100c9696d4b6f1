"""Metric files of a real run in every format: the same rows, whatever happens to the collector."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from prov4ml_sinks import csv, netcdf, parquet, zarr

if TYPE_CHECKING:
    from tests.conftest import Isolated
    from tests.integration.conftest import Read

FILES = {"parquet": ".parquet", "csv": ".csv", "zarr": ".zarr.zip", "netcdf": ".nc"}

SCRIPT = """
import os, sys, time
import prov4ml

def log(first, last):
    for step in range(first, last):
        prov4ml.log_metric("loss", 1 / (step + 1), "training", step)
        if step % 10 == 0:
            value = float("nan") if step % 50 == 20 else 0.5
            prov4ml.log_metric("accuracy", value, source="sklearn")

with prov4ml.start_run("formats", sinks=sys.argv[1].split(",")):
    log(0, 2000)
    open("half", "w").close()
    deadline = time.monotonic() + 60
    while not os.path.exists("go"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    log(2000, 4000)
"""


def rows(table: Any) -> list[tuple[Any, ...]]:
    """Comparable rows: NaN is equal to itself."""
    place = table.schema.get_field_index("time")
    table = table.set_column(place, "time", table.column("time").cast("int64"))
    return [tuple(map(repr, row.values())) for row in table.to_pylist()]


def test_formats_hold_the_same_rows_after_a_kill(isolated: Isolated, read: type[Read]) -> None:
    """The collector is killed in the middle: each point stands once in each of four files."""
    pytest.importorskip("h5netcdf")
    path = isolated.write(SCRIPT)
    child = isolated.spawn(
        sys.executable, path.name, "+csv,+zarr,+netcdf", PROV4ML_EXIT_TIMEOUT="60"
    )
    isolated.wait((isolated.folder / "half").exists, "half of the points are logged")
    isolated.wait(lambda: any((run / "run.json").exists() for run in isolated.runs()), "a manifest")
    for collector in isolated.collectors():
        collector.kill()
    (isolated.folder / "go").touch()
    _, said = child.communicate(timeout=90)
    assert child.returncode == 0, said
    directory = isolated.only_run()
    left = read(directory)
    isolated.wait(lambda: isolated.manifest(directory)["closed"], "the run is closed")
    left.check()
    assert left.manifest["failures"] == []
    expected = rows(parquet.read(directory))
    assert len(expected) == 4400
    assert len(set(expected)) == 4400
    for module in (csv, zarr, netcdf):
        assert rows(module.read(directory)) == expected
    outputs = {o["sink"]: o for o in left.manifest["outputs"]}
    assert outputs.keys() == FILES.keys()
    told = left.ask(
        "SELECT ?where ?sha ?rows WHERE { ?f a p4:MetricFile ; prov:atLocation ?where ; "
        "p4:sha256 ?sha ; p4:rows ?rows ; dcterms:isPartOf ?s . ?s a p4:MetricStore }"
    )
    known = {row["where"].value: (row["sha"].value, row["rows"].value) for row in told}
    assert len(known) == 4
    for sink, ending in FILES.items():
        file = directory / outputs[sink]["path"]
        assert file.name.endswith(ending)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert known[outputs[sink]["path"]] == (digest, "4400")
    (row,) = left.ask("SELECT ?rows WHERE { ?s a p4:MetricStore ; p4:rows ?rows }")
    assert row["rows"].value == "4400"


def test_without_parquet_the_store_is_another_file(isolated: Isolated, read: type[Read]) -> None:
    """A run may have CSV alone; its series are part of that store; replay writes another format."""
    path = isolated.write(SCRIPT)
    (isolated.folder / "go").touch()
    isolated.run(sys.executable, path.name, "provjson,turtle,csv", PROV4ML_EXIT_TIMEOUT="60")
    directory = isolated.only_run()
    left = read(directory)
    assert sorted(p.suffix for p in (directory / "metrics").iterdir()) == [".csv"]
    series = "?m a p4:MetricSeries ; dcterms:isPartOf ?s . ?s a p4:MetricStore"
    assert left.count(series) == 2
    (file,) = (directory / "metrics").iterdir()
    before = file.read_bytes()
    isolated.prov4ml("replay", str(directory), "--sink", "zarr", "--sink", "csv")
    assert rows(zarr.read(directory)) == rows(csv.read(directory))
    assert csv.read(directory).num_rows == 4400
    (file,) = (directory / "metrics").glob("*.csv")
    assert file.read_bytes() == before


def test_a_sink_without_its_package(isolated: Isolated) -> None:
    """It fails alone, and the pip line stands in the manifest, the documents and on the screen."""
    shim = isolated.root / "shim"
    shim.mkdir()
    (shim / "h5netcdf.py").write_text("raise ImportError('no h5netcdf', name='h5netcdf')\n")
    path = isolated.write(SCRIPT)
    (isolated.folder / "go").touch()
    search = f"{shim}:{isolated.environment.get('PYTHONPATH', '')}"
    done = isolated.run(sys.executable, path.name, "+netcdf", PYTHONPATH=search)
    manifest = isolated.manifest()
    assert manifest["status"] == "finished"
    (failure,) = manifest["failures"]
    assert "pip install 'prov4ml[netcdf]'" in failure
    assert "pip install 'prov4ml[netcdf]'" in done.stderr
    assert [o["sink"] for o in manifest["outputs"]] == ["parquet"]
