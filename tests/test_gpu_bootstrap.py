"""Block-bootstrap intervals and distances between samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp, wasserstein_distance

from gpu_validate.bootstrap import (
    block_indices,
    interval,
    ks_distance,
    percentile_differences,
    percentile_errors,
    percentile_intervals,
    wasserstein_1,
)


def test_blocks_are_runs_of_neighbours() -> None:
    drawn = block_indices(20, 50, np.random.default_rng(0), block=5)
    assert drawn.shape == (50, 20)
    assert (np.diff(drawn.reshape(50, 4, 5), axis=2) == 1).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 19


def test_a_block_longer_than_the_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="block = 9"):
        block_indices(4, 1, np.random.default_rng(0), block=9)


def test_the_same_seed_gives_the_same_bounds() -> None:
    values = np.random.default_rng(1).random(200)
    one, two, other = (percentile_intervals(values, [50, 99], draws=50, seed=seed) for seed in (4, 4, 5))
    assert one == two != other


def test_intervals_hold_the_true_median_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(200):
        (found,) = percentile_intervals(rng.normal(size=150), [50], draws=200, seed=seed)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_blocks_make_the_interval_of_dependent_values_wider() -> None:
    steps = np.repeat(np.random.default_rng(3).normal(size=40), 25)
    apart, together = (percentile_intervals(steps, [50], draws=300, block=block)[0] for block in (1, 50))
    assert together.high is not None
    assert together.low is not None
    assert apart.high is not None
    assert apart.low is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_resampling_pairs_cancels_what_both_share() -> None:
    measured = np.random.default_rng(4).lognormal(size=300)
    (found,) = percentile_errors(1.1 * measured, measured, [99], draws=50)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    (shift,) = percentile_differences(measured + 2, measured, [50], draws=50)
    assert (shift.low, shift.high) == pytest.approx((2, 2))


def test_resampling_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.random.default_rng(5).random(100)]

    def means(drawn: Any) -> Any:
        return drawn.mean(axis=1)[None, :]

    whole = interval(means, values, draws=40, block=1)
    monkeypatch.setattr("gpu_validate.bootstrap.CELLS", 400)
    assert interval(means, values, draws=40, block=1) == whole


def test_samples_of_different_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"equally long samples .* lengths \[2, 3\]"):
        percentile_errors([1.0, 2.0], [1.0, 2.0, 3.0], [50])


def test_distances_are_those_of_scipy() -> None:
    rng = np.random.default_rng(6)
    one, other = rng.normal(size=70), rng.normal(0.3, 2, size=110)
    assert ks_distance(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    assert wasserstein_1(one, other) == pytest.approx(wasserstein_distance(one, other))
