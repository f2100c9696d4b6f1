"""Numbers, times and lists in the few words a drawing has room for; pure functions."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from math import isnan
from typing import Final

__all__ = ["clip", "count", "duration", "many", "number", "pack", "short_hash", "size", "tooltip"]

_TOOLTIP: Final = 20_000  # characters; the documents have the rest


def number(value: float) -> str:
    """At most four digits: ``0.9753``, ``1.2e-05``, ``NaN``, ``∞``."""
    if isnan(value):
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+")


def count(value: int) -> str:
    return f"{value:,}"


def many(value: int, one: str, more: str = "") -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{value:,} {one if value == 1 else more or one + 's'}"


def duration(ns: int) -> str:
    """``< 1 ms``, ``12 ms``, ``14.2 s``, ``3 min 12 s``, ``2 h 05 min``, ``3 d 4 h``."""
    seconds = max(ns, 0) / 1e9
    if seconds < 1:
        return f"{ns // 1_000_000} ms" if seconds >= 0.001 else "< 1 ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: int, step: int = 1000) -> str:
    """Bytes: ``341 kB``; with a step of 1024 ``512 GiB`` (memory)."""
    units = ("kB", "MB", "GB", "TB", "PB") if step == 1000 else ("KiB", "MiB", "GiB", "TiB", "PiB")
    if abs(count) < step:
        return many(count, "byte")
    value = float(count)
    for unit in units:
        value /= step
        if round(value, 1) < step or unit == units[-1]:
            break
    return f"{value:.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"


def short_hash(digest: str) -> str:
    """``sha256 3f2a9c…``."""
    return f"sha256 {digest[:6]}…"


def clip(text: str, room: int) -> str:
    """Cut to so many columns (wide glyphs take two) and close with an ellipsis."""
    text = " ".join(text[: 4 * room].split())
    used = 0
    for at, char in enumerate(text):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used > room:
            return text[: max(at - 1, 0)].rstrip() + "…"
    return text


def pack(items: Sequence[str], lines: int, room: int = 42) -> tuple[list[str], int]:
    """Fill lines with items, ``·`` between; (lines, how many items they show).

    When not all fit, the last line ends with how many more there are.
    """
    short = [clip(item, room) for item in items]
    made: list[str] = []
    shown = 0
    for at, item in enumerate(short):
        left = len(items) - at - 1
        tail = f" · + {left} more" if left else ""
        joined = f"{made[-1]} · {item}" if made else item
        if made and len(joined) + (len(tail) if len(made) == lines else 0) <= room:
            made[-1] = joined
        elif len(made) < lines:
            made.append(item)
        else:
            break
        shown += 1
    if shown < len(items):
        more = f"+ {len(items) - shown} more"
        if made and len(made[-1]) + len(more) + 3 <= room:
            made[-1] += f" · {more}"
        elif made:
            made[-1] = f"{clip(made[-1], room - len(more) - 3)} · {more}"
    return made, shown


def tooltip(parts: Iterable[str]) -> str:
    """Lines of a tooltip, bounded."""
    made: list[str] = []
    used = 0
    for part in parts:
        if not part:
            continue
        if used + len(part) > _TOOLTIP:
            made.append(part[: max(_TOOLTIP - used, 0)] + "…")
            made.append("(the rest stands in the PROV documents)")
            break
        made.append(part)
        used += len(part) + 1
    return "\n".join(made)
