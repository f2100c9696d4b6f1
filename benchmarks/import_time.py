"""``import prov4ml`` against ``import msgspec``, and ``start_run`` against starting ``true``.

Each import happens in a Python process of its own, kinds taking turns; the interpreter's own
start is not in it.  ``import prov4ml`` alone imports next to nothing, so the budget is held
against the import with the first look at a call, which brings everything that ``start_run``
needs.  What a training process must not have in ``sys.modules`` is looked for there, and again
with a run open and its sender at work, where zmq alone is allowed.

``start_run`` is timed in fresh processes too, the first of a process and a second one, with a
collector that serves already; the unit is ``Popen(["true"])``, timed in the same process.

    python benchmarks/import_time.py [processes]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

import _common as common
import msgspec

IMPORT_BUDGET = 1.3  # of import msgspec
START_BUDGET = 30.0  # of Popen("true")
HEAVY = ("codecarbon", "numpy", "pandas", "prov", "psutil", "pyarrow", "rdflib", "torch", "zmq")

KINDS = {
    "import msgspec": "import msgspec",
    "import prov4ml": "import prov4ml",
    "import prov4ml, first call": "import prov4ml; prov4ml.start_run",
}

TIMED = """
import sys, time
begin = time.perf_counter_ns()
{statement}
taken = time.perf_counter_ns() - begin
heavy = [name for name in {heavy} if name in sys.modules]
print(taken, ",".join(heavy))
"""

START = """
import json, os, subprocess, sys, time
from time import perf_counter_ns as now
import prov4ml
prov4ml.start_run
starts, units = [], []
for n in range(2):
    begin = now(); run = prov4ml.start_run("start"); starts.append(now() - begin)
    run._sender.recorded(30.0)
    while not run._sender.acked: time.sleep(0.01)
    heavy = [name for name in {heavy} if name in sys.modules]
    prov4ml.end_run()
for n in range(15):
    begin = now(); child = subprocess.Popen(["true"]); units.append(now() - begin); child.wait()
print(json.dumps([starts, sorted(units)[7], heavy]))
"""


def python(source: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    return done.stdout


def imports(processes: int) -> None:
    taken: dict[str, list[int]] = {kind: [] for kind in KINDS}
    found: dict[str, str] = {}
    for _ in range(processes):
        for kind, statement in KINDS.items():
            text = python(TIMED.format(statement=statement, heavy=HEAVY))
            time, _, heavy = text.strip().partition(" ")
            taken[kind].append(int(time))
            found[kind] = heavy
    base = taken["import msgspec"]
    rows: list[list[Any]] = []
    for kind, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(times, base, strict=True))
        budget = IMPORT_BUDGET if kind != "import msgspec" else None
        rows.append(
            [
                kind,
                statistics.median(times) / 1e6,
                min(times) / 1e6,
                ratio,
                budget,
                common.verdict(ratio, budget),
                found[kind] or "none",
            ]
        )
    heads = ("what", "median ms", "least ms", "/msgspec", "budget", "", "heavy modules")
    common.table(heads, rows)


def starts(processes: int) -> None:
    first, second, units, heavy = [], [], [], set()
    with common.workplace():
        python(START.format(heavy=HEAVY))  # leaves a collector that serves for a while
        for _ in range(processes):
            (one, two), unit, seen = msgspec.json.decode(python(START.format(heavy=HEAVY)))
            first.append(one)
            second.append(two)
            units.append(unit)
            heavy |= set(seen)
    rows: list[list[Any]] = [["Popen('true')", statistics.median(units) / 1e6, 1.0, None, "", ""]]
    for what, times in (("start_run, first", first), ("start_run, second", second)):
        ratio = statistics.median(a / b for a, b in zip(times, units, strict=True))
        seen = ", ".join(sorted(heavy)) or "none"
        rows.append(
            [
                what,
                statistics.median(times) / 1e6,
                ratio,
                START_BUDGET,
                common.verdict(ratio, START_BUDGET),
                seen,
            ]
        )
    common.table(("what", "median ms", "/Popen", "budget", "", "heavy modules"), rows)


def main(processes: int) -> int:
    print(common.machine())
    imports(processes)
    starts(max(3, processes // 4))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 21))
