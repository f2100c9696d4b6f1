"""What a collector decided, told to the event log as a producer of its own.

Nothing decided is lost to a full disk: what the log cannot take now waits here, in order, and
what it took back after a failed sync is told again.  After ``end`` nobody else has a word: the
documents are made from the log as it stands then.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

from prov4ml import wire
from prov4ml.eventlog import EventLog, Held
from prov4ml.events import CollectorEvent

__all__ = ["Decisions"]


class Decisions:
    """Of one collector on one run.  Every method may be called from any thread."""

    def __init__(self, log: EventLog) -> None:
        self.ended = False
        self._log = log
        self.id = os.urandom(16)
        self._lock = threading.Lock()
        self._waiting: deque[CollectorEvent] = deque()
        self._unsafe: deque[tuple[int, CollectorEvent]] = deque()  # by frame, until it is synced
        self._taken_back = log.taken_back

    def tell(self, event: CollectorEvent) -> None:
        """Say it, as soon as the log can take it; after the end it is passed over."""
        with self._lock:
            if not self.ended:
                self._waiting.append(event)
                with contextlib.suppress(OSError, Held):
                    self._append_waiting()

    def put(self, event: CollectorEvent) -> None:
        """It is in the log when this returns.  Raises ``OSError``: then it was not said."""
        with self._lock:
            self._append_waiting()
            self._append(event)

    def end(self, event: CollectorEvent) -> None:
        """The last word on the run, with all that waits before it.  Raises ``OSError``."""
        with self._lock:
            self._append_waiting()
            self.ended = True
            try:
                self._append(event)
            except BaseException:
                self.ended = False
                raise

    def settle(self) -> None:
        """All that was said is in the log and synced.  Raises ``OSError``."""
        with self._lock:
            self._append_waiting()
        self._log.sync()

    def hush(self) -> None:
        """The log is about to be closed."""
        with self._lock:
            self.ended = True

    def _append_waiting(self) -> None:
        if self._log.taken_back != self._taken_back:
            self._taken_back = self._log.taken_back
            gone = [event for frame, event in self._unsafe if frame >= self._log.synced]
            self._waiting.extendleft(reversed(gone))
            self._unsafe.clear()
        while self._waiting:
            self._append(self._waiting[0])
            self._waiting.popleft()

    def _append(self, event: CollectorEvent) -> None:
        while self._unsafe and self._unsafe[0][0] < self._log.synced:
            self._unsafe.popleft()
        batch = wire.array_header(1) + wire.encode(event)
        first = self._log.next.get(self.id, 0)
        frame = self._log.append(self.id, first, 1, batch, last=self.ended)
        self._unsafe.append((frame, event))
