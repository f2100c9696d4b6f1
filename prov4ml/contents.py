"""Things that are no files yet, as bytes: text, dicts, figures, images, arrays, streams.

A library is used where the object is one of its own, never imported for it.  What cannot be
written down raises ``UsageError``, with the argument's name and the reason.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from prov4ml import handover
from prov4ml.asking import interrupted, is_a, peek
from prov4ml.errors import UsageError
from prov4ml.handover import Handed, class_name, media_type
from prov4ml.talk import short

__all__ = ["Writer", "as_json", "complaint", "of_text", "writer"]

Writer: TypeAlias = Callable[[Path, str], Handed]
"""Puts bytes into ``incoming`` under a name; raises ``OSError`` where the disk takes none."""


def writer(name: str, thing: Any) -> Writer | None:
    """How to write a thing down that is called ``name``; None for what is nothing of these.

    Whatever takes time and memory is done when the writer is called.  ``name``'s ending chooses
    the format of figures and images (PNG or HTML without one).
    """
    kind = media_type(name)
    if is_a(thing, (bytes, bytearray, memoryview)):
        return lambda incoming, file: handover.hand_over_bytes(thing, incoming, file, kind)
    if is_a(thing, (Mapping, list, tuple)):
        return _of_bytes(lambda: as_json("artifact_path", thing), kind or "application/json")
    library = type(thing).__module__.partition(".")[0]
    ending = os.path.splitext(name)[1][1:].lower()
    if library == "matplotlib" and callable(peek(thing, "savefig")):
        return _by(thing.savefig, {"format": ending or "png"}, kind or "image/png")
    if library == "PIL" and callable(peek(thing, "save")):
        form = "JPEG" if ending == "jpg" else ending.upper() or "PNG"
        return _by(thing.save, {"format": form}, kind or "image/png")
    if library == "plotly" and callable(peek(thing, "to_html")):
        return _of_bytes(lambda: _plotly(thing, ending), kind or "text/html")
    if library == "numpy" and hasattr(type(thing), "__array_interface__"):
        return lambda incoming, file: _npy(thing, incoming, file, kind or "application/x-npy")
    if callable(peek(thing, "read")):
        return lambda incoming, file: _stream(thing, incoming, file, kind)
    return None


def of_text(name: str, text: Any) -> Writer:
    """How to write a text down, as UTF-8."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {type(text).__name__}")
    kind = media_type(name) or "text/plain"
    return _of_bytes(lambda: str.__str__(text).encode("utf-8", "backslashreplace"), kind)


def as_json(argument: str, thing: Any, indent: int | None = 2) -> bytes:
    """JSON; what JSON does not know is its ``item()``, ``tolist()`` or text."""

    def other(value: Any) -> Any:
        for name in ("item", "tolist"):
            method = peek(value, name)
            if callable(method) and (name != "item" or peek(value, "ndim") == 0):
                return method()
        if isinstance(value, Mapping):
            return dict(value)
        return str(value)

    try:
        text = json.dumps(thing, indent=indent, ensure_ascii=False, default=other)
    except Exception as error:  # a str() may raise anything; circles are ValueErrors
        raise complaint(argument, thing, "written as JSON", error) from error
    return text.encode("utf-8", "backslashreplace")


def complaint(argument: str, thing: Any, what: str, error: BaseException) -> UsageError:
    """What to raise for a thing that cannot be dealt with.

    Raises the error itself when a signal handler did.
    """
    if interrupted(error):
        raise error
    try:
        why = short(str(error), 300)
    except Exception:  # of an error, too
        why = ""
    kind = type(error).__name__
    return UsageError(
        f"{argument}: a {class_name(thing)} cannot be {what}: {kind}{': ' if why else ''}{why}"
    )


def _of_bytes(make: Callable[[], bytes], kind: str) -> Writer:
    return lambda incoming, file: handover.hand_over_bytes(make(), incoming, file, kind)


def _by(save: Callable[..., object], options: dict[str, Any], kind: str) -> Writer:
    """By a ``save(file, format=...)`` of the thing's own."""

    def made() -> bytes:
        file = io.BytesIO()
        try:
            save(file, **options)
        except Exception as error:
            raise complaint(
                "artifact_path", getattr(save, "__self__", save), "drawn", error
            ) from error
        return file.getvalue()

    return _of_bytes(made, kind)


def _plotly(figure: Any, ending: str) -> bytes:
    try:
        if ending == "json":
            return str(figure.to_json()).encode()
        if ending in ("", "html", "htm"):
            return str(figure.to_html(include_plotlyjs="cdn")).encode()
        return bytes(figure.to_image(format=ending))
    except Exception as error:  # an image needs another package, and it says which
        raise complaint("artifact_path", figure, "drawn", error) from error


def _npy(array: Any, incoming: Path, file: str, kind: str) -> Handed:
    numpy = sys.modules["numpy"]

    def fill(copy: int) -> None:
        with open(copy, "wb", closefd=False) as out:
            numpy.lib.format.write_array(out, numpy.asarray(array), allow_pickle=False)

    try:
        return Handed(file, handover.written(incoming, file, fill), None, kind)
    except OSError:
        raise
    except Exception as error:
        raise complaint("artifact_path", array, "written", error) from error


def _stream(stream: Any, incoming: Path, file: str, kind: str | None) -> Handed:
    try:
        return handover.hand_over_stream(stream, incoming, file, kind)
    except OSError:
        raise
    except Exception as error:
        raise complaint("artifact_path", stream, "read", error) from error
