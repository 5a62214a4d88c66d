"""Eviction without memory of use: by lot, or by size. They show what a rule that looks at nothing would give."""

from __future__ import annotations

from hashlib import blake2b

from policies.base import Adapter, Cache


class RandomEviction(Cache):
    """Evict by lot: every eviction draws new lots, and until the next one the same question has the same answer.

    Attributes:
        seed: chooses the sequence of draws.
    """

    name = "random"
    source = "1a1a11a/libCacheSim"

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._draws = 0

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - evictions are counted, not timed
        """Draw anew."""
        self._draws += 1

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - a lot does not move with the clock
        """Return the adapter's lot of this draw, in [0, 1)."""
        lot = blake2b(f"{self.seed}/{self._draws}/{adapter.id}".encode(), digest_size=6)
        return int.from_bytes(lot.digest()) / 2**48


class LargestFirst(Cache):
    """Evict the largest adapter: one victim frees much, and is slow to come back."""

    name = "largest-first"
    source = "SIZE in 1a1a11a/libCacheSim"

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - a size does not move with the clock
        """Return the size in bytes, negated."""
        return -adapter.size_bytes


class SmallestFirst(Cache):
    """Evict the smallest adapter: each victim is quick to come back, and many may have to go."""

    name = "smallest-first"
    source = "SIZE in 1a1a11a/libCacheSim, reversed"

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - a size does not move with the clock
        """Return the size in bytes."""
        return adapter.size_bytes
