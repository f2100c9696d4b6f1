"""Handwritten digits with PyTorch, as yProv4ML's paper and manual (1.x, 2.x) track them.

The digits are made up, and there is no torchvision; everything that is logged is what they log.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import prov4ml

EPOCHS = 3
BATCH = 32


class Compose:
    """Stands for a chain of transforms: an object that no tracker knows."""

    def __init__(self, *steps):
        self.steps = steps

    def __repr__(self):
        return f"Compose({', '.join(self.steps)})"


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(28 * 28, 10))

    def forward(self, x):
        return self.model(x.view(x.size(0), -1))


prov4ml.start_run(
    prov_user_namespace="www.example.org",
    experiment_name="mnist",
    provenance_save_dir="prov",
    save_after_n_logs=100,
)

torch.manual_seed(0)
images, labels = torch.rand(160, 1, 28, 28), torch.randint(0, 10, (160,))
transform = Compose("RandomRotation(10)", "ToTensor()")
prov4ml.log_param("dataset transformation", transform)

train = DataLoader(Subset(TensorDataset(images, labels), range(128)), batch_size=BATCH)
prov4ml.log_dataset(train, "train_dataset")
held_out = DataLoader(Subset(TensorDataset(images, labels), range(128, 160)), batch_size=BATCH)
prov4ml.log_dataset(held_out, "val_dataset")

network = Digits()
optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
prov4ml.log_param("optimizer", "Adam")
prov4ml.log_param("optimizer settings", optimizer)
loss_of = nn.CrossEntropyLoss()
prov4ml.log_param("loss_fn", loss_of)

for epoch in range(EPOCHS):
    network.train()
    for x, y in train:
        optimizer.zero_grad()
        loss = loss_of(network(x), y)
        loss.backward()
        optimizer.step()
        prov4ml.log_metric("Loss", loss.item(), context=prov4ml.Context.TRAINING, step=epoch)
        prov4ml.log_carbon_metrics(prov4ml.Context.TRAINING, step=epoch)
        prov4ml.log_system_metrics(prov4ml.Context.TRAINING, step=epoch)
    prov4ml.save_model_version(network, "mnist_model_version", prov4ml.Context.TRAINING, epoch)

    network.eval()
    with torch.no_grad():
        for x, y in held_out:
            loss = loss_of(network(x), y)
            prov4ml.log_metric("Loss", loss, prov4ml.Context.VALIDATION, step=epoch)

prov4ml.log_model(network, "mnist_model_final")
prov4ml.end_run(create_graph=True, create_svg=True)
