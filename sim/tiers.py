"""The tiers under GPU memory: adapters in host RAM, least recently used out, and those that are only on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from sim.job import AdapterSlot


class HostTier:
    """Adapters in pinned host memory; the disk has all of them.

    Args:
        capacity_bytes: of host RAM for adapters.
        slots: adapters that are there from the start, in this order as far as they fit.
    """

    def __init__(self, capacity_bytes: int, slots: Iterable[AdapterSlot]) -> None:
        self._capacity_bytes = capacity_bytes
        self._held: OrderedDict[AdapterSlot, None] = OrderedDict()
        self.held_bytes = 0
        for slot in slots:
            if self.held_bytes + slot.adapter.size_bytes <= self._capacity_bytes:
                self.take_in(slot)

    def has(self, slot: AdapterSlot) -> bool:
        """Whether an adapter can be copied to the GPU at once; asking for it counts as a use."""
        if slot not in self._held:
            return False
        self._held.move_to_end(slot)
        return True

    def take_in(self, slot: AdapterSlot) -> None:
        """Hold an adapter that has come from disk; the least recently used ones make room, but never this one."""
        self._held[slot] = None
        self.held_bytes += slot.adapter.size_bytes
        while self.held_bytes > self._capacity_bytes and len(self._held) > 1:
            oldest, _ = self._held.popitem(last=False)
            self.held_bytes -= oldest.adapter.size_bytes
