"""The two kinds of sinks, the registry, and the one adapter that owns files.

A *document sink* is pure: it renders a ``Document`` to bytes.  A *stream sink* sees the events
while they come.  Both are found through the entry-point group ``prov4ml.sinks``; the name of
the entry point is the name of the sink.  ``sinks/README.md`` is the contract in MUST and
SHOULD, ``prov4ml.testing.check_sink`` its executable form.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias, runtime_checkable

import msgspec

from prov4ml.errors import UsageError, no_room
from prov4ml.events import Event
from prov4ml.provdm import Document

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "GROUP",
    "Chunk",
    "DocumentSink",
    "Output",
    "SeriesKey",
    "SinkType",
    "StreamSink",
    "Target",
    "available",
    "check_options",
    "has_room",
    "is_stream",
    "load",
    "summary",
    "write_atomically",
]

GROUP: Final = "prov4ml.sinks"
_ROOM: Final = 1 << 20  # bytes that a disk takes unless it is full


class SeriesKey(msgspec.Struct, frozen=True):
    """What the series number of a point stands for."""

    name: str
    context: tuple[str, ...]
    source: str | None


class Chunk(msgspec.Struct, frozen=True):
    """Some events of one producer, in log order, with everything needed to understand them."""

    producer: bytes
    rank: int
    attempt: int
    frame: int  # number of the event-log frame they stood in
    first: int  # sequence of the first event
    events: tuple[Event, ...]
    series: Mapping[int, SeriesKey]


class Output(msgspec.Struct, frozen=True):
    """A finished file.  ``path`` is relative to the run directory, ``size`` in bytes."""

    path: str
    sha256: str  # 64 hex digits
    size: int
    rows: int


class Target(msgspec.Struct, frozen=True):
    """Where a stream sink writes: the run's directory, and which run it is."""

    directory: Path
    run: str
    experiment: str
    frame: int = 0  # the first log frame that this instance will be given (its cursor)


@runtime_checkable
class DocumentSink(Protocol):
    """Pure: the same document gives the same bytes.  Made anew for each rendering.

    ``options``: the names the constructor takes as keywords, with one line on each.
    """

    suffix: ClassVar[str]
    options: ClassVar[Mapping[str, str]]

    def render(self, document: Document) -> Iterator[bytes]: ...


@runtime_checkable
class StreamSink(Protocol):
    """One instance per run, all calls on one thread of the collector."""

    options: ClassVar[Mapping[str, str]]

    def __init__(self, target: Target, options: Mapping[str, object]) -> None: ...

    def write(self, chunk: Chunk) -> None:
        """Take a chunk.  Called in log order; an exception ends this sink, and only it."""

    def flush(self) -> int:
        """Called about every second: make safe what should be, give back the cursor.

        The cursor is the first log frame that would have to be written again after a crash.
        """
        ...

    def close(self) -> list[Output]:
        """Called once, also after an error: finish the files and name them."""
        ...


SinkType: TypeAlias = type[Any]


# ------------------------------------------------------------------------------- registry


def available() -> dict[str, EntryPoint]:
    """All installed sinks by name."""
    from importlib.metadata import entry_points  # slow to import; most runs never look

    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


@cache
def load(name: str) -> SinkType:
    """The class of an installed sink; once imported it stays the same for this process.

    To look through all installed packages takes 10 ms, and a short run asks 15 times.  Raises
    ``UsageError`` for an unknown one, and whatever its import raises (``MissingExtra``).
    """
    found = available()
    if name not in found:
        raise UsageError(unknown("sink", name, found))
    loaded: SinkType = found[name].load()
    return loaded


def is_stream(sink: SinkType) -> bool:
    return hasattr(sink, "write") and hasattr(sink, "close")


def summary(sink: SinkType) -> str:
    """The first line of a sink's docstring."""
    return (sink.__doc__ or "").strip().partition("\n")[0]


GENERIC: Final[Mapping[str, str]] = {"path": "file name inside the run directory (document sinks)"}


def check_options(name: str, sink: SinkType, options: Mapping[str, object]) -> None:
    """Raise ``UsageError`` for an option the sink does not have, naming the nearest one."""
    known = dict(getattr(sink, "options", {}))
    if not is_stream(sink):
        known.update(GENERIC)
    for option in options:
        if option not in known:
            raise UsageError(unknown(f"option of the sink {name!r}", option, known))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """An error text that names the nearest known name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return f"unknown {what}: {name!r}; {hint}"


# ---------------------------------------------------------------------------- atomic files


def write_atomically(path: Path, parts: Iterable[bytes]) -> int:
    """Write a file whole: beside it first, synced, then renamed.  Returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    size = 0
    try:
        with open(beside, "wb") as file:
            for part in parts:
                size += file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return size


def has_room(directory: Path) -> bool:
    """Whether the disk takes anything at all; what a quota says is known by trying only."""
    probe = directory / f".room.{os.getpid()}.tmp"
    try:
        probe.write_bytes(bytes(_ROOM))
    except OSError as error:
        return not no_room(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return True
