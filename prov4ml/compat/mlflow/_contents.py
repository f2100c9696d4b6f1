"""Content that MLflow's calls make into files: text, dicts, figures, images, tables.

Each call is one occurrence of an artifact, its bytes made on the caller's thread; nothing is
imported that the caller has not imported, but what writes an image or a Parquet table.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Mapping
from typing import Any

from prov4ml import handover, hot
from prov4ml.compat.mlflow._runs import ActiveRun
from prov4ml.errors import UsageError

__all__ = ["figure", "image", "json_bytes", "keep", "table"]


def keep(to: ActiveRun, artifact_file: str, data: bytes, step: int | None = None) -> None:
    """An artifact of the run that consists of these bytes."""
    recorder = to.run._recorder
    name = hot.text("artifact_file", artifact_file)
    at = hot.current_path(None)
    kind = handover.media_type(name)
    n = recorder.number()
    handed = recorder.hand_over(
        name, n, lambda incoming, file: handover.hand_over_bytes(data, incoming, file, kind)
    )
    recorder.occurrence(n, "artifact", name, handed, at=at, step=step, use="generated")


def json_bytes(argument: str, value: Any) -> bytes:
    """As MLflow writes JSON: indented, other objects as text."""
    try:
        return json.dumps(value, indent=2, default=str).encode("utf-8", "backslashreplace")
    except Exception as error:  # the text of an object may raise anything
        raise UsageError(f"{argument} cannot be written as JSON: {error}") from None


def figure(shown: Any, artifact_file: str, save: Mapping[str, Any]) -> bytes:
    """A figure of Matplotlib or Plotly, in the format that the name of the file ends with."""
    ending = _ending(artifact_file) or "png"
    if callable(getattr(shown, "savefig", None)):
        buffer = io.BytesIO()
        shown.savefig(buffer, **{"format": ending, **save})
        return buffer.getvalue()
    if callable(getattr(shown, "to_html", None)):  # Plotly
        if ending in ("html", "htm"):
            return str(
                shown.to_html(**{"include_plotlyjs": "cdn", "auto_open": False, **save})
            ).encode()
        return bytes(shown.to_image(**{"format": ending, **save}))
    what = type(shown).__name__
    raise TypeError(f"figure must be a figure of Matplotlib or Plotly, not {what}")


def image(shown: Any, artifact_file: str) -> bytes:
    """A picture of Pillow, or an array: (H, W), or (H, W, C) with C in 1, 3, 4.

    Integers and floats from 0 to 255, floats from 0 to 1 times 255, or bools.
    """
    ending = (_ending(artifact_file) or "png").replace("jpg", "jpeg")
    if hasattr(shown, "to_pil"):  # mlflow.Image
        shown = shown.to_pil()
    if not callable(getattr(shown, "save", None)):
        shown = picture(shown)
    buffer = io.BytesIO()
    shown.save(buffer, format=ending)
    return buffer.getvalue()


def picture(array: Any) -> Any:
    """A picture of Pillow from an array; see ``image``."""
    shape = getattr(array, "shape", None)
    if shape is None:
        raise TypeError(
            f"image must be an array or a picture of Pillow, not {type(array).__name__}"
        )
    if 0 in shape or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise UsageError(f"image: an array of shape {tuple(shape)} is neither (H, W) nor (H, W, C)")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("log_image of an array needs Pillow: pip install pillow") from error
    low, high, kind = float(array.min()), float(array.max()), array.dtype.kind
    if kind == "b" or (kind == "f" and low >= 0 and high <= 1):
        array = array * 255
    elif not (kind in "iuf" and low >= 0 and high <= 255):
        raise UsageError(f"image: values from {low:g} to {high:g} of type {array.dtype} are none")
    array = array.astype("uint8")
    return Image.fromarray(array[:, :, 0] if len(shape) == 3 and shape[2] == 1 else array)


def table(data: Any, artifact_file: str) -> bytes:
    """Columns as JSON (``{"columns": [...], "data": [[...], ...]}``) or Parquet."""
    if not isinstance(data, Mapping) and not hasattr(data, "to_json"):
        raise TypeError(f"data must be a dict or a DataFrame, not {type(data).__name__}")
    ending = _ending(artifact_file)
    if ending not in ("json", "parquet"):
        raise UsageError(f"artifact_file: {artifact_file!r} must end with .json or .parquet")
    if ending == "parquet":
        import pandas as pd

        frame = pd.DataFrame(_columns(data)) if isinstance(data, Mapping) else data
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        return buffer.getvalue()
    if not isinstance(data, Mapping):
        text = data.to_json(orient="split", index=False, date_format="iso")
        return str(text).encode("utf-8", "backslashreplace")
    columns = _columns(data)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return json_bytes("data", {"columns": list(columns), "data": rows})


def _columns(data: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Lists of one length; where all values are single ones they are one row."""
    single = not any(isinstance(v, (list, tuple)) or getattr(v, "ndim", 0) for v in data.values())
    found = {}
    for key, value in data.items():
        if not single and not isinstance(value, (list, tuple)) and not getattr(value, "ndim", 0):
            raise UsageError(f"data: the column {key!r} is no list, as others are")
        found[key] = [value] if single else list(getattr(value, "tolist", lambda v=value: v)())
    lengths = {key: len(column) for key, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"data: the columns differ in length: {lengths}")
    return found


def _ending(name: str) -> str:
    return posixpath.splitext(hot.text("artifact_file", name))[1].lstrip(".").lower()
