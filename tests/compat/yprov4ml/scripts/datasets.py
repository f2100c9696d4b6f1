"""Datasets in both orders, and sample ids that reach the batch, also from worker processes."""

import torch
import yprov4ml
from torch.utils.data import DataLoader, TensorDataset, random_split


def main():
    yprov4ml.start_run("datasets", prov_save_path="prov")
    x = torch.arange(100.0)
    whole = TensorDataset(x, x * 2)
    yprov4ml.log_dataset("whole", whole)
    first, second = random_split(whole, [80, 20], torch.Generator().manual_seed(3))
    yprov4ml.log_dataset(
        dataset_label="train", dataset=DataLoader(first, batch_size=30, shuffle=True)
    )
    yprov4ml.log_dataset(DataLoader(second, batch_size=6, drop_last=True), "validation")
    yprov4ml.log_dataset("silent", whole, False)

    indexed = yprov4ml.IndexedDatasetWrapper(whole)
    loader = DataLoader(
        indexed, batch_size=25, shuffle=True, num_workers=2, multiprocessing_context="spawn"
    )
    seen = []
    for step, (a, b, index) in enumerate(loader):
        assert torch.equal(a, x[index])
        assert torch.equal(b, 2 * x[index])
        seen += index.tolist()
        yprov4ml.log_metric("sum of ids", index.sum(), "Training", step)
    assert sorted(seen) == list(range(100))
    yprov4ml.end_run()


if __name__ == "__main__":
    main()
