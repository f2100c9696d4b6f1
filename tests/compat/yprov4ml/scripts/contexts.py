"""Contexts of all versions: members, texts, an enumeration of the user's own."""

from enum import Enum

import prov4ml


class MyContext(Enum):
    PREPROCESSING = 3
    INFERENCE = 4


prov4ml.start_run(
    "contexts",
    "https://lab.example/ml#",
    "runs",
    collect_all_processes=True,
    disable_codecarbon=True,
)
for context in prov4ml.Contexts:
    prov4ml.log_metric("seen", 1.0, context, step=0)
for step in range(3):
    prov4ml.log_metric("rows", 100 * step, MyContext.PREPROCESSING, step=step)
    prov4ml.log_metric("answer", 42.0, context=MyContext.INFERENCE, step=step, source="manual")
    prov4ml.log_metric("Loss", 0.5 / (step + 1), "Training", step, source="torch")
    prov4ml.log_metric("Loss", 0.6 / (step + 1), "Training", step, source="by hand")
    prov4ml.log_carbon_metrics("Training", step)
prov4ml.log_param("tokens", 128, context="Training", source="file")
prov4ml.log_param("tokens", 128, context=MyContext.INFERENCE, is_input=True)
prov4ml.log_param("seed", 7)
prov4ml.end_run(True, True)
