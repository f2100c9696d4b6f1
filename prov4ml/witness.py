"""Who saw a process end, and what they saw.

A *witness* watches one process of this host.  With a new kernel its pidfd tells the exit code
or the signal even of a process that is not our child (PIDFD_GET_INFO with PIDFD_INFO_EXIT,
Linux 6.15); with an older one it tells only that the process is gone.  The memory controller's
counter of OOM kills is looked at before and after.  Nothing is claimed that was not seen.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import process

__all__ = ["VANISHED", "Sight", "Witness", "of_return_code", "of_wait_status", "pidfd_tells"]

_GET_INFO: Final = 3 << 30 | 64 << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, 64 bytes)
_INFO_EXIT: Final = 1 << 3
_EXIT_CODE_AT: Final = 60
_V1: Final = "memory.oom_control"
_REAPED: Final = 3.0  # s that the parent of a dead process is given to reap it


class Sight(msgspec.Struct, frozen=True):
    """How a process ended: ``status`` and ``known`` as ``events.RankEnded`` has them."""

    status: str
    known: str
    exit_code: int | None = None
    signal: int | None = None


VANISHED: Final = Sight("died", "none")


def of_wait_status(raw: int, known: str) -> Sight:
    """From a status as ``waitpid`` gives it."""
    if os.WIFSIGNALED(raw):
        return Sight("killed", known, None, os.WTERMSIG(raw))
    code = os.WEXITSTATUS(raw)
    return Sight("finished" if code == 0 else "failed", known, code)


def of_return_code(code: int, known: str) -> Sight:
    """From a return code as ``subprocess`` gives it (negative: a signal)."""
    if code < 0:
        return Sight("killed", known, None, -code)
    return Sight("finished" if code == 0 else "failed", known, code)


class Witness:
    """Watches a process from the moment it said hello."""

    def __init__(self, pid: int, start: int, boot: str) -> None:
        self.pid = pid
        self._start = start
        self._boot = boot
        self._fd = -1
        self._oom_file = _oom_file(pid)
        self._ooms = _oom_kills(self._oom_file)
        if hasattr(os, "pidfd_open"):
            try:
                self._fd = os.pidfd_open(pid)
            except OSError:
                pass
        if self._fd >= 0 and not process.alive(pid, start, boot):
            self.close()  # the number belongs to another process by now

    def alive(self) -> bool:
        if self._fd >= 0:
            return not select.select([self._fd], [], [], 0)[0]
        return process.alive(self.pid, self._start, self._boot)

    def tell(self) -> Sight:
        """After the end: what was seen of it so far; ``settled`` says whether more may come."""
        if self._fd >= 0 and pidfd_tells():
            raw = _exit_info(self._fd)
            if raw is None:
                raw = _zombie_status(self.pid, self._start)
            if raw is not None:
                return of_wait_status(raw, "pidfd")
        after = _oom_kills(self._oom_file)
        if self._ooms is not None and after is not None and after > self._ooms:
            return Sight("killed", "inferred", None, 9)
        return VANISHED

    def settled(self, since: float) -> bool:
        """Whether ``tell`` has its last word ``since`` seconds after the end.

        The kernel tells once the parent has reaped the process, which may take a moment.
        """
        return not pidfd_tells() or self._fd < 0 or since > _REAPED or self.tell() != VANISHED

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _zombie_status(pid: int, start: int) -> int | None:
    """The wait status of a process that ended and is not reaped yet (field 52 of its stat)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] != b"Z" or int(fields[19]) != start or len(fields) < 50:
        return None
    return int(fields[49])


def _exit_info(fd: int) -> int | None:
    """The wait status of an ended process, if the kernel tells it."""
    info = bytearray(64)
    struct.pack_into("<Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(fd, _GET_INFO, info)
    except OSError:
        return None
    if not struct.unpack_from("<Q", info)[0] & _INFO_EXIT:
        return None
    raw: int = struct.unpack_from("<i", info, _EXIT_CODE_AT)[0]
    return raw


@cache
def pidfd_tells() -> bool:
    """Whether this kernel's pidfds tell how a process ended; tried once on a real one."""
    if os.environ.get("PROV4ML_NO_PIDFD") or not hasattr(os, "pidfd_open"):
        return False
    try:
        child = subprocess.Popen(
            ["/bin/sh", "-c", "read line; exit 3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        fd = os.pidfd_open(child.pid)
    except OSError:
        return False
    try:
        child.communicate(b"\n", timeout=5.0)
        raw = _exit_info(fd)
        return raw is not None and os.WIFEXITED(raw) and os.WEXITSTATUS(raw) == 3
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return False
    finally:
        os.close(fd)


def _oom_file(pid: int) -> Path | None:
    """The file of the process's cgroup that counts OOM kills, of version 2 or 1 of the memory
    controller (cgroups(7)): ``memory.events`` or ``memory.oom_control``.
    """
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    paths: dict[str, str] = {}
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    for kind, name, file in (("cgroup2", "", "memory.events"), ("cgroup", "memory", _V1)):
        for line in mounts:
            before, _, behind = line.partition(" - ")
            root, point = before.split()[3:5]
            words = behind.split()
            if name not in paths or words[0] != kind:
                continue
            if name and name not in words[-1].split(","):
                continue
            found = Path(point) / os.path.relpath(paths[name], root) / file
            if found.exists():
                return found
    return None


def _oom_kills(file: Path | None) -> int | None:
    if file is None:
        return None
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return None
