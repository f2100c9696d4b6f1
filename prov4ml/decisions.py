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
from collections.abc import Callable

from prov4ml import wire
from prov4ml.eventlog import EventLog, Held
from prov4ml.events import CollectorEvent

__all__ = ["Decisions"]


class Decisions:
    """Of one collector on one run.  Every method may be called from any thread."""

    def __init__(self, log: EventLog, opening: Callable[[], CollectorEvent] | None = None) -> None:
        """``opening`` gives what is said first: who says nothing leaves no trace."""
        self.ended = False
        self.id = os.urandom(16)
        self._log = log
        self._opening = opening
        self._lock = threading.Lock()
        self._waiting: deque[CollectorEvent] = deque()
        self._next = 0  # sequence of the next one
        self._unsafe: deque[CollectorEvent] = deque()  # those before it that may be taken back

    def tell(self, event: CollectorEvent) -> None:
        """Say it, as soon as the log can take it; after the end it is passed over."""
        with self._lock:
            if not self.ended:
                self._open()
                self._waiting.append(event)
                with contextlib.suppress(OSError, Held):
                    self._append_waiting()

    def put(self, event: CollectorEvent) -> int:
        """It is in the log when this returns: its sequence.  Raises ``OSError``: not said."""
        with self._lock:
            self._open()
            self._append_waiting()
            return self._append(event)

    def end(self, event: CollectorEvent) -> None:
        """The last word on the run, with all that waits before it.  Raises ``OSError``.

        Who closes a run has left the log to these decisions before (``EventLog.leave_to``).
        """
        with self._lock:
            self._open()
            self._append_waiting()
            self._append(event)
            self.ended = True

    def catch_up(self) -> None:
        """Say and sync what waits, if anything does.  Raises ``OSError``."""
        with self._lock:
            if not self._waiting and not self._taken_back():
                return
            self._append_waiting()
        self._log.sync()

    def settle(self) -> None:
        """All that was said is in the log and synced.  Raises ``OSError``."""
        with self._lock:
            self._append_waiting()
        self._log.sync()

    def safe(self, sequence: int) -> bool:
        """Whether what was said with this sequence is synced."""
        return sequence < self._log.safe(self.id)

    def hush(self) -> None:
        """The log is about to be closed."""
        with self._lock:
            self.ended = True

    def _open(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            self._waiting.append(opening())

    def _taken_back(self) -> int:
        """How many of the last ones the log has no more."""
        return self._next - self._log.next.get(self.id, 0)

    def _append_waiting(self) -> None:
        for _ in range(self._taken_back()):
            self._waiting.appendleft(self._unsafe.pop())
            self._next -= 1
        while self._waiting:
            self._append(self._waiting[0])
            self._waiting.popleft()

    def _append(self, event: CollectorEvent) -> int:
        safe = self._log.safe(self.id)
        while len(self._unsafe) > self._next - safe:
            self._unsafe.popleft()
        batch = wire.array_header(1) + wire.encode(event)
        sequence = self._next
        self._log.append(self.id, sequence, 1, batch, after=sequence)
        self._unsafe.append(event)
        self._next += 1
        return sequence
