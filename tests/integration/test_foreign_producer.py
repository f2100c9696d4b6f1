"""A producer that was written from the page on formats alone, against a real collector.

It speaks with plain zmq and a msgpack library; nothing here imports prov4ml.  What it delivers
must come out as documents, and whatever the page promises of the exchange must hold.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import prov.model
import pytest
import zmq

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
HELLO, BATCH, WELCOME, ACK, CLOSED, REFUSED = 1, 2, 16, 17, 18, 19
STARTED, SERIES, POINT, PARAM, ENDED = 1, 2, 3, 4, 13
PATIENCE = 60.0  # s until a collector that says nothing has failed the test


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder with a short path: that of a socket ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="p4-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def collector(base: Path) -> Iterator[str]:
    """A collector that ends when the run has; its address."""
    address = f"ipc://{base}/c.sock"
    environment = {**os.environ, "PROV4ML_SPOOL": str(base), "XDG_RUNTIME_DIR": str(base)}
    process = subprocess.Popen(
        [sys.executable, "-m", "prov4ml", "collector", "--bind", address, "--once"],
        env=environment,
        cwd=base,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert ready, "the collector does not say where it listens"
        assert process.stdout.readline().decode().strip() == f"PROV4ML_COLLECTOR={address}"
        yield address
        assert process.wait(PATIENCE) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Producer:
    """The least that speaks the protocol."""

    def __init__(self, address: str, directory: Path) -> None:
        self.id = os.urandom(16)
        self.directory = directory
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()

    def hello(self, *, ending: bool = False, protocol: int = 1) -> None:
        stat = Path("/proc/self/stat").read_text()
        message = [
            HELLO,
            protocol,
            1,
            "test",
            RUN,
            self.id,
            str(self.directory),
            os.uname().nodename,
            os.getuid(),
            os.getpid(),
            int(stat[stat.rindex(")") + 2 :].split()[19]),
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        ]
        self.socket.send(pack([*message, True] if ending else message))

    def send(
        self, first: int, events: list[Any], *, table: bool = False, lost: int | None = None
    ) -> None:
        head = [BATCH, 1, RUN, self.id, first, 0 if table else len(events)]
        self.socket.send_multipart([pack([*head, *([] if lost is None else [lost])]), pack(events)])

    def started(self, now: int, settings: dict[str, Any]) -> list[Any]:
        place = [str(self.directory), "https://example.org/", 1, 0, 0, 1, os.getpid(), 0]
        name = [str(uuid.uuid4()), os.uname().nodename, None, "none", "test", "none", settings]
        return [STARTED, now, RUN, "foreign", "foreign_0", *place, *name]

    def hear(self, *wanted: int) -> list[Any]:
        """The next message of one of these tags; others are passed over."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.socket.poll(1000):
                message: list[Any] = unpack(self.socket.recv())
                if message[0] in wanted:
                    return message
        raise AssertionError(f"no message with a tag of {wanted}")


@pytest.fixture
def producer(base: Path, collector: str) -> Iterator[Producer]:
    """A producer for a new run directory."""
    directory = base / "prov" / "foreign_0"
    directory.mkdir(parents=True)
    made = Producer(collector, directory)
    yield made
    made.close()


def test_a_producer_written_from_the_page_gets_its_documents(producer: Producer) -> None:
    """Hello, batches with a gap, a repeat and an overlap, ack, closed; then documents to read."""
    now = time.time_ns()
    settings = {"sinks": ["provjson", "provn", "turtle", "svg", "parquet"]}
    events: list[Any] = [
        producer.started(now, settings),
        [SERIES, 0, "loss", ["training"]],
        *[[POINT, 0, now + step, 1 / (step + 1), step] for step in range(100)],
        [PARAM, now, "lr", "float", "0.01"],
        [ENDED, now + 1_000_000, "finished"],
    ]
    producer.hello()
    assert producer.hear(WELCOME, REFUSED)[:3] == [WELCOME, producer.id, 0]

    producer.send(50, events[50:])  # a gap
    assert producer.hear(ACK) == [ACK, producer.id, 0, True]

    producer.send(0, events[:60])
    producer.send(0, events[:60])  # a repeat
    assert producer.hear(ACK) == [ACK, producer.id, 60, False]
    producer.send(50, [events[1]], table=True)
    producer.send(50, events[50:])  # an overlap
    while producer.hear(ACK)[2] < len(events):
        pass
    producer.hello(ending=True)
    closed = producer.hear(CLOSED)
    assert closed[1:] == [
        RUN,
        True,
        "finished",
        len(events),
        len(events),
        0,
        0,
        ["prov.json", "prov.provn", "prov.ttl", "prov.svg"],
        [],
    ]
    document = prov.model.ProvDocument.deserialize(str(producer.directory / "prov.json"))
    labels = {str(record.label) for record in document.get_records(prov.model.ProvEntity)}
    assert {"lr", "loss"} <= {label.split(" ")[0] for label in labels}
    manifest = json.loads((producer.directory / "run.json").read_text())
    assert manifest["accounting"]["points"] == 100
    assert sum(output["rows"] for output in manifest["outputs"]) == 100


def test_a_peer_of_another_version_is_refused(producer: Producer) -> None:
    """The answer says why and what to do; with the right version the run goes on."""
    producer.hello(protocol=99)
    refused = producer.hear(WELCOME, REFUSED)
    assert refused[:2] == [REFUSED, producer.id]
    assert "pip install" in refused[2]
    producer.hello()
    producer.hear(WELCOME)
    now = time.time_ns()
    producer.send(0, [producer.started(now, {}), [ENDED, now, "finished"]])
    while producer.hear(ACK)[2] < 2:
        pass
    producer.hello(ending=True)
    assert producer.hear(CLOSED)[2] is True


def test_what_a_producer_dropped_is_counted_as_lost(producer: Producer) -> None:
    """A gap that its producer calls final is taken, and stands in the account."""
    now = time.time_ns()
    producer.hello()
    producer.hear(WELCOME)
    producer.send(0, [producer.started(now, {})])
    producer.send(8, [[ENDED, now, "finished"]], lost=7)
    while producer.hear(ACK)[2] < 9:
        pass
    producer.hello(ending=True)
    assert producer.hear(CLOSED)[2:6] == [True, "finished", 9, 2]
    manifest = json.loads((producer.directory / "run.json").read_text())
    assert manifest["accounting"]["lost"] == 7
