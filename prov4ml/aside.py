"""Strangers' code on a thread of its own: whoever shows no sign of life is left behind.

A document sink may block for ever, in its import or while it renders, and nobody can end a
thread.  So it gets one, and hands over its bytes part by part; taking a statement and giving a
part are its signs of life.  One that gives none for five seconds has failed, and is not asked
again as long as it hangs.  Only time in which this process ran is counted: stopping it (SIGSTOP, a
closed laptop) makes nobody late.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from prov4ml.errors import SinkError

__all__ = ["Aside", "Signs", "wait"]

T = TypeVar("T")

_SILENCE: Final = 5.0  # s without a sign of life
_HANGS: Final = f"hangs: no sign of life for {_SILENCE:.0f} s"
_SLICE: Final = 0.1  # s of waiting that are counted at a time
_AHEAD: Final = 8  # parts that a sink may be ahead of the disk


def wait(until: Callable[[float], bool], seconds: float) -> bool:
    """Wait for ``until(timeout)`` to hold, for at most so many seconds of our own running time."""
    return any(until(_SLICE) for _ in range(max(1, round(seconds / _SLICE))))


class _LeftBehind(BaseException):
    """Nobody waits any more; for the stranger's thread alone."""


class Signs:
    """Of life, given by the stranger's thread."""

    def __init__(self) -> None:
        self.given = 0
        self.over = False

    def give(self) -> None:
        if self.over:
            raise _LeftBehind
        self.given += 1

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; each one taken is a sign."""
        for item in items:
            self.give()
            yield item


class Aside:
    """Runs what a stranger wrote, by the stranger's name."""

    def __init__(self) -> None:
        self._left: dict[str, threading.Thread] = {}

    def call(self, name: str, work: Callable[[], T]) -> T:
        """The result.  Raises what it raises, ``SinkError`` for one that hangs."""
        (result,) = self.parts(name, lambda _: [work()])
        return result

    def parts(self, name: str, work: Callable[[Signs], Iterable[T]]) -> Iterator[T]:
        """What ``work`` gives, part by part, likewise."""
        if name in self._left and self._left[name].is_alive():
            raise SinkError(_HANGS)
        signs = Signs()
        made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_AHEAD)
        thread = threading.Thread(
            target=_work, args=(work, signs, made), name=f"prov4ml-{name}", daemon=True
        )
        thread.start()
        try:
            while True:
                item = _next(made, signs)
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, BaseException):  # SystemExit: a module that ends the program
                    raise SinkError(f"{type(item).__name__}: {item}")
                yield item[0]
        finally:
            signs.over = True
            thread.join(2 * _SLICE)  # whoever gives signs ends here
            self._left[name] = thread


def _work(
    work: Callable[[Signs], Iterable[T]],
    signs: Signs,
    made: queue.Queue[tuple[T] | BaseException | None],
) -> None:
    end: BaseException | None = None
    try:
        for part in work(signs):
            _put(made, (part,), signs)
    except _LeftBehind:
        return
    except BaseException as error:
        end = error
    try:
        _put(made, end, signs)
    except _LeftBehind:
        pass


def _put(made: queue.Queue[T], item: T, signs: Signs) -> None:
    while True:
        signs.give()  # so that one who waits for a slow disk is not taken for dead, nor stays
        try:
            made.put(item, timeout=_SLICE)
            return
        except queue.Full:
            continue


def _next(made: queue.Queue[T], signs: Signs) -> T:
    silent, heard = 0.0, signs.given
    while silent < _SILENCE:
        try:
            return made.get(timeout=_SLICE)
        except queue.Empty:
            silent += _SLICE
            if signs.given != heard:
                silent, heard = 0.0, signs.given
    raise SinkError(_HANGS)
