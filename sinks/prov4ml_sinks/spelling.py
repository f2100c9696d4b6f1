"""What the text formats spell alike: strings, numbers, prefixes, and chunks of bytes.

A string is spelled once for PROV-JSON, PROV-N and Turtle: the escapes of JSON (RFC 8259,
section 7) are also escapes of PROV-N (ECHAR, and the code point escapes of its section 6) and
of Turtle (ECHAR, UCHAR).  Every character survives all three and their readers: control
characters, NUL among them, are written as ``\\u0000``; non-characters (U+FFFE) and everything
else as itself in UTF-8.  A lone surrogate has no UTF-8 form: the six characters ``\\ud800`` stand
for it as text, the same in every format.

Nothing here knows a format, and no document is held.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Final

from prov4ml.errors import SinkError
from prov4ml.provdm import NAMESPACES, Document, Time, Value, double, integer_type, iso

__all__ = ["CHUNK", "Names", "chunks", "declared", "plain", "quoted", "typed"]

CHUNK: Final = 1 << 16
"""Characters that are gathered before they are encoded and handed on."""

_escape: Final = json.JSONEncoder(ensure_ascii=False).encode


def quoted(text: str) -> str:
    """A string between double quotes, valid in all three formats."""
    # Nearly every text passes this test, which is cheaper than any encoder.
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return _escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def typed(value: Value) -> tuple[str, str]:
    """Lexical form and datatype of a number, truth value or time; the form needs no escapes."""
    if type(value) is int:  # the commonest, so first
        return _digits(value), integer_type(value)
    if isinstance(value, float):
        return double(value), "xsd:double"
    if isinstance(value, bool):
        return ("true" if value else "false"), "xsd:boolean"
    if isinstance(value, Time):
        return iso(value), "xsd:dateTime"
    if isinstance(value, int):
        return _digits(value), integer_type(value)
    raise SinkError(
        f"a value of type {type(value).__name__} has no spelling: {value!r:.80}; "
        "attributes hold str, bool, int, float, Name, Time or Literal"
    )


def plain(local: str) -> bool:
    """Whether a local part has only letters, digits, ``_``, ``/`` and ``%``: nothing to escape."""
    return ("_" + local.replace("/", "").replace("%", "")).isidentifier()


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than sys.get_int_max_str_digits() lets str() make
        return str(Decimal(value))


def declared(document: Document) -> dict[str, str]:
    """The prefixes that a document declares, without the reserved ``prov`` and ``xsd``.

    Raises ``SinkError`` when it gives one of those two another meaning.
    """
    spaces = dict(document.prefixes)
    for reserved in ("prov", "xsd"):
        space = spaces.pop(reserved, NAMESPACES[reserved])
        if space != NAMESPACES[reserved]:
            raise SinkError(
                f"the prefix {reserved!r} always means <{NAMESPACES[reserved]}>, "
                f"the document has <{space}>: rename the prefix"
            )
    return spaces


class Names(dict[str, str]):
    """Spelled names by name; a bounded memory, so a big document does not fill it."""

    LIMIT: Final = 4096

    def __init__(self, spell: Callable[[str], str]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, name: str) -> str:
        if len(self) >= self.LIMIT:
            self.clear()
        spelled = self[name] = self._spell(name)
        return spelled


def chunks(pieces: Iterable[str]) -> Iterator[bytes]:
    """UTF-8 chunks of about ``CHUNK`` characters."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield "".join(held).encode()
            held.clear()
            size = 0
    if held:
        yield "".join(held).encode()
