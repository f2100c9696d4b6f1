"""Versions of models: saved on the caller's thread, because the weights are moving."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prov4ml import handover, hot
from prov4ml.errors import UsageError
from prov4ml.events import Scalar
from prov4ml.handover import class_name
from prov4ml.recorder import Recorder

__all__ = ["log_version", "save_model"]


def log_version(
    to: Recorder,
    kind: str,
    model: Any,
    model_name: str,
    context: str | None,
    step: int | None,
    *,
    use: str = "generated",
    described: bool = True,
    kept: bool = True,
) -> None:
    """``kind``: "checkpoint" or "model" (the final one); see ``Run.save_model_version``.

    ``described``: say what it is.  ``kept``: with its weights; else only that it was there.
    """
    name = hot.text("model_name", model_name)
    at = hot.current_path(context)
    step = None if step is None else hot.whole("step", step)
    n = to.number()
    if not kept:
        handed: handover.Handed | None = None
        facts = _facts(model)
    else:
        saved = to.guarded(lambda: save_model(model, to.incoming, to.file(n)))
        if saved is None:
            return
        handed, facts = saved
    if not described:
        facts = {}
    place = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    to.occurrence(n, kind, name, handed, location=place, at=at, step=step, use=use, facts=facts)


def _facts(model: Any) -> dict[str, Scalar]:
    """What can be said of a model without saving it."""
    if model is None:
        raise TypeError("model must be a model, a path or bytes, not None")
    if isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview)):
        return {}
    if hasattr(model, "parameters") and sys.modules.get("torch") is not None:
        facts = _torch_facts(model)
        del facts["format"]
        return facts
    return {"class": class_name(model)}


def save_model(model: Any, incoming: Path, name: str) -> tuple[handover.Handed, dict[str, Scalar]]:
    """Write a model down and say what it is.

    A path is copied; bytes are written; a torch module or state dict is saved with
    ``torch.save`` (its state dict); anything else is pickled.  Raises ``UsageError`` for what
    cannot be saved.
    """
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.is_file():
            raise UsageError(f"model: there is no file {str(path)!r}")
        return handover.hand_over_file(path, incoming, name), {
            "format": path.suffix.lstrip(".") or "file"
        }
    if isinstance(model, (bytes, bytearray, memoryview)):
        data = bytes(model)
        handed = handover.hand_over_bytes(data, incoming, name, "application/octet-stream")
        return handed, {"format": "bytes"}
    torch = sys.modules.get("torch")
    if torch is not None:
        state = None
        if isinstance(model, torch.nn.Module):
            state = model.state_dict()
        elif isinstance(model, Mapping) and any(
            isinstance(v, torch.Tensor) for v in model.values()
        ):
            state = model
        if state is not None:
            return _write(lambda file: torch.save(state, file), incoming, name), _torch_facts(model)
    if model is None:
        raise TypeError("model must be a model, a path or bytes, not None")
    handed = _write(lambda file: pickle.dump(model, file), incoming, name)
    return handed, {"format": "pickle", "class": class_name(model)}


def _write(save: Callable[[Any], Any], incoming: Path, name: str) -> handover.Handed:
    incoming.mkdir(parents=True, exist_ok=True)
    target = incoming / name
    try:
        with open(target, "wb") as file:
            save(file)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    except Exception as error:
        target.unlink(missing_ok=True)
        raise UsageError(f"model: cannot be saved: {error}") from error
    return handover.Handed(name, target.stat().st_size, None, "application/octet-stream")


def _torch_facts(model: Any) -> dict[str, Scalar]:
    facts: dict[str, Scalar] = {"format": "torch", "class": class_name(model)}
    if hasattr(model, "parameters"):
        weights = list(model.parameters())
        facts["parameters"] = sum(int(w.numel()) for w in weights)
        facts["trainable"] = sum(int(w.numel()) for w in weights if w.requires_grad)
        facts["dtype"] = ", ".join(sorted({str(w.dtype).removeprefix("torch.") for w in weights}))
    return facts
