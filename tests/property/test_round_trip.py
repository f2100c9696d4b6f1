"""Whatever a document holds, independent readers get exactly that from every text format."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import prov.model as pm
import pyoxigraph as ox
import pytest
import rdflib
from hypothesis import HealthCheck, Phase, given, settings
from prov.constants import PROV_RECORD_IDS_MAP

from prov4ml.provdm import (
    NAMESPACES,
    RELATIONS,
    Document,
    Element,
    Literal,
    Name,
    Time,
    Value,
    anonymous,
    double,
    integer_type,
    iri,
    iso,
)
from prov4ml.testing.documents import documents
from prov4ml_sinks.provjson import ProvJson
from prov4ml_sinks.provn import ProvN
from prov4ml_sinks.turtle import Turtle

few = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining takes minutes
)


def rendered(sink: type[Any], document: Document) -> bytes:
    return b"".join(sink().render(document))


def visible(text: str) -> str:
    """A text as it can stand in UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


# --------------------------------------------------------------------------- prov's documents


def built(document: Document) -> pm.ProvDocument:
    """The document made directly with prov's own model, through none of our writers."""
    made = pm.ProvDocument()
    for prefix, space in document.prefixes.items():
        made.add_namespace(prefix, space)
    for s in document.statements():
        formal: list[tuple[Any, Any]] = []
        if isinstance(s, Element):
            for key, time in (("prov:startTime", s.start), ("prov:endTime", s.end)):
                if time is not None:
                    formal.append((key, datetime.fromisoformat(iso(time))))
        else:
            formal += zip(RELATIONS[s.kind].arguments, s.arguments, strict=True)
            if s.time is not None:
                formal.append(("prov:time", datetime.fromisoformat(iso(s.time))))
        others = [(name, prov_value(made, value)) for name, value in s.attributes]
        made.new_record(PROV_RECORD_IDS_MAP[s.kind], s.id, formal, others)
    return made


def prov_value(made: pm.ProvDocument, value: Value) -> object:
    if isinstance(value, Name):
        return made.mandatory_valid_qname(str(value))
    if isinstance(value, Time):
        return datetime.fromisoformat(iso(value))
    if isinstance(value, Literal):
        datatype = made.mandatory_valid_qname(value.datatype)
        return pm.Literal(visible(value.value), datatype, value.language)
    return visible(value) if isinstance(value, str) else value


def facts(document: pm.ProvDocument) -> Counter[object]:
    """What a prov document says, with types and NaN told apart exactly."""

    def exact(value: object) -> object:
        if isinstance(value, pm.Literal):
            return value.value, value.datatype.uri, value.langtag
        if isinstance(value, pm.Identifier):
            return value.uri
        return repr(value)

    return Counter(
        (
            record.get_type().uri,
            record.identifier.uri if record.identifier else None,
            frozenset((n.uri, type(v).__name__, exact(v)) for n, v in record.attributes),
        )
        for record in document.get_records()
    )


def has_nan(document: Document) -> bool:
    return any(v != v for s in document.statements() for _, v in s.attributes)


@few
@given(documents())
def test_prov_reads_json_and_provn_as_the_document_itself(document: Document) -> None:
    """PROV-JSON, PROV-N and a document made with prov's own calls are equal, value by value."""
    expected = built(document)
    from_json = pm.ProvDocument.deserialize(io.BytesIO(rendered(ProvJson, document)), format="json")
    from_provn = pm.ProvDocument.deserialize(
        io.BytesIO(rendered(ProvN, document)), format="provn", profile="strict"
    )
    assert facts(from_json) == facts(expected)
    assert facts(from_provn) == facts(expected)
    if not has_nan(document):  # prov holds NaN for unequal to itself
        assert from_json == expected
        assert from_provn == expected


# -------------------------------------------------------------------------------- JSON alone


@cache
def schema() -> Any:
    text = files("prov").joinpath("tests/schemas/prov-json.schema.json").read_text()
    content = json.loads(text)
    content["properties"]["wasEndedBy"] = content["properties"].pop("wasEndedby")  # its misprint
    validator = jsonschema.validators.validator_for(content)
    validator.check_schema(content)
    return validator(content)


def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs), [key for key, _ in pairs]
    return dict(pairs)


def no_bare_numbers(text: str) -> object:
    raise AssertionError(f"a bare number: {text}")


@few
@given(documents())
def test_json_follows_the_schema_of_the_submission(document: Document) -> None:
    """The W3C schema finds no error, no key repeats, no number is bare."""
    content = json.loads(
        rendered(ProvJson, document),
        object_pairs_hook=no_duplicates,
        parse_constant=no_bare_numbers,
        parse_int=no_bare_numbers,
        parse_float=no_bare_numbers,
    )
    assert list(schema().iter_errors(content)) == []
    assert content["prefix"] == dict(document.prefixes)


@few
@given(documents())
def test_anonymous_ids_are_numbered_in_statement_order(document: Document) -> None:
    """The n-th statement without an id is ``_:<label>.<n>``, from 1."""
    content = json.loads(rendered(ProvJson, document))
    number = 0
    for s in document.statements():
        if not isinstance(s, Element) and s.id is None:
            number += 1
            assert anonymous(document, number) in content[s.kind]
    keys = [key for kind, records in content.items() if kind != "prefix" for key in records]
    assert sum(key.startswith("_:") for key in keys) == number


# ------------------------------------------------------------------------------------ Turtle

P = NAMESPACES["prov"]
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"

# PROV-O, table 3 and section 3.3: qualifying property, class, and where the arguments go.
PROV_O = {
    "wasGeneratedBy": ("Generation", ["activity"]),
    "used": ("Usage", ["entity"]),
    "wasInformedBy": ("Communication", ["activity"]),
    "wasStartedBy": ("Start", ["entity", "hadActivity"]),
    "wasEndedBy": ("End", ["entity", "hadActivity"]),
    "wasInvalidatedBy": ("Invalidation", ["activity"]),
    "wasDerivedFrom": ("Derivation", ["entity", "hadActivity", "hadGeneration", "hadUsage"]),
    "wasAttributedTo": ("Attribution", ["agent"]),
    "wasAssociatedWith": ("Association", ["agent", "hadPlan"]),
    "actedOnBehalfOf": ("Delegation", ["agent", "hadActivity"]),
    "wasInfluencedBy": ("Influence", ["influencer"]),
}
SUBTYPES = {
    "Revision": "wasRevisionOf",
    "Quotation": "wasQuotedFrom",
    "PrimarySource": "hadPrimarySource",
}

Term = tuple[Any, ...]
Graph = tuple[set[tuple[Term, Term, Term]], Counter[object]]


def node(value: str) -> Term:
    return ("iri", value)


def expected_term(document: Document, value: Value) -> Term:
    if isinstance(value, Name):
        return node(iri(document, value))
    if isinstance(value, Literal):
        if value.language:
            return ("text", visible(value.value), value.language.lower())
        return ("typed", visible(value.value), iri(document, value.datatype))
    if isinstance(value, str):
        return ("typed", visible(value), iri(document, "xsd:string"))
    if isinstance(value, bool):
        return ("typed", str(value).lower(), iri(document, "xsd:boolean"))
    if isinstance(value, Time):
        return ("typed", iso(value), iri(document, "xsd:dateTime"))
    if isinstance(value, int):
        return ("typed", str(value), iri(document, integer_type(value)))
    return ("typed", double(value), iri(document, "xsd:double"))


def expected_body(document: Document, statement: Any) -> Iterator[tuple[Term, Term]]:
    for name, value in statement.attributes:
        predicate = iri(document, name)
        if name == "prov:type" and isinstance(value, Name):
            predicate = RDF_TYPE
        elif name in ("prov:label", "prov:location", "prov:role"):
            predicate = {
                "prov:label": LABEL,
                "prov:location": P + "atLocation",
                "prov:role": P + "hadRole",
            }[name]
        yield node(predicate), expected_term(document, value)


def expected_graph(document: Document) -> Graph:
    """The triples that PROV-O asks for, from the statements."""
    ground: set[tuple[Term, Term, Term]] = set()
    blank: Counter[object] = Counter()

    def at(time: int) -> Term:
        return expected_term(document, Time(time))

    for s in document.statements():
        body = set(expected_body(document, s))
        if isinstance(s, Element):
            subject = node(iri(document, s.id))
            body.add((node(RDF_TYPE), node(P + s.kind.capitalize())))
            if s.start is not None:
                body.add((node(P + "startedAtTime"), at(s.start)))
            if s.end is not None:
                body.add((node(P + "endedAtTime"), at(s.end)))
            ground |= {(subject, p, o) for p, o in body}
            continue
        first, *rest = [node(iri(document, a)) if a else None for a in s.arguments]
        assert first is not None
        if rest[0] is not None:
            ground.add((first, node(P + s.kind), rest[0]))
        if s.kind not in PROV_O:
            continue
        node_class, places = PROV_O[s.kind]
        body.add((node(RDF_TYPE), node(P + node_class)))
        body |= {(node(P + p), o) for p, o in zip(places, rest, strict=True) if o is not None}
        if s.time is not None:
            body.add((node(P + "atTime"), at(s.time)))
        qualifying = [node_class]
        for name, value in s.attributes:
            if s.kind == "wasDerivedFrom" and name == "prov:type" and isinstance(value, Name):
                subtype = value.removeprefix("prov:")
                if subtype in SUBTYPES and subtype not in qualifying:
                    qualifying.append(subtype)
                    assert rest[0] is not None
                    ground.add((first, node(P + SUBTYPES[subtype]), rest[0]))
        for word in qualifying:
            link = node(f"{P}qualified{word}")
            if s.id is not None:
                ground.add((first, link, node(iri(document, s.id))))
            else:
                blank[(first, link, frozenset(body))] += 1
        if s.id is not None:
            ground |= {(node(iri(document, s.id)), p, o) for p, o in body}
    return ground, blank


def shaken(triples: list[tuple[Term, Term, Term]]) -> Graph:
    """Triples with each blank node replaced by what is said of it (ours are never nested)."""
    bodies: dict[Term, set[tuple[Term, Term]]] = {}
    for s, p, o in triples:
        if s[0] == "blank":
            bodies.setdefault(s, set()).add((p, o))
    ground = {t for t in triples if "blank" not in (t[0][0], t[2][0])}
    blank: Counter[object] = Counter()
    for s, p, o in triples:
        if o[0] == "blank":
            blank[(s, p, frozenset(bodies[o]))] += 1
    return ground, blank


def by_pyoxigraph(turtle: bytes) -> Graph:
    def term(t: Any) -> Term:
        if isinstance(t, ox.NamedNode):
            return node(t.value)
        if isinstance(t, ox.BlankNode):
            return ("blank", t.value)
        if t.language:
            return ("text", t.value, t.language.lower())
        return ("typed", t.value, t.datatype.value)

    triples = ox.parse(turtle, format=ox.RdfFormat.TURTLE)
    return shaken([(term(t.subject), term(t.predicate), term(t.object)) for t in triples])


def by_rdflib(turtle: bytes) -> Graph:
    def term(t: Any) -> Term:
        if isinstance(t, rdflib.URIRef):
            return node(str(t))
        if isinstance(t, rdflib.BNode):
            return ("blank", str(t))
        if t.language:
            return ("text", str(t), t.language.lower())
        return ("typed", str(t), str(t.datatype or rdflib.XSD.string))

    graph = rdflib.Graph().parse(data=turtle, format="turtle")
    return shaken([(term(s), term(p), term(o)) for s, p, o in graph])


@pytest.fixture(scope="module")
def _exact_rdflib() -> Iterator[None]:
    before, rdflib.NORMALIZE_LITERALS = rdflib.NORMALIZE_LITERALS, False
    yield
    rdflib.NORMALIZE_LITERALS = before


@few
@given(document=documents())
@pytest.mark.usefixtures("_exact_rdflib")
def test_turtle_says_each_relation_directly_and_qualified(document: Document) -> None:
    """pyoxigraph and rdflib load exactly the triples that PROV-O asks for, values included."""
    turtle = rendered(Turtle, document)
    expected = expected_graph(document)
    assert by_pyoxigraph(turtle) == expected
    assert by_rdflib(turtle) == expected


@few
@given(documents())
def test_same_document_same_bytes(document: Document) -> None:
    """Rendering twice gives the same bytes in every format."""
    for sink in (ProvJson, ProvN, Turtle):
        assert rendered(sink, document) == rendered(sink, document)
