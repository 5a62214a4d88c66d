"""Chameleon's scheduler: lanes by k-means over recent requests, quotas from a queueing model; its static variant."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from policies.arguments import above, at_least, one_of
from policies.base import Batch, Facts, FloatArray, IntArray, Request
from policies.clustering import Choice, choose_k, cutoffs, partitions, sample
from policies.lanes import ChargeAdapter, LaneScheduler, Lending, Maxima, Size, Total

Remainder = Literal["minimum", "equal"]


class Division(NamedTuple):
    """The lanes as one refresh left them; `minimum_tokens` may add up to more than there is."""

    at_s: float
    cuts: tuple[float, ...]
    quotas: tuple[int, ...]
    minimum_tokens: tuple[float, ...]


class Window:
    """What has happened since the last refresh: arrivals, and durations (finish minus admission).

    A duration counts as a guess where it is the iteration model's; guesses serve while nothing has finished.
    """

    __slots__ = ("_charges", "_durations", "_guesses", "_since_s", "weights")

    def __init__(self, since_s: float) -> None:
        self.weights: list[float] = []
        self._charges: list[int] = []
        self._durations: list[tuple[float, float]] = []
        self._guesses: list[tuple[float, float]] = []
        self._since_s = since_s

    def arrived(self, weight: float, tokens: int) -> None:
        """Note an arrival and its whole charge."""
        self.weights.append(weight)
        self._charges.append(tokens)

    def finished(self, weight: float, duration_s: float) -> None:
        """Note how long a request of this weight took."""
        self._durations.append((weight, duration_s))

    def guessed(self, weight: float, duration_s: float) -> None:
        """Note how long a request of this weight is expected to take."""
        self._guesses.append((weight, duration_s))

    def minimum_tokens(self, cuts: list[float], now: float, facts: Facts, refresh_s: float) -> FloatArray:
        """Return Tok_min = S D (1/SLO + lambda) of every lane; shape (lanes,), tokens.

        S is the largest charge, D the mean duration in seconds, lambda the arrivals per second.
        """
        lanes = len(cuts) + 1
        lane = np.searchsorted(cuts, self.weights)
        largest = np.zeros(lanes)
        np.maximum.at(largest, lane, self._charges)
        # All of a burst may arrive in one instant: then the window is the period itself.
        rate = np.bincount(lane, minlength=lanes) / (now - self._since_s or refresh_s)
        tokens: FloatArray = largest * self._duration_s(cuts, facts.ttft_slo_s) * (1 / facts.ttft_slo_s + rate)
        return tokens

    def _duration_s(self, cuts: list[float], slo_s: float) -> FloatArray:
        """Per lane: mean of the finished, else of the guesses, else that of all lanes, else SLO/5 as in the paper."""
        duration_s, everywhere_s = np.full(len(cuts) + 1, np.nan), np.nan
        for samples in (self._durations, self._guesses):
            if samples:
                weights, seconds = np.array(samples).T
                by_lane, count = _sums(np.searchsorted(cuts, weights), seconds, len(cuts) + 1)
                known = (count > 0) & np.isnan(duration_s)
                duration_s[known] = by_lane[known] / count[known]
                everywhere_s = seconds.mean() if np.isnan(everywhere_s) else everywhere_s
        fallback_s = slo_s / 5 if np.isnan(everywhere_s) else everywhere_s
        return np.where(np.isnan(duration_s), fallback_s, duration_s)


def _sums(lane: IntArray, seconds: FloatArray, lanes: int) -> tuple[FloatArray, IntArray]:
    total: FloatArray = np.bincount(lane, weights=seconds, minlength=lanes).astype(np.float64)
    return total, np.bincount(lane, minlength=lanes)


def divide(total_tokens: int, minimum_tokens: FloatArray, remainder: Remainder) -> list[int]:
    """Return whole-token quotas that add up to at most the total.

    Lanes get their minimum and a part of the remainder, in proportion to the minimum or equal; minima that add up to
    more than the total are scaled down.
    """
    lanes, needed = len(minimum_tokens), float(minimum_tokens.sum())
    if needed <= 0:
        return [total_tokens // lanes] * lanes
    if remainder == "equal" and needed < total_tokens:
        shares = minimum_tokens + (total_tokens - needed) / lanes
    else:
        shares = total_tokens * (minimum_tokens / needed)
    quotas: list[int] = np.floor(shares).astype(np.int64).tolist()
    return quotas


class MultiQueue(LaneScheduler):
    """Chameleon's scheduler: k-means lanes over weighted request sizes, with quotas from a queueing model.

    Lanes and quotas are drawn up when `first_refresh` requests have arrived and every `refresh_s` seconds from then on.

    Attributes:
        a, b: weights of input and predicted output in the request size.
        size: "wrs", their sum times the adapter's size; "output", the predicted output alone.
        maxima: "trace", sizes relative to the workload's largest; "running", to the largest that has arrived.
        base_share: size of the base model's missing adapter relative to the largest (rank 1 beside rank 128).
        max_lanes: most lanes.
        choice: how many lanes: "elbow" or "argmin" (see `policies.clustering.choose_k`).
        elbow: share of the total scatter that one more lane must remove.
        first_refresh: requests before the first division into lanes.
        refresh_s: seconds between divisions, and the window of what they look at.
        remainder: tokens beyond the minima are dealt out in proportion to the "minimum" or "equal".
        charge_adapter: "per_request", or "once" while anybody uses it.
        lending: "pool", empty lanes' spare as long as the pool has free tokens, which may lend it more than once;
            "net", less what is lent already.
        bypass: whether a younger request may pass a head whose adapter finds no room.
        bypass_lookahead: younger requests that are looked at; None for the whole lane.
        squash: whether a request that has passed gives way once the head could run in its place.
        total: tokens that quotas share out: of all "memory" for KV and adapters, since both are charged, or of "kv".
    """

    name = "multi-queue"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), Algorithm 1"

    def __init__(  # noqa: PLR0913 - one keyword for each rule that the paper leaves open
        self,
        *,
        a: float = 0.4,
        b: float = 0.6,
        size: Size = "wrs",
        maxima: Maxima = "trace",
        base_share: float = 1 / 128,
        max_lanes: int = 4,
        choice: Choice = "elbow",
        elbow: float = 0.1,
        first_refresh: int = 200,
        refresh_s: float = 300.0,
        remainder: Remainder = "minimum",
        charge_adapter: ChargeAdapter = "per_request",
        lending: Lending = "pool",
        bypass: bool = True,
        bypass_lookahead: int | None = 32,
        squash: bool = True,
        total: Total = "memory",
    ) -> None:
        super().__init__(
            lanes=at_least("max_lanes", max_lanes, 1),
            a=a,
            b=b,
            size=size,
            maxima=maxima,
            base_share=base_share,
            charge_adapter=charge_adapter,
            lending=lending,
            bypass=bypass,
            bypass_lookahead=bypass_lookahead,
            squash=squash,
            total=total,
        )
        self.max_lanes = max_lanes
        self.choice = one_of("choice", choice, get_args(Choice))
        self.elbow = at_least("elbow", elbow, 0)
        self.first_refresh = at_least("first_refresh", first_refresh, 1)
        self.refresh_s = above("refresh_s", refresh_s, 0)
        self.remainder = one_of("remainder", remainder, get_args(Remainder))
        self.divisions: list[Division] = []
        self._facts: Facts | None = None
        self._window: Window | None = None
        self._wakes_at_s: float | None = None

    def start(self, facts: Facts) -> None:
        """Give one lane the whole pool."""
        super().start(facts)
        self._facts = facts

    def wakes_at_s(self) -> float | None:
        """Return the time of the next division; None before the first, which waits for enough requests."""
        return self._wakes_at_s

    def woken(self, now: float) -> None:
        """Draw up lanes and quotas anew."""
        self._refresh(now)

    def _noted_arrival(self, request: Request, now: float) -> None:
        if self._window is None:
            self._window = Window(now)
        self._window.arrived(request.weight, self._ledger.full_cost(request))
        if not self.divisions and len(self._window.weights) >= self.first_refresh:
            self._refresh(now)

    def _noted_admission(self, request: Request, batch: Batch) -> None:
        # Later windows hold durations that were seen.
        if self._window is not None and not self.divisions:
            self._window.guessed(request.weight, batch.execution_s(request))

    def _noted_finish(self, request: Request, duration_s: float) -> None:
        if self._window is not None:
            self._window.finished(request.weight, duration_s)

    def _refresh(self, now: float) -> None:
        window, facts = self._window, self._facts
        if window is not None and facts is not None and window.weights:
            points = sample(window.weights)
            found = partitions(points, self.max_lanes)
            k = choose_k([clusters.wcss for clusters in found], self.choice, self.elbow)
            cuts = cutoffs(found[k - 1].centroids)
            minimum = window.minimum_tokens(cuts, now, facts, self.refresh_s)
            quotas = divide(self._total_tokens, minimum, self.remainder)
            self._divide(cuts, quotas)
            self.divisions.append(Division(now, tuple(cuts), tuple(quotas), tuple(minimum.tolist())))
        self._window = Window(now)
        self._wakes_at_s = now + self.refresh_s


class StaticLanes(LaneScheduler):
    """Chameleon's static variant: lanes of equal width in request size and of equal quota, for ever.

    Attributes:
        lanes: how many.
        a, b, size, maxima, base_share, charge_adapter, lending, bypass, bypass_lookahead, squash, total: see
            `MultiQueue`.
    """

    name = "static-lanes"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), Figure 22"

    def __init__(  # noqa: PLR0913 - one keyword for each rule that the paper leaves open
        self,
        *,
        lanes: int = 4,
        a: float = 0.4,
        b: float = 0.6,
        size: Size = "wrs",
        maxima: Maxima = "trace",
        base_share: float = 1 / 128,
        charge_adapter: ChargeAdapter = "per_request",
        lending: Lending = "pool",
        bypass: bool = True,
        bypass_lookahead: int | None = 32,
        squash: bool = True,
        total: Total = "memory",
    ) -> None:
        super().__init__(
            lanes=lanes,
            a=a,
            b=b,
            size=size,
            maxima=maxima,
            base_share=base_share,
            charge_adapter=charge_adapter,
            lending=lending,
            bypass=bypass,
            bypass_lookahead=bypass_lookahead,
            squash=squash,
            total=total,
        )
        self.lanes = lanes

    def start(self, facts: Facts) -> None:
        """Cut the range of weights, from nothing to a largest request, into equal parts."""
        super().start(facts)
        largest = 1.0 if self.size == "output" else self.a + self.b
        cuts = [largest * i / self.lanes for i in range(1, self.lanes)]
        self._divide(cuts, [self._total_tokens // self.lanes] * self.lanes)
