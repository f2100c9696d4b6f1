"""What a run left, as independent readers see it; and the demo run, made once.

``Read`` holds a run's documents in the models of ``prov``, ``pyoxigraph`` and pyarrow.  Nothing
here uses the model or the writers of prov4ml.
"""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import prov.model as pm
import pyoxigraph as ox
import pytest

from prov4ml_sinks import parquet_files

if TYPE_CHECKING:
    from tests.conftest import Isolated

EXAMPLES = Path(__file__).parents[2] / "examples"
PROV = "http://www.w3.org/ns/prov#"
P4 = "https://w3id.org/prov4ml/ns#"
LABEL = "prov:label"

# direct property: the property that leads to its qualified form
QUALIFIED = {
    "wasGeneratedBy": "qualifiedGeneration",
    "used": "qualifiedUsage",
    "wasInformedBy": "qualifiedCommunication",
    "wasStartedBy": "qualifiedStart",
    "wasEndedBy": "qualifiedEnd",
    "wasInvalidatedBy": "qualifiedInvalidation",
    "wasDerivedFrom": "qualifiedDerivation",
    "wasAttributedTo": "qualifiedAttribution",
    "wasAssociatedWith": "qualifiedAssociation",
    "actedOnBehalfOf": "qualifiedDelegation",
}


class Read:
    """A run directory through other people's readers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "run.json").read_text()))

    @cached_property
    def json(self) -> dict[str, Any]:
        """``prov.json`` as plain data."""
        return dict(json.loads((self.directory / "prov.json").read_text()))

    @cached_property
    def document(self) -> pm.ProvDocument:
        """``prov.json`` as ``prov`` reads it."""
        return pm.ProvDocument.deserialize(str(self.directory / "prov.json"), format="json")

    @cached_property
    def provn(self) -> pm.ProvDocument:
        """``prov.provn`` as ``prov`` reads it."""
        return pm.ProvDocument.deserialize(str(self.directory / "prov.provn"), format="provn")

    @cached_property
    def graph(self) -> ox.Store:
        """``prov.ttl`` in a store."""
        store = ox.Store()
        store.load(path=str(self.directory / "prov.ttl"), format=ox.RdfFormat.TURTLE)
        return store

    @cached_property
    def picture(self) -> ET.Element:
        """``prov.svg`` as XML."""
        return ET.parse(self.directory / "prov.svg").getroot()

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """The rows of ``metrics/``, in the order of the files; ``time`` in ns."""
        table = parquet_files.read(self.directory)
        place = table.schema.get_field_index("time")
        table = table.set_column(place, "time", table.column("time").cast("int64"))
        return list(table.to_pylist())

    def rows(self) -> Counter[tuple[Any, ...]]:
        """Each point without its time, counted; the value as hexadecimal, so that NaN is NaN."""
        return Counter(
            (
                p["rank"],
                p["context"],
                p["name"],
                p["step"],
                float(p["value"]).hex(),
                p["source"],
            )
            for p in self.points
        )

    def ask(self, query: str) -> Any:
        """The answers of a SPARQL query on ``prov.ttl``."""
        prefixes = f"PREFIX prov: <{PROV}> PREFIX p4: <{P4}> PREFIX mls: "
        prefixes += "<http://www.w3.org/ns/mls#> PREFIX dcterms: <http://purl.org/dc/terms/> "
        prefixes += "PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#> "
        return self.graph.query(prefixes + query)

    def count(self, pattern: str) -> int:
        """How many solutions a graph pattern has."""
        (row,) = self.ask(f"SELECT (COUNT(*) AS ?n) WHERE {{ {pattern} }}")
        return int(row["n"].value)

    def records(self, type_: str) -> list[Any]:
        """The elements of a type such as ``p4:Artifact``."""
        return [
            r
            for r in self.document.get_records(pm.ProvElement)
            if type_ in {str(t) for t in r.get_asserted_types()}
        ]

    def labels(self, type_: str) -> Counter[str]:
        """Labels of the elements of a type."""
        return Counter(str(v) for r in self.records(type_) for v in r.get_attribute(LABEL))

    def texts(self) -> str:
        """All text of the picture, tooltips included."""
        return "\n".join(self.picture.itertext())

    # -------------------------------------------------------------------------- checking

    def check(self) -> None:
        """Whatever must hold of the documents of any run that is over."""
        assert self.document == self.provn
        validator = jsonschema.Draft4Validator(schema())
        errors = [error.message for error in validator.iter_errors(self.json)]
        assert errors == []
        assert len(self.graph) > 0
        assert self.picture.tag == "{http://www.w3.org/2000/svg}svg"
        for direct, qualified in QUALIFIED.items():
            stated = len(self.json.get(direct, {}))
            triples = self.count(f"?a prov:{direct} ?b")
            nodes = self.count(f"?a prov:{qualified} ?q")
            assert (triples, nodes) == (stated, stated), direct
        assert list(violations(self.document)) == []
        account = self.manifest["accounting"]
        assert account["sent"] == account["received"] + account["lost"]
        assert account["points"] == len(self.points)
        for what in ("sent", "received", "lost"):
            of_ranks = sum(int(one(r, f"p4:{what}")) for r in self.records("p4:RankProcess"))
            assert of_ranks == account[what], what
            in_graph = self.ask(f"SELECT ?n WHERE {{ ?r a p4:RankProcess ; p4:{what} ?n }}")
            assert sum(int(row["n"].value) for row in in_graph) == account[what]


def schema() -> dict[str, Any]:
    """The JSON schema of the W3C submission, its misprint mended."""
    text = (files("prov") / "tests/schemas/prov-json.schema.json").read_text()
    content = dict(json.loads(text))
    content["properties"]["wasEndedBy"] = content["properties"].pop("wasEndedby")
    return content


def one(record: Any, name: str) -> Any:
    """The one value of an attribute."""
    (value,) = record.get_attribute(name)
    return value


def violations(document: pm.ProvDocument) -> Iterator[str]:
    """What breaks PROV-CONSTRAINTS, as far as trackers trip over it.  Reads ``prov``'s model."""
    kinds: dict[str, set[str]] = {}
    for record in document.get_records(pm.ProvElement):
        kinds.setdefault(str(record.identifier), set()).add(str(record.get_type()))
    for name, found in kinds.items():
        if {"prov:Activity", "prov:Entity"} <= found:
            yield f"{name} is activity and entity"
    spans = {
        str(a.identifier): (a.get_startTime(), a.get_endTime())
        for a in document.get_records(pm.ProvActivity)
    }
    for name, (start, end) in spans.items():
        if start and end and end < start:
            yield f"{name} ends before it starts"

    def of(kind: Any) -> Iterator[tuple[list[str | None], Any]]:
        for record in document.get_records(kind):
            values = [None if v is None else str(v) for _, v in record.formal_attributes]
            times = [v for k, v in record.formal_attributes if str(k) == "prov:time"]
            yield values, times[0] if times else None

    def inside(activity: str | None, time: Any) -> bool:
        start, end = spans.get(activity or "", (None, None))
        early = time is not None and start is not None and time < start
        return not early and not (time is not None and end is not None and time > end)

    made: dict[str, Any] = {}
    for (entity, activity, *_), time in of(pm.ProvGeneration):
        if entity in made:
            yield f"{entity} is generated twice"
        made[str(entity)] = time
        if not inside(activity, time):
            yield f"{entity} is generated outside of {activity}"
    for (activity, entity, *_), time in of(pm.ProvUsage):
        born = made.get(str(entity))
        if born is not None and time is not None and time < born:
            yield f"{activity} used {entity} before it was there"
        if not inside(activity, time):
            yield f"{activity} used {entity} outside of its time"
    for (activity, *_), time in of(pm.ProvStart):
        if spans[str(activity)][0] != time:
            yield f"start times of {activity} differ"
    edges: dict[str, set[str]] = {}
    for (newer, older, *_), _ in of(pm.ProvDerivation):
        edges.setdefault(str(newer), set()).add(str(older))
        after, before = made.get(str(newer)), made.get(str(older))
        if after is not None and before is not None and not before < after:
            yield f"{newer} is derived from {older}, which is not older"
    for (special, general, *_), _ in of(pm.ProvSpecialization):
        edges.setdefault(f"s {special}", set()).add(f"s {general}")
    while edges:
        ends = [name for name, out in edges.items() if not any(o in edges for o in out)]
        if not ends:
            yield f"a circle through {sorted(edges)[:3]}"
            return
        for name in ends:
            del edges[name]


@pytest.fixture(scope="session")
def read() -> type[Read]:
    """``read(directory)``: a run through other people's readers."""
    return Read


@pytest.fixture(scope="session")
def broken_rules() -> Callable[[pm.ProvDocument], list[str]]:
    """The checker of PROV-CONSTRAINTS that ``Read.check`` uses."""
    return lambda document: list(violations(document))


_SHIM = """
import json, os, sys
import prov4ml

_plain = prov4ml.log_metric

def log_metric(key, value, context=None, step=None, source=None, timestamp=None):
    _plain(key, value, context, step, source, timestamp)
    with open(os.environ["RECORDED"], "a") as file:
        print(json.dumps([key, float(value).hex(), context, step]), file=file)

prov4ml.log_metric = log_metric
"""


class Demo:
    """The demo run: where it happened, what it logged, what it printed, what it left."""

    def __init__(self, place: Isolated) -> None:
        (place.root / "shim").mkdir()
        (place.root / "shim" / "sitecustomize.py").write_text(_SHIM)
        recorded = place.root / "recorded"
        paths = [str(place.root / "shim"), place.environment.get("PYTHONPATH", "")]
        self.place = place
        self.done = place.run(
            sys.executable,
            str(EXAMPLES / "digits.py"),
            PYTHONPATH=os.pathsep.join(filter(None, paths)),
            RECORDED=str(recorded),
        )
        self.calls = [tuple(json.loads(line)) for line in recorded.read_text().splitlines()]
        self.left = Read(place.only_run())


@pytest.fixture(scope="session")
def demo(places: Callable[[], Any]) -> Iterator[Demo]:
    """``python examples/digits.py``, once for all tests."""
    with places() as place:
        yield Demo(place)
