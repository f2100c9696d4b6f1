"""SHA-256 of files at the lowest priority, so that a training beside it is not slowed down.

A large file is hashed by a program of its own: this file, run as a script with the open file as
its standard input.  A thread would not do: it would hold the interpreter's lock while others wait
for it.  Three things make the program step back:

* the policy and the nice value that come last; they count among the programs of one session;
* a session of its own whose whole group comes last, because a kernel that groups by session
  (``sched_autogroup``) compares the groups first, and the training is in another one;
* short pieces and rests: who comes last still runs to the end of its turn (3 ms, many steps of a
  small network) once a core was free for a moment.  As long as it has to wait for a core it rests
  a hundred times as long as it works; on a core that nobody wants it does not rest at all.

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

__all__ = ["Manners", "Pace", "Stopped", "opened", "sha256"]

_LARGE: Final = 32 << 20  # bytes from which on a file is worth a program of its own
_CHUNK: Final = 1 << 20
_PIECE: Final = 256 << 10  # bytes that the program works on without a rest: 0.2 ms or so
_LOOK: Final = 0.05  # s between looks at the program
_REST: Final = 0.001  # s of the first rest
_MOST: Final = 0.1  # s of the longest one
_RESTS: Final = 100  # times as long as it worked, at most


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


def _hash(fd: int, stop: Callable[[], bool], ours: bool, piece: int = _CHUNK) -> tuple[str, int]:
    found = hashlib.sha256()
    buffer = bytearray(piece)
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


# ---------------------------------------------------------------------------- the program


class Manners:
    """How long to rest between two pieces of work, by what the last one had to wait for a core.

    ``look`` gives the ns that this process has run, and waited while it could have run.
    """

    def __init__(self, look: Callable[[], tuple[int, int]]) -> None:
        self._look = look
        self._before = look()
        self.pause = 0.0  # s

    def rest(self) -> float:
        """The seconds to rest now."""
        ran, waited = self._look()
        worked, stood = ran - self._before[0], waited - self._before[1]
        self._before = ran, waited
        if stood > worked / 2:
            self.pause = min(max(2 * self.pause, _REST), _RESTS * worked / 1e9, _MOST)
        else:
            self.pause = self.pause / 2 if self.pause > _REST else 0.0
        return self.pause


def _watched() -> Callable[[], tuple[int, int]]:
    """The kernel's account of this process; one that never waits where it keeps none."""
    try:
        fd = os.open("/proc/self/schedstat", os.O_RDONLY)
    except OSError:
        return lambda: (1, 0)

    def look() -> tuple[int, int]:
        ran, waited, *_ = os.pread(fd, 100, 0).split()
        return int(ran), int(waited)

    return look


def _step_back() -> None:
    """The lowest priority, for this process and for the group that its session is."""
    os.nice(19)
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with open("/proc/self/autogroup", "w") as group:
            group.write("19")
    except OSError:  # no groups by session here
        pass


def main() -> None:
    """Hash standard input; end when whoever started us has."""
    parent, ours = int(sys.argv[1]), sys.argv[2] == "ours"
    _step_back()
    looked = time.monotonic()
    manners = Manners(_watched())

    def alone() -> bool:
        nonlocal looked
        pause = manners.rest()
        if pause:
            time.sleep(pause)
        now = time.monotonic()
        if now - looked < 1.0:
            return False
        looked = now
        return os.getppid() != parent

    digest, size = _hash(0, alone, ours, _PIECE)
    print(digest, size)


if __name__ == "__main__":
    main()
