"""A training loop of PyTorch with metrics by step, a dataset, checkpoints and a summary."""

import json

import mlflow
import torch
from torch import nn

torch.manual_seed(0)
inputs = torch.rand(256, 4)
targets = inputs @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]]) + 0.1
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loss_of = nn.MSELoss()
params = {"epochs": 4, "learning_rate": 0.01, "batch_size": 64, "optimizer": "Adam"}
how = {"serialization_format": "pickle", "pip_requirements": ["torch"]}

mlflow.set_experiment("regression")
with mlflow.start_run() as run:
    mlflow.log_params(params)
    dataset = mlflow.data.from_numpy(
        inputs.numpy(), source="https://data.example/line.csv", targets=targets.numpy(), name="line"
    )
    mlflow.log_input(dataset, context="training")
    with open("summary.txt", "w") as file:
        file.write(str(model))
    mlflow.log_artifact("summary.txt")
    step = 0
    for epoch in range(params["epochs"]):
        for at in range(0, 256, params["batch_size"]):
            optimizer.zero_grad()
            loss = loss_of(model(inputs[at : at + 64]), targets[at : at + 64])
            loss.backward()
            optimizer.step()
            mlflow.log_metric("loss", loss.item(), step=step)
            step += 1
        with torch.no_grad():
            whole = loss_of(model(inputs), targets).item()
        mlflow.log_metrics({"eval_loss": whole, "epoch": epoch}, step=step)
        if epoch in (1, 3):
            mlflow.pytorch.log_model(model, name="regressor", step=step, **how)
    mlflow.pytorch.log_model(model, name="regressor", **how)

told = mlflow.get_run(run.info.run_id)
print(json.dumps([told.info.status, told.data.params, told.data.metrics]))
