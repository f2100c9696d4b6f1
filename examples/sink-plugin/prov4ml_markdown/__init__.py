"""A run as a short page of Markdown: what it is, its parameters, its results.

Reads the statements once and holds at most ``rows`` lines of each table, so memory does not
grow with the document.  Whatever a name holds, it cannot end a table cell or start markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from prov4ml.provdm import Document, Element, Literal, Time, double, iso

__all__ = ["Markdown"]

_TABLES = {
    "mls:HyperParameterSetting": ("Parameters", "prov:value"),
    "p4:MetricSeries": ("Metrics", "p4:last"),
    "p4:ModelVersion": ("Models", "prov:location"),
    "mls:Dataset": ("Data", "prov:location"),
}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")


class Markdown:
    """A short page of Markdown on a run: a model card to begin with."""

    suffix: ClassVar[str] = "md"
    options: ClassVar[Mapping[str, str]] = {
        "title": "heading of the page (default: the run's name)",
        "rows": "how many rows a table has at most (default 50)",
    }

    def __init__(self, title: str = "", rows: int = 50) -> None:
        self.title = title
        self.rows = rows

    def render(self, document: Document) -> Iterator[bytes]:
        """Chunks of the page, UTF-8."""
        run = Element("activity", "")
        tables: dict[str, list[tuple[str, str]]] = {name: [] for name, _ in _TABLES.values()}
        counts = dict.fromkeys(tables, 0)
        for statement in document.statements():
            if not isinstance(statement, Element):
                continue
            types = {value for key, value in statement.attributes if key == "prov:type"}
            if "mls:Run" in types:
                run = statement
            for kind, (name, column) in _TABLES.items():
                if kind in types:
                    counts[name] += 1
                    if len(tables[name]) < self.rows:
                        tables[name].append((_label(statement), _first(statement, column)))
                    break

        title = _text(self.title) if self.title else _label(run)
        yield _line(f"# {title or 'Run'}", "")
        for key, word in (("p4:status", "Status"), ("p4:statusKnownBy", "known by")):
            if _first(run, key):
                yield _line(f"- {word}: {_first(run, key)}")
        for time, word in ((run.start, "Started"), (run.end, "Ended")):
            if time is not None:
                yield _line(f"- {word}: {iso(time)}")
        for name, rows in tables.items():
            if rows:
                yield _line("", f"## {name}", "", "| name | value |", "|---|---|")
                for label, value in rows:
                    yield _line(f"| {label} | {value} |")
                if counts[name] > len(rows):
                    yield _line("", f"... and {counts[name] - len(rows)} more.")


def _line(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "backslashreplace")


def _label(element: Element) -> str:
    return _first(element, "prov:label") or _text(element.id)


def _first(element: Element, key: str) -> str:
    """The first value of an attribute as text; "" when it has none."""
    for name, value in element.attributes:
        if name == key:
            if isinstance(value, Time):
                return iso(value)
            if isinstance(value, bool):
                return str(value).lower()
            if isinstance(value, float):
                return double(value)
            return _text(value.value if isinstance(value, Literal) else str(value))
    return ""


def _text(text: str) -> str:
    """One line of at most 200 characters without markup."""
    flat = _BLANKS.sub(" ", text[:10_000]).strip()
    flat = flat if len(flat) <= 200 else flat[:199] + "…"
    return _MARKUP.sub(r"\\\1", flat)
