"""Things that log by themselves while they are used: functions, models, datasets of torch.

Nothing here imports torch; who passes a module has done so.  All of it writes to the current run
and is as good as absent when none is open.
"""

from __future__ import annotations

from prov4ml.integrations.functions import ProvenanceTrackedFunction
from prov4ml.integrations.indexed import IndexedDatasetWrapper
from prov4ml.integrations.models import ProvenanceTrackedModel
from prov4ml.integrations.weights import WeightDistributionTrackedModel

__all__ = [
    "IndexedDatasetWrapper",
    "ProvenanceTrackedFunction",
    "ProvenanceTrackedModel",
    "WeightDistributionTrackedModel",
]
