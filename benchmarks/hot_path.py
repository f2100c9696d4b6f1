"""``log_metric``: mean, p50, p99, p99.9 and maximum of a call, in empty Python calls.

Two ways to call it (method of the run, function of the module), with context and step and
without; on the journal alone, with the sender thread and a collector at work, and from two
threads at once.  Blocks of calls alternate with blocks of empty calls of the same signature,
made from the same source text; the mean is the median over blocks of the ratio.  Percentiles
come from a pass that times each call by itself, less what taking the time takes.

Nothing is subtracted for the loop; the maximum holds whatever the machine did meanwhile
(page faults, other processes), so it is printed and not judged.

    python benchmarks/hot_path.py [blocks]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import _common as common
import msgspec

CALLS = 20_000  # in a block
BUDGETS = {"mean": 10.0, "p99": 50.0, "p99.9": 200.0}
FORMS = {
    "context, step": '"loss", value, "training", step',
    "keywords": '"loss", value, context="training", step=step',
    "bare": '"loss", value',
}

LOOP = """
def loop(target, calls, clock):
    value = 0.5
    begin = clock()
    for step in range(calls):
        target.log_metric({arguments})
    return clock() - begin
"""
EACH = """
def each(target, calls, clock):
    value = 0.5
    taken = []
    keep = taken.append
    for step in range(calls):
        begin = clock()
        target.log_metric({arguments})
        keep(clock() - begin)
    return taken
"""


def compiled(source: str, name: str, arguments: str) -> Callable[..., Any]:
    """A code object of its own for each target: the interpreter specialises the call in it."""
    space: dict[str, Any] = {}
    exec(source.format(arguments=arguments), space)
    made: Callable[..., Any] = space[name]
    return made


def empties() -> tuple[Any, Any]:
    """An object and a module with the empty call where ``Run`` and ``prov4ml`` have theirs."""
    instance: Any = types.SimpleNamespace()

    class Holder:
        def __init__(self) -> None:
            self.log_metric = common.empty

    instance = Holder()
    module: Any = types.ModuleType("empty")
    module.log_metric = common.empty
    return instance, module


def compare(target: Any, unit: Any, arguments: str, blocks: int) -> dict[str, float]:
    """Mean and percentiles of calls on ``target`` in empty calls on ``unit``."""
    measured = compiled(LOOP, "loop", arguments)
    plain = compiled(LOOP, "loop", arguments)
    for _ in range(3):
        measured(target, 2_000, perf_counter_ns)
        plain(unit, 2_000, perf_counter_ns)
    ratios, units = [], []
    for _ in range(blocks):
        before = plain(unit, CALLS, perf_counter_ns)
        taken = measured(target, CALLS, perf_counter_ns)
        after = plain(unit, CALLS, perf_counter_ns)
        ratios.append(2 * taken / (before + after))
        units.append((before + after) / 2 / CALLS)
    unit_ns = statistics.median(units)
    each = compiled(EACH, "each", arguments)
    idle = compiled(EACH.replace("target.log_metric({arguments})", "pass"), "each", "")
    cost = statistics.median(idle(unit, CALLS, perf_counter_ns))
    times: list[int] = []
    for _ in range(blocks // 2 or 1):
        times += each(target, CALLS, perf_counter_ns)
    times.sort()

    def at(share: float) -> float:
        return max(0.0, times[min(len(times) - 1, int(share * len(times)))] - cost) / unit_ns

    mean = statistics.median(ratios)
    return {
        "ns": mean * unit_ns,
        "empty": unit_ns,
        "mean": mean,
        "p50": at(0.5),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "max": at(1.0),
    }


def together(target: Any, unit: Any, arguments: str, blocks: int) -> dict[str, float]:
    """The same while another thread logs as fast as it can; the unit has no such company."""
    over = threading.Event()
    loop = compiled(LOOP, "loop", arguments)

    def other() -> None:
        while not over.is_set():
            loop(target, 1_000, perf_counter_ns)

    each = compiled(EACH, "each", arguments)
    plain = compiled(LOOP, "loop", arguments)
    plain(unit, CALLS, perf_counter_ns)
    unit_ns = statistics.median(plain(unit, CALLS, perf_counter_ns) / CALLS for _ in range(9))
    idle = compiled(EACH.replace("target.log_metric({arguments})", "pass"), "each", "")
    cost = statistics.median(idle(unit, CALLS, perf_counter_ns))
    thread = threading.Thread(target=other)
    thread.start()
    times: list[int] = []
    for _ in range(blocks // 2 or 1):
        times += each(target, CALLS, perf_counter_ns)
    over.set()
    thread.join()
    times.sort()

    def at(share: float) -> float:
        return max(0.0, times[min(len(times) - 1, int(share * len(times)))] - cost) / unit_ns

    return {
        "ns": float("nan"),
        "empty": unit_ns,
        "mean": float("nan"),
        "p50": at(0.5),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "max": at(1.0),
    }


def measure(collector: bool, blocks: int) -> list[tuple[str, dict[str, float]]]:
    """In a process of its own: (what, numbers)."""
    import prov4ml

    instance, module = empties()
    run = prov4ml.start_run("hot")
    run._sender.recorded(20.0)
    if collector:  # at work, not just starting
        while not run._sender.acked and run._sender.refused is None:
            run.log_metric("warm", 1.0)
            run._sender._rest(0.01)
    found = []
    for form, arguments in FORMS.items():
        if collector and form != "context, step":
            continue
        found.append((f"run.log_metric, {form}", compare(run, instance, arguments, blocks)))
        found.append((f"prov4ml.log_metric, {form}", compare(prov4ml, module, arguments, blocks)))
    two = together(run, instance, FORMS["context, step"], blocks)
    found.append(("run.log_metric, two threads", two))
    # Millions of points without a step are of no interest to anybody: leave no journal behind.
    run._sender.part()
    run._sender.join(5.0)
    run._journal.close(remove=True)
    return found


def main(blocks: int) -> int:
    print(common.machine())
    rows: list[list[Any]] = []
    for title, address in (("journal alone", "none"), ("with sender and collector", "auto")):
        with common.workplace():
            done = subprocess.run(
                [sys.executable, __file__, "measure", address, str(blocks)],
                stdout=subprocess.PIPE,
                env={**os.environ, "PROV4ML_COLLECTOR": address},
                check=True,
            )
        found = msgspec.json.decode(done.stdout, type=list[tuple[str, dict[str, float | None]]])
        for what, numbers in found:
            judged = [
                name
                for name, budget in BUDGETS.items()
                if numbers[name] is not None and numbers[name] > budget  # type: ignore[operator]
            ]
            rows.append(
                [
                    f"{title}: {what}",
                    *(numbers[k] for k in ("ns", "mean", "p50", "p99", "p99.9", "max", "empty")),
                    "over: " + ", ".join(judged) if judged else "within",
                ]
            )
    heads = ("call", "ns", "mean", "p50", "p99", "p99.9", "max", "empty ns", "budget")
    common.table(heads, rows)
    print("mean to max in empty calls; budget: mean 10, p99 50, p99.9 200")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    if sys.argv[1:2] == ["measure"]:
        results = measure(sys.argv[2] == "auto", int(sys.argv[3]))
        sys.stdout.buffer.write(msgspec.json.encode(results))
        sys.stdout.flush()
        os._exit(0)  # not through the end of a run
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 40))
