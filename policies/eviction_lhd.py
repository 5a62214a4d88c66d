"""LHD: keep what is expected to bring the most hits for the bytes and the time that it takes up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import get_args

import numpy as np

from policies.arguments import at_least, one_of
from policies.base import Adapter, Facts, FloatArray
from policies.eviction import Cost
from policies.eviction_hits import HitCache, unit_cost

CLASSES = 16
OLDEST = 1 << 20  # accesses; all greater ages are alike
PER_OCTAVE = 8
EDGES = sorted({0} | {int(2 ** (i / PER_OCTAVE)) for i in range(20 * PER_OCTAVE + 1)})  # first age of each bucket
WIDTHS: FloatArray = np.diff([*EDGES, 2 * OLDEST]).astype(np.float64)
NEVER_HIT = (0, OLDEST)


class LHD(HitCache):
    """Evict the lowest hit density: hits expected from now on per access until hit or eviction, per byte.

    Hits and evictions are counted by age, in accesses since the last one, and by class, the logarithm of the sum of an
    adapter's last two ages at a hit. Density at an age is the number of those hit later over the time that all spend
    from that age on, and 0 at an age that nobody is known to have lived beyond. The counts fade by `fade` whenever the
    densities are worked out anew; a class that nothing is known of keeps its start values, which fall with age and
    class. All candidates are compared, not a sample of 32. Ages are in buckets, eight to each doubling, in place of the
    source's width that adapts itself.

    Attributes:
        cost: "one", the rule itself; "load_s" weighs the hits by the seconds of a load.
        renew_uses: uses after which densities are worked out anew; the source's 2^20 would never come here.
        fade: what remains of the earlier counts then.
    """

    name = "lhd"
    source = "Beckmann et al. 2018 (NSDI), LHD; rule as in 1a1a11a/libCacheSim"

    def __init__(self, *, cost: Cost = "one", renew_uses: int = 1000, fade: float = 0.9) -> None:
        super().__init__()
        self.cost = one_of("cost", cost, get_args(Cost))
        self.renew_uses = at_least("renew_uses", renew_uses, 1)
        self.fade = at_least("fade", fade, 0)
        self._accesses = 0
        self._touched: dict[Adapter, int] = {}  # of residents: the access at which age was 0
        self._hit_ages: dict[Adapter, tuple[int, int]] = {}  # the last, the one before
        self._hits: FloatArray = np.zeros((CLASSES, len(EDGES)))
        self._evictions: FloatArray = np.zeros((CLASSES, len(EDGES)))
        self._density: list[list[float]] = _start_densities().tolist()
        self._load_s: Callable[[Adapter], float] = unit_cost

    def start(self, facts: Facts) -> None:
        """Learn what a load costs."""
        if self.cost == "load_s":
            self._load_s = facts.load_s

    def used(self, adapter: Adapter, now: float) -> None:
        """Count an access, which makes everybody older by one."""
        self._accesses += 1
        super().used(adapter, now)
        if self._accesses % self.renew_uses == 0:
            self._renew()

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - ages by accesses, not by the clock
        """Return expected hits per access and byte, weighed by the cost of a load."""
        density = self._density[self._class(adapter)][self._bucket(adapter)]
        return density * self._load_s(adapter) / max(1, adapter.size_bytes)

    def _missed(self, adapter: Adapter) -> None:
        if adapter in self._touched:
            self._touched[adapter] = self._accesses

    def _entered(self, adapter: Adapter) -> None:
        self._touched[adapter] = self._accesses

    def _hit(self, adapter: Adapter) -> None:
        if adapter not in self._touched:
            return
        self._hits[self._class(adapter), self._bucket(adapter)] += 1
        last, _ = self._hit_ages.get(adapter, NEVER_HIT)
        self._hit_ages[adapter] = (self._accesses - self._touched[adapter], last)
        self._touched[adapter] = self._accesses

    def _left(self, adapter: Adapter) -> None:
        if adapter not in self._touched:
            return
        self._evictions[self._class(adapter), self._bucket(adapter)] += 1
        del self._touched[adapter]
        self._hit_ages.pop(adapter, None)

    def _class(self, adapter: Adapter) -> int:
        return min(CLASSES - 1, sum(self._hit_ages.get(adapter, NEVER_HIT)).bit_length())

    def _bucket(self, adapter: Adapter) -> int:
        return bisect_right(EDGES, self._accesses - self._touched.get(adapter, self._accesses)) - 1

    def _renew(self) -> None:
        later_hits = _tail_sums(self._hits)
        time = _tail_sums(_tail_sums(self._hits + self._evictions) * WIDTHS)
        density = np.divide(later_hits, time, out=np.zeros_like(time), where=time > 0)
        is_met = time[:, :1] > 0  # of each class, any hit or eviction
        self._density = np.where(is_met, density, np.array(self._density)).tolist()
        self._hits *= self.fade
        self._evictions *= self.fade


def _tail_sums(counts: FloatArray) -> FloatArray:
    """Return, for each age, the sum over this and all greater ages; shape (classes, ages)."""
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]


def _start_densities() -> FloatArray:
    return (CLASSES - np.arange(CLASSES))[:, None] / (1.0 + np.array(EDGES))
