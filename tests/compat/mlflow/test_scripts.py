"""MLflow's tutorials on prov4ml: the same script, one import changed, and its provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prov.model as pm
import pyoxigraph as ox
import pytest

if TYPE_CHECKING:
    from tests.compat.mlflow.conftest import Ran

SCRIPTS = sorted(path.stem for path in (Path(__file__).parent / "scripts").glob("*.py"))
NEEDS = {"files": ["matplotlib", "pandas", "PIL"], "loop": ["torch"]}


def _needs(name: str) -> None:
    for package in NEEDS.get(name, []):
        pytest.importorskip(package)


def one(found: list[Any]) -> Any:
    (only,) = found
    return only


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_by_its_import_change(
    name: str, converted: Callable[[str], Ran], read: Any
) -> None:
    """Each tutorial runs without a warning, and all readers take the documents of its runs."""
    _needs(name)
    place = converted(name).place
    assert place.runs()
    for directory in place.runs():
        left = read(directory)
        left.check()
        assert left.manifest["status"] == "finished"
        assert left.manifest["accounting"]["lost"] == 0
        assert left.manifest["failures"] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_told_what_mlflow_tells_it(
    name: str, converted: Callable[[str], Ran], genuine: Callable[[str], Any]
) -> None:
    """Parameters, last metrics, tags and status are those that MLflow itself gives back."""
    if find_spec("mlflow") is None or find_spec("pandas") is None:
        pytest.skip("needs mlflow-skinny and pandas")
    _needs(name)
    assert converted(name).told == genuine(name)


def test_quickstart(converted: Callable[[str], Ran], read: Any) -> None:
    """Name, note, exact parameters, metrics at step 0 and the model with its signature."""
    directory = converted("quickstart").place.only_run()
    assert directory.name == "Iris%20quickstart_0"
    left = read(directory)
    run = one(left.records("mls:Run"))
    tags = {str(name).rpartition("/")[2]: str(value) for name, value in run.attributes}
    assert tags["mlflow.runName"] == "logistic"
    assert tags["mlflow.note.content"] == "a first look"
    assert tags["Training%20Info"] == "logistic regression on iris"
    values = left.ask(
        "SELECT ?k ?v WHERE { ?r prov:used ?p . ?p a mls:HyperParameterSetting ; rdfs:label ?k ; "
        "prov:value ?v }"
    )
    found = {row["k"].value: (row["v"].value, row["v"].datatype.value[-7:]) for row in values}
    assert float(found["C"][0]) == 0.5
    assert found["max_iter"][0] == "1000"
    assert found["solver"][0] == "lbfgs"
    assert {p["step"] for p in left.points} == {0}
    assert {p["name"] for p in left.points} == {"accuracy", "f1", "classes"}
    assert left.labels("p4:ModelVersion") == {"iris_model, final": 1}
    notes = stored(left, "iris_model/MLmodel.json")
    inputs = json.loads(json.loads(notes)["signature"]["inputs"])
    assert inputs[0]["tensor-spec"] == {"dtype": "float64", "shape": [-1, 4]}


def test_loop(converted: Callable[[str], Ran], read: Any) -> None:
    """Sixteen steps, the dataset used by its context, two checkpoints and the final model."""
    pytest.importorskip("torch")
    left = read(converted("loop").place.only_run())
    steps = [p["step"] for p in left.points if p["name"] == "loss"]
    assert sorted(steps) == list(range(16))
    kinds = ["regressor, final", "regressor, version 1", "regressor, version 2"]
    assert sorted(left.labels("p4:ModelVersion")) == kinds
    assert left.count("?a prov:wasRevisionOf ?b") == 2
    (row,) = left.ask(
        "SELECT ?where ?samples ?context WHERE { ?context a p4:Training ; prov:used ?split . "
        "?split prov:wasDerivedFrom ?data ; p4:samples ?samples . ?data a mls:Dataset ; "
        "prov:atLocation ?where }"
    )
    assert row["where"].value.endswith("data.example/line.csv")
    assert row["samples"].value == "256"
    assert "Linear(in_features=4" in stored(left, "summary.txt")


def test_sweep(converted: Callable[[str], Ran], read: Any) -> None:
    """Each run is one of its own that says which it is part of; the parent was taken up again."""
    runs = {directory: read(directory) for directory in converted("sweep").place.runs()}
    assert len(runs) == 6
    parent = one([r for r in runs.values() if r.manifest["part_of"] is None])
    children = [r for r in runs.values() if r is not parent]
    iri = f"https://w3id.org/prov4ml/run/{parent.manifest['run']}/run"
    assert {r.manifest["part_of"] for r in children} == {iri}
    assert parent.manifest["attempts"] == 2
    assert parent.count(f"<{iri}> a mls:Run") == 1
    # all of them in one store: a question over runs
    store = ox.Store()
    for each in runs.values():
        store.load(path=str(each.directory / "prov.ttl"), format=ox.RdfFormat.TURTLE)
    answers = store.query(
        "PREFIX dcterms: <http://purl.org/dc/terms/> PREFIX prov: <http://www.w3.org/ns/prov#> "
        "PREFIX mls: <http://www.w3.org/ns/mls#> "
        "PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#> "
        f"SELECT ?alpha WHERE {{ ?run a mls:Run ; dcterms:isPartOf <{iri}> ; prov:used ?p . "
        '?p rdfs:label "alpha" ; prov:value ?alpha }'
    )
    alphas = sorted(float(row["alpha"].value) for row in answers)
    assert alphas == [0.01, 0.1, 1.0, 10.0, 100.0]
    # and as the reader of PROV-JSON sees it: by the name that the parent's document has
    for each in children:
        run = one(each.records("mls:Run"))
        part = one(list(run.get_attribute("dcterms:isPartOf")))
        assert isinstance(part, pm.QualifiedName)
        assert part.uri == iri
        assert str(part) == str(one(parent.records("mls:Run")).identifier)


def test_files(converted: Callable[[str], Ran], read: Any) -> None:
    """A log call starts a run of "Default"; each artifact has its name and its bytes."""
    _needs("files")
    directory = converted("files").place.only_run()
    assert directory.name == "Default_0"
    left = read(directory)
    names = left.labels("p4:Artifact")
    assert names == dict.fromkeys(
        [
            "notes.md",
            "docs/notes.md",
            "figures/a.txt",
            "figures/deep/b.txt",
            "report.html",
            "config/model.json",
            "config/model.yaml",
            "curve.png",
            "curve.svg",
            "ramp.png",
            "images/sample.png",
            "answers.json",
            "frame.json",
        ],
        1,
    )
    assert stored(left, "docs/notes.md") == stored(left, "notes.md") == "this is notes.md\n"
    assert stored(left, "figures/deep/b.txt") == "this is plots/deep/b.txt\n"
    assert json.loads(stored(left, "config/model.yaml")) == {"layers": [1, 2]}
    assert json.loads(stored(left, "answers.json")) == {
        "columns": ["question", "score"],
        "data": [["a", 0.5], ["b", 1.0]],
    }
    assert json.loads(stored(left, "frame.json")) == {"columns": ["x"], "data": [[1], [2]]}
    for name in ("curve.png", "ramp.png", "images/sample.png"):
        assert path_of(left, name).read_bytes().startswith(b"\x89PNG")
    assert re.match(r"<\?xml|<svg", stored(left, "curve.svg"))
    (row,) = left.ask('SELECT ?s WHERE { ?a rdfs:label "images/sample.png" ; p4:step ?s }')
    assert row["s"].value == "3"


def path_of(left: Any, name: str) -> Path:
    """Where the bytes of an artifact lie, as the documents say."""
    rows = left.ask(
        f'SELECT ?l WHERE {{ ?a a p4:Artifact ; rdfs:label "{name}" ; prov:atLocation ?l }}'
    )
    places = [row["l"].value for row in rows]
    inside = [place for place in places if "artifacts/" in place]
    return Path(left.directory) / re.sub(r"^.*(artifacts/)", r"\1", one(inside))


def stored(left: Any, name: str) -> str:
    return path_of(left, name).read_text()
