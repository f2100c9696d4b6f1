"""Full disks: under the spool, the event log, the run directory, and all of them at once.

The training goes on, what is lost is counted and told, and what is not lost is completed as soon
as there is room again: by the collector that is still there, or by ``prov4ml collect``.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prov4ml import handover, saving
from prov4ml.testing.processes import Disk, Launched

if TYPE_CHECKING:
    from tests.conftest import Isolated

Words = Callable[[str], memoryview]
Launch = Callable[..., Launched]
MakeDisk = Callable[[Path, int], Disk]

# word 0: points that returned, 1: the run is open, 2: parameters that returned, 3: files that
# were handed over; in the file "say" word 0: enough, 1: files to hand over
TRAIN = """
words, say = shared("rank" + os.environ.get("RANK", "0")), shared("say")
prov4ml.start_run("full")
words[1] = 1
i = 0
while not say[0]:
    for _ in range(400):
        prov4ml.log_metric("loss", i / 7, "training", i)
        i += 1
    words[0] = i
    prov4ml.log_param(f"p{i}", i)
    words[2] += 1
    while words[3] < say[1]:
        prov4ml.log_artifact("weights.bin", "weights.bin", step=i)
        prov4ml.save_model_version({"weights": bytes(200_000)}, "mlp", step=i)
        prov4ml.log_param("notes", "x" * 2000)
        words[3] += 1
    time.sleep(0.002)
sys.exit(3)
"""

HANDED = ("weights.bin", "mlp, version 1", "notes")
TIMEOUT = 3.0  # s that the end of a run may take here; interpreter and margin come on top
MARGIN = 6.0


class Training:
    """A rank that logs as long as nobody says enough."""

    def __init__(self, place: Isolated, words: Words, rank: int = 0, **environment: str) -> None:
        self._place = place
        self.words = words(f"rank{rank}")
        self.say = words("say")
        self.process: subprocess.Popen[str] = place.start(
            (place.folder / "train.py").read_text(),
            PROV4ML_EXIT_TIMEOUT=str(TIMEOUT),
            **environment,
        )
        place.wait(lambda: self.words[1] or self.process.poll() is not None, "the run is open")

    def goes_on(self, points: int) -> None:
        """Wait for so many more points."""
        aim = self.words[0] + points
        self._place.wait(
            lambda: self.words[0] >= aim or self.process.poll() is not None, "the training goes on"
        )
        assert self.process.poll() is None, self.process.communicate()

    def end(self) -> tuple[float, str]:
        """End it; the seconds that took, and what it said.  The exit code must be its own."""
        self.say[0] = 1
        begin = time.monotonic()
        _, said = self.process.communicate(timeout=120)
        took = time.monotonic() - begin
        assert self.process.returncode == 3, said
        assert "Traceback" not in said
        assert took < TIMEOUT + MARGIN
        return took, said


@pytest.fixture
def train(isolated: Isolated, prelude: str, words: Words) -> Callable[..., Training]:
    """``train()`` starts a rank; variables of its environment as keywords."""
    isolated.write(prelude + TRAIN)
    (isolated.folder / "weights.bin").write_bytes(bytes(100_000))

    def start(rank: int = 0, **environment: str) -> Training:
        return Training(isolated, words, rank, **environment)

    return start


def _counted(found: Any, *ranks: Training) -> tuple[int, int]:
    """Each call that returned is in the log, or told to be lost: (points lost, others lost)."""
    found.sound()
    logged, kinds = found.logged.total(), found.kinds
    lost = int(found.manifest["accounting"]["lost"])
    points = sum(gap["p4:points"] for gap in found.gaps)
    assert logged + points == sum(rank.words[0] for rank in ranks)
    params = sum(rank.words[2] + rank.words[3] for rank in ranks)
    files = sum(1 + len(HANDED) * rank.words[3] for rank in ranks)  # and the list of packages,
    files += 1  # and the sources, of the first rank
    assert kinds["Param"] + kinds["Artifact"] + lost - points == params + files
    for gap in found.gaps:
        assert gap["p4:points"] <= gap["p4:count"]
        assert gap["p4:since"] <= gap["p4:until"]
    assert found.manifest["status"] == "failed"
    assert {r["exit_code"] for r in found.manifest["ranks"]} == {3}
    return points, lost - points


def _kept(found: Any, *ranks: Training) -> int:
    """The same, and all but metric points is there; how many of these are lost."""
    points, others = _counted(found, *ranks)
    assert others == 0
    return points


def _size(run: Path) -> int:
    """Of the event log, in bytes."""
    return sum(path.stat().st_size for path in run.glob("events/*.log"))


def _held(place: Isolated) -> int:
    """By all journals, in bytes."""
    return sum(path.stat().st_size for path in place.spool.rglob("*.seg"))


def _documents(place: Isolated, run: Path) -> None:
    """Wait until they are written, all of them."""
    place.wait((run / "run.json").exists, "the manifest")
    place.wait(lambda: place.manifest(run)["closed"], "the documents")
    try:
        place.wait(lambda: not place.manifest(run)["failures"], "all of them")
    except AssertionError:
        raise AssertionError(place.manifest(run)["failures"]) from None


def _last(value: Any) -> Any:
    return value[-1] if isinstance(value, list) else value


def test_full_spool(
    isolated: Isolated,
    train: Callable[..., Training],
    small_disk: MakeDisk,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
) -> None:
    """No room for the journal while the collector hangs: points are dropped, counted, and told."""
    disk = small_disk(isolated.spool, 2 << 20)
    rank = train()
    run = isolated.only_run()
    isolated.wait(lambda: _size(run) > 50_000, "acks")
    (collector,) = isolated.collectors()
    collector.suspend()
    disk.fill()
    rank.goes_on(100_000)
    held = _held(isolated)
    disk.empty()
    before, then = _size(run), rank.words[0]
    collector.resume()
    isolated.wait(lambda: _size(run) > before + held, "points that are taken again")
    took, _ = rank.end()
    closed()
    found = evidence(run)
    lost = _kept(found, rank)
    assert lost > 0
    assert max(step for _, _, step in found.logged) > then
    assert {gap["p4:reason"] for gap in found.gaps} <= {
        "no room in the spool",
        "the spool's disk is nearly full (536,870,912 bytes are left to others)",
    }
    assert spool_files() == []
    figures(points=rank.words[0], lost=lost, gaps=len(found.gaps), exit_seconds=took)


def test_spool_limit(
    isolated: Isolated,
    train: Callable[..., Training],
    launch: Launch,
    evidence: Any,
    figures: Callable[..., None],
) -> None:
    """Beyond ``spool_limit`` points are dropped and counted; all else finds room in the reserve."""
    collector = launch()
    rank = train(PROV4ML_SPOOL_LIMIT="1MiB", PROV4ML_COLLECTOR=collector.address)
    run = isolated.only_run()
    isolated.wait(lambda: _size(run) > 50_000, "acks")
    collector.process.send_signal(signal.SIGSTOP)
    rank.goes_on(100_000)
    used = _held(isolated)
    before, then = _size(run), rank.words[0]
    collector.process.send_signal(signal.SIGCONT)
    isolated.wait(lambda: _size(run) > before + used, "points that are taken again")
    took, _ = rank.end()
    assert collector.stop() == 0
    found = evidence(run)
    lost = _kept(found, rank)
    assert lost > 0
    assert max(step for _, _, step in found.logged) > then
    assert {gap["p4:reason"] for gap in found.gaps} == {
        "the spool is at its limit (spool_limit, 1,048,576 bytes)"
    }
    assert used <= (1 << 20) + 2 * (256 << 10)
    figures(
        points=rank.words[0], lost=lost, params=rank.words[2], spool_bytes=used, exit_seconds=took
    )


def test_full_spool_without_a_collector(
    isolated: Isolated,
    train: Callable[..., Training],
    small_disk: MakeDisk,
    evidence: Any,
    figures: Callable[..., None],
) -> None:
    """The journal alone, on a full disk: what it holds is completed, what it lacks is told."""
    small_disk(isolated.spool, 1 << 20)
    rank = train(PROV4ML_COLLECTOR="none")
    rank.goes_on(100_000)
    took, said = rank.end()
    if "no time left for the documents" in said:  # on a busy machine
        isolated.prov4ml("collect", str(isolated.only_run()))
    found = evidence(isolated.only_run())
    lost = _kept(found, rank)
    assert lost > 50_000
    figures(points=rank.words[0], lost=lost, exit_seconds=took)


@pytest.mark.parametrize("until", ["before the end", "after the end", "collect"])
def test_full_event_log(
    isolated: Isolated,
    train: Callable[..., Training],
    small_disk: MakeDisk,
    launch: Launch,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    until: str,
) -> None:
    """No room for the event log, for a while or past the end: nothing is acked, nothing lost."""
    rank = train(PROV4ML_COLLECTOR=f"ipc://{isolated.root}/c.sock")
    run = isolated.only_run()
    disk = small_disk(run / "events", 64 << 20)
    collector = launch()
    isolated.wait(lambda: _size(run) > 50_000, "acks")
    disk.fill()
    isolated.wait(lambda: "the event log cannot be written" in collector.said(), "it is full")
    rank.goes_on(50_000)
    if until == "before the end":
        disk.empty()
        rank.goes_on(10_000)
    took, said = rank.end()
    if until == "collect":
        assert collector.stop() == 0
        assert "prov4ml collect" in said
    disk.empty()
    if until == "collect":
        isolated.prov4ml("collect", str(run))
    else:
        _documents(isolated, run)
        assert collector.stop() == 0
    found = evidence(run)
    found.complete()
    assert _kept(found, rank) == 0
    assert spool_files() == []
    assert "Traceback" not in collector.said()
    figures(points=rank.words[0], lost=0, exit_seconds=took)


@pytest.mark.parametrize("until", ["before the end", "after the end", "collect"])
def test_full_run_directory(
    isolated: Isolated,
    train: Callable[..., Training],
    small_disk: MakeDisk,
    launch: Launch,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    until: str,
) -> None:
    """No room for documents, metrics and files: all of it comes later, and what files are not
    kept is told."""
    isolated.write(
        '[run]\nsinks = ["+parquet"]\n[sinks.parquet]\nrows_per_part = 5000\n', "prov4ml.toml"
    )
    disk = small_disk(isolated.folder / "prov", 24 << 20)
    rank = train(PROV4ML_COLLECTOR=f"ipc://{isolated.root}/c.sock")
    run = isolated.only_run()
    small_disk(run / "events", 64 << 20)
    collector = launch()
    rank.say[1] = 1
    isolated.wait(lambda: rank.words[3] == 1, "files are handed over")
    isolated.wait((run / "run.json").exists, "the manifest")
    disk.fill()
    rank.say[1] = 2
    isolated.wait(lambda: rank.words[3] == 2, "files are handed over")
    isolated.wait(lambda: "sink parquet" in collector.said(), "metrics find no room")
    rank.goes_on(20_000)
    if until == "before the end":
        disk.empty()
        rank.goes_on(10_000)
    took, said = rank.end()
    assert said.count("is not kept: No space left on device") == 3
    if until == "collect":
        assert collector.stop() == 0
        assert "prov4ml collect" in said
    disk.empty()
    if until == "collect":
        isolated.prov4ml("collect", str(run))
    else:
        _documents(isolated, run)
        assert collector.stop() == 0
    found = evidence(run)
    found.complete()
    assert _kept(found, rank) == 0
    missing = [e["prov:label"] for e in found.entities.values() if "p4:notStored" in e]
    assert sorted(missing) == ["mlp, version 2", "notes", "weights.bin"]
    assert spool_files() == []
    assert collector.said().count("sink parquet") == 1
    assert "Traceback" not in collector.said()
    figures(points=rank.words[0], lost=0, files_not_kept=len(missing), exit_seconds=took)


def test_killed_beside_a_full_event_log(
    isolated: Isolated,
    train: Callable[..., Training],
    small_disk: MakeDisk,
    launch: Launch,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
) -> None:
    """A rank is killed while its event log has no room: its journal waits, then it is complete."""
    rank = train(PROV4ML_COLLECTOR=f"ipc://{isolated.root}/c.sock")
    run = isolated.only_run()
    disk = small_disk(run / "events", 64 << 20)
    collector = launch()
    isolated.wait(lambda: _size(run) > 50_000, "acks")
    disk.fill()
    isolated.wait(lambda: "the event log cannot be written" in collector.said(), "it is full")
    rank.goes_on(20_000)
    rank.process.kill()
    rank.process.communicate()
    isolated.wait(lambda: collector.said().count("[Errno 28]") > 1, "the journal finds no room")
    assert spool_files()
    disk.empty()
    _documents(isolated, run)
    assert collector.stop() == 0
    found = evidence(run)
    found.complete()
    assert rank.words[0] <= found.logged.total() <= rank.words[0] + 400
    assert rank.words[2] <= found.kinds["Param"] <= rank.words[2] + 1
    assert found.manifest["status"] in ("killed", "died")
    assert spool_files() == []
    assert "Traceback" not in collector.said()
    figures(points=found.logged.total(), lost=0)


@pytest.mark.parametrize("by", ["collector", "collect"])
def test_one_disk_for_all(
    isolated: Isolated,
    train: Callable[..., Training],
    small_disk: MakeDisk,
    evidence: Any,
    closed: Callable[..., None],
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
    by: str,
) -> None:
    """Two ranks fill the only disk there is; with room again the run is as complete as it says."""
    disk = small_disk(isolated.spool, 4 << 20)
    ranks = [
        train(
            rank,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            PROV4ML_JOB="full",
            PROV4ML_DIR=str(isolated.spool / "prov"),
        )
        for rank in range(2)
    ]
    for rank in ranks:
        rank.goes_on(120_000)
    ranks[0].say[1] = 1
    isolated.wait(lambda: all(rank.words[3] for rank in ranks), "files are handed over")
    took = max(rank.end()[0] for rank in ranks)
    (run,) = (p for p in (isolated.spool / "prov").iterdir() if not p.name.startswith("."))
    if by == "collect":
        for collector in isolated.collectors():
            collector.kill()
            collector.wait(30.0)
    disk.resize(64 << 20)
    if by == "collect":
        isolated.prov4ml("collect", str(run))
    _documents(isolated, run)
    isolated.wait(lambda: not isolated.processes(), "every process has ended")
    found = evidence(run)
    points, others = _counted(found, *ranks)
    assert points > 0
    named = [e for e in found.entities.values() if e.get("prov:label") in HANDED]
    kept = [e for e in named if "prov:location" in e and "p4:notStored" not in e]
    assert all((run / str(_last(e["prov:location"]))).is_file() for e in kept)
    left = [p for p in spool_files() if p.endswith((".seg", ".new"))]
    assert left == []
    figures(
        points=sum(rank.words[0] for rank in ranks),
        points_lost=points,
        others_lost=others,
        gaps=len(found.gaps),
        files_handed_over=len(ranks) * len(HANDED),
        of_them_kept=len(kept),
        exit_seconds=took,
    )


@pytest.mark.soak
def test_a_disk_that_stays_full(
    isolated: Isolated,
    train: Callable[..., Training],
    small_disk: MakeDisk,
    evidence: Any,
    spool_files: Callable[[], list[str]],
    figures: Callable[..., None],
) -> None:
    """An automatic collector gives up on a full disk a minute after the last rank, and ends."""
    disk = small_disk(isolated.folder / "prov", 8 << 20)
    rank = train()
    run = isolated.only_run()
    isolated.wait(lambda: _size(run) > 50_000, "acks")
    disk.fill()
    rank.goes_on(20_000)
    rank.end()
    begin = time.monotonic()
    isolated.wait(lambda: not isolated.processes(), "the collector ends", 150.0)
    took = time.monotonic() - begin
    assert took > 30.0
    assert "the event log's disk is full" in isolated.prov4ml("collect", str(run), code=1).stderr
    disk.empty()
    isolated.prov4ml("collect", str(run))
    found = evidence(run)
    assert _kept(found, rank) == 0
    assert spool_files() == []
    figures(points=rank.words[0], lost=0, seconds_until_given_up=took)


def test_start_on_a_full_disk(
    isolated: Isolated, small_disk: MakeDisk, figures: Callable[..., None]
) -> None:
    """A disk that is full before the training starts is the user's to mend: it is named, at once;
    with ``on_error="warn"`` nothing is recorded and the training goes on."""
    disk = small_disk(isolated.folder / "prov", 1 << 20)
    disk.fill()
    script = (
        "import sys, prov4ml\n"
        "prov4ml.start_run('full', on_error=sys.argv[1])\n"
        "prov4ml.log_metric('loss', 1.0)\n"
        "prov4ml.log_artifact('train.py')\n"
        "prov4ml.end_run()\n"
        "sys.exit(3)\n"
    )
    job = {"PROV4ML_JOB": "full"}
    said = isolated.script(script, "raise", code=1, **job).stderr
    assert "OSError: [Errno 28]" in said
    assert str(isolated.folder / "prov") in said
    said = isolated.script(script, "warn", code=3, **job).stderr
    assert said.count("nothing is recorded") == 1
    left = [p.name for p in (isolated.folder / "prov" / ".prov4ml").iterdir()]
    assert left == []
    small_disk(isolated.spool, 100 << 10)
    disk.empty()
    said = isolated.script(script, "raise", code=1).stderr
    assert "OSError: [Errno 28]" in said
    said = isolated.script(script, "warn", code=3).stderr
    assert said.count("nothing is recorded") == 1
    assert isolated.collectors() == []
    figures(refused=2, disabled=2)


def test_torch_on_a_full_disk(
    tmp_path: Path, small_disk: MakeDisk, figures: Callable[..., None]
) -> None:
    """What ``torch.save`` makes of a full disk is told as one, and no half file is left."""
    torch = pytest.importorskip("torch")
    small_disk(tmp_path / "small", 1 << 20)

    def save(model: Any) -> handover.Handed:
        return saving.saver(model, None).write(tmp_path / "small", "weights", [])

    for size in (100, 2000):
        model = torch.nn.Linear(size, size)
        for thing in (model, model.state_dict(), [model]):
            if size == 2000:
                with pytest.raises(OSError, match="No space left"):
                    save(thing)
                assert list((tmp_path / "small").iterdir()) == []
            else:
                handed = save(thing)
                assert handed.size is not None
                assert handed.size > 40_000
                (tmp_path / "small" / "weights").unlink()
    figures(models=6, told_as_full=3)
