"""A run with everything that is no metric: read by others, walked from the model to the machine."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated

PATIENT = {"PROV4ML_EXIT_TIMEOUT": "100"}  # s; a busy machine may take its time

SCRIPT = """
import os
import numpy as np, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
import prov4ml

prov4ml.start_run("things")
prov4ml.log_param("lr", 0.1)
table = prov4ml.log_input("raw/table.csv")
notes = prov4ml.log_artifacts("raw/notes", is_input=True)
link = prov4ml.log_dataset("https://u:geheim@data.example/set.csv", "remote")
clean = prov4ml.log_output(np.zeros((100, 3), "f4"), "clean.npy", derived_from=[table, notes, link])
dataset = TensorDataset(torch.zeros(100, 3), torch.zeros(100))
whole = prov4ml.log_dataset(dataset, "clean", derived_from="clean.npy")
train, test = random_split(dataset, [80, 20], generator=torch.Generator().manual_seed(3))
base = prov4ml.log_model("base.bin", "base", is_input=True)
model = nn.Linear(3, 1)
with prov4ml.context("training"):
    prov4ml.log_dataset(DataLoader(train, batch_size=8, shuffle=True), "train")
    best = None
    for step in range(3):
        with torch.no_grad():
            model.weight.add_(1)
        made = prov4ml.save_model_version(
            model, "net", step=step, epoch=0, derived_from=base if step == 0 else None
        )
        if step == 1:
            best, weights = made, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    final = prov4ml.log_model(model, "net", derived_from=best)
with prov4ml.context("testing"):
    prov4ml.log_dataset(test, "test")
prov4ml.log_artifact("curve.txt", text="1 2 3", derived_from=final)
prov4ml.log_artifact("settings.json", {"a": [1, 2]})
same = prov4ml.log_artifact("copy of table", "raw/table.csv")
prov4ml.log_execution_command("python", "train.py")
prov4ml.log_environment()
prov4ml.end_run()
print(final.iri, table.iri, best.iri, base.iri, clean.iri)
"""


class Made:
    """The run, and the IRIs that its script printed."""

    def __init__(self, place: Isolated, read: Any) -> None:
        folder = place.folder
        (folder / "raw" / "notes").mkdir(parents=True)
        (folder / "raw" / "table.csv").write_text("1,2\n")
        for name in ("a.md", "b.md"):
            (folder / "raw" / "notes" / name).write_text(name)
        (folder / "base.bin").write_bytes(b"base")
        (folder / "train.py").write_text(SCRIPT)
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "x")):
            user = ("-c", "user.name=a", "-c", "user.email=a@example.org")
            subprocess.run(["git", *user, *words], cwd=folder, check=True)
        out = place.script(SCRIPT, **PATIENT).stdout
        self.final, self.table, self.best, self.base, self.clean = out.split()
        self.left = read(place.only_run())


@pytest.fixture(scope="module")
def made(places: Any, read: Any) -> Iterator[Made]:
    """The script above, run once."""
    with places() as place:
        yield Made(place, read)


def test_readers_agree(made: Made) -> None:
    """All formats say the same, keep the constraints, and nothing is lost."""
    made.left.check()
    account = made.left.manifest["accounting"]
    assert (account["lost"], account["rejected"]) == (0, 0)
    assert made.left.manifest["failures"] == []


def test_handles_name_entities_of_the_documents(made: Made) -> None:
    """What the script printed is what every store finds."""
    for iri in (made.final, made.table, made.best, made.base, made.clean):
        assert made.left.count(f"<{iri}> a prov:Entity") == 1


def test_from_the_final_model_to_file_commit_and_machine(made: Made) -> None:
    """One SPARQL question walks the whole way."""
    (row,) = made.left.ask(
        f"SELECT DISTINCT ?raw ?commit ?host ?lr WHERE {{ "
        f"<{made.final}> prov:wasGeneratedBy ?context . "
        "?context prov:used/prov:wasDerivedFrom+ ?file ; dcterms:isPartOf+ ?run . "
        "?file rdfs:label ?raw ; prov:specializationOf/p4:sha256 ?digest . "
        'FILTER(?raw = "table.csv") '
        "?run a mls:Run ; prov:qualifiedAssociation/prov:hadPlan/p4:commit ?commit ; "
        "prov:used ?setting . ?setting a mls:HyperParameterSetting ; prov:value ?lr . "
        "?rank dcterms:isPartOf+ ?run ; a p4:RankProcess ; prov:used ?machine . "
        "?machine a p4:Host ; rdfs:label ?host }"
    )
    assert row["raw"].value == "table.csv"
    assert len(row["commit"].value) == 40
    assert row["host"].value
    assert float(row["lr"].value) == 0.1


def test_the_same_way_in_prov_json(made: Made) -> None:
    """Following the JSON by hand, without any library of RDF or PROV."""
    content: dict[str, Any] = made.left.json
    spaces = content["prefix"]

    def full(name: str) -> str:
        prefix, _, local = name.partition(":")
        return str(spaces.get(prefix, f"{prefix}:")) + local

    def pairs(kind: str, first: str, second: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for relation in content.get(kind, {}).values():
            found.setdefault(full(relation[first]), set()).add(full(relation[second]))
        return found

    derived = pairs("wasDerivedFrom", "prov:generatedEntity", "prov:usedEntity")
    generated = pairs("wasGeneratedBy", "prov:entity", "prov:activity")
    used = pairs("used", "prov:activity", "prov:entity")
    (context,) = generated[made.final]
    reached = {made.final, *used[context]}
    while more := {s for e in reached for s in derived.get(e, ())} - reached:
        reached |= more
    assert {made.table, made.clean, made.base} <= reached


def test_the_models_chain(made: Made) -> None:
    """Tuned from the base, revised step by step, the final one from the best; no circle."""
    left = made.left
    assert left.count(f"<{made.final}> prov:wasRevisionOf <{made.best}>") == 1
    assert left.count(f"<{made.final}> prov:wasRevisionOf ?x") == 1
    fair = "<https://w3id.org/fair4ml#fineTunedFrom>"
    (row,) = left.ask(f"SELECT ?v ?l WHERE {{ ?v {fair} <{made.base}> ; p4:step ?l }}")
    assert row["l"].value == "0"
    tuned = f"?v prov:qualifiedDerivation [ a p4:FineTuning ; prov:entity <{made.base}> ]"
    weights = (
        f"?x prov:qualifiedUsage [ prov:hadRole p4:initialWeights ; prov:entity <{made.base}> ]"
    )
    assert left.count(f"{tuned} . {weights}") == 1
    same = left.ask(
        f"SELECT ?c WHERE {{ <{made.final}> prov:specializationOf ?c . ?c a p4:Content . "
        f"<{made.best}> prov:specializationOf ?c }}"
    )
    assert len(list(same)) == 1
    assert left.count("?v a p4:ModelVersion ; p4:layers ?l . ?l a p4:LayerTree") == 4
    assert left.count("?v a p4:ModelVersion ; p4:epoch ?e ; p4:step ?s") == 3


def test_the_folder_and_the_link(made: Made) -> None:
    """Members are entities; the link was never followed, its password never written."""
    left = made.left
    assert left.count('?f rdfs:label "notes" ; a prov:Collection ; prov:hadMember ?m') == 2
    (row,) = left.ask('SELECT ?l WHERE { ?d rdfs:label "remote" ; prov:atLocation ?l }')
    assert row["l"].value == "https://***@data.example/set.csv"
    assert row["l"].datatype.value == "http://www.w3.org/2001/XMLSchema#anyURI"
    for path in (left.directory / f"prov.{kind}" for kind in ("json", "provn", "ttl", "svg")):
        assert "geheim" not in path.read_text()
    for path in (left.directory / "events").iterdir():
        assert b"geheim" not in gzip.decompress(path.read_bytes())


def test_the_same_bytes_are_stored_once(made: Made) -> None:
    """Two occurrences of the table, one content, one file; nothing waits in ``.incoming``."""
    left = made.left
    (row,) = left.ask(
        "SELECT ?c (COUNT(?o) AS ?n) WHERE { ?o prov:specializationOf ?c . "
        f"<{made.table}> prov:specializationOf ?c . ?c a p4:Content }} GROUP BY ?c"
    )
    assert row["n"].value == "2"
    assert not (left.directory / "artifacts" / ".incoming").exists()
    files = [p for p in (left.directory / "artifacts").rglob("*") if p.is_file()]
    assert len({p.name for p in files}) == len(files)
    assert all(p.stat().st_nlink == 1 for p in files)


def test_the_picture_shows_it(made: Made) -> None:
    """Inputs, data, models; the files of a folder are told by their folder."""
    texts = made.left.texts()
    for word in ("table.csv", "clean", "net", "train.py"):
        assert word in texts


def test_replay_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    """Every document is a function of the log."""
    from prov4ml import documents, replay, sink

    shown = documents.document(replay.fold(made.left.directory))
    for name in ("provjson", "provn", "turtle", "svg"):
        kind = sink.load(name)
        text = b"".join(kind().render(shown))  # type: ignore[union-attr,call-arg]
        assert text == (made.left.directory / f"prov.{kind.suffix}").read_bytes(), name  # type: ignore[union-attr]
    assert json.loads((made.left.directory / "run.json").read_text())["status"] == "finished"


RESUMED = """
import sys
import prov4ml
with prov4ml.start_run("again", resume=sys.argv[1] if sys.argv[1:] else None) as run:
    for step in range(2):
        made = prov4ml.save_model_version(f"{len(sys.argv)} {step}".encode(), "m", step=step)
    source = sys.argv[2] if sys.argv[2:] else made
    prov4ml.save_model_version(b"tuned", "tuned", derived_from=source)
    print(made.iri)
"""


def test_a_resumed_run_names_its_earlier_attempt(isolated: Isolated, read: Any) -> None:
    """An IRI of the attempt before is the same entity, ordered as ever."""
    first = isolated.script(RESUMED, **PATIENT).stdout.strip()
    run = isolated.only_run()
    isolated.script(RESUMED, str(run), first, **PATIENT)
    left = read(run)
    left.check()
    rows = left.ask(
        'SELECT ?v WHERE { ?v rdfs:label "tuned, version 2" ; '
        f"<https://w3id.org/fair4ml#fineTunedFrom> <{first}> ; prov:wasDerivedFrom <{first}> }}"
    )
    assert len(list(rows)) == 1


FORKED = """
import os
import prov4ml
with prov4ml.start_run("forked"):
    one = prov4ml.log_artifact("one", text="1")
    two = prov4ml.log_dataset([1, 2], "two")
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        made = prov4ml.log_artifact("of the child", text="x", derived_from=[one, "two"])
        print(made.iri, flush=True)
        os._exit(0)
print(one.iri, two.iri)
"""


def test_a_childs_artifact_derives_from_its_parents(
    isolated: Isolated, read: Any, broken_rules: Any
) -> None:
    """A forked process names what was made before the fork, and its own as the documents do."""
    child, one, two = isolated.script(FORKED, **PATIENT).stdout.split()
    run = isolated.only_run()
    isolated.wait(lambda: isolated.manifest(run)["closed"], "the child's end is known too")
    left = read(run)
    assert left.document == left.provn
    assert broken_rules(left.document) == []
    rows = left.ask(f"SELECT ?s WHERE {{ <{child}> prov:wasDerivedFrom ?s }}")
    assert {row["s"].value for row in rows} == {one, two}


TWO = """
import prov4ml
first = prov4ml.start_run("first")
made = prov4ml.log_artifact("made", text="x")
prov4ml.end_run()
with prov4ml.start_run("second"):
    prov4ml.log_model(b"w", "m", derived_from=made)
    prov4ml.log_artifact("next", text="y", derived_from=[made.iri])
print(made.iri)
"""


def test_two_runs_join_in_one_store(isolated: Isolated, read: Any) -> None:
    """A handle of another run: loaded together, lineage crosses from one into the other."""
    import pyoxigraph as ox

    iri = isolated.script(TWO, **PATIENT).stdout.strip()
    store = ox.Store()
    for run in isolated.runs():
        read(run).check()
        store.load(path=str(run / "prov.ttl"), format=ox.RdfFormat.TURTLE)
    answers = store.query(
        "PREFIX prov: <http://www.w3.org/ns/prov#> "
        "PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#> SELECT ?b WHERE "
        f'{{ ?a rdfs:label "next" ; prov:wasDerivedFrom <{iri}> . <{iri}> rdfs:label ?b }}'
    )
    assert [row["b"].value for row in answers] == ["made"]
