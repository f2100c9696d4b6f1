"""``IndexedDatasetWrapper``: each sample brings its id along, so that batches can be traced."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["IndexedDatasetWrapper"]


class IndexedDatasetWrapper:
    """A dataset whose samples end in their index in it.

    (x, y) becomes (x, y, index), a dict gets the key ``index``, anything else becomes
    (sample, index); a data loader collates the ids to a tensor.  A subset of the wrapper gives ids
    of the whole dataset.  All other attributes are those of the dataset.  Raises ``TypeError`` for
    what has no items by number; an iterable dataset numbers nothing.
    """

    def __init__(self, dataset: Any) -> None:
        if not hasattr(type(dataset), "__getitem__") or _streams(dataset):
            raise TypeError(
                f"dataset: the samples of a {type(dataset).__name__} have no numbers to go by"
            )
        self._dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        return _with(self._dataset[index], index)

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        """A batch at once, as data loaders ask for it."""
        at_once = getattr(self._dataset, "__getitems__", None)
        samples = at_once(indices) if at_once is not None else [self._dataset[i] for i in indices]
        return [_with(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        for index, sample in enumerate(self._dataset):
            yield _with(sample, index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __repr__(self) -> str:
        return f"IndexedDatasetWrapper({self._dataset!r})"


def _streams(dataset: Any) -> bool:
    """Whether it only says what comes next (torch's class of those has an empty ``[]``)."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and isinstance(dataset, data.IterableDataset)


def _with(sample: Any, index: Any) -> Any:
    try:
        index = operator.index(index)
    except TypeError:
        pass  # a key of another kind is an id as well
    if isinstance(sample, dict):
        return {**sample, "index": index}
    if isinstance(sample, (tuple, list)):
        return (*sample, index)
    return sample, index
