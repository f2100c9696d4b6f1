"""A stream sink at work: its own thread, its own cursor into the event log.

Nothing is queued for it; a slow one lags, one that raises is told once and stops nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import structs

from prov4ml import events as ev
from prov4ml import sink, wire
from prov4ml.doings import IN_EPOCHS, Epochs
from prov4ml.eventlog import EventLog, Frame, Held, Reader
from prov4ml.talk import log

__all__ = ["Chunks", "Feed"]

_FLUSH: Final = 1.0  # s


class Chunks:
    """Frames to chunks: knows every producer's rank, series and epochs, cuts overlaps."""

    def __init__(self) -> None:
        self._who: dict[bytes, tuple[int, int]] = {}
        self._series: dict[bytes, dict[int, sink.SeriesKey]] = {}
        self._epochs: dict[bytes, Epochs] = {}
        self._next: dict[bytes, int] = {}

    def take(self, frame: Frame) -> sink.Chunk | None:
        """The chunk of a frame; None for a series table, or when everything in it was seen."""
        series = self._series.setdefault(frame.producer, {})
        if not frame.count:
            for definition in wire.decode_table(frame.batch):
                self._define(series, definition)
            return None
        reached = self._next.get(frame.producer, 0)
        first = max(frame.first, reached)
        self._next[frame.producer] = max(first, frame.first + frame.count)
        decoded = wire.decode_batch(frame.batch, frame.count)[first - frame.first :]
        if not decoded:
            return None
        epochs = self._epochs.setdefault(frame.producer, Epochs())
        if first > reached:
            epochs.gap(decoded)
        events = tuple(event for event in decoded if not isinstance(event, str))
        turns = bool(epochs)
        for event in events:
            if type(event) is ev.Point:
                continue
            if type(event) is ev.SeriesDefined:
                self._define(series, event)
            elif type(event) is ev.Started:
                self._who[frame.producer] = (event.rank, event.attempt)
            elif type(event) is ev.EpochStarted:
                turns = True
        if not events:
            return None
        if turns:
            events = tuple(_placed(events, epochs, series))
        rank, attempt = self._who.get(frame.producer, (0, 0))
        return sink.Chunk(
            frame.producer, rank, attempt, frame.number, first, events, MappingProxyType(series)
        )

    @staticmethod
    def _define(series: dict[int, sink.SeriesKey], d: ev.SeriesDefined) -> None:
        series.setdefault(d.series, sink.SeriesKey(d.name, tuple(d.context), d.source))


def _placed(
    events: tuple[ev.Event, ...], epochs: Epochs, series: Mapping[int, sink.SeriesKey]
) -> Iterator[ev.Event]:
    """The events, and each point and occurrence in an epoch says so."""
    known: dict[int, int | None] = {}  # the epoch of a series' points, until the next turn
    for event in events:
        if type(event) is ev.Point:
            number = event.series
            if number not in known:
                key = series.get(number)
                around = None if key is None else epochs.around(key.context)
                known[number] = None if around is None else around.number
            epoch = known[number]
            if epoch is not None and event.epoch is None:
                event = ev.Point(number, event.time, event.value, event.step, epoch, event.logged)
        elif type(event) is ev.EpochStarted:
            epochs.start(event)
            known.clear()
        elif type(event) is ev.EpochEnded:
            epochs.end(event)
            known.clear()
        elif type(event) is ev.Artifact and event.epoch is None and event.kind in IN_EPOCHS:
            around = epochs.around(tuple(event.context))
            if around is not None:
                event = structs.replace(event, epoch=around.number)
        yield event


class Feed:
    """Runs one stream sink from its cursor to the end of the run."""

    def __init__(
        self,
        name: str,
        target: sink.Target,
        options: Mapping[str, Any],
        log: EventLog,
        emit: Callable[[ev.CollectorEvent], object],
    ) -> None:
        self.name = name
        self.done = threading.Event()
        self.position = 0  # the frame it has come to
        self._target = target
        self._options = options
        self._log = log
        self._emit = emit
        self._last: int | None = None  # the frame to stop before
        self._more = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"prov4ml-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """There is more in the log."""
        self._more.set()

    def finish(self) -> None:
        """Take what is in the log now, then close."""
        self._last = self._log.synced
        self._more.set()

    def give_up(self) -> None:
        """Nobody waits for it any more, and nothing it says is heard."""
        self._emit = lambda _: None

    def _run(self) -> None:
        try:
            self._serve()
        except Held:  # it was told that nobody waits for it any more
            log.warning("sink %s: finished when the run was closed", self.name)
        except Exception as error:  # a sink may raise anything
            text = f"{type(error).__name__}: {error}"
            log.warning("sink %s: %s", self.name, text)
            try:
                self._emit(ev.SinkFailed(time.time_ns(), self.name, text))
            except (OSError, Held) as full:
                log.warning("sink %s: nor can that be recorded: %s", self.name, full)
        finally:
            self.done.set()

    def _serve(self) -> None:
        kind = sink.load(self.name)
        made: sink.StreamSink = kind(self._target, self._options)
        reader = Reader(self._log.directory)
        chunks = Chunks()
        cursor = self._target.frame
        flushed = time.monotonic()
        try:
            while True:
                last = self._last
                for frame in reader.read(self._log.synced if last is None else last):
                    self.position = frame.number
                    chunk = chunks.take(frame)
                    if chunk is not None and frame.number >= self._target.frame:
                        made.write(chunk)
                    if time.monotonic() - flushed > _FLUSH:
                        flushed = time.monotonic()
                        cursor = self._flush(made, cursor)
                if last is not None:
                    break
                self._more.wait(_FLUSH)
                self._more.clear()
                if time.monotonic() - flushed > _FLUSH:
                    flushed = time.monotonic()
                    cursor = self._flush(made, cursor)
        finally:
            reader.close()
            outputs = made.close()
        for output in outputs:
            self._emit(
                ev.OutputSealed(
                    time.time_ns(),
                    self.name,
                    output.path,
                    output.sha256,
                    output.size,
                    output.rows,
                )
            )
        self._emit(ev.SinkCursor(time.time_ns(), self.name, reader.number))

    def _flush(self, made: sink.StreamSink, cursor: int) -> int:
        safe = made.flush()
        if safe > cursor:
            self._emit(ev.SinkCursor(time.time_ns(), self.name, safe))
            return safe
        return cursor
