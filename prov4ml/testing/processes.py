"""Real things to break in tests: small disks, and a collector that was launched beside a job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

__all__ = ["Disk", "Launched", "anonymous"]


class Disk:
    """A file system of its own at ``path``, of ``size`` bytes.

    Raises ``PermissionError`` where this process may not mount one.
    """

    def __init__(self, path: Path, size: int) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"size={size},mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise PermissionError(str(error)) from None
        if done.returncode:
            raise PermissionError(done.stderr.strip())
        self.path = path

    def resize(self, size: int) -> None:
        """Make it hold ``size`` bytes."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def fill(self) -> None:
        """Take all that is free."""
        with open(self.path / ".filler", "ab", buffering=0) as file:
            for size in (1 << 16, 4096):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    pass

    def empty(self) -> None:
        """Give back what ``fill`` took."""
        (self.path / ".filler").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it, whoever still has files open there."""
        subprocess.run(["umount", "-l", str(self.path)], check=True)


class Launched:
    """A collector that somebody launched; ``before`` is what its command stands behind.

    ``log`` is the file with what it says.
    """

    def __init__(
        self, root: Path, environment: Mapping[str, str], address: str, *before: str
    ) -> None:
        self.log = root / "collector.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "prov4ml", "collector", "--bind", address],
                cwd=root,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60.0
        while "PROV4ML_COLLECTOR=" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, "the collector does not listen"
            time.sleep(0.02)
        self.address = self.said().rsplit("PROV4ML_COLLECTOR=", 1)[1].split()[0]
        self._seen = psutil.Process(self.process.pid)

    def said(self) -> str:
        """All it has said."""
        return self.log.read_text(errors="replace")

    def figures(self) -> tuple[int, int, int]:
        """(anonymous memory in bytes, open files, threads)."""
        seen = self._seen
        return anonymous(self.process.pid), seen.num_fds(), seen.num_threads()

    def stop(self) -> int:
        """End it by SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(60.0)

    def close(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30.0)


def anonymous(pid: int | None = None) -> int:
    """Anonymous resident memory of a process (default: our own), in bytes (RssAnon, proc(5))."""
    for line in Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie has none
