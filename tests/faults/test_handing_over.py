"""Files that are handed over while something is wrong with them, with the disk, or with us."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated

PATIENT = {"PROV4ML_EXIT_TIMEOUT": "100"}  # s; a busy machine may take its time

ODD = """
import json, sys
import prov4ml

refused = {}
with prov4ml.start_run("odd"):
    for path in sys.argv[1:]:
        for copy in (True, False):
            for call in (prov4ml.log_artifact, prov4ml.log_input):
                try:
                    call(path, "name", copy=copy)
                except prov4ml.UsageError as error:
                    refused[path] = str(error)
            try:
                prov4ml.log_dataset(path, "name", copy=copy)
                prov4ml.save_model_version(path, "name", copy=copy)
            except prov4ml.UsageError as error:
                pass
    kept = prov4ml.log_artifacts("folder")
    prov4ml.log_metric("loss", 1.0)
print(json.dumps(refused))
"""


def test_what_is_no_file_holds_nothing_up(isolated: Isolated, evidence: Any) -> None:
    """Pipes, sockets, devices and loops in every call: told, passed over, and the run goes on."""
    folder = isolated.folder / "folder"
    folder.mkdir()
    (folder / "plain.txt").write_text("plain")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
    (isolated.folder / "self").symlink_to("self")
    odd = ["folder/pipe", "folder/socket", "/dev/zero", "/dev/null", "/dev/tty", "self", "missing"]
    done = isolated.script(ODD, *odd, **PATIENT)
    assert set(json.loads(done.stdout)) == set(odd)
    assert "2 left out of folder" in done.stderr
    run = isolated.only_run()
    evidence(run).complete()
    text = (run / "prov.provn").read_text()
    assert "folder/plain.txt" in text
    assert "p4:left_out=2" in text


GROWS = """
import prov4ml

with prov4ml.start_run("grows"):
    for n in range(20):  # the writer does not run at every moment
        prov4ml.log_artifact(f"copy {n}", "log.bin")
"""

WRITER = """
import os, sys
piece = b"x" * (1 << 20)
with open("log.bin", "ab", buffering=0) as file:
    while file.tell() < int(sys.argv[1]):
        file.write(piece)
        if file.tell() > 8 << 20:
            os.truncate("log.bin", 4 << 20)
            file.seek(0, os.SEEK_END)
        if file.tell() == 5 << 20:
            open("written", "w").close()
"""


def test_a_file_that_is_written_all_the_time(isolated: Isolated, evidence: Any) -> None:
    """The copy has an end while the file has none; that it changed is said."""
    writer = isolated.spawn(sys.executable, "-c", WRITER, str(1 << 40))
    try:
        isolated.wait((isolated.folder / "written").exists, "the file is being written")
        done = isolated.script(GROWS, **PATIENT)
    finally:
        writer.kill()
        writer.wait()
        for stream in (writer.stdout, writer.stderr):
            assert stream is not None
            stream.close()
    run = isolated.only_run()
    evidence(run).complete()
    assert "changed while it was copied" in done.stderr
    assert "p4:changed_while_copied" in (run / "prov.provn").read_text()
    sizes = [p.stat().st_size for p in (run / "artifacts").rglob("*") if p.is_file()]
    assert max(sizes) <= 9 << 20


UNPRIVILEGED = """
import json, os, sys
import prov4ml

told = {}
def refused(name, call, *words, **more):
    try:
        call(*words, **more)
    except prov4ml.UsageError as error:
        told[name] = str(error)

run = prov4ml.start_run("other")
incoming = run.get_artifacts_dir() / ".incoming"
incoming.mkdir(parents=True, exist_ok=True)
incoming.chmod(0o777)

def calls():
    refused("file", prov4ml.log_artifact, "closed.txt")
    refused("reference", prov4ml.log_artifact, "closed.txt", copy=False)
    refused("model", prov4ml.log_model, "closed.txt", "m")
    refused("folder", prov4ml.log_artifacts, "closed")
    refused("inside", prov4ml.log_artifact, "closed/in.txt")
    refused("dataset", prov4ml.log_dataset, "closed", "d")
    refused("pattern", prov4ml.log_artifact, "n", "closed/*.txt")

run._sender.recorded(60)
calls()  # as root everything can be read; and whatever is imported late is imported now
assert not told
os.seteuid(65534)
calls()
prov4ml.log_artifacts("partly", "as nobody")
os.seteuid(0)
prov4ml.end_run()
print(json.dumps(told))
"""


def test_what_may_not_be_read(isolated: Isolated, evidence: Any) -> None:
    """Of an unprivileged user: errors that say so, and in a folder the rest is kept."""
    if os.getuid():
        pytest.skip("only root can become somebody else")
    for name in ("closed/in.txt", "partly/open.txt", "partly/shut.txt", "partly/below/x.txt"):
        (isolated.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (isolated.folder / name).write_text(name)
    (isolated.folder / "closed.txt").write_text("x")
    for path in (isolated.root, isolated.folder):
        path.chmod(0o755)
    for name in ("closed", "closed.txt", "partly/shut.txt", "partly/below"):
        (isolated.folder / name).chmod(0)
    done = isolated.script(UNPRIVILEGED, PROV4ML_COLLECTOR="none", **PATIENT)
    told = json.loads(done.stdout.splitlines()[-1])
    for name in ("folder", "dataset", "pattern"):
        assert told.pop(name) == "cannot read the folder 'closed': Permission denied"
    for name, text in told.items():
        assert "cannot read" in text, name
    assert set(told) == {"file", "reference", "model", "inside"}
    run = isolated.only_run()
    evidence(run).complete()
    text = (run / "prov.provn").read_text()
    assert "as nobody/partly" not in text
    assert "as nobody/open.txt" in text
    assert "as nobody/shut.txt" not in text
    (line,) = [line for line in text.splitlines() if 'prov:label="as nobody"' in line]
    assert "p4:left_out=1" in line
    assert "left out: artifact_path: cannot read" in done.stderr


KILLED = """
import os, sys, time
import prov4ml

class Folder:
    def save_pretrained(self, folder):
        for n in range(5):
            with open(os.path.join(folder, str(n)), "wb") as file:
                file.write(os.urandom(1 << 20))

prov4ml.start_run("killed")
prov4ml.log_artifact("first", text="1")
open("begun", "w").close()
for n in range(1000):
    prov4ml.log_artifact(f"big {n}", "big.bin")
    prov4ml.save_model_version({"w": bytes(1 << 20)}, "m", step=n)
    prov4ml.save_model_version(Folder(), "folder", step=n)
"""


def test_a_process_killed_while_it_copies(
    isolated: Isolated,
    evidence: Any,
    closed: Callable[..., None],
    figures: Callable[..., None],
    pause: Callable[[float], None],
) -> None:
    """Every occurrence in the documents has its bytes, whole; half a copy is nobody's."""
    with (isolated.folder / "big.bin").open("wb") as file:
        for _ in range(40):
            file.write(os.urandom(1 << 20))
    child = isolated.start(KILLED)
    isolated.wait((isolated.folder / "begun").exists, "it copies")
    pause(1.0)
    child.kill()
    child.communicate(timeout=60)
    closed()
    run = isolated.only_run()
    found = evidence(run)
    found.complete()
    assert found.manifest["status"] in ("died", "killed")
    text = (run / "prov.provn").read_text()
    assert "p4:notStored" not in text
    copies = text.count('prov:label="big ')
    assert copies
    assert text.count("specializationOf(") >= copies
    big = [
        p for p in (run / "artifacts").rglob("*") if p.is_file() and p.stat().st_size >= 40 << 20
    ]
    assert len({p.stat().st_ino for p in big if ".incoming" not in p.parts}) == 1
    assert not (run / "artifacts" / ".incoming").exists(), "half a copy is left"
    figures(copies=copies)


FULL = """
import json, sys
import prov4ml

with prov4ml.start_run("full", provenance_save_dir="small/prov"):
    made = [prov4ml.log_artifact("one", text="1")]
    for n in range(4):
        made.append(prov4ml.log_artifact(f"big {n}", bytes([n]) * (6 << 20)))
        made.append(prov4ml.save_model_version(bytes([n]) * (6 << 20), "m", step=n))
    prov4ml.log_metric("loss", 1.0)
print(json.dumps([m.n for m in made]))
"""


def test_a_full_disk_is_a_gap_in_the_record(
    isolated: Isolated, evidence: Any, small_disk: Callable[..., Any]
) -> None:
    """No call raises; what had no room is named, with the reason, and the rest is there."""
    small_disk(isolated.folder / "small", 32 << 20)
    done = isolated.script(FULL, **PATIENT)
    assert len(json.loads(done.stdout)) == 9
    assert "is not kept: No space left on device" in done.stderr
    (run,) = isolated.runs("small/prov")
    found = evidence(run)
    found.complete()
    text = (run / "prov.provn").read_text()
    missing = text.count('p4:notStored="No space left on device"')
    assert missing >= 3
    assert text.count("p4:sha256=") >= 9 - missing


FORMS = """
import sys
import prov4ml

class Raising:
    def __getattr__(self, name): raise RuntimeError(name)
    def __str__(self): raise RuntimeError("str")
    __repr__ = __str__
    def __len__(self): raise RuntimeError("len")
    def __reduce__(self): raise RuntimeError("reduce")

circle = {}
circle["self"] = circle
wrong = [None, 7, Raising(), circle, "x" * 100_000_000, b"", object(), "\\0", ["a"], lambda: 0]
errors = 0
with prov4ml.start_run("forms", on_error="raise"):
    for thing in wrong:
        for call in (
            lambda: prov4ml.log_artifact("n", thing),
            lambda: prov4ml.log_artifact(thing),
            lambda: prov4ml.log_artifact("n", "train.py", derived_from=thing),
            lambda: prov4ml.log_artifact("n", "train.py", thing),
            lambda: prov4ml.log_artifacts(thing),
            lambda: prov4ml.log_input(thing),
            lambda: prov4ml.log_output(thing),
            lambda: prov4ml.log_dataset(thing, "n"),
            lambda: prov4ml.log_dataset(thing, "n", hash=True),
            lambda: prov4ml.log_dataset([1], thing),
            lambda: prov4ml.log_dataset([1], "n", croissant=thing),
            lambda: prov4ml.log_model(thing, "n"),
            lambda: prov4ml.log_model(b"", thing),
            lambda: prov4ml.save_model_version(b"", "n", step=thing),
            lambda: prov4ml.save_model_version(b"", "n", format=thing),
            lambda: prov4ml.log_source_code(thing),
            lambda: prov4ml.log_execution_command(thing),
            lambda: prov4ml.log_execution_command("a", thing),
            lambda: prov4ml.set_tag("k", thing),
            lambda: prov4ml.set_tag(thing, "v"),
            lambda: prov4ml.log_param("k", thing),
            lambda: prov4ml.log_param(thing, 1),
            lambda: prov4ml.log_metric("m", thing),
            lambda: prov4ml.log_metric(thing, 1.0),
            lambda: prov4ml.log_metric("m", 1.0, thing),
            lambda: prov4ml.log_metric("m", 1.0, None, thing),
            lambda: prov4ml.log_metric("m", 1.0, source=thing, timestamp=thing),
            lambda: prov4ml.log_params(thing),
            lambda: prov4ml.log_metrics(thing),
        ):
            try:
                call()
            except (TypeError, prov4ml.UsageError) as error:
                errors += 1
                assert len(str(error)) < 1000, str(error)[:2000]
    prov4ml.log_metric("loss", 1.0)
print(errors)
"""


def test_wrong_things_in_every_call(isolated: Isolated, evidence: Any) -> None:
    """Whatever is given: a short ``TypeError`` or ``UsageError``, or a record that is whole."""
    done = isolated.script(FORMS, **PATIENT)
    assert int(done.stdout) > 100
    found = evidence(isolated.only_run())
    found.complete()
    assert found.manifest["status"] == "finished"


def test_wrong_things_in_a_disabled_run(isolated: Isolated) -> None:
    """The same errors, and nothing is made."""
    before = sorted(p.name for p in isolated.folder.iterdir())
    done = isolated.script(FORMS, PROV4ML_DISABLED="1")
    assert int(done.stdout) > 90
    assert sorted(p.name for p in isolated.folder.iterdir()) == [*before, "train.py"]


def test_a_long_name_of_bytes(isolated: Isolated, evidence: Any) -> None:
    """A folder of names that are no UTF-8, in a script whose locale knows only ASCII."""
    folder = isolated.folder / "names"
    folder.mkdir()
    for name in (b"caf\xe9", b"\xff\xfe", "é".encode(), b"a" * 255, b"new\nline"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(name)
    script = """
import prov4ml
with prov4ml.start_run("names"):
    prov4ml.log_artifacts("names")
    prov4ml.log_artifacts("names", copy=False)
    prov4ml.log_artifact("names/caf*")
"""
    isolated.script(script, LC_ALL="C", PYTHONUTF8="0", **PATIENT)
    run = isolated.only_run()
    evidence(run).complete()
    text = (run / "prov.provn").read_text()
    assert "p4:notStored" not in text
    assert text.count("p4:sha256=") == 5 + text.count("p4:Environment") + text.count(
        "p4:SourceCode"
    )
