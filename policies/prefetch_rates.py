"""Prefetchers that go by how often each adapter is asked for: by worth, by the chance of a use soon, by a forecast."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, get_args

from policies.arguments import above, at_least, one_of
from policies.base import Adapter, Facts
from policies.prefetch import Foreseeing, fraction

Per = Literal["byte", "adapter"]
NEGLIGIBLE = 1e-6  # smoothed requests per bin below which an adapter is forgotten


class FadingRates:
    """Arrivals per second, each weighted by exp(-age / tau); tau is half the window, as in `policies.frequency`.

    All rates fade alike, so that the order of adapters by rate x weight changes only for the one that has arrived.
    """

    __slots__ = ("_adapters", "_logs", "_order", "_tau_s", "_total", "_weight")

    def __init__(self, window_s: float, weight: Callable[[Adapter], float]) -> None:
        self._tau_s = window_s / 2
        self._weight = weight
        self._logs: dict[Adapter, float] = {}  # ln(count) + time of the count / tau, which fading leaves as it is
        self._total = -math.inf
        self._order: list[tuple[float, str]] = []  # rising (-ln(rate x weight), adapter id)
        self._adapters: dict[str, Adapter] = {}

    def __iter__(self) -> Iterator[Adapter]:
        """Yield every adapter that ever arrived, by falling rate x weight."""
        return (self._adapters[adapter_id] for _, adapter_id in self._order)

    def add(self, adapter: Adapter, now: float) -> None:
        """Count an arrival."""
        self._adapters[adapter.id] = adapter
        old = self._logs.get(adapter)
        if old is not None:
            del self._order[bisect_left(self._order, self._place(adapter, old))]
        new = self._logs[adapter] = self._plus_one(-math.inf if old is None else old, now)
        insort(self._order, self._place(adapter, new))
        self._total = self._plus_one(self._total, now)

    def per_s(self, adapter: Adapter, now: float) -> float:
        """Return the arrivals per second of one adapter."""
        return self._rate(self._logs.get(adapter, -math.inf), now)

    def total_per_s(self, now: float) -> float:
        """Return the arrivals per second of all."""
        return self._rate(self._total, now)

    def _rate(self, log: float, now: float) -> float:
        return math.exp(log - now / self._tau_s) / self._tau_s

    def _plus_one(self, log: float, now: float) -> float:
        return math.log(math.exp(log - now / self._tau_s) + 1) + now / self._tau_s

    def _place(self, adapter: Adapter, log: float) -> tuple[float, str]:
        return -log - math.log(max(self._weight(adapter), 1e-300)), adapter.id


class Rate(Foreseeing):
    """Bring in what saves the most: arrival rate x seconds of a load, per byte of memory or as it is.

    For arrivals without memory, a set that is filled by this value per byte is the best fixed one.

    Attributes:
        per: value "byte" by byte, or of the whole "adapter".
        top: adapters of the highest value that are wanted; None for all that fit.
        window_s: seconds of arrivals that count, fading with age.
    """

    name = "rate"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), prediction of future load, by arrival rates"

    def __init__(self, *, per: Per = "byte", top: int | None = None, window_s: float = 300.0) -> None:
        self.per = one_of("per", per, get_args(Per))
        self.top = None if top is None else at_least("top", top, 1)
        self.window_s = above("window_s", window_s, 0)
        self._load_s: Callable[[Adapter], float] = lambda adapter: 0.0  # noqa: ARG005
        self._rates = FadingRates(window_s, self._cost)

    def start(self, facts: Facts) -> None:
        """Learn what a load costs."""
        self._load_s = facts.load_s

    def used(self, adapter: Adapter, now: float) -> None:
        """Count an arrival."""
        self._rates.add(adapter, now)

    def _cost(self, adapter: Adapter) -> float:
        cost_s = self._load_s(adapter)
        return cost_s / max(1, adapter.size_bytes) if self.per == "byte" else cost_s

    def _foreseen(self, queued: int) -> Iterable[Adapter]:  # noqa: ARG002 - the queue does not change rates
        return islice(self._rates, self.top)


class UseWithin(Foreseeing):
    """Bring in what is likely needed before it could be loaded on demand, the most likely first.

    The chance is 1 - exp(-rate x horizon), as of the latest arrival. The horizon is the adapter's load time, plus the
    queueing delay by Little's law (waiting requests / arrival rate of all), plus a margin.

    Attributes:
        threshold: chance from which an adapter is wanted, below 1.
        margin_s: seconds by which a prefetch may be early.
        window_s: seconds of arrivals that count, fading with age.
    """

    name = "use-within"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), prediction of future load, by Poisson arrivals"

    def __init__(self, *, threshold: float = 0.1, margin_s: float = 1.0, window_s: float = 300.0) -> None:
        self.threshold = fraction("threshold", threshold)
        self.margin_s = at_least("margin_s", margin_s, 0)
        self.window_s = above("window_s", window_s, 0)
        self._rates = FadingRates(window_s, lambda adapter: 1.0)  # noqa: ARG005
        self._load_s: Callable[[Adapter], float] = lambda adapter: 0.0  # noqa: ARG005
        self._longest_load_s = 0.0
        self._clock_s = 0.0

    def start(self, facts: Facts) -> None:
        """Learn how long loads take."""
        self._load_s = facts.load_s

    def used(self, adapter: Adapter, now: float) -> None:
        """Count an arrival."""
        self._clock_s = now
        self._rates.add(adapter, now)
        self._longest_load_s = max(self._longest_load_s, self._load_s(adapter))

    def _foreseen(self, queued: int) -> Iterable[Adapter]:
        total_per_s = self._rates.total_per_s(self._clock_s)
        early_s = self.margin_s + (queued / total_per_s if total_per_s else 0.0)
        enough = -math.log1p(-self.threshold)
        likely = []
        for adapter in self._rates:
            per_s = self._rates.per_s(adapter, self._clock_s)
            if per_s * (self._longest_load_s + early_s) < enough:
                break
            uses = per_s * (self._load_s(adapter) + early_s)
            if uses >= enough:
                likely.append((-uses, adapter.id, adapter))
        return [adapter for *_, adapter in sorted(likely)]


class PLoRA(Foreseeing):
    """Bring in the adapters that a forecast of requests per bin expects most, as many as make up a share of all.

    P-LoRA trains a two-layer LSTM (64 units) on counts per adapter and prefetches the top p. There is no network here:
    the counts of the next bin are extrapolated by double exponential smoothing (Brown), which sees a level and a trend
    but no period and nothing between adapters, and needs no training. "Top p" is read as the fewest adapters whose
    forecasts make up a share p of the total. P-LoRA's memory pages are no part of a prefetcher.

    Attributes:
        bin_s: seconds of a bin.
        smoothing: weight of the newest bin, below 1.
        share: p, below 1.
    """

    name = "p-lora"
    source = "P-LoRA (arXiv 2512.20210), its LSTM replaced by Brown's double exponential smoothing"

    def __init__(self, *, bin_s: float = 10.0, smoothing: float = 0.3, share: float = 0.9) -> None:
        self.bin_s = above("bin_s", bin_s, 0)
        self.smoothing = fraction("smoothing", smoothing)
        self.share = fraction("share", share)
        self._bin = 0
        self._counts: dict[Adapter, int] = {}  # of the bin under way
        self._smoothed: dict[Adapter, tuple[float, float]] = {}  # up to the bin before it
        self._expected: list[Adapter] = []

    def used(self, adapter: Adapter, now: float) -> None:
        """Count an arrival, once the bins that have ended are in the forecast."""
        current = int(now / self.bin_s)
        if current > self._bin:
            self._close(current - self._bin)
            self._bin = current
        self._counts[adapter] = self._counts.get(adapter, 0) + 1

    def _foreseen(self, queued: int) -> Iterable[Adapter]:  # noqa: ARG002 - the queue does not change the forecast
        return self._expected

    def _close(self, bins: int) -> None:
        """Take in the counts of the bin under way and of the empty ones after it."""
        known = dict.fromkeys([*self._smoothed, *self._counts])
        smoothed = {adapter: self._smooth(adapter, bins - 1) for adapter in known}
        self._smoothed = {adapter: pair for adapter, pair in smoothed.items() if pair[0] > NEGLIGIBLE}
        self._counts = {}
        self._expected = list(self._top())

    def _smooth(self, adapter: Adapter, empty_bins: int) -> tuple[float, float]:
        weight = self.smoothing
        once, twice = self._smoothed.get(adapter, (0.0, 0.0))
        once += weight * (self._counts.get(adapter, 0) - once)
        twice += weight * (once - twice)
        left = (1 - weight) ** empty_bins
        return left * once, left * (twice + empty_bins * weight * once)

    def _top(self) -> Iterator[Adapter]:
        forecasts = {adapter: self._forecast(*pair) for adapter, pair in self._smoothed.items()}
        missing = self.share * sum(forecasts.values())
        for adapter in sorted(forecasts, key=lambda adapter: (-forecasts[adapter], adapter.id)):
            if missing <= 0 or forecasts[adapter] <= 0:
                return
            missing -= forecasts[adapter]
            yield adapter

    def _forecast(self, once: float, twice: float) -> float:
        trend = (once - twice) * self.smoothing / (1 - self.smoothing)
        return max(0.0, 2 * once - twice + trend)
