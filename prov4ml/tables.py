"""Arrays and tables in memory: shape, schema, and a hash of their values on request.

NumPy, torch, pandas, Polars and Arrow, known by what they look like; none is imported here.  The
hash is taken on the caller's thread, at the speed of SHA-256, over values in their order:

* an array: its dtype, its shape, and its elements in C order
* a pandas table: its columns' names and types, and pandas' own hash of each row and its index
* an Arrow or Polars table: its schema, and the columns as an Arrow stream in one piece

so two arrays, or two tables, with the same values have the same hash under one version of the
library.  It names the values, not a file: it is an attribute and no content.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prov4ml.asking import peek
from prov4ml.contents import complaint
from prov4ml.errors import UsageError
from prov4ml.events import Scalar

__all__ = ["describe", "digest", "indices_digest", "integers", "sized"]

_SCHEMA: Final = 4000  # characters of a schema that are kept
_ROWS: Final = 1 << 16  # rows of a pandas table that are hashed at a time


def sized(thing: Any) -> int | None:
    """Its length, if it has one that can be said."""
    try:
        return len(thing)
    except Exception:  # a dataset of unknown length is normal
        return None


def integers(shape: Any) -> list[int] | None:
    """A shape as numbers; None for what is none."""
    try:
        return [int(n) for n in shape]
    except Exception:
        return None


def describe(thing: Any) -> dict[str, Scalar]:
    """Samples, shape, dtype and schema, as far as it says."""
    facts: dict[str, Scalar] = {}
    shape = peek(thing, "shape")
    numbers = integers(shape) if isinstance(shape, tuple) else None
    if numbers is not None:
        facts["shape"] = json.dumps(numbers)
    columns = _schema(thing)
    if columns:
        text = json.dumps(columns, ensure_ascii=False, default=str)
        facts["columns"] = len(columns)
        facts["schema"] = text if len(text) <= _SCHEMA else _cut(columns)
    else:
        dtype = peek(thing, "dtype")
        if numbers is not None and dtype is not None:
            facts["dtype"] = _text(dtype)
    count = numbers[0] if numbers else sized(thing)
    if count is not None and (numbers is None or numbers):
        facts["samples"] = count
    return facts


def _schema(thing: Any) -> dict[str, str]:
    """Names and types of columns."""
    library = type(thing).__module__.partition(".")[0]
    try:
        if library == "pandas" and peek(thing, "columns") is not None:
            return {
                str(name): str(kind) for name, kind in zip(thing.columns, thing.dtypes, strict=True)
            }
        if library == "polars" and isinstance(peek(thing, "schema"), Mapping):
            return {str(name): str(kind) for name, kind in thing.schema.items()}
        if library == "pyarrow" and peek(thing, "schema") is not None:
            return {field.name: str(field.type) for field in thing.schema}
    except Exception:  # a type of an extension that does not say what it is
        return {}
    return {}


def _cut(columns: dict[str, str]) -> str:
    """The first columns of a schema, as many as there is room for."""
    kept: dict[str, str] = {}
    room = _SCHEMA - 100
    for name, kind in columns.items():
        room -= len(name) + len(kind) + 8
        if room < 0:
            break
        kept[name] = kind
    return json.dumps({**kept, "...": f"{len(columns) - len(kept)} more"}, ensure_ascii=False)


def _text(thing: Any) -> str | None:
    try:
        return str(thing)
    except Exception:
        return None


# ------------------------------------------------------------------------------- the hash


def digest(thing: Any) -> str:
    """``sha256:`` and 64 hex digits.  Raises ``UsageError`` for what has no values to hash."""
    sha256 = hashlib.sha256()
    library = type(thing).__module__.partition(".")[0]
    try:
        if library == "torch" and callable(peek(thing, "detach")):
            thing, library = thing.detach().cpu().numpy(), "numpy"
        if library == "numpy" and peek(thing, "dtype") is not None:
            _array(sha256, thing)
        elif library == "pandas":
            _pandas(sha256, thing)
        elif library in ("polars", "pyarrow"):
            _arrow(sha256, thing if library == "pyarrow" else thing.to_arrow())
        else:
            raise UsageError(
                f"hash: a {type(thing).__name__} has no values to hash; arrays and tables have"
            )
    except UsageError:
        raise
    except Exception as error:
        raise complaint("hash", thing, "hashed", error) from error
    return f"sha256:{sha256.hexdigest()}"


def indices_digest(indices: Any) -> str:
    """The same of a subset's indices, as 64-bit integers, whatever holds them."""
    from array import array

    try:
        plain = indices.tolist() if callable(peek(indices, "tolist")) else indices
        return f"sha256:{hashlib.sha256(array('q', plain).tobytes()).hexdigest()}"
    except Exception as error:
        raise complaint("hash", indices, "hashed as indices", error) from error


def _array(sha256: Any, array: Any) -> None:
    if array.dtype.hasobject:
        raise UsageError("hash: an array of Python objects has no bytes of its own")
    sha256.update(f"{array.dtype.str}{list(array.shape)}".encode())
    if array.flags.c_contiguous:
        if array.size:
            sha256.update(memoryview(array).cast("B"))
        return
    for row in _rows(array):
        sha256.update(row.tobytes())


def _rows(array: Any) -> Iterator[Any]:
    """Pieces of an array in C order, each small."""
    if array.ndim > 1 and array.nbytes > 1 << 22:
        for row in array:
            yield from _rows(row)
    else:
        yield array


def _pandas(sha256: Any, table: Any) -> None:
    pandas = sys.modules["pandas"]
    sha256.update(json.dumps(_schema(table) or str(table.dtype), sort_keys=False).encode())
    for start in range(0, max(len(table), 1), _ROWS):
        rows = pandas.util.hash_pandas_object(table.iloc[start : start + _ROWS], index=True)
        sha256.update(rows.to_numpy().tobytes())


class _Sink:
    """A file that only hashes what is written."""

    closed = False

    def __init__(self, sha256: Any) -> None:
        self.sha256 = sha256

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True


def _arrow(sha256: Any, table: Any) -> None:
    pyarrow = sys.modules["pyarrow"]
    if isinstance(table, pyarrow.RecordBatch):
        table = pyarrow.Table.from_batches([table])
    elif not isinstance(table, pyarrow.Table):  # one column
        table = pyarrow.table({"": table})
    table = table.combine_chunks().replace_schema_metadata(None)
    out = pyarrow.PythonFile(_Sink(sha256), mode="w")
    with pyarrow.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
