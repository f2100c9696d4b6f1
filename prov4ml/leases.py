"""Leases: a process of another host is believed to live as long as it gives signs of life.

Of this host a pid decides, never a lease.  Silence counts only while we listen: what passes
between two looks that lie far apart (we were stopped, the machine slept, a disk held us up)
ends no lease.  A lost lease says that a process cannot be seen, not that it has ended, and any
sign of life gives it back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["LEASE", "Leases"]

LEASE: Final = 60.0
"""Seconds of silence after which a process cannot be said to live."""

_AWAKE: Final = 2.0  # s at most that count between two looks; there is one a second


class Leases:
    """Who was heard of within a lease.  ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float], length: float = LEASE) -> None:
        self.length = length
        self.awake = 0.0
        """Seconds that we have listened so far: a clock that stands still while we do not."""
        self._clock = clock
        self._looked = clock()
        self._heard: dict[bytes, float] = {}

    def look(self) -> None:
        """Let the time pass since the last look; once a second or so."""
        now = self._clock()
        self.awake += min(now - self._looked, _AWAKE)
        self._looked = now

    def hear(self, producer: bytes) -> None:
        """It gave a sign of life."""
        self._heard[producer] = self.awake

    def holds(self, producer: bytes) -> bool:
        """Whether it was heard of within a lease; not when it never was."""
        heard = self._heard.get(producer)
        return heard is not None and self.awake - heard <= self.length

    def forget(self, producer: bytes) -> None:
        self._heard.pop(producer, None)
