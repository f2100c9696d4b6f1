"""Datasets of every kind: true counts, what is part of what, hashes on request."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils import data as td

from prov4ml import datasets, tables
from prov4ml import events as ev
from prov4ml.dataset_facts import describe
from prov4ml.errors import UsageError
from prov4ml.references import Reference
from prov4ml.testing.records import RUN, Record

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

SPLIT = f"https://lab.example/run/{RUN}/split/"


def put(
    record: Record, dataset: Any, label: str = "data", context: str | None = None, **more: Any
) -> Reference:
    given = {"copy": True, "hash": False, "about": None, "derived_from": None, **more}
    return datasets.log_dataset(record.recorder, dataset, label, context, **given)


def splits(record: Record) -> list[ev.Split]:
    return [event for event in record.events if isinstance(event, ev.Split)]


class Squares(td.Dataset[Any]):
    """A map-style dataset."""

    def __init__(self, size: int = 100) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index * index


class Endless(td.IterableDataset[Any]):
    """Nobody knows how long it is."""

    def __iter__(self) -> Any:
        yield from range(10**9)


class Counted(td.IterableDataset[Any]):
    """Iterable, and says how long it is (too short)."""

    def __iter__(self) -> Any:
        yield from range(103)

    def __len__(self) -> int:
        return 103


# --------------------------------------------------------------------------- torch counts


def loader(dataset: Any = None, **options: Any) -> td.DataLoader[Any]:
    return td.DataLoader(Squares(103) if dataset is None else dataset, **options)


class Pairs(td.Sampler[list[int]]):
    """A batch sampler of the user's own."""

    def __iter__(self) -> Any:
        yield from ([n, n + 1] for n in range(0, 20, 2))

    def __len__(self) -> int:
        return 10


class Unsized(td.Sampler[int]):
    def __iter__(self) -> Any:
        yield from range(5)


GENERATOR = torch.Generator().manual_seed(7)
CASES: dict[str, tuple[td.DataLoader[Any], dict[str, Any]]] = {
    "plain": (
        loader(batch_size=10),
        {"batch_size": 10, "batches": 11, "samples": 103, "drop_last": False, "shuffle": False},
    ),
    "drop last": (
        loader(batch_size=10, drop_last=True, shuffle=True, num_workers=1),
        {
            "batch_size": 10,
            "batches": 10,
            "samples": 100,
            "dataset_samples": 103,
            "drop_last": True,
            "shuffle": True,
            "workers": 1,
        },
    ),
    "larger than the data": (
        loader(batch_size=500, drop_last=True),
        {"batch_size": 500, "batches": 0, "samples": 0, "dataset_samples": 103},
    ),
    "seeded": (loader(batch_size=1, shuffle=True, generator=GENERATOR), {"seed": 7}),
    "random subset": (
        loader(batch_size=10, sampler=td.SubsetRandomSampler(range(25), GENERATOR)),
        {"batches": 3, "samples": 25, "dataset_samples": 103, "shuffle": True, "seed": 7},
    ),
    "weighted": (
        loader(batch_size=10, sampler=td.WeightedRandomSampler([1.0] * 103, 40)),
        {"batches": 4, "samples": 40, "dataset_samples": 103, "replacement": True},
    ),
    "distributed": (
        loader(
            batch_size=10,
            sampler=td.DistributedSampler(Squares(103), 4, 1, shuffle=True, seed=5),
        ),
        {
            "batches": 3,
            "samples": 26,
            "dataset_samples": 103,
            "shuffle": True,
            "seed": 5,
            "replicas": 4,
            "replica": 1,
        },
    ),
    "batch sampler": (
        loader(batch_sampler=td.BatchSampler(td.SequentialSampler(range(50)), 8, True)),
        {"batch_size": 8, "batches": 6, "samples": 48, "dataset_samples": 103, "drop_last": True},
    ),
    "own batch sampler": (
        loader(batch_sampler=Pairs()),
        {"batches": 10, "length": "unknown", "dataset_samples": 103, "batch_size": None},
    ),
    "no batches": (
        loader(batch_size=None),
        {"batches": 103, "samples": 103, "batch_size": None},
    ),
    "sampler without length": (
        loader(batch_size=2, sampler=Unsized()),
        {"length": "unknown", "batches": None, "samples": None, "dataset_samples": 103},
    ),
    "endless": (
        loader(Endless(), batch_size=4, num_workers=1),
        {"length": "unknown", "batches": None, "samples": None, "shuffle": None, "workers": 1},
    ),
    "iterable with a length": (
        loader(Counted(), batch_size=10),
        {"batches": 11, "samples": 103, "shuffle": None},
    ),
    "iterable, drop last": (
        loader(Counted(), batch_size=10, drop_last=True),
        {"batches": 10, "samples": 100, "dataset_samples": 103},
    ),
    "iterable, no batches": (
        loader(Counted(), batch_size=None),
        {"batches": 103, "samples": 103},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_counts_of_a_loader_are_true(name: str) -> None:
    """What a pass over it gives is what it is said to give; what nobody knows is not said."""
    made, wanted = CASES[name]
    facts = describe(made).facts
    assert {key: facts.get(key) for key in wanted} == wanted
    if name != "endless" and not name.startswith("sampler"):
        rounds = list(iter(_serial(made)))
        assert facts["batches"] == len(rounds)
        if "samples" in facts:
            sizes = [len(b) if isinstance(b, torch.Tensor) and b.ndim else 1 for b in rounds]
            assert facts["samples"] == sum(sizes)


def _serial(made: td.DataLoader[Any]) -> Any:
    made.num_workers = 0  # the same pass, without processes
    return made


def test_asking_leaves_no_trace_in_an_iterable_loader() -> None:
    """torch remembers that its length was asked, and warns when there is more; it was not."""

    class Wrong(Counted):
        def __len__(self) -> int:
            return 3

    made = loader(Wrong(), batch_size=1)
    describe(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(made)) == 103


# ----------------------------------------------------------------- parts of parts of data


def test_a_split_is_derived_from_its_dataset(record: Record) -> None:
    """A loader over a subset of a logged dataset: a split that the context used."""
    whole = Squares(100)
    made = put(record, whole, "squares")
    train, test = td.random_split(whole, [80, 20])
    assert put(record, loader(train, batch_size=8), "train", "training") == made
    assert put(record, test, "test", "testing") == made
    told = record.told()
    for name, context, samples in (("train", "training", 80), ("test", "testing", 20)):
        assert [b for _, b, *_ in told.relations("wasDerivedFrom", SPLIT + name)] == [made.iri]
        assert told.facts(SPLIT + name)["p4:samples"] == [samples]
        (used,) = told.relations("used", None, SPLIT + name)
        assert used[0].endswith(f"/context/{context}")
    assert len(record.artifacts) == 1


def test_a_dataset_that_was_not_logged_is(record: Record) -> None:
    """It gets a name of its own, once for all its parts."""
    first, second = td.random_split(Squares(10), [5, 5])
    one = put(record, first, "one")
    assert put(record, second, "two") == one
    assert one.name == "Squares of one"
    assert record.artifact(one).attributes["samples"] == 10


def test_splits_of_splits(record: Record) -> None:
    """Each is derived from the split that it is part of, and from the dataset."""
    whole = Squares(100)
    made = put(record, whole, "squares")
    train, _ = td.random_split(whole, [80, 20])
    inner, _ = td.random_split(train, [60, 20])
    put(record, train, "train")
    put(record, inner, "inner")
    put(record, loader(inner, batch_size=6), "batches", "training")
    told = record.told()
    assert [(s.name, s.parent) for s in splits(record)] == [
        ("train", ""),
        ("inner", "train"),
        ("batches", "inner"),
    ]
    assert {b for _, b, *_ in told.relations("wasDerivedFrom", f"{SPLIT}batches")} == {
        made.iri,
        f"{SPLIT}inner",
    }


def test_splits_that_name_each_other_make_no_circle(record: Record) -> None:
    """Whatever a producer says, only the later one is derived from the earlier one."""
    to = record.recorder
    for name, parent in (("a", "b"), ("b", "a"), ("a", "b"), ("c", "c")):
        to.append(ev.Split(to.now(), name, (), None, {}, parent))
    told = record.told()
    assert [names[:2] for names in told.relations("wasDerivedFrom")] == [
        (f"{SPLIT}b", f"{SPLIT}a"),
    ]


def test_a_joined_dataset_is_derived_from_its_parts(record: Record) -> None:
    """Those that were logged; their number is said."""
    one, two, three = Squares(3), Squares(4), Squares(5)
    first, second = put(record, one, "one"), put(record, two, "two")
    made = put(record, td.ConcatDataset([one, two, three]), "all")
    assert record.artifact(made).attributes["parts"] == 3
    assert record.artifact(made).attributes["samples"] == 12
    assert set(record.told().sources(made)) == {first.iri, second.iri}


def test_a_dataset_is_known_as_long_as_it_lives(record: Record) -> None:
    """It is not kept alive, and another one in its place is not taken for it."""
    whole = Squares()
    put(record, whole, "first")
    key = id(whole)
    del whole
    gc.collect()
    assert key not in record.recorder.datasets
    for n in range(200):
        put(record, [n], f"list {n}")  # lists have no weak references
    assert len(record.recorder.datasets) <= 101


def test_a_loader_that_is_its_own_dataset_ends(record: Record) -> None:
    """Objects that point at themselves are described once."""

    class Circle:
        batch_size = 1

        @property
        def dataset(self) -> Any:
            return self

        def __len__(self) -> int:
            return 3

    put(record, Circle(), "circle")
    (split,) = splits(record)
    assert split.attributes["batches"] == 3


def test_a_part_of_a_known_dataset_has_no_sources_of_its_own(record: Record) -> None:
    """What the dataset came from is said where the dataset is logged."""
    raw = put(record, [1], "raw")
    whole = Squares()
    made = put(record, whole, "squares", derived_from=raw)
    assert set(record.told().sources(made)) == {raw.iri}
    with pytest.raises(UsageError, match="is a part of 'squares', which was logged before"):
        put(record, loader(whole), "train", derived_from=raw)
    other = put(record, loader(Squares(5)), "other", derived_from="raw")
    assert set(record.told().sources(other)) == {raw.iri}


# ---------------------------------------------------------------------- arrays and tables


def test_arrays_say_shape_and_type() -> None:
    """NumPy arrays and tensors; their first dimension is the samples."""
    for array, kind in ((np.zeros((5, 2), "f4"), "float32"), (torch.zeros(5, 2), "torch.float32")):
        facts = describe(array).facts
        assert (facts["shape"], facts["dtype"], facts["samples"]) == ("[5, 2]", kind, 5)
    assert "samples" not in describe(np.float32(3)).facts
    assert describe(td.TensorDataset(torch.zeros(4, 2), torch.zeros(4))).facts | {} == {
        "class": "torch.utils.data.dataset.TensorDataset",
        "samples": 4,
        "shapes": "[[4, 2], [4]]",
    }


FRAME = {"a": [1, 2, 3], "b": ["x", "y", None]}


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        (pd.DataFrame(FRAME), {"a": "int64", "b": "(object|str)"}),
        (pl.DataFrame(FRAME), {"a": "Int64", "b": "String"}),
        (pa.table(FRAME), {"a": "int64", "b": "string"}),
    ],
    ids=["pandas", "polars", "arrow"],
)
def test_tables_say_columns_and_types(record: Record, table: Any, schema: dict[str, str]) -> None:
    """Shape, schema and samples, in the words of each library."""
    import re

    facts = record.artifact(put(record, table)).attributes
    assert (facts["shape"], facts["samples"], facts["columns"]) == ("[3, 2]", 3, 2)
    told = json.loads(str(facts["schema"]))
    assert list(told) == list(schema)
    assert all(re.fullmatch(kind, told[name]) for name, kind in schema.items())
    assert "fingerprint" not in facts


def test_a_table_of_very_many_columns_fits() -> None:
    """The first columns are told, and how many more there are."""
    wide = pd.DataFrame(np.zeros((1, 5000)), columns=[f"column {n}" for n in range(5000)])
    facts = describe(wide).facts
    told = json.loads(str(facts["schema"]))
    assert facts["columns"] == 5000
    assert len(str(facts["schema"])) <= 4000
    assert told["..."] == f"{5000 - len(told) + 1} more"


def test_a_hash_names_the_values() -> None:
    """Equal values have one hash, however they lie in memory; others have another."""
    square = np.arange(12.0).reshape(3, 4)
    sliced = np.arange(24.0).reshape(3, 8)[:, ::2] / 2
    assert (
        tables.digest(square) == tables.digest(np.asfortranarray(square)) == tables.digest(sliced)
    )
    assert tables.digest(torch.tensor(square)) == tables.digest(square)
    big = np.arange(3_000_000, dtype="f8").reshape(3, -1)
    assert tables.digest(big) == tables.digest(np.asfortranarray(big))
    different = [
        square,
        square + 1,
        square.reshape(4, 3),
        square.astype("f4"),
        pd.DataFrame(FRAME),
        pd.DataFrame({"a": [1, 2, 3], "c": ["x", "y", None]}),
        pd.DataFrame(FRAME, index=[1, 2, 3]),
        pa.table(FRAME),
        pa.table({**FRAME, "a": [1, 2, 4]}),
        pl.DataFrame({**FRAME, "a": [1, 2, 4]}),
    ]
    assert len({tables.digest(each) for each in different}) == len(different)
    arrow = pa.table(FRAME)
    chunked = pa.concat_tables([arrow.slice(0, 1), arrow.slice(1)])
    assert tables.digest(chunked) == tables.digest(arrow)
    assert tables.digest(arrow.replace_schema_metadata({"k": "v"})) == tables.digest(arrow)
    assert tables.digest(pl.DataFrame(FRAME)) == tables.digest(pl.DataFrame(FRAME))
    assert tables.digest(pd.DataFrame(FRAME)) == tables.digest(pd.DataFrame(FRAME).copy())
    assert tables.digest(np.zeros((0, 3))) != tables.digest(np.zeros((0, 4)))


def test_a_hash_on_request(record: Record) -> None:
    """It stands with the dataset; of a subset it is that of its indices."""
    frame = pd.DataFrame(FRAME)
    assert record.artifact(put(record, frame, hash=True)).attributes[
        "fingerprint"
    ] == tables.digest(frame)
    whole = Squares(10)
    for indices in ([1, 2, 3], np.array([1, 2, 3]), torch.tensor([1, 2, 3]), range(1, 4)):
        put(record, td.Subset(whole, indices), "part", hash=True)  # type: ignore[arg-type]
    assert len({s.attributes["indices"] for s in splits(record)}) == 1


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ([1, 2], "a list has no values to hash"),
        (Squares(), "a Squares has no values to hash"),
        (np.array([object()]), "an array of Python objects"),
        (pd.DataFrame({"a": [{}, []]}), "cannot be hashed: TypeError"),
        (loader(), "cannot be hashed as indices"),
    ],
    ids=["list", "dataset", "objects", "unhashable", "loader"],
)
def test_what_cannot_be_hashed(record: Record, thing: Any, text: str) -> None:
    """An error, since it was asked for."""
    with pytest.raises(UsageError, match=text):
        put(record, thing, hash=True)
    assert splits(record) == record.artifacts == []


# ------------------------------------------------------------------------- other datasets


def test_mappings_and_tuples_of_arrays() -> None:
    """Bunches, dicts of columns, (X, y): samples where all agree."""
    bunch = {"data": np.zeros((7, 2)), "target": np.zeros(7), "DESCR": "text", "names": ["a", "b"]}
    facts = describe(bunch).facts
    assert (facts["samples"], json.loads(str(facts["names"]))) == (7, list(bunch))
    assert json.loads(str(facts["shapes"])) == {"data": [7, 2], "target": [7]}
    assert describe({"a": [1, 2], "b": [3, 4]}).facts["samples"] == 2
    assert describe({"a": [1, 2], "b": [3]}).facts["length"] == "unknown"
    assert describe((np.zeros((5, 2)), np.zeros(5))).facts["samples"] == 5
    assert describe((np.zeros((5, 2)), np.zeros(4))).facts["length"] == "unknown"
    assert describe([1, 2, 3]).facts["samples"] == 3
    assert describe(iter([1])).facts["length"] == "unknown"


def test_scikit_learns_own(record: Record) -> None:
    """The digits as scikit-learn gives them."""
    from sklearn.datasets import load_digits

    facts = record.artifact(put(record, load_digits())).attributes
    assert facts["samples"] == 1797


class Features(dict[str, Any]):
    pass


Features.__module__ = "datasets.features"


class Arrow:
    """What a Hugging Face dataset looks like: the attributes that theirs has."""

    _fingerprint = "0123456789abcdef"
    split = "train"
    builder_name = "imdb"
    config_name = "plain_text"
    version = "1.0.0"
    features = Features(text="Value('string')", label="ClassLabel(names=['neg', 'pos'])")

    def __len__(self) -> int:
        return 25_000


Arrow.__module__ = "datasets.arrow_dataset"


def test_what_looks_like_a_hugging_face_dataset() -> None:
    """Fingerprint, split, name and schema, without its package."""
    facts = describe(Arrow()).facts
    assert facts["class"] == "datasets.arrow_dataset.Arrow"
    assert {k: facts[k] for k in ("fingerprint", "split", "builder", "config", "samples")} == {
        "fingerprint": "0123456789abcdef",
        "split": "train",
        "builder": "imdb",
        "config": "plain_text",
        "samples": 25_000,
    }
    assert list(json.loads(str(facts["schema"]))) == ["text", "label"]


def test_hugging_face_itself(record: Record) -> None:
    """A dataset, its splits, a streamed one, and a loader over it, where it is installed."""
    hf = pytest.importorskip("datasets")
    table = hf.table.InMemoryTable(pa.table(FRAME))
    made = hf.Dataset(table, split=hf.Split.TRAIN, fingerprint="0123456789abcdef")
    facts = record.artifact(put(record, made, "frame")).attributes
    assert (facts["fingerprint"], facts["split"]) == ("0123456789abcdef", "train")
    assert (facts["samples"], facts["columns"]) == (3, 2)
    assert list(json.loads(str(facts["schema"]))) == ["a", "b"]
    both = describe(hf.DatasetDict({"train": made, "test": made})).facts
    assert json.loads(str(both["splits"])) == {"train": 3, "test": 3}
    assert describe(made.to_iterable_dataset()).facts["length"] == "unknown"
    batches = put(record, loader(made, batch_size=2), "batches", "training")
    assert batches.name == "frame"


# ---------------------------------------------------------------------------------- files


def test_files_folders_patterns_and_urls(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is kept; a folder or pattern is referred to, each file hashed where it lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("a.csv", "d/b.csv", "d/c.txt"):
        (tmp_path / name).write_text(name)
    cases = [
        (put(record, "a.csv", "file", "training"), 1, {}),
        (put(record, Path("d"), "folder"), 0, {"files": 2, "total_size": 14}),
        (put(record, "d/*.csv", "pattern"), 0, {"files": 1, "total_size": 7, "pattern": "d/*.csv"}),
        (put(record, "s3://bucket/d/", "remote"), 0, {"remote": True}),
        (put(record, "a.csv", "referred", copy=False), 0, {}),
    ]
    state = record.state()
    for reference, copies, facts in cases:
        event = record.artifact(reference)
        assert (event.kind, event.use) == ("dataset", "used")
        assert event.attributes == facts
        assert bool(event.incoming) == bool(copies)
    stored = {a.name: state.stored.get((b"p" * 16, a.n)) for a in record.artifacts}
    for name in ("folder/b.csv", "pattern/b.csv", "referred"):
        kept = stored[name]
        assert kept is not None
        assert kept.sha256 is not None
        assert kept.path is None
    told = record.told()
    assert "mls:Dataset" in told.facts(cases[1][0].iri)["prov:type"]


CROISSANT = {
    "@context": {"@vocab": "https://schema.org/", "dct": "http://purl.org/dc/terms/"},
    "@type": "sc:Dataset",
    "name": "digits",
    "dct:conformsTo": "http://mlcommons.org/croissant/1.0",
    "url": "https://ann:pw@data.example/digits?token=geheim",
    "license": ["https://spdx.org/licenses/MIT"],
    "version": 2,
}


def test_croissant_tells_of_itself(record: Record, tmp_path: Path) -> None:
    """Name, link, licence, version, conformity; a JSON file that is none is a file."""
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(CROISSANT))
    wanted = {
        "croissant": True,
        "dataset": "digits",
        "url": "https://***@data.example/digits?token=***",
        "license": "https://spdx.org/licenses/MIT",
        "version": "2",
        "conforms_to": "http://mlcommons.org/croissant/1.0",
    }
    assert record.artifact(put(record, path)).attributes == wanted
    facts = record.artifact(put(record, np.zeros(3), about=path)).attributes
    assert wanted.items() <= facts.items()
    link = record.artifact(put(record, [1], about="https://u:p@x.example/c.json")).attributes
    assert link["croissant"] == "https://***@x.example/c.json"
    for text in ("[]", "{}", "", "nonsense", '{"@type": "Person"}', "[" * 100_000):
        path.write_text(text)
        assert record.artifact(put(record, path)).attributes == {}
        with pytest.raises(UsageError, match="describes no dataset in Croissant's terms"):
            put(record, [1], about=path)


# ---------------------------------------------------------------------------- wrong input


class Raising:
    """Nothing can be asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")

    def __len__(self) -> int:
        raise MemoryError("no length")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Closed:
    """Not even its class can be asked for."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("closed")


class Lying:
    """Its attributes are of no use."""

    shape = ("a", object())
    dtype = Raising()
    columns = 7
    batch_size = "many"
    dataset = None
    datasets = Raising()
    tensors = 3

    def __len__(self) -> int:
        return int("-1")


@pytest.mark.parametrize("make", [Raising, Lying, object, int, lambda: open])
def test_objects_that_tell_nothing_are_described_as_that(record: Record, make: Any) -> None:
    """Their class, and that their length is unknown; the call does not raise."""
    facts = record.artifact(put(record, make())).attributes
    assert facts["length"] == "unknown"
    assert "class" in facts
    record.told()


def test_wrong_arguments(record: Record, tmp_path: Path) -> None:
    """Each is named, and nothing is written."""
    (tmp_path / "a").touch()
    for error, text, words, more in (
        (TypeError, "dataset must be", (None,), {}),
        (TypeError, "label must be a string", ([1], 7), {}),
        (UsageError, "label must not be empty", ([1], ""), {}),
        (TypeError, "context must be a string", ([1], "a", 7), {}),
        (UsageError, "dataset: there is no file", (tmp_path / "missing", "a"), {}),
        (UsageError, "dataset: there is no file", (str(tmp_path / "missing.json"), "a"), {}),
        (UsageError, "hash: files are hashed anyway", (tmp_path / "a", "a"), {"hash": True}),
        (TypeError, "croissant must be a path", ([1], "a"), {"about": 7}),
        (UsageError, "there is no file", ([1], "a"), {"about": tmp_path / "missing"}),
        (UsageError, "dataset: a .*Closed cannot be described", (Closed(), "a"), {}),
    ):
        with pytest.raises(error, match=text):
            put(record, *words, **more)
    assert record.events == []
