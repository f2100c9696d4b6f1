"""Where each attempt of a run went on from, and what it left behind of the attempts before.

An attempt goes on from the last version of a model that the attempt before it saved, rank by
rank; a rank that saved none goes on from rank 0's (else the lowest rank's that has one).  An
attempt that saved nothing hands on what it went on from itself.  Where a run died between the
saves of its ranks, the step before, which all of them have, is the one.

Points of an earlier attempt stand up to that version's step, else up to its time; those of
attempts that went on from it in between do not stand at all.  Where no version was saved, only
steps that the later attempt logged again are left behind.

Pure functions of the state of a first pass; they never change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final, NamedTuple

from prov4ml import events as ev
from prov4ml.participants import clients
from prov4ml.producer import Producer
from prov4ml.series import Cut, Key, Limit
from prov4ml.state import RunState

__all__ = ["Origin", "Saved", "cuts", "origins"]

_VERSIONS: Final = ("checkpoint", "model")


class Saved(NamedTuple):
    """A version of a model, and when it was saved (ns, the collector's clock)."""

    producer: Producer
    artifact: ev.Artifact
    time: int


class Origin(NamedTuple):
    """What an attempt went on from: the attempt that saved it, and each saving rank's version."""

    attempt: int
    versions: dict[int, Saved]  # by rank, never empty

    def of(self, rank: int) -> Saved:
        """What a rank went on from, whether or not it was there before."""
        found = self.versions.get(rank, self.versions.get(0))
        return found if found is not None else self.versions[min(self.versions)]


_Members = dict[int, list[Producer]]


def origins(state: RunState) -> dict[int, Origin]:
    """By attempt; one that nothing was saved for has none, as the first."""
    return _origins(state, _members(state))


def cuts(state: RunState) -> dict[bytes, Cut]:
    """The limits that later attempts set to the series of earlier ones, by producer.

    ``state`` is that of a first pass: nothing in it is cut.
    """
    members = _members(state)
    if len(members) < 2:
        return {}
    found = _origins(state, members)
    made: dict[bytes, Cut] = {}
    for later in sorted(members)[1:]:
        origin = found.get(later)
        again = _first_steps(members[later]) if origin is None else {}
        for attempt, producers in members.items():
            if attempt >= later or (origin is not None and attempt < origin.attempt):
                continue  # what led to that version stands, as far as its successor let it
            for p in producers:
                if not p.points:
                    continue
                if origin is None:
                    limits = _logged_again(p, later, again)
                else:
                    version = origin.of(_rank(p))
                    step = version.artifact.step if attempt == origin.attempt else None
                    time = version.time - state.offsets.get(p.id, 0)
                    limits = {None: Limit(later, step, time)}
                for key, limit in limits.items():
                    before = made.setdefault(p.id, {}).get(key, ())
                    if not any(_covers(old, limit) for old in before):
                        made[p.id][key] = (*before, limit)
    return made


def _members(state: RunState) -> _Members:
    found: _Members = {}
    for p in clients(state):
        if p.started is not None:
            found.setdefault(p.started.attempt, []).append(p)
    return found


def _rank(p: Producer) -> int:
    return p.started.rank if p.started is not None else 0


def _covers(old: Limit, new: Limit) -> bool:
    """Whether what lies beyond the new limit lies beyond the old one anyway."""
    if (old.step, old.time) == (new.step, new.time):
        return True
    return (
        old.time is new.time is None
        and old.step is not None
        and new.step is not None
        and old.step <= new.step
    )


# ------------------------------------------------------------------------------- versions


def _origins(state: RunState, members: _Members) -> dict[int, Origin]:
    found: dict[int, Origin] = {}
    numbers = sorted(members)
    for before, attempt in pairwise(numbers):
        start = min(_start(state, p) for p in members[attempt])
        versions = _last(_saved(state, members[before], start))
        if versions:
            found[attempt] = Origin(before, versions)
        elif before in found:
            found[attempt] = found[before]
    return found


def _start(state: RunState, p: Producer) -> int:
    assert p.started is not None
    first = p.started.time if p.first_time is None else min(p.first_time, p.started.time)
    return first + state.offsets.get(p.id, 0)


def _saved(state: RunState, producers: list[Producer], until: int) -> dict[int, list[Saved]]:
    """By rank, the versions saved before a moment, in order; as documents print times."""
    found: dict[int, list[Saved]] = {}
    for p in producers:
        numbers: set[int] = set()
        for a in p.artifacts:
            time = a.time + state.offsets.get(p.id, 0)
            usual = a.n not in numbers and a.kind in _VERSIONS and a.use == "generated"
            numbers.add(a.n)
            if usual and time // 1000 < until // 1000:
                found.setdefault(_rank(p), []).append(Saved(p, a, time))
    for versions in found.values():
        versions.sort(key=lambda v: (v.time, v.producer.id, v.artifact.n))
    return found


def _last(saved: Mapping[int, list[Saved]]) -> dict[int, Saved]:
    """Each rank's last version; the one before where a rank did not come to save the last."""
    lasts = {rank: versions[-1] for rank, versions in sorted(saved.items())}
    by_name: dict[str, list[int]] = {}
    for rank, version in lasts.items():
        by_name.setdefault(version.artifact.name, []).append(rank)
    for name, ranks in by_name.items():
        steps = {lasts[rank].artifact.step for rank in ranks}
        numbers = sorted(step for step in steps if step is not None)
        if len(steps) != 2 or len(numbers) != 2:
            continue
        low, high = numbers
        back = {
            rank: _before(saved[rank], name, high)
            for rank in ranks
            if lasts[rank].artifact.step == high
        }
        if all(v is not None and v.artifact.step == low for v in back.values()):
            lasts.update({rank: v for rank, v in back.items() if v is not None})
    return lasts


def _before(versions: list[Saved], name: str, step: int) -> Saved | None:
    """The last version of a model that was saved at another step than its last one."""
    earlier = (v for v in reversed(versions) if v.artifact.name == name)
    return next((v for v in earlier if v.artifact.step != step), None)


# ------------------------------------------------------------------------ without versions


def _first_steps(producers: list[Producer]) -> dict[tuple[int | None, Key], int]:
    """At which step an attempt began each series: by rank, and over all of them (None)."""
    found: dict[tuple[int | None, Key], int] = {}
    for p in producers:
        for s in p.series.values():
            if s.first_step is not None:
                key = (s.name, s.context, s.source)
                for place in (_rank(p), None):
                    known = found.get((place, key), s.first_step)
                    found[place, key] = min(known, s.first_step)
    return found


def _logged_again(
    p: Producer, later: int, again: Mapping[tuple[int | None, Key], int]
) -> dict[Key | None, Limit]:
    limits: dict[Key | None, Limit] = {}
    for s in p.series.values():
        key = (s.name, s.context, s.source)
        step = again.get((_rank(p), key), again.get((None, key)))
        if step is not None:
            limits[key] = Limit(later, step - 1)
    return limits
