"""A run on one screen: ``picture(state)`` chooses what a reader should see first.

Three lanes, time from left to right: what the run used, what happened, what came of it; the
person on top.  A pure function of the fold, so the same log gives the same picture.  Bounded
whatever the run's size: ranks are one box, parameters one node, series one box per context;
what has no place is counted in the remark and stands in the PROV documents.

It claims nothing that the state does not say: no "best" without a metric that tells it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final
from urllib.parse import unquote

from prov4ml import delivery, ends, participants
from prov4ml import overview_words as words
from prov4ml.doings import Path
from prov4ml.model import statements
from prov4ml.model_times import view
from prov4ml.overview_facts import MORE, Facts, box_key, path_text
from prov4ml.overview_inputs import inputs
from prov4ml.overview_outputs import outputs
from prov4ml.picture import Arrow, Box, Picture
from prov4ml.provdm import Element, iso
from prov4ml.state import RunState

__all__ = ["picture"]

_TONES: Final = {"finished": "good", "running": "busy"}
_UNSAID: Final = {
    "died": "vanished, nobody saw why",
    "unreachable": "cannot be reached and may still live",
}
_FILES: Final = {"provjson": "prov.json", "provn": "prov.provn", "turtle": "prov.ttl"}


def picture(state: RunState) -> Picture:
    """What to draw of a run.  Deterministic; never raises for any state."""
    seen = view(state)
    if seen is None:
        return _nothing(state)
    facts = Facts(seen)
    left, arrows = inputs(facts)
    right, more = outputs(facts)
    agent = _agent(facts)
    middle = _activities(facts)
    if agent is not None:
        arrows.insert(0, Arrow("run", agent.key, "associated with"))
    return Picture(
        title=unquote(facts.started.name) or facts.started.experiment,  # as people wrote it
        subtitle=_subtitle(facts),
        agent=agent,
        inputs=tuple(left),
        activities=tuple(middle),
        outputs=tuple(right),
        arrows=tuple(arrows + more),
        remark=_remark(facts),
        tone=_tone(ends.run_status(state).status),
    )


def _tone(status: str) -> str:
    return _TONES.get(status, "bad")


def _nothing(state: RunState) -> Picture:
    name = next(
        (o.directory.rstrip("/").rpartition("/")[2] for o in state.opened.values() if o.directory),
        "a run",
    )
    run = Box(key="run", shape="activity", title="run", lines=("no event of it has arrived yet",))
    return Picture(name, "nothing is known of this run yet", None, (), (run,), (), ())


# -------------------------------------------------------------------------- first words


def _world(facts: Facts) -> int:
    """How many ranks the last attempt should have."""
    started = [p.started for p in facts.clients if p.started is not None]
    return max(s.world_size for s in started if s.attempt == facts.attempt)


def _subtitle(facts: Facts) -> str:
    state = facts.state
    status = ends.run_status(state).status
    sent = sum(delivery.sent(state, p) for p in facts.clients)
    received = sum(p.received for p in facts.clients)
    rejected = sum(sum(p.rejected.values()) for p in facts.clients)
    account = f"{sent:,} events sent, {received:,} received, {sent - received:,} lost"
    if rejected:
        account += f", {rejected:,} rejected"
    so_far = " so far" if status == "running" else ""
    parts = [status, words.duration(facts.end - facts.start) + so_far]
    parts += [words.many(_world(facts), "rank"), account]
    return " · ".join(parts)


def _remark(facts: Facts) -> str:
    """How many of the elements that the documents hold stand in the picture, and where all do."""
    drawn = total = 0
    for statement in statements(facts.state):
        if isinstance(statement, Element):
            total += 1
            drawn += statement.id in facts.drawn
    told = f"drawn: {drawn:,} of {total:,} nodes"
    files: dict[str, None] = {}
    for _, opened in sorted(facts.state.opened.items()):
        for sink, name in _FILES.items():
            if sink in opened.sinks:
                files[str(opened.options.get(sink, {}).get("path", name))] = None
    return f"{told} · all of them: {', '.join(files)}" if drawn < total and files else told


def _agent(facts: Facts) -> Box | None:
    user = next((p.started.user for p in facts.ranks if p.started and p.started.user), None)
    if user is None:
        return None
    iri = facts.draw(facts.names.person(user))
    return Box(key="agent", shape="agent", title=user, tooltip=f"person: {user}", iri=iri)


# ---------------------------------------------------------------------------- activities


def _activities(facts: Facts) -> list[Box]:
    boxes = [_run(facts)]
    for key, path in facts.homes()[1:]:
        boxes.append(_context(facts, path) if key != MORE else _more(facts))
    return boxes


def _run(facts: Facts) -> Box:
    state = facts.state
    end = ends.run_status(state)
    world = _world(facts)
    facts.drawn.add(facts.names.run)
    lines = []
    command = next((p.command for p in facts.ranks if p.command is not None), None)
    if command is not None:
        lines.append(words.clip(" ".join(command.argv), 80))
        facts.drawn.add(facts.names.command)
    lines.append(f"{iso(facts.start)[:19].replace('T', ' ')} UTC")
    members = list(participants.ranks(state, facts.attempt))
    tally = Counter(ends.ended(state, p).status for p in members)
    told = [f"{count:,} {status}" for status, count in sorted(tally.items())]
    if len(members) < world:
        told.append(f"{world - len(members):,} not seen")
    if world > 1 or len(members) != 1:
        lines.append("ranks: " + ", ".join(told))
    numbers = participants.attempts(state)
    if len(numbers) > 1:
        outcome = [ends.attempt_status(state, number).status for number in numbers]
        before = ", ".join(outcome[:-1]) if len(numbers) <= 4 else f"the last one {outcome[-2]}"
        lines.append(f"attempt {len(numbers)} of {len(numbers)}, after {before}")
        facts.drawn.update(facts.names.attempt(n) for n in numbers if len(numbers) <= 4)
    if not any(p.series or p.params or p.artifacts for p in facts.clients):
        lines.append("nothing was logged" if end.status != "running" else "nothing logged yet")
    alert = ""
    if end.error_type or end.error_message:
        alert = ": ".join(part for part in (end.error_type, end.error_message) if part)
    elif end.status in _UNSAID:
        gone = [p.key[1] for p in members if ends.ended(state, p).status == end.status]
        who = f"rank {gone[0]}" if len(gone) == 1 else words.many(len(gone), "rank")
        alert = f"{who} {_UNSAID[end.status]}"
    found = [(facts.time(p, tag.time), p.key, tag) for p in facts.clients for tag in p.tags]
    tags = {tag.key: tag.value for _, _, tag in sorted(found, key=lambda item: item[:2])}
    return Box(
        key="run",
        shape="activity",
        title=f"run ×{world:,} ranks" if world > 1 else "run",
        note=end.status,
        tone=_tone(end.status),
        lines=tuple(lines),
        alert=alert,
        iri=facts.iri(facts.names.run),
        tooltip=words.tooltip(
            [
                f"run {facts.started.run} of {facts.started.experiment}",
                f"command: {' '.join(command.argv)}" if command else "",
                f"in {command.directory}" if command and command.directory else "",
                f"status {end.status}, known by {end.known}",
                alert,
                *(f"tag {key}: {value}" for key, value in sorted(tags.items())),
            ]
        ),
    )


def _context(facts: Facts, path: Path) -> Box:
    first, last = facts.contexts[path]
    lines = [_work(facts, path)]
    hidden = facts.hidden[path]
    if hidden:
        told, _ = words.pack([inner[-1] for inner in hidden], 1, 32)
        lines.append(f"inside: {told[0]}")
    return Box(
        key=box_key(path),
        shape="activity",
        title=path[-1],
        note=words.duration(last - first),
        lines=tuple(line for line in lines if line),
        tooltip=words.tooltip(
            [
                path_text(path),
                f"from {iso(first)} to {iso(last)}",
                *(f"inside: {path_text(inner)}" for inner in hidden),
            ]
        ),
        iri=facts.draw(facts.context(path)),
        inside=box_key(path[:-1]),
        span=facts.span(first, last),
    )


def _work(facts: Facts, path: Path) -> str:
    """``20 epochs · 900 steps``, as far as the points say."""
    series = [s for p in facts.clients for s in p.series.values() if s.count and s.context == path]
    steps = [s.last_step for s in series if s.last_step is not None]
    lows = [s.first_step for s in series if s.first_step is not None]
    parts = []
    if steps and max(steps) > min(lows):
        parts.append(f"steps {min(lows):,} to {max(steps):,}")
    ranks = {p.started.rank for p in facts.clients if p.started and path in p.contexts}
    if _world(facts) > 1:
        parts.append("rank " + str(min(ranks)) if len(ranks) == 1 else f"×{len(ranks):,} ranks")
    return " · ".join(parts)


def _more(facts: Facts) -> Box:
    hidden = facts.hidden[()]
    lines, shown = words.pack([path[-1] for path in hidden], 2, 36)
    facts.drawn.update(facts.context(path) for path in hidden[:shown])
    first = min(facts.contexts[path][0] for path in hidden)
    last = max(facts.contexts[path][1] for path in hidden)
    return Box(
        key=MORE,
        shape="activity",
        title=words.many(len(hidden), "more context"),
        lines=tuple(lines),
        tooltip=words.tooltip(path_text(path) for path in hidden),
        inside="run",
        span=facts.span(first, last),
    )
