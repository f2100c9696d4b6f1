"""What a drawing of a run shows: boxes in three lanes and the arrows between them; only data.

``overview.picture(state)`` makes one, the ``svg`` sink draws it.  Texts are plain (the sink
escapes, measures and cuts them); ``iri`` is what a box links to; ``tooltip`` holds what does
not fit into at most six short ``lines``.  ``tone`` is "" (neutral), "good", "bad" or "busy".
"""

from __future__ import annotations

import msgspec

__all__ = ["Arrow", "Box", "Picture", "Sparkline"]


class Sparkline(msgspec.Struct, frozen=True):
    """A small curve: the name of the series and at most 64 values in order (NaN leaves a hole)."""

    name: str
    values: tuple[float, ...]
    value: str = ""  # the last value, as it is shown
    tooltip: str = ""


class Box(msgspec.Struct, frozen=True):
    """One node.  ``shape``: "entity", "activity" or "agent" (PROV's usual shapes).

    Its rows, top to bottom: title and note, lines, alert, sparklines.
    """

    key: str  # unique in the picture; what arrows name
    shape: str
    title: str
    note: str = ""  # short word at the right of the title: "dataset", "plan", "17 of 20"
    lines: tuple[str, ...] = ()
    tooltip: str = ""
    iri: str = ""
    sparklines: tuple[Sparkline, ...] = ()
    emphasis: bool = False  # the final model
    inside: str = ""  # key of the activity that holds this one
    alert: str = ""  # an error message, in red
    tone: str = ""  # of the note
    span: tuple[float, float] | None = None  # when it was at work, as fractions of the run's time


class Arrow(msgspec.Struct, frozen=True):
    """From what came later to what came before, as PROV has it."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False


class Picture(msgspec.Struct, frozen=True):
    """Everything that is drawn, top to bottom in each lane."""

    title: str  # the run's name
    subtitle: str  # status, duration, ranks, accounting
    agent: Box | None
    inputs: tuple[Box, ...]
    activities: tuple[Box, ...]  # the run first, then its contexts (inside="run")
    outputs: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    remark: str = ""  # what was not drawn, and where it stands
    tone: str = ""  # of the status, with which the subtitle begins
