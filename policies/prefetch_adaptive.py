"""Prefetching as far as it pays: what is likely, while the measured accuracy is worth the time of the link."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from policies.base import Adapter, Facts, FloatArray
from policies.mixture import UseForecast
from policies.prefetch import Foreseeing

BoolArray = npt.NDArray[np.bool_]

LEVELS = np.array([[0.25], [0.5], [0.75], [1.0]])  # of the memory that KV and adapters share
FADE = 1 - 1 / 256  # of the books, with every arrival
GAP_STEP = 1 / 64  # of the mean time between arrivals
FIRST_ARRIVALS = 16  # before these nobody can say how fast they come
TURNOVER = 2.5  # transfers of what was only foreseen that an arrival causes where memory is short, as seen there


class Books:
    """How many of the adapters that came to be among the best were used before they were no longer; by level.

    A prefetcher is not told what became of its transfers, so it keeps books as if each level were a memory that always
    holds the best adapters that fit it. An adapter that comes in by its own use counts neither way.
    """

    def __init__(self) -> None:
        self._inside: BoolArray = np.zeros((len(LEVELS), 0), dtype=np.bool_)
        self._settled: BoolArray = np.zeros((len(LEVELS), 0), dtype=np.bool_)
        self._useful = np.ones(len(LEVELS))
        self._issued = np.ones(len(LEVELS))

    @property
    def accuracy(self) -> FloatArray:
        """Useful / issued of each level, shape (levels,); 1 before anything is known."""
        share: FloatArray = self._useful / self._issued
        return share

    def used(self, row: int) -> None:
        """Take in an arrival: the adapter proves useful wherever it is inside."""
        self._useful *= FADE
        self._issued *= FADE
        if row < self._inside.shape[1]:
            proven = self._inside[:, row] & ~self._settled[:, row]
            self._useful += proven
            self._issued += proven

    def move(self, inside: BoolArray, row: int) -> None:
        """Take in who is inside each level after that arrival, shape (levels, adapters); `row` is the adapter used."""
        if self._inside.shape != inside.shape:
            self._grow(inside.shape[1] - self._inside.shape[1])
        self._issued += (self._inside & ~inside & ~self._settled).sum(axis=1)
        self._inside, self._settled = inside, self._inside & inside & self._settled
        self._settled[:, row] = True

    def _grow(self, more: int) -> None:
        self._inside, self._settled = (np.pad(one, ((0, 0), (0, more))) for one in (self._inside, self._settled))


class AdaptivePrefetch(Foreseeing):
    """Bring in waiting adapters; then, into free memory only, those whose expected saving exceeds the expected harm.

    Adapters are ranked by their chance of being asked for next * load seconds / size, forecast as `policies.mixture`
    says, down to what memory could hold. A prefetch saves a load if it is used, with the accuracy that was measured at
    its depth of the ranking. It harms by keeping the link from a load on demand: one that comes during the transfer,
    at the rate of arrivals that the ranking does not cover, waits for half of it, and by 1 / (1 - use) longer on a link
    that is in use. So a slow link, fast arrivals and an unsteady ranking all make it careful, and where prefetching
    could fill the link only waiting adapters are wanted. While requests wait, their KV will take what is free now, so
    that only what fits beside a full KV pool is foreseen. Nothing is to be tuned.
    """

    name = "adaptive"
    source = "our own"

    def __init__(self) -> None:
        self._forecast = UseForecast()
        self._books = Books()
        self._load_s: Callable[[Adapter], float] = lambda adapter: 0.0  # noqa: ARG005
        self._memory_bytes = 0
        self._lasting_bytes = 0  # of it, what KV can never take
        self._last_s = 0.0
        self._gap_s = 0.0
        self._arrivals = 0
        self._adapters: list[Adapter] = []
        self._loads_s = self._size_bytes = self._density = np.zeros(0)  # of each
        self._wanted: list[int] = []  # their places, the best first
        self._lasting: list[int] = []  # of these, what fits into the memory that KV can never take

    def start(self, facts: Facts) -> None:
        """Learn who is registered, what a load costs and how much memory there is."""
        self._load_s = facts.load_s
        self._memory_bytes = facts.memory_tokens * facts.kv_token_bytes
        self._lasting_bytes = self._memory_bytes - facts.kv_tokens * facts.kv_token_bytes
        self._forecast = UseForecast(facts.adapters)

    def used(self, adapter: Adapter, now: float) -> None:
        """Take in an arrival: the time since the last, what it proves, and the ranking after it."""
        self._time(now)
        row = self._forecast.add(adapter)
        self._books.used(row)
        self._rank(row)

    def _foreseen(self, queued: int) -> Iterable[Adapter]:
        return (self._adapters[row] for row in (self._lasting if queued else self._wanted))

    def _time(self, now: float) -> None:
        gap_s, self._last_s = now - self._last_s, now
        if self._arrivals:
            self._gap_s += max(GAP_STEP, 1 / self._arrivals) * (gap_s - self._gap_s)
        self._arrivals += 1

    def _rank(self, row: int) -> None:
        self._know_all()
        chance = np.array(self._forecast.chances())
        order = np.argsort(-chance * self._density, kind="stable")
        reach_bytes = np.empty(len(order))
        reach_bytes[order] = np.cumsum(self._size_bytes[order])
        inside = reach_bytes <= LEVELS * self._memory_bytes
        self._books.move(inside, row)
        uncovered = 1 - float(chance[inside[-1]].sum())
        pays = inside[-1] & (self._saving(inside) >= self._harm(uncovered))
        best = order[pays[order]]
        self._wanted = best.tolist()
        self._lasting = best[reach_bytes[best] <= self._lasting_bytes].tolist()

    def _know_all(self) -> None:
        if len(self._adapters) < len(self._forecast.adapters):
            self._adapters = list(self._forecast.adapters)
            self._loads_s = np.array([self._load_s(adapter) for adapter in self._adapters])
            self._size_bytes = np.array([max(1, adapter.size_bytes) for adapter in self._adapters])
            self._density = self._loads_s / self._size_bytes

    def _saving(self, inside: BoolArray) -> FloatArray:
        """Return the share of a load that a prefetch is expected to save, by the smallest level that holds it."""
        level = np.minimum(len(LEVELS) - inside.sum(axis=0), len(LEVELS) - 1)
        saving: FloatArray = self._books.accuracy[level]
        return saving

    def _harm(self, uncovered: float) -> FloatArray:
        """Return the seconds that others are expected to wait, as a share of the load that it may save."""
        busy = (uncovered + TURNOVER) * float(self._loads_s.mean())  # of the link, s for each arrival
        if self._arrivals < FIRST_ARRIVALS or self._gap_s <= busy:
            return np.full(len(self._loads_s), np.inf)
        harm: FloatArray = uncovered * self._loads_s / 2 / (self._gap_s - busy)
        return harm
