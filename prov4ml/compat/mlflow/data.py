"""``mlflow.data``: a dataset with a name, and where it came from, for ``log_input``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from prov4ml import events as ev
from prov4ml import hot
from prov4ml.compat.mlflow._runs import ActiveRun
from prov4ml.handover import Handed, class_name

__all__ = ["Dataset", "from_huggingface", "from_numpy", "from_pandas", "from_polars"]


class Dataset:
    """What ``from_numpy`` and the like give.  ``features`` is the data itself."""

    def __init__(
        self,
        features: Any,
        source: Any = None,
        targets: Any = None,
        name: str | None = None,
        digest: str | None = None,
        **facts: ev.Scalar,
    ) -> None:
        self.features = features
        self.source = source
        self.targets = targets
        self.name = "dataset" if name is None else hot.text("name", name)
        self._digest = digest
        self._facts = facts

    @property
    def digest(self) -> str:
        """As it was given, else the first 8 hex digits of the SHA-256 of all values."""
        if self._digest is None:
            told = hashlib.sha256()
            for part in (self.features, self.targets):
                for name, array in _parts(part):
                    told.update(f"{name} {getattr(array, 'dtype', '')} {_shape(array)}".encode())
                    told.update(_bytes(array))
            self._digest = told.hexdigest()[:8]
        return self._digest

    @property
    def profile(self) -> dict[str, ev.Scalar]:
        """Number of samples, shapes and types."""
        return _facts(self.features, self.targets)

    def to_dict(self) -> dict[str, Any]:
        source = None if self.source is None else str(self.source)
        return {
            "name": self.name,
            "digest": self.digest,
            "source": source,
            "profile": json.dumps(self.profile),
        }

    def facts(self) -> dict[str, ev.Scalar]:
        """What the provenance says of it."""
        known = {"digest": self._digest} if self._digest is not None else {}
        return {"class": class_name(self.features), **self.profile, **self._facts, **known}


def from_numpy(
    features: Any,
    source: Any = None,
    targets: Any = None,
    name: str | None = None,
    digest: str | None = None,
) -> Dataset:
    """A dataset of arrays: ``features`` and ``targets`` are each one, or a dict of them."""
    return Dataset(features, source, targets, name, digest)


def from_pandas(
    df: Any,
    source: Any = None,
    targets: str | None = None,
    name: str | None = None,
    digest: str | None = None,
    predictions: str | None = None,
) -> Dataset:
    """A dataset of a DataFrame; ``targets`` and ``predictions`` are names of columns."""
    named = {"targets": targets, "predictions": predictions}
    for argument, column in named.items():
        if column is not None and column not in df.columns:
            raise _no_column(argument, column)
    facts: dict[str, ev.Scalar] = {key: str(v) for key, v in named.items() if v is not None}
    return Dataset(df, source, None, name, digest, **facts)


def from_polars(
    df: Any,
    source: Any = None,
    targets: str | None = None,
    name: str | None = None,
    digest: str | None = None,
    predictions: str | None = None,
) -> Dataset:
    """The same of a Polars DataFrame."""
    return from_pandas(df, source, targets, name, digest, predictions)


def from_huggingface(
    ds: Any,
    path: str | None = None,
    targets: str | None = None,
    data_dir: str | None = None,
    data_files: Any = None,
    revision: Any = None,
    name: str | None = None,
    digest: str | None = None,
    trust_remote_code: bool | None = None,
    source: Any = None,
) -> Dataset:
    """A dataset of Hugging Face; its fingerprint is the digest."""
    given = {"targets": targets, "data_dir": data_dir, "revision": revision}
    facts: dict[str, ev.Scalar] = {key: str(v) for key, v in given.items() if v is not None}
    digest = digest or getattr(ds, "_fingerprint", None)
    return Dataset(ds, source if source is not None else path, None, name or path, digest, **facts)


def log(to: ActiveRun, dataset: Any, context: str | None, tags: Mapping[str, str] | None) -> None:
    """``log_input``: an occurrence of the dataset, once a run; with a context the use by it."""
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset must come from mlflow.data.from_numpy, from_pandas, from_polars or "
            f"from_huggingface, not {type(dataset).__name__}; prov4ml.log_dataset takes others"
        )
    if tags is not None and not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a mapping, not {type(tags).__name__}")
    at = hot.current_path(context)
    recorder = to.run._recorder
    facts = dataset.facts()
    known = recorder.datasets.get(id(dataset))
    if known is not None:
        made = known[1]
    else:
        source = dataset.source
        location = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        if source is not None and location is None:
            facts["source"] = str(source)
        within = () if context is not None else at
        made = recorder.occurrence(
            recorder.number(),
            "dataset",
            dataset.name,
            Handed(),
            location=location,
            at=within,
            use="used",
            facts=facts,
        )
        recorder.datasets[id(dataset)] = (dataset, made, "")
    if context is not None or tags:
        told = {hot.text("tags", str(key)): str(value) for key, value in (tags or {}).items()}
        recorder.append(ev.Split(recorder.now(), dataset.name, at, made.n, {**facts, **told}))


# ------------------------------------------------------------------------ what is in the data


def _parts(data: Any) -> list[tuple[str, Any]]:
    if data is None:
        return []
    return list(data.items()) if isinstance(data, Mapping) else [("", data)]


def _facts(features: Any, targets: Any) -> dict[str, ev.Scalar]:
    found: dict[str, ev.Scalar] = {}
    for what, data in (("", features), ("targets_", targets)):
        for name, array in _parts(data):
            mine = f"{what}{name}_" if name else what
            shape = _shape(array)
            if shape is not None:
                found[f"{mine}shape"] = json.dumps(shape)
            kind = getattr(array, "dtype", None)
            if kind is not None:
                found[f"{mine}dtype"] = str(kind)
            if not what and "samples" not in found:
                try:
                    found["samples"] = len(array)
                except Exception:  # noqa: S110 - a dataset of unknown length is normal
                    pass
    columns = getattr(features, "columns", None)
    if columns is not None and len(columns) <= 100:
        found["columns"] = json.dumps([str(name) for name in columns])
    return found


def _shape(array: Any) -> list[int] | None:
    shape = getattr(array, "shape", None)
    return [int(n) for n in shape] if isinstance(shape, tuple) else None


def _bytes(data: Any) -> bytes:
    """All values, for a hash."""
    if hasattr(data, "to_csv"):
        return str(data.to_csv(index=False)).encode("utf-8", "backslashreplace")
    if hasattr(data, "write_csv"):
        return str(data.write_csv()).encode("utf-8", "backslashreplace")
    if hasattr(data, "tobytes"):
        return bytes(data.tobytes())
    return repr(data).encode("utf-8", "backslashreplace")


def _no_column(argument: str, column: str) -> Exception:
    from prov4ml.compat.mlflow.exceptions import MlflowException

    return MlflowException(f"{argument}: the DataFrame has no column {column!r}")
