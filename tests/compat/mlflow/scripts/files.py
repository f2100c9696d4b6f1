"""Artifacts of every kind: files, folders, texts, dicts, figures, images, tables."""

import json
import os

import matplotlib
import mlflow
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

os.makedirs("plots/deep", exist_ok=True)
for name in ("plots/a.txt", "plots/deep/b.txt", "notes.md"):
    with open(name, "w") as file:
        file.write(f"this is {name}\n")

mlflow.log_param("started", "by a log call")
mlflow.log_artifact("notes.md")
mlflow.log_artifact("notes.md", artifact_path="docs")
mlflow.log_artifacts("plots", artifact_path="figures")
mlflow.log_text("<h1>report</h1>", "report.html")
mlflow.log_dict({"layers": [1, 2], "name": "net"}, "config/model.json")
mlflow.log_dict({"layers": [1, 2]}, "config/model.yaml")
figure, axes = plt.subplots(figsize=(2, 2))
axes.plot([1, 2, 3])
mlflow.log_figure(figure, "curve.png")
mlflow.log_figure(figure, "curve.svg")
mlflow.log_image(np.linspace(0, 1, 64).reshape(8, 8), "ramp.png")
mlflow.log_image(np.zeros((8, 8, 3), dtype=np.uint8), key="sample", step=3)
mlflow.log_table({"question": ["a", "b"], "score": [0.5, 1.0]}, "answers.json")
mlflow.log_table(pd.DataFrame({"x": [1, 2]}), "frame.json")
run = mlflow.active_run()
mlflow.end_run()

told = mlflow.get_run(run.info.run_id)
print(json.dumps([told.info.status, told.data.params]))
