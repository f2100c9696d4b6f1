"""A device that is slow, without one: scalars that are read only when a gate opens."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Device", "Scalar"]

_PATIENCE = 60.0  # s until a reader gives up, so that a broken test ends


class Device:
    """What lies on it can be read when the gate is open."""

    def __init__(self, kind: str = "slow", *, open: bool = False) -> None:
        self.type = kind
        self.gate = threading.Event()
        self.readers: list[str] = []  # names of the threads that read, in order
        if open:
            self.gate.set()

    def scalar(self, value: Any) -> Scalar:
        return Scalar(self, [value])


class Scalar:
    """One number on a device, with the few ways of a tensor that a log call may use.

    ``fill_`` changes it in place; ``detach`` shares its memory, ``clone`` does not.
    """

    shape: tuple[int, ...] = ()
    dtype = "float32"

    def __init__(self, device: Device, memory: list[Any]) -> None:
        self.device = device
        self._memory = memory

    def detach(self) -> Scalar:
        return Scalar(self.device, self._memory)

    def clone(self) -> Scalar:
        return Scalar(self.device, list(self._memory))

    def fill_(self, value: Any) -> None:
        self._memory[0] = value

    def item(self) -> Any:
        """The number; waits for the gate."""
        self.device.readers.append(threading.current_thread().name)
        if not self.device.gate.wait(_PATIENCE):
            raise TimeoutError(f"the gate stayed shut for {_PATIENCE} s")
        value = self._memory[0]
        if isinstance(value, Exception):
            raise value
        return value

    def __float__(self) -> float:
        return float(self.item())
