"""An event log read again from its start: the state that it comes to, and outputs made of that.

What a run has come to is folded from its log alone, in one pass; what later attempts left behind
is counted apart in a second one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from prov4ml import delivery, documents, participants, resumption, sink, wire
from prov4ml.errors import UsageError
from prov4ml.eventlog import Frame, Reader
from prov4ml.feed import Chunks
from prov4ml.producer import Producer
from prov4ml.series import Cut
from prov4ml.state import RunState, apply, define, recut

__all__ = ["Cuts", "fold", "standing", "take", "write"]


def take(of: RunState, frame: Frame) -> bool:
    """Fold one frame; whether it said anything but points."""
    if not frame.count:
        define(of, frame.producer, wire.decode_table(frame.batch))
        return False
    p = of.producers.get(frame.producer)
    before = p.received - p.points if p is not None else 0
    apply(of, frame.producer, frame.first, wire.decode_batch(frame.batch, frame.count))
    p = of.producers[frame.producer]
    return p.received - p.points > before


def fold(directory: Path) -> RunState:
    """The state of a run directory's whole event log.  Raises ``UsageError`` without one."""
    if not (directory / "events").is_dir():
        raise UsageError(f"{directory} has no event log (events/): is it a run directory?")
    found = RunState()
    with contextlib.closing(Reader(directory / "events")) as reader:
        for frame in reader:
            take(found, frame)
    return standing(found, directory / "events", None, {})


Cuts = dict[bytes, tuple[Cut, int, Producer]]
"""Producers as the second pass left them, with their limits and the sequence they had reached."""


def standing(of: RunState, events: Path, frames: int | None, known: Cuts) -> RunState:
    """The state with what later attempts left behind counted apart.

    A second pass over the log (its first ``frames`` frames, those that ``of`` has), of the
    producers that are cut; none for a run of one attempt.  ``known`` holds what earlier calls
    found and is brought up to date.
    """
    cuts = resumption.cuts(of)
    if not cuts:
        return of
    again = recut(of, cuts)
    for id, (cut, reached, producer) in list(known.items()):
        if cuts.get(id) == cut and of.producers[id].next == reached:
            again.producers[id] = producer
    missing = cuts.keys() - again.producers.keys()
    if missing:
        reader = Reader(events)
        for frame in reader.read(frames):
            if frame.producer in missing:
                take(again, frame)
        reader.close()
    known.clear()
    known.update(
        {id: (cut, of.producers[id].next, again.producers[id]) for id, cut in cuts.items()}
    )
    return again


def write(directory: Path, names: Iterable[str]) -> list[Path]:
    """Write outputs again from the event log; the same bytes for the same log and options.

    Document sinks write their document; a stream sink gets the whole log from frame 0.
    Raises ``UsageError``, and what the sink raises.
    """
    of = fold(directory)
    _, options = delivery.sinks(of)
    shown = documents.document(of)
    paths: list[Path] = []
    for name in names:
        kind = sink.load(name)
        if not sink.is_stream(kind):
            paths.append(documents.render(shown, name, options.get(name, {}), directory)[0])
            continue
        paths += _replay_stream(directory, of, name, kind, options.get(name, {}))
    return paths


def _replay_stream(
    directory: Path,
    of: RunState,
    name: str,
    kind: sink.SinkType,
    options: dict[str, object],
) -> list[Path]:
    first = next(participants.ranks(of), None)
    if first is None or first.started is None:
        return []
    target = sink.Target(directory, first.started.run, first.started.experiment)
    made: sink.StreamSink = kind(target, options)
    chunks = Chunks()
    try:
        with contextlib.closing(Reader(directory / "events")) as reader:
            for frame in reader:
                chunk = chunks.take(frame)
                if chunk is not None:
                    made.write(chunk)
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what is told
            made.close()
        raise
    return [directory / output.path for output in made.close()]
