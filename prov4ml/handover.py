"""Files that log calls hand over: their bytes are safe when the call returns.

A copy (a reflink where the file system can) goes to ``artifacts/.incoming/`` of the run; the
collector hashes it and moves it to its place.  Models are saved here, on the caller's thread,
because their weights are moving.
"""

from __future__ import annotations

import fcntl
import json
import mimetypes
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from prov4ml.errors import UsageError
from prov4ml.events import Scalar

__all__ = ["Handed", "describe_dataset", "hand_over_bytes", "hand_over_file", "save_model"]

_FICLONE: Final = 0x40049409


class Handed(msgspec.Struct, frozen=True):
    """A file in ``.incoming``: its name there, size (bytes), time of change (ns), media type.

    ``error`` says why there is none.
    """

    incoming: str | None
    size: int | None
    mtime: int | None = None
    media_type: str | None = None
    error: str | None = None


def hand_over_file(path: Path, incoming: Path, name: str) -> Handed:
    """Copy a file.  Raises ``OSError`` when it cannot be read or the copy not be written."""
    incoming.mkdir(parents=True, exist_ok=True)
    target = incoming / name
    try:
        with open(path, "rb") as source, open(target, "wb") as copy:
            try:
                fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
            except OSError:
                shutil.copyfileobj(source, copy, 1 << 20)
            facts = os.fstat(source.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Handed(name, target.stat().st_size, facts.st_mtime_ns, media_type(path.name))


def hand_over_bytes(data: bytes, incoming: Path, name: str, kind: str | None) -> Handed:
    """Write bytes down.  Raises ``OSError``."""
    incoming.mkdir(parents=True, exist_ok=True)
    target = incoming / name
    try:
        target.write_bytes(data)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Handed(name, len(data), None, kind)


def media_type(name: str) -> str | None:
    return mimetypes.guess_type(name)[0]


# ----------------------------------------------------------------------------------- models


def save_model(model: Any, incoming: Path, name: str) -> tuple[Handed, dict[str, Scalar]]:
    """Write a model down and say what it is.

    A path is copied; bytes are written; a torch module or state dict is saved with
    ``torch.save`` (its state dict); anything else is pickled.  Raises ``UsageError`` for what
    cannot be saved, ``OSError`` when the disk does not take it.
    """
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.is_file():
            raise UsageError(f"model: there is no file {str(path)!r}")
        return hand_over_file(path, incoming, name), {"format": path.suffix.lstrip(".") or "file"}
    if isinstance(model, (bytes, bytearray, memoryview)):
        handed = hand_over_bytes(bytes(model), incoming, name, "application/octet-stream")
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
    return handed, {"format": "pickle", "class": _class(model)}


class _Output:
    """A file that remembers what the disk said: ``torch.save`` makes something else of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(save: Callable[[Any], Any], incoming: Path, name: str) -> Handed:
    incoming.mkdir(parents=True, exist_ok=True)
    target = incoming / name
    try:
        with open(target, "wb") as file:
            output = _Output(file)
            try:
                save(output)
            except Exception as error:
                if output.error is not None:
                    raise output.error from None
                if isinstance(error, OSError):
                    raise
                raise UsageError(f"model: cannot be saved: {error}") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Handed(name, target.stat().st_size, None, "application/octet-stream")


def _torch_facts(model: Any) -> dict[str, Scalar]:
    facts: dict[str, Scalar] = {"format": "torch", "class": _class(model)}
    if hasattr(model, "parameters"):
        weights = list(model.parameters())
        facts["parameters"] = sum(int(w.numel()) for w in weights)
        facts["trainable"] = sum(int(w.numel()) for w in weights if w.requires_grad)
        facts["dtype"] = ", ".join(sorted({str(w.dtype).removeprefix("torch.") for w in weights}))
    return facts


def _class(thing: Any) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


# --------------------------------------------------------------------------------- datasets


def describe_dataset(dataset: Any) -> tuple[Any, dict[str, Scalar]]:
    """(what it is a part of or goes over, or None; facts) of a dataset object.

    Understands whatever looks like a torch ``DataLoader`` (``dataset``, ``batch_size``) or
    ``Subset`` (``dataset``, ``indices``), arrays with ``shape``, and anything with a length.
    """
    facts: dict[str, Scalar] = {"class": _class(dataset)}
    parent = getattr(dataset, "dataset", None)
    if parent is not None and hasattr(dataset, "batch_size"):
        size = getattr(dataset, "batch_size", None)
        if isinstance(size, int):
            facts["batch_size"] = size
        sampler = getattr(dataset, "sampler", None)
        if sampler is not None:
            facts["shuffle"] = "Random" in type(sampler).__name__
        if isinstance(getattr(dataset, "drop_last", None), bool):
            facts["drop_last"] = bool(dataset.drop_last)
        _count(facts, "batches", dataset)
        _count(facts, "samples", parent)
        inner = getattr(parent, "dataset", None)
        if inner is not None and hasattr(parent, "indices"):
            parent = inner
        return parent, facts
    if parent is not None and hasattr(dataset, "indices"):
        _count(facts, "samples", dataset)
        return parent, facts
    shape = getattr(dataset, "shape", None)
    if isinstance(shape, tuple):
        facts["shape"] = json.dumps([int(n) for n in shape])
    _count(facts, "samples", dataset)
    return None, facts


def _count(facts: dict[str, Scalar], name: str, thing: Any) -> None:
    try:
        facts[name] = len(thing)
    except Exception:  # noqa: S110 - a dataset of unknown length is normal
        pass
