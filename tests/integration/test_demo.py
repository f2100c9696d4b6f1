"""The main job, end to end: the digits example leaves four documents that readers agree on."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import prov.model as pm
import pytest
import rdflib

if TYPE_CHECKING:
    from tests.integration.conftest import Demo


def test_readers_agree(demo: Demo) -> None:
    """PROV-JSON and PROV-N are equal documents, the schema holds, and triples match statements."""
    demo.left.check()


def test_schema_bites(demo: Demo) -> None:
    """The schema of the test above does reject: a generation without its entity is an error."""
    import json
    from importlib.resources import files

    import jsonschema

    text = (files("prov") / "tests/schemas/prov-json.schema.json").read_text()
    broken = json.loads((demo.left.directory / "prov.json").read_text())
    del next(iter(broken["wasGeneratedBy"].values()))["prov:entity"]
    assert list(jsonschema.Draft4Validator(json.loads(text)).iter_errors(broken))


def test_rdflib_agrees_with_oxigraph(demo: Demo) -> None:
    """rdflib and pyoxigraph load the same number of triples from the Turtle."""
    graph = rdflib.Graph().parse(demo.left.directory / "prov.ttl", format="turtle")
    assert len(graph) == len(demo.left.graph) > 300


def test_points_are_the_calls(demo: Demo) -> None:
    """The points in ``metrics/`` are exactly the log calls made, bit for bit."""
    assert len(demo.calls) > 400
    expected = Counter((0, ctx, key, step, value, None) for key, value, ctx, step in demo.calls)
    assert demo.left.rows() == expected


def test_points_lie_in_time(demo: Demo) -> None:
    """The times of a series' points rise with its steps and lie inside the run."""
    begin, end = (
        int(dt.datetime.fromisoformat(demo.left.manifest[key]).timestamp() * 1e6)
        for key in ("started", "ended")
    )
    series: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for p in demo.left.points:
        series.setdefault((p["context"], p["name"]), []).append((p["step"], p["time"]))
    assert len(series) == 4
    for pairs in series.values():
        times = [time for _, time in sorted(pairs)]
        assert times == sorted(times)
        assert begin <= times[0] // 1000 <= times[-1] // 1000 <= end


def test_accounting(demo: Demo) -> None:
    """Sent equals received and nothing is lost, in the manifest and in the last printed line."""
    account = demo.left.manifest["accounting"]
    n = account["sent"]
    assert account == {
        "sent": n,
        "received": n,
        "rejected": 0,
        "lost": 0,
        "points": len(demo.calls),
    }
    assert n > len(demo.calls)
    last = demo.done.stderr.splitlines()[-1]
    assert f"{n:,} events sent, {n:,} received, 0 lost" in last
    assert str(demo.left.directory) in last


def test_series_statistics(demo: Demo) -> None:
    """Each series entity has the count, extremes and ends of the values that were logged."""
    values: dict[str, list[float]] = {}
    for key, value, context, _ in demo.calls:
        values.setdefault(f"{context}/{key}", []).append(float.fromhex(value))
    found = {}
    for entity in demo.left.records("p4:MetricSeries"):
        facts = {str(k): v for k, v in entity.attributes}
        context = str(facts["p4:context"]).rpartition("/")[2]
        found[f"{context}/{facts['prov:label']}"] = facts
    assert set(found) == set(values)
    for name, logged in values.items():
        facts = found[name]
        assert facts["p4:count"] == len(logged)
        assert float(facts["p4:min"]) == min(logged)
        assert float(facts["p4:max"]) == max(logged)
        assert (float(facts["p4:first"]), float(facts["p4:last"])) == (logged[0], logged[-1])


def test_stored_copies_are_their_hash(demo: Demo) -> None:
    """Every stored copy lies under its own SHA-256, and the documents name each of them."""
    import hashlib

    copies = [p for p in (demo.left.directory / "artifacts").rglob("*") if p.is_file()]
    assert len(copies) >= 10
    text = (demo.left.directory / "prov.provn").read_text()
    for copy in copies:
        digest = hashlib.sha256(copy.read_bytes()).hexdigest()
        assert copy.name == digest
        assert f"sha256:{digest}" in text


def test_what_the_demo_records(demo: Demo) -> None:
    """Parameters, dataset, splits, checkpoints and the final model stand in the document."""
    left = demo.left
    parameters = {"epochs", "lr", "batch_size", "hidden", "seed", "optimizer"}
    assert set(left.labels("mls:HyperParameterSetting")) == parameters
    assert left.labels("mls:Dataset") == {"digits": 1}
    assert left.labels("p4:DataSplit") == {"train": 1, "validation": 1}
    epochs = len({step for _, _, context, step in demo.calls if context == "validation"})
    assert epochs > 1
    assert len(left.records("p4:ModelVersion")) == epochs + 1  # a checkpoint each, the final model
    assert left.records("p4:Command")
    assert left.records("p4:Environment")


DAY = "2026-01-0{}T00:00:00Z".format
BROKEN = {
    "activity and entity": "activity(ex:a, -, -); entity(ex:a)",
    "outside of": f"""entity(ex:e); activity(ex:a, {DAY(1)}, {DAY(2)});
        wasGeneratedBy(ex:e, ex:a, {DAY(3)})""",
    "before it was there": f"""entity(ex:e); activity(ex:a, -, -);
        wasGeneratedBy(ex:e, ex:a, {DAY(3)}); used(ex:a, ex:e, {DAY(2)})""",
    "start times": f"activity(ex:a, {DAY(1)}, -); wasStartedBy(ex:a, -, -, {DAY(2)})",
    "circle": """entity(ex:e); entity(ex:f); wasDerivedFrom(ex:e, ex:f);
        wasDerivedFrom(ex:f, ex:e)""",
    "not older": f"""entity(ex:e); entity(ex:f); wasDerivedFrom(ex:e, ex:f);
        wasGeneratedBy(ex:e, -, {DAY(2)}); wasGeneratedBy(ex:f, -, {DAY(2)})""",
    "generated twice": f"""entity(ex:e); activity(ex:a, -, -); activity(ex:b, -, -);
        wasGeneratedBy(ex:e, ex:a, {DAY(1)}); wasGeneratedBy(ex:e, ex:b, {DAY(2)})""",
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_checker_bites(broken_rules: Callable[[pm.ProvDocument], list[str]], wrong: str) -> None:
    """The checker that the demo passes finds each kind of broken rule."""
    lines = ["document", "prefix ex <http://example.org/>", *BROKEN[wrong].split(";")]
    text = "\n".join([*lines, "endDocument"])
    document: Any = pm.ProvDocument.deserialize(content=text, format="provn")
    (found,) = broken_rules(document)
    assert wrong in found
