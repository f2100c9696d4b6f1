"""Faults with real processes: what a run left, and the figures that go into tests/README.md."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prov.model as pm
import pyoxigraph as ox
import pytest

from prov4ml import events as ev
from prov4ml import wire
from prov4ml.eventlog import Reader
from prov4ml.testing.hosts import Hosts
from prov4ml.testing.processes import Disk, Launched
from prov4ml.testing.relay import Relay
from prov4ml_sinks import parquet_files

if TYPE_CHECKING:
    from tests.conftest import Isolated

PRELUDE = """
import mmap, os, random, signal, sys, threading, time
import prov4ml

def shared(name):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 4096)
    words = memoryview(mmap.mmap(fd, 4096)).cast("Q")
    os.close(fd)
    return words
"""


class Evidence:
    """What a run directory holds: the manifest, the event log, the points, the documents."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "run.json").read_text()))

    @cached_property
    def logged(self) -> Counter[tuple[int, str, int | None]]:
        """Points in the event log, each sequence once: (rank, series, step).

        ``kinds`` counts all events, ``holes`` has (first sequence, count) of what is missing,
        at the end as the producer itself said.
        """
        found: Counter[tuple[int, str, int | None]] = Counter()
        ranks: dict[bytes, int] = {}
        names: dict[tuple[bytes, int], str] = {}
        reached: dict[bytes, int] = {}
        self.kinds: Counter[str] = Counter()
        self.holes: list[tuple[int, int]] = []
        sent: dict[bytes, int] = {}
        with closing(Reader(self.directory / "events")) as reader:
            for frame in reader:
                if not frame.count:
                    for d in wire.decode_table(frame.batch):
                        names[frame.producer, d.series] = d.name
                    continue
                for n, event in enumerate(wire.decode_batch(frame.batch, frame.count), frame.first):
                    expected = reached.get(frame.producer, 0)
                    if n < expected:
                        continue
                    if n > expected:
                        self.holes.append((expected, n - expected))
                    reached[frame.producer] = n + 1
                    self.kinds[type(event).__name__] += 1
                    if isinstance(event, ev.Dropped):
                        sent[frame.producer] = event.first + event.count
                    elif isinstance(event, ev.Started):
                        ranks[frame.producer] = event.rank
                    elif isinstance(event, ev.SeriesDefined):
                        names[frame.producer, event.series] = event.name
                    elif isinstance(event, ev.Point):
                        name = names[frame.producer, event.series]
                        found[ranks.get(frame.producer, -1), name, event.step] += 1
        for producer, next in reached.items():
            if sent.get(producer, 0) > next:
                self.holes.append((next, sent[producer] - next))
        return found

    @cached_property
    def stored(self) -> Counter[tuple[int, str, int | None]]:
        """Points in ``metrics/``: (rank, series, step)."""
        table = parquet_files.read(self.directory)
        columns = [table.column(name).to_pylist() for name in ("rank", "name", "step")]
        return Counter(zip(*columns, strict=True))

    def complete(self) -> None:
        """The documents load, agree with each other, and nothing is lost or twice."""
        self.sound()
        account = self.manifest["accounting"]
        assert account["lost"] == 0
        assert account["sent"] == account["received"]

    def sound(self) -> None:
        """The documents load and agree with each other, and say exactly what is missing."""
        account = self.manifest["accounting"]
        assert self.manifest["closed"]
        assert self.manifest["failures"] == []
        assert account["rejected"] == 0
        assert account["sent"] == account["received"] + account["lost"]
        assert account["points"] == self.stored.total() == self.logged.total()
        assert self.stored == self.logged
        assert sorted(self.holes) == sorted((g["p4:first"], g["p4:count"]) for g in self.gaps)
        assert sum(count for _, count in self.holes) == account["lost"]
        document = pm.ProvDocument.deserialize(str(self.directory / "prov.json"), format="json")
        assert document == pm.ProvDocument.deserialize(
            str(self.directory / "prov.provn"), format="provn"
        )
        store = ox.Store()
        store.load(path=str(self.directory / "prov.ttl"), format=ox.RdfFormat.TURTLE)
        assert len(store) > 0
        assert (self.directory / "prov.svg").stat().st_size > 0
        assert not (self.directory / "undelivered").exists()

    @cached_property
    def gaps(self) -> list[dict[str, Any]]:
        """What ``prov.json`` says of each stretch of lost events."""
        return [e for e in self.entities.values() if "p4:Gap" in str(e.get("prov:type"))]

    @cached_property
    def entities(self) -> dict[str, dict[str, Any]]:
        """The entities of ``prov.json`` by identifier, their literals as plain values."""
        found = json.loads((self.directory / "prov.json").read_text())["entity"]
        return {
            id: {name: _plain(value) for name, value in facts.items()}
            for id, facts in found.items()
        }

    def bytes(self) -> dict[str, bytes]:
        """Every file of the run, to see that nothing changes."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file()
        }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, text = value.get("type", ""), value["$"]
    return int(text) if kind.startswith(("xsd:int", "xsd:long")) else text


@pytest.fixture
def evidence() -> type[Evidence]:
    return Evidence


@pytest.fixture
def prelude() -> str:
    """Imports for scripts, and ``shared(path)``: 512 words that outlive a kill."""
    return PRELUDE


@pytest.fixture
def words(isolated: Isolated) -> Callable[[str], memoryview]:
    """The words that a script shares under a name."""

    def opened(name: str) -> memoryview:
        fd = os.open(isolated.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, 4096)
            return memoryview(mmap.mmap(fd, 4096)).cast("Q")
        finally:
            os.close(fd)

    return opened


@pytest.fixture
def closed(isolated: Isolated) -> Callable[..., None]:
    """Wait until all runs are closed and no process is left."""

    def wait(most: float = 60.0) -> None:
        def over(run: Path) -> bool:
            return (run / "run.json").is_file() and bool(isolated.manifest(run)["closed"])

        try:
            isolated.wait(lambda: all(map(over, isolated.runs())), "all runs are closed", most)
            isolated.wait(lambda: not isolated.processes(), "every process has ended", most)
        except AssertionError as error:
            lines = [f"{run.name} is open" for run in isolated.runs() if not over(run)]
            lines += [f"{p.pid} {p.status()} {p.cmdline()}" for p in isolated.processes()]
            lines += [path.read_text()[-4000:] for path in isolated.root.glob("r/*/*.log")]
            raise AssertionError("\n".join([str(error), *lines])) from None

    return wait


@pytest.fixture
def spool_files(isolated: Isolated) -> Callable[[], list[str]]:
    """What is left in the spool and the runtime folder's sockets."""

    def left() -> list[str]:
        return [
            str(p.relative_to(isolated.spool)) for p in isolated.spool.rglob("*") if p.is_file()
        ]

    return left


@pytest.fixture
def figures(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Callable[..., None]:
    """Show figures of a test, also when it passes."""

    def show(**values: Any) -> None:
        texts = [
            f"{name.replace('_', ' ')} {value:,.3g}"
            if isinstance(value, float)
            else f"{name.replace('_', ' ')} {value if isinstance(value, str) else f'{value:,}'}"
            for name, value in values.items()
        ]
        with capsys.disabled():
            print(f"\n  {request.node.name}: {', '.join(texts)}")

    return show


@pytest.fixture
def forget(isolated: Isolated) -> Callable[[Path], None]:
    """Remove a run that has been looked at: a soak must not fill the disk."""

    def remove(run: Path) -> None:
        shutil.rmtree(run)

    return remove


@pytest.fixture
def pause() -> Callable[[float], None]:
    """The fault itself: let a moment pass before the kill, or while something is stopped."""
    return time.sleep


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], Disk]]:
    """``small_disk(path, size)`` mounts a tmpfs of ``size`` bytes there; gone after the test."""
    with ExitStack() as stack:

        def mount(path: Path, size: int) -> Disk:
            try:
                disk = Disk(path, size)
            except PermissionError as error:
                pytest.skip(f"a small disk needs the right to mount a tmpfs: {error}")
            stack.callback(disk.close)
            return disk

        yield mount


@pytest.fixture
def launch(isolated: Isolated) -> Iterator[Callable[..., Launched]]:
    """``launch()`` starts a collector for the test's place; with words, behind that command."""
    with ExitStack() as stack:

        def start(*before: str, address: str = "", **environment: str) -> Launched:
            address = address or f"ipc://{isolated.root}/c.sock"
            made = {**isolated.environment, **environment}
            launched = Launched(isolated.root, made, address, *before)
            stack.callback(launched.close)
            return launched

        yield start


@pytest.fixture
def relay(isolated: Isolated) -> Iterator[Callable[..., Relay]]:
    """``relay(target)`` stands between a rank and ``target`` (host:port), behind some words."""
    with ExitStack() as stack:

        def start(target: str, *before: str, host: str = "127.0.0.1") -> Relay:
            made = Relay(target, isolated.environment, *before, host=host)
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two hosts with a link between them."""
    try:
        made = Hosts()
    except PermissionError as error:
        pytest.skip(f"two hosts need the right to make network namespaces: {error}")
    yield made
    made.close()


SLOW = """
import os, time

class Slow:
    suffix = "slow"

    def render(self, document):
        while not os.path.exists("GATE"):
            time.sleep(0.02)
            yield b""  # a sign of life: slow, not dead
        yield b"at last"
"""


class SlowSink:
    """A sink that renders nothing until ``gate`` is there; for runs with this environment."""

    def __init__(self, place: Isolated) -> None:
        self.gate = place.root / "gate"
        folder = place.root / "plugin"
        facts = folder / "slow_sink-1.dist-info"
        facts.mkdir(parents=True)
        (folder / "slow_sink.py").write_text(SLOW.replace("GATE", str(self.gate)))
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-sink\nVersion: 1\n")
        (facts / "entry_points.txt").write_text("[prov4ml.sinks]\nslow = slow_sink:Slow\n")
        paths = [str(folder), place.environment.get("PYTHONPATH", "")]
        self.environment = {"PYTHONPATH": os.pathsep.join(paths), "PROV4ML_SINKS": "+slow"}


@pytest.fixture
def slow_sink(isolated: Isolated) -> SlowSink:
    """Documents that take as long as the test likes."""
    return SlowSink(isolated)
