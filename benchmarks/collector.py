"""The collector's throughput: one core, points per second and empty Python calls per point.

First in one process, part by part, on batches encoded beforehand (points of eight series from
one producer, batches as big as the sender makes them when there is much to send, and as small
as it makes them when little comes): append to the event log, sync in groups, decode, fold into
the state; then decode and the Parquet sink's write.  Then a real ``prov4ml collector`` behind an
ipc socket, fed by a client that sends the same bytes as fast as they are acked; what is told is
the processor time of its process, less that of one which gets no points, so that a busy machine
changes nothing, and the points acked per second of the clock.  Documents, with and without the
Parquet sink, are written at the end, in the same processor time.

    python benchmarks/collector.py [points]
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common as common

from prov4ml import events as ev
from prov4ml import process, replay, state, wire
from prov4ml.eventlog import EventLog, Frame
from prov4ml.feed import Chunks
from prov4ml.rundir import uuid7
from prov4ml.sink import Target, load
from prov4ml.transport import Client
from prov4ml.version import VERSION

POINTS = 1_000_000
BIG = 1 << 20  # bytes in a batch at most, as the wire has it
SMALL = 64  # points in a batch
GROUP = 8  # batches between two syncs
BUDGET = 15.0
SERIES = [("loss", ("training",)), ("accuracy", ("training",)), ("lr", ()), ("norm", ())]
SERIES += [(name, ("validation",)) for name in ("loss", "accuracy", "top5", "recall")]

Batch = tuple[int, int, bytes]  # first sequence, count, bytes


def started(run: str, directory: Path, sinks: tuple[str, ...]) -> ev.Started:
    pid = os.getpid()
    return ev.Started(
        time.time_ns(),
        run,
        "load",
        "load_0",
        str(directory),
        "https://lab.example/provenance/",
        1,
        0,
        0,
        1,
        pid,
        process.pid_start(pid),
        process.boot_id(),
        process.hostname(),
        "somebody",
        "none",
        VERSION,
        "3.11",
        {"sinks": sinks, "options": {}, "keep_events": True, "key": None},
    )


def batches(head: ev.Started, points: int, most: int) -> list[Batch]:
    """A run's stream: its start, its series, ``points`` points as the hot path packs them, its end.

    ``most``: points in a batch.
    """
    definitions = [ev.SeriesDefined(n, name, path) for n, (name, path) in enumerate(SERIES)]
    first = [wire.encode(event) for event in (head, *definitions)]
    found = [(0, len(first), wire.array_header(len(first)) + b"".join(first))]
    sequence = len(first)
    chance = random.Random(0)
    now = time.time_ns()
    pack = __import__("prov4ml.hot", fromlist=["_STEP"])._STEP.pack
    prefixes = [b"\x95\x03\xce" + n.to_bytes(4, "big") + b"\xd3" for n in range(len(SERIES))]
    for begin in range(0, points, most):
        count = min(most, points - begin)
        records = [
            pack(
                prefixes[n % len(SERIES)],
                now + n * 10_000,
                b"\xcb",
                chance.random(),
                b"\xd3",
                n // len(SERIES),
            )
            for n in range(begin, begin + count)
        ]
        found.append((sequence, count, wire.array_header(count) + b"".join(records)))
        sequence += count
    end = ev.Ended(now + points * 10_000, "finished", 0, None, None, ())
    found.append((sequence, 1, wire.array_header(1) + wire.encode(end)))
    return found


# ---------------------------------------------------------------------------------- in parts


def timed(action: Callable[[], Any], unit: list[float]) -> float:
    """Processor seconds of an action; notes what an empty call takes around it."""
    unit.append(common.empty_call(3))
    begin = time.process_time()
    action()
    taken = time.process_time() - begin
    unit.append(common.empty_call(3))
    return taken


def parts(folder: Path, stream: list[Batch], run: str) -> tuple[dict[str, float], float]:
    """Processor seconds of each part, and an empty call's seconds."""
    producer = os.urandom(16)
    units: list[float] = []
    log = EventLog(folder / "events", run)

    def append() -> None:
        for number, (first, count, data) in enumerate(stream, 1):
            log.append(producer, first, count, data)
            if number % GROUP == 0:
                log.sync()
        log.sync()

    frames = [Frame(n, producer, *batch) for n, batch in enumerate(stream)]
    of = state.RunState()

    def fold() -> None:
        for frame in frames:
            replay.take(of, frame)

    def decode() -> None:
        for frame in frames:
            wire.decode_batch(frame.batch, frame.count)

    made: Any = load("parquet")(Target(folder, run, "load"), {})  # type: ignore[operator]
    chunks = Chunks()

    def write() -> None:
        for frame in frames:
            chunk = chunks.take(frame)
            if chunk is not None:
                made.write(chunk)

    taken = {"append, sync": timed(append, units)}
    taken["decode, fold"] = timed(fold, units)
    taken["  of it decode"] = timed(decode, units)
    taken["parquet: decode, write"] = timed(write, units)
    taken["parquet: close"] = timed(made.close, units)
    return taken, statistics.median(units)


# ------------------------------------------------------------------------------- as a whole


class Feeder:
    """A client that has everything encoded, and sends it as it is acked."""

    def __init__(self, address: str, run: str, directory: Path) -> None:
        self.client = Client(address)
        self.run = run
        self.producer = os.urandom(16)
        pid = os.getpid()
        self.hello = wire.Hello(
            wire.PROTOCOL,
            ev.EVENT_FORMAT,
            VERSION,
            run,
            self.producer,
            str(directory),
            socket.gethostname(),
            os.getuid(),
            pid,
            process.pid_start(pid),
            process.boot_id(),
        )

    def answer(self, kind: type[Any]) -> Any:
        while True:
            for data in self.client.receive(1.0):
                message = wire.decode_message(data)
                if isinstance(message, wire.Refused):
                    raise RuntimeError(message.reason)
                if isinstance(message, kind):
                    return message

    def say(self, *parts: bytes) -> None:
        while not self.client.send(*parts):
            for _ in self.client.receive(0.002):
                pass

    def deliver(self, stream: list[Batch]) -> float:
        """Seconds from the first batch to the last ack; then the end is told and waited for."""
        self.say(wire.encode(self.hello))
        self.answer(wire.Welcome)
        begin = time.perf_counter()
        acked, last = 0, stream[-1][0] + stream[-1][1]
        for first, count, data in stream:
            head = wire.Batch(wire.PROTOCOL, self.run, self.producer, first, count)
            self.say(wire.encode(head), data)
        while acked < last:
            acked = max(acked, self.answer(wire.Ack).next)
        taken = time.perf_counter() - begin
        import msgspec

        self.say(wire.encode(msgspec.structs.replace(self.hello, ending=True)))
        self.answer(wire.Closed)
        self.client.close()
        return taken


def whole(points: int, most: int, sinks: tuple[str, ...]) -> tuple[float, float]:
    """(processor seconds of a collector, seconds until all is acked)."""
    with common.workplace() as folder:
        directory = folder / "load_0"
        directory.mkdir()
        run = uuid7()
        stream = batches(started(run, directory, sinks), points, most)
        address = f"ipc://{folder}/c.sock"
        command = ["collector", "--bind", address, "--once"]
        served = subprocess.Popen(
            [sys.executable, "-m", "prov4ml", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        taken = Feeder(address, run, directory).deliver(stream)
        _, status, used = os.wait4(served.pid, 0)
        served.returncode = status
        return used.ru_utime + used.ru_stime, taken


def main(points: int) -> int:
    print(common.machine())
    print(f"{points:,} points, {len(SERIES)} series, one producer")
    rows: list[list[Any]] = []
    budgeted = {"append, sync", "decode, fold"}
    for most in (BIG // 34 - 1, SMALL):
        with common.workplace() as folder:
            run = uuid7()
            stream = batches(started(run, folder, ()), points, most)
            taken, unit = parts(folder, stream, run)
        rows.append([f"in one process, {most:,} points a batch", "", "", "", "", ""])
        for what, seconds in taken.items():
            rows.append(row(f"  {what}", seconds, points, unit, None))
        total = sum(seconds for what, seconds in taken.items() if what in budgeted)
        rows.append(row("  append, sync, decode, fold", total, points, unit, BUDGET))
        shutil.rmtree(folder, ignore_errors=True)
    heads = ("part", "us/point", "M/s", "empty calls", "budget", "")
    common.table(heads, rows)

    rows = []
    documents = ("provjson", "provn", "turtle", "svg")
    for title, sinks in (("documents", documents), ("documents, parquet", (*documents, "parquet"))):
        for most in (BIG // 34 - 1, SMALL):
            unit = common.empty_call()
            idle, _ = whole(1, most, sinks)
            used, clock = whole(points, most, sinks)
            unit = statistics.median([unit, common.empty_call()])
            rows.append(
                [
                    *row(f"{title}, {most:,} points a batch", used - idle, points, unit, BUDGET),
                    points / clock / 1e6,
                ]
            )
    common.table(
        ("collector process, sinks", "us/point", "M/s", "empty calls", "budget", "", "acked M/s"),
        rows,
    )
    return 0


def row(what: str, seconds: float, points: int, unit: float, budget: float | None) -> list[Any]:
    calls = seconds / points / unit
    return [
        what,
        seconds / points * 1e6,
        points / seconds / 1e6,
        calls,
        budget,
        common.verdict(calls, budget),
    ]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else POINTS))
