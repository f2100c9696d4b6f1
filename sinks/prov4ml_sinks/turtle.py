"""Turtle: PROV-O, every relation both as a direct triple and in its qualified form.

Sources: W3C PROV-O (2013), RDF 1.1 Turtle.  ``?e prov:wasGeneratedBy ?a`` answers, and so does
``?e prov:qualifiedGeneration [ prov:activity ?a ; prov:atTime ?t ]``.  The qualified node is blank
unless the relation has an id.  A relation without its second argument has no direct triple.

A name whose local part is more than letters, digits and ``_`` never stands behind a prefix but is
a whole IRI in ``<>``: ``/``, ``%``, ``.`` and ``-`` all have rules of their own there.
Integers and doubles are typed, not bare, so that they are xsd:int and xsd:double as in the other
formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from prov4ml.errors import SinkError
from prov4ml.provdm import (
    NAMESPACES,
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

__all__ = ["Turtle"]

_RDFS: Final = "http://www.w3.org/2000/01/rdf-schema#"

_CLASSES: Final = {"entity": "prov:Entity", "activity": "prov:Activity", "agent": "prov:Agent"}

_QUALIFIED: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "wasGeneratedBy": ("prov:qualifiedGeneration", "prov:Generation", ("prov:activity",)),
    "used": ("prov:qualifiedUsage", "prov:Usage", ("prov:entity",)),
    "wasInformedBy": ("prov:qualifiedCommunication", "prov:Communication", ("prov:activity",)),
    "wasStartedBy": ("prov:qualifiedStart", "prov:Start", ("prov:entity", "prov:hadActivity")),
    "wasEndedBy": ("prov:qualifiedEnd", "prov:End", ("prov:entity", "prov:hadActivity")),
    "wasInvalidatedBy": ("prov:qualifiedInvalidation", "prov:Invalidation", ("prov:activity",)),
    "wasDerivedFrom": (
        "prov:qualifiedDerivation",
        "prov:Derivation",
        ("prov:entity", "prov:hadActivity", "prov:hadGeneration", "prov:hadUsage"),
    ),
    "wasAttributedTo": ("prov:qualifiedAttribution", "prov:Attribution", ("prov:agent",)),
    "wasAssociatedWith": (
        "prov:qualifiedAssociation",
        "prov:Association",
        ("prov:agent", "prov:hadPlan"),
    ),
    "actedOnBehalfOf": (
        "prov:qualifiedDelegation",
        "prov:Delegation",
        ("prov:agent", "prov:hadActivity"),
    ),
    "wasInfluencedBy": ("prov:qualifiedInfluence", "prov:Influence", ("prov:influencer",)),
}
"""Relation: qualifying property, class of the node, properties of the arguments from the second."""

_DERIVATIONS: Final[Mapping[str, tuple[str, str]]] = {
    "prov:Revision": ("prov:wasRevisionOf", "prov:qualifiedRevision"),
    "prov:Quotation": ("prov:wasQuotedFrom", "prov:qualifiedQuotation"),
    "prov:PrimarySource": ("prov:hadPrimarySource", "prov:qualifiedPrimarySource"),
}
"""Type of a derivation: the direct and the qualifying property that it adds to the general ones."""

_NEXT: Final = " ;\n  "
_PREDICATES: Final = {"prov:location": "prov:atLocation", "prov:role": "prov:hadRole"}
_FORBIDDEN: Final = str.maketrans(
    {character: f"%{character:02X}" for character in (*range(0x21), *b'<>"{}|^`\\[]', 0x7F)}
)
"""Characters that an IRI cannot hold (RFC 3987); minted names never have them."""


class Turtle:
    """Turtle (PROV-O in RDF), loaded by every triple store and asked with SPARQL."""

    suffix: ClassVar[str] = "ttl"
    options: ClassVar[Mapping[str, str]] = {}

    def render(self, document: Document) -> Iterator[bytes]:
        """Chunks of the document, UTF-8."""
        return chunks(_Writer(document).blocks())


class _Writer:
    def __init__(self, document: Document) -> None:
        spaces = {"rdfs": _RDFS, **declared(document)}
        spaces |= {"prov": NAMESPACES["prov"], "xsd": NAMESPACES["xsd"]}
        spaces = {prefix: space.translate(_FORBIDDEN) for prefix, space in spaces.items()}
        self.document = document
        self.spaces = spaces
        self.names = Names(self._name)
        label = "rdfs:label" if spaces["rdfs"] == _RDFS else f"<{_RDFS}label>"
        self.predicates = Names(self.names.__getitem__)
        self.predicates |= {**_PREDICATES, "prov:label": label}
        self.number = 0  # of labelled blank nodes

    def blocks(self) -> Iterator[str]:
        for prefix, space in self.spaces.items():
            yield f"@prefix {prefix}: <{space}> .\n"
        yield "\n"
        names = self.names
        for statement in self.document.statements():
            if isinstance(statement, Element):
                lines = self._body(_CLASSES[statement.kind], statement.attributes)
                if statement.start is not None:
                    lines.append(f'prov:startedAtTime "{iso(statement.start)}"^^xsd:dateTime')
                if statement.end is not None:
                    lines.append(f'prov:endedAtTime "{iso(statement.end)}"^^xsd:dateTime')
                yield f"{names[statement.id]} {_NEXT.join(lines)} .\n"
            else:
                yield self._relation(statement)

    def _relation(self, relation: Relation) -> str:
        names, kind = self.names, relation.kind
        first, *others = [names[a] if a is not None else None for a in relation.arguments]
        target = others[0] if others else None
        if kind not in _QUALIFIED:
            both = first is not None and target is not None
            return f"{first} prov:{kind} {target} .\n" if both else ""
        qualifying, node_class, properties = _QUALIFIED[kind]
        node = self._body(node_class, relation.attributes)
        for predicate, other in zip(properties, others, strict=False):
            if other is not None:
                node.append(f"{predicate} {other}")
        if relation.time is not None:
            node.append(f'prov:atTime "{iso(relation.time)}"^^xsd:dateTime')
        inner = " ; ".join(node)
        if first is None:  # nothing to hang the node on
            subject = names[relation.id] if relation.id is not None else "[]"
            return f"{subject} {inner} .\n"

        direct = [] if target is None else [f"prov:{kind} {target}"]
        qualifyings = [qualifying]
        if kind == "wasDerivedFrom" and relation.attributes:
            for name, value in relation.attributes:
                if name != "prov:type" or not isinstance(value, Name) or value not in _DERIVATIONS:
                    continue
                shortcut, qualifying = _DERIVATIONS[value]
                if qualifying not in qualifyings:
                    if target is not None:
                        direct.append(f"{shortcut} {target}")
                    qualifyings.append(qualifying)
        if relation.id is None and len(qualifyings) == 1:
            direct.append(f"{qualifying} [ {inner} ]")
            return f"{first} {_NEXT.join(direct)} .\n"
        if relation.id is not None:
            label = names[relation.id]
        else:
            self.number += 1
            label = f"_:r{self.number}"
        direct += [f"{predicate} {label}" for predicate in qualifyings]
        return f"{first} {_NEXT.join(direct)} .\n{label} {inner} .\n"

    def _body(self, node_class: str, attributes: Attributes) -> list[str]:
        """Predicates and objects of a node; the types first."""
        types = "a " + node_class
        lines = [types]
        predicates = self.predicates
        for name, value in attributes:
            if name == "prov:type" and isinstance(value, Name):
                types += ", " + self.names[value]
            else:
                lines.append(f"{predicates[name]} {self._value(value)}")
        lines[0] = types
        return lines

    def _value(self, value: Value) -> str:
        if type(value) is str:
            return quoted(value)
        if isinstance(value, Name):
            return self.names[value]
        if isinstance(value, Literal):
            tag = f"@{value.language}" if value.language else f"^^{self.names[value.datatype]}"
            return quoted(value.value) + tag
        text, datatype = typed(value)
        return f'"{text}"^^{datatype}'

    def _name(self, name: str) -> str:
        prefix, _, local = name.partition(":")
        space = self.spaces.get(prefix)
        if space is not None and local.isascii() and ("_" + local).isidentifier():
            return name
        if space is None:
            space = NAMESPACES.get(prefix)
            if space is None:
                raise SinkError(f"the name {name!r} has the prefix {prefix!r}, which is undeclared")
        return f"<{space}{local if plain(local) else local.translate(_FORBIDDEN)}>"
