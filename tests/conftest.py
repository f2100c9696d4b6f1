"""A place of its own for each test that starts real processes.

``isolated`` has an own working folder, spool and runtime folder, so that no two tests share an
automatic collector, and takes down whatever a test left running there.  Its paths are short: an
ipc path ends at 107 bytes.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

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
        self, *command: str, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program here; ``code`` is how it must end (None: any way)."""
        with self.spawn(*command, **environment) as child:
            try:
                out, err = child.communicate(timeout=_PATIENCE)
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

    def start(self, text: str, **environment: str) -> subprocess.Popen[str]:
        """``script``, not waited for."""
        path = self.write(text)
        return self.spawn(sys.executable, "-W", "error", path.name, **environment)

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
