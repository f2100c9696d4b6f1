"""What the benchmarks share: the machine's line, tables with verdicts, the empty call, a place.

Times are given in *empty calls*: calls of an empty Python function of ``log_metric``'s signature,
made the same way, in the same loop, in the same run, alternating with what is measured.  So a
ratio means the same on a slow, a fast and a busy machine.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def machine() -> str:
    """One line: processor, cores, memory, kernel, Python, load."""
    facts = dict(
        line.split(":", 1)
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.count(":") == 1
    )
    model = {key.strip(): value.strip() for key, value in facts.items()}.get("model name", "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )


def empty(
    key: str,
    value: Any,
    context: Any = None,
    step: int | None = None,
    source: str | None = None,
    timestamp: Any = None,
) -> None:
    """The unit of most tables."""


def verdict(value: float, budget: float | None) -> str:
    return "" if budget is None else ("within" if value <= budget else "over")


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns: the first to the left, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for line in [list(heads), *cells]:
        first, *rest = (text for text in line)
        rest = [f"{text:>{width}}" for text, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([f"{first:<{widths[0]}}", *rest]).rstrip())
    print(flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def empty_call(rounds: int = 9, calls: int = 100_000) -> float:
    """Seconds that an empty call takes now, its loop included; the median of some rounds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for step in range(calls):
            empty("loss", 0.5, "training", step)
        times.append((time.perf_counter() - begin) / calls)
    return statistics.median(times)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with a spool, sockets and settings of its own; gone afterwards.

    The spool is where it would be by default: memory first, then the temp folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="p4bench-", dir="/tmp"))
    inside = {"XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}
    unset = ("PROV4ML_COLLECTOR", "PROV4ML_SPOOL", "PROV4ML_CONFIG", "PROV4ML_JOB", "RANK")
    before = {name: os.environ.get(name) for name in (*inside, *unset)}
    here = Path.cwd()
    for name in unset:
        os.environ.pop(name, None)
    os.environ.update(inside)
    tempfile.tempdir = None
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(here)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None
        shutil.rmtree(folder, ignore_errors=True)
