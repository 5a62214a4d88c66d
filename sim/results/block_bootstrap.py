"""Intervals from one run alone: whole blocks of time are drawn again, with all requests that came in them.

Requests that arrive together wait together, so single requests are no independent sample; stretches of time that are
long against a busy period nearly are (block bootstrap: Kunsch 1989; blocks that do not overlap: Carlstein 1986). numpy
only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policies.base import FloatArray, IntArray
from sim.results.metrics import Offered, instant_s, latencies_s
from sim.statistics import Interval

if TYPE_CHECKING:
    from sim.results.result import Result

BLOCKS = 30
DRAWS = 1000
METRICS = ("ttft", "tpot", "e2el")
RELATED = 2.0  # standard errors of a correlation between neighbours, above which blocks are no independent draws
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}


class Blocks(NamedTuple):
    """A division of a run's time.

    Attributes:
        of: shape (n,), the block of each request, by when it was sent.
        number: of blocks, some of which may be empty.
        span_s: length of each.
    """

    of: IntArray
    number: int
    span_s: float


def time_blocks(sent_s: FloatArray, count: int = BLOCKS) -> Blocks:
    """Return equally long blocks between the first request and the last.

    Raises:
        ValueError: if there are fewer than two blocks, or no time to divide.
    """
    span_s = float(np.ptp(sent_s)) if len(sent_s) else 0.0
    if count < 2 or not span_s:
        msg = f"blocks of time need a span of requests and 2 blocks or more, got {span_s:g} s and {count} blocks"
        raise ValueError(msg)
    place = np.floor((sent_s - sent_s.min()) / span_s * count).astype(np.int64)
    return Blocks(np.minimum(place, count - 1), count, span_s / count)


def block_intervals(
    values: FloatArray, blocks: Blocks, q: Mapping[str, float], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """Return the mean and percentiles of a sample with their 95 % bootstrap percentile intervals.

    Args:
        values: shape (n,), NaN where not measured.
        blocks: of the same n requests.
        q: percentage by name.
        draws: number of resamples.
        seed: of the resampling: the same seed gives the same bounds.

    Returns:
        `mean` and the names of `q`; n of each is the number of blocks. Empty if nothing was measured.
    """
    measured = ~np.isnan(values)
    if not measured.any():
        return {}
    order = np.argsort(values[measured], kind="stable")
    ordered, block = values[measured][order], blocks.of[measured][order]
    points = np.array(list(q.values()), dtype=np.float64)
    estimates = _statistics(ordered, np.ones(len(ordered), dtype=np.int64), points)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(blocks.number, np.full(blocks.number, 1 / blocks.number), size=draws)
    # one draw at a time: all at once take 8 kB a request
    drawn = [_statistics(ordered, weights, points) for one in counts if (weights := one[block]).any()]
    low, high = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    return {
        name: Interval(float(at), float(lower), float(upper), blocks.number)
        for name, at, lower, upper in zip(["mean", *q], estimates, low, high, strict=True)
    }


def neighbours_correlation(values: FloatArray, blocks: Blocks) -> float:
    """Return how like the means of neighbouring blocks are, from -1 to 1; blocks without a value are passed over."""
    known = ~np.isnan(values)
    counts = np.bincount(blocks.of[known], minlength=blocks.number)
    sums = np.bincount(blocks.of[known], weights=values[known], minlength=blocks.number)
    means = sums[counts > 0] / counts[counts > 0]
    away = means - means.mean() if len(means) else means
    spread = float(away @ away)
    return float(away[1:] @ away[:-1]) / spread if spread else 0.0


def _statistics(ordered: FloatArray, weights: IntArray, q: FloatArray) -> FloatArray:
    """Return the mean and the linear percentiles of ascending values, each of which counts so many times."""
    reached = np.cumsum(weights)
    position = (int(reached[-1]) - 1) * (q / 100)
    lower = np.floor(position).astype(np.int64)
    left, right = (ordered[np.searchsorted(reached, rank, side="right")] for rank in (lower, np.ceil(position)))
    return np.append(float(ordered @ weights) / float(reached[-1]), left + (right - left) * (position - lower))


def bootstrap(result: Result) -> dict[str, Any] | None:
    """Return mean and percentiles of a run's latencies with intervals from that run alone, as plain values.

    They are those of the traffic that the run had: its lengths, its adapters and its load over time, drawn again in
    blocks. That takes blocks to be independent: where a queue outlasts them (`related`), the intervals are too narrow.
    A token's gap has no request of its own, so inter-token latencies have none. None where all requests came at once.
    """
    offered = Offered(result.run.trace, result.run.records)
    sent_s = instant_s(offered.sent())
    if not np.ptp(sent_s):
        return None
    blocks, latencies = time_blocks(sent_s), latencies_s(offered)
    kept = {name: np.where(offered.completed, latencies[f"{name}_s"], np.nan) * 1e3 for name in METRICS}
    correlation = neighbours_correlation(kept["ttft"], blocks)
    return {
        "method": "block bootstrap over time, one run",
        "seed": result.run.seed,
        "blocks": blocks.number,
        "block_s": blocks.span_s,
        "draws": DRAWS,
        "correlation": correlation,
        "related": correlation > RELATED / math.sqrt(blocks.number),
        "metrics": {f"{name}_ms": _spelt_out(block_intervals(one, blocks, PERCENTILES)) for name, one in kept.items()},
    }


def _spelt_out(found: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: {"value": one.estimate, "ci95_low": one.low, "ci95_high": one.high} for name, one in found.items()}
