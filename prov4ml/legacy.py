"""How the versions of yProv4ML are called: orders of arguments, names of keywords, enumerations.

Their public calls took the same two arguments now in one order, now in the other.  Types tell
them apart: a text is a name, a label or (where two texts are given) what our own order says.
Nothing here records anything.  Source: the documentation of yProv4ML 1.x to 3.x.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

__all__ = [
    "CompressorType",
    "MetricsType",
    "artifact",
    "either",
    "experiment",
    "named",
    "no_others",
    "one_of_two",
]


class MetricsType(str, Enum):
    """Formats of metric files, for ``metrics_file_type``; each is the name of a sink."""

    CSV = "csv"
    ZARR = "zarr"
    NETCDF = "netcdf"
    PARQUET = "parquet"

    def __str__(self) -> str:
        return self.value


class CompressorType(str, Enum):
    """Compressions of metric files, for ``use_compressor``; a sink says which of them it has."""

    NONE = "none"
    ZIP = "zip"
    GZIP = "gzip"
    BZ2 = "bz2"
    LZMA = "lzma"
    LZ4 = "lz4"
    ZSTD = "zstd"
    BLOSC = "blosc"

    def __str__(self) -> str:
        return self.value


def named(thing: Any, name: Any) -> tuple[Any, Any]:
    """(thing, name) of a call that was made in either order; two texts stay as they are."""
    if isinstance(thing, str) and not isinstance(name, str):
        return name, thing
    return thing, name


def artifact(name: Any, path: Any, context: Any, step: Any) -> tuple[Any, Any, Any, Any]:
    """Arguments of ``log_artifact`` in our order.

    Also (path, context, step), where the context is a member of an enumeration, and
    (path, name), where only the path is one by its type.
    """
    if isinstance(path, Enum):
        if step is None and not isinstance(context, (str, Enum)):
            context, step = None, context
        if context is None:
            return name, None, path, step
    if isinstance(name, os.PathLike) and isinstance(path, str):
        return path, name, context, step
    return name, path, context, step


def either(text: str | bool | None, flag: bool) -> tuple[str | None, bool]:
    """(text, flag) where one argument may be either: a context, a name, or yes or no."""
    return (None, text) if isinstance(text, bool) else (text, flag)


def experiment(name: Any, namespace: Any) -> tuple[Any, Any]:
    """(experiment, namespace) in either order, where only one of them can be an address."""
    if _is_address(name) and isinstance(namespace, str) and not _is_address(namespace):
        return namespace, name
    return name, namespace


def _is_address(text: Any) -> bool:
    return isinstance(text, str) and ("://" in text or text.startswith("www."))


def one_of_two(call: str, **given: Any) -> Any:
    """The value of a keyword that has two names; ``TypeError`` when both are given."""
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) > 1:
        raise TypeError(f"{call}() got {' and '.join(found)}, which mean the same: give one")
    return next(iter(found.values()), None)


def no_others(
    call: Callable[..., Any], unknown: Mapping[str, Any], also: Iterable[str] = ()
) -> None:
    """Raise ``TypeError`` for keywords that a call does not have, naming the nearest it has."""
    for keyword in unknown:
        code = call.__code__
        count = code.co_argcount + code.co_kwonlyargcount
        known = [*(n for n in code.co_varnames[:count] if n != "self"), *also]
        near = difflib.get_close_matches(keyword, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
        raise TypeError(f"{call.__name__}() got an unexpected keyword argument {keyword!r}; {hint}")
