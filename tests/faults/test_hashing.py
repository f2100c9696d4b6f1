"""Large files: nothing waits for their hashes, and no death on the way loses them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prov4ml import hashing

if TYPE_CHECKING:
    from tests.conftest import Isolated

LARGE = hashing._LARGE


def programs(place: Isolated) -> list[Any]:
    """Hashing programs of this test's collector."""
    return [p for p in place.processes() if hashing.__file__ in _words(p)]


def _words(process: Any) -> list[str]:
    try:
        return list(process.cmdline())
    except Exception:  # it has just ended
        return []


def sparse(path: Path, size: int) -> Path:
    """A file of zeros that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def of_zeros(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(bytes(1 << 20))
    return digest.hexdigest()


@pytest.mark.parametrize("ours", [True, False])
def test_the_program_hashes_as_anybody_does(tmp_path: Path, ours: bool) -> None:
    """A file of its size goes to the program; the digest is that of the bytes."""
    data = os.urandom(1 << 20) * 33
    path = tmp_path / "file"
    path.write_bytes(data)
    assert len(data) >= LARGE
    with hashing.opened(path) as file:
        found = hashing._apart(file, hashing.Pace(), ours)
    assert found == (hashlib.sha256(data).hexdigest(), len(data))


def test_a_program_that_dies_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, or none to start: the collector hashes the file itself."""
    path = sparse(tmp_path / "file", LARGE)
    for instead in ("/bin/false", "/nonexistent"):
        monkeypatch.setattr("sys.executable", instead)
        with hashing.opened(path) as file:
            assert hashing.sha256(file, hashing.Pace()) == (of_zeros(LARGE), LARGE)


def test_the_program_steps_back(tmp_path: Path) -> None:
    """The lowest priority there is, in a session of its own, whatever the kernel schedules by."""
    words = [sys.executable, "-I", "-S", hashing.__file__, str(os.getpid()), ""]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as program:
        assert program.stdin is not None
        deadline = time.monotonic() + 30
        while os.getpriority(os.PRIO_PROCESS, program.pid) != 19:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert os.sched_getscheduler(program.pid) == os.SCHED_IDLE
        group = Path(f"/proc/{program.pid}/autogroup")
        if group.exists():  # a kernel that groups by session
            while not group.read_text().endswith("nice 19\n"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert os.getsid(program.pid) == program.pid
        program.stdin.close()
        assert program.stdout is not None
        assert program.stdout.read().split() == [hashlib.sha256(b"").hexdigest().encode(), b"0"]


RUN = """
import json, os, time
import prov4ml

run = prov4ml.start_run("large")
began = time.monotonic()
prov4ml.log_artifact("file", {path!r}, copy=False)
called = time.monotonic() - began
while not os.path.exists("held"):
    time.sleep(0.01)
slowest = 0.0
for step in range(200):
    prov4ml.log_metric("loss", 1.0, step=step)
    if step % 20 == 19:
        wanted, began = run._journal.sent, time.monotonic()
        while run._sender.acked < wanted:
            time.sleep(0.002)
            assert time.monotonic() - began < 60
        slowest = max(slowest, time.monotonic() - began)
print(json.dumps({{"called": called, "ack": slowest}}), flush=True)
while os.path.exists("held"):
    time.sleep(0.01)
prov4ml.end_run()
"""


def _held(isolated: Isolated) -> Any:
    """The hashing program, stopped in the middle."""
    isolated.wait(lambda: programs(isolated), "hashing begins")
    (program,) = programs(isolated)
    program.suspend()
    return program


def test_acks_do_not_wait_for_hashes(
    isolated: Isolated, figures: Callable[..., None], evidence: Any
) -> None:
    """With a hash that does not get on, events are acked and documents written as always."""
    path = sparse(isolated.folder / "big.bin", LARGE * 8)
    child = isolated.start(RUN.format(path=str(path)), PROV4ML_EXIT_TIMEOUT="60")
    program = _held(isolated)
    (isolated.folder / "held").touch()
    assert child.stdout is not None
    told = json.loads(child.stdout.readline())
    assert program.status() == "stopped"
    run = isolated.only_run()
    isolated.wait((run / "run.json").exists, "the manifest is written while it hashes")
    program.resume()
    (isolated.folder / "held").unlink()
    out, err = child.communicate(timeout=100)
    assert child.returncode == 0, (out, err)
    evidence(run).complete()
    assert of_zeros(LARGE * 8) in (run / "prov.provn").read_text()
    figures(slowest_ack_s=told["ack"], call_s=told["called"])


ENDS = """
import sys, time
import prov4ml
run = prov4ml.start_run("large")
prov4ml.log_artifact("file", {path!r}, copy=False)
prov4ml.log_artifact("copy", {path!r})
while run._sender.acked < run._journal.sent:
    time.sleep(0.01)
open("logged", "w").close()
while __import__("os").path.exists("logged"):
    time.sleep(0.01)
prov4ml.end_run()
"""


def test_the_end_of_a_run_is_in_a_hurry(isolated: Isolated, evidence: Any) -> None:
    """A program that got nowhere is let go once nobody trains, and the collector hashes itself."""
    path = sparse(isolated.folder / "big.bin", LARGE * 2)
    child = isolated.start(ENDS.format(path=str(path)), PROV4ML_EXIT_TIMEOUT="60")
    _held(isolated)
    isolated.wait((isolated.folder / "logged").exists, "everything is acked")
    (isolated.folder / "logged").unlink()
    out, err = child.communicate(timeout=100)
    assert child.returncode == 0, (out, err)
    evidence(isolated.only_run()).complete()
    text = (isolated.only_run() / "prov.provn").read_text()
    assert text.count("specializationOf(") >= 2
    assert of_zeros(LARGE * 2) in text
    assert not programs(isolated)


def test_a_collector_that_dies_while_it_hashes(
    isolated: Isolated, evidence: Any, figures: Callable[..., None], closed: Callable[..., None]
) -> None:
    """The next one finds the copy where it was, and stores it; no program is left behind."""
    path = sparse(isolated.folder / "big.bin", LARGE * 2)
    child = isolated.start(ENDS.format(path=str(path)), PROV4ML_EXIT_TIMEOUT="90")
    program = _held(isolated)
    isolated.wait((isolated.folder / "logged").exists, "everything is acked")
    (collector,) = isolated.collectors()
    collector.kill()
    program.resume()
    began = time.monotonic()
    (isolated.folder / "logged").unlink()
    out, err = child.communicate(timeout=110)
    assert child.returncode == 0, (out, err)
    run = isolated.only_run()
    evidence(run).complete()
    closed()
    digest = of_zeros(LARGE * 2)
    assert (run / "artifacts" / digest[:2] / digest).stat().st_size == LARGE * 2
    assert not (run / "artifacts" / ".incoming").exists()
    figures(recovered_s=time.monotonic() - began)


def test_a_collector_that_stops_ends_its_program(
    isolated: Isolated, launch: Callable[..., Any], evidence: Any
) -> None:
    """SIGTERM: the hash is given up at once, and ``collect`` completes the run."""
    path = sparse(isolated.folder / "big.bin", LARGE * 2)
    collector = launch()
    child = isolated.start(
        ENDS.format(path=str(path)), PROV4ML_COLLECTOR=collector.address, PROV4ML_EXIT_TIMEOUT="3"
    )
    program = _held(isolated)
    isolated.wait((isolated.folder / "logged").exists, "everything is acked")
    assert collector.stop() == 0
    isolated.wait(lambda: not program.is_running(), "the program is gone")
    (isolated.folder / "logged").unlink()
    child.communicate(timeout=100)
    run = isolated.only_run()
    isolated.prov4ml("collect", str(run))
    evidence(run).complete()
    assert of_zeros(LARGE * 2) in (run / "prov.provn").read_text()
    assert not (run / "artifacts" / ".incoming").exists()


CHANGES = """
import os, sys, time
import prov4ml
run = prov4ml.start_run("changes")
prov4ml.log_artifact("file", {path!r}, copy=False)
while run._sender.acked < run._journal.sent:
    time.sleep(0.01)
open("logged", "w").close()
while os.path.exists("logged"):
    time.sleep(0.01)
prov4ml.end_run()
"""


def test_a_file_that_changes_while_it_is_hashed(isolated: Isolated, evidence: Any) -> None:
    """It is looked at again afterwards: no content is claimed, and the user is told."""
    path = sparse(isolated.folder / "big.bin", LARGE * 2)
    child = isolated.start(CHANGES.format(path=str(path)), PROV4ML_EXIT_TIMEOUT="60")
    program = _held(isolated)
    isolated.wait((isolated.folder / "logged").exists, "everything is acked")
    with path.open("ab") as file:
        file.write(b"more")
    program.resume()
    isolated.wait(lambda: not programs(isolated), "it is hashed")
    (isolated.folder / "logged").unlink()
    _, err = child.communicate(timeout=100)
    assert "file: changed after it was logged" in err
    run = isolated.only_run()
    evidence(run).complete()
    text = (run / "prov.provn").read_text()
    assert 'p4:notStored="changed after it was logged"' in text
    assert of_zeros(LARGE * 2) not in text


@pytest.mark.parametrize(
    "size", [pytest.param(64 << 20), pytest.param(5 << 30, marks=pytest.mark.soak)]
)
def test_a_large_file_takes_no_memory(
    isolated: Isolated, figures: Callable[..., None], size: int
) -> None:
    """Of neither process: copied inside the kernel, hashed in pieces, read as a stream."""
    source = isolated.folder / "big.bin"
    with source.open("wb") as file:
        piece = os.urandom(1 << 20)
        for _ in range(size >> 20):
            file.write(piece)
    script = """
import json, resource, sys, time
import prov4ml

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("RssAnon:"))

run = prov4ml.start_run("large")
prov4ml.log_artifact("small", b"x")
before = anonymous()
began = time.monotonic()
prov4ml.log_artifact("file", sys.argv[1])
copied = time.monotonic() - began
middle = anonymous()
with open(sys.argv[1], "rb") as stream:
    prov4ml.log_artifact("stream", stream)
after = anonymous()
prov4ml.end_run()
print(json.dumps({"file": middle - before, "stream": after - before, "copied": copied}))
"""
    done = isolated.script(script, str(source), PROV4ML_EXIT_TIMEOUT="110")
    told = json.loads(done.stdout)
    assert told["file"] < 4 << 20
    assert told["stream"] < 8 << 20
    run = isolated.only_run()
    stored = [p for p in (run / "artifacts").rglob("*") if p.is_file() and p.stat().st_size == size]
    assert len({p.stat().st_ino for p in stored}) == 1, "stream and file are one content"
    figures(
        size_MiB=size >> 20,
        copied_s=told["copied"],
        file_KiB=told["file"] >> 10,
        stream_KiB=told["stream"] >> 10,
    )
    source.unlink()
