"""Hypothesis strategies for PROV documents: everything that ``provdm`` allows, odd texts included.

The documents are well-formed, not meaningful: names may refer to anything, relations may be
circular.  Element ids and relation ids are unique in a document; times are those of int64 ns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from hypothesis import strategies as st

from prov4ml.provdm import (
    NAMESPACES,
    RELATIONS,
    Attributes,
    Document,
    Element,
    Literal,
    Name,
    Relation,
    Statement,
    Time,
    Value,
    segment,
)

__all__ = [
    "PREFIXES",
    "document",
    "documents",
    "elements",
    "names",
    "relations",
    "texts",
    "times",
    "values",
]

PREFIXES: Final = {
    "ex": "http://example.org/things/",
    "run_0190b6f27c1e": "https://lab.example/provenance/run/0190b6f2/",
    "lab": "https://lab.example/provenance/",
    "lib": "urn:library#",
    **{k: v for k, v in NAMESPACES.items() if k not in ("prov", "xsd")},
}
"""The prefix map of every generated document."""

_REQUIRED: Final = {
    "used": 2,  # by the schema only, which takes usage for generation
    "wasInformedBy": 2,
    "wasDerivedFrom": 2,
    "wasAttributedTo": 2,
    "actedOnBehalfOf": 2,
    "wasInfluencedBy": 2,
    "specializationOf": 2,
    "alternateOf": 2,
    "hadMember": 2,
}
"""How many leading arguments PROV-N and the JSON schema demand; one for all other relations."""

_ODD_CHARACTERS: Final = "\0\x01\x0b\x1f\x7f\x85\u2028\ufeff\ufffe\uffff\ud800\udfff\"'\\\n\r\t<>&%"


def texts() -> st.SearchStrategy[str]:
    """Any text: every plane, control characters, non-characters, lone surrogates, quotes."""
    return st.text(st.one_of(st.characters(), st.sampled_from(_ODD_CHARACTERS)), max_size=20)


def _locals() -> st.SearchStrategy[str]:
    """Local parts as they are minted, and those that test the escapes of each format.

    Brackets and ``#`` are left out: PROV-N can write them, an IRI cannot hold them everywhere.
    """
    minted = st.lists(texts().map(segment), min_size=1, max_size=3).map("/".join)
    other = st.text("abz09_-.='(),:;/@~&+*?$!éλ", max_size=8)
    return minted | other


def names() -> st.SearchStrategy[str]:
    """``prefix:local`` with a prefix of ``PREFIXES``."""
    return st.builds("{}:{}".format, st.sampled_from(sorted(PREFIXES)), _locals())


def times() -> st.SearchStrategy[int]:
    """Nanoseconds since the epoch, the whole range of int64."""
    return st.integers(-(1 << 63), (1 << 63) - 1)


def _literals() -> st.SearchStrategy[Literal]:
    decimals = st.decimals(allow_nan=False, allow_infinity=False, places=3).map("{:f}".format)
    return st.one_of(
        st.builds(Literal, decimals, st.just("xsd:decimal")),
        st.builds(Literal, st.dates().map(str), st.just("xsd:date")),
        st.builds(Literal, st.sampled_from(["http://a/b?c=d", "urn:x:y"]), st.just("xsd:anyURI")),
        st.builds(
            Literal, st.sampled_from(["1", "-20"]), st.sampled_from(["xsd:long", "xsd:short"])
        ),
        st.builds(Literal, texts(), st.sampled_from(["xsd:string", "p4:canonicalJson", "ex:a/b"])),
        st.builds(
            Literal,
            texts(),
            st.just("prov:InternationalizedString"),
            st.sampled_from(["en", "it", "en-GB", "zh-Hant-TW"]),
        ),
    )


def values() -> st.SearchStrategy[Value]:
    """Every type of value; floats with NaN and infinities, integers far beyond 64 bits."""
    return st.one_of(
        texts(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**31 - 1, 2**31, -(2**31) - 1, 2**63, -(2**63), 10**40]),
        st.floats(),
        names().map(Name),
        times().map(Time),
        _literals(),
    )


def _attributes() -> st.SearchStrategy[Attributes]:
    typing_ = st.sampled_from(
        ["prov:Revision", "prov:Quotation", "prov:PrimarySource", "prov:Plan", "mls:Model"]
    )
    pairs = st.one_of(
        st.tuples(st.just("prov:type"), typing_.map(Name)),
        st.tuples(st.just("prov:role"), names().map(Name)),
        st.tuples(
            st.sampled_from(["prov:label", "prov:value", "prov:location", "prov:type", "p4:n"]),
            values(),
        ),
        st.tuples(names(), values()),
    )
    return st.lists(pairs, max_size=5).map(tuple)


@st.composite
def elements(draw: st.DrawFn, id: str) -> Element:
    """An entity, activity or agent of that id."""
    kind = draw(st.sampled_from(["entity", "activity", "agent"]))
    attributes = draw(_attributes())
    if kind != "activity":
        return Element(kind, id, attributes)
    return Element(kind, id, attributes, draw(st.none() | times()), draw(st.none() | times()))


@st.composite
def relations(draw: st.DrawFn, id: str) -> Relation:
    """Any of the fourteen relations; with that id, or anonymous."""
    kind = draw(st.sampled_from(sorted(RELATIONS)))
    shape = RELATIONS[kind]
    required = _REQUIRED.get(kind, 1)
    arguments: list[str | None] = []
    for position in range(len(shape.arguments)):
        arguments.append(draw(names() if position < required else st.none() | names()))
    if not shape.qualified:
        return Relation(kind, tuple(arguments))
    return Relation(
        kind,
        tuple(arguments),
        draw(_attributes()),
        draw(st.none() | times()) if shape.time_at is not None else None,
        draw(st.sampled_from([None, id])),
    )


def document(statements: Iterable[Statement], label: str = "run_0190b6f27c1e") -> Document:
    """A document of those statements with the prefixes of this module."""
    return Document(label, PREFIXES, _Held(tuple(statements)))


class _Held(msgspec.Struct, frozen=True):
    """``Document.statements`` of a tuple; a struct, so that a failing example shows them."""

    statements: tuple[Statement, ...]

    def __call__(self) -> Iterator[Statement]:
        return iter(self.statements)


@st.composite
def documents(draw: st.DrawFn, max_size: int = 8) -> Document:
    """Whole documents of up to ``max_size`` statements of any kind, in any order."""
    ids = draw(st.lists(names(), max_size=max_size, unique=True))
    return document(draw(elements(id) | relations(id)) for id in ids)
