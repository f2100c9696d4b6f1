"""The run on one screen, as SVG: inputs, activities and outputs with PROV's shapes and colours.

Draws ``document.picture`` with pip alone: no font, no browser, no Graphviz.  Every text is
escaped, measured against an upper bound of its width and cut, so that nothing leaves its box
whatever the names are; the whole text stands in the tooltip (``<title>``).  Boxes link to the
absolute identifiers of what they show.  Never a script, never a reference to another file.
The same document gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from prov4ml.picture import Picture
from prov4ml.provdm import Document, Element
from prov4ml_sinks.svg_boxes import FAINT, INK, RULE, SOFT, TONES, draw_box, draw_text, shape, spans
from prov4ml_sinks.svg_layout import LANES, TOP, WIDTH, Scene, arrange
from prov4ml_sinks.svg_text import clean, fit, width, xml_text

__all__ = ["Svg"]

_FONT: Final = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_HEADINGS: Final = ("INPUTS", "ACTIVITIES", "OUTPUTS")


class Svg:
    """SVG: one picture of the run, for people who have never seen PROV."""

    suffix: ClassVar[str] = "svg"
    options: ClassVar[Mapping[str, str]] = {"title": "heading instead of the run's name"}

    def __init__(self, title: str = "") -> None:
        if not isinstance(title, str):
            raise TypeError(f"title must be a str, not {type(title).__name__}")
        self._title = title

    def render(self, document: Document) -> Iterator[bytes]:
        ident = "p" + hashlib.sha256(document.label.encode("utf-8", "replace")).hexdigest()[:8]
        title = self._title or (document.picture.title if document.picture else document.label)
        drawn = _run(document.picture, ident) if document.picture else _counts(document)
        height, description, body = drawn
        yield _head(ident, title, description, height).encode()
        for part in body:
            yield part.encode()
        yield b"</svg>\n"


def _head(ident: str, title: str, description: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" '
        f'aria-labelledby="{ident}-t {ident}-d" font-family="{_FONT}">\n'
        f'<title id="{ident}-t">{xml_text(title)}</title>\n'
        f'<desc id="{ident}-d">{xml_text(description)}</desc>\n'
        f'<defs><marker id="{ident}-a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M1 1 L9 5 L1 9" fill="none" '
        f'stroke="{FAINT}" stroke-width="1.6"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + draw_text(32, 44, title, 21, INK, WIDTH - 64, bold=True)
    )


_Drawn = tuple[int, str, Iterator[str]]  # height, description, the marks

# --------------------------------------------------------------------------------- a run


def _run(picture: Picture, ident: str) -> _Drawn:
    scene = arrange(picture)
    foot = scene.bottom + 30
    return round(foot + 46), _description(picture), _marks(picture, scene, foot, ident)


def _marks(picture: Picture, scene: Scene, foot: float, ident: str) -> Iterator[str]:
    yield _subtitle(picture)
    yield from _headings(picture)
    for place in scene.places:
        yield from draw_box(place)
    for route in scene.routes:
        dash = ' stroke-dasharray="5 4"' if route.dashed else ""
        yield (
            f'<path d="{route.path}" fill="none" stroke="{FAINT}" stroke-width="1.3"{dash} '
            f'marker-end="url(#{ident}-a)"/>\n'
        )
        if route.label:
            yield draw_text(route.x, route.y + 3.5, route.label, 10.5, FAINT, 220)
    yield from _footer(picture.remark, foot)


def _description(picture: Picture) -> str:
    named = [
        f"{lane}: {', '.join(clean(box.title) for box in boxes) or 'none'}"
        for lane, boxes in (
            ("Inputs", picture.inputs),
            ("Activities", picture.activities),
            ("Outputs", picture.outputs),
        )
    ]
    return ". ".join([picture.subtitle, *named, picture.remark]).strip(". ") + "."


def _subtitle(picture: Picture) -> str:
    colour = TONES.get(picture.tone, SOFT)
    if not picture.tone:
        return draw_text(32, 68, picture.subtitle, 12.5, SOFT, WIDTH - 64)
    status, dot, rest = picture.subtitle.partition(" · ")
    shown = fit(status, 12.5, 200, True)
    room = WIDTH - 32 - 50 - width(shown + dot, 12.5, True)
    return (
        f'<circle cx="38" cy="63.5" r="5" fill="{colour}"/>\n'
        f'<text x="50" y="68" font-size="12.5" fill="{SOFT}">'
        f'<tspan font-weight="700" fill="{colour}">{spans(shown, 12.5, True)}</tspan>'
        f"{dot}{spans(fit(rest, 12.5, room), 12.5, False)}</text>\n"
    )


def _headings(picture: Picture) -> Iterator[str]:
    y = TOP - 26
    for (x, w), heading, boxes in zip(
        LANES, _HEADINGS, (picture.inputs, picture.activities, picture.outputs), strict=True
    ):
        yield draw_text(x, y, heading, 11, FAINT, w, bold=True)
        if not boxes:
            yield draw_text(x, TOP + 18, "nothing recorded", 11.5, FAINT, w, italic=True)
    for arrow, label in ((0, "used"), (1, "generated by")):
        (x, w), (to, _) = LANES[arrow], LANES[arrow + 1]
        if (picture.inputs, picture.outputs)[arrow]:
            middle, room = (x + w + to) / 2, to - x - w - 4
            yield draw_text(middle, y, label, 10.5, FAINT, room, anchor="middle")


def _footer(remark: str, y: float) -> Iterator[str]:
    yield f'<line x1="32" y1="{y:.1f}" x2="{WIDTH - 32}" y2="{y:.1f}" stroke="{RULE}"/>\n'
    row = y + 26
    x = 32.0
    for kind, word in (("entity", "thing"), ("activity", "what happened"), ("agent", "person")):
        yield shape(kind, x, row - 12, 26, 16, small=True)
        label = f"{word} ({kind})"
        yield draw_text(x + 34, row, label, 11, SOFT, 150)
        x += 34 + width(label, 11) + 24
    label = "arrows point to what came before (W3C PROV)"
    yield draw_text(x, row, label, 11, SOFT, 330)
    x += width(label, 11) + 24
    yield draw_text(WIDTH - 32, row, remark, 11, FAINT, WIDTH - 32 - x, anchor="end")


# --------------------------------------------------------------------- not a run: counts

_KINDS: Final = (
    ("entity", "entities", "things"),
    ("activity", "activities", "what happened"),
    ("agent", "agents", "who bears responsibility"),
)


def _counts(document: Document) -> _Drawn:
    """A small picture of a document that is no run: what stands in it, by kind."""
    found: Counter[str] = Counter()
    relations: Counter[str] = Counter()
    for statement in document.statements():
        if isinstance(statement, Element):
            found[statement.kind] += 1
        else:
            relations[statement.kind] += 1
    words = [f"{found[kind]:,} {kind if found[kind] == 1 else more}" for kind, more, _ in _KINDS]
    total = sum(relations.values())
    words.append(f"{total:,} {'relation' if total == 1 else 'relations'}")
    lines = [f"{count:,} {kind}" for kind, count in sorted(relations.items())]
    foot = TOP + 106 + 20.0 * -(-len(lines) // 3) + 24
    said = "a PROV document that is not a recorded run; what stands in it, by kind"
    return round(foot + 46), f"{said}: {', '.join(words)}.", _count_marks(said, words, lines, foot)


def _count_marks(said: str, words: list[str], lines: list[str], foot: float) -> Iterator[str]:
    yield draw_text(32, 68, said, 12.5, SOFT, WIDTH - 64)
    for (x, _), (kind, _, meaning), told in zip(LANES, _KINDS, words, strict=False):
        yield shape(kind, x, TOP - 30, 64, 44)
        yield draw_text(x + 80, TOP - 10, told, 14, INK, 240, bold=True)
        yield draw_text(x + 80, TOP + 8, meaning, 11.5, SOFT, 240)
    yield draw_text(32, TOP + 70, words[-1], 14, INK, WIDTH - 64, bold=True)
    for at, line in enumerate(lines):
        x, w = LANES[at % 3]
        yield draw_text(x, TOP + 96 + 20 * (at // 3), line, 11.5, SOFT, w)
    yield from _footer("nothing of it is drawn one by one", foot)
