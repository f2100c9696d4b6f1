"""``mlflow.models``: what a model takes and gives, and what is kept of a logged one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from prov4ml import hot
from prov4ml.compat.mlflow import _contents
from prov4ml.compat.mlflow._runs import at
from prov4ml.errors import UsageError
from prov4ml.talk import log

__all__ = ["ModelInfo", "ModelSignature", "infer_signature", "keep"]

_KINDS: Final = {"b": "boolean", "i": "long", "u": "long", "f": "double", "M": "datetime"}


class ModelSignature(msgspec.Struct, frozen=True):
    """Inputs, outputs and parameters, as MLflow spells them in JSON."""

    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None
    params: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("inputs", "outputs", "params")}
        return {name: None if v is None else json.dumps(v) for name, v in known.items()}


class ModelInfo(msgspec.Struct, frozen=True):
    """What ``log_model`` gives back.  ``model_uri`` names run and model; nothing is served."""

    artifact_path: str
    flavors: dict[str, Any]
    model_uri: str
    run_id: str
    model_id: str
    name: str
    signature: ModelSignature | None = None
    registered_model_version: None = None


def infer_signature(
    model_input: Any = None,
    model_output: Any = None,
    params: Mapping[str, Any] | None = None,
) -> ModelSignature:
    """From examples: DataFrames, arrays, dicts of arrays, lists, single values."""
    given = None
    if params:
        given = [
            {"name": key, "type": _kind(value), "default": _plain(value)}
            for key, value in params.items()
        ]
    return ModelSignature(_schema(model_input), _schema(model_output), given)


def _schema(example: Any) -> list[dict[str, Any]] | None:
    if example is None:
        return None
    if hasattr(example, "columns") and hasattr(example, "dtypes"):
        kinds = zip(example.columns, example.dtypes, strict=True)
        return [{"type": _dtype(kind), "name": str(name), "required": True} for name, kind in kinds]
    if isinstance(example, Mapping):
        return [{"name": str(key), **_tensor(value)} for key, value in example.items()]
    return [_tensor(example)]


def _tensor(value: Any) -> dict[str, Any]:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        spec = {"dtype": str(value.dtype), "shape": [-1, *(int(n) for n in shape[1:])]}
        return {"type": "tensor", "tensor-spec": spec}
    if isinstance(value, (list, tuple)):
        return {"type": "array", "items": {"type": _kind(value[0]) if value else "any"}}
    return {"type": _kind(value)}


def _dtype(kind: Any) -> str:
    return _KINDS.get(getattr(kind, "kind", ""), str(kind) if str(kind) != "object" else "string")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    known = {int: "long", float: "double", str: "string", bytes: "binary"}
    return next((word for kind, word in known.items() if isinstance(value, kind)), "any")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def keep(
    flavor: str,
    model: Any,
    name: str | None,
    *,
    signature: Any,
    input_example: Any,
    step: int,
    told: Mapping[str, Any],
    unused: Mapping[str, Any],
) -> ModelInfo:
    """Log a model: final with ``step`` 0, as a checkpoint with a later one.

    What was told of it (signature, params, tags, ...) is an artifact beside it.
    """
    name = hot.text("name", "model" if name is None else name)
    step = hot.whole("step", step)
    if step < 0:
        raise UsageError(f"step must not be negative: {step}")
    given = sorted(key for key, value in unused.items() if value not in (None, False))
    if given:
        log.warning(
            "log_model: not used: %s; packages and code of the run are recorded by themselves",
            ", ".join(given),
        )
    to = at()
    if step:
        to.run.save_model_version(model, name, step=step)
    else:
        to.run.log_model(model, name)
    if signature is None and input_example is not None:
        signature = infer_signature(input_example)
    notes = {key: value for key, value in told.items() if value is not None}
    if signature is not None:
        notes["signature"] = signature.to_dict() if hasattr(signature, "to_dict") else signature
    if notes:
        data = _contents.json_bytes("signature, params, tags and metadata", notes)
        _contents.keep(to, f"{name}/MLmodel.json", data, step or None)
    run_id = to.info.run_id
    shown = signature if isinstance(signature, ModelSignature) else None
    uri, id = f"runs:/{run_id}/{name}", f"m-{run_id}-{name}"
    return ModelInfo(name, {flavor: {}}, uri, run_id, id, name, shown)
