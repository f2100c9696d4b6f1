"""Texts for a picture whose fonts nobody knows: cleaned, measured, cut, wrapped.

Widths are upper bounds: the advances of DejaVu Sans, which is wider than Helvetica, Arial,
Segoe UI, Inter and Noto Sans, and a generous guess for emoji and wide glyphs.  Where no bound
is known (most of Unicode) ``runs`` says so, and the drawing forces the width.  A text that
was fitted never leaves its place, whatever the name was.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

__all__ = ["clean", "fit", "runs", "width", "wrap", "xml_text"]

# Advances of U+0020..U+007E in 1/1000 em, measured.
_REGULAR: Final = (
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337,
    636, 636, 636, 636, 636, 636, 636, 636, 636, 636, 337, 337, 838, 838, 838, 531,
    1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863, 748, 787,
    603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500,
    500, 613, 635, 550, 635, 615, 352, 635, 634, 278, 278, 579, 278, 974, 634, 612,
    635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636, 337, 636, 838,
)  # fmt: skip
_BOLD: Final = (
    348, 456, 521, 838, 696, 1002, 872, 306, 457, 457, 523, 838, 380, 415, 380, 365,
    696, 696, 696, 696, 696, 696, 696, 696, 696, 696, 400, 400, 838, 838, 838, 580,
    1000, 774, 762, 734, 830, 683, 683, 821, 837, 372, 372, 775, 637, 995, 837, 850,
    733, 850, 770, 720, 682, 812, 774, 1103, 771, 724, 725, 457, 365, 457, 838, 500,
    500, 675, 716, 593, 716, 678, 435, 716, 712, 343, 343, 665, 343, 1042, 712, 687,
    716, 716, 493, 595, 478, 712, 652, 924, 645, 652, 582, 712, 365, 712, 838,
)  # fmt: skip
_SIGNS: Final = {
    "·": 380, "×": 838, "…": 1000, "–": 500, "—": 1000, "‘": 380, "’": 380, "“": 644,
    "”": 644, "•": 640, "→": 838, "←": 838, "★": 900, "✓": 838, "−": 838, "≤": 838,
    "≥": 838, "∞": 940, "µ": 736, "°": 500, "\ufffd": 1114, "\u00a0": 348, "ß": 719,
    **dict.fromkeys("₀₁₂₃₄₅₆₇₈₉", 438),
}  # fmt: skip
_ZERO: Final = "\u200d\ufe0e\ufe0f"  # joiner and variation selectors: part of emoji
_SPACES: Final = re.compile(r"\s+")
_MARKS: Final = 2  # combining marks on one letter; more would climb over the line above
_ILLEGAL: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """Text as XML 1.0 may hold it: forbidden characters become U+FFFD; then escaped."""
    text = _ILLEGAL.sub("\ufffd", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&quot;").replace("\r", "&#13;")


def clean(text: str) -> str:
    """One line for the eye: spaces joined, control characters shown as U+FFFD.

    Marks that turn the direction of writing are left out, so are all but two combining marks
    on a letter; the tooltip has the text as it is.
    """
    made: list[str] = []
    marks = 0
    for char in _SPACES.sub(" ", text[:2000]).strip():
        category = unicodedata.category(char)
        if category in ("Mn", "Me") and char not in _ZERO:
            marks += 1
            if marks > _MARKS:
                continue
        elif char not in _ZERO:
            marks = 0
        if category == "Cf" and char not in _ZERO:
            continue
        made.append("\ufffd" if category in ("Cc", "Cs", "Cn", "Co", "Zl", "Zp") else char)
    return "".join(made)


def width(text: str, size: float, bold: bool = False) -> float:
    """An upper bound (px) of what a clean text takes at a font size (px)."""
    return sum(_advance(char, bold)[0] for char in text) * size / 1000


def runs(text: str, bold: bool = False) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether ``width`` is a bound for it."""
    made: list[tuple[str, bool]] = []
    for char in text:
        known = _advance(char, bold)[1]
        if made and made[-1][1] == known:
            made[-1] = (made[-1][0] + char, known)
        else:
            made.append((char, known))
    return made


def fit(text: str, size: float, room: float, bold: bool = False) -> str:
    """The text on one line, cut with an ellipsis when it is wider than ``room`` (px)."""
    text = clean(text)
    if width(text, size, bold) <= room:
        return text
    left = room * 1000 / size - _advance("…", bold)[0]
    kept = 0
    for char in text:
        left -= _advance(char, bold)[0]
        if left < 0:
            break
        kept += 1
    while kept and (text[kept] in _ZERO or unicodedata.combining(text[kept])):
        kept -= 1  # not within a letter and its marks
    return text[:kept].rstrip(" ·" + _ZERO) + "…" if room > size else ""


def wrap(text: str, size: float, room: float, lines: int) -> list[str]:
    """The text on at most ``lines`` lines, broken at spaces, the last one cut."""
    words = clean(text).split(" ")
    made: list[str] = []
    while words and len(made) < lines - 1:
        count = len(words)
        while count > 1 and width(" ".join(words[:count]), size) > room:
            count -= 1
        made.append(fit(" ".join(words[:count]), size, room))
        words = words[count:]
    if words:
        made.append(fit(" ".join(words), size, room))
    return [line for line in made if line]


@lru_cache(maxsize=4096)
def _advance(char: str, bold: bool) -> tuple[int, bool]:
    """(advance in 1/1000 em, whether that is a bound)."""
    code = ord(char)
    if 0x20 <= code < 0x7F:
        return (_BOLD if bold else _REGULAR)[code - 0x20], True
    if char in _SIGNS:
        return _SIGNS[char], True
    if char in _ZERO:
        return 0, True
    if code < 0x250:
        base = unicodedata.normalize("NFD", char)[0]
        return _advance(base, bold) if base < "\x7f" else (1580, True)
    if 0x370 <= code < 0x460:  # Greek and Cyrillic
        return (1150 if unicodedata.category(char) == "Ll" else 1420), True
    if 0x590 <= code < 0x700 and unicodedata.category(char) == "Lo":  # Hebrew, Arabic
        return 800 if code < 0x600 else 1400, True
    if unicodedata.category(char) in ("Mn", "Me"):
        return 620, True  # nothing where the font can place it, a box where it cannot
    if 0x1F000 <= code < 0x1FB00 or 0x2600 <= code < 0x27C0:
        return 1700, True
    if unicodedata.east_asian_width(char) in ("W", "F"):
        return 1050, True
    return 1000, False
