"""Croissant: what a JSON-LD description of a dataset says of it.

Sources: Croissant 1.0 (``http://mlcommons.org/croissant/1.0``), schema.org ``Dataset``.  A file is
one when its ``@type`` is a Dataset; a link in it is recorded, never followed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from prov4ml import handover, redaction
from prov4ml.events import Scalar
from prov4ml.talk import short

__all__ = ["facts"]

_MOST: Final = 16 << 20  # bytes of a description that are read
_TYPES: Final = ("Dataset", "sc:Dataset", "schema:Dataset", "https://schema.org/Dataset")
_KEYS: Final = (
    ("name", ("name", "sc:name", "schema:name")),
    ("url", ("url", "sc:url", "schema:url")),
    ("license", ("license", "sc:license", "schema:license")),
    ("version", ("version", "sc:version", "schema:version")),
    ("conforms_to", ("conformsTo", "dct:conformsTo", "dcterms:conformsTo")),
)


def facts(path: Path) -> dict[str, Scalar] | None:
    """Name, link, licence, version and conformity; None for a file that is no Croissant.

    Raises ``UsageError`` for what is no file or cannot be read.
    """
    with handover.regular(path, "dataset") as file:
        if os.fstat(file.fileno()).st_size > _MOST:
            return None
        data = file.read(_MOST)
    try:
        content = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not _is_dataset(content):
        return None
    found: dict[str, Scalar] = {}
    for name, keys in _KEYS:
        value = next((content[key] for key in keys if key in content), None)
        text = _text(value)
        if text:
            found["dataset" if name == "name" else name] = redaction.url(text)
    found["croissant"] = True
    return found


def _is_dataset(content: dict[str, Any]) -> bool:
    kind = content.get("@type", content.get("type"))
    kinds = kind if isinstance(kind, list) else [kind]
    return any(isinstance(each, str) and each in _TYPES for each in kinds)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value[:10])))
    if isinstance(value, dict):
        value = value.get("@id", value.get("url", value.get("name")))
    return short(str(value), 1000) if isinstance(value, (str, int, float)) else ""
