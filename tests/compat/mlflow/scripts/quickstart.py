"""A classifier of scikit-learn, logged as MLflow's quickstart does it, without autologging."""

import json

import mlflow
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split

features, labels = load_iris(return_X_y=True)
train, test, train_labels, test_labels = train_test_split(
    features, labels, test_size=0.2, random_state=42
)
params = {"solver": "lbfgs", "max_iter": 1000, "random_state": 8888, "C": 0.5}
model = LogisticRegression(**params).fit(train, train_labels)
predicted = model.predict(test)

mlflow.set_experiment("Iris quickstart")
with mlflow.start_run(run_name="logistic", description="a first look") as run:
    mlflow.log_params(params)
    mlflow.log_metric("accuracy", accuracy_score(test_labels, predicted))
    mlflow.log_metrics({"f1": f1_score(test_labels, predicted, average="macro"), "classes": 3})
    mlflow.set_tag("Training Info", "logistic regression on iris")
    info = mlflow.sklearn.log_model(
        sk_model=model,
        name="iris_model",
        signature=infer_signature(train, predicted),
        input_example=train[:2],
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )

assert info.model_uri
assert mlflow.active_run() is None
told = mlflow.get_run(run.info.run_id)
assert told.info.status == "FINISHED"
tags = {key: told.data.tags[key] for key in ("Training Info", "mlflow.note.content")}
print(json.dumps([told.info.run_name, told.data.params, told.data.metrics, tags]))
