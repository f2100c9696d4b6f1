"""What a process has logged lately, by number and by file: so that it can be named again.

Bounded: of the last ``MOST`` occurrences.  A file means the file as it was: one that was written
since is another thing, and so is a folder of which a file was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
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
    folder: int  # that it was logged as a part of
    files: int | None  # of a folder: how many it had


class Ledger:
    """Called from any thread; each step is one operation on a dict."""

    def __init__(self) -> None:
        self._numbers: dict[int, Known] = {}
        self._paths: dict[str, int] = {}
        self.highest = 0

    def add(self, a: ev.Artifact) -> None:
        path = None if a.location is None else os.path.abspath(a.location)
        maker = a.activity if a.use == "generated" else 0
        count = a.attributes.get("files")
        files = count if isinstance(count, int) and a.mtime is None else None
        self._numbers[a.n] = Known(
            a.n, a.name, path, a.size, a.mtime, a.time, maker, a.folder, files
        )
        self.highest = max(self.highest, a.n)
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
        if oldest.path is not None and self._paths.get(oldest.path) == oldest.n:
            self._paths.pop(oldest.path, None)

    def numbered(self, n: int) -> Known | None:
        return self._numbers.get(n)

    def at(self, path: str | os.PathLike[str]) -> Known | None:
        """What was logged last of that path, whatever has become of it."""
        return self._numbers.get(self._paths.get(os.path.abspath(path), 0))

    def file(self, path: str | os.PathLike[str], status: os.stat_result) -> Known | None:
        """What was logged of a file, if it is the same still."""
        known = self.at(path)
        same = known is not None and (status.st_size, status.st_mtime_ns) == (
            known.size,
            known.mtime,
        )
        return known if same else None

    def folder(
        self,
        path: str | os.PathLike[str],
        files: Iterable[tuple[str | os.PathLike[str], os.stat_result]],
    ) -> Known | None:
        """What was logged of a folder, if it has the same files and each is the same still."""
        known = self.at(path)
        if known is None or known.files is None or known.files > MOST:
            return None
        count = 0
        for file, status in files:
            inside = self.file(file, status)
            if inside is None or inside.folder != known.n:
                return None
            count += 1
        return known if count == known.files else None
