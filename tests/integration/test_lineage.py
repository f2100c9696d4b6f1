"""From the final model back to the raw file: real runs, read by others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Isolated
    from tests.integration.conftest import Read

# Preprocessing as a block and as functions, training in epochs, and a final model.
SCRIPT = """
import json, pathlib, sys
import prov4ml

raw = pathlib.Path("raw.txt")
raw.write_text("to be or not to be " * 20)
pathlib.Path("unrelated.txt").write_text("nothing to do with it")

@prov4ml.activity
def build_vocabulary(words):
    path = pathlib.Path("vocabulary.json")
    path.write_text(json.dumps(sorted(set(words))))
    prov4ml.log_artifact(path)
    return path

@prov4ml.activity("read", lower=True)
def read(path):
    prov4ml.log_artifact(path, is_input=True)
    for word in path.read_text().split():
        yield word

with prov4ml.start_run("lineage"):
    prov4ml.log_artifact("unrelated.txt", is_input=True)
    words = list(read(raw))
    with prov4ml.activity("tokenise", vocab=4) as a:
        a.used("raw.txt")
        vocabulary = build_vocabulary(words)
        a.used(vocabulary)
        tokens = pathlib.Path("tokens.bin")
        tokens.write_bytes(bytes(sorted(set(words)).index(word) for word in words))
        a.generated(tokens)
    with prov4ml.activity("train", context="training") as t:
        t.used("tokens.bin")
        weights = 0.0
        for epoch in range(3):
            with prov4ml.epoch(epoch):
                for step in range(4):
                    weights += 0.1
                    prov4ml.log_metric("loss", 1 / weights, step=4 * epoch + step)
                prov4ml.save_model_version(b"%f" % weights, "net", step=4 * epoch)
        prov4ml.log_model(b"%f, done" % weights, "net")
"""

P4 = "https://w3id.org/prov4ml/ns#"

BACK = """
    ?model prov:wasGeneratedBy/prov:used/(prov:wasGeneratedBy/prov:used)* ?source .
    ?source rdfs:label ?label
"""


def label(found: Read, name: str) -> str:
    """The label of an element of ``prov.json``."""
    for kind in ("entity", "activity"):
        if name in found.json[kind]:
            said = found.json[kind][name]["prov:label"]
            return str(said["$"] if isinstance(said, dict) else said)
    raise KeyError(name)


def walked(found: Read, start: str) -> set[str]:
    """The labels of all entities that one comes to by generations and uses, in ``prov.json``."""
    made = {r["prov:entity"]: r["prov:activity"] for r in found.json["wasGeneratedBy"].values()}
    used: dict[str, set[str]] = {}
    for r in found.json["used"].values():
        used.setdefault(r["prov:activity"], set()).add(r["prov:entity"])
    todo, seen = [start], set()
    while todo:
        for source in used.get(made.get(todo.pop(), ""), ()):
            if source not in seen:
                seen.add(source)
                todo.append(source)
    return {label(found, name) for name in seen}


def test_lineage_reaches_from_the_final_model_to_the_raw_file(
    isolated: Isolated, read: type[Read]
) -> None:
    """By SPARQL on the Turtle and by walking the JSON; and to nothing else that was read."""
    isolated.script(SCRIPT)
    found = read(isolated.only_run())
    found.check()
    (model,) = (r for r in found.records("p4:ModelVersion") if "final" in str(r.label))
    iri = model.identifier.uri
    rows = found.ask(f"SELECT DISTINCT ?label WHERE {{ BIND(<{iri}> AS ?model) {BACK} }}")
    expected = {"tokens.bin", "vocabulary.json", "raw.txt"}
    labels = {row["label"].value for row in rows}
    assert labels & {"tokens.bin", "vocabulary.json", "raw.txt", "unrelated.txt"} == expected
    walk = walked(found, str(model.identifier))
    assert walk == labels
    parameters = {"vocab", "lower"}
    assert walk - parameters == expected - {"nothing"}
    assert "vocab" in walk


def test_activities_stand_in_every_document(isolated: Isolated, read: type[Read]) -> None:
    """Their names, how they are nested, their status; a generator's work is its own."""
    isolated.script(SCRIPT)
    found = read(isolated.only_run())
    assert found.labels("p4:Activity") == {
        "read": 1,
        "tokenise": 1,
        "build_vocabulary": 1,
        "train": 1,
    }
    assert found.count('?a a p4:Activity ; p4:status "finished"') == 4
    assert (
        found.count(
            '?a rdfs:label "build_vocabulary" ; dcterms:isPartOf ?b . ?b rdfs:label "tokenise"'
        )
        == 1
    )
    assert found.count('?a rdfs:label "train" ; dcterms:isPartOf ?c . ?c a p4:Training') == 1
    assert found.count('?a rdfs:label "read" ; prov:used ?e . ?e rdfs:label "raw.txt"') == 1
    assert found.count('?p rdfs:label "vocab" . ?a prov:used ?p . ?a a p4:Activity') == 1
    assert found.count("?run a mls:Run ; prov:used ?p . ?p a mls:HyperParameterSetting") == 0


def test_epochs_stand_in_documents_and_points(isolated: Isolated, read: type[Read]) -> None:
    """``p4:epoch`` of checkpoints, the column of each point; none outside."""
    isolated.script(SCRIPT)
    found = read(isolated.only_run())
    assert {(p["step"], p["epoch"]) for p in found.points} == {(n, n // 4) for n in range(12)}
    rows = found.ask("SELECT ?step ?epoch WHERE { ?v p4:step ?step ; p4:epoch ?epoch }")
    assert {(int(r["step"].value), int(r["epoch"].value)) for r in rows} == {(0, 0), (4, 1), (8, 2)}
    assert found.count("?v a p4:ModelVersion . FILTER NOT EXISTS { ?v p4:epoch ?e }") == 1


# ---------------------------------------------------------------------------------- resume

RESUMED = """
import os, signal, sys, time
import prov4ml

first = "resume" not in sys.argv
run = prov4ml.start_run("resumed", resume=None if first else "resumed_0")
prov4ml.register_final_metric("loss", 1000, "min")
prov4ml.register_final_metric("loss", 0, lambda before, value: before + 1)
with prov4ml.context("training"):
    for epoch in range(0 if first else 2, 4):
        with prov4ml.epoch(epoch, activity=True):
            for step in range(5 * epoch, 5 * epoch + 5):
                prov4ml.log_metric("loss", 100 - step, step=step)
            if first and epoch == 2:
                with prov4ml.activity("evaluate"):
                    while not (run.get_run_dir() / "run.json").exists():
                        time.sleep(0.01)  # a collector has taken it up
                    os.kill(os.getpid(), signal.SIGKILL)
            prov4ml.save_model_version(b"%d" % epoch, "net", step=5 * epoch + 4)
prov4ml.end_run()
"""


def test_epochs_and_values_over_a_kill_and_a_resume(isolated: Isolated, read: type[Read]) -> None:
    """Each attempt has its epochs; what was left behind counts for none; the kill is told."""
    isolated.script(RESUMED, code=-9)

    def over() -> bool:
        manifest = isolated.only_run() / "run.json"
        return manifest.is_file() and bool(isolated.manifest()["closed"])

    isolated.wait(over, "the first attempt is over")
    isolated.script(RESUMED, "resume")
    found = read(isolated.only_run())
    found.check()
    assert {(p["attempt"], p["step"], p["epoch"]) for p in found.points} == {
        *((1, n, n // 5) for n in range(15)),
        *((2, n, n // 5) for n in range(10, 20)),
    }
    epochs = found.ask("SELECT ?e WHERE { ?e a p4:Epoch }")
    assert sorted(row["e"].value.partition("/attempt/")[2] for row in epochs) == [
        f"{attempt}/epoch/{n}/context/training"
        for attempt, numbers in ((1, (0, 1, 2)), (2, (2, 3)))
        for n in numbers
    ]
    assert found.count("?a a p4:Epoch ; prov:wasInformedBy ?b . ?b a p4:Epoch") == 3
    assert found.count("?v a p4:ModelVersion ; prov:wasGeneratedBy ?e . ?e a p4:Epoch") == 4
    (status,) = found.ask('SELECT ?s WHERE { ?a rdfs:label "evaluate" ; p4:status ?s }')
    assert status["s"].value in ("killed", "died")
    values = found.ask(
        "SELECT ?v ?fold ?step ?epoch WHERE { ?e a mls:ModelEvaluation ; prov:value ?v ;"
        " p4:fold ?fold . OPTIONAL { ?e p4:step ?step ; p4:epoch ?epoch } }"
    )
    assert {
        tuple(None if row[k] is None else row[k].value for k in ("fold", "v", "step", "epoch"))
        for row in values
    } == {("min", "81", "19", "3"), ("__main__.<lambda>", "10", None, None)}
    unsaid = found.ask("SELECT ?why WHERE { ?e a mls:ModelEvaluation ; p4:notEvaluated ?why }")
    assert [row["why"].value for row in unsaid] == [
        "its process ended before it could say the value"
    ]


# ----------------------------------------------------------------------------------- ranks

RANKS = """
import os
import prov4ml

rank = int(os.environ["RANK"])
with prov4ml.start_run("ranks"):
    prov4ml.register_final_metric("accuracy", 0, "MAX")
    prov4ml.log_context("warm-up", is_subcontext_of="training")
    with prov4ml.context("training"):
        for epoch in range(2):
            with prov4ml.epoch(epoch, activity=True):
                with prov4ml.timer("forward", step=epoch):
                    pass
                prov4ml.log_metric("accuracy", 0.5 + 0.1 * rank + 0.01 * epoch, step=epoch)
    prov4ml.log_metric("loss", 1.0, "warm-up")
    with prov4ml.activity("export") as a:
        path = f"model{rank}.bin"
        open(path, "wb").close()
        a.generated(path)
"""


def test_ranks_share_epochs_and_values_and_have_activities(
    isolated: Isolated, read: type[Read]
) -> None:
    """One epoch activity and one value for all of them; each rank's own activity is its own."""
    isolated.write(RANKS)
    ranks = [
        isolated.spawn(sys.executable, "train.py", RANK=str(n), WORLD_SIZE="2", PROV4ML_JOB="ranks")
        for n in range(2)
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    found = read(isolated.only_run())
    found.check()
    assert found.labels("p4:Epoch") == {"epoch 0": 1, "epoch 1": 1}
    assert found.labels("p4:Activity") == {"export": 2}
    (best,) = found.ask(
        "SELECT ?v ?step ?epoch ?ranks WHERE { ?e a mls:ModelEvaluation ; prov:value ?v ;"
        " p4:step ?step ; p4:epoch ?epoch ; p4:ranks ?ranks }"
    )
    assert [best[k].value for k in ("v", "step", "epoch", "ranks")] == ["0.61", "1", "1", "2"]
    assert found.count('?s a p4:MetricSeries ; rdfs:label "forward" ; p4:unit "s"') == 2
    assert {p["context"] for p in found.points if p["name"] == "loss"} == {"training/warm-up"}
    assert found.count('?c rdfs:label "warm-up" ; dcterms:isPartOf ?t . ?t a p4:Training') == 1


FORKED = """
import os, sys
import prov4ml

with prov4ml.start_run("forked"):
    with prov4ml.context("training"), prov4ml.epoch(3, activity=True):
        with prov4ml.activity("parent's"):
            child = os.fork()
            if not child:
                prov4ml.log_metric("child", 1.0, step=1)
                with prov4ml.epoch(4):
                    prov4ml.log_metric("child", 1.0, step=2)
                prov4ml.log_metric("child", 1.0, step=3)
                open("made.txt", "w").close()
                prov4ml.log_artifact("made.txt")
                os._exit(0)
            os.waitpid(child, 0)
    child = os.fork()
    if not child:
        prov4ml.log_metric("child", 1.0, "training", step=4)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_forked_child_is_in_the_epochs_of_its_parent(
    isolated: Isolated, read: type[Read], broken_rules: Callable[[Any], list[str]]
) -> None:
    """In those that were open where it was forked; activities are its parent's own."""
    isolated.script(FORKED)
    found = read(isolated.only_run())
    assert broken_rules(found.document) == []
    assert found.document == found.provn
    points: dict[Any, Any] = {p["step"]: p["epoch"] for p in found.points}
    assert points == {1: 3, 2: 4, 3: 3, 4: None}
    assert (
        found.count(
            '?f rdfs:label "made.txt" ; p4:epoch 3 ; prov:wasGeneratedBy ?e . ?e a p4:Epoch'
        )
        == 1
    )
