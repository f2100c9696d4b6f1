"""Files, folders, patterns, URLs and things that are no files: what is kept, what is refused."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import socket
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prov4ml import artifacts, handover, paths
from prov4ml.artifacts import log_artifact, log_artifacts
from prov4ml.errors import UsageError
from prov4ml.inputs import log_input, log_output
from prov4ml.references import Reference
from prov4ml.testing.records import Record


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    made = tmp_path / "w"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


def put(record: Record, *words: Any, **more: Any) -> Reference:
    name, path, context, step, *_ = (*words, None, None, None, None)
    given = {"is_input": False, "copy": True, "derived_from": None, **more}
    return log_artifact(record.recorder, name, path, context, step, **given)


def stored(record: Record, reference: Reference) -> bytes:
    """The bytes that the collector has put where their hash says."""
    state = record.state()
    (found,) = [kept for (_, n), kept in state.stored.items() if n == reference.n]
    assert found.path is not None, found.error
    return (record.run / found.path).read_bytes()


# ---------------------------------------------------------------------------------- files


def test_a_file_is_safe_when_the_call_returns(record: Record, folder: Path) -> None:
    """What happens to the original afterwards does not matter."""
    (folder / "a.csv").write_bytes(b"1,2\n")
    made = put(record, "a.csv", None, "training", 3, epoch=1)
    (folder / "a.csv").unlink()
    event = record.artifact(made)
    assert (event.name, event.location, event.size) == ("a.csv", "a.csv", 4)
    assert (event.media_type, event.context) == ("text/csv", ("training",))
    assert (event.step, event.epoch, event.use) == (3, 1, "generated")
    assert event.attributes == {}
    assert stored(record, made) == b"1,2\n"


@pytest.mark.parametrize("size", [0, 1, 8 << 20, (8 << 20) + 1, 20 << 20])
def test_copies_are_exact(record: Record, folder: Path, size: int) -> None:
    """Empty, smaller and larger than a chunk, whatever way the kernel copies."""
    data = os.urandom(min(size, 1 << 20)) * (size // (1 << 20) + 1)
    (folder / "data.bin").write_bytes(data[:size])
    assert stored(record, put(record, "data.bin")) == data[:size]


@pytest.mark.parametrize("way", ["_by_range", "_by_sendfile", "_by_hand"])
def test_each_way_of_copying_goes_on_where_another_failed(
    record: Record, folder: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A file system that knows one of them only."""
    data = os.urandom(3 << 20)
    (folder / "data.bin").write_bytes(data)
    for other in {"_by_range", "_by_sendfile"} - {way}:

        def refuse(*_: int) -> int:
            raise OSError(95, "not supported")

        monkeypatch.setattr(handover, other, refuse)
    assert stored(record, put(record, "data.bin")) == data


def test_a_file_that_says_it_is_empty_is_read(record: Record) -> None:
    """Files of /proc have size 0 and content."""
    made = put(record, "/proc/version")
    assert stored(record, made) == Path("/proc/version").read_bytes()


def test_a_file_that_grows_is_kept_as_long_as_it_was(
    record: Record, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The copy has an end although the file has none, and the change is said."""
    path = folder / "log.txt"
    path.write_bytes(b"x" * 1000)
    copy = handover._by_hand

    def growing(source: int, target: int, at: int, count: int) -> int:
        with path.open("ab") as file:  # as fast as it is copied
            file.write(b"y" * 10_000)
        return copy(source, target, at, min(count, 100))

    for name in ("_by_range", "_by_sendfile", "_by_hand"):
        monkeypatch.setattr(handover, name, growing)
    made = put(record, path)
    assert record.artifact(made).attributes == {"changed_while_copied": True}
    assert stored(record, made) == b"x" * 1000
    assert "log.txt changed while it was copied" in caplog.text
    assert record.told().facts(made.iri)["p4:changed_while_copied"] == [True]


def test_a_file_that_shrinks_is_kept_as_far_as_it_goes(
    record: Record, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for bytes that are gone."""
    path = folder / "log.txt"
    path.write_bytes(b"x" * 1000)

    def shrinking(source: int, target: int, at: int, count: int) -> int:
        os.truncate(path, 300)
        return os.copy_file_range(source, target, min(count, 100), at, at)

    monkeypatch.setattr(handover, "_by_range", shrinking)
    made = put(record, path)
    assert stored(record, made) == b"x" * 300
    assert record.artifact(made).attributes == {"changed_while_copied": True}


def test_a_reference_is_hashed_where_it_lies(record: Record, folder: Path) -> None:
    """``copy=False``: nothing is stored, the content is known all the same."""
    (folder / "big.bin").write_bytes(b"big")
    made = put(record, "big.bin", copy=False)
    (kept,) = record.state().stored.values()
    assert (kept.path, kept.size, len(kept.sha256 or "")) == (None, 3, 64)
    assert record.artifact(made).location == str(folder / "big.bin")
    assert not (record.run / "artifacts").exists()


@pytest.mark.parametrize("change", ["size", "time", "gone", "pipe"])
def test_a_reference_that_changed_is_noticed(record: Record, folder: Path, change: str) -> None:
    """The document says so, and claims no content."""
    path = folder / "big.bin"
    path.write_bytes(b"big")
    made = put(record, path, copy=False)
    if change == "size":
        path.write_bytes(b"bigger")
    elif change == "time":
        os.utime(path, ns=(0, 12345))
    else:
        path.unlink()
        if change == "pipe":
            os.mkfifo(path)
    told = record.told()
    (why,) = told.facts(made.iri)["p4:notStored"]
    expected = {"gone": "No such file or directory", "pipe": "is no file"}
    assert why == expected.get(change, "changed after it was logged")
    assert list(told.relations("specializationOf", made.iri)) == []


def test_the_same_bytes_twice_are_one_content(record: Record, folder: Path) -> None:
    """One stored copy, one content entity, two occurrences."""
    (folder / "a").write_bytes(b"same")
    one, two = put(record, "a"), put(record, "b", b"same")
    told = record.told()
    contents = {b for each in (one, two) for _, b in told.relations("specializationOf", each.iri)}
    assert len(contents) == 1
    files = [p for p in (record.run / "artifacts").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in files if ".incoming" not in p.parts] == [b"same"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9.txt", b"new\nline", b"a\x01b", b" ", b"-", "日本.txt".encode()]
)
@pytest.mark.parametrize("copy", [True, False])
def test_odd_file_names(record: Record, folder: Path, name: bytes, copy: bool) -> None:
    """Names that are no UTF-8 too: a text stands for them, and the bytes are found again."""
    (folder / os.fsdecode(name)).write_bytes(name)
    made = put(record, os.fsdecode(name), copy=copy)
    (kept,) = record.state().stored.values()
    assert kept.size == len(name), kept.error
    event = record.artifact(made)
    assert event.location is not None
    (event.name + event.location).encode()
    assert record.told().facts(made.iri)["prov:label"] == [event.name]


# ----------------------------------------------------------------------- what is no file


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must end by itself; a hang ends the tests, and shows where."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("pipe", "is a pipe, not a file"),
        ("socket", "is a socket, not a file"),
        ("/dev/zero", "is a device, not a file"),
        ("loop", "there is no file .*symbolic links"),
        ("dangling", "there is no file"),
        ("missing", "there is no file"),
        ("file/below", "there is no file .*Not a directory"),
        ("nul\0", "is no path"),
        ("long" * 2000, "there is no file .*too long"),
        ("", "artifact_path must not be empty"),
        ("*.none", "no file matches"),
        ("none/*.txt", "there is no folder 'none'"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    record: Record, folder: Path, copy: bool, kind: str, text: str
) -> None:
    """Pipes, sockets, devices, loops: an error that says what it is, never a wait."""
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    os.symlink("loop", "loop")
    os.symlink("nothing", "dangling")
    (folder / "file").touch()
    with within(20), pytest.raises(UsageError, match=text) as caught:
        put(record, "name", kind, copy=copy)
    assert len(str(caught.value)) < 400
    assert record.artifacts == []


@pytest.mark.parametrize("argument", [7, 1.5, object(), None, {1, 2}, lambda: 0])
def test_wrong_types_are_type_errors(record: Record, argument: Any) -> None:
    """They name the argument and what may stand there."""
    with pytest.raises(TypeError, match=r"artifact_path|artifact_name"):
        put(record, "name" if argument is not None else None, argument)
    assert record.artifacts == []


def test_wrong_words_beside_the_thing(record: Record, folder: Path) -> None:
    """Name, step, context and text are checked before anything is written."""
    (folder / "a").touch()
    for error, text, words, more in (
        (TypeError, "artifact_name must be a string", (7, "a"), {}),
        (UsageError, "artifact_name has 20,000 bytes", ("n" * 20_000, "a"), {}),
        (UsageError, "artifact_name must not be empty", ("", "a"), {}),
        (TypeError, "step must be an integer", ("n", "a", None, 1.5), {}),
        (TypeError, "context must be a string", ("n", "a", 7), {}),
        (TypeError, "epoch must be an integer", ("n", "a"), {"epoch": "x"}),
        (TypeError, "text must be a string", ("n",), {"text": 7}),
        (UsageError, "artifact_path or text, not both", ("n", "a"), {"text": "x"}),
        (UsageError, "give artifact_name|artifact_name must be", (b"bytes",), {}),
    ):
        with pytest.raises((error, TypeError), match=text):
            put(record, *words, **more)
    assert record.artifacts == []
    assert not (record.run / "artifacts").exists()


# ------------------------------------------------------------------- folders and patterns


def plant(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_folder_is_a_collection_of_its_files(record: Record, folder: Path) -> None:
    """An occurrence of the folder and one of each file, in the order of their names."""
    plant(folder, "plots/b.txt", "plots/a/c.txt", "plots/a.txt")
    made = log_artifacts(
        record.recorder, "plots", None, None, None, is_input=False, copy=True, derived_from=None
    )
    told = record.told()
    names = [a.name for a in record.artifacts]
    assert names == ["plots", "plots/a/c.txt", "plots/a.txt", "plots/b.txt"]
    assert record.artifact(made).attributes == {"files": 3, "total_size": 35}
    assert "prov:Collection" in told.facts(made.iri)["prov:type"]
    members = [b for _, b in told.relations("hadMember", made.iri)]
    assert [told.facts(m)["prov:label"][0] for m in members] == names[1:]
    assert all(list(told.relations("wasGeneratedBy", m)) for m in [made.iri, *members])


def test_an_empty_folder_is_an_occurrence(record: Record, folder: Path) -> None:
    """It has no members, and says that it holds no files."""
    (folder / "empty").mkdir()
    made = put(record, "empty")
    assert record.artifact(made).attributes == {"files": 0, "total_size": 0}
    assert list(record.told().relations("hadMember", made.iri)) == []


def test_loops_of_links_and_odd_entries_end(
    record: Record, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each folder is entered once; what is no file is left out, counted and said."""
    plant(folder, "d/a.txt", "d/inner/b.txt", "elsewhere/c.txt")
    for name, target in (("d/up", ".."), ("d/self", "."), ("d/inner/top", "../.."), ("d/x", "x")):
        os.symlink(target, name)
    os.symlink("../elsewhere", "d/linked")
    os.mkfifo("d/pipe")
    with within(20):
        made = put(record, "d")
    names = [a.name for a in record.artifacts[1:]]
    assert sorted(names) == ["d/a.txt", "d/inner/b.txt", "d/inner/top/elsewhere/c.txt"]
    facts = record.artifact(made).attributes
    assert facts["left_out"] == 2
    assert "d/pipe: is no file" in caplog.text


def test_files_without_end_are_a_list(
    record: Record, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of very many files is one occurrence, its content the list of them."""
    monkeypatch.setattr(artifacts, "_MANY", 5)
    plant(folder, *(f"many/{n}.txt" for n in range(6)))
    with pytest.raises(UsageError, match="more than 5 files: copy=False keeps a list"):
        put(record, "many")
    made = put(record, "many", copy=False)
    lines = stored(record, made).decode().splitlines()
    status = (folder / "many/0.txt").stat()
    assert lines[0] == f"0.txt\t10\t{status.st_mtime_ns}"
    assert len(lines) == 6
    facts = record.artifact(made).attributes
    assert facts == {"files": 6, "total_size": 60, "content": "list of files"}
    assert len(record.artifacts) == 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("d/*.txt", ["a.txt", "b.txt"]),
        ("d/?.t[xy]t", ["a.txt", "b.txt"]),
        ("d/[!a].txt", ["b.txt"]),
        ("d/**/*.txt", ["a.txt", "b.txt", "in/c.txt", "in/deep/d.txt"]),
        ("d/**", ["a.txt", "b.txt", "e.csv", "in/c.txt", "in/deep/d.txt"]),
        ("d/*/c.txt", ["in/c.txt"]),
        ("*/in/**/d.txt", ["d/in/deep/d.txt"]),
        ("d/.*", [".hidden.txt"]),
        ("d/*.(+)", ["odd.(+)"]),
    ],
)
def test_patterns(record: Record, folder: Path, pattern: str, names: list[str]) -> None:
    """As in ``glob``: what matches is a collection, named by its path inside the folder."""
    plant(folder, "d/a.txt", "d/b.txt", "d/e.csv", "d/in/c.txt", "d/in/deep/d.txt")
    plant(folder, "d/.hidden.txt", "d/.git/f.txt")
    if "(" in pattern:
        plant(folder, "d/odd.(+)")
    made = put(record, "found", pattern)
    found = [a.name.removeprefix("found/") for a in record.artifacts[1:]]
    assert sorted(found) == names
    assert record.artifact(made).attributes["pattern"] == pattern


def test_a_file_with_a_star_in_its_name_is_itself(record: Record, folder: Path) -> None:
    """What is there is taken as it is."""
    plant(folder, "a*.txt", "ab.txt")
    put(record, "a*.txt")
    assert [a.name for a in record.artifacts] == ["a*.txt"]


# ------------------------------------------------------------------------------------ URLs


def test_a_url_is_a_reference(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never fetched; user, password and signature do not stand in the log."""

    def never(*_: Any) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", never)
    url = "https://ann:geheim@data.example/d/set.csv?X-Amz-Signature=geheim&v=2#token=geheim"
    made = put(record, url)
    event = record.artifact(made)
    assert event.name == "set.csv"
    assert event.location == "https://***@data.example/d/set.csv?X-Amz-Signature=***&v=2#token=***"
    assert b"geheim" not in b"".join(p.read_bytes() for p in record.run.parent.rglob("*.seg"))
    assert record.state().stored == {}
    (place,) = record.told().facts(made.iri)["prov:location"]
    assert getattr(place, "datatype", None) == "xsd:anyURI"
    assert record.artifact(put(record, "next", b"", derived_from=event.location)).derived == (1,)


def test_a_file_url_is_the_file(record: Record, folder: Path) -> None:
    """``file:///`` is a path, percent-encoded."""
    plant(folder, "a b.txt")
    made = put(record, "name", (folder / "a b.txt").as_uri())
    assert stored(record, made) == b"a b.txt"


# --------------------------------------------------------------- things that are no files


def test_bytes_text_and_json(record: Record) -> None:
    """They become files of the type that their name says."""
    cases: list[tuple[str, Any, dict[str, Any], bytes, str | None]] = [
        ("a.bin", b"\0\1", {}, b"\0\1", "application/octet-stream"),
        ("b", bytearray(b"x"), {}, b"x", None),
        ("c.bin", memoryview(b"abcd")[::1], {}, b"abcd", "application/octet-stream"),
        ("empty", b"", {}, b"", None),
        ("notes.md", None, {"text": "é \ud800"}, "é \\ud800".encode(), "text/markdown"),
        ("words", None, {"text": "x"}, b"x", "text/plain"),
        ("list.json", [1, "ü"], {}, '[\n  1,\n  "ü"\n]'.encode(), "application/json"),
    ]
    for name, thing, more, wanted, kind in cases:
        made = put(record, name, thing, **more)
        assert stored(record, made) == wanted
        assert record.artifact(made).media_type == kind


def test_values_in_a_dict_that_json_does_not_know(record: Record) -> None:
    """NumPy's are their numbers, paths and others their text."""
    given = {"f": np.float32(0.5), "a": np.arange(3), "p": Path("/x"), "t": (1, 2), 3: None}
    made = put(record, "d", given)
    assert json.loads(stored(record, made)) == {
        "f": 0.5,
        "a": [0, 1, 2],
        "p": "/x",
        "t": [1, 2],
        "3": None,
    }


def test_streams_are_read_in_pieces(record: Record, folder: Path) -> None:
    """Open files, bytes or text, to their end; nothing but a piece is ever held."""
    plant(folder, "open.txt")
    sizes: list[int] = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size or -1)
            return super().read(size)

    data = os.urandom(5 << 20)
    assert stored(record, put(record, "s", Counting(data))) == data
    assert max(sizes) <= 1 << 20
    assert min(sizes) > 0
    with open("open.txt") as file:
        assert stored(record, put(record, "t", file)) == b"open.txt"
    assert stored(record, put(record, "u", io.StringIO("é\ud800"))) == "é\\ud800".encode()


def test_arrays_are_npy_files(record: Record) -> None:
    """They can be loaded again; objects cannot be written."""
    array = np.arange(12, dtype="<f4").reshape(3, 4)[:, ::2]
    made = put(record, "a.npy", array)
    assert np.array_equal(np.load(io.BytesIO(stored(record, made))), array)
    with pytest.raises(UsageError, match=r"a numpy.ndarray cannot be written"):
        put(record, "b.npy", np.array([object()]))


def circle() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["self"] = made
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


class Raising:
    """Nothing can be asked of it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


class Stream:
    """Reads what it is told to."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = list(pieces)

    def read(self, size: int) -> Any:
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece


@pytest.mark.parametrize(
    ("thing", "error", "text"),
    [
        (circle(), UsageError, "cannot be written as JSON: ValueError: Circular"),
        (deep(), UsageError, "cannot be written as JSON: RecursionError"),
        ({"a": Raising()}, UsageError, "cannot be written as JSON: RuntimeError: no text"),
        ({(1, 2): 3}, UsageError, "cannot be written as JSON: TypeError: keys must be"),
        (Raising(), TypeError, "artifact_path must be a path.*not Raising"),
        (Stream(b"a", ValueError("broken")), UsageError, "cannot be read: ValueError: broken"),
        (Stream(b"a", 7), UsageError, "cannot be read: TypeError: read.* gave int"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_things_that_cannot_be_written_down(
    record: Record, thing: Any, error: type[Exception], text: str
) -> None:
    """A clear error, and nothing of them is left."""
    with pytest.raises(error, match=text):
        put(record, "thing", thing)
    assert record.artifacts == []
    incoming = record.run / "artifacts" / ".incoming"
    assert not incoming.exists() or list(incoming.iterdir()) == []


def test_a_text_of_100_mb_is_a_file(record: Record) -> None:
    """As content it is kept; as a name, a path or a context it is a short error."""
    text = "x" * 100_000_000
    made = put(record, "long.txt", text=text)
    assert record.artifact(made).size == 100_000_000
    for words in ((text, "a"), ("n", text), ("n", "a", text)):
        with pytest.raises(UsageError) as caught:
            put(record, *words)
        assert len(str(caught.value)) < 300


def figure_of(library: str, **methods: Any) -> Any:
    kind = type("Figure", (), {"__module__": f"{library}.figure", **methods})
    return kind()


def test_figures_are_drawn_in_the_format_of_their_name(record: Record) -> None:
    """Matplotlib's by ``savefig``, Plotly's as a page or JSON, PNG or HTML without an ending."""
    seen: list[Any] = []

    def savefig(self: Any, file: Any, format: str) -> None:
        seen.append(format)
        file.write(format.encode())

    mpl = figure_of("matplotlib", savefig=savefig)
    for name, wanted in (("a.svg", b"svg"), ("b", b"png"), ("c.pdf", b"pdf")):
        assert stored(record, put(record, name, mpl)) == wanted
    assert record.artifacts[1].media_type == "image/png"
    plotly = figure_of(
        "plotly",
        to_html=lambda self, include_plotlyjs: f"<html>{include_plotlyjs}",
        to_json=lambda self: "{}",
        to_image=lambda self, format: format.encode(),
    )
    for name, wanted in (("a.html", b"<html>cdn"), ("b", b"<html>cdn"), ("c.json", b"{}")):
        assert stored(record, put(record, name, plotly)) == wanted
    assert stored(record, put(record, "d.webp", plotly)) == b"webp"


def test_a_figure_that_cannot_be_drawn(record: Record) -> None:
    """What the library says is in the error."""

    def savefig(self: Any, file: Any, format: str) -> None:
        raise ValueError(f"Format {format!r} is not supported")

    with pytest.raises(UsageError, match="cannot be drawn: ValueError: Format 'xyz'"):
        put(record, "a.xyz", figure_of("matplotlib", savefig=savefig))


def test_real_figures(record: Record) -> None:
    """Matplotlib, Pillow and Plotly themselves, where they are installed."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import figure

    drawn = figure.Figure()
    drawn.subplots().plot([1, 2])
    assert stored(record, put(record, "a.png", drawn)).startswith(b"\x89PNG")
    assert b"<svg" in stored(record, put(record, "a.svg", drawn))
    image = pytest.importorskip("PIL.Image").new("RGB", (2, 2))
    assert stored(record, put(record, "b.jpg", image)).startswith(b"\xff\xd8")
    assert stored(record, put(record, "b", image)).startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="cannot be drawn"):
        put(record, "b.nonsense", image)


def test_plotly_itself(record: Record) -> None:
    """A page and JSON."""
    graph = pytest.importorskip("plotly.graph_objects")
    drawn = graph.Figure(graph.Scatter(y=[1, 2]))
    assert b"<html>" in stored(record, put(record, "a.html", drawn))
    assert json.loads(stored(record, put(record, "a.json", drawn)))["data"]


# --------------------------------------------------------------------- trouble with disks


def test_a_disk_that_takes_no_more(
    record: Record, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, and the occurrence says why its bytes are missing; no call raises."""
    plant(folder, "a.txt")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handover, "written", full)
    made = [put(record, "a.txt"), put(record, "b", b"x"), put(record, "c", {"a": 1})]
    monkeypatch.undo()
    told = record.told()
    for each in made:
        assert told.facts(each.iri)["p4:notStored"] == ["No space left on device"]
    assert "a.txt is not kept: No space left on device" in caplog.text
    assert record.state().stored == {}


# ------------------------------------------------------------------- log_input, log_output


def test_inputs_and_outputs_of_any_kind(record: Record, folder: Path) -> None:
    """Each thing is what the call for its kind makes of it, used or generated."""
    plant(folder, "in.csv", "out.csv")
    given = {"copy": True, "derived_from": None}

    def taken(thing: Any, name: str | None = None) -> Reference:
        return log_input(record.recorder, thing, name, None, None, **given)  # type: ignore[arg-type]

    def gave(thing: Any, name: str | None = None) -> Reference:
        return log_output(record.recorder, thing, name, None, None, **given)  # type: ignore[arg-type]

    expected = [
        (taken("in.csv"), "artifact", "in.csv", "used"),
        (taken("in.csv", "first"), "artifact", "first", "used"),
        (taken({"a": 1}, "settings"), "artifact", "settings", "used"),
        (taken(np.zeros((3, 2)), "x"), "dataset", "x", "used"),
        (taken(range(5)), "dataset", "range", "used"),
        (gave("out.csv"), "artifact", "out.csv", "generated"),
        (gave(np.zeros(3), "y.npy"), "artifact", "y.npy", "generated"),
        (gave(b"bytes"), "artifact", "bytes", "generated"),
    ]
    for reference, kind, name, use in expected:
        event = record.artifact(reference)
        assert (event.kind, event.name, event.use) == (kind, name, use)
    with pytest.raises(UsageError, match="there is no file"):
        taken("a prompt")
    with pytest.raises(TypeError, match="not None"):
        taken(None)
    with pytest.raises(TypeError, match="not object"):
        gave(object())


def test_numbers_that_go_in_and_come_out(record: Record) -> None:
    """Each says its value, exactly or as text, and is named by its turn when nobody names it."""
    given = {"copy": True, "derived_from": None}
    told = []
    for number in (3, 0.5, True, 1 << 70, Decimal("0.1"), Fraction(1, 3), 1j, np.int8(7)):
        into = log_input(record.recorder, number, None, "training", 1, **given)  # type: ignore[arg-type]
        out = log_output(record.recorder, number, None, None, None, **given)  # type: ignore[arg-type]
        told.append((into, out))
    values = [record.artifact(into).attributes["value"] for into, _ in told]
    assert values == [3, 0.5, True, str(1 << 70), "0.1", "1/3", "1j", 7]
    names = [(record.artifact(i).name, record.artifact(o).name) for i, o in told]
    assert names == [(f"input {n}", f"output {n}") for n in range(1, 9)]
    first = record.artifact(told[0][0])
    assert (first.kind, first.use, first.context, first.step) == (
        "artifact",
        "used",
        ("training",),
        1,
    )
    assert first.incoming is None
    named = log_output(record.recorder, np.float32(2), "answer", None, None, **given)  # type: ignore[arg-type]
    assert record.artifact(named).name == "answer"
    zero = log_input(record.recorder, np.array(4), None, None, None, **given)  # type: ignore[arg-type]
    assert record.artifact(zero).attributes["value"] == 4


def test_a_model_that_is_an_output(record: Record) -> None:
    """An estimator is a final model, named after its class."""
    linear = pytest.importorskip("sklearn.linear_model")
    made = log_output(
        record.recorder,
        linear.LinearRegression(),
        None,
        None,
        None,
        copy=True,
        derived_from=None,
    )
    assert (made.kind, made.name) == ("model", "LinearRegression")


def test_walking_asks_nothing_twice(folder: Path) -> None:
    """A thousand files: the statuses that the walk has seen are those that it gives."""
    plant(folder, *(f"d{n % 10}/{n}" for n in range(1000)))
    walk = paths.Walk(folder)
    found = list(walk.files())
    assert len({below for below, _, _ in found}) == 1000
    assert all(path == folder / below for below, path, _ in found)
    assert walk.left_out == 0
