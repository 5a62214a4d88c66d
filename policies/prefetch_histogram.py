"""Prefetching by a histogram of each adapter's gaps between requests, as serverless platforms keep functions alive."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from policies.arguments import above, at_least
from policies.base import Adapter
from policies.prefetch import Foreseeing, fraction

OUTSIDE_SHARE = 0.5  # of gaps beyond the range, from which they are forecast one by one
FORECAST_MARGIN = 0.15  # on each side of a forecast gap
NEWEST_GAP_WEIGHT = 0.5


class Gaps:
    """Gaps between the requests of one adapter, in bins of `bin_s`; those beyond the last bin are only counted."""

    __slots__ = ("_bin_s", "_bins", "_inside", "_squares", "count", "mean_s")

    def __init__(self, bin_s: float, bins: int) -> None:
        self._bin_s = bin_s
        self._bins = bins
        self._inside: list[int] = []  # the bin of each gap, in rising order
        self._squares = 0  # sum over bins of count squared
        self.count = 0
        self.mean_s = 0.0  # the newest gap weighs half

    def add(self, gap_s: float) -> None:
        """Count a gap."""
        self.mean_s = gap_s if not self.count else self.mean_s + NEWEST_GAP_WEIGHT * (gap_s - self.mean_s)
        self.count += 1
        place = int(gap_s / self._bin_s)
        if place < self._bins:
            before = bisect_right(self._inside, place) - bisect_left(self._inside, place)
            self._squares += 2 * before + 1
            insort(self._inside, place)

    @property
    def outside_share(self) -> float:
        """Share of gaps beyond the range."""
        return 1 - len(self._inside) / self.count if self.count else 0.0

    @property
    def variation(self) -> float:
        """Standard deviation over mean of the counts of all bins; 0 if they are empty."""
        mean = len(self._inside) / self._bins
        return math.sqrt(max(0.0, self._squares / self._bins - mean * mean)) / mean if mean else 0.0

    def starts_s(self, share: float) -> float:
        """Return the lower edge of the bin that holds this percentile (a share of 1) of the gaps inside the range."""
        return self._inside[max(0, math.ceil(share * len(self._inside)) - 1)] * self._bin_s

    def ends_s(self, share: float) -> float:
        """Return the upper edge of that bin."""
        return self.starts_s(share) + self._bin_s


class Window(NamedTuple):
    """When an adapter is wanted, and when in it its next request is expected; instants in seconds."""

    opens_s: float
    closes_s: float
    expected_s: float


class Windows:
    """One window per adapter, and which of them are open; it learns of time by `add` and `pass_to` alone."""

    def __init__(self) -> None:
        self._windows: dict[Adapter, Window] = {}
        self._open: list[tuple[float, str]] = []  # rising (expected_s, adapter id)
        self._adapters: dict[str, Adapter] = {}
        self._edges: list[tuple[float, str]] = []  # heap of instants at which a window opens or closes

    def __iter__(self) -> Iterator[Adapter]:
        """Yield adapters with an open window, the next expected first."""
        return (self._adapters[adapter_id] for _, adapter_id in self._open)

    def add(self, adapter: Adapter, window: Window, now: float) -> None:
        """Put a window in place of the adapter's old one."""
        self._adapters[adapter.id] = adapter
        self._close(adapter)
        self._windows[adapter] = window
        if window.opens_s > now:
            heappush(self._edges, (window.opens_s, adapter.id))
        elif window.closes_s > now:
            self._open_now(adapter)
        self._forget_replaced()

    def next_edge_s(self) -> float | None:
        """Return when the next window opens or closes."""
        return self._edges[0][0] if self._edges else None

    def pass_to(self, now: float) -> None:
        """Open and close what is due."""
        while self._edges and self._edges[0][0] <= now:
            at_s, adapter_id = heappop(self._edges)
            adapter = self._adapters[adapter_id]
            self._close(adapter)
            if at_s == self._windows[adapter].opens_s:
                self._open_now(adapter)
            self._forget_replaced()

    def _open_now(self, adapter: Adapter) -> None:
        window = self._windows[adapter]
        insort(self._open, (window.expected_s, adapter.id))
        heappush(self._edges, (window.closes_s, adapter.id))

    def _close(self, adapter: Adapter) -> None:
        window = self._windows.get(adapter)
        if window is not None:
            place = bisect_left(self._open, (window.expected_s, adapter.id))
            if self._open[place : place + 1] == [(window.expected_s, adapter.id)]:
                del self._open[place]

    def _forget_replaced(self) -> None:
        """Drop due edges of windows that are no more, so that nobody is woken for them."""
        while self._edges and self._is_replaced(*self._edges[0]):
            heappop(self._edges)

    def _is_replaced(self, at_s: float, adapter_id: str) -> bool:
        window = self._windows[self._adapters[adapter_id]]
        return at_s not in {window.opens_s, window.closes_s}


class Histogram(Foreseeing):
    """Bring in an adapter from the head to the tail of its gaps after each request, the next expected first.

    An adapter with few gaps, or gaps spread evenly over the bins, is wanted for a fixed time after each request; one
    whose gaps are mostly beyond the range, around a forecast of its next gap, here a fading mean in place of ARIMA.
    Evicting it until the head is the cache's affair, not a prefetcher's.

    Attributes:
        bin_s: seconds of a bin (serverless: 60).
        bins: bins of the range (serverless: 240).
        head: percentile of gaps, as a share of 1, at which it is brought in, less the margin.
        tail: percentile of gaps until which it is wanted, plus the margin.
        margin: share of the head and the tail.
        variation: least standard deviation over mean of the bins' counts for the histogram to be used.
        gaps: least number of gaps for it to be used.
        keep_alive_s: the fixed time; None for the range.
    """

    name = "histogram"
    source = "Shahrad et al., Serverless in the Wild (ATC'20), hybrid histogram policy; Chameleon (arXiv 2411.17741)"

    def __init__(
        self,
        *,
        bin_s: float = 0.1,
        bins: int = 3000,
        head: float = 0.05,
        tail: float = 0.99,
        margin: float = 0.10,
        variation: float = 2.0,
        gaps: int = 10,
        keep_alive_s: float | None = None,
    ) -> None:
        self.bin_s = above("bin_s", bin_s, 0)
        self.bins = at_least("bins", bins, 1)
        self.head = fraction("head", head)
        self.tail = fraction("tail", at_least("tail", tail, head))
        self.margin = fraction("margin", margin) if margin else 0.0
        self.variation = at_least("variation", variation, 0)
        self.gaps = at_least("gaps", gaps, 1)
        self.keep_alive_s = None if keep_alive_s is None else above("keep_alive_s", keep_alive_s, 0)
        self._fixed_s = bin_s * bins if keep_alive_s is None else keep_alive_s
        self._gaps: dict[Adapter, Gaps] = {}
        self._last_s: dict[Adapter, float] = {}
        self._windows = Windows()

    def used(self, adapter: Adapter, now: float) -> None:
        """Count the gap since the adapter's last request, and expect the next."""
        gaps = self._gaps.setdefault(adapter, Gaps(self.bin_s, self.bins))
        if adapter in self._last_s:
            gaps.add(now - self._last_s[adapter])
        self._last_s[adapter] = now
        opens_s, closes_s, expected_s = self._after(gaps)
        self._windows.add(adapter, Window(now + opens_s, now + closes_s, now + expected_s), now)

    def wakes_at_s(self) -> float | None:
        """Return when an adapter begins or ceases to be wanted."""
        return self._windows.next_edge_s()

    def woken(self, now: float) -> None:
        """Take note of it."""
        self._windows.pass_to(now)

    def _foreseen(self, queued: int) -> Iterable[Adapter]:  # noqa: ARG002 - the queue does not change gaps
        return self._windows

    def _after(self, gaps: Gaps) -> Window:
        """Return a window in seconds since the last request."""
        if gaps.count < self.gaps:
            return Window(0.0, self._fixed_s, self._fixed_s)
        if gaps.outside_share > OUTSIDE_SHARE:
            return Window(gaps.mean_s * (1 - FORECAST_MARGIN), gaps.mean_s * (1 + FORECAST_MARGIN), gaps.mean_s)
        if gaps.variation < self.variation:
            return Window(0.0, self._fixed_s, self._fixed_s)
        opens_s, closes_s = gaps.starts_s(self.head) * (1 - self.margin), gaps.ends_s(self.tail) * (1 + self.margin)
        return Window(opens_s, closes_s, gaps.starts_s(0.5))
