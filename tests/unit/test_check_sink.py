"""``check_sink`` names the clause that a sink breaks."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prov4ml.events import Point
from prov4ml.provdm import Document
from prov4ml.sink import Chunk, Output, Target
from prov4ml.testing.sinks import check_sink, sample_chunks, sample_documents


class Good:
    """Counts statements."""

    suffix: ClassVar[str] = "txt"
    options: ClassVar[Mapping[str, str]] = {"greeting": "first line (default: hello)"}

    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting

    def render(self, document: Document) -> Iterator[bytes]:
        yield self.greeting.encode()
        for number, _ in enumerate(document.statements()):
            yield b"%d\n" % number


class Keeps(Good):
    """Holds the whole document in memory."""

    def render(self, document: Document) -> Iterator[bytes]:
        yield repr(list(document.statements())).encode("utf-8", "backslashreplace")


class Differs(Good):
    """Numbers its renderings."""

    numbers = itertools.count()

    def render(self, document: Document) -> Iterator[bytes]:
        yield b"%d" % next(self.numbers)


class Stumbles(Good):
    """Cannot write lone surrogates."""

    def render(self, document: Document) -> Iterator[bytes]:
        yield b"x"
        for statement in document.statements():
            yield str(statement.attributes).encode()
            yield "".join(str(value) for _, value in statement.attributes).encode()


class Texts(Good):
    """Yields text."""

    def render(self, document: Document) -> Iterator[bytes]:
        yield "text"  # type: ignore[misc]


class Writes(Good):
    """Writes a file of its own."""

    def render(self, document: Document) -> Iterator[bytes]:
        Path("own.txt").touch()
        yield b"x"


class Exports(Good):
    """Changes the environment."""

    def render(self, document: Document) -> Iterator[bytes]:
        os.environ["PROV4ML_TEST_CHECK_SINK"] = "1"
        yield b"x"


class Connects(Good):
    """Opens a socket."""

    def render(self, document: Document) -> Iterator[bytes]:
        socket.socket().close()
        yield b"x"


class Changes(Good):
    """Adds a prefix to the document."""

    def render(self, document: Document) -> Iterator[bytes]:
        document.prefixes["more"] = "https://more.example/"  # type: ignore[index]
        yield b"x"


class Silent(Good):
    """Yields nothing for an empty document."""

    def render(self, document: Document) -> Iterator[bytes]:
        for _ in document.statements():
            yield b"x"


class Dotted(Good):
    """Has a suffix with a dot."""

    suffix = ".txt"


class Undeclared(Good):
    """Declares an option that it does not take."""

    options: ClassVar[Mapping[str, str]] = {"colour": "of the text"}


class Nameless(Good):
    __doc__ = ""


@pytest.mark.parametrize(
    ("clause", "sink"),
    [
        ("R2", Nameless),
        ("R3", Undeclared),
        ("D1", Dotted),
        ("D4", Texts),
        ("D5", Differs),
        ("D6", Writes),
        ("D6", Exports),
        ("D6", Connects),
        ("D7", Changes),
        ("D8", Stumbles),
        ("D8", Silent),
        ("D9", Keeps),
    ],
)
def test_a_broken_document_sink_is_named(
    clause: str, sink: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way of breaking the contract of document sinks gives the clause."""
    monkeypatch.setenv("PROV4ML_TEST_CHECK_SINK", "0")  # and is put back afterwards
    with pytest.raises(AssertionError, match=f"^{clause}: "):
        check_sink(sink, tmp_path)


def test_a_good_document_sink_passes(tmp_path: Path) -> None:
    """A sink that keeps the contract passes, with and without its options."""
    check_sink(Good, tmp_path)
    check_sink(Good, tmp_path, {"greeting": "salve", "path": "count.txt"})


class Lines:
    """Appends a line per point, at once; the file says which frames it has."""

    options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        self.path = target.directory / "lines.txt"
        self.frame = target.frame
        lines = self.path.read_text().splitlines(True) if self.path.exists() else []
        self.lines = [line for line in lines if int(line.partition(" ")[0]) < target.frame]

    def write(self, chunk: Chunk) -> None:
        points = [e for e in chunk.events if type(e) is Point and e.series in chunk.series]
        self.lines += [f"{chunk.frame} {point.value!r}\n" for point in points]
        self.frame = chunk.frame

    def flush(self) -> int:
        self.save()
        return self.frame  # it may still grow

    def save(self) -> None:
        self.path.write_text("".join(self.lines))

    def close(self) -> list[Output]:
        self.save()
        data = self.path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return [Output(self.path.name, digest, len(data), len(self.lines))]


def changed(method: str, wrap: Callable[[Any, Any], Any]) -> type:
    """``Lines`` with one method's result, or arguments, spoiled."""

    def spoiled(self: Any, *arguments: Any) -> Any:
        return wrap(self, getattr(Lines, method)(self, *arguments))

    return type("Spoiled", (Lines,), {"__doc__": "Broken.", method: spoiled})


def output(**changes: object) -> type:
    """``Lines`` whose output is described wrongly."""

    def wrap(_: Any, outputs: list[Output]) -> list[Output]:
        kept = {name: getattr(outputs[0], name) for name in Output.__struct_fields__}
        return [Output(**{**kept, **changes})]

    return changed("close", wrap)


def raises(self: Any, _: object) -> None:
    raise RuntimeError("broken")


class Forgets(Lines):
    """Starts an empty file each time."""

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        super().__init__(target, options)
        self.lines = []


class Doubles(Lines):
    """Keeps what it will be given again."""

    def __init__(self, target: Target, options: Mapping[str, object]) -> None:
        super().__init__(target, options)
        if self.path.exists():
            self.lines = self.path.read_text().splitlines(True)


class Greedy(Lines):
    """Counts every event, known or not."""

    def write(self, chunk: Chunk) -> None:
        self.lines += [f"{chunk.frame} x\n" for _ in chunk.events]
        self.frame = chunk.frame


class Grows(Lines):
    """Adds a line per instance."""

    numbers = itertools.count()

    def write(self, chunk: Chunk) -> None:
        super().write(chunk)
        self.lines += [f"{chunk.frame} x\n"] * next(self.numbers)


class Strict(Lines):
    """Does not close after an error."""

    failed = False

    def write(self, chunk: Chunk) -> None:
        try:
            super().write(chunk)
        except Exception:
            self.failed = True
            raise

    def close(self) -> list[Output]:
        if self.failed:
            raise RuntimeError("broken")
        return super().close()


class Threads(Lines):
    """Leaves a thread behind."""

    gate = threading.Event()

    def close(self) -> list[Output]:
        threading.Thread(target=self.gate.wait, daemon=True).start()
        return super().close()


@pytest.mark.parametrize(
    ("clause", "sink"),
    [
        ("S1", changed("__init__", raises)),
        ("S2", Greedy),
        ("S2", changed("write", raises)),
        ("S3", changed("flush", raises)),
        ("S3", changed("flush", lambda self, frame: frame + 2)),
        ("S3", changed("flush", lambda self, frame: -1)),
        ("S3", changed("flush", lambda self, frame: None)),
        ("S4", changed("close", raises)),
        ("S4", Strict),
        ("S5", output(path="../lines.txt")),
        ("S5", output(path="/lines.txt")),
        ("S5", output(path="other.txt")),
        ("S5", output(size=1)),
        ("S5", output(sha256="0" * 64)),
        ("S5", output(rows=-1)),
        ("S5", changed("close", lambda self, outputs: outputs * 2)),
        ("S5", changed("close", lambda self, outputs: None)),
        ("S6", Forgets),
        ("S6", Doubles),
        (
            "S8",
            changed(
                "close", lambda self, outputs: [self.path.with_suffix(".tmp").touch(), *outputs][1:]
            ),
        ),
        ("S8", changed("close", lambda self, outputs: [Path("own").touch(), *outputs][1:])),
        ("S7", Grows),
        ("S8", Threads),
    ],
)
def test_a_broken_stream_sink_is_named(clause: str, sink: type, tmp_path: Path) -> None:
    """Each way of breaking the contract of stream sinks gives the clause."""
    Threads.gate.clear()
    try:
        with pytest.raises(AssertionError, match=f"^{clause}: "):
            check_sink(sink, tmp_path)
    finally:
        Threads.gate.set()


def test_a_good_stream_sink_passes(tmp_path: Path) -> None:
    """A stream sink that keeps the contract passes."""
    check_sink(Lines, tmp_path)


def test_unknown_names_and_options_are_refused(tmp_path: Path) -> None:
    """A name that is not installed and an option that does not exist are errors."""
    with pytest.raises(AssertionError, match=r"^R1: .*nosuchsink"):
        check_sink("nosuchsink", tmp_path)
    with pytest.raises(ValueError, match="did you mean 'greeting'"):
        check_sink(Good, tmp_path, {"greetings": "x"})


def test_samples_are_telling() -> None:
    """The samples hold what they are for: every document anew, several producers, odd values."""
    assert {"empty", "odd", "every statement"} <= set(sample_documents())
    chunks = sample_chunks()
    assert len({chunk.producer for chunk in chunks}) == 3
    frames = [chunk.frame for chunk in chunks]
    assert frames == sorted(frames)
    assert len(set(frames)) < len(frames)
