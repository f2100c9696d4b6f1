"""The SVG sink: well-formed, nothing outside its place, whatever the names are."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from prov4ml.overview import picture
from prov4ml.picture import Box, Picture, Sparkline
from prov4ml.provdm import Document, Element, Relation
from prov4ml.testing.samples import ODD, samples
from prov4ml_sinks.svg import Svg
from prov4ml_sinks.svg_text import clean, fit, runs, width, wrap, xml_text

SPACE = "{http://www.w3.org/2000/svg}"
SAMPLES = sorted(samples())
Rect = tuple[float, float, float, float]


def render(drawing: Picture | None, **options: str) -> bytes:
    return b"".join(Svg(**options).render(Document("run_0", {}, lambda: iter(()), drawing)))


def alone(box: Box, **more: object) -> Picture:
    run = Box(key="run", shape="activity", title="run")
    return Picture("t", "s", None, (box,), (run,), (), (), **more)  # type: ignore[arg-type]


def text_rects(root: ET.Element) -> Iterator[tuple[str, Rect]]:
    """Each text with the rectangle that it takes at most."""
    for node in root.iter(f"{SPACE}text"):
        content = "".join(node.itertext())
        size = float(node.get("font-size", ""))
        bold = (
            node.get("font-weight") == "700" or node.find(f"{SPACE}tspan[@font-weight]") is not None
        )
        taken = width(content, size, bold)
        x, y = float(node.get("x", "")), float(node.get("y", ""))
        x -= {"start": 0.0, "middle": taken / 2, "end": taken}[node.get("text-anchor", "start")]
        yield content, (x, y - 0.76 * size, x + taken, y + 0.24 * size)


def path_points(path: str) -> Iterator[tuple[float, float]]:
    """Points on a path of M, H, V and C."""
    x = y = 0.0
    for command, rest in re.findall(r"([MHVC])([^MHVC]*)", path):
        n = [float(v) for v in rest.split()]
        x0, y0 = x, y
        if command == "M":
            x, y = n
        elif command == "C":
            for t in (i / 40 for i in range(41)):
                a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
                yield (
                    a * x0 + b * n[0] + c * n[2] + d * n[4],
                    a * y0 + b * n[1] + c * n[3] + d * n[5],
                )
            x, y = n[4], n[5]
        else:
            x, y = (n[0], y) if command == "H" else (x, n[0])
            for i in range(41):
                yield x0 + (x - x0) * i / 40, y0 + (y - y0) * i / 40


def check(data: bytes) -> ET.Element:
    """Assert what holds for every picture, and give back its root."""
    root = ET.fromstring(data)
    wide, high = float(root.get("width", "")), float(root.get("height", ""))
    assert root.get("viewBox") == f"0 0 {wide:.0f} {high:.0f}"
    texts = list(text_rects(root))
    assert texts
    for content, (left, top, right, bottom) in texts:
        inside = left >= 0 and top >= 0 and right <= wide and bottom <= high
        assert inside, content
    for (one, a), (two, b) in itertools.combinations(texts, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, two)
    arrows = [node for node in root.iter(f"{SPACE}path") if node.get("marker-end")]
    for arrow in arrows:
        for x, y in path_points(arrow.get("d", "")):
            assert 0 <= x <= wide
            assert 0 <= y <= high
            for content, (left, top, right, bottom) in texts:
                assert not (left < x < right and top < y < bottom), content
    kinds = {node.tag.removeprefix(SPACE) for node in root.iter()}
    assert not kinds & {"script", "foreignObject", "image", "use", "style"}
    return root


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_out_of_place(name: str) -> None:
    """Well-formed; no text outside the canvas, over another text or under an arrow."""
    root = check(render(picture(samples()[name]())))
    assert float(root.get("height", "")) <= 960


@pytest.mark.parametrize("name", ["demo", "crowded", "odd"])
def test_same_picture_same_bytes(name: str) -> None:
    """Rendering is a function of the document."""
    assert render(picture(samples()[name]())) == render(picture(samples()[name]()))


def test_accessible() -> None:
    """A screen reader gets a role, a title and a description that names what is drawn."""
    root = check(render(picture(samples()["demo"]())))
    assert root.get("role") == "img"
    named = {node.get("id"): node.text for node in root if node.get("id")}
    title, description = (named[key] for key in root.get("aria-labelledby", "").split())
    assert title == "digits_0"
    assert description is not None
    assert "7 parameters" in description
    assert "finished" in description


def test_whole_text_in_the_tooltip() -> None:
    """What is cut in the picture stands whole in the title of its box."""
    root = check(render(alone(Box("e", "entity", "x" * 10_000, tooltip="y" * 10_000))))
    shown = ["".join(n.itertext()) for n in root.iter(f"{SPACE}text")]
    assert any(text.startswith("xxx") and text.endswith("…") for text in shown)
    assert "y" * 10_000 in [n.text for n in root.iter(f"{SPACE}title")]


def test_forbidden_characters() -> None:
    """Control characters, lone surrogates and non-characters become U+FFFD; the rest stays."""
    root = check(render(alone(Box("e", "entity", "a", tooltip=ODD))))
    told = next(n.text for n in root.iter(f"{SPACE}title") if n.text and "%2F" in n.text)
    expected = "".join("\ufffd" if c in "\0\x1b\ud800\ufffe" else c for c in ODD)
    assert told == expected


@pytest.mark.parametrize(
    ("iri", "linked"),
    [
        ("https://lab.example/run/1/run", True),
        ("urn:uuid:1", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://a\nb", False),
        ("", False),
    ],
)
def test_links(iri: str, linked: bool) -> None:
    """Boxes link to web addresses and URNs, never to anything that runs."""
    root = check(render(alone(Box("e", "entity", "a", iri=iri))))
    assert [n.get("href") for n in root.iter(f"{SPACE}a")] == ([iri] if linked else [])


def test_curves() -> None:
    """A curve has a hole where a value is no number, and one point is a dot; any double works."""
    nan, inf = float("nan"), float("inf")
    curves = (
        Sparkline("hole", (1.0, 2.0, nan, 3.0, 4.0), "4"),
        Sparkline("dot", (5.0,), "5"),
        Sparkline("none", (nan, inf, -inf), "-INF"),
        Sparkline("huge", (-1.7e308, 1.7e308, 0.0), "0"),
        Sparkline("flat", (2.0, 2.0), "2"),
    )
    root = check(render(alone(Box("e", "entity", "5 series", sparklines=curves))))
    lines = [n.get("points", "") for n in root.iter(f"{SPACE}polyline")]
    assert [len(points.split()) for points in lines] == [2, 2, 3, 2]
    assert not any("nan" in points or "inf" in points for points in lines)


def test_not_a_run() -> None:
    """A document without a picture gives a small one with counts by kind."""
    statements = [
        Element("entity", "ex:a"),
        Element("entity", "ex:b"),
        Element("activity", "ex:c"),
        Relation("used", ("ex:c", "ex:a")),
        Relation("wasGeneratedBy", ("ex:b", "ex:c")),
    ]
    document = Document("some document", {}, lambda: iter(statements))
    root = check(b"".join(Svg().render(document)))
    texts = ["".join(n.itertext()) for n in root.iter(f"{SPACE}text")]
    for expected in ("2 entities", "1 activity", "0 agents", "2 relations"):
        assert expected in texts
    assert any("not a recorded run" in text for text in texts)


def test_title_option() -> None:
    """The option ``title`` is the heading; another type is a clear error."""
    root = check(render(picture(samples()["demo"]()), title="My <run>"))
    assert "My <run>" in ["".join(n.itertext()) for n in root.iter(f"{SPACE}text")]
    with pytest.raises(TypeError, match="title"):
        Svg(title=3)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(some.text(some.characters(), max_size=80), some.integers(20, 400), some.booleans())
def test_fit_never_exceeds(text: str, room: int, bold: bool) -> None:
    """A fitted text is no wider than its room, on one line, and legal in XML."""
    shown = fit(text, 12, room, bold)
    assert width(shown, 12, bold) <= room
    assert "\n" not in shown
    assert "".join(piece for piece, _ in runs(shown)) == shown
    ET.fromstring(f"<a>{xml_text(text)}</a>")
    for line in wrap(text, 12, room, 3):
        assert width(line, 12) <= room


@settings(max_examples=25, deadline=None)
@given(some.text(some.characters(), max_size=60))
def test_any_name_keeps_its_place(name: str) -> None:
    """Whatever a thing is called, no text leaves its place."""
    box = Box("e", "entity", name, note=name, lines=(name, name), alert=name, tooltip=name)
    curve = Box("c", "entity", name, sparklines=(Sparkline(name, (1.0, 2.0), name),))
    run = Box("run", "activity", name, note=name, lines=(name,), tone="bad")
    agent = Box("agent", "agent", name)
    check(
        render(Picture(name, name, agent, (box,), (run,), (curve,), (), remark=name, tone="good"))
    )


def test_clean() -> None:
    """Marks that turn the direction of writing are left out, towers of accents cut down."""
    assert clean("a\u202eb\n\tc") == "ab c"
    assert clean("e" + "\u0301" * 9) == "e\u0301\u0301"
    assert clean("\0x") == "\ufffdx"
