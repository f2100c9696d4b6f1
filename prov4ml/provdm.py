"""Our own small PROV-DM: names, values, statements, documents.

A *name* is ``prefix:local`` with a percent-encoded local part; the document's prefix map gives
the IRI.  ``model.statements`` makes the statements of a run; sinks write them down.  Nothing
here knows of training.  Source: W3C PROV-DM; the positional arguments are those of PROV-N.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec

from prov4ml.errors import UsageError
from prov4ml.picture import Picture

__all__ = [
    "NAMESPACES",
    "RELATIONS",
    "Attributes",
    "Document",
    "Element",
    "Literal",
    "Name",
    "Relation",
    "RelationKind",
    "Statement",
    "Time",
    "Value",
    "anonymous",
    "double",
    "integer_type",
    "iri",
    "iso",
    "namespace",
    "segment",
    "split",
]


class Name(str):
    """A qualified name used as a value: written as a name (an IRI in RDF), never as a string."""

    __slots__ = ()


class Time(int):
    """A point in time used as a value, in ns since the epoch, UTC (xsd:dateTime)."""

    __slots__ = ()


class Literal(msgspec.Struct, frozen=True):
    """A value of any other type, or a string with a language.

    ``datatype`` is a name such as ``xsd:decimal``; with a ``language`` it is
    ``prov:InternationalizedString``.
    """

    value: str
    datatype: str
    language: str | None = None


Value: TypeAlias = str | bool | int | float | Literal
"""``str`` is xsd:string, ``bool`` xsd:boolean, ``int`` xsd:int / long / integer by size,
``float`` xsd:double; ``Name`` and ``Time`` are the subclasses above."""

Attributes: TypeAlias = tuple[tuple[str, Value], ...]
"""(attribute name, value) in order; a name may repeat."""


class Element(msgspec.Struct, frozen=True):
    """An entity, activity or agent.  Times (ns) only on activities."""

    kind: str  # "entity", "activity", "agent"
    id: str
    attributes: Attributes = ()
    start: int | None = None
    end: int | None = None


class Relation(msgspec.Struct, frozen=True):
    """A relation.  ``arguments`` are names in the order of ``RELATIONS[kind].arguments``.

    ``id`` is None for an anonymous one.  ``time`` (ns) only where the kind has one.
    """

    kind: str
    arguments: tuple[str | None, ...]
    attributes: Attributes = ()
    time: int | None = None
    id: str | None = None


Statement: TypeAlias = Element | Relation


class RelationKind(msgspec.Struct, frozen=True):
    """How a relation is spelled.

    ``arguments`` are the PROV-JSON keys in PROV-N order without ``prov:time``;
    ``time_at`` is the position of the time in PROV-N (None: the relation has no time);
    ``qualified`` is False for the three that have neither id nor attributes.
    """

    arguments: tuple[str, ...]
    time_at: int | None = None
    qualified: bool = True


RELATIONS: Final[Mapping[str, RelationKind]] = {
    "wasGeneratedBy": RelationKind(("prov:entity", "prov:activity"), 2),
    "used": RelationKind(("prov:activity", "prov:entity"), 2),
    "wasInformedBy": RelationKind(("prov:informed", "prov:informant")),
    "wasStartedBy": RelationKind(("prov:activity", "prov:trigger", "prov:starter"), 3),
    "wasEndedBy": RelationKind(("prov:activity", "prov:trigger", "prov:ender"), 3),
    "wasInvalidatedBy": RelationKind(("prov:entity", "prov:activity"), 2),
    "wasDerivedFrom": RelationKind(
        (
            "prov:generatedEntity",
            "prov:usedEntity",
            "prov:activity",
            "prov:generation",
            "prov:usage",
        )
    ),
    "wasAttributedTo": RelationKind(("prov:entity", "prov:agent")),
    "wasAssociatedWith": RelationKind(("prov:activity", "prov:agent", "prov:plan")),
    "actedOnBehalfOf": RelationKind(("prov:delegate", "prov:responsible", "prov:activity")),
    "wasInfluencedBy": RelationKind(("prov:influencee", "prov:influencer")),
    "specializationOf": RelationKind(
        ("prov:specificEntity", "prov:generalEntity"), qualified=False
    ),
    "alternateOf": RelationKind(("prov:alternate1", "prov:alternate2"), qualified=False),
    "hadMember": RelationKind(("prov:collection", "prov:entity"), qualified=False),
}

NAMESPACES: Final[Mapping[str, str]] = {
    "prov": "http://www.w3.org/ns/prov#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "sha256": "https://w3id.org/prov4ml/sha256/",
    "p4": "https://w3id.org/prov4ml/ns#",
    "mls": "http://www.w3.org/ns/mls#",
    "dcterms": "http://purl.org/dc/terms/",
    "fair4ml": "https://w3id.org/fair4ml#",
}
"""Prefixes that mean the same in every document.  ``prov`` and ``xsd`` are never declared in
PROV-JSON and PROV-N (they are reserved there) and always in Turtle."""


class Document(msgspec.Struct, frozen=True):
    """What a document sink renders.

    ``prefixes`` holds every prefix in use but ``prov`` and ``xsd``.  ``statements()`` starts a
    new pass over the statements each time; a statement may refer to a later one, an element
    stands once.  ``label`` is unique to the run and goes into anonymous ids.  ``picture`` is
    None for documents that are not a run.
    """

    label: str
    prefixes: Mapping[str, str]
    statements: Callable[[], Iterator[Statement]]
    picture: Picture | None = None


def anonymous(document: Document, number: int) -> str:
    """The id of the document's ``number``-th anonymous relation, unique across files."""
    return f"_:{document.label}.{number}"


def iri(document: Document, name: str) -> str:
    """The absolute IRI of a name."""
    prefix, _, local = name.partition(":")
    space = document.prefixes.get(prefix) or NAMESPACES[prefix]
    return space + local


# ------------------------------------------------------------------------------ spelling

_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9._~-]")
_MAX_SEGMENT: Final = 120


def segment(text: str) -> str:
    """One percent-encoded path segment of an identifier, at most 120 bytes.

    Everything but RFC 3986's unreserved characters is encoded; ``.`` and ``..`` too, they would
    be resolved away.  A longer one is cut and gets ``-`` and 16 hex digits of its hash.
    """
    raw = text.encode("utf-8", "surrogatepass")
    coded = _UNSAFE.sub(lambda m: b"%%%02X" % m[0][0], raw).decode("ascii")
    if coded in (".", ".."):
        coded = coded.replace(".", "%2E")
    if len(coded) > _MAX_SEGMENT or not coded:
        cut = coded[: _MAX_SEGMENT - 17]
        cut = re.sub(r"%[0-9A-F]?$", "", cut)
        coded = f"{cut}-{hashlib.sha256(raw).hexdigest()[:16]}"
    return coded


_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d+(?:[/?#]|$))")  # no host:port
_ABSOLUTE: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*)://[^/?#]+|(?!https?:)[^:]+:[^/]")
_NEVER: Final = re.compile(
    "[\\s\\x00-\\x20\\x7f-\\x9f<>\"'{}|\\\\^`\ud800-\udfff]|%(?![0-9A-Fa-f]{2})|#.*#", re.DOTALL
)


def namespace(text: str) -> str:
    """A user's namespace as an absolute IRI that ends in ``/`` or ``#``.

    One without a scheme (``www.example.org``) gets ``http://``, one without an end ``/``.
    Raises ``UsageError`` for what cannot be an IRI: spaces, quotes, ``<>``, a ``%`` without two
    hex digits, two ``#``, no host.  Source: RFC 3987.
    """
    if not isinstance(text, str):
        raise TypeError(f"a namespace is a text, not {type(text).__name__}")
    found = text if _SCHEME.match(text) else f"http://{text}"
    bad = _NEVER.search(found)
    if bad or not _ABSOLUTE.match(found):
        why = f"{bad[0]!r:.40} may not stand in it" if bad else "it has no host"
        raise UsageError(
            f"the namespace {text!r:.200} is no IRI: {why}; "
            "give one such as https://lab.example/provenance/"
        )
    return found if found.endswith(("/", "#")) else f"{found}/"


_IRI: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]+:[^\x00-\x20\x7f-\x9f<>\"{}|\\^`\ud800-\udfff\s]+"
)
_LOCAL: Final = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+\Z")
_MAX_IRI: Final = 2000


def split(iri: str) -> tuple[str, str] | None:
    """An absolute IRI that somebody gave as (namespace, local part); None for what cannot be one.

    The local part is what the last characters allow that stand in minted names too, so that it
    needs no spelling of its own in any format; it has at most 120 bytes and is not ``.`` or ``..``.
    """
    if len(iri) > _MAX_IRI or not _IRI.fullmatch(iri):
        return None
    found = _LOCAL.search(iri)
    start = found.start() if found is not None else len(iri)
    start = max(start, len(iri) - _MAX_SEGMENT)
    while 0 < start < len(iri) and "%" in iri[start - 2 : start]:  # not inside of %2F
        start += 1
    space, local = iri[:start], iri[start:]
    if local in ("", ".", "..") or ":" not in space:
        return None
    return space, local


def iso(time: int) -> str:
    """``2026-01-01T00:00:00.000000Z``: UTC, six decimals, from ns since the epoch.

    The same in all formats; nanoseconds are cut, not rounded, so order is kept.
    """
    micro = time // 1000
    seconds, fraction = divmod(micro, 1_000_000)
    if seconds != _last[0]:
        days, rest = divmod(seconds, 86_400)
        hours, rest = divmod(rest, 3600)
        year, month, day = _date(days)
        _last[:] = [
            seconds,
            f"{year:04d}-{month:02d}-{day:02d}T{hours:02d}:{rest // 60:02d}:{rest % 60:02d}.",
        ]
    return f"{_last[1]}{fraction:06d}Z"


_last: list[int | str] = [-1 << 62, ""]  # many statements share a second


def _date(days: int) -> tuple[int, int, int]:
    """Proleptic Gregorian date of a day number (0 is 1970-01-01), without datetime's limits."""
    days += 719_468
    era, of_era = divmod(days, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return year + era * 400 + (month <= 2), month, day


def double(value: float) -> str:
    """The lexical form of an xsd:double: shortest that reads back, ``NaN``, ``INF``, ``-INF``."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "INF" if value > 0 else "-INF"
    return repr(value)


def integer_type(value: int) -> str:
    """The type of an integer by its size: xsd:int, xsd:long, xsd:integer."""
    if -(1 << 31) <= value < 1 << 31:
        return "xsd:int"
    if -(1 << 63) <= value < 1 << 63:
        return "xsd:long"
    return "xsd:integer"
