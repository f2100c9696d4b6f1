"""The calls of the manual's Lightning example, without Lightning: a tensor as a value, FLOPs."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prov4ml

prov4ml.start_run("www.example.org", "steps")  # the order of 1.x
prov4ml.log_execution_start_time()
network = nn.Linear(8, 1)
data = TensorDataset(torch.randn(32, 8), torch.randn(32, 1))
loader = DataLoader(data, batch_size=8)
prov4ml.log_dataset(loader, "train_dataset")
for epoch in range(2):
    for batch in loader:
        x, y = batch
        loss = nn.functional.mse_loss(network(x), y)
        prov4ml.log_metric("MSE_train", loss, prov4ml.Context.TRAINING, step=epoch)
        prov4ml.log_flops_per_batch(
            "train_flops", network, batch, prov4ml.Context.TRAINING, step=epoch
        )
    prov4ml.log_metric("epoch", epoch, prov4ml.Context.TRAINING, step=epoch)
    prov4ml.log_flops_per_epoch("epoch_flops", network, loader, prov4ml.Context.TRAINING, epoch)
    prov4ml.save_model_version(network, f"model_{epoch}", prov4ml.Context.TRAINING, step=epoch)
    prov4ml.log_current_execution_time("train_epoch_time", prov4ml.Context.TRAINING, epoch)
prov4ml.log_model(network, "model_version_final")
prov4ml.log_execution_end_time()
prov4ml.end_run()
