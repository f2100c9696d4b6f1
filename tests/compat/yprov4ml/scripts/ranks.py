"""A job of several processes of which only the first is to log metrics, yProv4ML's default."""

import os

import yprov4ml

rank = int(os.environ["RANK"])
yprov4ml.start_run(
    experiment_name="ranks",
    prov_user_namespace="www.example.org",
    collect_all_processes=False,
    unified_experiment=True,
)
yprov4ml.log_param("rank's own", rank)
for step in range(10):
    yprov4ml.log_metric("loss", rank + step / 10, "training", step)
    yprov4ml.log_metrics({"a": rank, "b": step}, "training", step)
if rank == 1:
    yprov4ml.log_artifact("made by one", __file__)
yprov4ml.end_run()
