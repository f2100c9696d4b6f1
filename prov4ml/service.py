"""The automatic collector of this node: its name, its lock, and how it is started.

One collector serves all processes and runs of one (user, boot, scheduler job or none,
``sys.prefix``, prov4ml version, event format).  The hash of that names a lock and a socket in
``$XDG_RUNTIME_DIR`` or a 0700 folder below the system temp folder.  The collector holds the
lock from before it starts to its end: who finds it free takes it, starts a collector and leaves
it to that one (an flock belongs to the open file, which a child inherits).  So however many
processes find nobody serving, one collector starts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from prov4ml import process
from prov4ml.events import EVENT_FORMAT
from prov4ml.version import VERSION

__all__ = ["Service", "close_inherited", "find", "inherit", "served", "spawn", "take"]

_LOCK_FD: Final = "PROV4ML_LOCK_FD"
_HANDED: Final = 9  # the number under which a collector gets its lock; a shell's own are beyond


class Service(msgspec.Struct, frozen=True):
    """Where the automatic collector of this process's kind listens."""

    socket: Path
    lock: Path
    log: Path

    @property
    def address(self) -> str:
        return f"ipc://{self.socket}"


def find(environment: Mapping[str, str]) -> Service:
    """The names, and their folder made.  Raises ``OSError`` when it cannot be."""
    job = environment.get("PROV4ML_JOB") or environment.get("SLURM_JOB_ID") or ""
    parts = (str(os.getuid()), process.boot_id(), job, sys.prefix, VERSION, str(EVENT_FORMAT))
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK) and len(runtime) < 60:
        folder = Path(runtime) / "prov4ml"
    else:
        folder = Path(tempfile.gettempdir()) / f"prov4ml-{os.getuid()}"
    if len(str(folder)) > 80:  # an ipc path ends at 107 bytes
        folder = Path("/tmp") / f"prov4ml-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return Service(folder / f"{name}.sock", folder / f"{name}.lock", folder / f"{name}.log")


def served(service: Service) -> bool:
    """Whether a collector serves now, or is about to."""
    try:
        fd = take(service)
    except OSError:
        return False
    if fd is None:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)  # a child that is forked just now has the file, too
    os.close(fd)
    return False


def take(service: Service) -> int | None:
    """Take the lock: a file descriptor that holds it until it is closed; None when it is taken."""
    fd = os.open(service.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def inherit(service: Service) -> int | None:
    """In the collector: the lock that ``spawn`` left to it, or else ``take`` it."""
    try:
        fd = int(os.environ.pop(_LOCK_FD, ""))
        if not os.path.samestat(os.fstat(fd), os.stat(service.lock)):
            return take(service)
    except (ValueError, OSError):
        return take(service)
    os.set_inheritable(fd, False)
    return fd


def spawn(service: Service) -> bool:
    """Start the collector as a plain program in its own session; nobody waits for it.

    A shell starts it and ends at once, so that it is no child of the training process: a
    program that waits for all of its children must not wait for this one.  False: another one
    serves, or is about to.  No fork may happen meanwhile: the child would hold the lock as well.
    """
    held = take(service)
    if held is None:
        return False
    try:
        if os.path.exists(service.log) and service.log.stat().st_size > 1 << 20:
            service.log.unlink(missing_ok=True)
        command = ["/bin/sh", "-c", '"$@" </dev/null &', "sh"]
        command += [sys.executable, "-P", "-m", "prov4ml", "collector", "--automatic"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Not by subprocess: it waits on a pipe that a child forked meanwhile would keep open.
        shell = os.posix_spawn(
            "/bin/sh",
            command,
            {**_environment(), _LOCK_FD: str(_HANDED)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, held, _HANDED),
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(service.log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        try:
            os.waitpid(shell, 0)
        except ChildProcessError:
            pass  # somebody waits for all children
    finally:
        os.close(held)
    return True


def close_inherited(kept: int | None) -> None:
    """In the collector: the training's files and sockets are none of ours, but for the lock."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # that of the listing itself


def _environment() -> dict[str, str]:
    """Ours, without what makes a Python program of another kind; prov4ml stays importable."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONPROFILEIMPORTTIME")
        and not name.startswith(("COVERAGE_", "PYTEST_"))
    }
    home = str(Path(__file__).resolve().parent.parent)
    paths = [path for path in inherited.get("PYTHONPATH", "").split(os.pathsep) if path]
    if home not in sys.path or not home.endswith("site-packages"):
        inherited["PYTHONPATH"] = os.pathsep.join([*paths, home])
    return inherited
