"""What prov4ml says: one line each to the logger ``prov4ml``, the same text once a minute at most.

Where nobody has set logging up, lines go to stderr.
"""

from __future__ import annotations

import logging
import time
from typing import Final

__all__ = ["log", "say"]

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


log.addFilter(_Patience())


def say(level: int, text: str) -> None:
    """One line; to stderr when nobody has set logging up."""
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("prov4ml: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    log.log(level, text)
