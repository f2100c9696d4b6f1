"""Where everything of a picture goes: boxes to rectangles, arrows to curves; pure geometry.

Three columns of fixed width; heights follow from the rows.  Each activity stands at the height
of what came of it.  Arrows leave the columns only through the two gutters between them, where
no text ever stands, and end on a box's side at a height of their own: none crosses a text.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import msgspec

from prov4ml.picture import Arrow, Box, Picture
from prov4ml_sinks.svg_text import wrap

__all__ = ["LANES", "LINE", "PAD", "TITLE", "TOP", "WIDTH", "Place", "Route", "Scene", "arrange"]

WIDTH: Final = 1280
TOP: Final = 126  # of the lanes
LANES: Final = ((32, 330), (458, 344), (898, 350))  # x and width: inputs, activities, outputs
PAD: Final = 16  # between a box and its texts
TITLE: Final = 30  # height of a title row, the padding above included
LINE: Final = 18
ROW: Final = 22  # of a curve
_GAP: Final = 14
_LABEL_GAP: Final = 25  # between boxes with a labelled arrow
_HOUSE: Final = 48
_FOOT: Final = 26


class Place(msgspec.Struct):
    """A box and its rectangle; ``head`` is the height of its own texts."""

    box: Box
    x: float
    y: float
    w: float
    h: float
    head: float
    alert: tuple[str, ...] = ()

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def bottom(self) -> float:
        return self.y + self.h

    @property
    def middle(self) -> float:
        return self.y + self.h / 2


class Route(msgspec.Struct):
    """An arrow as an SVG path; a label stands right of (x, y), centred on it vertically."""

    path: str
    dashed: bool
    label: str = ""
    x: float = 0.0
    y: float = 0.0


class Scene(msgspec.Struct):
    """What is to be drawn; places from the outside in."""

    places: list[Place]
    routes: list[Route]
    bottom: float
    agent: Place | None


def arrange(picture: Picture) -> Scene:
    """Lay a picture out.  Deterministic."""
    labelled = {(a.source, a.target) for a in picture.arrows if a.label}
    outputs = _column(picture.outputs, LANES[2], labelled)
    inputs = _column(picture.inputs, LANES[0], labelled)
    agent, top = None, float(TOP)
    if picture.agent is not None:
        x, w = LANES[1]
        agent = Place(picture.agent, x + w / 2 - 110, top - 6, 220, _HOUSE, _HOUSE)
        top = agent.bottom + _LABEL_GAP + 3
    activities = _activities(picture, top, _wishes(picture, outputs))
    _settle(inputs, picture, activities)
    places = [*inputs, *activities, *outputs]
    if agent is not None:
        places.append(agent)
    by_key = {place.box.key: place for place in places}
    routes = _routes(picture.arrows, by_key, activities, agent)
    bottom = max((place.bottom for place in places), default=top + 60)
    return Scene(places, routes, max(bottom, TOP + 120), agent)


# ------------------------------------------------------------------------------ columns


def _place(box: Box, x: float, y: float, w: float) -> Place:
    alert = tuple(wrap(box.alert, 11.5, w - 2 * PAD, 3)) if box.alert else ()
    rows = len(box.lines) + len(alert)
    head = TITLE + rows * LINE + ROW * len(box.sparklines)
    head += 12 if box.lines or alert or box.sparklines else 8
    if box.span is not None:
        head += 8
    return Place(box, x, y, w, head, head, alert)


def _column(
    boxes: tuple[Box, ...], lane: tuple[int, int], labelled: set[tuple[str, str]]
) -> list[Place]:
    made: list[Place] = []
    y = float(TOP)
    for box in boxes:
        if made:
            near = {(box.key, made[-1].box.key), (made[-1].box.key, box.key)}
            y = made[-1].bottom + (_LABEL_GAP if near & labelled else _GAP)
        made.append(_place(box, lane[0], y, lane[1]))
    return made


def _wishes(picture: Picture, outputs: list[Place]) -> dict[str, tuple[float, float]]:
    """The stretch an activity would like to fill: that of what came of it."""
    at = {place.box.key: place for place in outputs}
    spans: dict[str, list[Place]] = defaultdict(list)
    for arrow in picture.arrows:
        if arrow.source in at and arrow.target not in at:
            spans[arrow.target].append(at[arrow.source])
    return {key: (min(p.y for p in ps), max(p.bottom for p in ps)) for key, ps in spans.items()}


def _activities(
    picture: Picture, top: float, wishes: dict[str, tuple[float, float]]
) -> list[Place]:
    inside: dict[str, list[Box]] = defaultdict(list)
    keys = {box.key for box in picture.activities}
    for box in picture.activities:
        inside[box.inside if box.inside in keys else ""].append(box)
    made: list[Place] = []

    def put(box: Box, x: float, y: float, w: float) -> Place:
        begin, end = wishes.get(box.key, (y, y)) if box.inside else (y, y)
        place = _place(box, x, max(y, begin), w)
        made.append(place)
        below = place.y + place.head + 2
        for child in inside[box.key] if box.key else ():
            below = put(child, x + PAD, below, w - 2 * PAD).bottom + _GAP
        if below > place.y + place.head + 2:
            place.h = below - _GAP + (PAD if box.inside else _FOOT) - place.y
        place.h = max(place.h, end - place.y)
        return place

    y = top
    for box in inside[""]:
        y = put(box, LANES[1][0], y, LANES[1][1]).bottom + _GAP
    return made


def _settle(inputs: list[Place], picture: Picture, activities: list[Place]) -> None:
    """Lower what stands below the inputs of inner activities to the end of the outermost one.

    Its arrows start there: below those of the inner ones, so that they cross none.
    """
    inner = {place.box.key for place in activities if place.box.inside}
    used = {arrow.target for arrow in picture.arrows if arrow.source in inner}
    last = max((at for at, place in enumerate(inputs) if place.box.key in used), default=None)
    if last is None or last + 1 == len(inputs):
        return
    down = activities[0].bottom - inputs[-1].bottom
    for place in inputs[last + 1 :]:
        place.y += max(down, 0)


# ------------------------------------------------------------------------------- arrows


def _routes(
    arrows: tuple[Arrow, ...],
    at: dict[str, Place],
    activities: list[Place],
    agent: Place | None,
) -> list[Route]:
    made: list[Route] = []
    crossing: list[tuple[Arrow, Place, Place, bool]] = []  # activity first; whether to the left
    middle = {place.box.key for place in activities}
    for arrow in arrows:
        a, b = at.get(arrow.source), at.get(arrow.target)
        if a is None or b is None or a is b:
            continue
        if b is agent:
            x = b.x + b.w / 2
            path = f"M{x:.1f} {a.y:.1f} V{b.bottom + 2:.1f}"
            y = (a.y + b.bottom) / 2
            made.append(Route(path, arrow.dashed, arrow.label, x + 10, y))
        elif a.x == b.x and a.box.key not in middle:
            made.append(_upwards(arrow, a, b))
        elif arrow.source in middle and b.x < a.x:
            crossing.append((arrow, a, b, True))
        elif arrow.target in middle and a.x > b.x:
            crossing.append((arrow, b, a, False))
    for left in (True, False):
        side = [(arrow, act, thing) for arrow, act, thing, to in crossing if to == left]
        made += _through_gutter(side, activities, left)
    return made


def _upwards(arrow: Arrow, a: Place, b: Place) -> Route:
    """Between neighbours of one column: straight, through the gap."""
    x = a.x + 44
    start, end = (a.y, b.bottom + 2) if a.y > b.y else (a.bottom, b.y - 2)
    y = (start + end) / 2
    return Route(f"M{x:.1f} {start:.1f} V{end:.1f}", arrow.dashed, arrow.label, x + 10, y)


def _through_gutter(
    side: list[tuple[Arrow, Place, Place]], activities: list[Place], left: bool
) -> list[Route]:
    ports: dict[tuple[str, int], list[int]] = defaultdict(list)  # box, zone: numbers of arrows
    zones: dict[tuple[str, int], tuple[float, float]] = {}
    inner = [thing.y for _, act, thing in side if act.box.inside]  # what boxes inside point to
    for number, (_, act, thing) in enumerate(side):
        extents = _zones(act, activities)
        zone = 0
        if len(extents) > 1 and inner and not act.box.inside:
            zone = int(thing.y >= min(inner))
        elif len(extents) > 1:
            zone = int(thing.middle > (extents[0][1] + extents[1][0]) / 2)
        zones[(act.box.key, zone)] = extents[zone]
        ports[(act.box.key, zone)].append(number)
        margin = min(14.0, thing.h / 3)
        zones[(thing.box.key, -1)] = (thing.y + margin, thing.bottom - margin)
        ports[(thing.box.key, -1)].append(number)
    heights: dict[tuple[int, bool], float] = {}
    for (key, zone), numbers in sorted(ports.items(), key=lambda port: port[0][1]):
        low, high = zones[(key, zone)]  # the things' sides (-1) come first
        if zone == -1:
            ends = {n: side[n][1].middle for n in numbers}
            half = 6.5 * (len(numbers) - 1)
            low, high = max(low, (low + high) / 2 - half), min(high, (low + high) / 2 + half)
        else:
            ends = {n: heights[(n, True)] for n in numbers}
        order = sorted(numbers, key=lambda n: (ends[n], n))
        for number, y in zip(order, _spread([ends[n] for n in order], low, high), strict=True):
            heights[(number, zone == -1)] = y
    edge = LANES[1][0] if left else LANES[1][0] + LANES[1][1]
    made = []
    for number, (arrow, act, thing) in enumerate(side):
        ya, yt = heights[(number, False)], heights[(number, True)]
        if left:
            tip = thing.right + 2
            bend = (edge + thing.right) / 2
            path = f"M{act.x:.1f} {ya:.1f} H{edge} C{bend:.1f} {ya:.1f} {bend:.1f} {yt:.1f} "
            path += f"{tip + 8:.1f} {yt:.1f} H{tip:.1f}"
        else:
            bend = (edge + thing.x) / 2
            tip = act.right + 2
            start = max(tip + 8, edge + 4)
            path = f"M{thing.x:.1f} {yt:.1f} C{bend:.1f} {yt:.1f} {bend:.1f} {ya:.1f} "
            path += f"{start:.1f} {ya:.1f} H{tip:.1f}"
        made.append(Route(path, arrow.dashed))
    return made


def _spread(wanted: list[float], low: float, high: float) -> list[float]:
    """Heights between two bounds, in order, near those wanted, at most 13 px apart if crowded."""
    step = min(13.0, (high - low) / max(len(wanted) - 1, 1))
    made: list[float] = []
    for at, y in enumerate(wanted):
        least = made[-1] + step if made else low
        most = high - step * (len(wanted) - 1 - at)
        made.append(min(max(y, least), most))
    return made


def _zones(act: Place, activities: list[Place]) -> list[tuple[float, float]]:
    """Stretches of a box's side where arrows may end: not where boxes inside it stand."""
    inner = [p for p in activities if p.box.inside == act.box.key]
    if not inner:
        return [(act.y + 12, act.bottom - 12)]
    first, last = min(p.y for p in inner), max(p.bottom for p in inner)
    head = (act.y + 14, max(act.y + 14, min(first, act.y + act.head) - 10))
    return [head, (last + 9, act.bottom - 9)] if act.bottom - last > 20 else [head]
