"""PROV-JSON: one object per kind of statement, one line per statement.

Source: the W3C member submission PROV-JSON (2013) and its JSON schema.  Every ``$`` is a
string; NaN and infinities are typed literals, never bare; integers are typed by size; names used
as values are ``xsd:QName``; a repeated attribute is an array; anonymous relations are numbered
in the order of the statements.  ``prefix`` is always there and never holds ``prov`` or ``xsd``.

The kinds stand in a fixed order, elements first, whatever the order of the statements, so
statements that come too early wait in temporary files: memory does not grow with the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import ClassVar, Final

from prov4ml.provdm import (
    RELATIONS,
    Attributes,
    Document,
    Element,
    Literal,
    Name,
    Value,
    anonymous,
    iso,
)
from prov4ml_sinks.spelling import CHUNK, Names, declared, quoted, typed

__all__ = ["ProvJson"]

_DIRECT: Final = "entity"  # the biggest kind: written while it comes
_KINDS: Final = (_DIRECT, "activity", "agent", *RELATIONS)
_IN_MEMORY: Final = 1 << 18  # bytes of a lane before it goes to disk


class ProvJson:
    """PROV-JSON (W3C member submission), read by prov, ProvToolbox and ProvStore."""

    suffix: ClassVar[str] = "json"
    options: ClassVar[Mapping[str, str]] = {}

    def render(self, document: Document) -> Iterator[bytes]:
        """Chunks of the document, UTF-8."""
        with ExitStack() as stack:
            lanes = {kind: _Lane(kind) for kind in _KINDS}
            for lane in lanes.values():
                stack.callback(lane.close)
            yield _prefixes(document)
            direct = lanes[_DIRECT]
            for kind, text in _records(document):
                lane = lanes[kind]
                lane.held.append(text)
                lane.size += len(text)
                if lane.size >= CHUNK:
                    if lane is direct:
                        yield lane.taken()
                    else:
                        lane.spool()
            for lane in lanes.values():
                yield from lane.rest()
            yield b"\n}\n"


class _Lane:
    """The statements of one kind that are not yet written."""

    def __init__(self, kind: str) -> None:
        self.held: list[str] = []
        self.size = 0
        self._opening = f',\n"{kind}": {{\n'
        self._file: SpooledTemporaryFile[bytes] | None = None

    def taken(self) -> bytes:
        """What is held, with the comma or the opening that comes before it."""
        text = self._opening + ",\n".join(self.held)
        self._opening = ",\n"
        self.held.clear()
        self.size = 0
        return text.encode()

    def spool(self) -> None:
        if self._file is None:
            self._file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # closed by render
        self._file.write(self.taken())

    def rest(self) -> Iterator[bytes]:
        if self._file is not None:
            self._file.seek(0)
            while part := self._file.read(CHUNK):
                yield part
        if self.held:
            yield self.taken()
        if self._opening == ",\n":  # something was written
            yield b"\n}"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _prefixes(document: Document) -> bytes:
    spaces = (f"{quoted(prefix)}: {quoted(space)}" for prefix, space in declared(document).items())
    return ('{\n"prefix": {\n' + ",\n".join(spaces) + "\n}").encode()


def _records(document: Document) -> Iterator[tuple[str, str]]:
    """(kind, ``"id": {...}``) for each statement."""
    keys = Names(lambda name: quoted(name) + ": ")
    formal = {
        kind: tuple(f"{quoted(argument)}: " for argument in relation.arguments)
        for kind, relation in RELATIONS.items()
    }
    unqualified = {kind for kind, relation in RELATIONS.items() if not relation.qualified}
    number = 0
    for statement in document.statements():
        if isinstance(statement, Element):
            fields = []
            if statement.start is not None:
                fields.append(f'"prov:startTime": "{iso(statement.start)}"')
            if statement.end is not None:
                fields.append(f'"prov:endTime": "{iso(statement.end)}"')
            if statement.attributes:
                fields += _attributes(statement.attributes, keys)
            yield statement.kind, f"{quoted(statement.id)}: {{{', '.join(fields)}}}"
        else:
            kind = statement.kind
            bare = kind in unqualified
            if statement.id is None or bare:
                number += 1
                key = anonymous(document, number)
            else:
                key = statement.id
            fields = [
                label + quoted(argument)
                for label, argument in zip(formal[kind], statement.arguments, strict=False)
                if argument is not None
            ]
            if statement.time is not None:
                fields.append(f'"prov:time": "{iso(statement.time)}"')
            if statement.attributes and not bare:
                fields += _attributes(statement.attributes, keys)
            yield kind, f"{quoted(key)}: {{{', '.join(fields)}}}"


def _attributes(attributes: Attributes, keys: Mapping[str, str]) -> list[str]:
    values: dict[str, str] = {}
    repeated: set[str] = set()
    for name, value in attributes:
        text = _value(value)
        if name in values:
            repeated.add(name)
            values[name] += ", " + text
        else:
            values[name] = text
    if repeated:
        for name in repeated:
            values[name] = f"[{values[name]}]"
    return [keys[name] + text for name, text in values.items()]


def _value(value: Value) -> str:
    if type(value) is str:
        return quoted(value)
    if isinstance(value, Name):
        return f'{{"$": {quoted(value)}, "type": "xsd:QName"}}'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Literal):
        tag = "lang" if value.language else "type"
        return (
            f'{{"$": {quoted(value.value)}, "{tag}": {quoted(value.language or value.datatype)}}}'
        )
    text, datatype = typed(value)
    return f'{{"$": "{text}", "type": "{datatype}"}}'
