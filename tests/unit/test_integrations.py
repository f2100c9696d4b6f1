"""The wrappers: what they log, and that what they wrap stays what it was."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prov4ml
from prov4ml import current
from prov4ml.errors import UsageError
from prov4ml.integrations import figures, models

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """A small network with all that may be treated wrongly: buffers, modes, plain attributes."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(4, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, 2)
        self.rate = 0.5

    def forward(self, x: Any) -> Any:
        x = self.norm(self.first(x)).relu()
        return self.last(nn.functional.dropout(x, self.rate, self.training))


class Told:
    """A run that only remembers what it is told."""

    id = "0190b6f2"
    active = True

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, Any, Any]] = []
        self.params: dict[str, Any] = {}
        self.files: dict[str, dict[str, Any]] = {}

    def log_metric(self, key: str, value: Any, context: Any = None, step: Any = None) -> None:
        number = value.item() if isinstance(value, torch.Tensor) else float(value)
        self.metrics.append((key, number, context, step))

    def log_param(self, key: str, value: Any) -> None:
        self.params[key] = value

    def log_artifact(self, name: str, path: Path, context: Any, step: Any) -> None:
        with np.load(path) as file:
            self.files[name] = dict(file)

    def steps(self, key: str) -> list[Any]:
        return [step for name, _, _, step in self.metrics if name == key]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """The current run."""
    run = Told()
    monkeypatch.setattr(current, "_run", run)
    return run


@pytest.fixture
def model() -> Any:
    torch.manual_seed(7)
    return Net()


X = torch.arange(24.0).reshape(6, 4)
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "model": lambda m: prov4ml.ProvenanceTrackedModel("net", m, every=1),
    "weights": lambda m: prov4ml.WeightDistributionTrackedModel("net", m),
    "function": prov4ml.ProvenanceTrackedFunction,
    "both": lambda m: prov4ml.WeightDistributionTrackedModel(
        "net", prov4ml.ProvenanceTrackedModel("net", m, every=1)
    ),
}


@pytest.fixture(params=WRAPPERS)
def wrap(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return WRAPPERS[request.param]


# ----------------------------------------------------------- a module stays what it was


def test_the_wrapper_is_the_module(model: Any, wrap: Callable[[Any], Any]) -> None:
    """Its class, state dict, parameters, attributes and text; in both directions."""
    wrapped = wrap(model)
    assert isinstance(wrapped, Net)
    assert isinstance(wrapped, nn.Module)
    assert repr(wrapped) == repr(model)
    assert list(wrapped.state_dict()) == list(model.state_dict())
    assert all(a is b for a, b in zip(wrapped.parameters(), model.parameters(), strict=True))
    wrapped.rate = 0.25
    assert model.rate == 0.25
    model.extra = nn.Linear(2, 2)
    assert "extra.weight" in wrapped.state_dict()
    del wrapped.extra
    assert not hasattr(model, "extra")
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'missing'"):
        wrapped.missing  # noqa: B018


def test_modes_devices_and_types_are_shared(model: Any, wrap: Callable[[Any], Any]) -> None:
    """``eval``, ``train`` and ``to`` act on the one module and give the wrapper back."""
    wrapped = wrap(model)
    assert wrapped.eval() is wrapped
    assert (model.training, model.norm.training) == (False, False)
    assert torch.equal(wrapped(X), model(X))
    model.train()
    assert wrapped.training
    assert wrapped.to(torch.float64) is wrapped
    assert model.first.weight.dtype == torch.float64
    assert wrapped.requires_grad_(False) is wrapped
    assert not any(p.requires_grad for p in model.parameters())


def test_training_through_the_wrapper_is_training_of_the_module(
    model: Any, wrap: Callable[[Any], Any], told: Told
) -> None:
    """The same seeds give the same weights, bit for bit, tracked or not."""

    def train(module: Any) -> Any:
        torch.manual_seed(3)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            module(X).square().mean().backward()
            optimizer.step()
        return module.state_dict()

    alone = train(copy.deepcopy(model))
    tracked = train(wrap(model))
    assert all(torch.equal(alone[name], tracked[name]) for name in alone)


def test_hooks_of_the_user_run_and_none_of_ours_stay(
    model: Any, wrap: Callable[[Any], Any], told: Told
) -> None:
    """On the wrapper, on layers, before and behind; afterwards there are no others."""
    wrapped = wrap(model)
    seen: list[str] = []
    wrapped.register_forward_hook(lambda *_: seen.append("after"))
    wrapped.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.first.register_forward_hook(lambda *_: seen.append("layer"))
    wrapped(X)
    assert seen == ["before", "layer", "after"]
    counts = {name: len(m._forward_hooks) for name, m in wrapped.named_modules()}
    assert counts == {"": 1, "first": 1, "norm": 0, "last": 0}


def test_an_error_in_the_module_is_the_users_and_leaves_no_hook(
    model: Any, wrap: Callable[[Any], Any], told: Told
) -> None:
    """It comes through unchanged."""
    wrapped = wrap(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        wrapped(torch.zeros(2, 3))
    assert not any(m._forward_hooks for m in wrapped.modules())


@pytest.mark.parametrize(
    "again",
    [
        copy.deepcopy,
        copy.copy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: torch.load(_saved(m), weights_only=False),
    ],
    ids=["deepcopy", "copy", "pickle", "torch.save"],
)
def test_a_copy_of_the_wrapper_is_a_wrapper_of_a_copy(
    model: Any, wrap: Callable[[Any], Any], again: Callable[[Any], Any]
) -> None:
    """With the same weights, its own attributes, and of all kinds that it was."""
    wrapped = wrap(model).eval()
    other = again(wrapped)
    assert type(other) is type(wrapped)
    assert set(other._prov4ml) == set(wrapped._prov4ml)
    assert torch.equal(other(X), wrapped(X))
    other.rate = 0.75
    assert wrapped.rate == 0.5
    plain = pickle.loads(pickle.dumps(model))
    assert type(plain) is Net


def _saved(thing: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


def test_a_state_dict_goes_both_ways(model: Any, wrap: Callable[[Any], Any]) -> None:
    """Saved from the wrapper, loaded by a plain module, and back."""
    wrapped = wrap(model)
    other = Net()
    other.load_state_dict(torch.load(_saved(wrapped.state_dict())))
    assert torch.equal(other.first.weight, model.first.weight)
    wrapped.load_state_dict(Net().state_dict())
    assert not torch.equal(other.first.weight, model.first.weight)


def test_the_wrapper_is_a_layer_like_any(model: Any, wrap: Callable[[Any], Any]) -> None:
    """Inside of another module, and made anew by its own class."""
    wrapped = wrap(model)
    outer = nn.Sequential(wrapped, nn.ReLU())
    assert outer(X).shape == (6, 2)
    assert next(iter(outer.state_dict())) == "0.first.weight"
    fresh = type(wrapped)(16)
    assert fresh.first.out_features == 16
    assert fresh(X).shape == (6, 2)


@pytest.mark.parametrize("thing", [None, len, "net", object()])
def test_what_is_no_module_is_refused(thing: Any) -> None:
    """By name of the argument."""
    with pytest.raises(TypeError, match="model must be a torch module"):
        prov4ml.ProvenanceTrackedModel("net", thing)
    with pytest.raises(TypeError, match="model must be a torch module"):
        prov4ml.WeightDistributionTrackedModel("net", thing)


def test_a_class_that_leaves_no_room_is_refused() -> None:
    """One with slots of its own cannot be put below another."""

    class Tight(nn.Module):  # type: ignore[misc, name-defined]
        __slots__ = ("own",)

    with pytest.raises(UsageError, match="a Tight cannot be wrapped"):
        prov4ml.WeightDistributionTrackedModel("tight", Tight())


def test_the_example_of_the_page_works(told: Told) -> None:
    """Its code is run as it stands, with a small network and data of that shape."""
    page = Path(__file__).parents[2] / "prov4ml" / "docs" / "logging.md"
    blocks = [block.split("```")[0] for block in page.read_text().split("```python\n")[1:]]
    (code,) = (block for block in blocks if "ProvenanceTrackedModel" in block)
    network = nn.Sequential()
    network.add_module("encoder", nn.Linear(4, 1))
    space: dict[str, Any] = {
        "prov4ml": prov4ml,
        "torch": torch,
        "network": network,
        "data": torch.utils.data.TensorDataset(X, X[:, :1]),
        "DataLoader": torch.utils.data.DataLoader,
    }
    exec(code, space)
    ((x, y, index),) = space["loader"]
    space["loss_of"](space["tracked"](x), y)
    space["tracked"].log_epoch(0)
    assert index.tolist() == list(range(6))
    keys = {key for key, *_ in told.metrics}
    assert {"MSELoss", "net/encoder/mean", "net/encoder.weight/std"} <= keys


# --------------------------------------------------------------------------- activations


def test_layers_are_described_every_nth_call_in_training(model: Any, told: Told) -> None:
    """Four series a layer; the step is the number of the call; evaluation is not described."""
    wrapped = prov4ml.ProvenanceTrackedModel("net", model, "training", every=3)
    for _ in range(7):
        wrapped(X)
    wrapped.eval()
    wrapped(X)
    keys = {key for key, *_ in told.metrics}
    assert keys == {
        f"net/{layer}/{figure}"
        for layer in ("first", "norm", "last")
        for figure in ("mean", "std", "min", "max")
    }
    assert told.steps("net/first/mean") == [0, 3, 6]
    assert {context for _, _, context, _ in told.metrics} == {"training"}


def test_the_figures_are_those_of_the_layers_output(model: Any, told: Told) -> None:
    """Against NumPy, in double precision."""
    wrapped = prov4ml.ProvenanceTrackedModel("net", model.double(), every=1, layers=["first"])
    wrapped(X.double())
    wanted = model.first(X.double()).detach().numpy()
    found = {key.split("/")[-1]: value for key, value, *_ in told.metrics}
    assert found == pytest.approx(
        {
            "mean": wanted.mean(),
            "std": wanted.std(),
            "min": wanted.min(),
            "max": wanted.max(),
        }
    )


def test_without_a_run_a_model_is_only_called(model: Any) -> None:
    """And its calls are not counted."""
    wrapped = prov4ml.ProvenanceTrackedModel("net", model)
    assert wrapped(X).shape == (6, 2)
    assert wrapped._prov4ml[prov4ml.ProvenanceTrackedModel].calls == 0


def test_a_layer_that_is_used_twice_and_outputs_of_other_kinds(told: Told) -> None:
    """The first output counts; of tuples and dicts the first tensor; what has none is left out."""

    class Odd(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3)
            self.again = nn.Linear(3, 3)
            self.none = nn.Identity()

        def forward(self, x: Any) -> Any:
            x, _ = self.lstm(x)
            self.none(None)
            return {"out": self.again(self.again(x))}

    wrapped = prov4ml.ProvenanceTrackedModel(
        "odd", Odd(), layers=["lstm", "again", "none", ""], every=1
    )
    wrapped(X)
    assert told.steps("odd/again/mean") == [0]
    assert told.steps("odd/lstm/mean") == [0]
    assert told.steps("odd/mean") == [0]
    assert told.steps("odd/none/mean") == []


def test_many_layers_are_bounded_and_wrong_ones_refused(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """The first 32 with weights; the nearest name of a wrong one; at most 256 by choice."""
    deep = nn.Sequential(*(nn.Linear(4, 4) for _ in range(300)))
    wrapped = prov4ml.ProvenanceTrackedModel("deep", deep, every=1)
    wrapped(X)
    assert len(told.metrics) == 32 * 4
    assert "deep has 300 layers with weights: the first 32" in caplog.text
    with pytest.raises(UsageError, match="unknown layer: 'firts'; did you mean 'first'"):
        prov4ml.ProvenanceTrackedModel("net", Net(), layers=["firts"])
    with pytest.raises(UsageError, match="300 are chosen, at most 256"):
        prov4ml.ProvenanceTrackedModel("deep", deep, layers=map(str, range(300)))
    with pytest.raises(TypeError, match="layers must be a list of names, not str"):
        prov4ml.ProvenanceTrackedModel("net", Net(), layers="first")
    with pytest.raises(UsageError, match="every must be 1 or more, not 0"):
        prov4ml.ProvenanceTrackedModel("net", Net(), every=0)
    alone = prov4ml.ProvenanceTrackedModel("one", nn.Linear(4, 2), every=1)
    alone(X)
    assert told.steps("one/mean") == [0]


def test_arrays_go_to_a_file_when_asked_and_are_bounded(
    model: Any, told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At most ``chunk_size`` samples, in half precision too; a bound on all of a run."""
    size = 4 * (8 + 8 + 2) * 4  # bytes: samples, numbers a sample, bytes a number
    monkeypatch.setattr(models, "_BYTES", 2 * size)
    wrapped = prov4ml.ProvenanceTrackedModel("net", model, None, 4, every=1, arrays=True)
    for _ in range(3):
        wrapped(X)
    assert list(told.files) == ["net/activations/0.npz", "net/activations/1.npz"]
    assert {name: a.shape for name, a in told.files["net/activations/0.npz"].items()} == {
        "first": (4, 8),
        "norm": (4, 8),
        "last": (4, 2),
    }
    assert "activations of net: no more arrays" in caplog.text
    half = prov4ml.ProvenanceTrackedModel("half", nn.Linear(4, 2).bfloat16(), every=1, arrays=True)
    half(X.bfloat16())
    assert told.files["half/activations/0.npz"]["output"].dtype == np.float32


def test_what_fails_in_describing_does_not_stop_the_training(
    model: Any, told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, and the output of the model."""

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(told, "log_metric", fail)
    wrapped = prov4ml.ProvenanceTrackedModel("net", model, every=1)
    assert wrapped(X).shape == (6, 2)
    assert "activations of net: MemoryError" in caplog.text


def test_figures_of_odd_tensors() -> None:
    """Empty and meta: nothing; one element, integers, complex numbers and NaN: numbers."""
    found = {name: float(value) for name, value in figures.figures(torch.tensor([3]))}
    assert found == {"mean": 3, "std": 0, "min": 3, "max": 3}
    assert dict(figures.figures(torch.tensor([3 + 4j])))["max"] == 5
    assert dict(figures.figures(torch.tensor([1.0, float("nan")])))["mean"].isnan()
    assert dict(figures.figures(torch.zeros(0))) == {}
    assert dict(figures.figures(torch.zeros(3, device="meta"))) == {}


# ------------------------------------------------------------------------------- weights


def test_weights_are_described_by_epoch(model: Any, told: Told) -> None:
    """Every parameter, as it is at the call."""
    wrapped = prov4ml.WeightDistributionTrackedModel("net", model, "training")
    wrapped.log_epoch(0)
    with torch.no_grad():
        model.first.weight.fill_(2)
    wrapped.log_epoch(torch.tensor(1))
    assert told.steps("net/norm.bias/std") == [0, 1]
    assert len(told.metrics) == 2 * 6 * 4
    assert ("net/first.weight/mean", 2.0, "training", 1) in told.metrics
    with pytest.raises(TypeError, match="epoch must be an integer"):
        wrapped.log_epoch("last")


def test_many_weights_are_bounded(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    """The first 256."""
    deep = nn.Sequential(*(nn.Linear(1, 1) for _ in range(200)))
    prov4ml.WeightDistributionTrackedModel("deep", deep).log_epoch(0)
    assert len(told.metrics) == 256 * 4
    assert "deep: the first 256 parameters are described" in caplog.text


# ----------------------------------------------------------------------------- functions


def test_results_of_a_function_are_a_metric_of_its_name(told: Told) -> None:
    """Counted by context; what it is stands in a parameter, once."""
    loss = prov4ml.ProvenanceTrackedFunction(nn.functional.mse_loss)
    for _ in range(2):
        assert float(loss(X, X + 1)) == 1
    assert told.metrics == [("mse_loss", 1.0, None, 0), ("mse_loss", 1.0, None, 1)]
    assert told.params == {"mse_loss.function": "torch.nn.functional.mse_loss"}
    assert loss.__name__ == "mse_loss"
    assert isinstance(loss, prov4ml.ProvenanceTrackedFunction)


def test_steps_are_counted_in_each_context(told: Told) -> None:
    """The named one, or the one around the call."""
    from prov4ml import hot

    loss = prov4ml.ProvenanceTrackedFunction(nn.functional.mse_loss)
    for path in (("training",), ("validation",), ("training",)):
        token = hot.scope.set(path)
        loss(X, X)
        hot.scope.reset(token)
    assert told.steps("mse_loss") == [0, 0, 1]
    named = prov4ml.ProvenanceTrackedFunction(nn.functional.l1_loss, "testing")
    named(X, X)
    assert told.metrics[-1] == ("l1_loss", 0.0, "testing", 0)


def test_a_loss_that_is_a_module_stays_one(told: Told) -> None:
    """With its weights, as a layer of another module; gradients flow."""
    loss = prov4ml.ProvenanceTrackedFunction(nn.CrossEntropyLoss(weight=torch.ones(2)))
    assert isinstance(loss, nn.CrossEntropyLoss)
    assert list(loss.state_dict()) == ["weight"]
    x = torch.zeros(3, 2, requires_grad=True)
    loss(x, torch.tensor([0, 1, 0])).backward()
    assert x.grad is not None
    assert told.metrics[0][0] == "CrossEntropyLoss"
    assert told.params == {"CrossEntropyLoss.function": "CrossEntropyLoss()"}
    assert loss.to(torch.float64).weight.dtype == torch.float64


def test_results_that_are_no_number_are_passed_on(
    told: Told, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said once; the function works on."""

    def refuse(key: str, value: Any, *_: Any) -> None:
        raise TypeError("value must be a single number")

    monkeypatch.setattr(told, "log_metric", refuse)
    split = prov4ml.ProvenanceTrackedFunction(divmod)
    assert split(7, 2) == (3, 1)
    assert split(9, 2) == (4, 1)
    assert caplog.text.count("results of divmod are not logged") == 1


def test_methods_partials_objects_and_copies_of_functions(told: Told) -> None:
    """Everything that can be called keeps working when it is wrapped."""

    class Scorer:
        gain = 2

        def __call__(self, x: float) -> float:
            return self.gain * x

    class Trainer:
        bias = 1

        @prov4ml.ProvenanceTrackedFunction
        def score(self, x: float) -> float:
            return x + self.bias

    scorer = prov4ml.ProvenanceTrackedFunction(Scorer())
    assert (scorer(3), scorer.gain) == (6, 2)
    assert Trainer().score(3) == 4
    third = prov4ml.ProvenanceTrackedFunction(partial(pow, exp=3))
    assert third(2) == 8
    assert [key for key, *_ in told.metrics] == ["Scorer", "score", "pow"]
    loss = prov4ml.ProvenanceTrackedFunction(nn.functional.mse_loss, "training")
    for other in (copy.copy(loss), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        other(X, X)
        assert told.metrics[-1][0] == "mse_loss"
        assert told.metrics[-1][2] == "training"
    with pytest.raises(TypeError, match="func must be callable, not int"):
        prov4ml.ProvenanceTrackedFunction(3)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        prov4ml.ProvenanceTrackedFunction(divmod)(1, 0)


# ------------------------------------------------------------------------------ datasets


class AtOnce(list[str]):
    """A dataset that gives a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[str]:
        return [self[i].upper() for i in indices]


def loaded(dataset: Any, **options: Any) -> list[Any]:
    return list(torch.utils.data.DataLoader(dataset, batch_size=3, **options))


def test_ids_reach_the_batch() -> None:
    """Also shuffled: each id is that of its sample."""
    data = torch.utils.data.TensorDataset(X[:, 0] * 10, X[:, 1])
    indexed = prov4ml.IndexedDatasetWrapper(data)
    assert len(indexed) == 6
    ids = []
    for x, y, index in loaded(indexed, shuffle=True):
        assert torch.equal(x, X[index, 0] * 10)
        assert torch.equal(y, X[index, 1])
        ids += index.tolist()
    assert sorted(ids) == list(range(6))


def test_a_subset_gives_ids_of_the_whole() -> None:
    """Outside of the wrapper; inside it counts the part."""
    data = torch.utils.data.TensorDataset(X)
    outside = torch.utils.data.Subset(prov4ml.IndexedDatasetWrapper(data), [4, 2])
    assert [index for _, index in outside] == [4, 2]
    inside = prov4ml.IndexedDatasetWrapper(torch.utils.data.Subset(data, [4, 2]))
    assert [index for _, index in inside] == [0, 1]
    assert inside.indices == [4, 2]


def test_samples_of_other_kinds_bring_their_id() -> None:
    """Single values, lists, dicts; keys instead of numbers; batches at once."""
    assert prov4ml.IndexedDatasetWrapper(["a", "b"])[1] == ("b", 1)
    assert prov4ml.IndexedDatasetWrapper([[1, 2]])[0] == (1, 2, 0)
    assert prov4ml.IndexedDatasetWrapper([{"x": 1}])[np.int64(0)] == {"x": 1, "index": 0}
    assert prov4ml.IndexedDatasetWrapper({"k": 1})["k"] == (1, "k")

    indexed = prov4ml.IndexedDatasetWrapper(AtOnce("abcd"))
    assert indexed.__getitems__([2, 0]) == [("C", 2), ("A", 0)]
    assert list(prov4ml.IndexedDatasetWrapper("ab")) == [("a", 0), ("b", 1)]
    assert pickle.loads(pickle.dumps(indexed))[3] == ("d", 3)
    assert copy.deepcopy(indexed)[3] == ("d", 3)


def test_what_has_no_numbers_is_refused() -> None:
    """Generators and iterable datasets; a length that is not there is not invented."""

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[int]:
            yield 1

    class Endless:
        def __getitem__(self, index: int) -> int:
            return index

    for thing in (iter([1]), Stream(), 3):
        with pytest.raises(TypeError, match="have no numbers to go by"):
            prov4ml.IndexedDatasetWrapper(thing)
    with pytest.raises(TypeError, match="has no len"):
        len(prov4ml.IndexedDatasetWrapper(Endless()))
