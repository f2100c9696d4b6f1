"""``check_sink``: the contract of ``sinks/README.md``, executable.

Every failure is an ``AssertionError`` that begins with the clause that was broken (``D5``,
``S6``, ...) and says what was seen.  For sinks of this project and of strangers alike, with
any test runner or none::

    from prov4ml.testing.sinks import check_sink

    def test_contract(tmp_path):
        check_sink("markdown", tmp_path)

It writes below the given directory only, opens no connection and starts no process; what a
sink itself does is the sink's.  It changes the working directory while it runs, so it is not
for two threads at once.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import os
import re
import socket
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, Never, cast
from unittest import mock

import msgspec

from prov4ml import events as ev
from prov4ml.picture import Arrow, Box, Picture, Sparkline
from prov4ml.provdm import (
    RELATIONS,
    Attributes,
    Document,
    Element,
    Literal,
    Name,
    Relation,
    Statement,
    Time,
    segment,
)
from prov4ml.sink import (
    Chunk,
    Output,
    SeriesKey,
    SinkType,
    Target,
    available,
    check_options,
    is_stream,
    load,
    summary,
)
from prov4ml.testing.samples import ODD, RUN, START

__all__ = ["check_sink", "sample_chunks", "sample_documents"]

_STATEMENTS: Final = 20_000
_MEMORY: Final = 8 << 20  # bytes; the text of that many statements is more than 10 MB


def check_sink(
    sink: str | SinkType, directory: Path, options: Mapping[str, object] | None = None
) -> None:
    """Raise ``AssertionError`` naming the clause of ``sinks/README.md`` that a sink breaks.

    ``sink`` is the name of an installed sink or a class; ``directory`` a folder for scratch
    files; ``options`` what a user would put into ``[sinks.<name>]``.
    """
    if isinstance(sink, str):
        name = sink
        _must(re.fullmatch(r"[a-z][a-z0-9_-]*", name), "R1", f"{name!r} is no name of a sink")
        _must(name in available(), "R1", f"no entry point named {name!r} is installed")
        kind = load(name)
    else:
        kind, name = sink, sink.__name__
    _must(inspect.isclass(kind), "R1", f"{name!r} is {kind!r}, not a class")
    _must(summary(kind), "R2", "the class has no docstring whose first line says what it writes")
    given = dict(options or {})
    _check_declared(kind, given)
    check_options(name, kind, given)
    directory.mkdir(parents=True, exist_ok=True)
    with _guarded(directory / "elsewhere", "S8" if is_stream(kind) else "D6"):
        if is_stream(kind):
            _check_stream(kind, directory.resolve(), given)
        else:
            given.pop("path", None)  # the caller's, not the sink's
            _check_document(kind, given)


def _must(condition: object, clause: str, otherwise: str) -> None:
    if not condition:
        raise AssertionError(f"{clause}: {otherwise}")


def _check_declared(kind: SinkType, given: Mapping[str, object]) -> None:
    declared = getattr(kind, "options", None)
    _must(isinstance(declared, Mapping), "R3", f"options is {declared!r}, not a mapping")
    assert isinstance(declared, Mapping)
    for option, line in declared.items():
        _must(isinstance(option, str) and option.isidentifier(), "R3", f"option {option!r}")
        fine = isinstance(line, str) and line.strip() and "\n" not in line
        _must(fine, "R3", f"option {option!r} has no line that says what it does: {line!r}")
    if not is_stream(kind):
        parameters = inspect.signature(kind).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for option in declared:
            _must(takes_any or option in parameters, "R3", f"__init__ takes no {option!r}")


@contextmanager
def _guarded(empty: Path, clause: str) -> Iterator[None]:
    """An empty working directory that must stay empty; environment and threads as before."""
    empty.mkdir(exist_ok=True)
    before, home, threads = dict(os.environ), os.getcwd(), set(threading.enumerate())
    os.chdir(empty)
    try:
        yield
        _must(Path.cwd() == empty.resolve(), clause, f"the working directory became {Path.cwd()}")
    finally:
        os.chdir(home)
    found = sorted(path.name for path in empty.iterdir())
    _must(not found, clause, f"files appeared in the working directory: {found}")
    changed = {key for key, _ in before.items() ^ dict(os.environ).items()}
    changed.discard("PYTEST_CURRENT_TEST")
    _must(not changed, clause, f"the environment was changed: {sorted(changed)}")
    left = [thread.name for thread in set(threading.enumerate()) - threads]
    _must(not left, clause, f"threads were left behind: {sorted(left)}")


# ------------------------------------------------------------------------- document sinks


def _check_document(kind: SinkType, options: Mapping[str, Any]) -> None:
    suffix = getattr(kind, "suffix", None)
    fine = isinstance(suffix, str) and re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", suffix)
    _must(fine, "D1", f"suffix is {suffix!r}, not text such as 'json'")

    def no_network(*_: object, **__: object) -> Never:
        raise AssertionError("D6: render opened a socket")

    with mock.patch.object(socket, "socket", no_network):
        for case, document in sample_documents().items():
            _check_rendering(kind, options, case, document)
        _check_memory(kind, options)


def _check_rendering(
    kind: SinkType, options: Mapping[str, Any], case: str, document: Document
) -> None:
    prefixes, statements = dict(document.prefixes), list(document.statements())
    sink = kind(**options)
    first = _rendered(sink, case, document)
    _must(first, "D8", f"the document {case!r} gave no bytes")
    again = "the document {!r} gave other bytes the second time, {}"
    same = _rendered(sink, case, document) == first
    _must(same, "D5", again.format(case, "from the same instance"))
    same = _rendered(kind(**options), case, document) == first
    _must(same, "D5", again.format(case, "from a fresh instance"))
    same = _rendered(kind(**options), case, sample_documents()[case]) == first
    _must(same, "D5", again.format(case, "from an equal document"))
    kept = dict(document.prefixes) == prefixes
    kept = kept and repr(list(document.statements())) == repr(statements)
    _must(kept, "D7", f"rendering changed the document {case!r}")
    stopped = iter(sink.render(document))
    next(stopped, None)
    del stopped  # a rendering may be given up in the middle
    _must(_rendered(sink, case, document) == first, "D5", again.format(case, "after a stop"))


def _rendered(sink: Any, case: str, document: Document) -> bytes:
    try:
        parts = list(sink.render(document))
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"D8: the document {case!r} raised {error!r}") from error
    for part in parts:
        _must(type(part) is bytes, "D4", f"render gave {type(part).__name__}, not bytes")
    return b"".join(parts)


def _check_memory(kind: SinkType, options: Mapping[str, Any]) -> None:
    document = _document("large", lambda: _many(_STATEMENTS), _picture("large"))
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in kind(**options).render(document):
            pass
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()
    text = f"{_STATEMENTS} statements took {peak:,} bytes of memory; at most {_MEMORY:,}"
    _must(peak <= _MEMORY, "D9", text)


# --------------------------------------------------------------------------- stream sinks


def _check_stream(kind: SinkType, directory: Path, options: Mapping[str, object]) -> None:
    chunks = sample_chunks()
    crashed: list[object] = []  # kept to the end: a crash runs no finalizer
    folders = (directory / f"run-{n}" for n in range(10_000))

    def begin(folder: Path, frame: int = 0) -> Any:
        folder.mkdir(exist_ok=True)
        return _call("S1", kind, Target(folder, RUN, "digits", frame), dict(options))

    expected = -1
    for _ in range(2):
        folder = next(folders)
        sink = begin(folder)
        _fed(sink, chunks, 0)
        rows = _closed(sink, folder)
        _must(expected in (-1, rows), "S7", f"the same log gave {expected} rows, then {rows}")
        expected = rows

    unknown = [_with_unknown(chunk) for chunk in chunks]
    folder = next(folders)
    sink = begin(folder)
    _fed(sink, unknown, 0)
    rows = _closed(sink, folder)
    _must(rows == expected, "S2", f"with unknown events there are {rows} rows, not {expected}")

    for some in ([], [msgspec.structs.replace(chunk, events=()) for chunk in chunks]):
        folder = next(folders)
        sink = begin(folder)
        _fed(sink, some, 0)
        _closed(sink, folder)

    for at in range(len(chunks) + 1):
        for late in (False, True):  # the last cursor was logged, or the one before
            folder = next(folders)
            sink = begin(folder)
            cursors = [0, 0, *_fed(sink, chunks[:at], 0)]
            crashed.append(sink)
            frame = cursors[-2] if late else cursors[-1]
            when = f"after chunk {at}"
            _continued(begin, folder, chunks, frame, expected=expected, when=when)
    folder = next(folders)
    sink = begin(folder)
    cursors = [0, *_fed(sink, chunks, 0)]
    _closed(sink, folder)
    for frame in sorted(set(cursors)):
        _continued(begin, folder, chunks, frame, expected=expected, when="after close")

    folder = next(folders)
    sink = begin(folder)
    _fed(sink, chunks[:5], 0)
    try:
        sink.write(msgspec.structs.replace(chunks[5], events=None, series=None))
    except Exception:  # noqa: S110  (it may raise what it likes; what follows matters)
        pass
    cursor = _call("S3", sink.flush)
    _must(cursor <= chunks[5].frame, "S3", f"a frame whose write raised is below cursor {cursor}")
    _closed(sink, folder, "S4")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        crashed.clear()
        del sink
        gc.collect()


def _continued(
    begin: Any, folder: Path, chunks: Sequence[Chunk], frame: int, *, expected: int, when: str
) -> None:
    sink = begin(folder, frame)
    _fed(sink, [chunk for chunk in chunks if chunk.frame >= frame], frame)
    rows = _closed(sink, folder)
    text = f"a crash {when}, continued from frame {frame}, gave {rows} rows, not {expected}"
    _must(rows == expected, "S6", text)


def _fed(sink: Any, chunks: Sequence[Chunk], frame: int) -> list[int]:
    """Write, flushing after each whole frame as the collector does; the cursors."""
    cursors: list[int] = []
    low = frame
    for n, chunk in enumerate(chunks):
        _call("S2", sink.write, chunk)
        if n + 1 < len(chunks) and chunks[n + 1].frame == chunk.frame:
            cursors.append(low)
            continue
        cursor = _call("S3", sink.flush)
        _must(type(cursor) is int, "S3", f"flush gave {cursor!r}, not a frame number")
        _must(cursor >= low, "S3", f"the cursor fell from {low} to {cursor}")
        _must(cursor <= chunk.frame + 1, "S3", f"cursor {cursor} after frame {chunk.frame}")
        low = cursor
        cursors.append(cursor)
    return cursors


def _call(clause: str, function: Callable[..., Any], *arguments: object) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise AssertionError(f"{clause}: {function.__name__} raised {error!r}") from error


def _closed(sink: Any, folder: Path, clause: str = "S5") -> int:
    """Close and look at the outputs; how many rows they have."""
    outputs = _call("S4", sink.close)
    _must(isinstance(outputs, list), clause, f"close gave {outputs!r}, not a list")
    for output in outputs:
        _must(isinstance(output, Output), clause, f"close gave {output!r}, not an Output")
        path = PurePosixPath(output.path)
        inside = not path.is_absolute() and ".." not in path.parts
        _must(inside, clause, f"output {output.path!r} is not inside the run directory")
        _must((folder / path).is_file(), clause, f"output {output.path!r} is not there")
        data = (folder / path).read_bytes()
        size = f"{output.path} has {len(data)} bytes, the output says {output.size}"
        _must(output.size == len(data), clause, size)
        digest = hashlib.sha256(data).hexdigest()
        right = output.sha256 == digest
        _must(right, clause, f"{output.path} has sha256 {digest}, not {output.sha256}")
        counted = type(output.rows) is int and output.rows >= 0
        _must(counted, clause, f"{output.path} has {output.rows!r} rows")
    paths = [output.path for output in outputs]
    _must(len(paths) == len(set(paths)), clause, f"an output is named twice: {sorted(paths)}")
    left = [path.name for path in folder.rglob("*.tmp")]
    _must(not left, "S8", f"unfinished files were left behind: {left}")
    return sum(output.rows for output in outputs)


# ---------------------------------------------------------------------------- sample input


class _Unknown(msgspec.Struct, array_like=True, frozen=True, tag=50_000):
    """An event of a later release."""

    time: int
    text: str = ODD


def _with_unknown(chunk: Chunk) -> Chunk:
    strange = cast(ev.Event, _Unknown(START))
    return msgspec.structs.replace(chunk, events=(strange, *chunk.events, strange))


def sample_chunks() -> list[Chunk]:
    """A small log: three producers in turn, odd names and values, a frame in two chunks."""
    keys = {
        0: SeriesKey("loss", ("training",), None),
        1: SeriesKey(ODD, ("training", "a/b " + ODD), "sklearn"),
        2: SeriesKey("x" * 10_000, (), ""),
    }
    values = (0.5, float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1e308)
    made: list[Chunk] = []
    for n in range(12):
        rank = n % 3
        events: list[ev.Event] = [ev.SeriesDefined(i, k.name, k.context) for i, k in keys.items()]
        for i, value in enumerate(values):
            time = START + n * 1_000_000 + i
            events.append(ev.Point(i % 3, time, value, None if i == 3 else n * 10 + i, n))
        events.append(ev.Point(99, START, 1.0))  # of a series that nobody defined
        if n == 11:
            events.append(ev.Ended(START + 12_000_000, "finished", 0))
        frame = n // 2 * 2 if n in (6, 7) else n  # frame 7 has nothing for sinks
        producer = 0 if n in (6, 7) else rank
        attempt = 2 if producer == 2 else 1
        series = keys if n != 4 else {0: keys[0]}
        identity = bytes([producer]) * 16
        made.append(Chunk(identity, producer, attempt, frame, n * 11, tuple(events), series))
    return made


def sample_documents() -> dict[str, Document]:
    """Telling documents by name: empty, every kind of statement and value, odd texts."""
    return {
        "empty": _document("empty", lambda: iter(())),
        "empty picture": _document("bare", lambda: iter(()), Picture("", "", None, (), (), (), ())),
        "every statement": _document("every", _every, _picture("digits_0")),
        "without a picture": _document("plain", _every),
        "odd": _document("odd", _odd, _picture(ODD)),
    }


def _document(label: str, statements: Any, picture: Picture | None = None) -> Document:
    prefixes = {
        f"run_{label}": f"https://lab.example/provenance/run/{label}/",
        "lab": "https://lab.example/provenance/",
        "p4": "https://w3id.org/prov4ml/ns#",
        "mls": "http://www.w3.org/ns/mls#",
        "dcterms": "http://purl.org/dc/terms/",
    }
    return Document(label, prefixes, statements, picture)


def _every() -> Iterator[Statement]:
    values: Attributes = (
        ("prov:type", Name("mls:Run")),
        ("prov:label", "digits_0"),
        ("p4:status", "finished"),
        ("p4:dirty", True),
        ("p4:small", 1),
        ("p4:small", 2),
        ("p4:negative", -(1 << 31)),
        ("p4:long", 1 << 40),
        ("p4:huge", 1 << 200),
        *(("p4:number", x) for x in (0.1, -0.0, 1e300, float("nan"), float("inf"), -float("inf"))),
        ("p4:when", Time(START)),
        ("p4:exact", Literal("1.10", "xsd:decimal")),
        ("p4:said", Literal("cifre", "prov:InternationalizedString", "it")),
        ("dcterms:isPartOf", Name("lab:experiment/digits")),
    )
    yield Element("entity", "lab:e1", values)
    yield Element("entity", "lab:e2")
    yield Element("activity", "lab:a1", values, START, START + 1)
    yield Element("activity", "lab:a2", (), -1, None)
    yield Element("agent", "lab:g1", (("prov:type", Name("prov:Person")), ("prov:label", "alice")))
    for kind, spelling in RELATIONS.items():
        whole = tuple(_ends(key) for key in spelling.arguments)
        yield Relation(kind, whole)
        if spelling.qualified:
            few = (*whole[:2], *(None for _ in whole[2:]))
            time = None if spelling.time_at is None else START
            role = (("prov:role", Name("p4:hardware")), ("p4:number", float("nan")))
            yield Relation(kind, few, role, time)
            yield Relation(kind, few, (), time, f"lab:{kind}/1")


def _ends(key: str) -> str:
    """An identifier that fits an argument of a relation."""
    if key in ("prov:activity", "prov:informed", "prov:starter", "prov:ender"):
        return "lab:a1"
    if key == "prov:informant":
        return "lab:a2"
    if key in ("prov:agent", "prov:delegate", "prov:responsible"):
        return "lab:g1"
    if key in ("prov:generation", "prov:usage"):
        return "lab:wasGeneratedBy/1" if key == "prov:generation" else "lab:used/1"
    return (
        "lab:e2" if key in ("prov:usedEntity", "prov:generalEntity", "prov:trigger") else "lab:e1"
    )


def _odd() -> Iterator[Statement]:
    names = [ODD, "a b", "..", ".", "a/b%2F", "x" * 10_000, "=',():;[]", "\U0001f600", "-", "1"]
    for n, name in enumerate(names):
        local = f"lab:param/{segment(name)}/{n}"
        texts = (("prov:label", name), ("prov:value", name * 2), ("p4:text", ""))
        yield Element("entity", local, texts)
        yield Relation("used", ("lab:a1", local), (("p4:why", name),), START)
        yield Relation("wasDerivedFrom", (local, "lab:e1", None, None, None))
    yield Element("activity", "lab:a1", (("prov:label", Literal(ODD, "xsd:string")),), START)
    yield Element(
        "entity", "lab:e1", (("p4:ends", "\\"), ("p4:quotes", "\"\"\"'''"), ("p4:nl", "\r\n"))
    )


def _many(count: int) -> Iterator[Statement]:
    yield Element("activity", "lab:a1", (), START, START)
    for n in range(count // 2):
        yield Element("entity", f"lab:e{n}", (("prov:label", "a long text " * 80),))
        yield Relation("wasGeneratedBy", (f"lab:e{n}", "lab:a1"), (), START + n)


def _picture(text: str) -> Picture:
    spark = Sparkline("loss", (2.3, float("nan"), 0.5, float("inf"), 0.02))
    run = Box("run", "activity", text, "finished", (text, "2 ranks"), text, "https://lab.example/r")
    inside = Box("training", "activity", "training", inside="run")
    data = Box("data", "entity", text, "dataset", (text,) * 6, text, "https://lab.example/d")
    curve = Box("series", "entity", "training", lines=(text,), sparklines=(spark,))
    model = Box("model", "entity", text, "17 of 20", emphasis=True)
    arrows = (Arrow("training", "data", "used"), Arrow("model", "training", text, dashed=True))
    person = Box("alice", "agent", text)
    return Picture(
        text, text, person, (data,), (run, inside), (curve, model), arrows, "nothing left out"
    )
