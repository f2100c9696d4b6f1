"""SHA-256 of files at the lowest priority, so that a training beside it is not slowed down.

A large file is hashed by a program of its own: this file, run as a script with the open file as
its standard input.  A thread would not do.  A nice value counts within a session only (where the
kernel groups by session, ``sched_autogroup``), and the training is in another one; so the program
has a session of its own whose whole group steps back.  And a thread that steps back would hold
the interpreter's lock while others wait for it.

Who steps back may starve on a busy node.  Once nobody trains any more it is in a hurry: the
program is let go, and the file is hashed here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

__all__ = ["Pace", "Stopped", "opened", "sha256"]

_LARGE: Final = 32 << 20  # bytes from which on a file is worth a program of its own
_CHUNK: Final = 1 << 20
_LOOK: Final = 0.05  # s between looks at the program


class Stopped(Exception):
    """Nobody waits for the hash any more."""


class Pace:
    """How it goes on, as another thread says: ``stop``, or ``hurry``."""

    def __init__(self) -> None:
        self.stop = False
        self.hurry = False


def opened(path: Path, *, follow: bool = True) -> BinaryIO:
    """A regular file (without ``follow`` no link to one), open for reading; never waits.

    Raises ``OSError``.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    flags |= 0 if follow else os.O_NOFOLLOW
    file = open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags))
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("is no file")
    return file


def sha256(file: BinaryIO, pace: Pace, *, ours: bool = False) -> tuple[str, int]:
    """(sha256 in hex, size in bytes) of an open file.

    ``ours``: a copy that nobody else reads soon; it is not left in the memory of the kernel.
    Raises ``OSError``, and ``Stopped`` when ``pace`` says so.
    """
    if os.fstat(file.fileno()).st_size >= _LARGE and not pace.hurry:
        try:
            return _apart(file, pace, ours)
        except _NoProgram:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
    return _hash(file.fileno(), lambda: pace.stop, ours)


class _NoProgram(Exception):
    """The program cannot be run, ended without a word, or is too slow for a hurry."""


def _apart(file: BinaryIO, pace: Pace, ours: bool) -> tuple[str, int]:
    try:
        program = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), "ours" if ours else ""],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise _NoProgram from error
    try:
        while program.poll() is None:
            if pace.stop:
                raise Stopped
            if pace.hurry:
                raise _NoProgram
            try:
                program.wait(_LOOK)
            except subprocess.TimeoutExpired:
                continue
        assert program.stdout is not None
        words = program.stdout.read().split()
        if program.returncode or len(words) != 2:
            raise _NoProgram
        return words[0].decode(), int(words[1])
    finally:
        program.kill()
        program.wait()
        if program.stdout is not None:
            program.stdout.close()


def _hash(fd: int, stop: Callable[[], bool], ours: bool) -> tuple[str, int]:
    found = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    size = 0
    while count := os.readv(fd, [buffer]):
        found.update(view[:count])
        if ours:
            os.posix_fadvise(fd, size, count, os.POSIX_FADV_DONTNEED)
        size += count
        if stop():
            raise Stopped
    return found.hexdigest(), size


def _step_back() -> None:
    """The lowest priority, for this process and for the group that its session is."""
    try:
        os.nice(19)
        with open("/proc/self/autogroup", "w") as group:
            group.write("19")
    except OSError:  # no groups by session here
        pass


def main() -> None:
    """Hash standard input; end when whoever started us has."""
    parent, ours = int(sys.argv[1]), sys.argv[2] == "ours"
    _step_back()
    looked = time.monotonic()

    def alone() -> bool:
        nonlocal looked
        now = time.monotonic()
        if now - looked < 1.0:
            return False
        looked = now
        return os.getppid() != parent

    digest, size = _hash(0, alone, ours)
    print(digest, size)


if __name__ == "__main__":
    main()
