"""Bounds that know the future: what no policy can beat on the same order of requests. For comparison only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Literal, get_args

from policies.arguments import one_of
from policies.base import Adapter, Cache, Facts
from policies.eviction_hits import unit_cost

By = Literal["count", "bytes", "cost"]

NEVER_S = 1e18  # beyond every trace, and finite, so that sizes and costs still order what is never used again
LEAST_S = 1e-12


class Belady(Cache):
    """Evict the adapter whose next request arrives furthest in the future.

    A request that has arrived since the adapter's last use still waits, so that use is imminent. The order of arrival
    stands for the order of admission, which a scheduler may change; and it is misses that are bounded, not latency.
    With several replicas or in a closed loop the future is not known, and the run is refused.

    Attributes:
        by: "count" evicts the greatest distance to the next use, which gives the fewest misses if sizes are equal;
            "bytes" the greatest size * distance; "cost" the smallest load seconds / (size * distance). The last two
            are rules of thumb for unequal sizes, not proven bounds.
    """

    name = "belady"
    source = "Belady 1966; by bytes as BeladySize in 1a1a11a/libCacheSim"

    def __init__(self, *, by: By = "count") -> None:
        self.by = one_of("by", by, get_args(By))
        self._arrivals_s: dict[Adapter, list[float]] = {}
        self._last_use_s: dict[Adapter, float] = {}
        self._load_s: Callable[[Adapter], float] = unit_cost

    def start(self, facts: Facts) -> None:
        """Learn the future, and what a load costs."""
        self._load_s = facts.load_s
        for arrival_s, adapter in facts.future():
            if adapter is not None:
                self._arrivals_s.setdefault(adapter, []).append(arrival_s)

    def used(self, adapter: Adapter, now: float) -> None:
        """Take what has arrived so far as served."""
        self._last_use_s[adapter] = now

    def score(self, adapter: Adapter, now: float) -> float:
        """Return minus the distance to the next use in seconds, minus size * distance, or cost / (size * distance)."""
        distance_s = self._distance_s(adapter, now)
        if self.by == "count":
            return -distance_s
        if self.by == "bytes":
            return -distance_s * adapter.size_bytes
        return self._load_s(adapter) / (max(1, adapter.size_bytes) * max(LEAST_S, distance_s))

    def _distance_s(self, adapter: Adapter, now: float) -> float:
        arrivals_s = self._arrivals_s.get(adapter, ())
        passed = bisect_right(arrivals_s, now)
        if passed and arrivals_s[passed - 1] > self._last_use_s.get(adapter, -1.0):
            return 0.0
        return arrivals_s[passed] - now if passed < len(arrivals_s) else NEVER_S
