"""A training step while a large file is hashed on the same node, against the same step alone.

The network and the data are those of ``step_overhead``; torch uses every core of the machine, then
one.  The file (5 GiB of zeros, without blocks on the disk: what is measured is the hashing) is
referred to with ``log_artifact(..., copy=False)``, so that only the collector reads it.

Blocks of steps of a tenth of a second come in fours, on off off on: while the hash goes on, and
while its program is stopped by a signal.  The ratio of a four is its time with over its time
without.  Not counted are fours during which the hash was over, and those whose two blocks without
differ by more than a tenth from the best there was: then the machine was at something else.
Beside it the same with an ordinary program, which does not step back, to see what is at stake.

    python benchmarks/hashing.py [fours] [GiB]
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _common as common
import torch
from step_overhead import interval, training

import prov4ml
from prov4ml import hashing

BUDGET = 1.02
SECONDS = 0.1  # of steps in a block
LONGEST = 60.0  # s for a line of the table
PLAIN = """
import hashlib, sys
buffer = bytearray(1 << 20)
while True:
    digest = hashlib.sha256()
    with open(sys.argv[1], "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
"""


def hasher() -> int:
    """The process id of a hashing program of ours, or 0."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
                if os.fsencode(hashing.__file__) in words:
                    return int(entry)
    return 0


def wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.005)


def ours(path: Path) -> int:
    """Let the collector hash the file; the id of the program that does it."""
    if not hasher():
        prov4ml.log_artifact("file", path, copy=False)
    wait(hasher, "hashing begins")
    return hasher()


@contextlib.contextmanager
def plain(path: Path) -> Iterator[int]:
    """The same by a program like any other."""
    program = subprocess.Popen([sys.executable, "-c", PLAIN, str(path)], start_new_session=True)
    try:
        yield program.pid
    finally:
        program.kill()
        program.wait()


def fours(count: int, begin: Callable[[], int], block: Callable[[], float]) -> list[float]:
    """Ratios of blocks with and without the program whose id ``begin`` gives."""
    found: list[dict[bool, list[float]]] = []
    until = time.monotonic() + LONGEST
    ratios: list[float] = []
    while len(ratios) < count and time.monotonic() < until:
        pid = begin()
        times: dict[bool, list[float]] = {True: [], False: []}
        try:
            for on in (True, False, False, True):
                os.kill(pid, signal.SIGCONT if on else signal.SIGSTOP)
                times[on].append(block())
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue
        found.append(times)
        best = min(took for each in found for took in each[False])
        calm = [each for each in found if max(each[False]) < 1.1 * best]
        ratios = [sum(each[True]) / sum(each[False]) for each in calm]
    return ratios


def main(count: int, size: int) -> int:
    print(common.machine(), f"torch {torch.__version__}", sep=", ")
    cores = len(os.sched_getaffinity(0))
    rows: list[list[object]] = []
    with common.workplace() as folder:
        big = folder / "big.bin"
        with big.open("wb") as file:
            file.truncate(size << 30)
        run = prov4ml.start_run("hashing")
        run._sender.recorded(30.0)
        wait(lambda: run._sender.acked, "the collector is up")
        for threads in dict.fromkeys((cores, 1)):
            torch.set_num_threads(threads)
            steps_of = training(512)
            steps_of(100, False)
            steps = max(10, int(SECONDS / min(steps_of(50, False)[0] / 50 for _ in range(3))))

            def block(steps: int = steps, of: Callable[..., Any] = steps_of) -> float:
                return float(of(steps, False)[0])

            def told(name: str, ratios: list[float], budget: float | None) -> list[object]:
                if not ratios:
                    return [f"{name}: the machine was never calm", *[None] * 6]
                low, high = interval(ratios)
                median = statistics.median(ratios)
                figures = [f"{median:.3f}", f"{low:.3f}", f"{high:.3f}", len(ratios)]
                return [name, *figures, budget, common.verdict(median, budget)]

            ratios = fours(count, lambda: ours(big), block)
            rows.append(told(f"{threads} threads, ours: it steps back", ratios, BUDGET))
            with plain(big) as pid:
                ratios = fours(count, lambda pid=pid: pid, block)  # type: ignore[misc]
                rows.append(told(f"{threads} threads, a plain program", ratios, None))
        with contextlib.suppress(ProcessLookupError):
            os.kill(hasher() or os.getpid(), signal.SIGCONT)
        os.truncate(big, 0)  # the end, for whoever reads it
        prov4ml.end_run()
    common.table(("hashed beside", "with/without", "from", "to", "fours", "budget", ""), rows)
    return 0


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*words, *(60, 5)[len(words) :]))
