"""How often an adapter has been used lately: within a sliding window, or fading with age."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from policies.base import Adapter


class SlidingCount:
    """Uses within the last `window_s` seconds, exactly; each use is counted in once and out once."""

    __slots__ = ("_counts", "_uses", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._uses: deque[tuple[float, Adapter]] = deque()
        self._counts: dict[Adapter, int] = {}

    def add(self, adapter: Adapter, now: float) -> None:
        """Count a use."""
        self._prune(now)
        self._uses.append((now, adapter))
        self._counts[adapter] = self._counts.get(adapter, 0) + 1

    def of(self, adapters: Iterable[Adapter], now: float) -> list[float]:
        """Return the count of each adapter."""
        self._prune(now)
        counts = self._counts
        return [counts.get(adapter, 0) for adapter in adapters]

    def _prune(self, now: float) -> None:
        uses, oldest_s = self._uses, now - self._window_s
        while uses and uses[0][0] <= oldest_s:
            self._counts[uses.popleft()[1]] -= 1


class FadingCount:
    """Uses weighted by exp(-age / tau); tau is half the window, so the mean age is that of a sliding window."""

    __slots__ = ("_tau_s", "_values")

    def __init__(self, window_s: float) -> None:
        self._tau_s = window_s / 2
        self._values: dict[Adapter, tuple[float, float]] = {}

    def add(self, adapter: Adapter, now: float) -> None:
        """Count a use."""
        self._values[adapter] = (self._value(adapter, now) + 1, now)

    def of(self, adapters: Iterable[Adapter], now: float) -> list[float]:
        """Return the count of each adapter."""
        return [self._value(adapter, now) for adapter in adapters]

    def _value(self, adapter: Adapter, now: float) -> float:
        value, at_s = self._values.get(adapter, (0.0, now))
        return value * math.exp((at_s - now) / self._tau_s)
