"""What PROV says of activities and epochs: who made and used what, and what is part of what."""

from __future__ import annotations

from typing import Any

import pytest

from prov4ml import events as ev
from prov4ml.model import document, statements
from prov4ml.provdm import Element
from prov4ml.state import RunState, apply
from prov4ml.testing.constraints import violations

RUN = "0190b6f2-7c1e-7000-8000-2f1d5c3a9e01"
T = 1_767_225_600_000_000_000


def started(rank: int = 0, attempt: int = 1, size: int = 1) -> ev.Started:
    return ev.Started(
        T,
        RUN,
        "e",
        "e_0",
        "/prov/e_0",
        "https://w3id.org/prov4ml/",
        attempt,
        rank,
        rank,
        size,
        4,
        5,
        RUN,
        "node",
        None,
        "none",
        "0.1.0",
        "3.11",
        {},
    )


class Told:
    """The statements of some streams, by short names: what follows the run's prefix."""

    def __init__(self, *streams: list[Any]) -> None:
        self.state = RunState()
        for rank, stream in enumerate(streams):
            producer = bytes([112 + rank]) * 16
            first = [] if isinstance(stream[0], ev.Started) else [started(rank, size=len(streams))]
            apply(self.state, producer, 0, [*first, *stream])
        assert violations(document(self.state)) == []
        self.said = list(statements(self.state))

    @staticmethod
    def short(name: str | None) -> str:
        return (name or "").partition(":")[2].removeprefix("attempt/1/").removeprefix("rank/0/")

    def facts(self, name: str) -> dict[str, Any]:
        """The attributes of an element, and its times."""
        (found,) = (s for s in self.said if isinstance(s, Element) and self.short(s.id) == name)
        facts: dict[str, Any] = dict(found.attributes)
        return {**facts, "start": found.start, "end": found.end}

    def relations(self, kind: str) -> set[tuple[str, str]]:
        return {
            (self.short(s.arguments[0]), self.short(s.arguments[1]))
            for s in self.said
            if not isinstance(s, Element) and s.kind == kind
        }

    def time(self, kind: str, one: str, other: str) -> int | None:
        (found,) = (
            s.time
            for s in self.said
            if not isinstance(s, Element)
            and s.kind == kind
            and (self.short(s.arguments[0]), self.short(s.arguments[1])) == (one, other)
        )
        return None if found is None else found - T

    @property
    def made(self) -> set[tuple[str, str]]:
        return {pair for pair in self.relations("wasGeneratedBy") if "artifact" in pair[0]}

    @property
    def used(self) -> set[tuple[str, str]]:
        return {pair for pair in self.relations("used") if "artifact" in pair[1]}

    def part_of(self, name: str) -> str:
        return self.short(self.facts(name)["dcterms:isPartOf"])


def act(time: int, n: int, name: str = "a", *context: str, **more: Any) -> ev.Activity:
    return ev.Activity(T + time, n, name, context, **more)


def over(time: int, n: int, *context: str, status: str = "finished", **more: Any) -> ev.Activity:
    return ev.Activity(T + time, n, "a", context, status=status, **more)


def file(time: int, n: int, use: str, *context: str, activity: int = 0, **more: Any) -> ev.Artifact:
    kind = more.pop("kind", "artifact")
    return ev.Artifact(
        T + time, n, kind, f"f{n}", context=context, use=use, activity=activity, **more
    )


def link(time: int, n: int, use: str, activity: int, *context: str) -> ev.Linked:
    return ev.Linked(T + time, n, use, activity, context)


END = ev.Ended(T + 10_000_000, "finished", 0)


# ----------------------------------------------------------------------------- activities


def test_an_activity_is_stated_with_times_status_and_place() -> None:
    """Type, label, start, end, status, its context, and the process that did it."""
    told = Told([act(1000, 1, "tokenise", "prep"), over(9000, 1, "prep"), END])
    facts = told.facts("activity/1")
    assert (facts["prov:type"], facts["prov:label"]) == ("p4:Activity", "tokenise")
    assert (facts["start"], facts["end"]) == (T + 1000, T + 9000)
    assert facts["p4:status"] == "finished"
    assert told.part_of("activity/1") == "context/prep"
    assert ("activity/1", "agent") in told.relations("wasAssociatedWith")


def test_a_failed_activity_says_why() -> None:
    """Class and text of the error."""
    ended = over(9000, 1, status="failed", error_type="ValueError", error_message="bad")
    facts = Told([act(1000, 1), ended, END]).facts("activity/1")
    assert facts["p4:status"] == "failed"
    assert (facts["p4:errorType"], facts["p4:errorMessage"]) == ("ValueError", "bad")


@pytest.mark.parametrize(
    ("end", "status", "closed"),
    [
        (None, "running", False),
        (END, "unfinished", True),
        (ev.Ended(T + 9000, "failed", 1, "ValueError", "bad"), "failed", True),
    ],
    ids=["running", "process finished", "process failed"],
)
def test_an_activity_that_nobody_ended(end: ev.Ended | None, status: str, closed: bool) -> None:
    """It has an end only when its process has: then the last thing that was seen of it."""
    made = [act(1000, 1), file(2000, 1, "used", activity=1), *([end] if end else [])]
    facts = Told(made).facts("activity/1")
    assert facts["p4:status"] == status
    assert facts["end"] == (T + 2000 if closed else None)


def test_occurrences_are_made_and_used_by_their_activity() -> None:
    """Not by the context, which the entity names where it is another one than the activity's."""
    told = Told(
        [
            act(1000, 1, "a", "prep"),
            file(2000, 1, "used", "prep", activity=1),
            file(3000, 2, "generated", "prep", "deep", activity=1),
            over(4000, 1, "prep"),
            file(5000, 3, "generated", "prep"),
            END,
        ]
    )
    assert told.used == {("activity/1", "artifact/1")}
    assert told.made == {("artifact/2", "activity/1"), ("artifact/3", "context/prep")}
    assert "p4:context" not in told.facts("artifact/1")
    assert told.short(told.facts("artifact/2")["p4:context"]) == "context/prep/deep"


@pytest.mark.parametrize("number", [7, -1])
def test_an_activity_that_nobody_stated_does_nothing(number: int) -> None:
    """Then the context did it: no statement refers to what is not there."""
    told = Told([file(1000, 1, "generated", activity=number), link(2000, 1, "used", number), END])
    assert told.made == {("artifact/1", "attempt/1")}
    assert told.used == {("attempt/1", "artifact/1")}


def test_nested_activities_are_part_of_each_other() -> None:
    """Of the one around, where it lasted as long; else of the context."""
    told = Told(
        [
            act(1000, 1, "outer", "prep"),
            act(2000, 2, "inner", "prep", parent=1),
            over(3000, 2, "prep"),
            act(3000, 3, "task", "prep", parent=1),
            over(5000, 1, "prep"),
            over(6000, 3, "prep"),
            act(7000, 4, "odd", parent=4),
            act(7000, 5, "odd", parent=9),
            END,
        ]
    )
    assert [told.part_of(f"activity/{n}") for n in (1, 2, 3, 4, 5)] == [
        "context/prep",
        "activity/1",
        "context/prep",
        "attempt/1",
        "attempt/1",
    ]


def test_parameters_are_used_by_their_activity() -> None:
    """The run uses its own; a value that both have is one entity; no value revises another's."""
    told = Told(
        [
            ev.Param(T, "lr", "int", "1"),
            act(1000, 1),
            ev.Param(T + 1100, "lr", "int", "2", activity=1),
            ev.Param(T + 1200, "lr", "int", "1", activity=1),
            over(2000, 1),
            ev.Param(T + 3000, "lr", "int", "3"),
            END,
        ]
    )
    ids = {
        dict(s.attributes)["prov:value"]: told.short(s.id)
        for s in told.said
        if isinstance(s, Element) and ("prov:type", "mls:HyperParameterSetting") in s.attributes
    }
    uses = {pair for pair in told.relations("used") if "param/" in pair[1]}
    assert uses == {
        ("run", ids[1]),
        ("run", ids[3]),
        ("activity/1", ids[1]),
        ("activity/1", ids[2]),
    }
    assert told.relations("wasDerivedFrom") == {(ids[3], ids[1])}
    assert "p4:rank" not in told.facts(ids[2])


def test_a_split_is_used_by_its_activity() -> None:
    """With the role that its context gives it."""
    split = ev.Split(T + 1500, "train", ("training",), activity=1)
    told = Told([act(1000, 1), split, over(2000, 1), END])
    assert ("activity/1", "split/train") in told.relations("used")
    assert ("context/training", "split/train") not in told.relations("used")


# ---------------------------------------------------------------------------------- claims


def test_what_another_call_logged_is_used_by_several() -> None:
    """One occurrence, made by one activity, used by others, each at its time."""
    told = Told(
        [
            act(1000, 1),
            file(2000, 1, "generated", activity=1),
            over(3000, 1),
            act(4000, 2),
            link(5000, 1, "used", 2),
            link(5500, 1, "used", 2),
            over(6000, 2),
            link(7000, 1, "used", 0, "training"),
            END,
        ]
    )
    assert told.made == {("artifact/1", "activity/1")}
    assert told.used == {("activity/2", "artifact/1"), ("context/training", "artifact/1")}
    assert told.time("used", "activity/2", "artifact/1") == 5000


def test_a_claim_stands_for_the_context() -> None:
    """An entity is generated once: by the activity that says so, at the time it was logged."""
    told = Told(
        [
            act(1000, 1, "a", "prep"),
            file(2000, 1, "generated"),
            file(2500, 2, "used"),
            file(2600, 3, ""),
            *(link(3000, n, "generated", 1, "prep") for n in (1, 2, 3)),
            over(4000, 1, "prep"),
            act(5000, 2),
            link(5500, 1, "generated", 2),
            over(6000, 2),
            END,
        ]
    )
    assert told.made == {(f"artifact/{n}", "activity/1") for n in (1, 2, 3)}
    assert told.used == {("attempt/1", "artifact/2")}
    assert told.time("wasGeneratedBy", "artifact/1", "activity/1") == 2000


def test_data_that_an_activity_logged_and_claims_is_made_by_it() -> None:
    """Datasets are logged as used; the claim says that they are the result."""
    told = Told(
        [
            act(1000, 1),
            file(2000, 1, "used", activity=1, kind="dataset"),
            link(3000, 1, "generated", 1),
            over(4000, 1),
            END,
        ]
    )
    assert (told.made, told.used) == ({("artifact/1", "activity/1")}, set())


@pytest.mark.parametrize(
    "stream",
    [
        [file(1000, 1, "generated"), act(2000, 1), link(3000, 1, "generated", 1), over(4000, 1)],
        [
            act(1000, 2),
            file(2000, 1, "generated", activity=2),
            act(2000, 1),
            link(3000, 1, "generated", 1),
        ],
    ],
    ids=["before it began", "of another activity"],
)
def test_a_claim_that_cannot_be_makes_no_statement(stream: list[Any]) -> None:
    """Whoever writes it: the document keeps to the rules."""
    told = Told([*stream, END])
    assert all(maker != "activity/1" for _, maker in told.made)
    assert len(told.made) == 1


def test_a_use_before_the_thing_was_there_has_no_time_or_is_not_said() -> None:
    """Threads may log out of order: what cannot be said truly is left out."""
    told = Told(
        [
            act(1000, 1),
            link(1500, 1, "used", 1),
            file(2000, 1, "generated"),
            over(2500, 1),
            act(500, 2),
            link(600, 1, "used", 2),
            over(700, 2),
            END,
        ]
    )
    assert told.used == {("activity/1", "artifact/1")}
    assert told.time("used", "activity/1", "artifact/1") is None


# ---------------------------------------------------------------------------------- epochs


def epoch(time: int, number: int, *context: str) -> ev.EpochStarted:
    return ev.EpochStarted(T + time, number, context, True)


def left(time: int, number: int, *context: str) -> ev.EpochEnded:
    return ev.EpochEnded(T + time, number, context)


def test_epochs_are_activities_on_request() -> None:
    """Part of their context, each informed by the one before, making and using what is in them."""
    told = Told(
        [
            epoch(1000, 0, "training"),
            file(1500, 1, "used", "training"),
            left(2000, 0, "training"),
            epoch(3000, 1, "training"),
            file(3500, 2, "generated", "training", kind="checkpoint"),
            left(4000, 1, "training"),
            file(5000, 3, "generated", "training"),
            END,
        ]
    )
    names = [f"epoch/{n}/context/training" for n in (0, 1)]
    facts = told.facts(names[1])
    assert (facts["prov:type"], facts["prov:label"], facts["p4:epoch"]) == (
        "p4:Epoch",
        "epoch 1",
        1,
    )
    assert (facts["start"], facts["end"]) == (T + 3000, T + 4000)
    assert told.part_of(names[1]) == "context/training"
    assert told.relations("wasInformedBy") == {(names[1], names[0])}
    assert told.used == {(names[0], "artifact/1")}
    assert told.made == {("artifact/2", names[1]), ("artifact/3", "context/training")}
    assert [told.facts(f"artifact/{n}").get("p4:epoch") for n in (1, 2, 3)] == [0, 1, None]


def test_an_epoch_around_contexts_does_what_is_in_them() -> None:
    """The entity names the context; an epoch inside that is no activity only has its number."""
    told = Told(
        [
            epoch(1000, 3),
            ev.EpochStarted(T + 1100, 8, ("training",)),
            file(1500, 1, "generated", "training"),
            ev.Split(T + 1600, "train", ("training",)),
            left(1700, 8, "training"),
            left(2000, 3),
            END,
        ]
    )
    assert told.made == {("artifact/1", "epoch/3")}
    assert told.part_of("epoch/3") == "attempt/1"
    facts = told.facts("artifact/1")
    assert (facts["p4:epoch"], told.short(facts["p4:context"])) == (8, "context/training")
    assert ("epoch/3", "split/train") in told.relations("used")


def test_the_same_epoch_of_ranks_and_of_repetitions_is_one_activity() -> None:
    """From the first that began it to the last that left it."""
    told = Told(
        [epoch(1000, 0, "t"), left(2000, 0, "t"), epoch(5000, 0, "t"), left(6000, 0, "t"), END],
        [epoch(500, 0, "t"), left(7000, 0, "t"), END],
    )
    facts = told.facts("epoch/0/context/t")
    assert (facts["start"], facts["end"]) == (T + 500, T + 7000)


def test_an_epoch_that_is_open_has_no_end() -> None:
    """One that was left has; when the run is over, all have."""
    stream = [epoch(1000, 0, "t"), left(2000, 0, "t"), epoch(3000, 1, "t")]
    open_ = Told(stream)
    assert open_.facts("epoch/0/context/t")["end"] == T + 2000
    assert open_.facts("epoch/1/context/t")["end"] is None
    assert Told([*stream, END]).facts("epoch/1/context/t")["end"] == T + 3000


def test_an_activity_in_an_epoch_is_part_of_it() -> None:
    """And does what is logged in it; one that outlasts the epoch is part of the context."""
    told = Told(
        [
            epoch(1000, 0, "t"),
            act(1100, 1, "a", "t"),
            file(1200, 1, "generated", "t", activity=1),
            over(1300, 1, "t"),
            act(1400, 2, "a", "t"),
            left(2000, 0, "t"),
            over(3000, 2, "t"),
            END,
        ]
    )
    assert told.part_of("activity/1") == "epoch/0/context/t"
    assert told.part_of("activity/2") == "context/t"
    assert told.made == {("artifact/1", "activity/1")}


def test_epochs_of_attempts_are_apart() -> None:
    """After a resume the same number is another activity, of the new attempt."""
    state = RunState()
    for attempt in (1, 2):
        producer = bytes([attempt]) * 16
        stream = [started(attempt=attempt), epoch(1000 * attempt, 4, "t"), left(5000, 4, "t"), END]
        apply(state, producer, 0, stream)
    assert violations(document(state)) == []
    ids = [s.id for s in statements(state) if isinstance(s, Element) and "/epoch/" in s.id]
    assert [id.partition(":")[2] for id in ids] == [
        f"attempt/{k}/epoch/4/context/t" for k in (1, 2)
    ]


def test_names_of_contexts_and_epochs_do_not_meet() -> None:
    """A context that is called like an epoch is another activity."""
    told = Told(
        [
            epoch(1000, 3, "epoch", "3"),
            ev.ContextStarted(T + 1000, ("training", "epoch", "3")),
            epoch(1000, 3, "training"),
            epoch(1000, 3),
            END,
        ]
    )
    ids = [s.id for s in told.said if isinstance(s, Element)]
    assert len(ids) == len(set(ids))
