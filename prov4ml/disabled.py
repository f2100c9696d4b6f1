"""A run that records nothing: every call checks its arguments and returns."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from prov4ml import config, hot
from prov4ml.recorder import NoRecorder
from prov4ml.run import Run

__all__ = ["DisabledRun"]


class DisabledRun(Run):
    """What ``PROV4ML_DISABLED=1`` and ``on_error="warn"`` give."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.settings = config.Settings(disabled=True)
        self.id = ""
        self.name = experiment
        self.directory = Path(tempfile.gettempdir()) / "prov4ml-disabled"
        self.rank = 0
        self._recorder = NoRecorder()
        self._clock = self._recorder.clock
        self._ended = None
        self._pid = os.getpid()
        self._metrics = hot.nowhere(hot.checked)
        self.log_metric, _ = hot.follower(self._metrics)

    def after_fork(self) -> None:
        pass

    def end_run(self, *_: Any, **__: Any) -> None:
        """Nothing to end."""
        if self._ended is None:
            self._ended = "finished"
