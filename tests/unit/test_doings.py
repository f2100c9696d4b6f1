"""Open epochs and activities in sequence order, also where events are lost."""

from __future__ import annotations

import pytest

from prov4ml import events as ev
from prov4ml import wire
from prov4ml.eventlog import Frame
from prov4ml.feed import Chunks
from prov4ml.state import RunState, apply

P = b"p" * 16
LOSS = ev.SeriesDefined(0, "loss", ("training",))


def start(number: int, *context: str, activity: bool = False) -> ev.EpochStarted:
    return ev.EpochStarted(0, number, context, activity)


def end(number: int, *context: str) -> ev.EpochEnded:
    return ev.EpochEnded(0, number, context)


def file(n: int, *context: str, activity: int = 0) -> ev.Artifact:
    return ev.Artifact(0, n, "artifact", "a", context=context, activity=activity)


def folded(*pieces: tuple[int, list[ev.Event | str]]) -> list[int | None]:
    """The epochs of the occurrences after pieces that begin at these sequences."""
    state = RunState()
    for first, events in pieces:
        apply(state, P, first, events)
    return [a.epoch for a in state.producers[P].artifacts]


def chunked(*pieces: tuple[int, list[ev.Event]]) -> list[tuple[int | None, int | None]]:
    """(step, epoch) of the points that a stream sink sees."""
    chunks, found = Chunks(), []
    for number, (first, events) in enumerate(pieces):
        batch = wire.array_header(len(events)) + b"".join(wire.encode(e) for e in events)
        chunk = chunks.take(Frame(number, P, first, len(events), batch))
        for event in chunk.events if chunk is not None else ():
            if isinstance(event, ev.Point):
                found.append((event.step, event.epoch))
    return found


def point(step: int, epoch: int | None = None, series: int = 0) -> ev.Point:
    return ev.Point(series, step, 0.5, step, epoch)


@pytest.mark.parametrize(
    ("note", "epoch"),
    [
        (None, None),
        (ev.Dropped(0, 2, 3, "full", 3), 1),
        (ev.Dropped(0, 2, 3, "full", 2), None),
    ],
    ids=["unknown", "points alone", "also others"],
)
def test_after_a_gap_no_epoch_is_taken_to_be_open(
    note: ev.Dropped | None, epoch: int | None
) -> None:
    """Unless the producer says that it dropped points and nothing else; the next start counts."""
    after: list[ev.Event] = [] if note is None else [note]
    later: list[ev.Event] = [
        *after,
        file(2, "training"),
        point(8),
        start(2),
        file(3, "training"),
        point(9),
    ]
    assert folded((0, [LOSS, start(1)]), (5, list(later))) == [epoch, 2]
    assert folded((0, [LOSS, start(1), file(1), file(1), file(1), *later[len(after) :]]))[-2:] == [
        1,
        2,
    ]
    assert chunked((0, [LOSS, start(1)]), (5, later)) == [(8, epoch), (9, 2)]


def test_an_event_that_did_not_decode_ends_no_epoch() -> None:
    """It was received, and what it was has no bearing."""
    assert folded((0, [start(1), "unknown tag 99", file(1)])) == [1]


def test_an_end_without_a_start_is_passed_over() -> None:
    """So is that of another number or context."""
    assert folded((0, [end(1), start(1), end(2), end(1, "training"), file(1)])) == [1]


def test_epochs_that_are_never_left_are_bounded() -> None:
    """A producer that forgets to leave them costs no memory, and the last one counts."""
    state = RunState()
    apply(state, P, 0, [*(start(n) for n in range(5000)), file(1)])
    p = state.producers[P]
    assert len(p.doings.epochs._open) == 64
    assert p.artifacts[0].epoch == 4999


def test_points_know_their_epoch_in_the_order_of_the_stream() -> None:
    """The best point's epoch is that in which it stood, wherever a batch is cut."""
    stream: list[ev.Event] = [LOSS]
    for epoch, values in enumerate(((3.0, 2.0), (1.0, 5.0), (4.0, 2.5))):
        stream.append(start(epoch, "training"))
        stream += [ev.Point(0, 0, value, 10 * epoch + n) for n, value in enumerate(values)]
        stream.append(end(epoch, "training"))
    for cut in range(1, len(stream)):
        state = RunState()
        apply(state, P, 0, stream[:cut])
        apply(state, P, cut, stream[cut:])
        (series,) = state.producers[P].series.values()
        assert series.minimum_at == (10, 1)
        assert series.maximum_at == (11, 1)
        assert [epoch for _, epoch in chunked((0, stream[:cut]), (cut, stream[cut:]))] == [
            0,
            0,
            1,
            1,
            2,
            2,
        ]


def test_a_point_that_names_its_epoch_keeps_it() -> None:
    """In the fold and for sinks."""
    stream: list[ev.Event] = [LOSS, start(1), point(1, 9), point(2)]
    assert chunked((0, stream)) == [(1, 9), (2, 1)]
    state = RunState()
    apply(state, P, 0, stream)
    assert state.producers[P].series[0].minimum_at == (1, 9)


def test_a_repeated_batch_starts_no_epoch_again() -> None:
    """What was seen is cut off: no epoch is opened twice."""
    stream: list[ev.Event] = [LOSS, start(1), point(1), end(1), point(2)]
    assert chunked((0, stream[:4]), (0, stream[:4]), (1, stream[1:])) == [(1, 1), (2, None)]


def test_only_epochs_that_are_activities_are_held() -> None:
    """A million plain epochs leave nothing in the state."""
    state = RunState()
    plain = [e for n in range(1000) for e in (start(n), file(n + 1), end(n))]
    apply(state, P, 0, [*plain, start(7, activity=True), file(2000), end(7)])
    doings = state.producers[P].doings
    assert list(doings.spans) == [((), 7)]
    assert doings.within == {("artifact", 2000): ((), 7)}


def test_what_is_done_widens_what_did_it_and_what_is_around() -> None:
    """A thread's late event lies in the interval of its activity and of that one's context."""
    state = RunState()
    apply(
        state,
        P,
        0,
        [
            ev.Activity(10, 1, "a", ("training",)),
            ev.Artifact(5, 1, "artifact", "x", activity=1),
            ev.Linked(40, 1, "used", 1),
            ev.Activity(20, 1, "a", ("training",), status="finished", started=10),
        ],
    )
    p = state.producers[P]
    work = p.doings.works[1]
    assert (work.first, work.last) == (5, 40)
    assert (p.contexts["training",].first, p.contexts["training",].last) == (5, 40)


def test_an_activity_whose_start_was_lost_is_known_from_its_end() -> None:
    """The end repeats everything, and says when it began."""
    state = RunState()
    ended = ev.Activity(20, 2, "a", ("training",), 1, "failed", "ValueError", "bad", 10)
    apply(state, P, 3, [ended])
    work = state.producers[P].doings.works[2]
    assert (work.first, work.last, work.name, work.parent, work.ended) == (10, 20, "a", 1, ended)
