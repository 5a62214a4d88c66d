"""Distances between samples, and percentile intervals that respect queueing: neighbours in time wait together.

Requests that arrive together are late together, so intervals come from a moving-block bootstrap (Kunsch 1989): whole
stretches of consecutive requests are drawn, never single ones. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from policies.base import FloatArray, IntArray
from sim.statistics import Interval

DRAWS = 1000
CELLS = 4_000_000  # values that are resampled at once; bounds the memory
Statistic = Callable[..., FloatArray]


def block_length(n: int) -> int:
    """Return the usual block length for n dependent values: the cube root, rounded up."""
    return max(1, math.ceil(math.cbrt(n)))


def block_indices(n: int, draws: int, rng: np.random.Generator, block: int | None = None) -> IntArray:
    """Return resampled positions, shape (draws, n): runs of `block` neighbours, the last one cut to fit.

    Args:
        n: number of values, at least 1.
        draws: number of resamples.
        rng: source of randomness.
        block: length of a run; None: `block_length(n)`.

    Raises:
        ValueError: if a block is longer than the sample or a number is not positive.
    """
    length = block_length(n) if block is None else block
    if n < 1 or draws < 1 or not 1 <= length <= n:
        msg = f"need 1 <= block <= n and at least 1 draw, got n = {n}, block = {length}, draws = {draws}"
        raise ValueError(msg)
    starts = rng.integers(0, n - length + 1, size=(draws, -(-n // length)))
    positions: IntArray = (starts[:, :, None] + np.arange(length)).reshape(draws, -1)[:, :n]
    return positions


def interval(
    statistic: Statistic,
    samples: Sequence[npt.ArrayLike],
    *,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
    block: int | None = None,
) -> list[Interval]:
    """Return the block-bootstrap percentile intervals of a statistic of one sample, or of several paired ones.

    Args:
        statistic: takes as many arrays as there are samples, each of shape (draws, n), and returns shape (k, draws).
        samples: shape (n,) each, in order of time; row i of all of them is about the same request.
        draws: number of resamples.
        confidence: between 0 and 1.
        seed: the same seed gives the same bounds.
        block: length of a block; None: the cube root of n.

    Returns:
        k intervals; the estimate is the statistic of the samples as they are.

    Raises:
        ValueError: if the samples differ in length or are empty, or a number is out of range.
    """
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or 0 in sizes or not 0 < confidence < 1:
        msg = f"need equally long samples and 0 < confidence < 1, got lengths {sorted(sizes)} and {confidence}"
        raise ValueError(msg)
    n = sizes.pop()
    estimates = statistic(*(array[None, :] for array in arrays))[:, 0]
    rng = np.random.default_rng(seed)
    parts = [
        statistic(*(array[indices] for array in arrays))
        for indices in (block_indices(n, some, rng, block) for some in _batches(n, draws))
    ]
    drawn = np.concatenate(parts, axis=1)
    low, high = np.percentile(drawn, [50 * (1 - confidence), 50 * (1 + confidence)], axis=1)
    return [
        Interval(float(at), float(lower), float(upper), n)
        for at, lower, upper in zip(estimates, low, high, strict=True)
    ]


def _batches(n: int, draws: int) -> Iterator[int]:
    most = max(1, CELLS // n)
    while draws > 0:
        yield min(draws, most)
        draws -= most


def percentile_intervals(
    values: npt.ArrayLike, q: Sequence[float], *, draws: int = DRAWS, seed: int = 0, block: int | None = None
) -> list[Interval]:
    """Return a 95 % interval for each percentile of one sample in order of time.

    Raises:
        ValueError: if there are no values.
    """
    return interval(lambda drawn: np.percentile(drawn, q, axis=1), [values], draws=draws, seed=seed, block=block)


def percentile_errors(
    simulated: npt.ArrayLike,
    measured: npt.ArrayLike,
    q: Sequence[float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    block: int | None = None,
) -> list[Interval]:
    """Return simulated / measured - 1 of each percentile with its 95 % interval, resampling the same requests of both.

    Args:
        simulated: shape (n,).
        measured: shape (n,), row i about the same request.
        q: percentages.
        draws: number of resamples.
        seed: of the resampling.
        block: length of a block; None: the cube root of n.

    Raises:
        ValueError: if the two differ in length or are empty.
    """

    def errors(one: FloatArray, other: FloatArray) -> FloatArray:
        found: FloatArray = np.percentile(one, q, axis=1) / np.percentile(other, q, axis=1) - 1
        return found

    return interval(errors, [simulated, measured], draws=draws, seed=seed, block=block)


def percentile_differences(
    candidate: npt.ArrayLike,
    baseline: npt.ArrayLike,
    q: Sequence[float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    block: int | None = None,
) -> list[Interval]:
    """Return candidate minus baseline of each percentile with its 95 % interval, resampling the same requests of both.

    Raises:
        ValueError: if the two differ in length or are empty.
    """

    def differences(one: FloatArray, other: FloatArray) -> FloatArray:
        found: FloatArray = np.percentile(one, q, axis=1) - np.percentile(other, q, axis=1)
        return found

    return interval(differences, [candidate, baseline], draws=draws, seed=seed, block=block)


def ks_distance(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return the Kolmogorov-Smirnov distance: the largest gap between two empirical distributions, 0 to 1.

    Raises:
        ValueError: if a sample is empty.
    """
    _, below_one, below_other = _steps(one, other)
    return float(np.abs(below_one - below_other).max())


def wasserstein_1(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return the area between two empirical distributions, in the unit of the values.

    Raises:
        ValueError: if a sample is empty.
    """
    points, below_one, below_other = _steps(one, other)
    return float((np.abs(below_one - below_other)[:-1] * np.diff(points)).sum())


def _steps(one: npt.ArrayLike, other: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    first, second = (np.sort(np.asarray(sample, dtype=np.float64)) for sample in (one, other))
    if not len(first) or not len(second):
        msg = f"a distance needs two samples, got {len(first)} and {len(second)} values"
        raise ValueError(msg)
    points = np.sort(np.concatenate([first, second]))
    below = [np.searchsorted(sample, points, side="right") / len(sample) for sample in (first, second)]
    return points, below[0], below[1]
