"""``ProvenanceTrackedModel``: what the layers of a model give, as metrics, every n-th step.

Only a call that is sampled is watched: then hooks are set on the chosen layers and taken off
again, so that nothing of ours is left in the model.  Statistics are made where the tensors are.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from prov4ml import current, hot, sink
from prov4ml.errors import UsageError
from prov4ml.integrations.figures import figures, tensor_of
from prov4ml.integrations.wrapped import Wrapped, needs_of, wrap
from prov4ml.talk import log

__all__ = ["ProvenanceTrackedModel"]

_LAYERS: Final = 32  # watched when nobody chooses
_MOST: Final = 256  # that may be chosen
_BYTES: Final = 64 << 20  # of arrays that are kept in a run


class ProvenanceTrackedModel(Wrapped):
    """A model whose layers' outputs are described while it trains.

    ``model_label``: begins the names of the series, ``<label>/<layer>/mean``, ``std``, ``min`` and
    ``max``; their step is the number of the call, from 0.  ``context``: theirs, else the default
    one.  ``layers``: names as in ``named_modules()``; by default the first 32 that hold weights and
    no other layer.  ``every``: of how many calls in training mode one is described.
    ``arrays=True``: the outputs themselves are kept too, of at most ``chunk_size`` samples of the
    batch, an ``.npz`` file per described call, 64 MiB in a run; that waits for the device.

    The result is the model, with all its attributes; see ``wrapped``.  Raises ``TypeError`` for
    what is no module of torch, ``UsageError`` for a layer that it has not.
    """

    __slots__ = ()

    def __new__(
        cls,
        model_label: str,
        model: Any,
        context: str | None = None,
        chunk_size: int = 64,
        *,
        layers: Iterable[str] | None = None,
        every: int = 100,
        arrays: bool = False,
    ) -> Any:
        label = hot.text("model_label", model_label)
        if context is not None:
            hot.context_path(context)
        for name, value in (("chunk_size", chunk_size), ("every", every)):
            if hot.whole(name, value) < 1:
                raise UsageError(f"{name} must be 1 or more, not {value}")
        if arrays and "numpy" not in sys.modules:
            raise UsageError("arrays=True keeps NumPy files: import numpy first")
        watch = _Watch(label, context, chunk_size, every, arrays)
        made = wrap(ProvenanceTrackedModel, model, watch)
        watch.layers = _chosen(made, layers, label)
        return made

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        watch, run = needs_of(self, ProvenanceTrackedModel), current.active_run()
        call = super().__call__  # type: ignore[misc]
        if watch is None or run is None or not self.training:  # type: ignore[attr-defined]
            return call(*arguments, **keywords)
        step = watch.calls
        watch.calls += 1
        if step % watch.every:
            return call(*arguments, **keywords)
        seen: dict[str, Any] = {}
        handles = watch.hook(self, seen)
        try:
            result = call(*arguments, **keywords)
        finally:
            for handle in handles:
                handle.remove()
        watch.tell(run, seen, step)
        return result


class _Watch:
    """What a wrapper remembers."""

    def __init__(
        self, label: str, context: str | None, samples: int, every: int, arrays: bool
    ) -> None:
        self.label = label
        self.context = context
        self.samples = samples
        self.every = every
        self.arrays = arrays
        self.layers: tuple[str, ...] = ()
        self.calls = 0
        self.kept: tuple[str, int] = ("", 0)  # the run, and bytes of arrays in it

    def hook(self, model: Any, seen: dict[str, Any]) -> list[Any]:
        """Have each layer's first output put into ``seen``."""

        def hook_of(name: str) -> Any:
            def hook(_: Any, __: Any, output: Any) -> None:
                if name not in seen:
                    seen[name] = tensor_of(output)

            return hook

        there = dict(model.named_modules())
        return [
            there[name].register_forward_hook(hook_of(name))
            for name in self.layers
            if name in there
        ]

    def tell(self, run: Any, seen: dict[str, Any], step: int) -> None:
        """Log what was seen; whatever goes wrong, the training goes on."""
        try:
            for name, tensor in seen.items():
                if tensor is None:
                    continue
                base = f"{self.label}/{name}" if name else self.label
                for figure, value in figures(tensor):
                    run.log_metric(f"{base}/{figure}", value, self.context, step)
            if self.arrays:
                self._keep(run, seen, step)
        except Exception as error:
            log.warning("activations of %s: %s: %s", self.label, type(error).__name__, error)

    def _keep(self, run: Any, seen: dict[str, Any], step: int) -> None:
        numpy = sys.modules["numpy"]
        arrays = {}
        for name, tensor in seen.items():
            if tensor is not None:
                part = tensor.detach()[: self.samples] if tensor.ndim else tensor.detach()
                part = part.float() if str(part.dtype) == "torch.bfloat16" else part
                arrays[name or "output"] = part.cpu().numpy()
        size = sum(array.nbytes for array in arrays.values())
        before = self.kept[1] if self.kept[0] == run.id else 0
        if before + size > _BYTES:
            log.warning(
                "activations of %s: no more arrays, %d MiB are kept", self.label, _BYTES >> 20
            )
            return
        self.kept = (run.id, before + size)
        with tempfile.TemporaryDirectory(prefix="prov4ml-") as folder:
            path = Path(folder) / f"{step}.npz"
            numpy.savez(path, **arrays)
            run.log_artifact(f"{self.label}/activations/{step}.npz", path, self.context, step)


def _chosen(model: Any, layers: Iterable[str] | None, label: str) -> tuple[str, ...]:
    there = dict(model.named_modules())
    if layers is not None:
        if isinstance(layers, str):
            raise TypeError("layers must be a list of names, not str")
        names = tuple(layers)
        for name in names:
            if name not in there:
                raise UsageError(f"layers: {sink.unknown('layer', name, there)}")
        if len(names) > _MOST:
            raise UsageError(f"layers: {len(names)} are chosen, at most {_MOST} are described")
        return names
    names = tuple(
        name
        for name, layer in there.items()
        if not any(True for _ in layer.children()) and any(True for _ in layer.parameters())
    )
    if len(names) > _LAYERS:
        log.warning(
            "%s has %d layers with weights: the first %d are described; choose with layers=",
            label,
            len(names),
            _LAYERS,
        )
    return names[:_LAYERS] or ("",)
