"""PROV-N: the human-readable notation, one line per statement, in the statements' order.

Source: W3C PROV-N (2013).  Absent positional arguments are ``-``; doubles are
``"0.5" %% xsd:double``; an integer is bare when it fits xsd:int, which is what a bare one means;
line ends in strings are escaped, so a line is a statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from prov4ml.provdm import (
    RELATIONS,
    Attributes,
    Document,
    Element,
    Literal,
    Name,
    Relation,
    Value,
    iso,
)
from prov4ml_sinks.spelling import Names, chunks, declared, plain, quoted, typed

__all__ = ["ProvN"]

_ESCAPED: Final = str.maketrans({character: f"\\{character}" for character in "='(),:;[]"})
"""PN_CHARS_ESC (production 55) but ``-`` and ``.``, which are only special at the ends."""


class ProvN:
    """PROV-N (W3C Recommendation), the notation that people read."""

    suffix: ClassVar[str] = "provn"
    options: ClassVar[Mapping[str, str]] = {}

    def render(self, document: Document) -> Iterator[bytes]:
        """Chunks of the document, UTF-8."""
        return chunks(_lines(document))


def _lines(document: Document) -> Iterator[str]:
    yield "document\n"
    for prefix, space in declared(document).items():
        yield f"  prefix {prefix} <{space}>\n"
    yield "\n"
    names = Names(_name)
    for statement in document.statements():
        if isinstance(statement, Element):
            head = f"  {statement.kind}({names[statement.id]}"
            if statement.kind == "activity":
                head += f", {_time(statement.start)}, {_time(statement.end)}"
            yield head + _block(statement.attributes, names)
        else:
            yield _relation(statement, names)
    yield "endDocument\n"


def _relation(relation: Relation, names: Mapping[str, str]) -> str:
    kind = RELATIONS[relation.kind]
    arguments = [names[name] if name is not None else "-" for name in relation.arguments]
    if len(arguments) < len(kind.arguments):
        arguments += ["-"] * (len(kind.arguments) - len(arguments))
    if kind.time_at is not None:
        arguments.insert(kind.time_at, _time(relation.time))
    if not kind.qualified:
        return f"  {relation.kind}({', '.join(arguments)})\n"
    key = f"{names[relation.id]}; " if relation.id is not None else ""
    return f"  {relation.kind}({key}{', '.join(arguments)}{_block(relation.attributes, names)}"


def _block(attributes: Attributes, names: Mapping[str, str]) -> str:
    """The attributes in brackets, and the end of the statement."""
    if not attributes:
        return ")\n"
    pairs = [f"{names[name]}={_value(value, names)}" for name, value in attributes]
    return f", [{', '.join(pairs)}])\n"


def _time(time: int | None) -> str:
    return iso(time) if time is not None else "-"


def _name(name: str) -> str:
    """A name with its local part escaped (productions 52 to 55)."""
    prefix, _, local = name.partition(":")
    if plain(local):
        return name
    spelled = local.translate(_ESCAPED)
    if local[:1] in ("-", "."):
        spelled = "\\" + spelled
    if local[-1:] == "." and len(local) > 1:
        spelled = spelled[:-1] + "\\."
    return f"{prefix}:{spelled}"


def _value(value: Value, names: Mapping[str, str]) -> str:
    if type(value) is str:
        return quoted(value)
    if isinstance(value, Name):
        return f"'{names[value]}'"
    if isinstance(value, Literal):
        tag = f"@{value.language}" if value.language else f" %% {names[value.datatype]}"
        return quoted(value.value) + tag
    text, datatype = typed(value)
    return text if datatype == "xsd:int" else f'"{text}" %% {datatype}'
