"""The text document sinks on small cases: exact spelling, the worked example, memory."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import prov.model as pm
import pyoxigraph as ox
import pytest
import rdflib
from rdflib.compare import isomorphic

from prov4ml import sink as registry
from prov4ml.errors import SinkError
from prov4ml.provdm import (
    RELATIONS,
    Document,
    Element,
    Literal,
    Name,
    Relation,
    Statement,
    Time,
    Value,
)
from prov4ml_sinks.provjson import ProvJson
from prov4ml_sinks.provn import ProvN
from prov4ml_sinks.spelling import CHUNK
from prov4ml_sinks.turtle import Turtle

DATA = Path(__file__).parent.parent / "data"
SINKS = [ProvJson, ProvN, Turtle]


def written(sink: type[Any], *statements: Statement, **prefixes: str) -> str:
    """The text that a sink makes of a few statements."""
    spaces = {"ex": "http://ex.org/", **prefixes}
    document = Document("run_1", spaces, lambda: iter(statements))
    return b"".join(sink().render(document)).decode()


def attribute(sink: type[Any], value: Value) -> str:
    """How a sink spells one value."""
    text = written(sink, Element("entity", "ex:e", (("ex:k", value),)))
    if sink is ProvJson:
        return text.partition('"ex:k": ')[2].partition("}\n}")[0]
    if sink is ProvN:
        return text.partition("ex:k=")[2].partition("])\n")[0]
    return text.partition("ex:k ")[2].partition(" .\n")[0]


# ------------------------------------------------------------------------------ golden cases


def test_the_names_of_the_sinks_are_those_of_their_formats() -> None:
    """The registry finds the three under their names, with their suffixes and a line on each."""
    for name, suffix in (("provjson", "json"), ("provn", "provn"), ("turtle", "ttl")):
        found = registry.load(name)
        assert found.suffix == suffix
        assert found.options == {}
        assert not registry.is_stream(found)
        assert isinstance(found(), registry.DocumentSink)
        assert registry.summary(found).endswith((".", "SPARQL"))


def test_json_of_a_small_document() -> None:
    """Elements come first, whatever the order; the prefix map is there; times end in Z."""
    text = written(
        ProvJson,
        Relation("used", ("ex:a", "ex:e"), (("prov:role", Name("ex:r")),), time=0, id="ex:u"),
        Relation("hadMember", ("ex:c", "ex:e")),
        Element("activity", "ex:a", (), 0, 1_500_000_000),
        Element("entity", "ex:e", (("ex:k", 1), ("ex:l", "x"), ("ex:k", True))),
    )
    assert text == (
        '{\n"prefix": {\n"ex": "http://ex.org/"\n},\n'
        '"entity": {\n"ex:e": {"ex:k": [{"$": "1", "type": "xsd:int"}, true], "ex:l": "x"}\n},\n'
        '"activity": {\n"ex:a": {"prov:startTime": "1970-01-01T00:00:00.000000Z", '
        '"prov:endTime": "1970-01-01T00:00:01.500000Z"}\n},\n'
        '"used": {\n"ex:u": {"prov:activity": "ex:a", "prov:entity": "ex:e", '
        '"prov:time": "1970-01-01T00:00:00.000000Z", '
        '"prov:role": {"$": "ex:r", "type": "xsd:QName"}}\n},\n'
        '"hadMember": {\n"_:run_1.1": {"prov:collection": "ex:c", "prov:entity": "ex:e"}\n}\n}\n'
    )


def test_provn_of_a_small_document() -> None:
    """Statements keep their order, absent positions are dashes, ids end in a semicolon."""
    text = written(
        ProvN,
        Element("activity", "ex:a"),
        Element("agent", "ex:g", (("prov:type", Name("prov:Person")),)),
        Relation("wasStartedBy", ("ex:a", None, "ex:b"), time=0, id="ex:s"),
        Relation("wasDerivedFrom", ("ex:e", "ex:f", None, None, None)),
        Relation("alternateOf", ("ex:e", "ex:f")),
    )
    assert text == (
        "document\n  prefix ex <http://ex.org/>\n\n"
        "  activity(ex:a, -, -)\n"
        "  agent(ex:g, [prov:type='prov:Person'])\n"
        "  wasStartedBy(ex:s; ex:a, -, ex:b, 1970-01-01T00:00:00.000000Z)\n"
        "  wasDerivedFrom(ex:e, ex:f, -, -, -)\n"
        "  alternateOf(ex:e, ex:f)\n"
        "endDocument\n"
    )


def test_turtle_of_a_small_document() -> None:
    """Each relation is there twice: as a triple and as a node; a revision in both its names."""
    text = written(
        Turtle,
        Element("entity", "ex:e", (("prov:label", "x"), ("prov:type", Name("prov:Plan")))),
        Relation("wasGeneratedBy", ("ex:e", "ex:a"), (("prov:role", Name("ex:r")),), time=0),
        Relation("wasGeneratedBy", ("ex:e", None)),
        Relation(
            "wasDerivedFrom",
            ("ex:e", "ex:f", None, None, None),
            (("prov:type", Name("prov:Revision")),),
        ),
        Relation("wasAssociatedWith", ("ex:a", "ex:g", "ex:e"), id="ex:id"),
        Relation("specializationOf", ("ex:e", "ex:f")),
    )
    assert text.partition("\n\n")[2] == (
        'ex:e a prov:Entity, prov:Plan ;\n  rdfs:label "x" .\n'
        "ex:e prov:wasGeneratedBy ex:a ;\n  prov:qualifiedGeneration "
        "[ a prov:Generation ; prov:hadRole ex:r ; prov:activity ex:a ; "
        'prov:atTime "1970-01-01T00:00:00.000000Z"^^xsd:dateTime ] .\n'
        "ex:e prov:qualifiedGeneration [ a prov:Generation ] .\n"
        "ex:e prov:wasDerivedFrom ex:f ;\n  prov:wasRevisionOf ex:f ;\n"
        "  prov:qualifiedDerivation _:r1 ;\n  prov:qualifiedRevision _:r1 .\n"
        "_:r1 a prov:Derivation, prov:Revision ; prov:entity ex:f .\n"
        "ex:a prov:wasAssociatedWith ex:g ;\n  prov:qualifiedAssociation ex:id .\n"
        "ex:id a prov:Association ; prov:agent ex:g ; prov:hadPlan ex:e .\n"
        "ex:e prov:specializationOf ex:f .\n"
    )


def test_an_empty_document_is_a_document() -> None:
    """Nothing to say is still valid in every format, with the prefixes."""
    assert json.loads(written(ProvJson)) == {"prefix": {"ex": "http://ex.org/"}}
    assert written(ProvN) == "document\n  prefix ex <http://ex.org/>\n\nendDocument\n"
    assert "@prefix ex: <http://ex.org/> ." in written(Turtle)


@pytest.mark.parametrize(
    ("value", "in_json", "in_provn", "in_turtle"),
    [
        ("plain é", '"plain é"', '"plain é"', '"plain é"'),
        ('a"b\\c', r'"a\"b\\c"', r'"a\"b\\c"', r'"a\"b\\c"'),
        ("1\n2\r\t", r'"1\n2\r\t"', r'"1\n2\r\t"', r'"1\n2\r\t"'),
        ("\0\x1b", r'"\u0000\u001b"', r'"\u0000\u001b"', r'"\u0000\u001b"'),
        ("\ufffe", '"\ufffe"', '"\ufffe"', '"\ufffe"'),
        ("\ud800", r'"\\ud800"', r'"\\ud800"', r'"\\ud800"'),
        ("", '""', '""', '""'),
        (True, "true", '"true" %% xsd:boolean', '"true"^^xsd:boolean'),
        (-5, '{"$": "-5", "type": "xsd:int"}', "-5", '"-5"^^xsd:int'),
        (
            2**31,
            '{"$": "2147483648", "type": "xsd:long"}',
            '"2147483648" %% xsd:long',
            '"2147483648"^^xsd:long',
        ),
        (
            2**63,
            '{"$": "9223372036854775808", "type": "xsd:integer"}',
            '"9223372036854775808" %% xsd:integer',
            '"9223372036854775808"^^xsd:integer',
        ),
        (0.1, '{"$": "0.1", "type": "xsd:double"}', '"0.1" %% xsd:double', '"0.1"^^xsd:double'),
        (
            float("nan"),
            '{"$": "NaN", "type": "xsd:double"}',
            '"NaN" %% xsd:double',
            '"NaN"^^xsd:double',
        ),
        (
            float("-inf"),
            '{"$": "-INF", "type": "xsd:double"}',
            '"-INF" %% xsd:double',
            '"-INF"^^xsd:double',
        ),
        (
            Time(0),
            '{"$": "1970-01-01T00:00:00.000000Z", "type": "xsd:dateTime"}',
            '"1970-01-01T00:00:00.000000Z" %% xsd:dateTime',
            '"1970-01-01T00:00:00.000000Z"^^xsd:dateTime',
        ),
        (Name("ex:n"), '{"$": "ex:n", "type": "xsd:QName"}', "'ex:n'", "ex:n"),
        (
            Literal("1.50", "xsd:decimal"),
            '{"$": "1.50", "type": "xsd:decimal"}',
            '"1.50" %% xsd:decimal',
            '"1.50"^^xsd:decimal',
        ),
        (
            Literal("ciao", "prov:InternationalizedString", "it"),
            '{"$": "ciao", "lang": "it"}',
            '"ciao"@it',
            '"ciao"@it',
        ),
    ],
)
def test_values_are_spelled(value: Value, in_json: str, in_provn: str, in_turtle: str) -> None:
    """Each type of value, and each awkward character, has its one spelling per format."""
    assert attribute(ProvJson, value) == in_json
    assert attribute(ProvN, value) == in_provn
    assert attribute(Turtle, value) == in_turtle


@pytest.mark.parametrize(
    ("name", "in_provn", "in_turtle"),
    [
        ("ex:a", "ex:a", "ex:a"),
        ("ex:0a_", "ex:0a_", "ex:0a_"),
        ("ex:a/b", "ex:a/b", "<http://ex.org/a/b>"),
        ("ex:a%20b", "ex:a%20b", "<http://ex.org/a%20b>"),
        ("ex:a.b", "ex:a.b", "<http://ex.org/a.b>"),
        ("ex:-a.", r"ex:\-a\.", "<http://ex.org/-a.>"),
        ("ex:.", r"ex:\.", "<http://ex.org/.>"),
        ("ex:a:b", r"ex:a\:b", "<http://ex.org/a:b>"),
        ("ex:='(),;", r"ex:\=\'\(\)\,\;", "<http://ex.org/='(),;>"),
    ],
)
def test_names_are_escaped(name: str, in_provn: str, in_turtle: str) -> None:
    """PROV-N escapes with a backslash, Turtle falls back to the whole IRI."""
    entity = Element("entity", name)
    assert f"  entity({in_provn})\n" in written(ProvN, entity)
    assert f"\n{in_turtle} a prov:Entity .\n" in written(Turtle, entity)
    assert name in json.loads(written(ProvJson, entity))["entity"]


def test_integers_longer_than_str_allows_are_kept() -> None:
    """An integer of more digits than Python prints by default is written whole."""
    digits = sys.get_int_max_str_digits() + 10
    for sink in SINKS:
        assert f'"1{"0" * digits}"' in attribute(sink, 10**digits)


def test_reserved_prefixes_are_never_redefined() -> None:
    """``prov`` and ``xsd`` are dropped when they mean what they mean, else an error names them."""
    spaces = {"prov": "http://www.w3.org/ns/prov#"}
    assert "prov" not in json.loads(written(ProvJson, **spaces))["prefix"]
    assert "prefix prov" not in written(ProvN, **spaces)
    assert written(Turtle, **spaces).count("@prefix prov:") == 1
    for sink in SINKS:
        with pytest.raises(SinkError, match="'xsd' always means"):
            written(sink, xsd="http://other.org/")


def test_turtle_keeps_clear_of_a_foreign_rdfs_prefix() -> None:
    """Where ``rdfs`` is another namespace, the label's property is a whole IRI."""
    text = written(Turtle, Element("entity", "ex:e", (("prov:label", "x"),)), rdfs="http://o.org/")
    assert '<http://www.w3.org/2000/01/rdf-schema#label> "x"' in text
    assert "@prefix rdfs: <http://o.org/> ." in text


def test_what_has_no_spelling_is_an_error() -> None:
    """A value of another type, and in Turtle an undeclared prefix, name themselves."""
    for sink in SINKS:
        with pytest.raises(SinkError, match="NoneType"):
            attribute(sink, None)  # type: ignore[arg-type]
    with pytest.raises(SinkError, match="'nowhere'"):
        written(Turtle, Element("entity", "nowhere:e"))


# --------------------------------------------------------------------------- worked example


def statements_of(content: dict[str, Any]) -> Iterator[Statement]:
    """PROV-JSON to statements; enough for the worked example."""

    def nanoseconds(text: str) -> int:
        return round(datetime.fromisoformat(text).timestamp()) * 10**9

    def value(item: Any) -> Value:
        if not isinstance(item, dict):
            return item  # type: ignore[no-any-return]
        text, datatype = item["$"], item["type"]
        if datatype in ("xsd:int", "xsd:long", "xsd:integer"):
            return int(text)
        if datatype == "xsd:double":
            return float(text)
        return Name(text) if datatype == "xsd:QName" else Literal(text, datatype)

    for kind, records in content.items():
        for key, record in records.items() if kind != "prefix" else ():
            left = dict(record)
            times = {
                name: nanoseconds(left.pop(f"prov:{name}"))
                for name in ("startTime", "endTime", "time")
                if f"prov:{name}" in left
            }
            shape = RELATIONS.get(kind)
            arguments = tuple(left.pop(name, None) for name in shape.arguments) if shape else ()
            attributes = tuple(
                (name, value(item))
                for name, items in left.items()
                for item in (items if isinstance(items, list) else [items])
            )
            if shape is None:
                yield Element(kind, key, attributes, times.get("startTime"), times.get("endTime"))
            else:
                named = None if key.startswith("_:") else key
                yield Relation(kind, arguments, attributes, times.get("time"), named)


@pytest.fixture(scope="module")
def example() -> Document:
    content = json.loads((DATA / "example.json").read_text())
    held = list(statements_of(content))
    return Document("example", content["prefix"], lambda: iter(held))


def test_the_worked_example_is_written_as_an_equal_document(example: Document) -> None:
    """prov reads the example's JSON and PROV-N, and ours, as four equal documents."""
    expected = pm.ProvDocument.deserialize(str(DATA / "example.json"), format="json")
    assert len(expected.get_records()) > 80
    assert pm.ProvDocument.deserialize(str(DATA / "example.provn"), format="provn") == expected
    for sink, name in ((ProvJson, "json"), (ProvN, "provn")):
        ours = io.BytesIO(b"".join(sink().render(example)))
        assert pm.ProvDocument.deserialize(ours, format=name) == expected


def test_the_worked_example_is_one_graph_for_two_readers(example: Document) -> None:
    """rdflib and pyoxigraph load isomorphic graphs, with a node for each generation."""
    turtle = b"".join(Turtle().render(example))
    graph = rdflib.Graph().parse(data=turtle, format="turtle")
    triples = ox.parse(turtle, format=ox.RdfFormat.TURTLE)
    other = rdflib.Graph().parse(
        data=ox.serialize(triples, format=ox.RdfFormat.N_TRIPLES), format="nt"
    )
    assert isomorphic(graph, other)
    prov = rdflib.Namespace("http://www.w3.org/ns/prov#")
    for direct, qualified in (
        (prov.wasGeneratedBy, prov.qualifiedGeneration),
        (prov.used, prov.qualifiedUsage),
        (prov.wasDerivedFrom, prov.qualifiedDerivation),
        (prov.wasRevisionOf, prov.qualifiedRevision),
    ):
        assert len(list(graph.subject_objects(direct))) > 0
        assert len(set(graph.subject_objects(direct))) == len(
            list(graph.subject_objects(qualified))
        )


# ----------------------------------------------------------------------------- size and memory


def many(count: int) -> Iterator[Statement]:
    """Relations before the elements they name, so that PROV-JSON has to keep them aside."""
    for n in range(count):
        yield Relation("wasGeneratedBy", (f"ex:e{n}", "ex:a"), time=n)
        yield Element("entity", f"ex:e{n}", (("prov:label", f"entity {n}"), ("ex:n", n)))


@pytest.mark.parametrize("sink", SINKS)
def test_memory_does_not_grow_with_the_document(sink: type[Any]) -> None:
    """Four times the statements need no more memory; chunks stay small; nothing is lost."""
    peaks = []
    for count in (5_000, 20_000):
        document = Document("big", {"ex": "http://ex.org/"}, lambda count=count: many(count))
        labels = 0
        tracemalloc.start()
        for chunk in sink().render(document):
            assert len(chunk) <= 2 * CHUNK
            labels += chunk.count(b'"entity ')  # chunks are cut between statements, or in a lane
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert labels == count
    assert peaks[1] < peaks[0] * 1.5
    assert peaks[1] < 8 << 20


def test_json_of_a_big_document_is_whole() -> None:
    """Statements that waited in a file come back, each once, in order."""
    document = Document("big", {"ex": "http://ex.org/"}, lambda: many(20_000))
    content = json.loads(b"".join(ProvJson().render(document)))
    assert list(content) == ["prefix", "entity", "wasGeneratedBy"]
    assert list(content["entity"]) == [f"ex:e{n}" for n in range(20_000)]
    assert list(content["wasGeneratedBy"]) == [f"_:big.{n}" for n in range(1, 20_001)]
    assert content["wasGeneratedBy"]["_:big.20000"]["prov:entity"] == "ex:e19999"
