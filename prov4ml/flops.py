"""Floating-point operations of a model's forward pass, counted by ``torch.utils.flop_counter``.

The model runs once, in whatever mode it is, without gradients, on copies of its buffers, and the
states of the random number generators are put back: training goes on as if nothing had been.
What the model's own hooks do, they do here too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from prov4ml import hot
from prov4ml.errors import UsageError
from prov4ml.recorder import Recorder

__all__ = ["log_flops_per_batch", "log_flops_per_epoch"]

_SOURCE: Final = "torch.utils.flop_counter"
_UNIT: Final = "FLOP"
_WRAPPERS: Final = ("DistributedDataParallel", "DataParallel")
"""Their forward pass talks to other ranks, which would wait for each other."""
_FEW: Final = 2
"""Samples that stand for an epoch: one alone is refused by batch norm in training."""


def log_flops_per_batch(
    to: Recorder, label: str, model: Any, batch: Any, context: str | None, step: int | None
) -> None:
    """See ``Run.log_flops_per_batch``."""
    torch, inner = _checked(label, model, context, step)
    if not to.keeps:
        return
    with _as_it_was(torch, inner):
        flops = _forward(torch, inner, "batch", batch)
    to.measure(label, float(flops), context, step, _UNIT, _SOURCE)


def log_flops_per_epoch(
    to: Recorder, label: str, model: Any, dataset: Any, context: str | None, step: int | None
) -> None:
    """See ``Run.log_flops_per_epoch``."""
    torch, inner = _checked(label, model, context, step)
    total = _samples(dataset)
    if not to.keeps:
        return
    with _as_it_was(torch, inner):
        try:
            batch, size = _few(torch, dataset)
        except Exception as error:
            raise UsageError(f"dataset: no sample can be had of it: {error}") from error
        flops = _forward(torch, inner, "dataset", batch)
    to.measure(label, flops / size * total, context, step, _UNIT, _SOURCE)


# ------------------------------------------------------------------------------- the model


def _checked(label: Any, model: Any, context: Any, step: Any) -> tuple[Any, Any]:
    """(torch, the module that computes); everything that the calls are given is looked at."""
    hot.text("label", label)
    if context is not None:
        hot.context_path(context)
    if step is not None:
        hot.whole("step", step)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    if type(inner).__name__ in _WRAPPERS:
        inner = inner.module
    for name, tensor in [*inner.named_parameters(), *inner.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise UsageError(f"model: {name} has no shape yet: let the model run once before")
    return torch, inner


@contextmanager
def _as_it_was(torch: Any, model: Any) -> Iterator[None]:
    """Puts the random number generators back: those of Python, NumPy, torch, the model's GPUs."""
    random, numpy = sys.modules.get("random"), sys.modules.get("numpy")
    plain = random.getstate() if random is not None else None
    array = numpy.random.get_state() if numpy is not None else None
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            if random is not None:
                random.setstate(plain)
            if numpy is not None:
                numpy.random.set_state(array)


def _forward(torch: Any, model: Any, argument: str, batch: Any) -> int:
    """Operations of one forward pass; ``argument`` is what to name when it cannot be done."""
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError as error:
        raise UsageError("FLOPs are counted by torch 2.1 or later") from error
    given = next(iter(model.parameters()), None)
    positional, named = _arguments(argument, batch)
    if given is not None:
        positional = _moved(torch, positional, given.device)
        named = _moved(torch, named, given.device)
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            torch.func.functional_call(model, buffers, positional, named)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise UsageError(f"{argument}: the model does not take it: {text}") from error
    return int(counter.get_total_flops())


def _arguments(argument: str, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a batch is given to a model: of (inputs, targets, ...) the first, a dict by keywords."""
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise UsageError(f"{argument}: there is nothing in it")
        batch = batch[0]
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (batch,), {}


def _moved(torch: Any, value: Any, device: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(torch, each, device) for key, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_moved(torch, each, device) for each in value)
    return value


# ------------------------------------------------------------------------------ the dataset


def _is_loader(dataset: Any) -> bool:
    return hasattr(dataset, "dataset") and hasattr(dataset, "batch_size")


def _samples(dataset: Any) -> int:
    """Samples of an epoch, or items where a loader does no batching."""
    try:
        if not _is_loader(dataset):
            total = len(dataset)
        elif dataset.batch_size is not None:
            dropped = bool(getattr(dataset, "drop_last", False))
            total = len(dataset) * dataset.batch_size if dropped else len(dataset.sampler)
        else:
            batched = getattr(dataset, "batch_sampler", None) is not None
            total = len(dataset.dataset) if batched else len(dataset)
    except TypeError:
        raise UsageError(
            f"dataset: a {type(dataset).__name__} without a length has no FLOPs per epoch; "
            "log_flops_per_batch can count those of a batch"
        ) from None
    if not total:
        raise UsageError("dataset: there is nothing in it")
    return int(total)


def _few(torch: Any, dataset: Any) -> tuple[Any, int]:
    """(a small batch, its samples); a loader's workers and sampler are left alone."""
    collate = torch.utils.data.default_collate
    source = dataset
    if _is_loader(dataset):
        source, collate = dataset.dataset, dataset.collate_fn
        if dataset.batch_size is None and getattr(dataset, "batch_sampler", None) is None:
            return collate(next(_items(torch, source))), 1
    found = list(islice(_items(torch, source), _FEW))
    return collate(found), len(found)


def _items(torch: Any, source: Any) -> Iterator[Any]:
    if isinstance(source, torch.utils.data.IterableDataset):
        return iter(source)
    return (source[n] for n in range(len(source)))
