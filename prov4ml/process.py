"""Facts about processes and this machine, from /proc; what a fork changes is not remembered."""

from __future__ import annotations

import getpass
import os
import socket
from functools import cache
from pathlib import Path

__all__ = ["alive", "boot_id", "holder", "hostname", "pid_start", "user"]


@cache
def boot_id() -> str:
    """UUID of this boot of this machine; all zeros where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "00000000-0000-0000-0000-000000000000"


def pid_start(pid: int) -> int:
    """Start time of a process in clock ticks after boot; 0 when there is no such process.

    Field 22 of /proc/<pid>/stat; the command name before it may hold spaces and brackets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = stat[stat.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(pid: int, start: int, boot: str) -> bool:
    """Whether that very process of this machine still runs (a zombie does not)."""
    return boot == boot_id() and start != 0 and pid_start(pid) == start


def holder(path: Path) -> int | None:
    """Pid of the process that holds a flock on a file; None where nobody says (proc_locks(5))."""
    try:
        inode = str(path.stat().st_ino)
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for fields in map(str.split, locks):
        if fields[1] != "FLOCK" or fields[5].rpartition(":")[2] != inode:
            continue
        opened = f"/proc/{fields[4]}/fd"
        try:  # the inode may be another file system's
            if any(os.path.samefile(f"{opened}/{fd}", path) for fd in os.listdir(opened)):
                return int(fields[4])
        except OSError:
            continue
    return None


def hostname() -> str:
    return socket.gethostname()


def user() -> str:
    """The login name, or the uid where there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
