"""An adapter added into the base model's weights, and taken out again."""

from __future__ import annotations

import torch

from gpu_validate.engine.adapters import DeviceAdapters
from gpu_validate.engine.decoder import Decoder
from sim.serving.job import AdapterSlot


class MergedAdapter:
    """W + scale * B A in place of W. Taking it out leaves the rounding of both sums, in 16 bits as with dLoRA.

    Args:
        decoder: whose weights change.
        adapters: where A and B are.
    """

    def __init__(self, decoder: Decoder, adapters: DeviceAdapters) -> None:
        self.slot: AdapterSlot | None = None
        self._decoder = decoder
        self._adapters = adapters

    def become(self, slot: AdapterSlot | None) -> None:
        """Merge this adapter (None: none) in place of the one before; issued on the current stream."""
        if slot is self.slot:
            return
        if self.slot is not None:
            self._add(self.slot, -1.0)
        if slot is not None:
            self._add(slot, 1.0)
        self.slot = slot

    @torch.inference_mode()
    def _add(self, slot: AdapterSlot, sign: float) -> None:
        layout, scale = self._adapters.store.layout, self._adapters.store.scales[slot.index]
        views = {tuple(place): view for place, view in layout.views(*self._weights(slot)).items()}
        for layer in range(layout.layers):
            for name, *_ in layout.modules:
                a, b = views[layer, name, "A"], views[layer, name, "B"]
                self._decoder.weight(layer, name).addmm_(b, a, alpha=sign * scale)

    def _weights(self, slot: AdapterSlot) -> tuple[torch.Tensor, int]:
        """Return an adapter's flat weights and their rank: from the device, or, if it has left that, from the host."""
        adapters, index = self._adapters, slot.index
        if slot.ready:
            rank = adapters.ranks[index]
            return adapters.arena.slice(index, adapters.store.layout.elements(rank)), rank
        return adapters.store.adapter(index).to(adapters.arena.flat.device), adapters.store.ranks[index]
