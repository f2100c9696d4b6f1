"""The digits on several processes: one run directory, one document, a rank per process.

    torchrun --nproc-per-node 2 examples/digits_ddp.py

Each rank logs its own loss and accuracy on its share of the data; rank 0 keeps the checkpoints,
for the weights are the same on all of them.
"""

import argparse

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split

import prov4ml
from prov4ml import Context

parser = argparse.ArgumentParser(description="Train on handwritten digits with torchrun.")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--lr", type=float, default=0.002)
parser.add_argument("--batch-size", type=int, default=32, help="per rank")
parser.add_argument("--seed", type=int, default=0)


def log(loss, scores, labels, context, step):
    hits = scores.argmax(dim=1) == labels
    prov4ml.log_metric("loss", loss.item(), context, step)
    prov4ml.log_metric("accuracy", hits.float().mean().item(), context, step)


def main(args):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    prov4ml.start_run("digits_ddp")
    prov4ml.log_params({**vars(args), "optimizer": "Adam"})
    torch.manual_seed(args.seed)  # the same split and the same weights on every rank

    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    dataset = TensorDataset(images, torch.tensor(digits.target))
    train, validation = random_split(dataset, [0.8, 0.2])
    sampler = DistributedSampler(train, seed=args.seed)
    train_loader = DataLoader(train, batch_size=args.batch_size, sampler=sampler)
    share = DistributedSampler(validation, shuffle=False)
    validation_loader = DataLoader(validation, batch_size=len(share), sampler=share)
    prov4ml.log_dataset(dataset, "digits")
    prov4ml.log_dataset(train_loader, "train", Context.TRAINING)
    prov4ml.log_dataset(validation_loader, "validation", Context.VALIDATION)

    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)

    step = 0
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        model.train()
        for images, labels in train_loader:
            scores = model(images)
            loss = nn.functional.cross_entropy(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log(loss, scores, labels, Context.TRAINING, step)
            step += 1
        if rank == 0:
            prov4ml.save_model_version(network, "digits_mlp", Context.TRAINING, step)

        model.eval()
        with torch.no_grad():
            for images, labels in validation_loader:  # one batch: this rank's share
                scores = network(images)
                loss = nn.functional.cross_entropy(scores, labels)
                log(loss, scores, labels, Context.VALIDATION, step)
        if rank == 0:
            print(f"epoch {epoch + 1} of {args.epochs}: validation loss {loss.item():.3f}")

    if rank == 0:
        prov4ml.log_model(network, "digits_mlp", Context.TRAINING)
    prov4ml.end_run()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(parser.parse_args())
