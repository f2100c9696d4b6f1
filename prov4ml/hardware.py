"""Marks at which hardware and energy are to be measured: accepted, and not recorded yet.

The calls check their arguments and return; what they leave out is said once.
"""

from __future__ import annotations

from typing import Any

from prov4ml import hot
from prov4ml.recorder import Recorder
from prov4ml.talk import log

__all__ = ["mark"]


def mark(to: Recorder, call: str, context: Any, step: Any, timestamp: Any) -> None:
    """A call of ``log_system_metrics`` or ``log_carbon_metrics``; ``call`` is "" to say nothing."""
    hot.current_path(context)
    if step is not None:
        hot.whole("step", step)
    if timestamp is not None:
        hot.nanoseconds(timestamp)
    if call and call not in to.said:
        to.said.add(call)
        log.warning("%s: hardware and energy are not measured yet; nothing is recorded", call)
