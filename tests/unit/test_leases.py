"""Leases on a clock of the test's own, and what a state makes of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prov4ml import ends
from prov4ml import events as ev
from prov4ml.leases import LEASE, Leases
from prov4ml.state import RunState, apply

RANK, OTHER, COLLECTOR = b"r" * 16, b"o" * 16, b"c" * 16
SECOND = 10**9


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def listened(leases: Leases, clock: Time, seconds: int) -> None:
    """Look once a second, as a collector does."""
    for _ in range(seconds):
        clock.now += 1.0
        leases.look()


def test_a_lease_holds_for_its_length_of_silence() -> None:
    """It holds until the last second, and not after; each sign of life begins a new one."""
    clock = Time()
    leases = Leases(clock)
    assert not leases.holds(RANK)
    leases.hear(RANK)
    listened(leases, clock, int(LEASE))
    assert leases.holds(RANK)
    listened(leases, clock, 1)
    assert not leases.holds(RANK)
    leases.hear(RANK)
    assert leases.holds(RANK)
    leases.forget(RANK)
    assert not leases.holds(RANK)


@given(st.lists(st.floats(2.0, 1e6), max_size=5), st.integers(0, 40))
def test_time_asleep_does_not_count(asleep: list[float], silent: int) -> None:
    """However long the collector was stopped, each stop ends no lease that had time left."""
    clock = Time()
    leases = Leases(clock)
    leases.hear(RANK)
    listened(leases, clock, silent)
    for seconds in asleep:
        clock.now += seconds
        leases.look()
    assert leases.holds(RANK)
    listened(leases, clock, int(LEASE))
    assert leases.holds(RANK) == (silent == 0 and not asleep)


# ------------------------------------------------------------------------- in the state


def started(rank: int = 0, world: int = 1, **facts: Any) -> ev.Started:
    place = ("e", "e_0", "/e_0", "https://example.org/", 1, rank, rank, world, 1, 1, "boot", "host")
    made = ev.Started(0, "run", *place, None, "none", "0", "3", {})
    return ev.Started(**{field: getattr(made, field) for field in made.__struct_fields__} | facts)


def folded(*said: tuple[bytes, int, ev.Event]) -> RunState:
    of = RunState()
    for producer, first, event in said:
        apply(of, producer, first, [event])
    return of


def status(of: RunState, producer: bytes = RANK) -> str:
    return ends.ended(of, of.producers[producer]).status


LOST = ev.LeaseLost(100 * SECOND, RANK, 2)
POINT = ev.Point(0, 10**18, 0.5)  # of a clock that is decades ahead
SERIES = ev.SeriesDefined(0, "loss")


def test_order_tells_what_came_later() -> None:
    """An event behind the loss takes it back, whatever its time; one before does not."""
    before = [(RANK, 0, started()), (RANK, 1, SERIES), (COLLECTOR, 0, LOST)]
    assert status(folded(*before)) == "unreachable"
    assert status(folded(*before, (RANK, 2, POINT))) == "running"
    late = ev.LeaseLost(100 * SECOND, RANK, 3)
    of = folded(*before[:2], (RANK, 2, POINT), (COLLECTOR, 0, late))
    assert status(of) == "unreachable"
    assert ends.complete(of)
    assert ends.run_status(of) == ends.End("unreachable", "none", 100 * SECOND)


def test_any_order_of_producers_gives_the_same() -> None:
    """The collector's word may be folded before or after what it is about."""
    regained = ev.LeaseRegained(200 * SECOND, RANK)
    again = ev.LeaseLost(300 * SECOND, RANK, 2)
    ours = [(RANK, 0, started()), (RANK, 1, SERIES)]
    said = [(COLLECTOR, n, event) for n, event in enumerate((LOST, regained, again))]
    for count, expected in (1, "unreachable"), (2, "running"), (3, "unreachable"):
        for places in itertools.combinations(range(2 + count), 2):
            first, second = iter(ours), iter(said[:count])
            mixed = [next(first if n in places else second) for n in range(2 + count)]
            assert status(folded(*mixed)) == expected


def test_what_was_seen_counts_more_than_silence() -> None:
    """A witness's word, or its own, stands whatever became of the lease."""
    base = [(RANK, 0, started()), (COLLECTOR, 0, LOST)]
    killed = ev.RankEnded(50 * SECOND, RANK, "killed", "waited", None, 9)
    assert status(folded(*base, (COLLECTOR, 1, killed))) == "killed"
    assert status(folded(*base, (RANK, 1, ev.Ended(1, "finished")))) == "finished"


@pytest.mark.parametrize(
    ("scheduler", "signal", "expected"),
    [
        ("slurm", 15, "preempted"),
        ("slurm", 10, "preempted"),
        ("slurm", 9, "killed"),
        ("", 15, "killed"),
        ("", 10, "killed"),
    ],
)
def test_a_scheduler_preempts(scheduler: str, signal: int, expected: str) -> None:
    """SIGTERM and SIGUSR1 are a preemption where there is a scheduler, whatever launched it."""
    ended = ev.RankEnded(SECOND, RANK, "killed", "pidfd", None, signal)
    rank = started(launcher="torchrun", scheduler=scheduler)
    assert status(folded((RANK, 0, rank), (COLLECTOR, 0, ended))) == expected
    before = started(launcher="slurm") if scheduler else started()  # as older releases had it
    assert status(folded((RANK, 0, before), (COLLECTOR, 0, ended))) == expected


@pytest.mark.parametrize(
    ("seconds", "cause", "expected"),
    [
        (0, ev.Ended(100 * SECOND, "failed"), "stopped"),
        (30, ev.Ended(100 * SECOND, "failed"), "stopped"),
        (31, ev.Ended(100 * SECOND, "failed"), "killed"),
        (-1, ev.RankEnded(100 * SECOND, OTHER, "died", "none"), "stopped"),  # seen too late
        (-3, ev.RankEnded(100 * SECOND, OTHER, "died", "none"), "killed"),
        (1, ev.RankEnded(100 * SECOND, OTHER, "killed", "pidfd", None, 15), "killed"),
        (1, ev.RankEnded(100 * SECOND, OTHER, "unreachable", "none"), "killed"),
        (1, ev.LeaseLost(100 * SECOND, OTHER, 1), "killed"),
        (1, ev.Ended(100 * SECOND, "finished"), "killed"),
    ],
)
def test_sigterm_after_another_rank_s_bad_end(seconds: int, cause: ev.Event, expected: str) -> None:
    """Within 30 s of an end that somebody saw it is ``stopped``, and never the attempt's own."""
    who = (OTHER, 1) if isinstance(cause, ev.Ended) else (COLLECTOR, 1)
    ended = ev.RankEnded((100 + seconds) * SECOND, RANK, "killed", "pidfd", None, 15)
    of = folded(
        (RANK, 0, started(0, 2)),
        (OTHER, 0, started(1, 2)),
        (COLLECTOR, 0, ended),
        (*who, cause),
    )
    assert status(of) == expected
    if expected == "stopped":
        assert ends.run_status(of).status == status(of, OTHER)
