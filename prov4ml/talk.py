"""What prov4ml says: one line each to the logger ``prov4ml``, the same text once a minute at most.

Where nobody has set logging up, lines go to stderr.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Final

__all__ = ["log", "say", "short"]

log: Final = logging.getLogger("prov4ml")

_AGAIN: Final = 60.0  # s
_MOST: Final = 1000  # texts remembered


class _Patience(logging.Filter):
    """Lets a text through once a minute.

    Without a lock, which a forked child might find held for ever: the worst is a line said twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text, now = record.getMessage(), time.monotonic()
        if now - self._said.get(text, -_AGAIN) < _AGAIN:
            return False
        if len(self._said) >= _MOST:
            self._said.clear()
        self._said[text] = now
        return True


class _Stderr(logging.StreamHandler[Any]):
    """Speaks where nobody has set logging up."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("prov4ml: %(message)s"))

    @property
    def stream(self) -> Any:  # the one of the moment: tests and notebooks change it
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        if not _set_up():
            super().emit(record)


def _set_up() -> bool:
    """Whether the user has a handler, for everything or for us."""
    return bool(logging.getLogger().handlers) or len(log.handlers) > 1


log.addFilter(_Patience())
log.addHandler(_Stderr())


def say(level: int, text: str) -> None:
    """One line; to stderr when nobody has set logging up."""
    if not _set_up():
        log.setLevel(logging.INFO)
    log.log(level, text)


def short(text: str, most: int = 100) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
