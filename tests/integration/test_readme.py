"""What the README shows is what happens: its code is run as it stands there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Isolated
    from tests.integration.conftest import Demo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def table(heading: str) -> list[str]:
    """The first cells of the table below a heading."""
    text = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs_as_it_stands(code: str, isolated: Isolated) -> None:
    """A Python block runs without a warning and leaves what the README says it leaves."""
    done = isolated.script(code)
    assert re.search(r"finished; [\d,]+ events sent, [\d,]+ received, 0 lost", done.stderr)
    run = isolated.only_run()
    assert run.name == "line_0"
    known = {name for cell in table("What a run leaves") for name in re.findall(r"`([^`]+)`", cell)}
    tops = {name.partition("/")[0] for name in known}
    left = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert left <= tops
    assert tops - left <= {"undelivered", "artifacts"}
    manifest = isolated.manifest()
    assert manifest["accounting"]["points"] == 4000


def test_the_three_ways_leave_the_same(isolated: Isolated) -> None:
    """The lines below "Three ways to have a collector" give runs with the same account."""
    isolated.write(blocks("python")[0])
    isolated.run(sys.executable, "train.py")
    isolated.prov4ml("run", "--", sys.executable, "train.py")
    isolated.run(sys.executable, "train.py", PROV4ML_COLLECTOR="none")
    again = isolated.prov4ml("collect", str(isolated.runs()[2]))
    accounts = [isolated.manifest(run)["accounting"] for run in isolated.runs()]
    assert len(accounts) == 3
    assert accounts[0] == accounts[1] == accounts[2]
    assert "0 lost" in again.stdout
    listed = isolated.prov4ml("runs").stdout
    assert all(f"line_{n}" in listed for n in range(3))


def test_the_demo_answers_the_question(demo: Demo, tmp_path: Path) -> None:
    """The lines that put the demo's Turtle into a store and ask it, against a real server."""
    (block,) = [each for each in blocks("sh") if "oxigraph serve" in each]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    block = block.replace("127.0.0.1:7878", f"127.0.0.1:{port}")
    block = block.replace("/tmp/store", str(tmp_path / "store"))
    block = block.replace("@examples/", f"@{ROOT}/examples/")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    answer = tmp_path / "answer.csv"
    with open(answer, "w") as out:
        shell = subprocess.Popen(
            ["bash", "-ec", block],
            cwd=demo.place.folder,
            env=environment,
            stdout=out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        assert shell.wait(60.0) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):  # the server goes on behind the shell
            os.killpg(shell.pid, signal.SIGKILL)
    lines = answer.read_text().splitlines()
    assert lines[0] == "model,data,parameter,value"
    assert any("digits_mlp" in line and ",lr,0.001" in line for line in lines)
