"""``WeightDistributionTrackedModel``: how a model's weights are distributed, epoch by epoch."""

from __future__ import annotations

from typing import Any, Final

from prov4ml import current, hot
from prov4ml.integrations.figures import figures
from prov4ml.integrations.wrapped import Wrapped, needs_of, wrap
from prov4ml.talk import log

__all__ = ["WeightDistributionTrackedModel"]

_MOST: Final = 256  # parameters that are described


class WeightDistributionTrackedModel(Wrapped):
    """A model that can say how its weights are distributed: ``log_epoch(epoch)``.

    Each parameter becomes four series, ``<label>/<parameter>/mean``, ``std``, ``min`` and ``max``,
    with the epoch as their step; the first 256 parameters.  The result is the model, with all its
    attributes; see ``wrapped``.  Raises ``TypeError`` for what is no module of torch.
    """

    __slots__ = ()

    def __new__(cls, model_label: str, model: Any, context: str | None = None) -> Any:
        label = hot.text("model_label", model_label)
        if context is not None:
            hot.context_path(context)
        return wrap(WeightDistributionTrackedModel, model, (label, context))

    def log_epoch(self, epoch: int) -> None:
        """Describe the weights as they are now; nothing waits for a device."""
        step = hot.whole("epoch", epoch)
        needs, run = needs_of(self, WeightDistributionTrackedModel), current.active_run()
        if needs is None or run is None:
            return
        label, context = needs
        for n, (name, weights) in enumerate(self.named_parameters()):  # type: ignore[attr-defined]
            if n == _MOST:
                log.warning("%s: the first %d parameters are described", label, _MOST)
                break
            try:
                for figure, value in figures(weights):
                    run.log_metric(f"{label}/{name}/{figure}", value, context, step)
            except Exception as error:  # weights that are not there yet, or are quantised
                log.warning("weights of %s: %s: %s", label, name, error)
