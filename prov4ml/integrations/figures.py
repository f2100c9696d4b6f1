"""A tensor in four numbers, which stay where it is: on a device nothing waits for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["figures", "tensor_of"]


def figures(tensor: Any) -> Iterator[tuple[str, Any]]:
    """Mean, standard deviation (of the population), least and greatest value, as scalar tensors.

    In single precision at least; complex numbers by their size.  Nothing for an empty tensor.
    """
    torch = sys.modules["torch"]
    with torch.no_grad():
        values = tensor.detach()
        if values.numel() == 0 or values.device.type == "meta":
            return
        if values.is_complex():
            values = values.abs()
        if values.dtype != torch.float64:
            values = values.float()
        spread, mean = torch.var_mean(values, correction=0)
        least, greatest = torch.aminmax(values)
    yield "mean", mean
    yield "std", spread.sqrt()
    yield "min", least
    yield "max", greatest


def tensor_of(output: Any) -> Any:
    """The first tensor in what a layer gave back, or None."""
    torch = sys.modules["torch"]
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (list, tuple)):
        for part in output:
            found = tensor_of(part)
            if found is not None:
                return found
    return None
