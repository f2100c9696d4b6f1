"""A stream sink at work: its own thread, its own cursor into the event log.

Nothing is queued for it; a slow one lags, one that raises is told once and stops nobody.  What
may pass (an ``OSError``: a full disk, a lost connection) is tried again, by another instance that
goes on from the cursor; anything else ends the sink.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import structs

from prov4ml import events as ev
from prov4ml import sink, wire
from prov4ml.doings import IN_EPOCHS, Epochs
from prov4ml.errors import no_room
from prov4ml.eventlog import EventLog, Frame, Reader
from prov4ml.talk import log

__all__ = ["Chunks", "Feed"]

_FLUSH: Final = 1.0  # s
_PAUSE: Final = 60.0  # s at most until a sink is tried again


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
    """Runs one stream sink from its cursor to the end of the run.

    ``tell`` takes what it has to say for the event log; it never raises.  ``done``: no more will
    come.  ``starved`` says what for, as long as the sink only waits for room on a disk.
    """

    def __init__(
        self,
        name: str,
        target: sink.Target,
        options: Mapping[str, Any],
        log: EventLog,
        tell: Callable[[ev.CollectorEvent], None],
    ) -> None:
        self.name = name
        self.done = threading.Event()
        self.position = 0  # the frame it has come to
        self.starved: str | None = None
        self._target = target
        self._options = options
        self._log = log
        self._tell = tell
        self._cursor = target.frame
        self._told: tuple[str, int] | None = None  # the last failure, and where it was
        self._last: int | None = None  # the frame to stop before
        self._stopped = False
        self._more = threading.Event()
        self._again = threading.Event()  # ends a pause
        self._thread = threading.Thread(target=self._run, name=f"prov4ml-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """There is more in the log."""
        self._more.set()

    def finish(self) -> None:
        """Take what is in the log now, then close; whoever waits for room tries once more."""
        if self._last is None:
            self._last = self._log.synced
        self.starved = None
        self._more.set()
        self._again.set()

    def stop(self) -> None:
        """No more tries."""
        self._stopped = True
        self._again.set()

    def fail(self, text: str) -> None:
        """Say that the sink has failed; the same again only when it had got further meanwhile."""
        if self._told != (text, self._cursor):
            self._told = (text, self._cursor)
            log.warning("%s: sink %s: %s", self._target.directory.name, self.name, text)
            self._tell(ev.SinkFailed(time.time_ns(), self.name, text))

    def _run(self) -> None:
        pause = 0.5
        try:
            while True:
                began = time.monotonic()
                self._again.clear()
                try:
                    self._serve()
                    return
                except BaseException as error:  # a sink may raise anything, SystemExit too
                    self.fail(f"{type(error).__name__}: {error}")
                    ending = self._last is not None
                    again = no_room(error) if ending else isinstance(error, OSError)
                    if not again or self._stopped:
                        return
                    self.starved = str(error) if no_room(error) else None
                self._again.wait(_PAUSE if ending else pause)
                # A try reads the log from its start: one that took long is not made often.
                pause = min(_PAUSE, max(2 * pause, time.monotonic() - began))
        finally:
            self.starved = None
            self.done.set()

    def _serve(self) -> None:
        kind = sink.load(self.name)
        made: sink.StreamSink = kind(
            structs.replace(self._target, frame=self._cursor), self._options
        )
        reader = Reader(self._log.directory)
        try:
            self._follow(made, reader)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what is told
                made.close()
            raise
        finally:
            reader.close()
        outputs = made.close()
        for o in outputs:
            self._tell(ev.OutputSealed(time.time_ns(), self.name, o.path, o.sha256, o.size, o.rows))
        self._tell(ev.SinkCursor(time.time_ns(), self.name, reader.number))

    def _follow(self, made: sink.StreamSink, reader: Reader) -> None:
        """Give the sink the log from the cursor on, until ``finish`` says where to stop."""
        chunks = Chunks()
        start = self._cursor
        flushed = time.monotonic()
        while True:
            last = self._last
            for frame in reader.read(self._log.synced if last is None else last):
                self.position = frame.number
                chunk = chunks.take(frame)
                if chunk is not None and frame.number >= start:
                    made.write(chunk)
                if time.monotonic() - flushed > _FLUSH:
                    flushed = time.monotonic()
                    self._flush(made)
            if last is not None:
                return
            self._more.wait(_FLUSH)
            self._more.clear()
            if time.monotonic() - flushed > _FLUSH:
                flushed = time.monotonic()
                self._flush(made)

    def _flush(self, made: sink.StreamSink) -> None:
        safe = made.flush()
        self.starved = None
        if safe > self._cursor:
            self._cursor = safe
            self._tell(ev.SinkCursor(time.time_ns(), self.name, safe))
