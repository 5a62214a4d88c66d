"""Eviction policies: which idle adapter is worth least. The core says who is idle and how many bytes are needed.

An adapter that is not in memory scores as if it were loaded now, so that a prefetch can be weighed against residents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from policies.arguments import above, at_least, one_of
from policies.base import Adapter, Cache, Facts
from policies.frequency import FadingCount, SlidingCount

Tag = Literal["bit", "latest", "none"]
WindowKind = Literal["sliding", "exponential"]
Among = Literal["residents", "candidates"]
Cost = Literal["load_s", "one"]


class DropAfterUse(Cache):
    """S-LoRA's rule: drop every idle adapter that the latest prefetch round did not ask for; all if nothing runs.

    Attributes:
        tag: how a prefetched adapter is known: "bit", a bit that flips with each round, as S-LoRA has it, so that tags
            of every second earlier round protect by accident; "latest", by the latest round alone; "none", not at all.
    """

    name = "drop-after-use"
    source = "S-LoRA/S-LoRA, model_infer/infer_adapter.py"

    def __init__(self, *, tag: Tag = "bit") -> None:
        self.tag = one_of("tag", tag, get_args(Tag))
        self._round = 0
        self._tags: dict[Adapter, int] = {}

    def announced(self, adapters: Sequence[Adapter], now: float) -> None:  # noqa: ARG002 - rounds are counted, not timed
        """Tag what a prefetch round asks for."""
        self._round = self._round ^ 1 if self.tag == "bit" else self._round + 1
        self._tags.update(dict.fromkeys(adapters, self._round))

    def drops(self, idle: Sequence[Adapter], now: float, *, batch_is_empty: bool) -> Iterable[Adapter]:  # noqa: ARG002
        """Return every idle adapter without the current tag."""
        if batch_is_empty or self.tag == "none":
            return idle
        tags, current = self._tags, self._round
        return [adapter for adapter in idle if tags.get(adapter) != current]


class LRU(Cache):
    """Evict the adapter whose last use, or load if that is later, is longest ago."""

    name = "lru"
    source = "1a1a11a/libCacheSim"

    def __init__(self) -> None:
        self._last_s: dict[Adapter, float] = {}

    def used(self, adapter: Adapter, now: float) -> None:
        """Move the adapter to the fresh end."""
        self._last_s[adapter] = now

    def loaded(self, adapter: Adapter, now: float) -> None:
        """Enter the adapter at the fresh end."""
        self._last_s[adapter] = now

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Forget the adapter."""
        self._last_s.pop(adapter, None)

    def score(self, adapter: Adapter, now: float) -> float:
        """Return the time of the last use."""
        return self._last_s.get(adapter, now)


class LFU(Cache):
    """Evict the adapter with the fewest uses since it was loaded."""

    name = "lfu"
    source = "1a1a11a/libCacheSim"

    def __init__(self) -> None:
        self._uses: dict[Adapter, int] = {}

    def used(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - counted, not timed
        """Count a use."""
        self._uses[adapter] = self._uses.get(adapter, 0) + 1

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Forget the count."""
        self._uses.pop(adapter, None)

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - counted, not timed
        """Return the number of uses."""
        return self._uses.get(adapter, 0)


class FIFO(Cache):
    """Evict the adapter that was loaded first, used since or not."""

    name = "fifo"
    source = "1a1a11a/libCacheSim"

    def __init__(self) -> None:
        self._order: dict[Adapter, int] = {}
        self._loads = 0

    def loaded(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - loads are counted, not timed
        """Enter the adapter at the end of the line."""
        self._loads += 1
        self._order[adapter] = self._loads

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Take the adapter out of the line."""
        self._order.pop(adapter, None)

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - ranks do not move with the clock
        """Return the place in the line."""
        return self._order.get(adapter, self._loads + 1)


class GDSF(Cache):
    """Greedy-Dual-Size-Frequency: evict the lowest H = L + uses * cost / size, where L is the H of the last victim.

    Attributes:
        cost: "load_s", the seconds of a load, which makes it LFU with ageing where these are linear in the size; "one",
            which favours small adapters.
    """

    name = "gdsf"
    source = "Cherkasova 1998 (HP Labs TR 98-69); rule as in 1a1a11a/libCacheSim"

    def __init__(self, *, cost: Cost = "load_s") -> None:
        self.cost = one_of("cost", cost, get_args(Cost))
        self._level = 0.0
        self._uses: dict[Adapter, int] = {}
        self._worth: dict[Adapter, float] = {}
        self._largest_bytes = 1
        self._load_s: Callable[[Adapter], float] = _one

    def start(self, facts: Facts) -> None:
        """Learn what a load costs."""
        self._largest_bytes = max(1, facts.max_adapter_bytes)
        if self.cost == "load_s":
            self._load_s = facts.load_s

    def used(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - ages by evictions, not by the clock
        """Count a use and raise the worth from the present level."""
        uses = self._uses[adapter] = self._uses.get(adapter, 0) + 1
        density = self._load_s(adapter) * self._largest_bytes / max(1, adapter.size_bytes)
        self._worth[adapter] = self._level + uses * density

    def loaded(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - ages by evictions, not by the clock
        """Enter an adapter that nobody has used yet at the present level."""
        self._worth.setdefault(adapter, self._level)

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - ages by evictions, not by the clock
        """Forget the adapter and raise the level to its worth."""
        self._uses.pop(adapter, None)
        self._level = max(self._level, self._worth.pop(adapter, self._level))

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - ages by evictions, not by the clock
        """Return H."""
        return self._worth.get(adapter, self._level)


def _one(adapter: Adapter) -> float:  # noqa: ARG001 - every adapter costs the same
    return 1.0


class ChameleonScore(Cache):
    """Evict the lowest F * frequency + R * recency + S * size, each in [0, 1]; large adapters are kept.

    Frequency is uses relative to the most used adapter, recency 1 - age over the oldest candidate's age, size relative
    to the largest adapter.

    Attributes:
        frequency: weight F.
        recency: weight R.
        size: weight S.
        window_s: seconds of use that count.
        window: "sliding", or "exponential" decay of the same mean age.
        among: the most used adapter is looked for among "residents" or "candidates".
    """

    name = "chameleon"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), eviction score"

    def __init__(
        self,
        *,
        frequency: float = 0.45,
        recency: float = 0.10,
        size: float = 0.45,
        window_s: float = 300.0,
        window: WindowKind = "sliding",
        among: Among = "residents",
    ) -> None:
        self.frequency = at_least("frequency", frequency, 0)
        self.recency = at_least("recency", recency, 0)
        self.size = at_least("size", size, 0)
        self.window_s = above("window_s", window_s, 0)
        self.window = one_of("window", window, get_args(WindowKind))
        self.among = one_of("among", among, get_args(Among))
        self._uses = SlidingCount(window_s) if window == "sliding" else FadingCount(window_s)
        self._last_s: dict[Adapter, float] = {}  # of residents: last use, or load if that is later
        self._largest_bytes = 1

    def start(self, facts: Facts) -> None:
        """Learn the largest adapter."""
        self._largest_bytes = max(1, facts.max_adapter_bytes)

    def used(self, adapter: Adapter, now: float) -> None:
        """Count a use."""
        self._uses.add(adapter, now)
        self._last_s[adapter] = now

    def loaded(self, adapter: Adapter, now: float) -> None:
        """Take in a resident; its age counts from now."""
        self._last_s[adapter] = now

    def evicted(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - a seam's signature
        """Forget the age; uses within the window still count when it comes back."""
        self._last_s.pop(adapter, None)

    def score(self, adapter: Adapter, now: float) -> float:
        """Return the score of a single candidate."""
        return self.scores([adapter], now)[0]

    def scores(self, adapters: Sequence[Adapter], now: float) -> Sequence[float]:
        """Return the weighted sum for each candidate."""
        uses = self._uses.of(adapters, now)
        rivals = uses if self.among == "candidates" else self._uses.of(self._last_s, now)
        most = max([*uses, *rivals], default=0) or 1
        ages_s = [now - self._last_s.get(adapter, now) for adapter in adapters]
        oldest_s = max(ages_s, default=0) or 1
        return [
            self.frequency * count / most
            + self.recency * (1 - age_s / oldest_s)
            + self.size * adapter.size_bytes / self._largest_bytes
            for adapter, count, age_s in zip(adapters, uses, ages_s, strict=True)
        ]


class FairShare(ChameleonScore):
    """Chameleon's score with equal weights for frequency, recency and size."""

    name = "fairshare"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), Figure 17"

    def __init__(
        self,
        *,
        window_s: float = 300.0,
        window: WindowKind = "sliding",
        among: Among = "residents",
    ) -> None:
        super().__init__(frequency=1 / 3, recency=1 / 3, size=1 / 3, window_s=window_s, window=window, among=among)
