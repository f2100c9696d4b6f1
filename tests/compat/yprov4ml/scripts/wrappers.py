"""yProv4ML's wrappers around a loss, a model and its weights, in a training of the usual form."""

import pickle

import numpy  # noqa: F401  (the arrays of activations are files of it)
import torch
import yprov4ml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(64, 4)
data = TensorDataset(x, x.sum(1, keepdim=True))

yprov4ml.start_run(experiment_name="wrappers", provenance_save_dir="prov")
network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
keys = list(network.state_dict())
tracked = yprov4ml.ProvenanceTrackedModel(
    "net", network, "training", chunk_size=8, every=2, arrays=True
)
tracked = yprov4ml.WeightDistributionTrackedModel("net", tracked)
loss_of = yprov4ml.ProvenanceTrackedFunction(nn.MSELoss(), context="training")
optimizer = torch.optim.SGD(tracked.parameters(), lr=0.05)
for epoch in range(2):
    tracked.train()
    for batch, wanted in DataLoader(data, batch_size=16):
        optimizer.zero_grad()
        loss_of(tracked(batch), wanted).backward()
        optimizer.step()
    tracked.log_epoch(epoch)
    tracked.eval()
    tracked(x)

assert list(tracked.state_dict()) == keys
assert torch.equal(pickle.loads(pickle.dumps(tracked))(x), network(x))
yprov4ml.save_model_version("net", tracked, "training", 1)
yprov4ml.log_model(tracked, "net")
yprov4ml.end_run(create_graph=True)
