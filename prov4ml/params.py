"""Parameters: any value, exactly; numbers as numbers, lists and dicts as JSON, the rest as text."""

from __future__ import annotations

import json
from typing import Any, Final

from prov4ml import events as ev
from prov4ml import handover, hot
from prov4ml.asking import peek
from prov4ml.errors import UsageError
from prov4ml.recorder import Recorder
from prov4ml.talk import log, short

__all__ = ["keep_param", "lexical", "log_param", "set_tag"]

_LONG: Final = 1000  # characters of a parameter's value that stand in the event itself


def log_param(
    to: Recorder,
    key: str,
    value: Any,
    context: str | None = None,
    source: str | None = None,
) -> None:
    """See ``Run.log_param``."""
    name = hot.text("key", key)
    at = hot.current_path(context)
    source = None if source is None else hot.text("source", source)
    datatype, text = lexical(value)
    known = to.params.setdefault(name, f"{datatype}:{text}")
    if known != f"{datatype}:{text}":
        log.warning(
            "parameter %r was %s and is now %s: both are kept",
            name,
            short(known.partition(":")[2]),
            short(text),
        )
        to.params[name] = f"{datatype}:{text}"
    keep_param(to, name, datatype, text, at, source)


def set_tag(to: Recorder, key: str, value: Any) -> None:
    """See ``Run.set_tag``."""
    name = hot.text("key", key)
    try:
        text = str(value)
    except Exception as error:
        raise UsageError(
            f"value: a {type(value).__name__} whose str() fails: {type(error).__name__}"
        ) from error
    to.append(ev.Tag(to.now(), name, hot.text("value", text) if text else ""))


def keep_param(
    to: Recorder,
    name: str,
    datatype: str,
    text: str,
    at: tuple[str, ...] = (),
    source: str | None = None,
    activity: int = 0,
) -> None:
    """Write down what ``lexical`` gave: of the run and a context, or of an activity."""
    if len(text) <= _LONG:
        to.append(ev.Param(to.now(), name, datatype, text, None, at, source, activity))
        return
    import hashlib

    data = text.encode()
    n = to.number()
    handed = to.hand_over(
        f"the value of {name}",
        n,
        lambda incoming, file: handover.hand_over_bytes(data, incoming, file, "text/plain"),
    )
    to.occurrence(n, "parameter", name, handed)
    digest = hashlib.sha256(data).hexdigest()
    to.append(ev.Param(to.now(), name, datatype, digest, n, at, source, activity))


def lexical(value: Any) -> tuple[str, str]:
    """(datatype, text) of a parameter's value, as ``events.Param`` has them."""
    if value is None:
        return "none", ""
    if isinstance(value, bool):
        return "bool", "true" if value else "false"
    if isinstance(value, int):
        return "int", _digits(int(value))
    if isinstance(value, float):
        return "float", repr(float(value))
    if isinstance(value, str):
        plain = str.__str__(value)
        return "str", plain.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple, dict)):
        try:
            text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError):
            pass
        else:
            return "json", text
    item = peek(value, "item")
    try:
        if callable(item) and peek(value, "ndim") == 0:  # a NumPy or torch scalar
            return lexical(item())
        return "text", str(value).encode("utf-8", "backslashreplace").decode()
    except Exception as error:
        raise UsageError(
            f"value: a {type(value).__name__} whose str() fails: {type(error).__name__}"
        ) from error


def _digits(value: int) -> str:
    """Decimal digits of an integer of any size (``str`` refuses beyond 4,300 digits)."""
    if value.bit_length() < 10_000:
        return str(value)
    sign, value = ("-", -value) if value < 0 else ("", value)
    parts: list[str] = []
    base = 10**4000
    while value:
        value, rest = divmod(value, base)
        parts.append(f"{rest:04000d}")
    return sign + "".join(reversed(parts)).lstrip("0")
