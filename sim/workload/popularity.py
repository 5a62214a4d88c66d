"""How often each adapter is asked for: popularity families and independent draws from them. No order in time here."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# the words of SGLang's and Punica's benchmarks, which call a geometric law "zipf"
ALIASES: dict[str, dict[str, object]] = {
    "distinct": {"family": "round_robin"},
    "skewed": {"family": "geometric"},
    "identical": {"family": "weights", "weights": (1.0,)},
}


def zipf_shares(count: int, s: float, q: float = 0.0) -> FloatArray:
    """Return shares proportional to (position + q)^-s for positions from 1, shape (count,)."""
    weights = np.power(np.arange(1, count + 1, dtype=np.float64) + q, -s)
    return _to_shares(weights)


def _to_shares(weights: FloatArray) -> FloatArray:
    shares: FloatArray = weights / weights.sum()
    return shares


class _Popularity(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    by_index: bool = Field(
        default=False,
        description="adapter 0 is the most popular and so on, as in S-LoRA, which couples rank and popularity; "
        "else popularity meets adapters by a seeded permutation",
    )

    def shares(self, ranks: IntArray) -> FloatArray:
        """Return the probability of each position, shape (n,), for n adapters of these ranks.

        Raises:
            ValueError: if given weights do not fit the number of adapters.
        """
        return _to_shares(self._weights(ranks))

    def _weights(self, ranks: IntArray) -> FloatArray:
        return np.ones(len(ranks))

    def groups(self, ranks: IntArray) -> IntArray:
        """Return labels, shape (n,); popularity may change places only between adapters with the same label."""
        return np.zeros_like(ranks)


class ZipfPopularity(_Popularity):
    """Zipf over all adapters."""

    family: Literal["zipf"] = Field(default="zipf", description="share proportional to position^-s")
    s: float = Field(default=1.0, ge=0, description="exponent; 0.9 to 1.2 is realistic for adapters")

    def _weights(self, ranks: IntArray) -> FloatArray:
        return zipf_shares(len(ranks), self.s)


class ZipfMandelbrotPopularity(_Popularity):
    """Zipf with a flattened head; the defaults are the fit to GenTD26."""

    family: Literal["zipf_mandelbrot"] = Field(
        default="zipf_mandelbrot", description="share proportional to (position + q)^-s"
    )
    s: float = Field(default=1.16, ge=0, description="exponent")
    q: float = Field(default=4.9, ge=0, description="shift of the position, which flattens the head")

    def _weights(self, ranks: IntArray) -> FloatArray:
        return zipf_shares(len(ranks), self.s, self.q)


class SloraPowerPopularity(_Popularity):
    """S-LoRA's floor(n * U^(1/alpha)): alpha 1 is uniform, less is skewed to the first, more to the last."""

    family: Literal["slora_power"] = Field(default="slora_power", description="share ((i+1)/n)^alpha - (i/n)^alpha")
    alpha: float = Field(default=1.0, gt=0, description="exponent; S-LoRA's default 1 is uniform")

    def _weights(self, ranks: IntArray) -> FloatArray:
        return np.diff(np.linspace(0, 1, len(ranks) + 1) ** self.alpha)


class GeometricPopularity(_Popularity):
    """Geometric shares, what Punica's and SGLang's benchmarks call zipf."""

    family: Literal["geometric"] = Field(default="geometric", description="share proportional to a^-position")
    a: float = Field(default=1.5, gt=1, description="ratio between the shares of neighbours")

    def _weights(self, ranks: IntArray) -> FloatArray:
        weights: FloatArray = self.a ** -np.arange(len(ranks), dtype=np.float64)
        return weights


class UniformPopularity(_Popularity):
    """All adapters alike."""

    family: Literal["uniform"] = Field(default="uniform", description="all adapters alike")


class RoundRobinPopularity(_Popularity):
    """The adapters one after the other; nothing is drawn."""

    family: Literal["round_robin"] = Field(default="round_robin", description="one after the other")


class WeightsPopularity(_Popularity):
    """Shares as given."""

    family: Literal["weights"] = Field(default="weights", description="share proportional to the weights given")
    weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)] = Field(
        min_length=1, description="weight of each position; positions after the last have none"
    )

    def _weights(self, ranks: IntArray) -> FloatArray:
        total = math.fsum(self.weights)
        if len(self.weights) > len(ranks) or not 0 < total < math.inf:
            allowed = f"at most {len(ranks)}, one for each adapter, and a sum above 0 are allowed"
            msg = f"{len(self.weights)} weights of sum {total:g}; {allowed}"
            raise ValueError(msg)
        return np.array([*self.weights, *[0.0] * (len(ranks) - len(self.weights))])


class RankZipfPopularity(_Popularity):
    """Chameleon's scheme (MICRO 2025): first a rank, uniform by default, then Zipf among the adapters of that rank."""

    family: Literal["rank_zipf"] = Field(default="rank_zipf", description="a rank first, then Zipf among its adapters")
    s: float = Field(default=1.0, ge=0, description="exponent inside a rank")
    rank_s: float = Field(
        default=0.0, ge=0, description="exponent over ranks, smallest rank most popular; 0 is uniform"
    )

    def _weights(self, ranks: IntArray) -> FloatArray:
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


def shuffled_within(values: FloatArray, groups: IntArray, rng: np.random.Generator) -> FloatArray:
    """Return the values with places changed at random between members of the same group."""
    shuffled = rng.permutation(len(values))
    target = shuffled[np.argsort(groups[shuffled], kind="stable")]
    result = np.empty_like(values)
    result[target] = values[np.argsort(groups, kind="stable")]
    return result


def draw(shares: FloatArray, ranks: IntArray, u_rank: FloatArray, u_adapter: FloatArray) -> IntArray:
    """Return adapters, shape (m,), by inverse CDF: the rank from one uniform number, the adapter in it from the other.

    Two numbers, so that a change of popularity inside the ranks leaves every request's rank as it was.
    """
    order = np.argsort(ranks, kind="stable")
    steps = np.cumsum(shares[order])
    is_last = np.append(np.diff(ranks[order]) != 0, True)
    edges = np.concatenate([[0.0], steps[is_last]])
    rank = np.searchsorted(edges, u_rank * edges[-1], side="right") - 1
    low, high = edges[rank], edges[rank + 1]
    # rounding must not carry a target over the edge into the next rank
    target = np.minimum(low + u_adapter * (high - low), np.nextafter(high, 0))
    drawn: IntArray = order[np.searchsorted(steps, target, side="right")]
    return drawn
