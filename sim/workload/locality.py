"""Which adapter each request names, in order of arrival: alone, or in sessions under a drifting popularity.

Statistics: sessions, repeats, drift and rate of GenTD26 (github.com/alibaba/clusterdata; Lin et al., SoCC 2025).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from sim.workload.popularity import FloatArray, IntArray, Popularity, RoundRobinPopularity, draw, shuffled_within

Streams = Mapping[str, np.random.Generator]


class Locality(BaseModel):
    """How requests hang together in time; without it every request draws its adapter independently."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    session_requests_mean: float = Field(default=7.0, ge=1, description="mean requests in a session (geometric)")
    repeat_probability: float = Field(default=0.79, ge=0, le=1, description="chance that a session keeps its adapter")
    session_gap_median_s: float = Field(default=120.0, gt=0, description="median gap inside a session, s (lognormal)")
    session_gap_sigma: float = Field(
        default=0.8, ge=0, le=3, description="standard deviation of ln(gap inside a session)"
    )
    # a quarter each 6 h leaves about 5 of the top 20 after a tenth of GenTD26; its data say 2 to 8
    drift_share: float = Field(
        default=0.25, ge=0, le=1, description="share of adapters whose popularity is redrawn each epoch"
    )
    epoch_s: float = Field(default=21600.0, gt=0, description="length of an epoch of constant popularity, s")
    at_rate_per_s: float = Field(
        default=0.0135,
        gt=0,
        description="requests per second of the traffic to which gaps and epochs belong; another rate rescales them",
    )

    def note(self, rate_per_s: float | None) -> str:
        """Return what the output must say: how long a session's gap is at the rate that is simulated."""
        if rate_per_s is None:
            return f"adapters follow sessions whose gaps are those of {self.at_rate_per_s:g} requests/s"
        gap_s = self.session_gap_median_s * self.at_rate_per_s / rate_per_s
        given = f"{self.session_gap_median_s:g} s at {self.at_rate_per_s:g} requests/s"
        return f"adapters follow sessions; their median gap, {given}, is {gap_s:.3g} s at {rate_per_s:g}"


def _session_times_s(locality: Locality, count: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray, float]:
    """Return the time and the session of every request of `count` sessions, and when the last session starts."""
    between_s = locality.session_requests_mean / locality.at_rate_per_s
    starts_s = np.cumsum(rng.standard_exponential(count)) * between_s
    sizes = rng.geometric(1 / locality.session_requests_mean, count)
    owner = np.repeat(np.arange(count), sizes)
    gaps_s = rng.lognormal(math.log(locality.session_gap_median_s), locality.session_gap_sigma, len(owner))
    first = np.cumsum(sizes) - sizes
    since_s = np.cumsum(gaps_s)
    return starts_s[owner] + since_s - since_s[first][owner], owner, float(starts_s[-1])


def sessions(requests: int, locality: Locality, rng: np.random.Generator) -> IntArray:
    """Return the session of each request in order of arrival, shape (requests,), from a process already in balance."""
    mean_gap_s = locality.session_gap_median_s * math.exp(locality.session_gap_sigma**2 / 2)
    # 8 mean sessions: one in 5000 lasts longer, so the sessions under way at the start are all there
    warm_s = 8 * locality.session_requests_mean * mean_gap_s
    needed = (requests / locality.at_rate_per_s + warm_s) * locality.at_rate_per_s / locality.session_requests_mean
    count = math.ceil(1.2 * needed) + 50
    while True:
        time_s, owner, end_s = _session_times_s(locality, count, rng)
        inside = np.flatnonzero((time_s >= warm_s) & (time_s < end_s))
        if len(inside) >= requests:
            return owner[inside[np.argsort(time_s[inside], kind="stable")[:requests]]]
        count *= 2


def _follow(fresh: IntArray, session: IntArray, repeats: npt.NDArray[np.bool_]) -> IntArray:
    """Return adapters: a request that repeats takes its session's last one, the others their fresh draw."""
    order = np.argsort(session, kind="stable")
    starts = np.append(True, np.diff(session[order]) != 0) | ~repeats[order]
    source = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    result = np.empty_like(fresh)
    result[order] = fresh[order][source]
    return result


def _drifting(
    popularity: Popularity,
    shares: FloatArray,
    ranks: IntArray,
    locality: Locality,
    uniform: FloatArray,
    rng: np.random.Generator,
) -> IntArray:
    """Return independent draws whose popularity moves from epoch to epoch; `uniform` has shape (2, requests)."""
    requests = uniform.shape[1]
    epoch_requests = max(1, round(locality.epoch_s * locality.at_rate_per_s))
    parts = []
    for start in range(0, requests, epoch_requests):
        if start:
            moves = rng.permutation(len(shares)) < round(locality.drift_share * len(shares))
            alone = np.arange(len(shares)) + 1 + int(ranks.max())  # a label of its own keeps an adapter in place
            shares = shuffled_within(shares, np.where(moves, popularity.groups(ranks), alone), rng)
        parts.append(draw(shares, ranks, *uniform[:, start : start + epoch_requests]))
    return np.concatenate(parts)


def assign(
    popularity: Popularity, ranks: IntArray, requests: int, locality: Locality | None, rngs: Streams
) -> IntArray:
    """Return the adapter of each request in order of arrival, shape (requests,), indices into `ranks`.

    Args:
        popularity: the family.
        ranks: rank of each adapter, shape (n,).
        requests: how many.
        locality: None draws independently.
        rngs: uses the children adapters, ranks, sessions and drift.
    """
    if isinstance(popularity, RoundRobinPopularity):
        turn = np.arange(len(ranks)) if popularity.by_index else rngs["adapters"].permutation(len(ranks))
        return turn[np.arange(requests) % len(ranks)]
    shares = popularity.shares(ranks)
    if not popularity.by_index:
        shares = shuffled_within(shares, popularity.groups(ranks), rngs["adapters"])
    uniform = np.stack([rngs["ranks"].random(requests), rngs["adapters"].random(requests)])
    if locality is None:
        return draw(shares, ranks, *uniform)
    fresh = _drifting(popularity, shares, ranks, locality, uniform, rngs["drift"])
    session = sessions(requests, locality, rngs["sessions"])
    return _follow(fresh, session, rngs["sessions"].random(requests) < locality.repeat_probability)
