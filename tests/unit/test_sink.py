"""``prov4ml.sink``: files are whole or not there, and mistakes are told with the nearest name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prov4ml import sink
from prov4ml.errors import UsageError
from prov4ml.provdm import Document
from prov4ml.sink import Chunk, Output, Target


class Page:
    """Writes a page.

    More on it.
    """

    suffix: ClassVar[str] = "txt"
    options: ClassVar[Mapping[str, str]] = {"colour": "of the text", "width": "in mm"}

    def render(self, document: Document) -> Iterator[bytes]:
        yield b""


class Feed:
    options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, target: Target, options: Mapping[str, object]) -> None: ...

    def write(self, chunk: Chunk) -> None: ...

    def flush(self) -> int:
        return 0

    def close(self) -> list[Output]:
        return []


def test_write_atomically(tmp_path: Path) -> None:
    """The parts become one file, folders are made, the size is returned."""
    path = tmp_path / "a" / "b" / "prov.json"
    assert sink.write_atomically(path, [b"one", b"", b"two"]) == 6
    assert path.read_bytes() == b"onetwo"
    assert sink.write_atomically(path, iter([])) == 0
    assert path.read_bytes() == b""
    assert [entry.name for entry in path.parent.iterdir()] == ["prov.json"]


@pytest.mark.parametrize("error", [RuntimeError("sink"), KeyboardInterrupt(), OSError(28, "full")])
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    """When a part raises, the old file is intact and nothing lies beside it."""
    path = tmp_path / "prov.json"
    path.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise error

    with pytest.raises(type(error)):
        sink.write_atomically(path, parts())
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["prov.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the system refuses to sync or rename, the old file is intact."""
    path = tmp_path / "prov.json"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="Input/output"):
            sink.write_atomically(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["prov.json"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """While parts come, the name still stands for the old file."""
    path = tmp_path / "prov.json"
    path.write_bytes(b"old")
    seen = []

    def parts() -> Iterator[bytes]:
        for _ in range(3):
            seen.append(path.read_bytes())
            yield b"x" * 100_000

    sink.write_atomically(path, parts())
    assert seen == [b"old"] * 3
    assert path.stat().st_size == 300_000


def test_the_new_file_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the machine after the rename finds the bytes on disk."""
    calls: list[str] = []
    real: dict[str, Any] = {"fsync": os.fsync, "replace": os.replace}
    for name, function in real.items():

        def noted(*arguments: object, name: str = name, function: Any = function) -> object:
            calls.append(name)
            return function(*arguments)

        monkeypatch.setattr(os, name, noted)
    sink.write_atomically(tmp_path / "prov.json", [b"new"])
    assert calls[:2] == ["fsync", "replace"]


def test_available() -> None:
    """The installed sinks come by name, sorted."""
    names = list(sink.available())
    assert {"parquet", "provjson", "provn", "svg", "turtle"} <= set(names)
    assert names == sorted(names)


def test_load() -> None:
    """A sink is loaded by the name of its entry point."""
    loaded = sink.load("provjson")
    assert isinstance(loaded(), sink.DocumentSink)
    assert not sink.is_stream(loaded)
    assert sink.is_stream(sink.load("parquet"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("turtel", "did you mean 'turtle'?"), ("x", "known: .*parquet, provjson"), ("", "known: ")],
)
def test_an_unknown_sink_is_told(name: str, hint: str) -> None:
    """The error names what was asked for and the nearest known name, or all of them."""
    with pytest.raises(UsageError, match=f"^unknown sink: '{name}'; {hint}".replace("?", r"\?")):
        sink.load(name)


def test_unknown_texts() -> None:
    """The text names the nearest name, all names, or that there are none."""
    assert sink.unknown("key", "colr", ["width", "color"]) == (
        "unknown key: 'colr'; did you mean 'color'?"
    )
    assert sink.unknown("key", "q", ["width", "color"]) == "unknown key: 'q'; known: color, width"
    assert sink.unknown("key", "q", []) == "unknown key: 'q'; known: none"


def test_kinds_and_summaries() -> None:
    """A class that writes and closes is a stream sink; the docstring's first line describes it."""
    assert sink.is_stream(Feed)
    assert not sink.is_stream(Page)
    assert sink.summary(Page) == "Writes a page."
    assert sink.summary(Feed) == ""


def test_check_options() -> None:
    """Known options pass, ``path`` only for document sinks; others are told with a hint."""
    sink.check_options("page", Page, {})
    sink.check_options("page", Page, {"colour": "red", "width": 3, "path": "x.txt"})
    with pytest.raises(
        UsageError, match=r"^unknown option of the sink 'page': 'color'; .*'colour'"
    ):
        sink.check_options("page", Page, {"color": "red"})
    with pytest.raises(
        UsageError, match=r"^unknown option of the sink 'feed': 'path'; known: none"
    ):
        sink.check_options("feed", Feed, {"path": "x"})
