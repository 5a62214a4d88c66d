"""Eviction that adapts to the traffic: by the load seconds that an adapter's bytes are expected to save."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policies.base import Adapter, Cache, Facts
from policies.eviction_hits import unit_cost
from policies.mixture import UseForecast


class Adaptive(Cache):
    """Evict the adapter with the lowest chance of being used next * load seconds / size.

    The chance is forecast by counts that fade at several speeds, and the traffic decides how much each of them says:
    where adapters are drawn independently the slow ones do, and the rule is one of frequency; where sessions repeat
    theirs the fast ones do, and it is one of recency. Nothing is to be tuned. Uses of adapters that were evicted since
    count as well, which is why no list of ghosts is needed: every request is seen, whether it hits or not.

    An adapter that is not in memory scores as if it were used now, because it is asked about only if a request waits
    for it.
    """

    name = "adaptive"
    source = "our own; value per byte as in Greedy-Dual-Size-Frequency (Cherkasova 1998)"

    def __init__(self) -> None:
        self._forecast = UseForecast()
        self._resident: set[Adapter] = set()
        self._load_s: Callable[[Adapter], float] = unit_cost

    def start(self, facts: Facts) -> None:
        """Learn who is registered and what a load costs."""
        self._forecast = UseForecast(facts.adapters)
        self._load_s = facts.load_s

    def used(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - time is counted in uses
        """Take in a use."""
        self._forecast.add(adapter)

    def loaded(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Take note that it is in memory."""
        self._resident.add(adapter)

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Take note that it has left; what is known of its use stays."""
        self._resident.discard(adapter)

    def score(self, adapter: Adapter, now: float) -> float:
        """Return the value of a single candidate."""
        return self.scores([adapter], now)[0]

    def scores(self, adapters: Sequence[Adapter], now: float) -> Sequence[float]:  # noqa: ARG002 - see `used`
        """Return expected load seconds per byte of each candidate."""
        gain, chance = self._forecast.gain(), self._forecast.chance
        return [
            (chance(adapter) + (0.0 if adapter in self._resident else gain)) * self._density(adapter)
            for adapter in adapters
        ]

    def _density(self, adapter: Adapter) -> float:
        return self._load_s(adapter) / max(1, adapter.size_bytes)
