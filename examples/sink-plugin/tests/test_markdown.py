"""The sink ``markdown`` keeps prov4ml's contract and says what a reader wants to know."""

from __future__ import annotations

from pathlib import Path

from prov4ml_markdown import Markdown

from prov4ml.provdm import Document, Element, Name, Statement
from prov4ml.testing.sinks import check_sink

RUN = Element(
    "activity",
    "lab:run",
    (("prov:type", Name("mls:Run")), ("prov:label", "digits_0"), ("p4:status", "finished")),
    0,
    60_000_000_000,
)


def page(*statements: Statement, **options: object) -> str:
    document = Document("digits", {"lab": "https://lab.example/"}, lambda: iter(statements))
    return b"".join(Markdown(**options).render(document)).decode()  # type: ignore[arg-type]


def parameter(name: str, value: str | float) -> Element:
    kind = ("prov:type", Name("mls:HyperParameterSetting"))
    return Element("entity", f"lab:{name}", (kind, ("prov:label", name), ("prov:value", value)))


def test_contract(tmp_path: Path) -> None:
    """It passes the check that every sink passes."""
    check_sink(Markdown, tmp_path, {"title": "Digits", "rows": 3})


def test_page() -> None:
    """The page names the run, its status and times, and lists its parameters."""
    text = page(RUN, parameter("lr", 0.001), parameter("a|b", "c\nd"))
    assert text.startswith("# digits\\_0\n\n- Status: finished\n- Started: 1970-01-01T00:00:00")
    assert "## Parameters\n\n| name | value |\n|---|---|\n| lr | 0.001 |\n| a\\|b | c d |\n" in text


def test_options() -> None:
    """The heading can be given, and long tables are cut and say so."""
    text = page(RUN, parameter("lr", 0.1), parameter("batch", 32.0), title="Second try", rows=1)
    assert text.startswith("# Second try\n")
    assert "batch" not in text
    assert text.endswith("... and 1 more.\n")
