"""Which adapter a request names: popularity families, and temporal locality. No lengths, no arrival times here.

Locality statistics: sessions and repeats of GenTD26 (SoCC 2025), drift of ServeGen (arXiv 2505.09999), rates of Katz (ATC 2025).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Streams = Mapping[str, np.random.Generator]

# the words of SGLang's and Punica's benchmarks, which call a geometric law "zipf"
ALIASES: dict[str, dict[str, object]] = {
    "distinct": {"family": "round_robin"},
    "skewed": {"family": "geometric"},
    "identical": {"family": "weights", "weights": (1.0,)},
}


def zipf_shares(count: int, s: float, q: float = 0.0) -> FloatArray:
    """Return shares proportional to (position + q)^-s for positions from 1, shape (count,)."""
    weights = (np.arange(1, count + 1) + q) ** -s
    return weights / weights.sum()


class _Popularity(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    by_index: bool = Field(
        default=False,
        description="the most popular is adapter 0 and so on (couples rank and popularity, as S-LoRA does); else a permutation",
    )

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,), for n adapters of these ranks."""
        raise NotImplementedError

    def groups(self, ranks: IntArray) -> IntArray:
        """Return labels, shape (n,); popularity may change places only between adapters with the same label."""
        return np.zeros_like(ranks)


class ZipfPopularity(_Popularity):
    """Zipf over all adapters."""

    family: Literal["zipf"] = Field("zipf", description="share proportional to position^-s")
    s: float = Field(1.0, ge=0, description="exponent; 0.9 to 1.2 is realistic for adapters")

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,)."""
        return zipf_shares(len(ranks), self.s)


class ZipfMandelbrotPopularity(_Popularity):
    """Zipf with a flattened head; the defaults are the fit to GenTD26."""

    family: Literal["zipf_mandelbrot"] = Field("zipf_mandelbrot", description="share proportional to (position + q)^-s")
    s: float = Field(1.16, ge=0, description="exponent")
    q: float = Field(4.9, ge=0, description="shift of the position, which flattens the head")

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,)."""
        return zipf_shares(len(ranks), self.s, self.q)


class SloraPowerPopularity(_Popularity):
    """S-LoRA's floor(n * U^(1/alpha)): alpha 1 is uniform, less is skewed to the first, more to the last."""

    family: Literal["slora_power"] = Field("slora_power", description="share ((i+1)/n)^alpha - (i/n)^alpha")
    alpha: float = Field(1.0, gt=0, description="exponent; S-LoRA's default 1 is uniform")

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,)."""
        return np.diff(np.linspace(0, 1, len(ranks) + 1) ** self.alpha)


class GeometricPopularity(_Popularity):
    """Geometric shares, what Punica's and SGLang's benchmarks call zipf."""

    family: Literal["geometric"] = Field("geometric", description="share proportional to a^-position")
    a: float = Field(1.5, gt=1, description="ratio between the shares of neighbours")

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,)."""
        weights = self.a ** -np.arange(len(ranks), dtype=np.float64)
        return weights / weights.sum()


class UniformPopularity(_Popularity):
    """All adapters alike."""

    family: Literal["uniform"] = Field("uniform", description="all adapters alike")

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,)."""
        return np.full(len(ranks), 1 / len(ranks))


class RoundRobinPopularity(_Popularity):
    """The adapters one after the other; nothing is drawn."""

    family: Literal["round_robin"] = Field("round_robin", description="one after the other")

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,)."""
        return np.full(len(ranks), 1 / len(ranks))


class WeightsPopularity(_Popularity):
    """Shares as given."""

    family: Literal["weights"] = Field("weights", description="share proportional to the weights given")
    weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)] = Field(
        min_length=1, description="weight of each position; positions after the last have none"
    )

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,); raises ValueError if the weights do not fit."""
        total = math.fsum(self.weights)
        if len(self.weights) > len(ranks) or not 0 < total < math.inf:
            msg = f"{len(self.weights)} weights of sum {total:g}; at most {len(ranks)}, one an adapter, and a sum above 0 are allowed"
            raise ValueError(msg)
        return np.array([*self.weights, *[0.0] * (len(ranks) - len(self.weights))]) / total


class RankZipfPopularity(_Popularity):
    """Chameleon's scheme: first a rank, uniform by default, then Zipf among the adapters of that rank (MICRO 2025, section 5)."""

    family: Literal["rank_zipf"] = Field("rank_zipf", description="a rank first, then Zipf among its adapters")
    s: float = Field(1.0, ge=0, description="exponent inside a rank")
    rank_s: float = Field(0.0, ge=0, description="exponent over ranks, smallest rank most popular; 0 is uniform")

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each adapter, shape (n,)."""
        shares = np.empty(len(ranks))
        levels = np.unique(ranks)
        for level, of_rank in zip(levels, zipf_shares(len(levels), self.rank_s), strict=True):
            members = ranks == level
            shares[members] = of_rank * zipf_shares(int(members.sum()), self.s)
        return shares

    def groups(self, ranks: IntArray) -> IntArray:
        """Return the ranks, shape (n,): a rank keeps its share."""
        return ranks


def _spell_out(value: object) -> object:
    """Accept a family's bare name, and a client's word for a family."""
    given = {"family": value} if isinstance(value, str) else value
    if isinstance(given, dict) and given.get("family") in ALIASES:
        return {**given, **ALIASES[given["family"]]}
    return given


Popularity = Annotated[
    Annotated[
        ZipfPopularity
        | ZipfMandelbrotPopularity
        | SloraPowerPopularity
        | GeometricPopularity
        | UniformPopularity
        | RoundRobinPopularity
        | WeightsPopularity
        | RankZipfPopularity,
        Field(discriminator="family"),
    ],
    BeforeValidator(_spell_out),
]


class Locality(BaseModel):
    """How requests hang together in time; without it every request draws its adapter independently."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    session_requests_mean: float = Field(7.0, ge=1, description="mean requests in a session (geometric)")
    repeat_probability: float = Field(0.79, ge=0, le=1, description="chance that a session keeps its adapter")
    session_gap_median_s: float = Field(120.0, gt=0, description="median gap inside a session, s (lognormal)")
    session_gap_sigma: float = Field(0.8, ge=0, le=3, description="standard deviation of ln(gap inside a session)")
    drift_share: float = Field(0.25, ge=0, le=1, description="share of adapters whose popularity is redrawn each epoch")
    epoch_s: float = Field(21600.0, gt=0, description="length of an epoch of constant popularity, s")
    at_rate_per_s: float = Field(
        0.32,
        gt=0,
        description="requests per second of the traffic in which gaps and epochs last that long; another rate rescales them",
    )

    def note(self, rate_per_s: float | None) -> str:
        """Return what the output must say: how long a session's gap is at the rate that is simulated."""
        if rate_per_s is None:
            return f"adapters follow sessions whose gaps are those of {self.at_rate_per_s:g} requests/s"
        gap_s = self.session_gap_median_s * self.at_rate_per_s / rate_per_s
        given = f"{self.session_gap_median_s:g} s at {self.at_rate_per_s:g} requests/s"
        return f"adapters follow sessions; their median gap, {given}, is {gap_s:.3g} s at {rate_per_s:g}"


def _shuffled_within(values: FloatArray, groups: IntArray, rng: np.random.Generator) -> FloatArray:
    """Return the values with places changed at random between members of the same group."""
    shuffled = rng.permutation(len(values))
    target = shuffled[np.argsort(groups[shuffled], kind="stable")]
    result = np.empty_like(values)
    result[target] = values[np.argsort(groups, kind="stable")]
    return result


def draw(shares: FloatArray, ranks: IntArray, u_rank: FloatArray, u_adapter: FloatArray) -> IntArray:
    """Return adapters, shape (m,), by inverse CDF: the rank from one uniform number, the adapter inside it from the other.

    Two numbers, so that a change of popularity inside the ranks leaves every request's rank as it was.
    """
    order = np.argsort(ranks, kind="stable")
    steps = np.cumsum(shares[order])
    is_last = np.append(np.diff(ranks[order]) != 0, True)  # noqa: FBT003 - the last adapter ends its rank
    edges = np.concatenate([[0.0], steps[is_last]])
    # rounding must not carry a target over the edge into a neighbour that may have no share
    target = np.minimum(u_rank * edges[-1], np.nextafter(edges[-1], 0))
    rank = np.searchsorted(edges, target, side="right") - 1
    low, high = edges[rank], edges[rank + 1]
    target = np.minimum(low + u_adapter * (high - low), np.nextafter(high, 0))
    return order[np.searchsorted(steps, target, side="right")]


def _session_times_s(locality: Locality, count: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray, float]:
    """Return the time and the session of every request of `count` sessions, and when the last session starts."""
    between_s = locality.session_requests_mean / locality.at_rate_per_s
    starts_s = np.cumsum(rng.standard_exponential(count)) * between_s
    sizes = rng.geometric(1 / locality.session_requests_mean, count)
    owner = np.repeat(np.arange(count), sizes)
    gaps_s = rng.lognormal(math.log(locality.session_gap_median_s), locality.session_gap_sigma, len(owner))
    first = np.cumsum(sizes) - sizes
    gaps_s[first] = 0.0
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
    """Return adapters: a request that repeats takes what the one before it in its session had, others their fresh draw."""
    order = np.argsort(session, kind="stable")
    starts = np.append(True, np.diff(session[order]) != 0) | ~repeats[order]  # noqa: FBT003 - the first row starts one
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
    """Return independent draws whose popularity moves from epoch to epoch; `uniform` has shape (2, n)."""
    requests = uniform.shape[1]
    epoch_requests = max(1, round(locality.epoch_s * locality.at_rate_per_s))
    parts = []
    for start in range(0, requests, epoch_requests):
        if start:
            moves = rng.permutation(len(shares)) < round(locality.drift_share * len(shares))
            alone = np.arange(len(shares)) + 1 + int(ranks.max())  # a label of its own keeps an adapter in place
            shares = _shuffled_within(shares, np.where(moves, popularity.groups(ranks), alone), rng)
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
        shares = _shuffled_within(shares, popularity.groups(ranks), rngs["adapters"])
    uniform = np.stack([rngs["ranks"].random(requests), rngs["adapters"].random(requests)])
    if locality is None:
        return draw(shares, ranks, *uniform)
    fresh = _drifting(popularity, shares, ranks, locality, uniform, rngs["drift"])
    session = sessions(requests, locality, rngs["sessions"])
    return _follow(fresh, session, rngs["sessions"].random(requests) < locality.repeat_probability)
