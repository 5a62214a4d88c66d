"""Exact k-means on a line, and how many clusters to keep."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.clustering import choose_k, cutoffs, kmeans_1d, partitions, sample

numbers = st.lists(st.floats(-1e3, 1e3) | st.integers(0, 3).map(float), min_size=1, max_size=9)


def brute_force_wcss(values: list[float], k: int) -> float:
    """Try every way to cut the sorted values into at most k runs."""
    ordered = np.sort(values)

    def scatter(bounds: tuple[int, ...]) -> float:
        runs = (ordered[a:b] for a, b in pairwise((0, *bounds, len(ordered))))
        return sum(float(((run - run.mean()) ** 2).sum()) for run in runs)

    cuts = (bounds for size in range(k) for bounds in combinations(range(1, len(ordered)), size))
    return min(scatter(bounds) for bounds in cuts)


@given(values=numbers, k=st.integers(1, 5))
def test_no_partition_scatters_less(values: list[float], k: int) -> None:
    assert kmeans_1d(values, k).wcss == pytest.approx(brute_force_wcss(values, k), rel=1e-9, abs=1e-6)


@given(values=numbers, k=st.integers(1, 5))
def test_the_wcss_is_that_of_the_nearest_centroid(values: list[float], k: int) -> None:
    clusters = kmeans_1d(values, k)
    nearest = np.abs(np.subtract.outer(values, clusters.centroids)).min(axis=1)
    assert (nearest**2).sum() == pytest.approx(clusters.wcss, rel=1e-9, abs=1e-6)


def test_centroids_are_the_means_of_clear_groups() -> None:
    clusters = kmeans_1d([10.0, 1.0, 12.0, 2.0, 3.0], 2)
    assert clusters.centroids.tolist() == [2.0, 11.0]
    assert clusters.wcss == 4.0


def test_one_value_in_many_copies_makes_one_cluster() -> None:
    assert kmeans_1d([5.0] * 7, 4).centroids.tolist() == [5.0]


def test_a_far_offset_does_not_drown_the_groups() -> None:
    clusters = kmeans_1d([1e9 + 1, 1e9 + 2, 1e9 + 11, 1e9 + 12], 2)
    assert clusters.wcss == pytest.approx(1.0)


def test_large_inputs_agree_with_a_quadratic_program() -> None:
    points = np.sort(np.random.default_rng(1).lognormal(size=300))
    first = [points[:end].var() * end if end else 0.0 for end in range(301)]
    two = min(first[cut] + points[cut:].var() * (300 - cut) for cut in range(1, 300))
    assert kmeans_1d(points, 2).wcss == pytest.approx(two)


def test_wcss_falls_with_every_cluster() -> None:
    found = partitions(np.random.default_rng(2).normal(size=200), 6)
    assert all(after.wcss < before.wcss for before, after in pairwise(found))


@pytest.mark.parametrize(("values", "k"), [([], 1), ([1.0], 0), ([float("nan")], 1), ([float("inf"), 1.0], 1)])
def test_impossible_inputs_are_refused(values: list[float], k: int) -> None:
    with pytest.raises(ValueError, match="k-means needs finite values"):
        kmeans_1d(values, k)


def test_the_elbow_stops_before_a_step_that_removes_too_little() -> None:
    wcss = [100.0, 40.0, 31.0, 1.0]
    assert choose_k(wcss) == 2
    assert choose_k(wcss, elbow=0.05) == 4


def test_a_step_of_exactly_the_share_is_taken() -> None:
    assert choose_k([100.0, 90.0, 85.0]) == 2


def test_argmin_takes_the_most_clusters_unless_values_repeat() -> None:
    assert choose_k([9.0, 3.0, 1.0, 0.5], "argmin") == 4
    assert choose_k([9.0, 0.0, 0.0, 0.0], "argmin") == 2


def test_values_without_scatter_need_one_cluster() -> None:
    assert choose_k([0.0, 0.0]) == 1


def test_cutoffs_lie_halfway_between_centroids() -> None:
    assert cutoffs(np.array([1.0, 3.0, 10.0])) == [2.0, 6.5]


def test_a_sample_keeps_both_ends_and_even_ranks() -> None:
    assert sample(range(100, -1, -1), 5).tolist() == [0.0, 25.0, 50.0, 75.0, 100.0]


def test_a_small_set_is_its_own_sample() -> None:
    assert sample([3.0, 1.0, 2.0], 3).tolist() == [1.0, 2.0, 3.0]
