"""Train a small network on 1,797 scans of handwritten digits, and keep where it came from.

The scans come with scikit-learn, so nothing is downloaded; a run takes a few seconds.  This is
what ``make demo`` runs.  The lines with ``prov4ml`` are there for the provenance, the rest
is ordinary PyTorch.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import prov4ml
from prov4ml import Context

parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--lr", type=float, default=0.001)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--hidden", type=int, default=128, help="size of the hidden layer")
parser.add_argument("--seed", type=int, default=0)


def loss_and_accuracy(model, images, labels):
    scores = model(images)
    hits = scores.argmax(dim=1) == labels
    return nn.functional.cross_entropy(scores, labels), hits.float().mean()


def main(args):
    prov4ml.start_run("digits")
    prov4ml.log_params({**vars(args), "optimizer": "Adam"})
    torch.manual_seed(args.seed)

    # 8 x 8 pixels of 0 to 16, four fifths of them to learn from.
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    dataset = TensorDataset(images, torch.tensor(digits.target))
    train, validation = random_split(dataset, [0.8, 0.2])
    train_loader = DataLoader(train, batch_size=args.batch_size, shuffle=True)
    validation_loader = DataLoader(validation, batch_size=len(validation))
    prov4ml.log_dataset(dataset, "digits")
    prov4ml.log_dataset(train_loader, "train", Context.TRAINING)
    prov4ml.log_dataset(validation_loader, "validation", Context.VALIDATION)

    model = nn.Sequential(nn.Linear(64, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)

    step = 0
    for epoch in range(args.epochs):
        model.train()
        for images, labels in train_loader:
            loss, accuracy = loss_and_accuracy(model, images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            prov4ml.log_metric("loss", loss.item(), Context.TRAINING, step)
            prov4ml.log_metric("accuracy", accuracy.item(), Context.TRAINING, step)
            step += 1
        prov4ml.save_model_version(model, "digits_mlp", Context.TRAINING, step)

        model.eval()
        with torch.no_grad():
            for images, labels in validation_loader:  # one batch: all of it
                loss, accuracy = loss_and_accuracy(model, images, labels)
                prov4ml.log_metric("loss", loss.item(), Context.VALIDATION, step)
                prov4ml.log_metric("accuracy", accuracy.item(), Context.VALIDATION, step)
        print(f"epoch {epoch + 1}: {accuracy:.1%} of {len(validation)} digits right")

    prov4ml.log_model(model, "digits_mlp", Context.TRAINING)
    prov4ml.end_run()


if __name__ == "__main__":
    main(parser.parse_args())
