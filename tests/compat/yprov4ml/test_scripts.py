"""What yProv4ML's documented calls become: the scripts run as they are, and all readers agree."""

from __future__ import annotations

import csv
import gzip
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.conftest import Isolated

SCRIPTS = Path(__file__).parent / "scripts"


def texts(rows: Any, name: str) -> list[str]:
    return sorted(row[name].value for row in rows)


def test_the_papers_example(converted: Callable[[str], Any]) -> None:
    """Namespace, parameters of any kind, data, both losses, checkpoints and the final model."""
    ran = converted("mnist")
    left = ran.left()
    run = next(iter(left.ask("SELECT ?r WHERE { ?r a mls:Run }")))["r"].value
    assert run.startswith("http://www.example.org/run/")
    assert left.count('?p rdfs:label "dataset transformation" ; prov:value ?v') == 1
    (row,) = left.ask('SELECT ?v WHERE { ?p rdfs:label "dataset transformation" ; prov:value ?v }')
    assert row["v"].value == "Compose(RandomRotation(10), ToTensor())"
    (row,) = left.ask('SELECT ?v WHERE { ?p rdfs:label "loss_fn" ; prov:value ?v }')
    assert row["v"].value == "CrossEntropyLoss()"
    losses = [p["context"] for p in left.points if p["name"] == "Loss"]
    assert (losses.count("training"), losses.count("validation")) == (3 * 4, 3)
    assert set(left.labels("p4:DataSplit")) == {"train_dataset", "val_dataset"}
    assert left.labels("p4:ModelVersion") == {
        "mnist_model_version, version 1": 1,
        "mnist_model_version, version 2": 1,
        "mnist_model_version, version 3": 1,
        "mnist_model_final, final": 1,
    }
    assert left.count("?v a p4:ModelVersion ; prov:wasGeneratedBy ?c . ?c a p4:Training") == 3


def test_marks_of_hardware_are_said_to_be_missing_once(converted: Callable[[str], Any]) -> None:
    """Twelve calls of each, a line of each; and what no sink makes is said as well."""
    said = converted("mnist").said
    assert said.count("log_carbon_metrics: hardware and energy are not measured yet") == 1
    assert said.count("log_system_metrics: hardware and energy are not measured yet") == 1
    assert said.count("there is no sink 'dot'") == 1


def test_contexts_of_all_versions(converted: Callable[[str], Any]) -> None:
    """Members, texts with capitals, an own enumeration; sources apart; nobody misses carbon."""
    ran = converted("contexts")
    left = ran.left("runs")
    assert "log_carbon_metrics" not in ran.said
    labels = texts(
        left.ask(
            "SELECT ?l WHERE { ?c dcterms:isPartOf ?a ; rdfs:label ?l . "
            "{ ?c a p4:Context } UNION { ?c a p4:Training } UNION "
            "{ ?c a p4:Validation } UNION { ?c a p4:Testing } }"
        ),
        "l",
    )
    own = ["Training", "inference", "preprocessing"]
    members = ["datasets", "evaluation", "models", "testing", "training", "validation"]
    assert labels == sorted(own + members)
    assert left.count('?c a p4:Training ; rdfs:label "Training"') == 1
    sources = {(p["context"], p["source"]) for p in left.points if p["name"] == "Loss"}
    assert sources == {("Training", "torch"), ("Training", "by hand")}
    assert left.count("?p a mls:HyperParameterSetting") == 2
    users = texts(
        left.ask('SELECT ?l WHERE { ?c prov:used ?p ; rdfs:label ?l . ?p rdfs:label "tokens" }'),
        "l",
    )
    assert users == ["Training", "contexts_0", "inference"]
    assert left.count('?p rdfs:label "tokens" ; p4:source "file"') == 1
    run = next(iter(left.ask("SELECT ?r WHERE { ?r a mls:Run }")))["r"].value
    assert run.startswith("https://lab.example/ml#run/")


def test_models_in_the_orders_of_later_versions(converted: Callable[[str], Any]) -> None:
    """Inputs are used, versions numbered, keywords understood; the run has the number it asked."""
    left = converted("models").left()
    assert left.directory.name == "models_5"
    labels = left.labels("p4:ModelVersion")
    assert labels == {
        "pretrained": 1,
        "base weights": 1,
        "network, version 1": 1,
        "network, version 2": 1,
        "network, version 3": 1,
        "network, version 4": 1,
        "network, final": 1,
        "described only, final": 1,
    }
    assert texts(
        left.ask(
            "SELECT ?l WHERE { ?c prov:qualifiedUsage [ prov:entity ?m ; "
            "prov:hadRole p4:inputModel ] . ?m rdfs:label ?l }"
        ),
        "l",
    ) == ["base weights", "pretrained"]
    same = "?c a p4:Content . ?a prov:specializationOf ?c . ?b prov:specializationOf ?c ."
    assert (
        left.count(
            f'{same} ?a rdfs:label "network, version 3" . ?b rdfs:label "network, version 4"'
        )
        == 1
    )
    assert left.count('?m rdfs:label "described only, final" ; p4:parameters 13') == 1
    contents = '?m rdfs:label "described only, final" ; prov:specializationOf ?c . ?c a p4:Content'
    assert left.count(contents) == 0
    assert left.labels("p4:Artifact")["notes"] == 1
    assert left.count('?n rdfs:label "notes.txt" ; prov:wasGeneratedBy ?c . ?c a p4:Testing') == 1


def test_a_run_of_the_same_number_is_continued(
    isolated: Isolated, converted: Callable[[str], Any], read: Any
) -> None:
    """The script may be run again: a second attempt of the same run, nothing overwritten."""
    converted("models")
    text = re.sub(
        "^import yprov4ml$",
        "import prov4ml as yprov4ml",
        (SCRIPTS / "models.py").read_text(),
        flags=re.M,
    )
    isolated.script(text)
    isolated.script(text)
    (run,) = isolated.runs()
    left = read(run)
    left.check()
    assert run.name == "models_5"
    assert left.manifest["attempts"] == 2
    assert left.count("?a a p4:Attempt") == 2
    assert left.count("?v a p4:ModelVersion") == 16


def test_datasets_and_ids(converted: Callable[[str], Any]) -> None:
    """Both orders; splits of one whole; ids reach the batch from two worker processes."""
    left = converted("datasets").left()
    splits = {str(r.get_attribute("prov:label").pop()): r for r in left.records("p4:DataSplit")}
    assert set(splits) == {"train", "validation"}
    assert [str(v) for v in splits["train"].get_attribute("p4:batch_size")] == ["30"]
    assert left.labels("mls:Dataset")["whole"] == 1
    assert left.count('?s a p4:DataSplit ; prov:wasDerivedFrom ?d . ?d rdfs:label "whole"') == 2
    assert left.count('?d rdfs:label "silent" ; p4:samples ?n') == 0
    assert sum(p["value"] for p in left.points) == sum(range(100))


def test_wrappers(converted: Callable[[str], Any]) -> None:
    """Results, activations with their arrays, weights by epoch; the model is saved as it was."""
    left = converted("wrappers").left()
    rows = left.points
    losses = [p["step"] for p in rows if p["name"] == "MSELoss"]
    assert losses == list(range(8))
    assert [p["step"] for p in rows if p["name"] == "net/0/mean"] == [0, 2, 4, 6]
    assert [p["step"] for p in rows if p["name"] == "net/0.weight/std"] == [0, 1]
    assert left.count('?p rdfs:label "MSELoss.function" ; prov:value "MSELoss()"') == 1
    arrays = [n for n in left.labels("p4:Artifact") if n.endswith(".npz")]
    assert sorted(arrays) == [f"net/activations/{n}.npz" for n in (0, 2, 4, 6)]
    stored = [path for path in (left.directory / "artifacts").rglob("*") if path.is_file()]
    files = [path for path in stored if path.read_bytes()[:2] == b"PK"]
    shapes = set()
    for path in files:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile) and "0" in found.files:
            shapes.add(found["0"].shape)
    assert shapes == {(8, 8)}
    same = "?a prov:specializationOf ?c . ?b prov:specializationOf ?c . ?c a p4:Content "
    assert left.count(f'{same} . ?a rdfs:label "net, version 1" . ?b rdfs:label "net, final"') == 1


def test_source_code_command_inputs_and_outputs(converted: Callable[[str], Any]) -> None:
    """What the run is repeated with, what went in and came out; one copied, one referred to."""
    left = converted("source").left()
    assert [p["value"] for p in left.points] == [i**2 for i in range(1, 10)]
    assert left.count("?c a p4:Command ; rdfs:label ?l") == 1
    assert "python3 source.py" in (left.directory / "prov.json").read_text()
    assert left.count("?s a mls:Implementation") == 1
    inputs = "?a prov:used ?i . ?i a p4:Artifact . "
    assert left.count(f'{inputs} ?i rdfs:label "train.py"') == 1
    made = '?o rdfs:label "square.txt" ; prov:wasGeneratedBy ?a ; prov:specializationOf ?c'
    assert left.count(made) == 1  # hashed where it is
    stored = [p.read_bytes() for p in (left.directory / "artifacts").rglob("*") if p.is_file()]
    assert b"81" not in stored


def test_a_training_of_times_and_operations(converted: Callable[[str], Any]) -> None:
    """A loss that is still a tensor, FLOPs, execution times; the arguments of 1.x."""
    left = converted("lightning_free").left()
    assert left.directory.name == "steps_0"
    assert [p["step"] for p in left.points if p["name"] == "MSE_train"] == [0] * 4 + [1] * 4
    flops = [p["value"] for p in left.points if p["name"] == "train_flops"]
    assert flops == [2 * 8 * 8] * 8


def test_metrics_of_rank_0_only(isolated: Isolated, read: Any) -> None:
    """The other ranks are there with everything else, and it is said that they logged none."""
    isolated.write(
        (SCRIPTS / "ranks.py")
        .read_text()
        .replace("import yprov4ml\n", "import prov4ml as yprov4ml\n")
    )
    ranks = [
        isolated.spawn(
            sys.executable,
            "-W",
            "error",
            "train.py",
            RANK=str(n),
            LOCAL_RANK=str(n),
            WORLD_SIZE="2",
            TORCHELASTIC_RUN_ID="job",
        )
        for n in range(2)
    ]
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert rank.returncode == 0, (out, err)
    left = read(isolated.only_run())
    left.check()
    assert {p["rank"] for p in left.points} == {0}
    assert len(left.points) == 30
    assert left.manifest["accounting"]["lost"] == 0
    assert left.count('?r a p4:RankProcess ; p4:status "finished"') == 2
    assert left.count("?r a p4:RankProcess ; p4:rank 1 ; p4:collectsMetrics false") == 1
    assert left.count("?r a p4:RankProcess ; p4:rank 0 ; p4:collectsMetrics ?any") == 0
    assert left.count('?p rdfs:label "rank\'s own" ; a mls:HyperParameterSetting') == 2
    assert left.labels("p4:Artifact")["made by one"] == 1


def test_metric_files_in_the_formats_of_yprov4ml(isolated: Isolated, read: Any) -> None:
    """Beside Parquet, with the separator and compression that were asked for."""
    text = (SCRIPTS / "formats.py").read_text()
    text = re.sub("^import yprov4ml$", "import prov4ml as yprov4ml", text, flags=re.M)
    done = isolated.script(text, "csv", "zarr", "gzip")
    assert "no effect" not in done.stderr
    for run in isolated.runs():
        left = read(run)
        left.check()
        assert left.manifest["failures"] == []
        assert [p["value"] for p in left.points] == [1 / (n + 1) for n in range(20)]
    (table,) = (isolated.folder / "prov" / "csv_0" / "metrics").glob("*.csv")
    head, *rows = csv.reader(table.read_text().splitlines(), delimiter=";")
    assert {"name", "step", "value"} <= set(head)
    assert [row[head.index("step")] for row in rows] == [str(n) for n in range(20)]
    (packed,) = (isolated.folder / "prov" / "gzip_0" / "metrics").glob("*.csv.gz")
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    assert next(csv.reader(lines, delimiter="|")) == head
    assert list((isolated.folder / "prov" / "zarr_0" / "metrics").glob("*.zarr*"))
