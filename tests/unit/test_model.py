"""What the statements say of a realistic two-rank run, and of runs with odd names and ends."""

from __future__ import annotations

import hashlib
import itertools
from datetime import datetime
from typing import Any

import prov.model as pm
import pytest
from prov.constants import PROV_RECORD_IDS_MAP

from prov4ml import events as ev
from prov4ml.delivery import pending
from prov4ml.errors import UsageError
from prov4ml.model import document, statements
from prov4ml.picture import Picture
from prov4ml.provdm import (
    RELATIONS,
    Document,
    Element,
    Literal,
    Name,
    Relation,
    Time,
    Value,
    iri,
    iso,
    namespace,
)
from prov4ml.state import RunState, apply
from prov4ml.testing.constraints import violations

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
R = "run_2f1d5c3a9e01:"
T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 1_000_000_000
TRAIN, VAL = ("training",), ("validation",)
ODD = [
    "a b",
    "\"quoted\" 'twice'",
    "<b>&amp;",
    "two\nlines",
    "100%",
    "a/b",
    "..",
    ".",
    "",
    "\U0001f600",
    "x" * 10_000,
    "\ud800",
]


def producer(number: int) -> bytes:
    return bytes([number]) * 16


def started(rank: int = 0, **changes: Any) -> ev.Started:
    fields: dict[str, Any] = {
        "run": RUN,
        "experiment": "digits",
        "name": "digits_0",
        "directory": "/prov/digits_0",
        "namespace": "https://lab.example/provenance/",
        "attempt": 1,
        "rank": rank,
        "local_rank": rank,
        "world_size": 1,
        "pid": 4000 + rank,
        "pid_start": 1,
        "boot_id": "b",
        "host": "node01",
        "user": "alice",
        "launcher": "torchrun",
        "version": "0.1.0",
        "python": "3.11.7",
        "settings": {},
    }
    return ev.Started(**{"time": T0 + S, **fields, **changes})


def fold(**streams: list[ev.Event]) -> RunState:
    """``p1=[...]`` is the stream of producer 1 and so on."""
    state = RunState()
    for name, stream in streams.items():
        apply(state, producer(int(name[1:])), 0, stream)
    return state


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def model(time: int, n: int, kind: str = "checkpoint", **more: Any) -> ev.Artifact:
    fields = {"context": TRAIN, "use": "generated", "attributes": {"parameters": 85_002}}
    return ev.Artifact(time, n, kind, "digits_mlp", incoming=str(n), **{**fields, **more})


def realistic() -> RunState:
    """Two ranks; rank 1 changed a parameter, lost events and died; rank 0 failed."""
    zero: list[ev.Event] = [
        started(0, world_size=2),
        ev.Command(T0 + S, ("python", "train.py", "--name", "two words"), "/home/alice"),
        ev.Source(T0 + S, "train.py", "git@lab.example:digits.git", "5880068", "main"),
        ev.Host(T0 + S, "node01", {"cores": 64, "gpu": None}),
        ev.Artifact(
            T0 + S, 1, "environment", "Python 3.11.7, 84 packages", incoming="1", use="used"
        ),
        ev.Artifact(
            T0 + S,
            2,
            "dataset",
            "digits",
            "data/digits.csv",
            incoming="2",
            use="used",
            attributes={"samples": 1797},
        ),
        ev.Split(T0 + 2 * S, "train", TRAIN, 2, {"samples": 1437}),
        ev.Split(T0 + 2 * S, "validation", VAL, 2, {"samples": 360}),
        ev.Param(T0 + S, "lr", "float", "0.001"),
        ev.Param(T0 + S, "batch_size", "int", "32"),
        ev.Tag(T0 + S, "purpose", "first"),
        ev.Tag(T0 + 2 * S, "purpose", "baseline"),
        ev.SeriesDefined(0, "loss", TRAIN),
        ev.SeriesDefined(1, "accuracy", VAL, unit="1"),
        *(ev.Point(0, T0 + (3 + i) * S, 2.0 - i / 4, i) for i in range(8)),
        model(T0 + 12 * S, 3, step=4, epoch=0),
        ev.Point(1, T0 + 13 * S, 0.5, 4),
        model(T0 + 14 * S, 4, step=8, epoch=1),
        ev.Point(1, T0 + 15 * S, float("nan"), 8),
        ev.Point(1, T0 + 16 * S, 0.9, 8),
        model(T0 + 17 * S, 5, step=9, epoch=2),
        model(T0 + 18 * S, 6, "model"),
        ev.Ended(T0 + 20 * S, "failed", 1, "ValueError", "bad <loss>"),
    ]
    one: list[ev.Event] = [
        started(1, world_size=2, host="node02"),
        ev.Param(T0 + S, "lr", "float", "0.001"),
        ev.Param(T0 + S, "batch_size", "int", "32"),
        ev.SeriesDefined(0, "loss", TRAIN),
        ev.Point(0, T0 + 3 * S, 4.0, 0),
        ev.Param(T0 + 4 * S, "lr", "float", "0.01"),
    ]
    contents = {1: "packages", 2: "csv", 3: "one", 4: "two", 5: "last", 6: "last"}
    p0, p1 = producer(1), producer(2)
    collector: list[ev.Event] = [
        ev.RunOpened(T0, RUN, "/prov/digits_0", ("parquet",)),
        *(
            ev.Stored(T0 + 21 * S, p0, n, sha(text), 100 + n, f"artifacts/{n}")
            for n, text in contents.items()
        ),
        ev.RankEnded(T0 + 21 * S, p1, "died", "pidfd", sent=20),
        ev.Gap(T0 + 21 * S, p1, 6, 4, "spool lost"),
        ev.ClockOffset(T0 + 2 * S, p1, -S // 2),
        ev.SinkFailed(T0 + 21 * S, "svg", "ValueError: x"),
        ev.OutputSealed(T0 + 20 * S, "parquet", "metrics/part-0-3.parquet", sha("a"), 9, 5),
        ev.OutputSealed(T0 + 22 * S, "parquet", "metrics/part-0-9.parquet", sha("b"), 10, 12),
        ev.RunEnded(T0 + 23 * S, 1),
    ]
    state = fold(p1=zero, p2=one, p3=collector)
    apply(state, p1, 8, [ev.Param(T0 + 6 * S, "late", "bool", "true")])  # 6 and 7 never came
    return state


class Told:
    """Statements, looked up."""

    def __init__(self, state: RunState) -> None:
        self.document = document(state)
        self.all = list(statements(state))
        self.elements = {s.id: s for s in self.all if isinstance(s, Element)}

    def __getitem__(self, id: str) -> dict[str, Value]:
        """An element's attributes (the last one of a repeated name)."""
        return dict(self.elements[id].attributes)

    def types(self, id: str) -> list[Value]:
        return [value for key, value in self.elements[id].attributes if key == "prov:type"]

    def of(self, kind: str, *arguments: str | None) -> list[Relation]:
        """Relations of a kind whose first arguments are these (None: any)."""
        return [
            s
            for s in self.all
            if isinstance(s, Relation)
            and s.kind == kind
            and all(a is None or a == b for a, b in zip(arguments, s.arguments, strict=False))
        ]

    def one(self, kind: str, *arguments: str | None) -> Relation:
        (found,) = self.of(kind, *arguments)
        return found

    def typed(self, name: str) -> list[str]:
        return [id for id in self.elements if Name(name) in self.types(id)]


@pytest.fixture(scope="module")
def told() -> Told:
    return Told(realistic())


# ---------------------------------------------------------------------- soundness


def test_the_realistic_run_breaks_no_rule(told: Told) -> None:
    """The whole document obeys the constraints that trackers trip over."""
    assert violations(told.document) == []
    assert len(told.all) > 80


def test_prov_takes_the_statements_and_unifies_them(told: Told) -> None:
    """The ``prov`` package builds a document of as many records, and unifying merges none."""
    made = as_prov(told.document)
    assert len(list(made.get_records())) == len(told.all)
    assert len(list(made.unified().get_records())) == len(told.all)
    run = made.get_record(f"{R}run")[0].identifier
    assert run is not None
    assert run.uri == f"https://lab.example/provenance/run/{RUN}/run"


def as_prov(document: Document) -> pm.ProvDocument:
    made = pm.ProvDocument()
    for prefix, space in document.prefixes.items():
        made.add_namespace(prefix, space)

    def value(v: Value) -> Any:
        if isinstance(v, Name):
            return made.mandatory_valid_qname(str(v))
        if isinstance(v, Literal):
            return pm.Literal(v.value, made.mandatory_valid_qname(v.datatype))
        return moment(v) if isinstance(v, Time) else v

    def moment(time: int) -> datetime:
        return datetime.fromisoformat(iso(time))

    for s in document.statements():
        formal: list[tuple[str, Any]] = []
        times: tuple[tuple[str, int | None], ...]
        if isinstance(s, Element):
            times = (("prov:startTime", s.start), ("prov:endTime", s.end))
        else:
            formal += zip(RELATIONS[s.kind].arguments, s.arguments, strict=True)
            times = (("prov:time", s.time),)
        formal += [(key, moment(time)) for key, time in times if time is not None]
        kind = PROV_RECORD_IDS_MAP[s.kind]
        made.new_record(kind, s.id, formal, [(key, value(v)) for key, v in s.attributes])
    return made


def test_violations_are_seen() -> None:
    """The checker is no rubber stamp: each broken rule is named."""
    a = Element("activity", "p4:a", (), 10_000, 20_000)
    e, older = Element("entity", "p4:e"), Element("entity", "p4:o")
    wrong: list[tuple[str, list[Element | Relation]]] = [
        ("id used", [a, Element("entity", "p4:a")]),
        ("said 2", [a, e, Relation("used", ("p4:a", "p4:e")), Relation("used", ("p4:a", "p4:e"))]),
        ("missing", [a, Relation("used", ("p4:a", "p4:x"))]),
        ("outside", [a, e, Relation("used", ("p4:a", "p4:e"), (), 30_000)]),
        ("start times differ", [a, Relation("wasStartedBy", ("p4:a", None, None), (), 9_000)]),
        ("undeclared", [Element("entity", "nope:e")]),
        ("segment", [Element("entity", "p4:" + "x" * 121)]),
        ("no collection", [e, older, Relation("hadMember", ("p4:e", "p4:o"))]),
        ("a role on", [Element("entity", "p4:e", (("prov:role", "x"),))]),
        (
            "not older",
            [
                a,
                e,
                older,
                Relation("wasGeneratedBy", ("p4:e", "p4:a"), (), 15_000),
                Relation("wasGeneratedBy", ("p4:o", "p4:a"), (), 15_999),
                Relation("wasDerivedFrom", ("p4:e", "p4:o", None, None, None)),
            ],
        ),
        (
            "a circle",
            [
                e,
                older,
                Relation("specializationOf", ("p4:e", "p4:o")),
                Relation("specializationOf", ("p4:o", "p4:e")),
            ],
        ),
    ]
    prefixes = {"p4": "https://w3id.org/prov4ml/ns#"}
    for text, made in wrong:
        found = violations(Document("x", prefixes, lambda made=made: iter(made)))  # type: ignore[misc]
        assert any(text in v for v in found), (text, found)


# ------------------------------------------------------------------- the run itself


def test_the_run_is_started_by_its_command_and_follows_its_source(told: Told) -> None:
    """Start time, trigger, user and plan stand as in the worked example."""
    run = told.elements[f"{R}run"]
    assert (run.kind, run.start, run.end) == ("activity", T0 + S // 2, T0 + 23 * S)
    assert told.one("wasStartedBy", run.id).arguments[1] == f"{R}command"
    assert told.one("wasStartedBy", run.id).time == run.start
    assert told[f"{R}command"]["prov:value"] == "python train.py --name 'two words'"
    association = told.one("wasAssociatedWith", run.id)
    assert association.arguments[1:] == ("ns_746eb567:agent/alice", f"{R}source")
    assert told[f"{R}source"]["p4:commit"] == "5880068"
    assert told.one("hadMember", "ns_746eb567:experiment/digits").arguments[1] == f"{R}results"


def test_status_error_tags_and_failed_sinks_stand_on_the_run(told: Told) -> None:
    """The earliest bad end is the run's, with type and message; the last tag counts."""
    run = told[f"{R}run"]
    assert (run["p4:status"], run["p4:statusKnownBy"]) == ("failed", "self")
    assert (run["p4:errorType"], run["p4:errorMessage"]) == ("ValueError", "bad <loss>")
    assert run["ns_746eb567:tag/purpose"] == "baseline"
    assert run["p4:sinkFailure"] == "svg: ValueError: x"


def test_ranks_have_their_accounts_and_their_losses_are_entities(told: Told) -> None:
    """sent = received + lost, and each lost event stands in exactly one gap with its reason."""
    rank = told[f"{R}attempt/1/rank/1"]
    assert (rank["p4:status"], rank["p4:statusKnownBy"]) == ("died", "pidfd")
    account = [rank[f"p4:{word}"] for word in ("sent", "received", "rejected", "lost")]
    assert account == [20, 7, 0, 13]
    assert rank["p4:timeOffset"] == -0.5
    gaps = {
        (told[id]["p4:first"], told[id]["p4:count"], told[id]["p4:reason"])
        for id in told.typed("p4:Gap")
    }
    # 6 to 9 were declared lost, but 8 came after all; 9 is in the tail that never came.
    assert gaps == {(6, 2, "spool lost"), (9, 1, "spool lost"), (10, 10, "not received")}
    assert told[f"{R}run"]["p4:lost"] == 13
    assert told.one("used", f"{R}attempt/1/rank/1").arguments[1] == f"{R}host/node02"


def test_a_gap_says_what_was_dropped_and_when() -> None:
    """How many of them were points, from when to when, and why; on the collector's clock."""
    dropped = ev.Dropped(T0 + 9 * S, 3, 10, "no room in the spool", 8, T0 + 5 * S)
    state = fold(p1=[started(), ev.SeriesDefined(0, "loss"), ev.Point(0, T0 + 2 * S, 1.0)])
    apply(state, producer(1), 13, [dropped, ev.Ended(T0 + 20 * S, "finished")])
    apply(state, producer(9), 0, [ev.ClockOffset(T0, producer(1), S)])
    told = Told(state)
    (gap,) = told.typed("p4:Gap")
    assert (told[gap]["p4:first"], told[gap]["p4:count"]) == (3, 10)
    assert (told[gap]["p4:points"], told[gap]["p4:reason"]) == (8, "no room in the spool")
    assert told[gap]["p4:since"] == Time(T0 + 6 * S)
    assert told[gap]["p4:until"] == Time(T0 + 10 * S)
    assert told.one("wasGeneratedBy", gap).time == T0 + 6 * S
    assert violations(told.document) == []


def test_a_part_of_what_was_dropped_may_have_come_after_all() -> None:
    """Then nobody knows how many of the rest were points."""
    dropped = ev.Dropped(T0 + 9 * S, 1, 10, "full", 8, T0 + 5 * S)
    state = fold(p1=[started()])
    apply(state, producer(1), 6, [ev.Tag(T0 + 8 * S, "a", "b")])
    apply(state, producer(1), 11, [dropped])
    told = Told(state)
    gaps = [told[id] for id in told.typed("p4:Gap")]
    assert [(g["p4:first"], g["p4:count"]) for g in gaps] == [(1, 5), (7, 4)]
    assert not any("p4:points" in g for g in gaps)


def test_a_failure_that_was_made_good_is_none() -> None:
    """A sink that got on after it has not failed; one that then fails again has."""
    failed = ev.SinkFailed(T0 + 3 * S, "parquet", "OSError: full")
    got_on = ev.SinkCursor(T0 + 4 * S, "parquet", 7)
    again = ev.SinkFailed(T0 + 5 * S, "parquet", "OSError: full")
    said = {
        name: Told(fold(p1=[started()], p2=events))[f"{R}run"].get("p4:sinkFailure")
        for name, events in {
            "failed": [failed],
            "made good": [failed, got_on],
            "failed again": [failed, got_on, again],
            "of another": [failed, ev.SinkCursor(T0 + 4 * S, "lines", 7)],
        }.items()
    }
    text = "parquet: OSError: full"
    assert said == {
        "failed": text,
        "made good": None,
        "failed again": text,
        "of another": text,
    }


def test_what_is_running_has_no_end() -> None:
    """Run, attempt, rank and contexts of an open run have a start and no end."""
    told = Told(fold(p1=[started(), ev.ContextStarted(T0 + 2 * S, TRAIN)]))
    activities = [e for e in told.elements.values() if e.kind == "activity"]
    assert len(activities) == 4
    assert all(e.start is not None and e.end is None for e in activities)
    assert told[f"{R}run"]["p4:status"] == "running"


def test_documents_made_the_next_day_do_not_lengthen_the_run() -> None:
    """A collector that came after the end is no witness of when the run ended."""
    late = T0 + 86_400 * S
    told = Told(
        fold(
            p1=[
                started(),
                ev.SeriesDefined(0, "x"),
                ev.Point(0, T0 + 2 * S, 1.0),
                ev.Ended(T0 + 3 * S, "finished", 0),
            ],
            p2=[
                ev.RunOpened(late, RUN, "/prov", ("parquet",)),
                ev.OutputSealed(late, "parquet", "metrics/part-0-1.parquet", sha("a"), 1, 1),
                ev.RunEnded(late, 1),
            ],
        )
    )
    assert told.elements[f"{R}run"].end == T0 + 3 * S
    assert told.one("wasGeneratedBy", f"{R}metrics/part-0-1").time is None
    assert violations(told.document) == []


def test_without_a_user_the_first_process_is_associated() -> None:
    """Nobody is named; the plan hangs on the software agent of the first rank."""
    told = Told(fold(p1=[started(user=None), ev.Source(T0 + S, "train.py")]))
    assert told.typed("prov:Person") == []
    assert told.one("wasAssociatedWith", f"{R}run").arguments[1:] == (
        f"{R}attempt/1/rank/0/agent",
        f"{R}source",
    )
    assert told.of("actedOnBehalfOf") == []


def test_a_second_attempt_belongs_to_the_same_run() -> None:
    """The run's start is the first attempt's, its status the last's; revisions go on."""
    told = Told(
        fold(
            p1=[started(), model(T0 + 2 * S, 1), ev.Ended(T0 + 3 * S, "preempted")],
            p2=[
                started(attempt=2, time=T0 + 9 * S),
                model(T0 + 10 * S, 1),
                ev.Ended(T0 + 11 * S, "finished", 0),
            ],
        )
    )
    run = told.elements[f"{R}run"]
    assert (run.start, run.end) == (T0 + S, T0 + 11 * S)
    assert told[f"{R}run"]["p4:status"] == "finished"
    assert told[f"{R}attempt/1"]["p4:status"] == "preempted"
    assert told.one("wasInformedBy", f"{R}attempt/2").arguments[1] == f"{R}attempt/1"
    assert told.one("wasDerivedFrom").arguments[:2] == (
        f"{R}attempt/2/rank/0/artifact/1",
        f"{R}attempt/1/rank/0/artifact/1",
    )


def test_a_child_and_a_second_process_have_names_of_their_own() -> None:
    """Two producers that both count from 1 on the same rank never name two things alike."""
    told = Told(
        fold(
            p1=[started(), model(T0 + 2 * S, 1)],
            p2=[started(parent=producer(1), time=T0 + 2 * S), model(T0 + 3 * S, 1)],
            p3=[started(time=T0 + 4 * S), model(T0 + 5 * S, 1)],
        )
    )
    rank = f"{R}attempt/1/rank/0"
    assert set(told.typed("p4:ModelVersion")) == {
        f"{rank}/artifact/1",
        f"{rank}/child/{'02' * 8}/artifact/1",
        f"{rank}/process/{'03' * 8}/artifact/1",
    }
    assert told.one("wasStartedBy", f"{rank}/child/{'02' * 8}").arguments[2] == rank
    assert violations(told.document) == []


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("https://w3id.org/prov4ml/run/0190b6f2-7c1e-7000-8000-00000000000a/run", True),
        ("https://lab.example/other#thing%20b", True),
        ("http://lab.example/run/0190b6f2-7c1e-7000-8000-2f1d5c3a9e01/run", True),  # our label
        (f"https://w3id.org/prov4ml/run/{RUN}/run", False),  # itself
        ("no iri at all", False),
        ("https://lab.example/a b/run", False),
        ("https://lab.example/", False),
    ],
)
def test_a_nested_run_is_part_of_another(given: str, name: bool) -> None:
    """The IRI is a name whose prefix is declared; what cannot be one is left out."""
    state = RunState()
    apply(state, producer(1), 0, [started(part_of=given, namespace="https://w3id.org/prov4ml/")])
    apply(state, producer(2), 0, [started(1, part_of=given)])  # said by each rank, stated once
    made = document(state)
    told = Told(state)
    parts = [v for k, v in told[f"{R}run"].items() if k == "dcterms:isPartOf"]
    assert [iri(made, str(part)) for part in parts] == ([given] if name else [])
    assert all(isinstance(part, Name) for part in parts)
    assert violations(made) == []


def test_the_prefix_of_another_run_is_its_own() -> None:
    """Both documents spell the outer run alike, so that texts can be compared."""
    outer = "0190b6f2-7c1e-7000-8000-00000000000a"
    first, second = RunState(), RunState()
    apply(first, producer(1), 0, [started(run=outer)])
    given = f"{started().namespace}run/{outer}/run"
    apply(second, producer(2), 0, [started(part_of=given)])
    (name,) = [e.id for e in statements(first) if isinstance(e, Element) and e.id.endswith(":run")]
    assert Told(second)[f"{R}run"]["dcterms:isPartOf"] == name
    assert document(second).prefixes[name[:-4]] == document(first).prefixes[name[:-4]]


def test_nothing_is_said_before_a_process_says_who_it_is() -> None:
    """An empty state, or a collector alone, makes an empty document with valid prefixes."""
    for state in (RunState(), fold(p1=[ev.RunOpened(T0, RUN, "/prov", ())])):
        made = document(state)
        assert list(made.statements()) == []
        assert "p4" in made.prefixes
        assert "prov" not in made.prefixes


def test_events_of_an_unknown_process_are_not_silent() -> None:
    """A stream whose first event is lost is counted in a gap of the run."""
    told = Told(fold(p1=[started()], p2=[ev.Tag(T0, "a", "b"), ev.Tag(T0, "c", "d")]))
    (gap,) = told.typed("p4:Gap")
    assert told[gap]["p4:count"] == 2


# --------------------------------------------------------------- contexts, data, models


def test_contexts_are_typed_nested_and_informed(told: Told) -> None:
    """Known names have types of their own; validation was informed by training."""
    training, validation = f"{R}attempt/1/context/training", f"{R}attempt/1/context/validation"
    assert told.types(training) == ["p4:Training"]
    assert told.types(validation) == ["p4:Validation"]
    assert told[training]["dcterms:isPartOf"] == f"{R}attempt/1"
    assert told.one("wasInformedBy", validation).arguments[1] == training
    nested = Told(fold(p1=[started(), ev.ContextStarted(T0 + 2 * S, ("training", "warm up"))]))
    inner = f"{R}attempt/1/context/training/warm%20up"
    assert nested.types(inner) == ["p4:Context"]
    assert nested[inner]["dcterms:isPartOf"] == f"{R}attempt/1/context/training"


def test_splits_come_from_their_dataset_and_are_used_with_a_role(told: Told) -> None:
    """Each context used its split; both are derived from the one occurrence."""
    for name, context, role in (
        ("train", "training", "p4:trainingData"),
        ("validation", "validation", "p4:validationData"),
    ):
        split = f"{R}split/{name}"
        assert told.one("wasDerivedFrom", split).arguments[1] == f"{R}attempt/1/rank/0/artifact/2"
        use = told.one("used", f"{R}attempt/1/context/{context}", split)
        assert use.attributes == (("prov:role", Name(role)),)


def test_splits_of_one_name_and_other_facts_are_two() -> None:
    """The same split said by every rank is one entity; one with other samples is another."""
    told = Told(
        fold(
            p1=[started(), ev.Split(T0 + 2 * S, "train", TRAIN, None, {"samples": 10})],
            p2=[started(1), ev.Split(T0 + 3 * S, "train", TRAIN, None, {"samples": 10})],
            p3=[started(2), ev.Split(T0 + 3 * S, "train", TRAIN, None, {"samples": 11})],
        )
    )
    splits = told.typed("p4:DataSplit")
    assert [told[id]["p4:samples"] for id in splits] == [10, 11]
    assert splits[0] == f"{R}split/train"
    assert told.one("used", None, f"{R}split/train").time == T0 + 2 * S


def test_versions_revise_the_one_before_and_share_contents(told: Told) -> None:
    """A chain of revisions; the final model has the bytes of the last checkpoint, no circle."""
    versions = [f"{R}attempt/1/rank/0/artifact/{n}" for n in (3, 4, 5, 6)]
    assert told.typed("p4:ModelVersion") == versions
    for newer, older in itertools.pairwise(reversed(versions)):
        revision = told.one("wasDerivedFrom", newer)
        assert revision.arguments[1] == older
        assert revision.attributes == (("prov:type", Name("prov:Revision")),)
    assert told[versions[0]]["prov:label"] == "digits_mlp, version 1"
    assert told[versions[3]]["prov:label"] == "digits_mlp, final"
    last = f"sha256:{sha('last')}"
    assert len(told.of("specializationOf", None, last)) == 2
    assert told[last] == {"prov:type": "p4:Content", "p4:size": 105, "p4:sha256": sha("last")}
    assert len(told.of("specializationOf", None, f"{R}model/digits_mlp")) == 4
    assert all(len(told.of("hadMember", f"{R}results", v)) == 1 for v in versions)


def test_validation_used_the_checkpoints_that_it_came_after(told: Told) -> None:
    """Versions saved before validation was last at work; not the later ones."""
    uses = told.of("used", f"{R}attempt/1/context/validation")
    versions = [u.arguments[1] for u in uses if u.attributes[0][1] == "p4:evaluatedModel"]
    assert versions == [f"{R}attempt/1/rank/0/artifact/{n}" for n in (3, 4)]


def test_versions_of_one_moment_revise_the_nearest_that_is_older() -> None:
    """Equal times (as printed) make no derivation among themselves."""
    times = [S, S + 999, 2 * S, S + 500, 3 * S]  # the 2nd and 4th print as the 1st does
    stream: list[ev.Event] = [started(), *(model(T0 + S + t, n) for n, t in enumerate(times, 1))]
    told = Told(fold(p1=stream))
    base = f"{R}attempt/1/rank/0/artifact/"
    pairs = {
        (int(r.arguments[0][len(base) :]), int(r.arguments[1][len(base) :]))  # type: ignore[index]
        for r in told.of("wasDerivedFrom")
    }
    assert pairs == {(3, 2), (5, 4)}
    assert violations(told.document) == []


def test_what_a_full_disk_did_not_take_says_why() -> None:
    """Nobody is waited for to store it."""
    told = {"notStored": "full"}
    artifact = ev.Artifact(T0 + 2 * S, 1, "artifact", "plot.png", "/x/plot.png", attributes=told)
    state = fold(p1=[started(), artifact])
    assert pending(state) == []
    seen = Told(state)
    (id,) = seen.typed("p4:Artifact")
    assert seen[id]["p4:notStored"] == "full"
    assert "p4:size" not in seen[id]


def test_what_could_not_be_stored_says_why() -> None:
    """Without a hash there is no content; size and reason stand on the occurrence."""
    artifact = ev.Artifact(
        T0 + 2 * S, 1, "artifact", "plot.png", "/x/plot.png", "1", 77, use="generated"
    )
    gone = ev.Stored(T0 + 3 * S, producer(1), 1, None, None, None, "deleted")
    told = Told(fold(p1=[started(), artifact], p2=[gone]))
    (id,) = told.typed("p4:Artifact")
    assert (told[id]["p4:size"], told[id]["p4:notStored"]) == (77, "deleted")
    assert told.typed("p4:Content") == []
    assert told.one("wasGeneratedBy", id).arguments[1] == f"{R}attempt/1"


# ------------------------------------------------------------------------- parameters


def test_equal_values_are_one_entity_and_a_second_value_revises(told: Told) -> None:
    """Both ranks' lr is one setting used by the run; rank 1's change is a revision of it."""
    settings = {
        (told[id]["prov:label"], told[id]["prov:value"]): id
        for id in told.typed("mls:HyperParameterSetting")
    }
    assert set(settings) == {("lr", 0.001), ("lr", 0.01), ("batch_size", 32), ("late", True)}
    revision = told.one("wasDerivedFrom", settings[("lr", 0.01)])
    assert revision.arguments[1] == settings[("lr", 0.001)]
    assert told.one("used", f"{R}run", settings[("lr", 0.001)]).time == T0 + S // 2
    assert told[settings[("lr", 0.01)]]["p4:rank"] == 1
    assert "p4:rank" not in told[settings[("batch_size", 32)]]


def test_a_parameter_of_a_context_is_used_there_too() -> None:
    """By the run as always, by each context when it was first set there; sources are told."""
    stream = [
        ev.Param(T0 + 2 * S, "tokens", "int", "128", context=TRAIN, source="file"),
        ev.Param(T0 + 3 * S, "tokens", "int", "128", context=TRAIN, source="file"),
        ev.Param(T0 + 4 * S, "tokens", "int", "128", context=VAL, source="by hand"),
    ]
    told = Told(fold(p1=[started(), *stream]))
    (id,) = told.typed("mls:HyperParameterSetting")
    sources = [value for key, value in told.elements[id].attributes if key == "p4:source"]
    assert sources == ["by hand", "file"]
    uses = {r.arguments[0]: (r.time, r.attributes) for r in told.of("used", None, id)}
    role = (("prov:role", Name("p4:hyperparameter")),)
    assert uses == {
        f"{R}run": (T0 + 2 * S, role),
        f"{R}attempt/1/context/training": (T0 + 2 * S, role),
        f"{R}attempt/1/context/validation": (T0 + 4 * S, role),
    }
    assert list(violations(told.document)) == []


def test_contexts_with_capitals_are_what_they_say() -> None:
    """As yProv4ML 3.x writes them: types, roles of data, who was informed and evaluated."""
    stream = [
        ev.Artifact(T0 + S, 1, "dataset", "digits", use="used"),
        ev.Split(T0 + 2 * S, "held out", ("Validation",), 1),
        ev.ContextStarted(T0 + 2 * S, ("Training",)),
        model(T0 + 3 * S, 2, context=("Training",)),
        ev.ContextEnded(T0 + 4 * S, ("Training",)),
        ev.ContextEnded(T0 + 5 * S, ("Validation",)),
        ev.ContextEnded(T0 + 5 * S, ("evaluation",)),
    ]
    told = Told(fold(p1=[started(), *stream]))
    context = f"{R}attempt/1/context"
    assert told.types(f"{context}/Training") == ["p4:Training"]
    assert told.types(f"{context}/Validation") == ["p4:Validation"]
    assert told.types(f"{context}/evaluation") == ["p4:Testing"]
    assert told.one("wasInformedBy", f"{context}/Validation").arguments[1] == f"{context}/Training"
    (use,) = told.of("used", f"{context}/Validation", f"{R}split/held%20out")
    assert use.attributes == (("prov:role", Name("p4:validationData")),)
    version = f"{R}attempt/1/rank/0/artifact/2"
    assert told.one("used", f"{context}/Validation", version).attributes == (
        ("prov:role", Name("p4:evaluatedModel")),
    )


def test_a_model_that_was_an_input_is_used_with_its_role() -> None:
    """It is no version of this run's making, and no result of it."""
    stream = [model(T0 + 2 * S, 1, "model", use="used")]
    told = Told(fold(p1=[started(), *stream]))
    version = f"{R}attempt/1/rank/0/artifact/1"
    use = told.one("used", f"{R}attempt/1/context/training", version)
    assert use.attributes == (("prov:role", Name("p4:inputModel")),)
    assert told.of("wasGeneratedBy", version) == []
    assert told.of("hadMember", None, version) == []
    assert told[version]["prov:label"] == "digits_mlp"


def test_ranks_that_were_to_log_no_metrics_say_so() -> None:
    """Not the first, and not where all were."""
    some = {"collect_all_processes": False}
    zero = [started(0, world_size=2, settings=some)]
    one = [started(1, world_size=2, settings=some)]
    told = Told(fold(p1=zero, p2=one))
    assert "p4:collectsMetrics" not in told[f"{R}attempt/1/rank/0"]
    assert told[f"{R}attempt/1/rank/1"]["p4:collectsMetrics"] is False


def test_a_value_that_returns_makes_no_circle() -> None:
    """a, b, a again: b revises a, and a revises nothing."""
    stream = [
        ev.Param(T0 + (2 + i) * S, "lr", "float", v) for i, v in enumerate(("1.0", "2.0", "1.0"))
    ]
    told = Told(fold(p1=[started(), *stream]))
    assert len(told.typed("mls:HyperParameterSetting")) == 2
    assert len(told.of("wasDerivedFrom")) == 1
    assert len(told.of("used", f"{R}run")) == 2


@pytest.mark.parametrize(
    ("datatype", "text", "expected"),
    [
        ("str", "1", {"prov:value": "1"}),
        ("int", str(2**40), {"prov:value": 2**40}),
        ("int", "7" * 900, {"prov:value": Literal("7" * 900, "xsd:integer")}),
        ("float", "inf", {"prov:value": float("inf")}),
        ("bool", "false", {"prov:value": False}),
        ("none", "", {"prov:value": "", "p4:valueType": "none"}),
        ("json", '{"a":1}', {"prov:value": '{"a":1}', "p4:valueType": "json"}),
        ("int", "many", {"prov:value": "many", "p4:valueType": "int"}),
    ],
)
def test_values_are_typed(datatype: str, text: str, expected: dict[str, Value]) -> None:
    """Each datatype has its PROV value; what does not parse is kept as text with its type."""
    told = Told(fold(p1=[started(), ev.Param(T0 + S, "k", datatype, text)]))
    (id,) = told.typed("mls:HyperParameterSetting")
    found = {k: v for k, v in told[id].items() if k in ("prov:value", "p4:valueType")}
    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


def test_the_same_text_of_two_types_is_two_values() -> None:
    """The integer 1 and the text "1" have different names."""
    stream = [ev.Param(T0 + 2 * S, "k", "int", "1"), ev.Param(T0 + 3 * S, "k", "str", "1")]
    assert len(Told(fold(p1=[started(), *stream])).typed("mls:HyperParameterSetting")) == 2


def test_a_long_value_is_its_hash_and_a_side_file() -> None:
    """The setting has the hash; the side file is another form of it, with the content."""
    digest = sha("long")
    told = Told(
        fold(
            p1=[
                started(),
                ev.Artifact(T0 + S, 7, "parameter", "text", incoming="7"),
                ev.Param(T0 + S, "text", "str", digest, 7),
            ],
            p2=[ev.Stored(T0 + 2 * S, producer(1), 7, digest, 2000, "artifacts/x")],
        )
    )
    (setting,) = told.typed("mls:HyperParameterSetting")
    file = f"{R}attempt/1/rank/0/artifact/7"
    assert told[setting]["p4:sha256"] == digest
    assert told.one("alternateOf", setting).arguments[1] == file
    assert told.one("specializationOf", file).arguments[1] == f"sha256:{digest}"


# ---------------------------------------------------------------------------- metrics


def test_series_are_per_rank_with_statistics(told: Told) -> None:
    """Each rank's series: generated by its context at its last point, a member of the results."""
    id = f"{R}attempt/1/rank/0/context/training/series/loss"
    facts = told[id]
    assert [facts[f"p4:{k}"] for k in ("count", "first", "last", "min", "max", "mean")] == [
        8,
        2.0,
        0.25,
        0.25,
        2.0,
        1.125,
    ]
    assert (facts["p4:firstStep"], facts["p4:lastStep"], facts["p4:rank"]) == (0, 7, 0)
    assert facts["p4:context"] == f"{R}attempt/1/context/training"
    made = told.one("wasGeneratedBy", id)
    assert (made.arguments[1], made.time) == (f"{R}attempt/1/context/training", T0 + 10 * S)
    assert told.one("hadMember", f"{R}results", id)
    accuracy = told[f"{R}attempt/1/rank/0/context/validation/series/accuracy"]
    assert (accuracy["p4:nanCount"], accuracy["p4:mean"], accuracy["p4:unit"]) == (1, 0.7, "1")
    assert f"{R}attempt/1/rank/1/context/training/series/loss" in told.elements


def test_the_store_counts_each_row_once(told: Told) -> None:
    """A part that lies inside a merged one is left out."""
    assert told.typed("p4:MetricFile") == [f"{R}metrics/part-0-9"]
    assert told[f"{R}metrics"]["p4:rows"] == 12
    assert told.one("wasGeneratedBy", f"{R}metrics/part-0-9").time == T0 + 22 * S
    assert Told(fold(p1=[started()])).typed("p4:MetricStore") == []


def many_ranks(**settings: Any) -> RunState:
    streams: dict[str, list[ev.Event]] = {
        f"p{rank + 1}": [
            started(rank, world_size=17, settings=settings),
            ev.SeriesDefined(0, "loss", TRAIN),
            ev.Point(0, T0 + (20 - rank) * S, float(rank), rank),
        ]
        for rank in range(17)
    }
    return fold(**streams)


def test_beyond_sixteen_ranks_a_series_is_one_entity() -> None:
    """Statistics over the ranks; first and last go by time, whichever rank it was."""
    told = Told(many_ranks())
    (id,) = told.typed("p4:MetricSeries")
    assert id == f"{R}attempt/1/context/training/series/loss"
    facts = told[id]
    assert (facts["p4:ranks"], facts["p4:count"], facts["p4:mean"]) == (17, 17, 8.0)
    assert (facts["p4:first"], facts["p4:last"]) == (16.0, 0.0)
    assert told.one("wasGeneratedBy", id).time == T0 + 20 * S
    assert len(Told(many_ranks(detail="rank")).typed("p4:MetricSeries")) == 17


def test_a_series_of_all_ranks_is_never_named_like_a_context() -> None:
    """A context called training / series / loss keeps its name, the series gets another."""
    state = many_ranks()
    apply(state, producer(1), 3, [ev.ContextStarted(T0 + 20 * S, ("training", "series", "loss"))])
    told = Told(state)
    assert violations(told.document) == []
    assert len(told.typed("p4:MetricSeries")) == 1
    assert told.types(f"{R}attempt/1/context/training/series/loss") == ["p4:Context"]


# -------------------------------------------------------------------------- odd names


def test_odd_names_stand_in_labels_and_are_encoded_in_identifiers() -> None:
    """Every text is kept exactly, its identifiers are sound and differ from each other."""
    stream: list[ev.Event] = [started(experiment=ODD[2], user=ODD[1], host=ODD[5])]
    for i, odd in enumerate(ODD):
        time = T0 + (2 + i) * S
        stream += [
            ev.Param(time, odd, "str", odd[:900]),
            ev.Tag(time, odd, odd),
            ev.SeriesDefined(i, odd, (odd,), odd),
            ev.Point(i, time, 1.0),
            ev.Artifact(time, i + 1, "checkpoint", odd, odd, context=(odd,), use="generated"),
            ev.Split(time, odd, (odd,)),
        ]
    told = Told(fold(p1=stream))
    assert violations(told.document) == []
    for kind in ("mls:HyperParameterSetting", "p4:MetricSeries", "mls:Model", "p4:DataSplit"):
        assert [told[id]["prov:label"] for id in told.typed(kind)] == ODD
    tags = [v for k, v in told.elements[f"{R}run"].attributes if ":tag/" in k]
    assert tags == ODD
    assert len({iri(told.document, id) for id in told.elements}) == len(told.elements)
    assert max(map(len, told.elements)) < 700


def test_a_key_too_long_for_a_name_is_kept_whole() -> None:
    """A tag's key of 10,000 characters stands, with its value, in an attribute."""
    run = Told(fold(p1=[started(), ev.Tag(T0 + S, "k" * 10_000, "v")]))[f"{R}run"]
    assert run["p4:tag"] == f'["{"k" * 10_000}", "v"]'


# ----------------------------------------------------------- the document and its prefixes


def test_a_prefix_means_the_same_everywhere() -> None:
    """The default namespace has its own prefix, any other one made from its IRI."""
    made = document(fold(p1=[started(namespace="https://w3id.org/prov4ml/")]))
    assert made.label == "2f1d5c3a9e01"
    assert made.prefixes["prov4ml"] == "https://w3id.org/prov4ml/"
    assert made.prefixes[f"run_{made.label}"] == f"https://w3id.org/prov4ml/run/{RUN}/"
    other = document(fold(p1=[started()])).prefixes
    assert other[f"ns_{sha('https://lab.example/provenance/')[:8]}"] == (
        "https://lab.example/provenance/"
    )
    assert not {"prov", "xsd"} & other.keys()


def test_a_document_carries_the_picture_that_it_was_given() -> None:
    """Publish makes the picture; the model only passes it on."""
    picture = Picture("t", "s", None, (), (), (), ())
    assert document(RunState(), picture).picture is picture
    assert document(RunState()).picture is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("www.example.org", "http://www.example.org/"),
        ("https://lab.example/a", "https://lab.example/a/"),
        ("https://lab.example/a#", "https://lab.example/a#"),
        ("localhost:8000/x", "http://localhost:8000/x/"),
        ("urn:lab:runs", "urn:lab:runs/"),
        ("http://ü.example/", "http://ü.example/"),
    ],
)
def test_a_namespace_becomes_an_absolute_iri(given: str, expected: str) -> None:
    """A missing scheme is http, a missing end is a slash."""
    assert namespace(given) == expected


@pytest.mark.parametrize(
    "given", ["", "a b", 'a"b', "it's", "<a>", "http://", "/a", "a%2", "a#b#", "a\nb", "\ud800"]
)
def test_what_is_no_iri_is_refused(given: str) -> None:
    """The error names the namespace and what a good one looks like."""
    with pytest.raises(UsageError, match=r"https://lab\.example/provenance/"):
        namespace(given)
