"""Versions of models: how each kind is saved, what is said of it, what cannot be saved."""

from __future__ import annotations

import io
import json
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prov4ml import handover
from prov4ml.checkpoints import log_version
from prov4ml.errors import MissingExtra, UsageError
from prov4ml.references import Reference
from prov4ml.testing.records import RUN, Record


def save(
    record: Record, model: Any, name: str = "m", kind: str = "checkpoint", **more: Any
) -> Reference:
    context, step = more.pop("context", None), more.pop("step", None)
    return log_version(record.recorder, kind, model, name, context, step, **more)


def stored(record: Record, reference: Reference) -> bytes:
    kept = record.state().stored[b"p" * 16, reference.n]
    assert kept.path is not None, kept.error
    return (record.run / kept.path).read_bytes()


class Net(nn.Module):
    """One layer that is trained, one that is not, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.head = nn.Linear(3, 2, dtype=torch.float64)
        self.head.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(2))


def test_a_torch_module_is_its_state_dict(record: Record) -> None:
    """Parameters, trainable, types, bytes, device; and the weights can be loaded again."""
    model = Net()
    made = save(record, model, context="training", step=7, epoch=2)
    event = record.artifact(made)
    assert (event.kind, event.step, event.epoch, event.use) == ("checkpoint", 7, 2, "generated")
    facts = dict(event.attributes)
    assert facts.pop("layers") == 1
    assert facts == {
        "format": "torch",
        "class": f"{__name__}.Net",
        "parameters": 23,
        "trainable": 15,
        "dtype": "float32, float64",
        "bytes": 15 * 4 + 8 * 8 + 2 * 4,
        "device": "cpu",
    }
    again = Net()
    again.load_state_dict(torch.load(io.BytesIO(stored(record, made)), weights_only=True))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_the_layers_are_a_file(record: Record) -> None:
    """A line each, written once and again when the layers change; every version names it."""
    model = Net()
    first, second = save(record, model), save(record, model)
    model.body.append(nn.Dropout(0.5))
    third = save(record, model)
    other = save(record, Net(), "other")
    files = [a for a in record.artifacts if a.kind == "layers"]
    assert [a.name for a in files] == ["layers of m", "layers of m", "layers of other"]
    numbers = [record.artifact(each).attributes["layers"] for each in (first, second, third, other)]
    assert numbers == [files[0].n, files[0].n, files[1].n, files[2].n]
    told = record.told()
    (named,) = told.facts(first.iri)["p4:layers"]
    iri = told.iri(str(named))
    assert told.facts(iri)["prov:type"] == ["p4:LayerTree"]
    assert list(told.relations("wasGeneratedBy", iri))
    lines = stored(record, Reference(files[0].n, "", "layers", RUN, iri)).decode().splitlines()
    tree = [json.loads(line) for line in lines]
    assert [layer["name"] for layer in tree] == ["", "body", "body.0", "body.1", "head"]
    assert tree[2]["detail"] == "in_features=4, out_features=3, bias=True"
    assert [layer["parameters"] for layer in tree] == [0, 0, 15, 0, 8]
    assert [layer["trainable"] for layer in tree] == [0, 0, 15, 0, 0]


def test_the_weights_are_those_of_the_call(record: Record) -> None:
    """They may move as soon as it returns."""
    model = nn.Linear(2, 1)
    wanted = model.weight.detach().clone()
    made = save(record, model)
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(torch.load(io.BytesIO(stored(record, made)))["weight"], wanted)


def test_final_model_and_checkpoint_of_one_content(record: Record) -> None:
    """The same weights saved again: two occurrences, one content, one stored file."""
    model = nn.Linear(2, 1)
    one, two = save(record, model), save(record, model, kind="model")
    told = record.told()
    contents = [
        [b for _, b in told.relations("specializationOf", each.iri) if "/sha256/" in b]
        for each in (one, two)
    ]
    assert contents[0] == contents[1]
    assert told.sources(two) == {one.iri: ["prov:Revision"]}
    assert told.attributes("wasGeneratedBy", two.iri) == ["p4:finalModel"]


@pytest.mark.parametrize("nested", [False, True])
def test_state_dicts(record: Record, nested: bool) -> None:
    """Also those that hold an optimizer's beside the model's."""
    model = nn.Linear(2, 1)
    state: Any = model.state_dict()
    if nested:
        state = {
            "epoch": 3,
            "model": state,
            "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        }
    made = save(record, state)
    facts = record.artifact(made).attributes
    assert (facts["format"], facts["parameters"], facts["dtype"]) == ("torch", 3, "float32")
    assert "trainable" not in facts
    torch.load(io.BytesIO(stored(record, made)))


def test_scikit_learn(record: Record) -> None:
    """Its parameters, features and classes; it can be unpickled."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=0.5).fit(np.eye(3), [0, 1, 2])
    made = save(record, model, kind="model")
    facts = record.artifact(made).attributes
    assert (facts["format"], facts["features"], facts["classes"]) == ("pickle", 3, 3)
    assert json.loads(str(facts["params"]))["C"] == 0.5
    assert pickle.loads(stored(record, made)).C == 0.5
    pipeline = record.artifact(save(record, make_pipeline(StandardScaler(), model))).attributes
    assert "StandardScaler" in str(pipeline["params"])


def test_lightgbm(record: Record) -> None:
    """A booster saves itself, its estimator is pickled."""
    lgb = pytest.importorskip("lightgbm")
    data = lgb.Dataset(np.random.default_rng(0).random((50, 2)), label=np.arange(50) % 2)
    booster = lgb.train({"verbosity": -1, "num_threads": 1}, data, num_boost_round=2)
    made = save(record, booster)
    assert record.artifact(made).attributes["format"] == "save_model"
    assert stored(record, made).startswith(b"tree")
    estimator = lgb.LGBMClassifier(n_estimators=1)
    facts = record.artifact(save(record, estimator)).attributes
    assert (facts["format"], json.loads(str(facts["params"]))["n_estimators"]) == ("pickle", 1)


def test_safetensors(record: Record) -> None:
    """Asked for, and installed: of modules (shared weights too) and of state dicts."""
    load = pytest.importorskip("safetensors.torch").load
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    for thing in (model, nn.Linear(2, 1).state_dict()):
        made = save(record, thing, format="safetensors")
        assert record.artifact(made).attributes["format"] == "safetensors"
        assert load(stored(record, made))
    with pytest.raises(UsageError, match="safetensors holds tensors"):
        save(record, {"a": 1}, format="safetensors")


def test_safetensors_that_are_not_installed(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error holds the pip line."""
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prov4ml\[safetensors\]'"):
        save(record, nn.Linear(1, 1), format="safetensors")
    assert record.artifacts == []


class SavesFile:
    def save(self, path: str) -> None:
        Path(path).write_bytes(b"file")


class SavesFolder:
    """As Hugging Face's models do."""

    def save_pretrained(self, folder: str) -> None:
        for name in ("config.json", "weights/model.bin"):
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_text(name)


class SavesOne:
    """A folder with one file in it."""

    def save_pretrained(self, folder: str) -> None:
        (Path(folder) / "config.json").write_text("{}")


class SavesNothing:
    def save_model(self, path: str) -> None:
        pass


class FailsLate:
    def save(self, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("no more")


def test_models_that_save_themselves(record: Record) -> None:
    """One file is the model; several are a collection whose members are files."""
    one = save(record, SavesFile())
    assert (stored(record, one), record.artifact(one).attributes["format"]) == (b"file", "save")
    single = save(record, SavesOne())
    assert stored(record, single) == b"{}"
    assert record.artifact(single).media_type == "application/json"
    many = save(record, SavesFolder(), "tuned", derived_from=one)
    told = record.told()
    members = [b for _, b in told.relations("hadMember", many.iri)]
    labels = [told.facts(m)["prov:label"][0] for m in members]
    assert labels == ["tuned/config.json", "tuned/weights/model.bin"]
    assert "prov:Collection" in told.facts(many.iri)["prov:type"]
    assert set(told.sources(many)) == {one.iri}
    assert all(list(told.relations("specializationOf", m)) for m in members)
    left = list((record.run / "artifacts" / ".incoming").iterdir())
    assert not [path for path in left if path.is_dir()]


def test_hugging_faces_mixin(record: Record) -> None:
    """``save_pretrained`` of the real library, where it is installed."""
    hub = pytest.importorskip("huggingface_hub")

    class Tiny(nn.Module, hub.PyTorchModelHubMixin):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

    assert record.artifact(save(record, Tiny())).attributes["format"] == "torch"
    made = save(record, Tiny(), format="native")
    names = {a.name for a in record.artifacts if a.folder == made.n}
    assert "m/model.safetensors" in names


def test_a_path_is_a_model(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a folder, a URL: kept or referred to, typed as a version."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "w.bin").write_bytes(b"w")
    made = save(record, "ckpt/w.bin")
    assert (stored(record, made), record.artifact(made).attributes) == (b"w", {"format": "bin"})
    folder = save(record, "ckpt")
    base = save(record, "hf://bert/base", "base", is_input=True)
    told = record.told()
    assert "p4:ModelVersion" in told.facts(folder.iri)["prov:type"]
    (member,) = (b for _, b in told.relations("hadMember", folder.iri))
    assert told.facts(member)["prov:type"] == ["p4:Artifact"]
    assert told.attributes("used", None, base.iri) == ["p4:inputModel"]
    with pytest.raises(UsageError, match="format: a file or folder is kept as it is"):
        save(record, "ckpt/w.bin", format="pickle")


# ---------------------------------------------------------------------------- wrong input


class Raising:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Mute:
    """Nothing can be asked of it, not even by pickle."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("closed")


class SavesWrongly:
    def save(self) -> None:
        """Takes no path."""


class Endless(nn.Module):
    def state_dict(self, *_: Any, **__: Any) -> Any:
        raise ValueError("no state")


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


UNSAVABLE: dict[str, tuple[Any, str]] = {
    "lambda": (lambda: lambda: 0, "cannot be saved"),
    "lock": (threading.Lock, "a _thread.lock cannot be saved: TypeError"),
    "raising": (Raising, "cannot be saved: RuntimeError: not me"),
    "mute": (Mute, "cannot be saved"),
    "deep": (deep, "cannot be saved: RecursionError"),
    "generator": (lambda: (n for n in ()), "cannot be saved"),
    "wrong save": (SavesWrongly, "cannot be saved: TypeError"),
    "fails late": (FailsLate, "cannot be saved: RuntimeError: no more"),
    "saves nothing": (SavesNothing, "save_model of a .*SavesNothing wrote no file"),
    "no state": (Endless, "cannot be saved: ValueError: no state"),
}


@pytest.mark.parametrize("name", UNSAVABLE)
def test_a_model_that_cannot_be_saved_is_an_error(record: Record, name: str) -> None:
    """At once, with the reason; nothing of it is left."""
    make, text = UNSAVABLE[name]
    with pytest.raises(UsageError, match=text):
        save(record, make())
    assert [a for a in record.artifacts if a.kind != "layers"] == []
    incoming = record.run / "artifacts" / ".incoming"
    left = [p for p in incoming.iterdir() if p.name.endswith(".d")] if incoming.exists() else []
    assert left == []


@pytest.mark.parametrize("name", UNSAVABLE)
def test_with_warn_it_is_a_gap_in_the_record(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``on_error="warn"``: the training goes on, and the version stands there without its bytes."""
    record = Record(tmp_path, lenient=True)
    make, _ = UNSAVABLE[name]
    made = save(record, make(), context="training")
    assert "m is not saved" in caplog.text
    told = record.told()
    assert "p4:notStored" in told.facts(made.iri)
    assert list(told.relations("wasGeneratedBy", made.iri))
    record.close()


@pytest.mark.parametrize(
    ("words", "more", "error", "text"),
    [
        ((None,), {}, TypeError, "model must be a model, a path or bytes, not None"),
        ((b"w", 7), {}, TypeError, "model_name must be a string"),
        ((b"w", ""), {}, UsageError, "model_name must not be empty"),
        ((b"w",), {"step": "x"}, TypeError, "step must be an integer"),
        ((b"w",), {"epoch": 1.5}, TypeError, "epoch must be an integer"),
        ((b"w",), {"context": 7}, TypeError, "context must be a string"),
        ((object(),), {"format": "onnx"}, UsageError, "format must be one of torch"),
        ((object(),), {"format": 7}, TypeError, "format must be a string"),
        ((object(),), {"format": "torch"}, UsageError, "is no torch module and no state dict"),
        ((object(),), {"format": "native"}, UsageError, "has no save method of its own"),
        (("missing.pt",), {}, UsageError, "model: there is no file 'missing.pt'"),
        (("/dev/zero",), {}, UsageError, "is a device, not a file"),
    ],
)
def test_wrong_arguments(
    record: Record, words: tuple[Any, ...], more: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Each is named, before anything is written."""
    with pytest.raises(error, match=text):
        save(record, *words, **more)
    assert record.events == []


class Preempted(Exception):
    """What somebody's signal handler raises."""


class Slow:
    """Takes its time to be saved: until a signal comes."""

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return (int, ())


@pytest.mark.parametrize("error", [Preempted, TimeoutError, OSError, MemoryError])
@pytest.mark.parametrize("lenient", [False, True])
def test_what_a_signal_handler_raises_is_not_ours(
    tmp_path: Path, error: type[Exception], lenient: bool
) -> None:
    """It reaches whoever set the handler, as it is; nothing half-saved is left."""
    record = Record(tmp_path, lenient=lenient)

    def handler(*_: Any) -> None:
        raise error("time is up")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(error, match="time is up"):
            save(record, Slow())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert record.artifacts == []
    assert list((record.run / "artifacts" / ".incoming").iterdir()) == []
    record.close()


def test_a_full_disk_is_a_warning(
    record: Record, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the kind of model: the call returns, and the record says what is missing."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handover, "written", full)
    made = [save(record, thing) for thing in (b"w", {"a": 1}, nn.Linear(1, 1))]
    monkeypatch.undo()
    told = record.told()
    for each in made:
        assert told.facts(each.iri)["p4:notStored"] == ["No space left on device"]
    assert "m is not kept: No space left on device" in caplog.text


def test_a_disk_that_fills_up_while_torch_writes(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch tells its own story of it; it is still no error of the caller."""
    limit, real = 4096, open

    def opened(file: Any, *words: Any, **more: Any) -> Any:
        made = real(file, *words, **more)
        if isinstance(file, int):
            inner = made.write

            def bounded(data: Any) -> int:
                if made.tell() + len(data) > limit:
                    raise OSError(28, "No space left on device")
                return int(inner(data))

            class Bounded:
                def __getattr__(self, name: str) -> Any:
                    return bounded if name == "write" else getattr(made, name)

                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *_: Any) -> None:
                    made.close()

            return Bounded()
        return made

    monkeypatch.setattr("builtins.open", opened)
    made = save(record, nn.Linear(100, 100))
    monkeypatch.undo()
    assert record.artifact(made).attributes["notStored"] == "No space left on device"
