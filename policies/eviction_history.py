"""Eviction by what an adapter's past is worth: counts that age, the time of a use before the last, rates of use.

An adapter that is not in memory scores as if it were loaded now, so that a prefetch can be weighed against residents.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal, get_args

from policies.arguments import above, at_least, one_of
from policies.base import Adapter, Cache, Facts
from policies.eviction_hits import unit_cost

History = Literal["residents", "all"]


class LFUDA(Cache):
    """LFU with dynamic ageing: evict the lowest K = uses + L, where L is the K of the last victim.

    Uses count since the adapter was loaded. L is that of the last use, or of the load once the evictions for it are
    done, so that what was once popular does not stay for ever.
    """

    name = "lfu-da"
    source = "Arlitt et al. 1999 (HP Labs HPL-1999-69); rule as in 1a1a11a/libCacheSim"

    def __init__(self) -> None:
        self._level = 0
        self._uses: dict[Adapter, int] = {}
        self._worth: dict[Adapter, int] = {}

    def used(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - ages by evictions, not by the clock
        """Count a use and raise the worth from the present level."""
        uses = self._uses[adapter] = self._uses.get(adapter, 0) + 1
        self._worth[adapter] = self._level + uses

    def loaded(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - ages by evictions, not by the clock
        """Enter at the level that the evictions for this load have left."""
        self._worth[adapter] = self._level + self._uses.get(adapter, 0)

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - ages by evictions, not by the clock
        """Forget the adapter and raise the level to its worth."""
        self._uses.pop(adapter, None)
        self._level = max(self._level, self._worth.pop(adapter, self._level))

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - ages by evictions, not by the clock
        """Return K."""
        return self._worth.get(adapter, self._level)


class LRUK(Cache):
    """Evict the adapter whose k-th last use is longest ago; those with fewer uses go first, in order of load.

    There is no correlated reference period: two requests at one instant are two uses.

    Attributes:
        k: uses to look back; 1 is LRU.
        history: uses that count: of "residents", since the load, as in libCacheSim; or "all", as in the paper, where
            an adapter that was evicted comes back with what it had.
    """

    name = "lru-k"
    source = "O'Neil et al. 1993 (SIGMOD), LRU-K; forgetting the evicted as in 1a1a11a/libCacheSim"

    def __init__(self, *, k: int = 2, history: History = "residents") -> None:
        self.k = at_least("k", k, 1)
        self.history = one_of("history", history, get_args(History))
        self._uses_s: dict[Adapter, deque[float]] = {}  # the last k, oldest first
        self._loaded_s: dict[Adapter, float] = {}

    def used(self, adapter: Adapter, now: float) -> None:
        """Remember a use."""
        self._uses_s.setdefault(adapter, deque(maxlen=self.k)).append(now)

    def loaded(self, adapter: Adapter, now: float) -> None:
        """Remember the load."""
        self._loaded_s[adapter] = now

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Forget the load, and the uses too unless all count."""
        self._loaded_s.pop(adapter, None)
        if self.history == "residents":
            self._uses_s.pop(adapter, None)

    def score(self, adapter: Adapter, now: float) -> float:
        """Return the time of the k-th last use; with fewer uses, a number below any such time that grows with loads."""
        uses_s = self._uses_s.get(adapter)
        if uses_s is not None and len(uses_s) == self.k:
            return uses_s[0]
        return self._loaded_s.get(adapter, now) - now - 1.0  # no use is earlier than second 0


class Hyperbolic(Cache):
    """Evict the lowest uses / residence time; an adapter that nobody has used since its load counts as used once."""

    name = "hyperbolic"
    source = "Blankstein et al. 2017 (USENIX ATC), Hyperbolic caching"

    def __init__(self) -> None:
        self._uses: dict[Adapter, int] = {}
        self._loaded_s: dict[Adapter, float] = {}

    def used(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - counted, not timed
        """Count a use."""
        self._uses[adapter] = self._uses.get(adapter, 0) + 1

    def loaded(self, adapter: Adapter, now: float) -> None:
        """Residence begins."""
        self._loaded_s[adapter] = now

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Forget the adapter."""
        self._uses.pop(adapter, None)
        self._loaded_s.pop(adapter, None)

    def score(self, adapter: Adapter, now: float) -> float:
        """Return seconds of residence per use, negated: the order of the rates, and finite at the load."""
        return (self._loaded_s.get(adapter, now) - now) / max(1, self._uses.get(adapter, 0))


class Elora(Cache):
    """Evict the lowest Eval = load seconds * frequency of use * (1 - sigmoid(age)), where age is time since last use.

    The published value has one more factor, max(1, expected distinct adapters / residents). It is the same for all
    adapters and weighs them against cached KV, which is not in this cache, so it is left out. The frequency is over
    all uses so far, and an adapter without any counts as used once [both our reading].

    Attributes:
        age_unit_s: seconds that the sigmoid takes as 1; the source does not say.
    """

    name = "elora"
    source = "FastLibra / ELORA (HPCA'26), Eval with KV reuse off"

    def __init__(self, *, age_unit_s: float = 1.0) -> None:
        self.age_unit_s = above("age_unit_s", age_unit_s, 0)
        self._uses: dict[Adapter, int] = {}
        self._last_s: dict[Adapter, float] = {}
        self._load_s: Callable[[Adapter], float] = unit_cost

    def start(self, facts: Facts) -> None:
        """Learn what a load costs."""
        self._load_s = facts.load_s

    def used(self, adapter: Adapter, now: float) -> None:
        """Count a use; the age starts anew."""
        self._uses[adapter] = self._uses.get(adapter, 0) + 1
        self._last_s[adapter] = now

    def loaded(self, adapter: Adapter, now: float) -> None:
        """Start the age of an adapter that nobody has used yet."""
        self._last_s[adapter] = now

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Forget the age, not the frequency."""
        self._last_s.pop(adapter, None)

    def score(self, adapter: Adapter, now: float) -> float:
        """Return the logarithm of Eval, which keeps the order where Eval itself is too small for a float."""
        age = (now - self._last_s.get(adapter, now)) / self.age_unit_s
        log_of_rest = -age - math.log1p(math.exp(-age))  # 1 - sigmoid(age) = exp(-age) / (1 + exp(-age))
        uses = max(1, self._uses.get(adapter, 0))
        return math.log(max(self._load_s(adapter), 1e-12) * uses) + log_of_rest
