"""What a process has logged lately, by number, name and path: so that it can be named again.

Bounded: of the last ``MOST`` occurrences.  A path means the file as it was: one that was written
since is another thing.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from prov4ml import events as ev

__all__ = ["MOST", "Known", "Ledger"]

MOST: Final = 4096


class Known(msgspec.Struct, frozen=True):
    """An occurrence."""

    n: int
    name: str
    path: str | None  # absolute
    size: int | None
    mtime: int | None  # ns
    time: int  # when it was logged, ns
    maker: int  # the activity that generated it; 0: a context, or nothing did


class Ledger:
    """Called from any thread; each step is one operation on a dict."""

    def __init__(self) -> None:
        self._numbers: dict[int, Known] = {}
        self._names: dict[str, int] = {}
        self._paths: dict[str, int] = {}
        self.highest = 0

    def add(self, a: ev.Artifact) -> None:
        path = None if a.location is None else os.path.abspath(a.location)
        maker = a.activity if a.use == "generated" else 0
        known = Known(a.n, a.name, path, a.size, a.mtime, a.time, maker)
        self._numbers[a.n] = known
        self.highest = max(self.highest, a.n)
        self._names[a.name] = a.n
        if path is not None:
            self._paths[path] = a.n
        while len(self._numbers) > MOST:
            self._forget()

    def claim(self, known: Known, activity: int) -> None:
        """An activity has said that it generated it."""
        self._numbers[known.n] = msgspec.structs.replace(known, maker=activity)

    def _forget(self) -> None:
        oldest = next(iter(list(self._numbers.values())[:1]), None)
        if oldest is None:
            return
        self._numbers.pop(oldest.n, None)
        if self._names.get(oldest.name) == oldest.n:
            self._names.pop(oldest.name, None)
        if oldest.path is not None and self._paths.get(oldest.path) == oldest.n:
            self._paths.pop(oldest.path, None)

    def numbered(self, n: int) -> Known | None:
        return self._numbers.get(n)

    def named(self, name: str) -> Known | None:
        """The last one of that name."""
        return self._numbers.get(self._names.get(name, 0))

    def file(self, path: str | os.PathLike[str]) -> Known | None:
        """What was logged of a file, if it is the same still."""
        known = self._numbers.get(self._paths.get(os.path.abspath(path), 0))
        if known is None:
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        same = (status.st_size, status.st_mtime_ns) == (known.size, known.mtime)
        return known if same else None
