"""The one small host-to-device copy of an iteration: all its integers in one pinned buffer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from gpu_validate.engine.padding import even
from policies.base import IntArray

Integers = Sequence[int] | IntArray


class Staging:
    """A host buffer that is filled and sent once an iteration.

    Args:
        device: where the integers go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffer = self._empty(1024)
        self._sent: torch.cuda.Event | None = None

    def pack(self, *arrays: Integers) -> torch.Tensor:
        """Return the arrays end to end, int64, in the host buffer; valid until the next call."""
        return self._filled(arrays, list(accumulate(map(len, arrays), initial=0)))

    def send(self, *arrays: Integers) -> list[torch.Tensor]:
        """Return the arrays as int64 tensors on the device, all from one copy, each at a multiple of 16 bytes."""
        sizes = [len(array) for array in arrays]
        bounds = list(accumulate(map(even, sizes), initial=0))
        sent = self._filled(arrays, bounds).to(self._device, non_blocking=True, copy=True)
        self.mark()
        return [sent[start : start + size] for start, size in zip(bounds, sizes, strict=False)]

    def mark(self) -> None:
        """Note that a copy from the buffer has been issued on the current stream."""
        if self._device.type == "cuda":
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record()

    def _filled(self, arrays: Sequence[Integers], bounds: Sequence[int]) -> torch.Tensor:
        if self._sent is not None:
            self._sent.synchronize()  # long over in practice: a step has ended since
        if bounds[-1] > len(self._buffer):
            self._buffer = self._empty(2 * bounds[-1])
        cells = self._buffer.numpy()
        for start, array in zip(bounds, arrays, strict=False):
            cells[start : start + len(array)] = array
        return self._buffer[: bounds[-1]]

    def _empty(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int64, pin_memory=self._device.type == "cuda")
