"""A place of its own for each test that starts real processes; and what a run left, read by others.

``isolated`` has an own working folder, spool and runtime folder, so that no two tests share an
automatic collector, and takes down whatever a test left running there.  Its paths are short: an
ipc path ends at 107 bytes.

``read`` holds a run's documents in the models of ``prov``, ``pyoxigraph`` and pyarrow.  It uses
nothing of the model or the writers of prov4ml.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import prov.model as pm
import psutil
import pyoxigraph as ox
import pytest

from prov4ml_sinks import parquet_files

_FOREIGN = ("PROV4ML_", "SLURM_", "OMPI_", "PMI", "TORCHELASTIC_", "PYTEST_", "COVERAGE_")
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = 120.0  # s until a process of a test is given up; none should come near


class Isolated:
    """A working folder, an environment, and ways to run things in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "w"
        self.spool = root / "s"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN) and name not in _LAUNCHED
        }
        for path in (self.folder, self.spool, root / "r"):
            path.mkdir(mode=0o700)
        self.environment.update(
            PROV4ML_SPOOL=str(self.spool),
            XDG_RUNTIME_DIR=str(root / "r"),
            PYTHONDONTWRITEBYTECODE="1",
        )

    # ------------------------------------------------------------------------- processes

    def spawn(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a program here; its streams are pipes."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *command: str,
        code: int | None = 0,
        most: float = _PATIENCE,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program here; ``code`` is how it must end (None: any way), within ``most`` s."""
        with self.spawn(*command, **environment) as child:
            try:
                out, err = child.communicate(timeout=most)
            except BaseException:
                child.kill()
                raise
        assert code is None or child.returncode == code, (child.returncode, out, err)
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    def write(self, text: str, name: str = "train.py") -> Path:
        """Write a file in the working folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    def script(
        self, text: str, *arguments: str, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python script as ``train.py``, its warnings being errors."""
        path = self.write(text)
        command = (sys.executable, "-W", "error", path.name, *arguments)
        return self.run(*command, code=code, **environment)

    def start(self, text: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """``script``, not waited for."""
        path = self.write(text)
        return self.spawn(sys.executable, "-W", "error", path.name, *arguments, **environment)

    def prov4ml(
        self, *arguments: str, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command ``prov4ml``."""
        return self.run(sys.executable, "-m", "prov4ml", *arguments, code=code, **environment)

    # --------------------------------------------------------------------------- looking

    def runs(self, base: str = "prov") -> list[Path]:
        """The run directories in a folder, in the order of their names."""
        found = (self.folder / base).iterdir() if (self.folder / base).is_dir() else ()
        return sorted(path for path in found if not path.name.startswith("."))

    def only_run(self) -> Path:
        """The one run directory that is there."""
        (found,) = self.runs()
        return found

    def manifest(self, run: Path | None = None) -> dict[str, Any]:
        """``run.json``."""
        text = ((run or self.only_run()) / "run.json").read_text()
        return dict(json.loads(text))

    def wait(self, condition: Callable[[], object], what: str, most: float = 60.0) -> None:
        """Look until something holds; fails after ``most`` seconds, naming it."""
        deadline = time.monotonic() + most
        while not condition():
            assert time.monotonic() < deadline, f"not within {most} s: {what}"
            time.sleep(0.02)

    def processes(self) -> list[psutil.Process]:
        """What runs in this environment, collectors and orphans too."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PROV4ML_SPOOL") == str(self.spool):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def collectors(self) -> list[psutil.Process]:
        """The collectors that run in this environment."""
        found = []
        for process in self.processes():
            try:
                words = process.cmdline()
                if "collector" in words and not words[0].endswith("/sh"):  # which starts one
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """Kill what is left, and remove the folders."""
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait(lambda: not any(map(_lives, left)), "what was killed is gone")
        shutil.rmtree(self.root, ignore_errors=True)


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def _place() -> Iterator[Isolated]:
    place = Isolated(Path(tempfile.mkdtemp(prefix="p4-", dir="/tmp")))
    try:
        yield place
    finally:
        place.close()


@pytest.fixture
def isolated() -> Iterator[Isolated]:
    """A place of the test's own."""
    with _place() as place:
        yield place


@pytest.fixture(scope="session")
def places() -> Callable[[], Any]:
    """For fixtures that outlive a test: ``with places() as place``."""
    return _place


# ------------------------------------------------------------- what a run left, as others see it

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

# direct property: what PROV-JSON calls its two ends
ENDS = {
    "wasGeneratedBy": ("entity", "activity"),
    "used": ("activity", "entity"),
    "wasInformedBy": ("informed", "informant"),
    "wasStartedBy": ("activity", "trigger"),
    "wasEndedBy": ("activity", "trigger"),
    "wasInvalidatedBy": ("entity", "activity"),
    "wasDerivedFrom": ("generatedEntity", "usedEntity"),
    "wasAttributedTo": ("entity", "agent"),
    "wasAssociatedWith": ("activity", "agent"),
    "actedOnBehalfOf": ("delegate", "responsible"),
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
            stated = list(self.json.get(direct, {}).values())
            # A run may be associated with its user by two plans: one triple.  A child was started
            # by its parent, an activity: there is no entity to point to.
            ends = [tuple(s.get(f"prov:{name}") for name in ENDS[direct]) for s in stated]
            pairs = {pair for pair in ends if None not in pair}
            triples = self.count(f"?a prov:{direct} ?b")
            nodes = self.count(f"?a prov:{qualified} ?q")
            assert (triples, nodes) == (len(pairs), len(stated)), direct
        assert list(violations(self.document)) == []
        account = self.manifest["accounting"]
        assert account["sent"] == account["received"] + account["lost"]
        assert account["points"] == parquet_files.read(self.directory).num_rows
        processes = [*self.records("p4:RankProcess"), *self.records("p4:ChildProcess")]
        for what in ("sent", "received", "lost"):
            assert sum(int(one(r, f"p4:{what}")) for r in processes) == account[what], what
            assert sum(r[what] for r in self.manifest["ranks"]) == account[what], what
            kinds = "{ ?r a p4:RankProcess } UNION { ?r a p4:ChildProcess }"
            in_graph = self.ask(f"SELECT ?r ?n WHERE {{ {kinds} ?r p4:{what} ?n }}")
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

    def inside(activity: str | None, when: Any) -> bool:
        start, end = spans.get(activity or "", (None, None))
        early = when is not None and start is not None and when < start
        return not early and not (when is not None and end is not None and when > end)

    made: dict[str, Any] = {}
    for (entity, activity, *_), when in of(pm.ProvGeneration):
        if entity in made:
            yield f"{entity} is generated twice"
        made[str(entity)] = when
        if not inside(activity, when):
            yield f"{entity} is generated outside of {activity}"
    for (activity, entity, *_), when in of(pm.ProvUsage):
        born = made.get(str(entity))
        if born is not None and when is not None and when < born:
            yield f"{activity} used {entity} before it was there"
        if not inside(activity, when):
            yield f"{activity} used {entity} outside of its time"
    for (activity, *_), when in of(pm.ProvStart):
        if spans[str(activity)][0] != when:
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
