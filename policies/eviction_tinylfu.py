"""W-TinyLFU: a newcomer must be asked for more often than the victim whose place it takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from policies.arguments import above, at_least
from policies.base import Adapter, Facts
from policies.eviction_hits import RankedCache

MOST_USES = 15  # the sketch of the paper counts in four bits


class WTinyLFU(RankedCache):
    """W-TinyLFU: a small LRU window before a segmented LRU; of their two victims the one used less often goes.

    The segmented LRU has a probation and a protected part: a hit on probation protects, and the protected part's least
    recent goes back on probation when it outgrows its share. The frequencies are those of a count-min sketch without
    its collisions: adapters are few enough to be counted one by one, up to 15, and all counts are halved after
    `halving_uses` uses per resident. Shares are of the bytes held, which stand for the size of a cache without fixed
    size. Of two equally frequent victims the newcomer goes.

    Attributes:
        window_share: the window's share of the bytes held; it has room for one largest adapter in any case.
        protected_share: the protected part's share of what is not the window's.
        halving_uses: uses per resident after which all frequencies are halved.
    """

    name = "w-tinylfu"
    source = "Einziger et al. 2017 (ACM TOS), TinyLFU; shares as in ben-manes/caffeine"

    def __init__(self, *, window_share: float = 0.01, protected_share: float = 0.8, halving_uses: float = 10.0) -> None:
        super().__init__()
        self.window_share = at_least("window_share", window_share, 0)
        self.protected_share = at_least("protected_share", protected_share, 0)
        self.halving_uses = above("halving_uses", halving_uses, 0)
        self._window = _Segment()
        self._probation = _Segment()
        self._protected = _Segment()
        self._frequency: dict[Adapter, int] = {}
        self._uses_since_halving = 0
        self._largest_bytes = 0

    def start(self, facts: Facts) -> None:
        """Learn the largest adapter, for which the window has room."""
        self._largest_bytes = facts.max_adapter_bytes

    def used(self, adapter: Adapter, now: float) -> None:
        """Count a use, of residents and others; a hit makes the adapter the most recent of its part."""
        self._frequency[adapter] = min(MOST_USES, self._frequency.get(adapter, 0) + 1)
        self._uses_since_halving += 1
        residents = len(self._window) + len(self._probation) + len(self._protected)
        if self._uses_since_halving >= self.halving_uses * max(1, residents):
            self._uses_since_halving = 0
            self._frequency = {one: count // 2 for one, count in self._frequency.items() if count > 1}
        super().used(adapter, now)

    def _missed(self, adapter: Adapter) -> None:
        if adapter in self._window:  # prefetched a while ago
            self._window.add(adapter)

    def _entered(self, adapter: Adapter) -> None:
        if adapter in self._probation or adapter in self._protected:
            return
        self._window.add(adapter)
        limit_bytes = max(self._largest_bytes, self.window_share * self._held_bytes)
        while self._window.bytes > limit_bytes and len(self._window) > 1:
            self._probation.add(self._window.pop_oldest())

    def _hit(self, adapter: Adapter) -> None:
        if adapter in self._window:
            self._window.add(adapter)
        elif adapter in self._probation or adapter in self._protected:
            self._probation.discard(adapter)
            self._protected.add(adapter)
            limit_bytes = self.protected_share * (self._held_bytes - self._window.bytes)
            while self._protected.bytes > limit_bytes and len(self._protected) > 1:
                self._probation.add(self._protected.pop_oldest())

    def _left(self, adapter: Adapter) -> None:
        for segment in (self._window, self._probation, self._protected):
            segment.discard(adapter)

    def _places(self, candidates: Sequence[Adapter]) -> dict[Adapter, int]:
        wanted = set(candidates)
        main = [adapter for adapter in (*self._probation, *self._protected) if adapter in wanted]
        window = [adapter for adapter in self._window if adapter in wanted]
        window += [adapter for adapter in candidates if not self._holds(adapter)]
        return {adapter: place for place, adapter in enumerate(self._contest(window, main))}

    def _contest(self, window: Sequence[Adapter], main: Sequence[Adapter]) -> Sequence[Adapter]:
        """Merge the victims of both parts, the less frequent of two first."""
        frequency = self._frequency
        order: list[Adapter] = []
        i = 0
        for newcomer in window:
            while i < len(main) and frequency.get(newcomer, 0) > frequency.get(main[i], 0):
                order.append(main[i])
                i += 1
            order.append(newcomer)
        return [*order, *main[i:]]

    def _residents(self) -> Sequence[Adapter]:
        return [*self._window, *self._probation, *self._protected]

    def _holds(self, adapter: Adapter) -> bool:
        return adapter in self._window or adapter in self._probation or adapter in self._protected

    @property
    def _held_bytes(self) -> int:
        return self._window.bytes + self._probation.bytes + self._protected.bytes


class _Segment(OrderedDict[Adapter, None]):
    """An LRU list, oldest first, that knows its bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def add(self, adapter: Adapter) -> None:
        """Make an adapter, new or not, the most recent."""
        if adapter not in self:
            self.bytes += adapter.size_bytes
        self[adapter] = None
        self.move_to_end(adapter)

    def discard(self, adapter: Adapter) -> None:
        """Take an adapter out if it is in."""
        if adapter in self:
            del self[adapter]
            self.bytes -= adapter.size_bytes

    def pop_oldest(self) -> Adapter:
        """Take out the least recent."""
        adapter, _ = self.popitem(last=False)
        self.bytes -= adapter.size_bytes
        return adapter
