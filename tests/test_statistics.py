"""Percentiles with weights and by group, and intervals over replications."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.statistics import (
    compare_pairs,
    describe,
    grouped_percentiles,
    mean_interval,
    paired_difference,
    percentile_interval,
    relative_reduction,
    sign_test_p,
    weighted_percentiles,
)

law = settings(deadline=None, max_examples=60)
finite = st.floats(-1e9, 1e9)
weighted = st.lists(st.tuples(finite, st.integers(1, 30)), min_size=1, max_size=30)
Q = [0, 1, 37.5, 50, 90, 95, 99, 99.9, 100]


@law
@given(weighted)
def test_a_weighted_percentile_is_the_percentile_of_the_expanded_sample_bit_for_bit(
    sample: list[tuple[float, int]],
) -> None:
    values, weights = np.array([v for v, _ in sample]), np.array([w for _, w in sample])
    expected = np.percentile(np.repeat(values, weights), Q)
    assert weighted_percentiles(values, weights, Q).tolist() == expected.tolist()


@law
@given(weighted)
def test_weighted_moments_are_those_of_the_expanded_sample(sample: list[tuple[float, int]]) -> None:
    values, weights = np.array([v for v, _ in sample]), np.array([w for _, w in sample])
    expanded = np.repeat(values, weights)
    described = describe(values, weights)
    assert described["n"] == len(expanded)
    assert described["mean"] == pytest.approx(expanded.mean(), rel=1e-9, abs=1e-6)
    assert described["std"] == pytest.approx(expanded.std(), rel=1e-6, abs=1e-6)


def test_a_description_names_mean_population_deviation_and_percentiles_in_order() -> None:
    described = describe([4.0, 2.0])
    assert list(described) == ["unit", "mean", "std", "p50", "p90", "p95", "p99", "p99_9", "n"]
    assert described["unit"] == "ms"
    assert (described["mean"], described["std"], described["p50"], described["p90"]) == (3.0, 1.0, 3.0, 3.8)


def test_values_that_are_not_numbers_are_left_out_of_a_description() -> None:
    assert describe([1.0, math.nan, 3.0]) == describe([1.0, 3.0])


def test_an_empty_sample_has_no_statistics_but_n_zero() -> None:
    described = describe([math.nan])
    assert described["n"] == 0
    assert all(described[key] is None for key in ("mean", "std", "p50", "p90", "p95", "p99", "p99_9"))


@law
@given(st.lists(st.tuples(st.integers(0, 3), finite), max_size=40), st.sampled_from(Q))
def test_each_group_has_its_own_percentile(rows: list[tuple[int, float]], q: float) -> None:
    groups, values = np.array([g for g, _ in rows], dtype=np.int64), np.array([v for _, v in rows])
    result = grouped_percentiles(values, groups, 4, q)
    for group in range(4):
        own = values[groups == group]
        expected = np.percentile(own, q) if len(own) else math.nan
        assert result[group] == expected or (math.isnan(result[group]) and math.isnan(expected))


def test_the_t_interval_of_a_mean_is_the_textbook_one() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451051977987 * math.sqrt(2.5 / 5)  # t table, 4 degrees of freedom, 97.5 %
    assert (interval.estimate, interval.n) == (3.0, 5)
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half))


def test_one_replication_has_a_mean_but_no_bounds() -> None:
    interval = mean_interval([7.0])
    assert (interval.estimate, interval.low, interval.high, interval.n) == (7.0, None, None, 1)
    assert not interval.excludes_zero


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="got 0 values"):
        mean_interval([])


def test_pairing_removes_what_both_arms_share() -> None:
    baseline = [10.0, 200.0, 3000.0]
    interval = paired_difference(baseline, [value - 1 for value in baseline])
    assert (interval.low, interval.estimate, interval.high) == (-1.0, -1.0, -1.0)


def test_a_relative_reduction_is_the_mean_of_the_pairs() -> None:
    assert relative_reduction([10.0, 100.0], [8.0, 60.0]).estimate == pytest.approx(0.3)


def test_a_relative_reduction_from_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="positive baselines, got 0"):
        relative_reduction([0.0, 1.0], [1.0, 1.0])


def test_samples_of_different_length_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("baseline", "candidate", "p"),
    [
        ([2] * 5, [1] * 5, 2 / 32),
        ([1, 1, 1, 2], [2, 2, 2, 1], 10 / 16),
        ([1, 2], [1, 2], 1.0),
        ([2, 2, 3], [1, 1, 3], 0.5),
    ],
)
def test_the_sign_test_asks_a_fair_coin_and_leaves_ties_out(
    baseline: list[float], candidate: list[float], p: float
) -> None:
    assert sign_test_p(baseline, candidate) == p


def test_a_steady_difference_is_significant() -> None:
    comparison = compare_pairs([10.0, 11.0, 12.0, 13.0, 14.0], [8.0, 9.1, 10.0, 10.9, 12.0])
    assert comparison.significant
    assert comparison.difference.estimate == pytest.approx(-2.0)
    assert comparison.reduction is not None
    assert comparison.reduction.estimate == pytest.approx(np.mean([0.2, 1.9 / 11, 2 / 12, 2.1 / 13, 2 / 14]))


def test_a_difference_within_the_noise_is_not_significant() -> None:
    assert not compare_pairs([10.0, 11.0, 12.0], [11.0, 10.0, 12.5]).significant


def test_one_pair_is_never_significant() -> None:
    assert not compare_pairs([10.0], [1.0]).significant


def test_a_comparison_from_nothing_has_no_reduction() -> None:
    assert compare_pairs([0.0, 0.0], [1.0, 2.0]).reduction is None


def test_the_interval_of_a_median_is_that_of_the_40th_and_61st_of_100() -> None:
    interval = percentile_interval(np.arange(1, 101)[::-1], 50)
    assert (interval.estimate, interval.low, interval.high, interval.n) == (50.5, 40.0, 61.0, 100)


@pytest.mark.parametrize(("n", "high"), [(367, None), (368, 368.0)])
def test_a_p99_has_an_upper_bound_from_368_values_on(n: int, high: float | None) -> None:
    assert percentile_interval(np.arange(1, n + 1), 99).high == high


def test_the_percentile_interval_covers_the_truth_at_least_as_often_as_it_says() -> None:
    uniform = np.random.default_rng(1).random((300, 200))
    intervals = [percentile_interval(sample, 90) for sample in uniform]
    hits = sum(one.low is not None and one.high is not None and one.low <= 0.9 <= one.high for one in intervals)
    assert 0.93 <= hits / len(intervals) <= 0.99
