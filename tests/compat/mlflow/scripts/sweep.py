"""A search over a parameter: a run for each value inside of one, then two from threads."""

import json
from concurrent.futures import ThreadPoolExecutor

import mlflow
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score

features, labels = load_diabetes(return_X_y=True)


def score(alpha):
    return float(cross_val_score(Ridge(alpha=alpha), features, labels, cv=3).mean())


found = {}
mlflow.set_experiment("ridge")
with mlflow.start_run(run_name="search", tags={"kind": "sweep"}) as parent:
    for alpha in (0.01, 0.1, 1.0):
        with mlflow.start_run(run_name=f"alpha {alpha}", nested=True) as child:
            mlflow.log_param("alpha", alpha)
            mlflow.log_metric("r2", score(alpha))
        found[alpha] = child.data.metrics or mlflow.get_run(child.info.run_id).data.metrics
        assert mlflow.active_run().info.run_id == parent.info.run_id
    best = max(found, key=lambda alpha: found[alpha]["r2"])

    def in_thread(alpha):
        assert mlflow.active_run() is None
        with mlflow.start_run(parent_run_id=parent.info.run_id, run_name=f"thread {alpha}") as run:
            mlflow.log_param("alpha", alpha)
            mlflow.log_metric("r2", score(alpha))
        return mlflow.get_parent_run(run.info.run_id).info.run_id

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(in_thread, (10.0, 100.0))) == {parent.info.run_id}
    mlflow.log_param("best_alpha", best)
    mlflow.log_metric("best_r2", found[best]["r2"])

with mlflow.start_run(run_id=parent.info.run_id):
    mlflow.log_metric("checked", 1)

told = mlflow.get_run(parent.info.run_id)
print(json.dumps([told.info.run_name, told.data.params, told.data.metrics, told.data.tags["kind"]]))
