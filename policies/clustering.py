"""One-dimensional k-means, exactly, and how many clusters to keep. Nothing here knows about requests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.base import FloatArray, IntArray

Choice = Literal["elbow", "argmin"]


class Clusters(NamedTuple):
    """Centroids in rising order and the within-cluster sum of squares."""

    centroids: FloatArray
    wcss: float


class _Sums(NamedTuple):
    """Prefix sums of sorted values and of their squares; shape (n + 1,)."""

    values: FloatArray
    squares: FloatArray


def sample(values: npt.ArrayLike, limit: int = 1000) -> FloatArray:
    """Return at most `limit` evenly spaced order statistics, smallest and largest included, sorted."""
    points = np.sort(np.asarray(values, dtype=np.float64))
    if len(points) <= limit:
        return points
    places: IntArray = np.rint(np.linspace(0, len(points) - 1, limit)).astype(np.int64)
    return points[places]


def kmeans_1d(values: npt.ArrayLike, k: int) -> Clusters:
    """Return the optimal partition of numbers into at most k clusters.

    Fewer than k centroids come back only where there are fewer than k distinct values.

    Args:
        values: shape (n,), n at least 1, any order.
        k: number of clusters, at least 1.

    Raises:
        ValueError: if there is no value, a value is not finite, or k is below 1.
    """
    return partitions(values, k)[-1]


def partitions(values: npt.ArrayLike, k_max: int) -> list[Clusters]:
    """Return the optimal partitions for k = 1, ..., k_max by dynamic programming, O(k n log n).

    Raises:
        ValueError: if there is no value, a value is not finite, or k_max is below 1.
    """
    points = np.sort(np.asarray(values, dtype=np.float64))
    if not len(points) or not np.isfinite(points).all() or k_max < 1:
        msg = f"k-means needs finite values and k of at least 1, got {len(points)} values and k = {k_max}"
        raise ValueError(msg)
    sums = _prefix_sums(points)
    n = len(points)
    ends: IntArray = np.arange(n + 1)
    best = _scatter(sums, np.zeros_like(ends), ends)
    cuts: list[IntArray] = []
    found = [_summary(points, [0, n])]
    for _ in range(1, k_max):
        best, cut = _layer(best, sums)
        cuts.append(cut)
        found.append(_summary(points, _bounds(cuts, n)))
    return found


def choose_k(wcss: Sequence[float], choice: Choice = "elbow", elbow: float = 0.1) -> int:
    """Return how many clusters to keep, given the WCSS of k = 1, 2, ...

    Args:
        wcss: within-cluster sums of squares, not rising.
        choice: "elbow", the smallest k whose next step removes less than `elbow` of the total (that of k = 1);
            "argmin", the smallest k of minimal WCSS, which is the largest k unless values repeat.
        elbow: share of the total.
    """
    if choice == "argmin":
        return int(np.argmin(wcss)) + 1
    if wcss[0] <= 0:
        return 1
    for k in range(1, len(wcss)):
        if wcss[k - 1] - wcss[k] < elbow * wcss[0]:
            return k
    return len(wcss)


def cutoffs(centroids: FloatArray) -> list[float]:
    """Return the midpoints of neighbouring centroids."""
    midpoints: list[float] = ((centroids[:-1] + centroids[1:]) / 2).tolist()
    return midpoints


def _prefix_sums(points: FloatArray) -> _Sums:
    # Centred values keep the difference of two large squares from drowning the result.
    centred = points - points.mean()
    zero = np.zeros(1)
    return _Sums(
        np.concatenate((zero, np.cumsum(centred))),
        np.concatenate((zero, np.cumsum(centred * centred))),
    )


def _scatter(sums: _Sums, start: IntArray, end: IntArray) -> FloatArray:
    """Sum of squares about the mean of points start..end-1; nothing for an empty range."""
    total = sums.values[end] - sums.values[start]
    squares = sums.squares[end] - sums.squares[start]
    scatter: FloatArray = np.maximum(squares - total * total / np.maximum(end - start, 1), 0.0)
    return scatter


def _layer(previous: FloatArray, sums: _Sums) -> tuple[FloatArray, IntArray]:
    """Add one cluster: the best cost of the first j points for every j, and where its last cluster starts.

    The best start does not fall as j rises, so each j searches only between the starts of two solved neighbours;
    all j of one level of the bisection are solved in one sweep.
    """
    n = len(previous) - 1
    best, cut = np.zeros(n + 1), np.zeros(n + 1, dtype=np.int64)
    stride = 1 << n.bit_length()
    while stride:
        rows = np.arange(stride, n + 1, 2 * stride)
        if len(rows):
            right = np.where(rows + stride <= n, cut[np.minimum(rows + stride, n)], rows)
            best[rows], cut[rows] = _sweep(previous, sums, rows, cut[rows - stride], np.minimum(right, rows))
        stride //= 2
    return best, cut


def _sweep(
    previous: FloatArray, sums: _Sums, rows: IntArray, low: IntArray, high: IntArray
) -> tuple[FloatArray, IntArray]:
    """Minimum over start in low..high for each row, and the first start that reaches it."""
    counts = high - low + 1
    first = np.cumsum(counts) - counts
    start = np.arange(counts.sum()) + np.repeat(low - first, counts)
    costs = previous[start] + _scatter(sums, start, np.repeat(rows, counts))
    least = np.minimum.reduceat(costs, first)
    hits = np.flatnonzero(costs == np.repeat(least, counts))
    return least, start[hits[np.searchsorted(hits, first)]]


def _bounds(cuts: list[IntArray], n: int) -> list[int]:
    bounds = [n]
    for cut in reversed(cuts):
        bounds.append(int(cut[bounds[-1]]))
    return [0, *reversed(bounds)]


def _summary(points: FloatArray, bounds: list[int]) -> Clusters:
    groups = [points[a:b] for a, b in pairwise(bounds) if b > a]
    centroids = np.array([group.mean() for group in groups])
    wcss = sum(float(np.square(group - mean).sum()) for group, mean in zip(groups, centroids, strict=True))
    return Clusters(centroids, wcss)
