"""A run that records nothing: every call checks its arguments and returns."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

from prov4ml import config, hot
from prov4ml import events as ev
from prov4ml.handover import Handed
from prov4ml.run import Run

__all__ = ["DisabledRun"]


class _NoJournal:
    """Always busy, so that every metric takes the careful way; keeps nothing."""

    busy = True
    deferred = ()
    table = b""
    series = 0
    sent = 0

    def __init__(self) -> None:
        self.definitions: list[bytes] = []  # one for each series

    def append(self, record: bytes) -> None:
        pass


class DisabledRun(Run):
    """What ``PROV4ML_DISABLED=1`` and ``on_error="warn"`` give."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.settings = config.Settings(disabled=True)
        self.id = ""
        self.name = experiment
        self.directory = Path(tempfile.gettempdir()) / "prov4ml-disabled"
        self.rank = 0
        self._clock = hot.Clock()
        self._numbers = itertools.count(1)
        self._params: dict[str, str] = {}
        self._datasets: dict[int, tuple[Any, int]] = {}
        self._ended = None
        self._pid = os.getpid()
        journal: Any = _NoJournal()
        self._journal = journal
        self.log_metric = hot.metric_logger(journal, self._clock)

    def _append(self, event: ev.ClientEvent) -> None:
        pass

    def _guarded(self, *_: Any) -> Handed:
        return Handed(None, None)

    def _file_occurrence(self, *_: Any, **__: Any) -> int:
        return 0

    def _occurrence(self, *_: Any, **__: Any) -> None:
        pass

    def after_fork(self) -> None:
        pass

    def end_run(self, *_: Any, **__: Any) -> None:
        """Nothing to end."""
        if self._ended is None:
            self._ended = "finished"
