"""Sinks that misbehave: they throw, end the program, hang or fill a disk, wherever a sink can.

One collector serves them all at once, each in a run of its own.  Acks go on, the other sinks'
outputs are whole, the run closes in time, the failure is logged once and recorded, and once it is
mended ``prov4ml replay`` writes what was missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from prov4ml.testing.processes import Disk, Launched

if TYPE_CHECKING:
    from tests.conftest import Isolated

SINKS = '''
"""Sinks that do as they are told: ``fault`` says what goes wrong, and where."""
import hashlib, os, sys, threading
from typing import ClassVar

from prov4ml.sink import Output

def go(fault, place):
    if "MENDED" in os.environ:
        return
    if fault == place:
        raise RuntimeError(f"it went wrong: {place}")
    if fault == f"{place}, exit":
        sys.exit(f"it went wrong: {place}")
    if fault == f"{place}, hangs":
        threading.Event().wait()


def lines(fault):
    class Lines:
        """A line for each event, in a file of its own."""

        options: ClassVar[dict] = {}

        def __init__(self, target, options):
            go(fault, "init")
            full = fault == "disk" and "MENDED" not in os.environ
            self.folder = target.directory
            folder = os.environ["FULL"] if full else self.folder
            self.path, self.file, self.rows = os.path.join(folder, "lines.txt"), None, 0

        def write(self, chunk):
            go(fault, "write")
            if self.file is None:
                self.file = open(self.path, "w")
            for event in chunk.events:
                self.file.write(f"{event}\\n")
                self.rows += 1
            self.file.flush()

        def flush(self):
            open(os.path.join(self.folder, ".flushed"), "w").close()
            go(fault, "flush")
            return 0

        def close(self):
            go(fault, "close")
            if self.file is None:
                return []
            self.file.close()
            with open(self.path, "rb") as file:
                data = file.read()
            return [Output("lines.txt", hashlib.sha256(data).hexdigest(), len(data), self.rows)]

    return Lines


def page(fault):
    class Page:
        """The number of statements."""

        suffix: ClassVar[str] = "page"
        options: ClassVar[dict] = {}

        def __init__(self):
            go(fault, "init")

        def render(self, document):
            go(fault, "render")
            yield b"statements:"
            for number, _ in enumerate(document.statements()):
                if number == 5:
                    go(fault, "render later")
            while fault == "disk" and "MENDED" not in os.environ:
                yield bytes(1 << 16)
            yield f" {number}\\n".encode()

    return Page
'''

# A line for each run on stdout.  A run ends when what may go wrong before had its chance.
TRAIN = """
import json, os, sys, time
import prov4ml

for name in sys.argv[1:]:
    run = prov4ml.start_run(name, sinks=["+" + name])
    step, longest, begin = 0, 0, time.monotonic()
    flushed = run.directory / ".flushed"
    while run._sender.acked == 0 or ("flush" in name and not flushed.exists()):
        for _ in range(100):
            now = time.perf_counter_ns()
            prov4ml.log_metric("loss", step / 7, "training", step)
            longest = max(longest, time.perf_counter_ns() - now)
            step += 1
        time.sleep(0.005)
    before = run._sender.acked
    while run._sender.acked == before and time.monotonic() - begin < 30:
        prov4ml.log_metric("loss", step / 7, "training", step)
        step += 1
        time.sleep(0.005)
    goes_on = run._sender.acked > before
    prov4ml.log_artifact("train.py", "train.py")
    begin = time.monotonic()
    prov4ml.end_run()
    print(json.dumps([name, step, longest, goes_on, time.monotonic() - begin]), flush=True)
"""

TIMEOUT = 10.0  # s, what a run has by default for its end

LINES = (
    *("import", "import, exit", "init", "init, exit", "init, hangs", "write", "write, exit"),
    *("write, hangs", "flush", "flush, hangs", "close", "close, hangs", "disk"),
)
PAGES = (
    *("import", "import, exit", "import, hangs", "init", "render", "render, exit"),
    *("render, hangs", "render later", "render later, hangs", "disk"),
)
FAULTS = (*(("lines", fault) for fault in LINES), *(("page", fault) for fault in PAGES))


def _name(kind: str, fault: str) -> str:
    return f"{kind}-{fault.replace(', ', '-').replace(' ', '-')}"


class Trained(msgspec.Struct):
    """What became of a run: as its process saw it, and what it left."""

    points: int
    longest: int  # ns that a log call took at most
    acked: bool  # acks went on
    took: float  # s that ``end_run`` took
    said: str  # by its process
    run: Path


class Service:
    """The collector, after all the runs are over."""

    def __init__(self, place: Isolated, collector: Launched, runs: dict[str, Trained]) -> None:
        self.place = place
        self.runs = runs
        self.said = collector.said()

    def copy(self, name: str) -> Path:
        """Another run directory like it, to try things on."""
        run = self.runs[name].run
        return Path(shutil.copytree(run, self.place.folder / f"again-{name}"))


def _install(site: Path) -> None:
    """A package with all the sinks, found by its entry points."""
    info = site / "odd_sinks-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "odd_sinks.py").write_text(SINKS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-sinks\nVersion: 1.0\n")
    entries = ["[prov4ml.sinks]"]
    for kind, fault in FAULTS:
        name = _name(kind, fault)
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(
            f"import odd_sinks\nodd_sinks.go({fault!r}, 'import')\n"
            f"Sink = odd_sinks.{kind}({fault!r})\n"
        )
        entries.append(f"{name} = {module}:Sink")
    (info / "entry_points.txt").write_text("\n".join(entries) + "\n")


def _all_at_once(place: Isolated) -> Iterator[subprocess.Popen[str]]:
    """Processes that train with every sink; each with one that hangs and some that do not."""
    names = [_name(*each) for each in FAULTS if each != ("page", "disk")]
    hanging = [name for name in names if name.endswith("hangs")]
    others = [name for name in names if not name.endswith("hangs")]
    for n, name in enumerate(hanging):
        mine = [name, *others[n :: len(hanging)]]
        yield place.spawn(sys.executable, "-W", "error", "train.py", *mine)
    yield place.spawn(
        *(sys.executable, "-W", "error", "train.py", "page-disk"),
        PROV4ML_DIR=str(place.folder / "small"),
    )


@pytest.fixture(scope="module")
def service(places: Callable[[], Any]) -> Iterator[Service]:
    """All the runs, served by one launched collector."""
    with places() as place:
        _install(place.root / "site")
        paths = [str(place.root / "site"), place.environment.get("PYTHONPATH", "")]
        place.environment["PYTHONPATH"] = ":".join(filter(None, paths))
        place.environment["FULL"] = str(place.root / "full")
        place.write(TRAIN)
        disks = []
        try:
            disks.append(Disk(place.root / "full", 8 << 10))
            disks.append(Disk(place.folder / "small", 16 << 20))
            yield _serve(place)
        except PermissionError as error:
            pytest.skip(f"a small disk needs the right to mount a tmpfs: {error}")
        finally:
            for disk in disks:
                disk.close()


def _serve(place: Isolated) -> Service:
    address = f"ipc://{place.root}/c.sock"
    collector = Launched(place.root, place.environment, address)
    place.environment["PROV4ML_COLLECTOR"] = address
    trained: dict[str, Trained] = {}
    try:
        for child in list(_all_at_once(place)):
            out, said = child.communicate(timeout=120)
            assert child.returncode == 0, said
            for line in out.splitlines():
                name, points, longest, acked, took = json.loads(line)
                base = "small" if name == "page-disk" else "prov"
                run = place.folder / base / f"{name}_0"
                trained[name] = Trained(points, longest, acked, took, said, run)
        for t in trained.values():
            place.wait((t.run / "run.json").exists, "the manifest")
            place.wait(lambda t=t: place.manifest(t.run)["closed"], "the documents")
        assert collector.stop() == 0
    finally:
        collector.close()
    return Service(place, collector, trained)


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_odd_sink(
    service: Service, evidence: Any, figures: Callable[..., None], kind: str, fault: str
) -> None:
    """A sink fails in one way: it is told once, everywhere, and nobody else notices."""
    name = _name(kind, fault)
    t = service.runs[name]
    assert t.acked
    assert t.took < TIMEOUT
    found = evidence(t.run)
    (failure,) = found.manifest["failures"]
    assert failure.startswith(f"sink {name}: ")
    if fault == "disk":
        assert "No space left" in failure
    elif not fault.endswith("hangs"):
        assert f"it went wrong: {fault.removesuffix(', exit')}" in failure
    elif kind == "lines":
        assert "unfinished" in failure
    else:
        assert "hangs: no sign of life" in failure
    assert service.said.count(f"{t.run.name}: {failure}") == 1
    late = f"{t.run.name}: every event is kept, but the documents are not written yet"
    assert failure in t.said or (fault.endswith("hangs") and late in t.said)
    assert found.manifest["status"] == "finished"
    assert {d["sink"] for d in found.manifest["documents"]} == {
        *("provjson", "provn", "svg", "turtle")
    }
    assert [o["sink"] for o in found.manifest["outputs"]] == ["parquet"]
    assert (found.directory / "prov.provn").read_text().count("p4:sinkFailure=") == 1
    found.manifest["failures"] = []
    found.complete()
    assert found.stored.total() == t.points
    assert found.kinds["SinkFailed"] == 1
    assert [p.name for p in t.run.iterdir() if p.name.endswith(".tmp")] == []
    figures(points=t.points, exit_seconds=t.took, longest_call_ms=t.longest / 1e6)


def test_the_collector_has_only_told_of_sinks(service: Service) -> None:
    """One line for each failure, none of them a traceback."""
    assert "Traceback" not in service.said
    assert len(service.runs) == len(FAULTS)
    lines = [line for line in service.said.splitlines() if ": sink " in line]
    assert len(lines) == len(FAULTS)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("lines", "write"), ("lines", "close, hangs"), ("lines", "disk"), ("page", "render later")],
)
def test_replay_takes_it_up(service: Service, kind: str, fault: str) -> None:
    """Before it is mended ``replay`` says what is wrong; then it writes what was missing."""
    name = _name(kind, fault)
    run = service.copy(name)
    place = service.place
    output = run / ("lines.txt" if kind == "lines" else "prov.page")
    if not fault.endswith("hangs"):
        place.prov4ml("replay", str(run), "--sink", name, code=1)
    before = {path: path.read_bytes() for path in run.glob("prov.*")}
    done = place.prov4ml("replay", str(run), "--sink", name, "--sink", "provn", MENDED="1")
    assert done.stdout.split() == [str(output), str(run / "prov.provn")]
    assert all(path.read_bytes() == data for path, data in before.items() if path != output)
    text = output.read_text()
    assert text.startswith("statements: ") or text.count("Point(") == service.runs[name].points


def test_collect_makes_it_whole(service: Service, evidence: Any) -> None:
    """Once all is mended, ``collect`` leaves runs in which nothing ever failed."""
    names = ["lines-flush", "lines-write-hangs", "page-import", "page-render-hangs"]
    copies = {name: service.copy(name) for name in names}
    service.place.prov4ml("collect", *map(str, copies.values()), MENDED="1")
    for name, run in copies.items():
        found = evidence(run)
        found.complete()
        assert "p4:sinkFailure" not in (run / "prov.provn").read_text()
        made = [*found.manifest["outputs"], *found.manifest["documents"]]
        assert name in {each["sink"] for each in made}
