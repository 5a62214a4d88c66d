"""What several rules share: which use is a hit, in whichever order uses and loads are told; and ranking by a scan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from policies.base import Adapter, Cache


def unit_cost(adapter: Adapter) -> float:  # noqa: ARG001 - every adapter costs the same
    """Return 1, for rules that leave the cost of a load out."""
    return 1.0


class HitCache(Cache):
    """Tells hits from the use that a load is for: the first use since the last eviction belongs to the load.

    On a miss the engine tells of the use first and of the load once there is room; a prefetch is loaded first and used
    later. Both leave the same state here. Subclasses write `_missed`, `_entered`, `_hit` and `_left`.
    """

    def __init__(self) -> None:
        self._uses: dict[Adapter, int] = {}  # since the last eviction

    def used(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - queues move by events, not by the clock
        """Count a use; from the second on it is a hit."""
        uses = self._uses[adapter] = self._uses.get(adapter, 0) + 1
        if uses > 1:
            self._hit(adapter)
        else:
            self._missed(adapter)

    def loaded(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - queues move by events, not by the clock
        """Enter the adapter."""
        self._entered(adapter)

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - queues move by events, not by the clock
        """Take the adapter out."""
        self._uses.pop(adapter, None)
        self._left(adapter)

    def _missed(self, adapter: Adapter) -> None:
        """Take note of a first use: its load follows, or came before it by prefetch."""

    def _entered(self, adapter: Adapter) -> None:
        """Take in an adapter that now occupies memory."""

    def _hit(self, adapter: Adapter) -> None:
        """Take note of a further use; the adapter may still be on its way."""

    def _left(self, adapter: Adapter) -> None:
        """Take out an adapter; it may be one that the rule would have kept, if the engine had no other choice."""


class RankedCache(HitCache, ABC):
    """A rule that is a scan over queues: worth is the place in the order in which the scan would evict."""

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - queues move by events, not by the clock
        """Return the place of an adapter if everything in memory could go."""
        return self._places([*self._residents(), adapter])[adapter]

    def scores(self, adapters: Sequence[Adapter], now: float) -> Sequence[float]:  # noqa: ARG002
        """Return the place of each candidate if only these could go."""
        places = self._places(adapters)
        return [places[adapter] for adapter in adapters]

    @abstractmethod
    def _places(self, candidates: Sequence[Adapter]) -> dict[Adapter, int]:
        """Return where the scan would evict each candidate, 0 for the first; nothing moves."""

    @abstractmethod
    def _residents(self) -> Sequence[Adapter]:
        """Return all adapters in memory."""
