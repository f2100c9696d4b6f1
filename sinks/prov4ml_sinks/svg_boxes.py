"""Marks on the page: boxes with their rows, curves, PROV's shapes, fitted texts.

Every function gives a piece of SVG as text; all that came from a person is escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from prov4ml.picture import Sparkline
from prov4ml_sinks.svg_layout import LINE, PAD, ROW, TITLE, Place
from prov4ml_sinks.svg_text import fit, runs, width, xml_text

__all__ = ["FAINT", "INK", "RULE", "SOFT", "TONES", "draw_box", "draw_text", "shape", "spans"]

INK, SOFT, FAINT, RULE = "#1f2933", "#52606d", "#7b8794", "#e4e7eb"
TONES: Final = {"good": "#1d7a4c", "bad": "#c0262d", "busy": "#2563b0", "": SOFT}
_FILLS: Final = {"entity": "#fffbe6", "activity": "#eaf1ff", "agent": "#fff0e2"}
_EDGES: Final = {"entity": "#c9a227", "activity": "#4a7bd0", "agent": "#d9822b"}
_NOTES: Final = {"entity": "#8a6d00", "activity": "#1b3a6b", "agent": "#7a4510"}
_LINKS: Final = re.compile(r"(?:https?://|urn:)[^\s<>\"\x00-\x20]+\Z")


def draw_box(place: Place) -> Iterator[str]:
    box = place.box
    linked = bool(_LINKS.match(box.iri))
    if linked:
        yield f'<a href="{xml_text(box.iri)}">'
    yield f"<g><title>{xml_text(box.tooltip or box.title)}</title>\n"
    white = box.shape == "activity" and bool(box.inside)
    yield shape(
        box.shape, place.x, place.y, place.w, place.h, white=white, strong=box.emphasis,
        bad=box.tone == "bad" or (bool(box.alert) and box.shape == "entity"),
    )  # fmt: skip
    if box.shape == "agent":
        x, y = place.x + place.w / 2, place.bottom - 12
        yield draw_text(
            x, y, box.title, 12.5, _NOTES["agent"], place.w - 40, bold=True, anchor="middle"
        )
    else:
        yield from _rows(place)
    yield "</g></a>\n" if linked else "</g>\n"


def _rows(place: Place) -> Iterator[str]:
    box = place.box
    left, right = place.x + PAD, place.right - PAD
    room = right - left
    y = place.y + 23
    note = fit(box.note, 10.5, room * 0.45)
    taken = width(note, 10.5) + 12 if note else 0
    ink = "#1b3a6b" if box.shape == "activity" else INK
    yield draw_text(left, y, box.title, 13, ink, room - taken, bold=True)
    if note:
        colour = TONES[box.tone] if box.tone in ("good", "bad", "busy") else _NOTES[box.shape]
        if box.emphasis:
            colour = TONES["good"]
        yield draw_text(right, y, note, 10.5, colour, room * 0.45, anchor="end")
    y = place.y + TITLE + 12
    for curve in box.sparklines:
        yield from _curve(curve, left, y, right)
        y += ROW
    for line in box.lines:
        yield draw_text(left, y, line, 11.5, "#3e5c86" if box.shape == "activity" else SOFT, room)
        y += LINE
    for line in place.alert:
        yield draw_text(left, y, line, 11.5, TONES["bad"], room)
        y += LINE
    if box.span is not None:
        yield from _span(box.span, left, place.y + place.head - 12, room)


def _span(span: tuple[float, float], x: float, y: float, w: float) -> Iterator[str]:
    """When an activity was at work, as a bar on the run's time."""
    begin = x + span[0] * w
    length = max((span[1] - span[0]) * w, 3)
    begin = min(begin, x + w - length)
    yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="4" rx="2" fill="#dbe6fb"/>'
    yield (
        f'<rect x="{begin:.1f}" y="{y:.1f}" width="{length:.1f}" height="4" rx="2" '
        f'fill="{_EDGES["activity"]}"/>\n'
    )


def _curve(curve: Sparkline, left: float, y: float, right: float) -> Iterator[str]:
    """One series: name, curve, last value, in columns."""
    yield f"<g><title>{xml_text(curve.tooltip or curve.name)}</title>\n"
    yield draw_text(left, y, curve.name, 11.5, SOFT, 132)
    yield draw_text(right, y, curve.value, 11.5, INK, 76, bold=True, anchor="end")
    x, w = left + 140, right - left - 140 - 88
    finite = [v for v in curve.values if abs(v) < float("inf")]
    if finite:
        low, high = min(finite), max(finite)
        scale = high / 2 - low / 2  # halves: the difference of two doubles may overflow
        pieces: list[list[str]] = [[]]
        last = ""
        for at, value in enumerate(curve.values):
            if not abs(value) < float("inf"):
                pieces.append([])
                continue
            part = (value / 2 - low / 2) / scale if scale > 0 else 0.5
            px = x + w * (at / (len(curve.values) - 1) if len(curve.values) > 1 else 1)
            last = f"{px:.1f},{y + 2 - 13 * part:.1f}"
            pieces[-1].append(last)
        for piece in pieces:
            if len(piece) > 1:
                yield (
                    f'<polyline fill="none" stroke="{_EDGES["activity"]}" stroke-width="1.4" '
                    f'stroke-linejoin="round" points="{" ".join(piece)}"/>'
                )
        cx, _, cy = last.partition(",")
        yield f'<circle cx="{cx}" cy="{cy}" r="2" fill="{_EDGES["activity"]}"/>'
    yield "</g>\n"


def shape(
    shape: str,
    x: float,
    y: float,
    w: float,
    h: float,
    *,
    white: bool = False,
    strong: bool = False,
    bad: bool = False,
    small: bool = False,
) -> str:
    fill, edge, line = _FILLS[shape], _EDGES[shape], 1.2
    if white:
        fill = "#ffffff"
    if strong:
        fill, edge, line = "#effaf3", "#2f9e6e", 1.8
    if bad:
        edge, line = TONES["bad"], 1.6
    look = f'fill="{fill}" stroke="{edge}" stroke-width="{line}"'
    if shape == "agent":
        roof = y + h * 0.42
        path = f"M{x:.1f} {roof:.1f} L{x + w / 2:.1f} {y:.1f} L{x + w:.1f} {roof:.1f} "
        return f'<path d="{path}V{y + h:.1f} H{x:.1f} Z" {look} stroke-linejoin="round"/>\n'
    radius = 4 if shape == "activity" else 18
    if small:
        radius = 2 if shape == "activity" else 8
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{radius}" {look}/>\n'
    )


def draw_text(
    x: float,
    y: float,
    text: str,
    size: float,
    fill: str,
    room: float,
    *,
    bold: bool = False,
    anchor: str = "start",
    italic: bool = False,
) -> str:
    """A text that takes at most ``room`` px from x on (to both sides, to the left)."""
    shown = fit(text, size, room, bold)
    if not shown:
        return ""
    look = f'font-size="{size}" fill="{fill}"'
    if bold:
        look += ' font-weight="700"'
    if italic:
        look += ' font-style="italic"'
    if anchor != "start":
        look += f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{spans(shown, size, bold)}</text>\n'


def spans(shown: str, size: float, bold: bool) -> str:
    """A fitted text, escaped; pieces of unknown width are held to the width that was reckoned."""
    made = []
    for piece, known in runs(shown, bold):
        if known:
            made.append(xml_text(piece))
        else:
            forced = f'textLength="{width(piece, size, bold):.1f}" lengthAdjust="spacingAndGlyphs"'
            made.append(f"<tspan {forced}>{xml_text(piece)}</tspan>")
    return "".join(made)
