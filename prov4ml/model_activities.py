"""Activities of the user's own, epochs that are activities, and who made and used what.

An occurrence, a split, a parameter is made or used by the activity it was logged in, else by the
innermost epoch that is an activity, else by its context.  What another call logged can be claimed
by an activity later (``ev.Linked``): its use is one more, its generation stands for that by the
context, since an entity is generated once.  A claim that contradicts the times (the thing was
there before the activity) makes no statement.

An activity is part of the one around it, of the epoch or of the context; of the first of them
that lasted as long as it did itself (a task may outlive what started it).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from prov4ml import events as ev
from prov4ml.doings import Path, Span, Work
from prov4ml.ends import ended
from prov4ml.model_times import View
from prov4ml.producer import Producer
from prov4ml.provdm import Element, Name, Relation, Statement, Value

__all__ = ["Doer", "Doers", "Part", "activities", "epochs"]

Pair = tuple[str, Value]

_EPOCH: Final = ("prov:type", Name("p4:Epoch"))
_ACTIVITY: Final = ("prov:type", Name("p4:Activity"))


def epochs(seen: View) -> Iterator[Statement]:
    """Each epoch that is an activity, informed by the one before it in its context."""
    names = seen.names
    for attempt, found in seen.times.epochs.items():
        over = seen.times.attempts[attempt].end is not None
        before: tuple[Path, str] | None = None
        for (path, number), span in found.items():
            id = names.epoch(attempt, path, number)
            left = over or not any(
                p.key[0] == attempt and p.doings.epochs.holds(path, number) for p in seen.clients
            )
            facts: list[Pair] = [_EPOCH, ("prov:label", f"epoch {number}"), ("p4:epoch", number)]
            facts.append(("dcterms:isPartOf", Name(names.context(attempt, path))))
            yield Element("activity", id, tuple(facts), span.first, span.last if left else None)
            if before is not None and before[0] == path:
                yield Relation("wasInformedBy", (id, before[1]))
            before = path, id


def activities(seen: View) -> Iterator[Statement]:
    """Each activity, done by the process that opened it."""
    for p in seen.clients:
        agent = f"{seen.names.process(p)}/agent"
        gone = seen.times.processes[p.id].end is not None
        for n, work in sorted(p.doings.works.items()):
            id = seen.names.activity(p, n)
            facts: list[Pair] = [_ACTIVITY, ("prov:label", work.name)]
            facts.append(("dcterms:isPartOf", Name(_whole(seen, p, n, work))))
            facts += _ending(seen, p, work)
            end = seen.times.at(p, work.last) if work.ended is not None or gone else None
            yield Element("activity", id, tuple(facts), seen.times.at(p, work.first), end)
            yield Relation("wasAssociatedWith", (id, agent, None))


def _whole(seen: View, p: Producer, n: int, work: Work) -> str:
    """What an activity is part of."""
    attempt = p.key[0]
    parent = p.doings.works.get(work.parent) if work.parent < n else None
    if parent is not None and parent.first <= work.first and work.last <= parent.last:
        return seen.names.activity(p, work.parent)
    if work.epoch is not None:
        span = seen.times.epochs[attempt][work.epoch]
        first, last = seen.times.at(p, work.first), seen.times.at(p, work.last)
        if span.first <= first and last <= span.last:
            return seen.names.epoch(attempt, *work.epoch)
    return seen.names.context(attempt, work.context)


def _ending(seen: View, p: Producer, work: Work) -> list[Pair]:
    """Its status; one that nobody ended came to the end of its process."""
    end = work.ended
    if end is None:
        status = ended(seen.state, p).status
        return [("p4:status", "unfinished" if status == "finished" else status)]
    facts: list[Pair] = [("p4:status", end.status)]
    if end.error_type is not None:
        facts.append(("p4:errorType", end.error_type))
    if end.error_message is not None:
        facts.append(("p4:errorMessage", end.error_message))
    return facts


# ------------------------------------------------------------------------ who did what


class Doer(NamedTuple):
    """An activity that makes and uses things, and when it was at work (the collector's clock)."""

    id: str
    context: Path  # that it stands in
    span: Span
    own: bool = False  # the user's own: what it made, nobody else can claim


class Part(NamedTuple):
    """What was done with an occurrence."""

    doer: Doer  # in which it was logged, or who claimed to have made it
    maker: str | None
    users: dict[str, int | None]  # and when (ns); None: that is not known


class Doers:
    """Who did what one process logged."""

    def __init__(self, seen: View, p: Producer) -> None:
        self._seen = seen
        self._p = p
        self._attempt = p.key[0]
        self._contexts: dict[Path, Doer] = {}
        self._links: dict[int, list[tuple[int, ev.Linked]]] = {}
        for place, link in enumerate(p.doings.links, 1):
            self._links.setdefault(link.n, []).append((place, link))

    def of(self, what: str, number: int, activity: int, path: Path, time: int) -> Doer:
        """Of something logged at ``time`` (the process's own clock); see ``Doings.did``."""
        doings = self._p.doings
        if activity:
            found = self._own(activity, time)
            if found is not None:
                return found
        elif doings.within:
            done = doings.within.get((what, number))
            if done is not None:
                id = self._seen.names.epoch(self._attempt, *done)
                return Doer(id, done[0], self._seen.times.epochs[self._attempt][done])
        return self._context(path)

    def part(self, a: ev.Artifact) -> Part:
        """What was done with an occurrence, all claims weighed."""
        at = self._seen.times.at(self._p, a.time)
        doer = self.of("artifact", a.n, a.activity, tuple(a.context), a.time)
        maker = doer.id if a.use == "generated" else None
        users: dict[str, int | None] = {doer.id: at} if a.use == "used" else {}
        links = self._links.get(a.n, ())
        for place, link in links:
            if link.use == "generated" and not (maker is not None and doer.own):
                claimant = self._claimant(place, link, a.time)
                if claimant is not None and claimant.span.first <= at <= claimant.span.last:
                    users.pop(claimant.id, None)  # it was logged as used because data mostly is
                    doer, maker = claimant, claimant.id
                    break
        for place, link in links:
            if link.use == "used":
                user = self.of("link", place, link.activity, tuple(link.context), link.time)
                when = self._seen.times.at(self._p, link.time)
                if maker is None or at <= when:
                    users.setdefault(user.id, when)
                elif at <= user.span.last:
                    users.setdefault(user.id, None)
        return Part(doer, maker, users)

    def _claimant(self, place: int, link: ev.Linked, time: int) -> Doer | None:
        if link.activity:
            return self._own(link.activity, time)
        return self.of("link", place, 0, tuple(link.context), link.time)

    def _own(self, activity: int, time: int) -> Doer | None:
        """The activity of that number, if it was at work at that time."""
        work = self._p.doings.works.get(activity)
        if work is None or not work.first <= time <= work.last:
            return None
        at = self._seen.times.at
        span = Span(at(self._p, work.first), at(self._p, work.last))
        return Doer(self._seen.names.activity(self._p, activity), work.context, span, True)

    def _context(self, path: Path) -> Doer:
        found = self._contexts.get(path)
        if found is None:
            times, attempt = self._seen.times, self._attempt
            whole = times.attempts[attempt]
            span = times.contexts[attempt].get(path) or Span(whole.start, whole.end or whole.last)
            found = Doer(self._seen.names.context(attempt, path), path, span)
            self._contexts[path] = found
        return found
