"""Numbers about numbers: percentiles with weights or by group, and intervals over replications. No simulator here.

The numpy half needs nothing else; the intervals import scipy.stats when they are called, because that takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.base import FloatArray, IntArray

PERCENTILES: tuple[tuple[str, float], ...] = (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p99_9", 99.9))
Described = dict[str, float | int | str | None]


def describe(values: npt.ArrayLike, weights: IntArray | None = None, *, unit: str = "ms") -> Described:
    """Return mean, population standard deviation, percentiles and n of a sample.

    Args:
        values: shape (n,), in `unit`; entries that are not numbers (NaN) are left out.
        weights: shape (n,), how many times each value counts; None counts each once.
        unit: copied into the result.

    Returns:
        `unit`, `mean`, `std`, `p50`, `p90`, `p95`, `p99`, `p99_9`, `n`; all but unit and n are None where n is 0.
    """
    sample = np.asarray(values, dtype=np.float64)
    counts = np.ones(len(sample), dtype=np.int64) if weights is None else weights
    measured = ~np.isnan(sample) & (counts > 0)
    if not measured.all():
        sample, counts = sample[measured], counts[measured]
    n = int(counts.sum())
    described: Described = (
        {"unit": unit, "mean": None, "std": None} | {name: None for name, _ in PERCENTILES} | {"n": n}
    )
    if n == 0:
        return described
    mean = float((sample * counts).sum() / n)
    described["mean"] = mean
    described["std"] = math.sqrt(float((counts * (sample - mean) ** 2).sum() / n))
    points = weighted_percentiles(sample, counts, [q for _, q in PERCENTILES])
    described |= {name: float(point) for (name, _), point in zip(PERCENTILES, points, strict=True)}
    return described


def weighted_percentiles(values: FloatArray, weights: IntArray, q: Sequence[float]) -> FloatArray:
    """Return what `np.percentile(np.repeat(values, weights), q)` returns, bit for bit, without repeating.

    Args:
        values: shape (n,), n at least 1, in any order.
        weights: shape (n,), at least 1 each.
        q: percentages from 0 to 100.
    """
    order = np.argsort(values, kind="stable")
    ordered, reached = values[order], np.cumsum(weights[order])
    last = int(reached[-1]) - 1
    position = last * (np.asarray(q, dtype=np.float64) / 100)
    lower = np.floor(position)
    left = ordered[np.searchsorted(reached, lower, side="right")]
    right = ordered[np.searchsorted(reached, np.minimum(lower + 1, last), side="right")]
    return _between(left, right, position - lower)


def grouped_percentiles(values: FloatArray, groups: IntArray, n_groups: int, q: float) -> FloatArray:
    """Return the linear percentile of each group of values, shape (n_groups,); NaN for an empty group.

    Args:
        values: shape (n,); entries that are not numbers (NaN) are left out.
        groups: shape (n,), from 0 to n_groups - 1.
        n_groups: number of groups.
        q: percentage from 0 to 100.
    """
    kept = ~np.isnan(values)
    values, groups = values[kept], groups[kept]
    ordered = values[np.lexsort((values, groups))]
    sizes = np.bincount(groups, minlength=n_groups)
    filled = sizes > 0
    first = (np.cumsum(sizes) - sizes)[filled]
    last = sizes[filled] - 1
    position = last * (q / 100)
    lower = np.floor(position).astype(np.int64)
    left, right = ordered[first + lower], ordered[first + np.minimum(lower + 1, last)]
    result = np.full(n_groups, np.nan)
    result[filled] = _between(left, right, position - lower)
    return result


def _between(left: FloatArray, right: FloatArray, share: FloatArray) -> FloatArray:
    # numpy interpolates from the nearer end; the same operations in the same order give the same bits.
    step = right - left
    return np.where(share >= 0.5, right - step * (1 - share), left + step * share)


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence bounds; a bound is None where the sample cannot give one."""

    estimate: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether both bounds lie on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline over paired replications.

    Attributes:
        difference: candidate minus baseline.
        reduction: 1 - candidate / baseline, the mean over pairs; None if a baseline is not positive.
        sign_p: two-sided p of the sign test, which asks only who won how often.
        significant: whether the paired t interval of the difference excludes zero.
    """

    difference: Interval
    reduction: Interval | None
    sign_p: float
    significant: bool


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the t interval of a mean over independent replications.

    Raises:
        ValueError: if there are no values, or confidence is not between 0 and 1.
    """
    n = len(values)
    if n == 0 or not 0 < confidence < 1:
        msg = f"an interval needs values and a confidence between 0 and 1, got {n} values and confidence {confidence}"
        raise ValueError(msg)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy.stats import t  # noqa: PLC0415 - scipy.stats takes seconds to import

    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * error
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the t interval of candidate minus baseline, pair by pair.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    _check_pairs(baseline, candidate)
    return mean_interval([after - before for before, after in zip(baseline, candidate, strict=True)], confidence)


def relative_reduction(baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the t interval of 1 - candidate / baseline over pairs (0.2: a fifth less).

    Raises:
        ValueError: if the two differ in length, are empty, or a baseline is not positive.
    """
    _check_pairs(baseline, candidate)
    if min(baseline) <= 0:
        msg = f"a relative reduction needs positive baselines, got {min(baseline)}"
        raise ValueError(msg)
    return mean_interval([1 - after / before for before, after in zip(baseline, candidate, strict=True)], confidence)


def sign_test_p(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """Return the exact two-sided p that wins are a fair coin; ties are left out.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    _check_pairs(baseline, candidate)
    wins = sum(after < before for before, after in zip(baseline, candidate, strict=True))
    losses = sum(after > before for before, after in zip(baseline, candidate, strict=True))
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**n))


def compare_pairs(baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95) -> Comparison:
    """Return difference, reduction and whether they are significant, for runs paired by seed.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    difference = paired_difference(baseline, candidate, confidence)
    reduction = relative_reduction(baseline, candidate, confidence) if min(baseline) > 0 else None
    return Comparison(difference, reduction, sign_test_p(baseline, candidate), difference.excludes_zero)


def percentile_interval(values: npt.ArrayLike, q: float, confidence: float = 0.95) -> Interval:
    """Return a percentile inside one run with the interval of its order statistics, taking values as independent.

    A bound is None where the sample is too small to hold it (a P99 has no upper bound below n = 368).

    Raises:
        ValueError: if there are no values, or q is not between 0 and 100.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0 or not 0 < q < 100:
        msg = f"a percentile's interval needs values and 0 < q < 100, got {n} values and q={q}"
        raise ValueError(msg)
    from scipy.stats import binom  # noqa: PLC0415 - scipy.stats takes seconds to import

    lower = int(binom.ppf((1 - confidence) / 2, n, q / 100))  # ranks count from 1: fewer than this many lie below
    upper = int(binom.ppf((1 + confidence) / 2, n, q / 100)) + 1
    return Interval(
        float(np.percentile(ordered, q)),
        float(ordered[lower - 1]) if lower >= 1 else None,
        float(ordered[upper - 1]) if upper <= n else None,
        n,
    )


def _check_pairs(baseline: Sequence[float], candidate: Sequence[float]) -> None:
    if len(baseline) != len(candidate) or not baseline:
        msg = f"paired samples must be equally long and not empty, got {len(baseline)} and {len(candidate)}"
        raise ValueError(msg)
