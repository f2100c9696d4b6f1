"""Handles of occurrences, what ``derived_from=`` takes, and what PROV says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prov4ml import events as ev
from prov4ml import segment as seg
from prov4ml.artifacts import log_artifact
from prov4ml.checkpoints import log_version
from prov4ml.errors import UsageError
from prov4ml.model import document
from prov4ml.provdm import split
from prov4ml.recorder import NoRecorder, Recorder
from prov4ml.references import Reference
from prov4ml.state import RunState, apply
from prov4ml.testing.constraints import violations
from prov4ml.testing.records import RUN, Record, Told

BASE = f"https://lab.example/run/{RUN}/attempt/1/rank/0"
OTHER = "0190b6f2-7c1e-7000-8000-000000000002"


def put(record: Record | Recorder, name: str, derived_from: Any = None, **more: Any) -> Reference:
    to = record.recorder if isinstance(record, Record) else record
    given = {"is_input": False, "copy": True, "text": name, **more}
    return log_artifact(to, name, None, None, None, derived_from=derived_from, **given)


def save(record: Record, name: str, derived_from: Any = None, **more: Any) -> Reference:
    data = more.pop("data", name.encode())
    kind = more.pop("kind", "checkpoint")
    return log_version(
        record.recorder, kind, data, name, "training", None, derived_from=derived_from, **more
    )


# ------------------------------------------------------------------------------- handles


def test_a_call_gives_the_handle_of_what_it_made(record: Record) -> None:
    """Number, name, kind, run, and the IRI that the documents have."""
    first, second = put(record, "a"), put(record, "b")
    assert first == Reference(1, "a", "artifact", RUN, f"{BASE}/artifact/1")
    assert (second.n, second.iri) == (2, f"{BASE}/artifact/2")
    assert record.told().facts(second.iri)["prov:label"] == ["b"]
    assert hash(first) != hash(second)
    with pytest.raises(AttributeError):
        first.n = 3  # type: ignore[misc]


def test_a_forked_child_names_what_its_documents_name(record: Record) -> None:
    """Its occurrences stand below ``child/<producer>``; what the parent made keeps its name."""
    raw = put(record, "raw")
    who = record.journal.who
    child = b"c" * 16
    record.journal.forked(
        lambda: seg.Identity(who.run, child, 1, 0, 9, 9, who.boot_id, parent=who.producer)
    )
    record.recorder.restart()
    made = put(record, "made", ["raw", raw])
    assert made.iri == f"{BASE}/child/{child.hex()[:16]}/artifact/1"
    (event,) = [
        e
        for path in record.run.parent.glob("spool0/**/*.seg")
        for e in _events(path)
        if isinstance(e, ev.Artifact) and e.name == "made"
    ]
    assert event.derived == (raw.iri,)


def _events(path: Path) -> list[Any]:
    from prov4ml import wire

    view = seg.view(path)
    return list(wire.decode_batch(wire.array_header(view.count) + view.records, view.count))


def test_a_disabled_run_gives_handles_too() -> None:
    """They name nothing, and are taken by calls of any run."""
    to = NoRecorder()
    made = put(to, "a")
    assert made == Reference(1, "a", "artifact", "", "")
    assert put(to, "b", [made, "a"]).n == 2


def test_handles_of_a_disabled_run_say_nothing_in_another(record: Record) -> None:
    """What was recorded nowhere is no source."""
    ghost = put(NoRecorder(), "ghost")
    assert record.artifact(put(record, "a", ghost)).derived == ()


# ---------------------------------------------------------------------- what can be given


def test_everything_that_derived_from_takes(record: Record, tmp_path: Path) -> None:
    """Handles, names, locations, IRIs, handles of another run, and lists of these."""
    (tmp_path / "raw.csv").write_text("1")
    file = str(tmp_path / "raw.csv")
    raw = log_artifact(
        record.recorder, file, None, None, None, is_input=True, copy=True, derived_from=None
    )
    other = Record(tmp_path / "other", run=OTHER)
    theirs = put(other, "theirs")
    other.close()
    iri = "https://data.example/sets/7"
    made = put(record, "made", [raw, "raw.csv", file, theirs, iri, iri])
    assert record.artifact(made).derived == (iri, 1, theirs.iri)
    assert record.artifact(put(record, "more", "made")).derived == (made.n,)
    told = record.told()
    assert set(told.sources(made)) == {raw.iri, theirs.iri, iri}
    assert told.facts(theirs.iri) == told.facts(iri) == {}


def test_a_name_means_the_last_thing_that_had_it(record: Record) -> None:
    """Of two occurrences of one name the later one is meant."""
    put(record, "a")
    second = put(record, "a")
    assert record.artifact(put(record, "b", "a")).derived == (second.n,)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("missing", UsageError, "nothing named 'missing' was logged"),
        (["a", "missing"], UsageError, "nothing named 'missing'"),
        ("https://data.example/sets/", UsageError, "ends in a name"),
        ("https://x y/z", UsageError, "nothing named"),
        ("https://w3id.org/prov4ml/sha256/" + "0" * 64, UsageError, "is a content"),
        ("", UsageError, "derived_from must not be empty"),
        (7, TypeError, "derived_from must be .* not int"),
        ([7], TypeError, "not int"),
        (b"a", TypeError, "not bytes"),
        ({"a": 1}, TypeError, "not dict"),
        (["a"] * 501, UsageError, "more than 500"),
        ("x" * 20_000, UsageError, "derived_from has 20,000 bytes"),
    ],
)
def test_what_derived_from_does_not_take(
    record: Record, given: Any, error: type[Exception], text: str
) -> None:
    """A clear error before anything is written, naming the argument."""
    put(record, "a")
    with pytest.raises(error, match=text):
        put(record, "b", given)
    assert [a.name for a in record.artifacts] == ["a"]
    assert len(list((record.run / "artifacts" / ".incoming").iterdir())) == 1


def test_an_endless_list_of_names_is_refused(record: Record) -> None:
    """It is not read to its end."""
    put(record, "a")

    def forever() -> Any:
        while True:
            yield "a"

    with pytest.raises(UsageError, match="more than 500"):
        put(record, "b", forever())


# ------------------------------------------------------------------------------ PROV of it


def test_a_model_is_tuned_from_a_base_model(record: Record) -> None:
    """Typed derivation, fair4ml, and the context that used the base as initial weights."""
    base = save(record, "base", is_input=True, kind="model")
    data = put(record, "data", is_input=True)
    tuned = save(record, "tuned", ["data", base])
    assert record.artifact(tuned).derived == (base.n, data.n)
    assert record.artifact(tuned).tuned == 1
    told = record.told()
    assert told.sources(tuned) == {base.iri: ["p4:FineTuning"], data.iri: []}
    assert [told.iri(str(v)) for v in told.facts(tuned.iri)["fair4ml:fineTunedFrom"]] == [base.iri]
    assert told.attributes("used", None, base.iri) == ["p4:initialWeights"]
    assert told.attributes("used", None, data.iri) == []


@pytest.mark.parametrize(
    "iri",
    [
        "https://huggingface.co/bert-base-uncased",
        "urn:uuid:0190b6f2-7c1e-7000-8000-000000000007",
        f"http://other.example#run/{OTHER}/attempt/2/rank/3/artifact/9",
    ],
)
def test_a_base_model_from_elsewhere(record: Record, iri: str) -> None:
    """An IRI is an entity with nothing but its name, used by the context that tuned it."""
    tuned = save(record, "tuned", iri)
    told = record.told()
    assert told.sources(tuned) == {iri: ["p4:FineTuning"]}
    assert told.facts(iri) == {}
    context = f"https://lab.example/run/{RUN}/attempt/1/context/training"
    assert list(told.relations("used", None, iri)) == [(context, iri)]
    assert told.attributes("used", None, iri) == ["p4:initialWeights"]


def test_an_input_model_that_nothing_was_tuned_from(record: Record) -> None:
    """Its role says that it went in, not that it was trained further."""
    model = save(record, "evaluated", is_input=True)
    assert record.told().attributes("used", None, model.iri) == ["p4:inputModel"]


def test_restored_weights_revise_the_version_that_is_named(record: Record) -> None:
    """Best, last, best again as the final model: two occurrences of one content, no circle."""
    best = save(record, "m", data=b"best")
    last = save(record, "m", data=b"last")
    final = save(record, "m", best, data=b"best", kind="model")
    told = record.told()
    assert told.sources(last) == {best.iri: ["prov:Revision"]}
    assert told.sources(final) == {best.iri: ["prov:Revision"]}
    contents = [
        {b for _, b in told.relations("specializationOf", each.iri) if "/sha256/" in b}
        for each in (best, final)
    ]
    assert contents[0] == contents[1] != set()


def test_a_version_of_the_same_model_is_not_tuned_from_itself(record: Record) -> None:
    """Going on from a version of the same name is a revision, said once."""
    first = save(record, "m")
    second = save(record, "m", ["m", first])
    assert record.artifact(second).tuned == 0
    assert record.told().sources(second) == {first.iri: ["prov:Revision"]}


def test_occurrences_of_one_process_follow_each_other_in_print(record: Record) -> None:
    """However fast the calls are, each is later in microseconds, so each derivation is stated."""
    before = put(record, "0")
    for n in range(1, 50):
        made = put(record, str(n), before)
        assert list(record.artifact(made).derived) == [before.n]
        before = made
    times = [a.time // 1000 for a in record.artifacts]
    assert times == sorted(set(times))
    assert len(list(record.told().relations("wasDerivedFrom"))) == 49


def test_other_ranks_occurrences_are_the_same_entities(record: Record, tmp_path: Path) -> None:
    """A handle of another rank of the run names the entity that its own event makes."""
    other = Record(tmp_path / "record", producer=b"q" * 16, rank=1)
    theirs = put(other, "theirs")
    mine = put(record, "mine", theirs)
    told = record.told(other)
    other.close()
    assert told.sources(mine) == {theirs.iri: []}
    assert told.facts(theirs.iri)["prov:label"] == ["theirs"]


def stream(*artifacts: ev.Artifact, rank: int = 0) -> list[ev.Event]:
    started = ev.Started(
        1_000_000_000,
        *(RUN, "e", "e_0", "/e", "https://lab.example/", 1, rank, rank, 1, 1, 1, "b", "h", None),
        *("none", "0", "3", {}),
    )
    return [started, *artifacts]


def folded(**streams: list[ev.Event]) -> Told:
    state = RunState()
    for name, events in streams.items():
        apply(state, name.encode() * 16, 0, events)
    made = document(state)
    assert violations(made) == []
    return Told(made)


def occurrence(n: int, time: int, *derived: int | str, **more: Any) -> ev.Artifact:
    given = {"kind": "artifact", "use": "generated", **more}
    return ev.Artifact(time, n, given.pop("kind"), f"a{n}", derived=derived, **given)


T = 2_000_000_000


def test_what_has_no_order_is_an_influence() -> None:
    """Generated in one microsecond, or the wrong way round: no derivation is claimed."""
    told = folded(p=stream(occurrence(1, T), occurrence(2, T + 500, 1), occurrence(3, T - 5000, 2)))
    assert list(told.relations("wasDerivedFrom")) == []
    pairs = [(a[-1], b[-1]) for a, b in told.relations("wasInfluencedBy")]
    assert pairs == [("2", "1"), ("3", "2")]


def test_two_ranks_that_name_each_other_make_no_circle() -> None:
    """Only the one that is strictly later was derived from the other."""
    one, two = f"{BASE}/artifact/1", f"{BASE.replace('rank/0', 'rank/1')}/artifact/1"
    told = folded(
        p=stream(occurrence(1, T, two, use="used")),
        q=stream(occurrence(1, T + 5000, one, use="used"), rank=1),
    )
    assert [names[:2] for names in told.relations("wasDerivedFrom")] == [(two, one)]


@pytest.mark.parametrize("given", [0, -1, 2, 3, 2**62])
def test_numbers_that_are_not_older_are_told_as_text(given: int) -> None:
    """A foreign producer may say anything; the occurrence itself and later ones are no source."""
    told = folded(p=stream(occurrence(2, T, given)))
    assert list(told.relations("wasDerivedFrom")) == []
    assert told.facts(f"{BASE}/artifact/2")["p4:derivedFrom"] == [str(given)]


def test_a_source_whose_event_was_lost_is_named() -> None:
    """The derivation from it is stated; of itself nothing is known."""
    told = folded(p=stream(occurrence(2, T, 1)))
    (derivation,) = told.relations("wasDerivedFrom")
    assert derivation[:2] == (f"{BASE}/artifact/2", f"{BASE}/artifact/1")
    assert told.facts(f"{BASE}/artifact/1") == {}


@pytest.mark.parametrize(
    "iri",
    [
        f"https://lab.example/run/{RUN}/run",  # an activity
        f"https://lab.example/run/{RUN}/attempt/1",
        f"https://lab.example/run/{OTHER}/attempt/1/rank/0",
        f"https://elsewhere.example/run/{OTHER}/run",
        "https://lab.example/agent/alice",
        "https://w3id.org/prov4ml/sha256/" + "0" * 64,
        "http://www.w3.org/ns/prov#Entity",
        "https://w3id.org/prov4ml/ns#Artifact",
        "no iri",
        "https://x.example/",
        "",
        "https://x.example/" + "y" * 3000,
        "https://x.example/\x00y",
        "https://x.example/\ud800y",
    ],
)
def test_names_that_are_no_things_entities_are_told_as_text(iri: str) -> None:
    """Nothing becomes both an entity and an activity, an agent or a content."""
    told = folded(p=stream(occurrence(1, T, iri)))
    assert list(told.relations("wasDerivedFrom")) == []
    assert told.facts(f"{BASE}/artifact/1")["p4:derivedFrom"] == [iri]


@pytest.mark.parametrize(
    "iri",
    [
        "https://x.example/a/b.csv",
        "https://x.example/?id=7",
        "https://x.example/a%20b",
        "https://x.example/a%2fb",
        "https://x.example/" + "n" * 500,
        "https://x.example/" + "%20" * 100,
        "hf://datasets/mnist",
        "doi:10.5281/zenodo.1",
        "https://x.example/-a.",
    ],
)
def test_an_iri_is_split_and_joined_to_itself(iri: str) -> None:
    """Whatever the local part is: the name of the entity stands for the IRI as it was given."""
    parts = split(iri)
    assert parts is not None
    assert "".join(parts) == iri
    told = folded(p=stream(occurrence(1, T, iri)))
    assert [names[1] for names in told.relations("wasDerivedFrom")] == [iri]
