"""Nonsense at the collector's socket: it stays up, and a good rank beside it notices nothing."""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import zmq

from prov4ml import events as ev
from prov4ml import wire
from prov4ml.version import VERSION

if TYPE_CHECKING:
    from tests.conftest import Isolated

GOOD = """
import sys, pathlib, time
import prov4ml

stop = pathlib.Path("stop")
run = prov4ml.start_run("good")
step = 0
while not stop.exists():
    for _ in range(100):
        prov4ml.log_metric("loss", float(step), step=step)
        step += 1
    time.sleep(0.002)
prov4ml.end_run()
print(step)
"""


class Peer:
    """A DEALER that says what it likes."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndhwm = 1000
        self.socket.sndtimeo = 30_000
        self.socket.rcvtimeo = 10_000
        self.socket.connect(address)

    def say(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def hear(self) -> wire.Message:
        """The next answer; fails after 30 s without one."""
        return wire.decode_message(self.socket.recv())

    def drain(self) -> int:
        """Take what has been answered so far."""
        heard = 0
        while self.socket.poll(0):
            self.socket.recv_multipart()
            heard += 1
        return heard


@contextmanager
def peer(address: str) -> Iterator[Peer]:
    context: zmq.Context[Any] = zmq.Context()
    made = Peer(context, address)
    try:
        yield made
    finally:
        made.socket.close(0)
        context.term()


def hello(folder: Path | str, **changes: Any) -> wire.Hello:
    """A hello that is all right but for ``changes``."""
    whole = wire.Hello(
        wire.PROTOCOL,
        ev.EVENT_FORMAT,
        VERSION,
        str(uuid.uuid4()),
        os.urandom(16),
        str(folder),
        "elsewhere.example",
        os.getuid(),
        1,
        1,
        str(uuid.uuid4()),
    )
    return msgspec.structs.replace(whole, **changes)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes of it changed, cut, doubled or put in."""
    parts = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(parts) + 1)
        match rng.randrange(5):
            case 0 if at < len(parts):
                parts[at] ^= 1 << rng.randrange(8)
            case 1:
                del parts[at:]
            case 2:
                parts[at:at] = rng.randbytes(rng.randrange(9))
            case 3:
                parts[at:at] = parts[: rng.randrange(len(parts) + 1)]
            case _:
                del parts[at : at + rng.randrange(8)]
    return bytes(parts)


def nonsense(rng: random.Random, folder: Path, good: uuid.UUID) -> Iterator[list[bytes]]:
    """Messages that are none, or nearly one, for ever."""
    points = [ev.Point(n, 10**18 + n, n / 3, n) for n in range(5)]
    batch = wire.array_header(5) + b"".join(msgspec.msgpack.encode(p) for p in points)
    while True:
        said = wire.encode(hello(folder / f"{rng.randrange(1000)}", ending=rng.random() < 0.5))
        head = wire.encode(
            wire.Batch(
                wire.PROTOCOL,
                rng.choice([str(good), str(uuid.UUID(int=rng.getrandbits(128)))]),
                rng.randbytes(16),
                rng.choice([0, 5, 1 << 63, (1 << 64) - 1]),
                rng.choice([0, 5, 1 << 31]),
            )
        )
        match rng.randrange(10):
            case 0:
                yield [rng.randbytes(rng.randrange(200))]
            case 1:
                yield [mutated(rng, said)]
            case 2:
                yield [mutated(rng, head), batch]
            case 3:
                yield [head, mutated(rng, batch)]
            case 4:
                yield [head, batch]  # before any hello
            case 5:
                yield [rng.randbytes(9) for _ in range(rng.randrange(1, 20))]
            case 6:
                yield [b"", *[b""] * rng.randrange(4)]
            case 7:
                yield [head]
            case 8:
                yield [b"\x91" * rng.choice([10, 5000])]  # deep nesting
            case _:
                yield [msgspec.msgpack.encode([rng.randrange(-5, 99), *rng.randbytes(8)])]


def _known(place: Isolated) -> set[str]:
    """Everything below the place's working folder."""
    return {str(path.relative_to(place.folder)) for path in place.folder.rglob("*")}


def _nonsense(
    place: Isolated, launch: Callable[..., Any], figures: Callable[..., None], count: int
) -> None:
    collector = launch()
    good = place.start(GOOD, PROV4ML_COLLECTOR=collector.address)
    place.wait(lambda: place.runs() and (place.only_run() / "events").is_dir(), "a good rank")
    log = place.only_run() / "events"
    sane = place.folder / "sane"  # a folder that could be taken for a run directory
    sane.mkdir()
    rng = random.Random(20261)
    messages = nonsense(rng, sane, uuid.uuid4())
    early = 0
    with peer(collector.address) as other:
        other.say(wire.encode(hello(sane / "none")))
        assert isinstance(other.hear(), wire.Refused)
        for number in range(count):
            other.say(*next(messages))
            if number == count // 2:  # pyarrow, which the good rank needs, is loaded by then
                early = collector.figures()[0]
            if number % 500 == 0:
                other.drain()
        other.drain()
        marker = hello(sane / "none")  # its answer comes behind all that was sent before
        other.say(wire.encode(marker))
        while (answer := other.hear()) != wire.Refused(
            marker.producer, getattr(answer, "reason", "")
        ):
            pass
    memory, files, threads = collector.figures()
    before = sum(path.stat().st_size for path in log.glob("*.log"))
    place.wait(
        lambda: sum(path.stat().st_size for path in log.glob("*.log")) > before,
        "the good rank goes on",
    )
    (place.folder / "stop").touch()
    out, err = good.communicate(timeout=60)
    assert good.returncode == 0, err
    run = next(path for path in place.runs() if path.name == "good_0")
    account = place.manifest(run)["accounting"]
    assert account["points"] == int(out)
    assert (account["lost"], account["rejected"]) == (0, 0)
    assert account["sent"] == account["received"]
    assert list(sane.iterdir()) == []
    assert collector.process.poll() is None
    assert "Traceback" not in collector.said()
    figures(
        messages=count,
        collector_halfway_MB=early / 1e6,
        collector_at_the_end_MB=memory / 1e6,
        files=files,
        threads=threads,
        good_points=int(out),
        lost=account["lost"],
    )
    assert memory - early <= 40e6  # what the good rank needs, columns of its points, is in it
    assert collector.log.stat().st_size < 100_000
    assert collector.stop() == 0


def test_nonsense(
    isolated: Isolated, launch: Callable[..., Any], figures: Callable[..., None]
) -> None:
    """50,000 random and mutated messages: the collector stays up and small, the good rank whole."""
    _nonsense(isolated, launch, figures, 50_000)


@pytest.mark.soak
def test_nonsense_soak(
    isolated: Isolated, launch: Callable[..., Any], figures: Callable[..., None]
) -> None:
    """The same with a million."""
    _nonsense(isolated, launch, figures, 1_000_000)


def test_not_zeromq(
    isolated: Isolated, launch: Callable[..., Any], figures: Callable[..., None]
) -> None:
    """Bytes that are no ZeroMQ at all cost the collector neither files nor threads for long."""
    collector = launch()
    before = collector.figures()
    rng = random.Random(7)
    path = collector.address.removeprefix("ipc://")
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(30)
            while True:
                try:
                    plain.connect(path)
                    break
                except BlockingIOError:  # its queue of connections is full: it is still busy
                    time.sleep(0.001)
            try:
                plain.sendall(rng.randbytes(rng.randrange(1, 2000)))
            except OSError:
                pass  # it hung up first
    isolated.wait(lambda: collector.figures()[1] <= before[1] + 2, "the files are closed again")
    after = collector.figures()
    figures(connections=300, files_before=before[1], files_after=after[1])
    assert after[2] == before[2]
    with peer(collector.address) as other:
        other.say(wire.encode(hello(isolated.folder / "none")))
        assert isinstance(other.hear(), wire.Refused)


def test_oversize(isolated: Isolated, launch: Callable[..., Any]) -> None:
    """A message beyond the limit ends its own connection; the next one is heard."""
    collector = launch()
    rest = collector.figures()[0]
    with peer(collector.address) as other:
        for size in ((2 << 20), (64 << 20)):
            other.say(bytes(size))
    with peer(collector.address) as other:
        other.say(wire.encode(hello(isolated.folder / "none")))
        assert isinstance(other.hear(), wire.Refused)
    assert collector.figures()[0] - rest < 20e6


def test_oversize_batch(isolated: Isolated, launch: Callable[..., Any]) -> None:
    """A batch that is a little too big is named with its size, and counted to the end."""
    collector = launch()
    folder = isolated.folder / "run"
    folder.mkdir()
    said = hello(folder)
    with peer(collector.address) as other:
        other.say(wire.encode(said))
        assert other.hear() == wire.Welcome(said.producer, 0)
        head = wire.encode(wire.Batch(wire.PROTOCOL, said.run, said.producer, 0, 1))
        for size in (wire.MAX_BATCH + 1, 2_000_000, wire.MAX_BATCH + 1):
            other.say(head, bytes(size))
        other.say(wire.encode(said))
        assert other.hear() == wire.Welcome(said.producer, 0)
    isolated.wait(lambda: "2,000,000 bytes" in collector.said(), "it is told")
    assert "1,048,577 bytes; it has at most 1,048,576" in collector.said()
    assert collector.stop() == 0
    assert "3 malformed messages were dropped in all" in collector.said()


def test_many_parts(isolated: Isolated, launch: Callable[..., Any]) -> None:
    """A message of many small parts is dropped whole, and its memory given back."""
    collector = launch()
    rest = collector.figures()[0]
    with peer(collector.address) as other:
        for _ in range(20):
            other.say(*[b"part" * 100] * 5_000)
        other.say(wire.encode(hello(isolated.folder / "none")))
        assert isinstance(other.hear(), wire.Refused)
    assert "malformed" in collector.said()
    assert collector.figures()[0] - rest < 40e6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": 99}, "pip install"),
        ({"event_format": 99}, "pip install"),
        ({"directory": "relative/path"}, "no folder"),
        ({"directory": "/nowhere/at/all"}, "no folder"),
        ({"directory": "/proc/1\0/x"}, "no folder"),
        ({"directory": "/etc"}, "no run directory"),
        ({"uid": 4_000_000}, "another user"),
        ({"run": "../../escape"}, "UUID"),
        ({"run": ""}, "UUID"),
        ({"producer": b"short"}, "UUID"),
        ({"pid": 1 << 40}, "UUID"),
    ],
)
def test_foreign_hello(
    isolated: Isolated, launch: Callable[..., Any], changes: dict[str, Any], words: str
) -> None:
    """What is not ours to write is refused by name, and nothing is created for it."""
    collector = launch()
    folder = isolated.folder / "taken"
    folder.mkdir()
    before = _known(isolated)
    etc = set(os.listdir("/etc"))
    with peer(collector.address) as other:
        said = hello(folder, **changes)
        other.say(wire.encode(said))
        answer = other.hear()
    assert isinstance(answer, wire.Refused)
    assert answer.producer == said.producer
    assert words in answer.reason
    assert _known(isolated) == before
    assert set(os.listdir("/etc")) == etc
    assert collector.process.poll() is None


def test_foreign_folder(isolated: Isolated, launch: Callable[..., Any]) -> None:
    """A folder with somebody's files in it is refused, named, and left as it is."""
    collector = launch()
    folder = isolated.folder / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("precious")
    with peer(collector.address) as other:
        other.say(wire.encode(hello(folder)))
        answer = other.hear()
    assert isinstance(answer, wire.Refused)
    assert "chapter.tex" in answer.reason
    assert os.listdir(folder) == ["chapter.tex"]


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 1 << 31},
        {"count": 1 << 40},
        {"count": -1},
        {"first": -1},
        {"first": (1 << 64) - 1},
        {"first": 1 << 40},
        {"first": 1 << 40, "lost": -(1 << 62)},
    ],
)
def test_numbers_of_a_batch(
    isolated: Isolated, launch: Callable[..., Any], changes: dict[str, int]
) -> None:
    """A batch whose numbers cannot be true is not taken; the right one behind it is."""
    collector = launch()
    folder = isolated.folder / "run"
    folder.mkdir()
    said = hello(folder)
    batch = wire.array_header(1) + wire.encode(ev.Tag(1, "a", "b"))
    right = wire.Batch(wire.PROTOCOL, said.run, said.producer, 0, 1)
    with peer(collector.address) as other:
        other.say(wire.encode(said))
        assert other.hear() == wire.Welcome(said.producer, 0)
        other.say(wire.encode(msgspec.structs.replace(right, **changes)), batch)
        other.say(wire.encode(right), batch)
        answers = [other.hear()]
        while answers[-1] != wire.Ack(said.producer, 1):
            answers.append(other.hear())
    assert answers[:-1] in ([], [wire.Ack(said.producer, 0, True)])
    assert collector.figures()[0] < 100e6


def test_batch_before_hello(isolated: Isolated, launch: Callable[..., Any]) -> None:
    """A batch of one who never said hello goes nowhere, and does not disturb who does."""
    collector = launch()
    folder = isolated.folder / "later"
    folder.mkdir()
    said = hello(folder)
    batch = wire.array_header(1) + wire.encode(ev.Tag(1, "too", "early"))
    with peer(collector.address) as other:
        head = wire.Batch(wire.PROTOCOL, said.run, said.producer, 0, 1)
        other.say(wire.encode(head), batch)
        other.say(wire.encode(said))
        assert other.hear() == wire.Welcome(said.producer, 0)
        other.say(wire.encode(head), batch)
        assert other.hear() == wire.Ack(said.producer, 1)
