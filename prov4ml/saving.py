"""How a model is written down, and what is said of it; no library is imported for that.

In this order: bytes as they are; a torch module or state dict by ``torch.save`` (its state dict);
a scikit-learn estimator pickled; what has ``save_pretrained``, ``save_model`` or ``save`` by
that; anything else pickled.  ``format=`` chooses one.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from prov4ml import contents, handover
from prov4ml.asking import is_a, peek
from prov4ml.errors import MissingExtra, UsageError
from prov4ml.events import Scalar
from prov4ml.handover import Handed, class_name
from prov4ml.talk import short

__all__ = ["FORMATS", "Saver", "facts", "is_model", "layers", "saver"]

FORMATS: Final = ("torch", "safetensors", "pickle", "native")
"""``format=``: ``native`` is the model's own ``save_pretrained``, ``save_model`` or ``save``."""

_BINARY: Final = "application/octet-stream"
_DEEP: Final = 4  # dicts of dicts in which tensors are looked for
_LAYERS: Final = 100_000
_ENDINGS: Final = {"keras": ".keras", "tensorflow": ".keras", "xgboost": ".ubj", "lightgbm": ".txt"}
"""Where a ``save`` tells the format by the ending of the name."""


class Saver(NamedTuple):
    """``write`` puts the model into ``incoming``; a model of several files stays in a folder
    there, which ``write`` appends to its third argument."""

    format: str
    write: Callable[[Path, str, list[Path]], Handed]


def saver(model: Any, format: str | None) -> Saver:
    """How to write the model down.  Raises ``UsageError``, ``TypeError``, ``MissingExtra``."""
    if format is not None and not isinstance(format, str):
        raise TypeError(f"format must be a string, not {type(format).__name__}")
    if format not in (None, *FORMATS):
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, not {short(repr(format))}")
    if model is None:
        raise TypeError("model must be a model, a path or bytes, not None")
    if is_a(model, (bytes, bytearray, memoryview)):
        return Saver("bytes", lambda i, f, _: handover.hand_over_bytes(model, i, f, _BINARY))
    state = _state(model)
    if format == "safetensors":
        return _safetensors(model, state)
    if format == "torch" or (format is None and state is not None):
        if state is None:
            raise UsageError(f"format: a {class_name(model)} is no torch module and no state dict")
        torch = sys.modules["torch"]
        return Saver(
            "torch", lambda i, f, _: _write(model, i, f, lambda out: torch.save(state(), out))
        )
    own = _own(model)
    if format == "native" or (format is None and own is not None and not _is_estimator(model)):
        if own is None:
            raise UsageError(f"format: a {class_name(model)} has no save method of its own")
        return Saver(own.__name__, lambda i, f, into: _natively(model, own, i, f, into))
    return Saver("pickle", lambda i, f, _: _write(model, i, f, lambda out: pickle.dump(model, out)))


def _write(model: Any, incoming: Path, file: str, save: Callable[[Any], Any]) -> Handed:
    def fill(copy: int) -> None:
        with open(copy, "wb", closefd=False) as out:
            save(out)

    return _guarded(
        model, lambda: Handed(file, handover.written(incoming, file, fill), None, _BINARY)
    )


def _guarded(model: Any, save: Callable[[], Handed]) -> Handed:
    """A disk that fails is an ``OSError``, whatever else a model raises a ``UsageError``."""
    try:
        return save()
    except (OSError, MemoryError, UsageError):
        raise
    except Exception as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError):  # torch wraps what its writer met
            raise cause from None
        raise contents.complaint("model", model, "saved", error) from error


# --------------------------------------------------------------------------------- torch


def _state(model: Any) -> Callable[[], Any] | None:
    """What gives the tensors of a torch module or state dict."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn"):
        return None
    if is_a(model, torch.nn.Module):
        return model.state_dict  # type: ignore[no-any-return]  # torch may not be there
    if is_a(model, Mapping) and next(_tensors(model, torch.Tensor), None) is not None:
        return lambda: model
    return None


def _tensors(thing: Mapping[Any, Any], kind: type, depth: int = _DEEP) -> Iterator[Any]:
    """Tensors in a dict and the dicts in it."""
    for value in list(thing.values()):
        if isinstance(value, kind):
            yield value
        elif isinstance(value, Mapping) and depth:
            yield from _tensors(value, kind, depth - 1)


def _safetensors(model: Any, state: Callable[[], Any] | None) -> Saver:
    if state is None:
        raise UsageError(
            f"format: a {class_name(model)} is no torch module and no state dict; "
            "safetensors holds tensors"
        )
    try:
        from safetensors import torch as saving
    except ImportError:
        raise MissingExtra("safetensors", "safetensors", 'format="safetensors"') from None
    module = not is_a(model, Mapping)
    save: Callable[..., Any] = saving.save_model if module else saving.save_file

    def write(incoming: Path, file: str, _: list[Path]) -> Handed:
        incoming.mkdir(parents=True, exist_ok=True)
        target = incoming / file
        try:
            save(model, str(target))
            return Handed(file, target.stat().st_size, None, _BINARY)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    return Saver("safetensors", lambda i, f, _: _guarded(model, lambda: write(i, f, _)))


# ------------------------------------------------------------------- what saves itself


def _own(model: Any) -> Callable[..., Any] | None:
    if is_a(model, type):
        return None
    for name in ("save_pretrained", "save_model", "save"):
        method = peek(model, name)
        if callable(method) and hasattr(method, "__name__"):
            return method  # type: ignore[no-any-return]  # it is what the model has
    return None


def _natively(
    model: Any, save: Callable[..., Any], incoming: Path, file: str, into: list[Path]
) -> Handed:
    """Let a model save itself into a folder of its own; one file in it is the model."""
    folder = incoming / f"{file}.d"
    folder.mkdir(parents=True)
    library = type(model).__module__.partition(".")[0]
    pretrained = save.__name__ == "save_pretrained"
    target = folder if pretrained else folder / f"model{_ENDINGS.get(library, '')}"
    try:
        handed = _guarded(model, lambda: (save(str(target)), Handed())[1])
        found = list(os.scandir(folder))
        if not found:
            raise UsageError(f"model: {save.__name__} of a {class_name(model)} wrote no file")
        if len(found) > 1 or not found[0].is_file(follow_symlinks=False):
            into.append(folder)
            return handed
        os.replace(found[0].path, incoming / file)
        folder.rmdir()
        size = (incoming / file).stat().st_size
        return Handed(file, size, None, handover.media_type(found[0].name) or _BINARY)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


# ---------------------------------------------------------------------------------- facts


def is_model(thing: Any) -> bool:
    """Whether a thing is a model without being called one."""
    return _state(thing) is not None or _is_estimator(thing)


def _is_estimator(model: Any) -> bool:
    """Whether it is scikit-learn's, or made to be like them."""
    bases = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    return "sklearn" in bases and callable(peek(model, "get_params"))


def facts(model: Any) -> dict[str, Scalar]:
    """What a model says of itself; what raises says nothing."""
    found: dict[str, Scalar] = {"class": class_name(model)}
    torch = sys.modules.get("torch")
    try:
        if torch is not None and hasattr(torch, "nn") and is_a(model, torch.nn.Module):
            return found | _weights(list(model.parameters()), list(model.buffers()))
        if torch is not None and is_a(model, Mapping):
            tensors = list(_tensors(model, torch.Tensor))
            if tensors:
                told = _weights(tensors, [])
                del told["trainable"]  # a state dict does not know
                return found | told
        if callable(peek(model, "get_params")) and not is_a(model, type):
            found |= _estimator(model)
    except Exception:  # a model of no usual kind
        return found
    return found


def _weights(weights: list[Any], buffers: list[Any]) -> dict[str, Scalar]:
    counts = [int(w.numel()) for w in weights]
    size = sum(n * w.element_size() for n, w in zip(counts, weights, strict=True))
    told: dict[str, Scalar] = {
        "parameters": sum(counts),
        "trainable": sum(n for n, w in zip(counts, weights, strict=True) if w.requires_grad),
        "dtype": ", ".join(sorted({str(w.dtype).removeprefix("torch.") for w in weights})),
        "bytes": size + sum(int(b.numel()) * b.element_size() for b in buffers),
    }
    devices = sorted({str(w.device) for w in weights})
    if devices:
        told["device"] = ", ".join(devices)
    return told


def _estimator(model: Any) -> dict[str, Scalar]:
    params = model.get_params(deep=False)
    text = contents.as_json("model", dict(params), indent=None).decode()
    told: dict[str, Scalar] = {"params": short(text, 4000)}
    features = peek(model, "n_features_in_")
    if isinstance(features, int):
        told["features"] = features
    classes = peek(model, "classes_")
    if classes is not None:
        told["classes"] = len(classes)
    return told


def layers(model: Any) -> bytes | None:
    """The tree of a torch module's layers as JSON lines; None for what is none.

    A line is a layer: its name, class, what it says of itself, its own parameters and how many of
    them are trained.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn") or not is_a(model, torch.nn.Module):
        return None
    lines: list[str] = []
    try:
        for name, layer in model.named_modules():
            if len(lines) >= _LAYERS:
                break
            own = list(layer.parameters(recurse=False))
            line = {
                "name": name,
                "class": class_name(layer),
                "detail": _detail(layer),
                "parameters": sum(int(w.numel()) for w in own),
                "trainable": sum(int(w.numel()) for w in own if w.requires_grad),
            }
            lines.append(json.dumps(line, ensure_ascii=False))
    except Exception:  # weights that have no size yet
        return None
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _detail(layer: Any) -> str:
    try:
        return short(str(layer.extra_repr()), 1000)
    except Exception:
        return ""
