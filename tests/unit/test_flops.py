"""FLOPs with the real torch: right counts, and a model that is as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prov4ml import events as ev
from prov4ml import flops
from prov4ml.errors import UsageError
from prov4ml.recorder import NoRecorder
from prov4ml.testing.recording import Recording

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path)
    yield made
    made.close()


def batch(book: Recording, model: Any, given: Any, **keywords: Any) -> float:
    """What ``log_flops_per_batch`` logged."""
    arguments = {"context": None, "step": None, **keywords}
    flops.log_flops_per_batch(book.to, "flops", model, given, **arguments)
    return float(book.of(ev.Point)[-1].value)


def epoch(book: Recording, model: Any, dataset: Any) -> float:
    flops.log_flops_per_epoch(book.to, "flops", model, dataset, "training", 2)
    return float(book.of(ev.Point)[-1].value)


# 2 operations per weight and sample: a multiplication and an addition.
LINEAR = 2 * 8 * 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.zeros(16, 8), 16 * LINEAR),
        ((torch.zeros(16, 8), torch.zeros(16)), 16 * LINEAR),
        ([torch.zeros(3, 8), torch.zeros(3), "id"], 3 * LINEAR),
        ({"input": torch.zeros(5, 8)}, 5 * LINEAR),
        (({"input": torch.zeros(5, 8)}, torch.zeros(5)), 5 * LINEAR),
    ],
    ids=["tensor", "pair", "list", "mapping", "mapping and target"],
)
def test_operations_of_a_batch(book: Recording, given: Any, expected: float) -> None:
    """Multiplications and additions of the forward pass, whatever form the batch has."""
    assert batch(book, nn.Linear(8, 4), given, context="training", step=3) == expected
    (series,) = book.of(ev.SeriesDefined)
    assert (series.context, series.unit) == (("training",), "FLOP")
    assert series.source == "torch.utils.flop_counter"
    assert book.of(ev.Point)[0].step == 3


def test_operations_of_a_convolution(book: Recording) -> None:
    """2 x output pixels x kernel x channels in x channels out."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
    assert batch(book, model, torch.zeros(2, 3, 7, 7)) == 2 * 2 * 49 * 9 * 3 * 5


class Noisy(nn.Module):
    """Batch norm, dropout, a spectral norm and noise of every generator."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4))
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        noise = random.random() + float(np.random.rand())
        return self.drop(self.norm(self.first(x))) + torch.rand(()) * noise


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_everything_is_as_it_was(book: Recording, training: bool, grad: bool) -> None:
    """Weights, gradients, buffers and their versions, mode, generators, and a graph in flight."""
    model = Noisy().train(training)
    x = torch.rand(16, 8)
    with torch.set_grad_enabled(grad):
        out = model(x).sum()  # its graph holds buffers: changed in place, backward would fail
        if grad:
            out.backward(retain_graph=True)
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        before = {k: (t.detach().clone(), t._version, id(t)) for k, t in tensors.items()}
        grads = {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()}
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        generators = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        assert batch(book, model, x) == 16 * LINEAR
        assert epoch(book, model, [(x[0], 0), (x[1], 1)]) == 2 * LINEAR
        assert torch.is_grad_enabled() is grad
        if grad:
            out.backward()
            for parameter, old in zip(model.parameters(), grads.values(), strict=True):
                assert old is None or torch.allclose(parameter.grad, 2 * old)
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(after) == list(before)
    for name, (old, version, identity) in before.items():
        assert torch.equal(after[name], old), name
        assert (after[name]._version, id(after[name])) == (version, identity), name
    if not grad:
        assert all(p.grad is None for p in model.parameters())
    assert all(m.training is training for m in model.modules())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert all(map(np.array_equal, np.random.get_state(), generators[1]))
    assert random.getstate() == generators[2]


def test_an_error_inside_leaves_everything_as_it_was(book: Recording) -> None:
    """The batch is named, nothing is logged, generators and buffers are put back."""
    model = Noisy()
    state = torch.get_rng_state()
    with pytest.raises(UsageError, match="batch: the model does not take it: RuntimeError"):
        batch(book, model, torch.zeros(16, 9))
    assert book.events == []
    assert torch.equal(torch.get_rng_state(), state)
    assert float(model.calls) == 0


class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """A dataset that can only be read from its beginning."""

    def __init__(self, length: int | None) -> None:
        self.length = length
        if length is not None:
            type(self).__len__ = lambda self: self.length  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.length or 4):
            yield torch.zeros(8), 0


def pairs(count: int) -> Any:
    return torch.utils.data.TensorDataset(torch.zeros(count, 8), torch.zeros(count))


def loader(count: int, **options: Any) -> Any:
    return torch.utils.data.DataLoader(pairs(count), **options)


@pytest.mark.parametrize(
    ("dataset", "samples"),
    [
        (pairs(10), 10),
        (pairs(1), 1),
        ([(np.zeros(8, np.float32), 1)] * 7, 7),
        (loader(10, batch_size=4), 10),
        (loader(10, batch_size=4, drop_last=True), 8),
        (loader(10, batch_size=4, shuffle=True, num_workers=2), 10),
        (
            loader(10, batch_size=2, sampler=torch.utils.data.SubsetRandomSampler(range(6))),
            6,
        ),
        (
            loader(
                10,
                batch_sampler=torch.utils.data.BatchSampler(
                    torch.utils.data.SequentialSampler(range(10)), 3, False
                ),
            ),
            10,
        ),
        (torch.utils.data.Subset(pairs(10), [1, 2, 3]), 3),
    ],
    ids=[
        "dataset",
        "one sample",
        "list of arrays",
        "loader",
        "drop last",
        "shuffled",
        "sampler",
        "batch sampler",
        "subset",
    ],
)
def test_operations_of_an_epoch(book: Recording, dataset: Any, samples: int) -> None:
    """As many samples as an epoch really has; no worker is started, no sampler is asked."""
    model = nn.Linear(8, 4)
    state = torch.get_rng_state()
    assert epoch(book, model, dataset) == samples * LINEAR
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_of_ready_batches(book: Recording) -> None:
    """Without batching of its own, an item is a batch."""
    ready = [(torch.zeros(5, 8), 0)] * 3
    given = torch.utils.data.DataLoader(ready, batch_size=None)
    assert epoch(book, nn.Linear(8, 4), given) == 3 * 5 * LINEAR


def test_a_stream_has_an_epoch_if_it_has_a_length(book: Recording) -> None:
    """Its first samples are read; without a length the error says what can be counted."""
    for given in (Stream(None), torch.utils.data.DataLoader(Stream(None), batch_size=2)):
        with pytest.raises(UsageError, match="without a length has no FLOPs per epoch"):
            epoch(book, nn.Linear(8, 4), given)
    try:
        assert epoch(book, nn.Linear(8, 4), Stream(6)) == 6 * LINEAR
    finally:
        del Stream.__len__  # type: ignore[attr-defined]


def test_wrapped_models_are_looked_into(book: Recording) -> None:
    """Compiled ones and those of data parallelism, whose forward pass would wait for others."""
    plain = nn.Linear(8, 4)
    for model in (nn.DataParallel(plain), torch.compile(plain, backend="eager")):
        assert batch(book, model, torch.zeros(2, 8)) == 2 * LINEAR


def test_more_operations_than_binary64_counts(book: Recording) -> None:
    """A number beyond 2**53 is rounded, not refused."""
    model = nn.Linear(1 << 14, 1 << 14, device="meta")
    given = torch.zeros((1 << 26, 1 << 14), device="meta")
    assert batch(book, model, given) == float(2 * (1 << 28) * (1 << 26))


@pytest.mark.parametrize(
    ("model", "given", "kind", "words"),
    [
        (print, torch.zeros(2, 8), TypeError, "model must be a torch.nn.Module, not builtin"),
        (None, torch.zeros(2, 8), TypeError, "not NoneType"),
        (nn.Linear(8, 4), (), UsageError, "batch: there is nothing in it"),
        (nn.Linear(8, 4), None, UsageError, "batch: the model does not take it"),
        (nn.Linear(8, 4), {"x": torch.zeros(2, 8)}, UsageError, "batch: the model does not take"),
        (nn.LazyLinear(4), torch.zeros(2, 8), UsageError, "weight has no shape yet"),
    ],
    ids=["no model", "nothing", "empty", "no batch", "other names", "lazy"],
)
def test_wrong_arguments_are_told(
    book: Recording, model: Any, given: Any, kind: type[Exception], words: str
) -> None:
    """The error names the argument, and nothing is logged."""
    with pytest.raises(kind, match=words):
        batch(book, model, given)
    assert book.events == []


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ([], "dataset: there is nothing in it"),
        ([object()] * 3, "dataset: no sample can be had of it"),
        (None, "without a length"),
    ],
    ids=["empty", "odd samples", "nothing"],
)
def test_wrong_datasets_are_told(book: Recording, dataset: Any, words: str) -> None:
    """Likewise."""
    with pytest.raises(UsageError, match=words):
        epoch(book, nn.Linear(8, 4), dataset)
    assert book.events == []


def test_label_context_and_step_are_looked_at_before_the_model_runs(book: Recording) -> None:
    """Also of a run that records nothing, where the model does not run at all."""
    model = Noisy()
    for to in (book.to, NoRecorder()):
        for label, context, step, words in (
            ("", None, None, "label"),
            ("a", 3, None, "context"),
            ("a", None, "x", "step"),
        ):
            with pytest.raises((TypeError, UsageError), match=words):
                flops.log_flops_per_batch(to, label, model, torch.zeros(2, 8), context, step)  # type: ignore[arg-type]
    flops.log_flops_per_batch(NoRecorder(), "a", model, torch.zeros(2, 8), None, None)
    flops.log_flops_per_epoch(NoRecorder(), "a", model, pairs(3), None, None)
    assert float(model.calls) == 0
