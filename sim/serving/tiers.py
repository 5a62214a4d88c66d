"""The tiers under GPU memory: adapters in host RAM, least recently used out, and those that are only on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from sim.serving.job import AdapterSlot
from sim.serving.memory import HostMemory


class HostTier:
    """Adapters in pinned host memory; the disk has all of them.

    Args:
        memory: how much of it there is.
        slots: all adapters; if it starts warm they are there from the start, in this order as far as they fit.
    """

    def __init__(self, memory: HostMemory, slots: Iterable[AdapterSlot]) -> None:
        self._capacity_bytes, starts_warm, self._capacity_adapters = memory
        self._held: OrderedDict[AdapterSlot, None] = OrderedDict()
        self.held_bytes = 0
        for slot in slots if starts_warm else ():
            if not self._overflows(slot.adapter.size_bytes, 1):
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
        while self._overflows() and len(self._held) > 1:
            oldest, _ = self._held.popitem(last=False)
            self.held_bytes -= oldest.adapter.size_bytes

    def _overflows(self, more_bytes: int = 0, more_adapters: int = 0) -> bool:
        is_too_large = self.held_bytes + more_bytes > self._capacity_bytes
        return is_too_large or len(self._held) + more_adapters > self._capacity_adapters
