"""Popularity families against the table of known skews, draws against their shares, and locality by an LRU cache."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter, ValidationError

from sim.readers.describe import skew
from sim.workload.locality import Locality, assign, sessions
from sim.workload.making import streams
from sim.workload.popularity import (
    GeometricPopularity,
    Popularity,
    RankZipfPopularity,
    RoundRobinPopularity,
    SloraPowerPopularity,
    UniformPopularity,
    WeightsPopularity,
    ZipfMandelbrotPopularity,
    ZipfPopularity,
    draw,
)

IntArray = npt.NDArray[np.int64]
RANKS = np.tile([8, 16, 32, 64, 128], 20)
DRAWS = 40_000

# family, share of the first and of the first ten, effective adapters, at 100 adapters
KNOWN = [
    (SloraPowerPopularity(), 0.01, 0.10, 100),
    (SloraPowerPopularity(alpha=0.6), 0.06, 0.25, 86),
    (SloraPowerPopularity(alpha=0.3), 0.25, 0.50, 43),
    (SloraPowerPopularity(alpha=0.1), 0.63, 0.79, 8.5),
    (ZipfPopularity(s=0.5), 0.05, 0.27, 84),
    (ZipfPopularity(s=0.9), 0.16, 0.50, 49),
    (ZipfPopularity(s=1.0), 0.19, 0.57, 40),
    (ZipfPopularity(s=1.2), 0.28, 0.69, 25),
    (GeometricPopularity(a=1.5), 0.33, 0.98, 6.7),
    (RankZipfPopularity(s=0.5), 0.026, 0.22, 90),
    (RankZipfPopularity(s=1.0), 0.056, 0.42, 63),
    (RankZipfPopularity(s=1.5), 0.092, 0.62, 36),
    (ZipfMandelbrotPopularity(), 0.07, 0.41, 62),
    (ZipfMandelbrotPopularity(s=0.99, q=1.9), 0.09, 0.43, 60),
    (UniformPopularity(), 0.01, 0.10, 100),
]


def drawn(popularity: Popularity, seed: int = 0, requests: int = DRAWS, locality: Locality | None = None) -> IntArray:
    return assign(popularity, RANKS, requests, locality, streams(seed))


@pytest.mark.parametrize(("popularity", "top1", "top10", "effective"), KNOWN)
def test_a_family_has_its_known_skew(popularity: Popularity, top1: float, top10: float, effective: float) -> None:
    told = skew(popularity.shares(RANKS))
    assert told["top1_share"] == pytest.approx(top1, abs=0.006)
    assert told["top10_share"] == pytest.approx(top10, abs=0.007)
    assert told["effective_adapters"] == pytest.approx(effective, rel=0.02)


@pytest.mark.parametrize("popularity", [row[0] for row in KNOWN])
def test_draws_follow_the_shares(popularity: Popularity) -> None:
    by_index = popularity.model_copy(update={"by_index": True})
    shares = np.bincount(drawn(by_index), minlength=100) / DRAWS
    assert np.abs(shares - popularity.shares(RANKS)).max() < 0.01


def test_s_loras_power_with_exponent_one_is_uniform() -> None:
    assert np.allclose(SloraPowerPopularity(alpha=1).shares(RANKS), 0.01)


def test_s_loras_power_above_one_is_skewed_to_the_last() -> None:
    shares = SloraPowerPopularity(alpha=3).shares(RANKS)
    assert (np.diff(shares) > 0).all()


def test_chameleons_scheme_gives_every_rank_the_same_share() -> None:
    mix = np.bincount(RANKS[drawn(RankZipfPopularity())])
    assert (mix[[8, 16, 32, 64, 128]] / DRAWS).tolist() == pytest.approx([0.2] * 5, abs=0.01)


def test_ranks_can_be_skewed_too() -> None:
    shares = RankZipfPopularity(rank_s=1).shares(RANKS)
    by_rank = [shares[rank == RANKS].sum() for rank in (8, 16, 32, 64, 128)]
    assert np.allclose(np.array(by_rank) / by_rank[0], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_another_skew_inside_the_ranks_leaves_every_requests_rank() -> None:
    one, other = (drawn(RankZipfPopularity(s=s)) for s in (0.5, 1.5))
    assert (RANKS[one] == RANKS[other]).all()
    assert (one != other).any()


def test_popularity_meets_adapters_in_an_order_of_its_own_for_each_seed() -> None:
    most = [int(np.bincount(drawn(ZipfPopularity(), seed)).argmax()) for seed in range(6)]
    assert len(set(most)) > 3


def test_popularity_by_index_makes_adapter_zero_the_most_popular() -> None:
    assert np.bincount(drawn(ZipfPopularity(by_index=True))).argmax() == 0


def test_round_robin_takes_the_adapters_in_turn() -> None:
    assert drawn(RoundRobinPopularity(by_index=True), requests=202).tolist() == [*range(100), *range(100), 0, 1]
    assert sorted(drawn(RoundRobinPopularity(), requests=100).tolist()) == list(range(100))


def test_an_adapter_without_weight_is_never_drawn() -> None:
    popularity = WeightsPopularity(weights=(0.0, 3.0, 0.0, 1.0), by_index=True)
    counts = np.bincount(drawn(popularity), minlength=100)
    assert counts[[1, 3]].sum() == DRAWS
    assert counts[1] / DRAWS == pytest.approx(0.75, abs=0.01)


def test_the_ends_of_the_unit_interval_draw_only_adapters_with_a_share() -> None:
    ends = np.array([0.0, np.nextafter(1, 0)])
    u_rank, u_adapter = (grid.ravel() for grid in np.meshgrid(ends, ends))
    shares = np.array([0.0, 0.3, 0.0, 0.7, 0.0, 0.0])
    assert set(draw(shares, np.array([8, 8, 16, 16, 16, 32]), u_rank, u_adapter).tolist()) == {1, 3}


def test_rounding_never_carries_a_draw_into_the_next_rank() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(200))
    ranks = np.repeat(np.arange(1, 101), 2)
    u_rank = np.linspace(0, 1, 5_000, endpoint=False)
    lowest, highest = (draw(shares, ranks, u_rank, np.full(5_000, u)) for u in (0.0, np.nextafter(1, 0)))
    assert (ranks[lowest] == ranks[highest]).all()


@pytest.mark.parametrize("weights", [(0.0,), (1.0,) * 101])
def test_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="at most 100, one for each adapter, and a sum above 0 are allowed"):
        WeightsPopularity(weights=weights).shares(RANKS)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("zipf", ZipfPopularity()),
        ("distinct", RoundRobinPopularity()),
        ("skewed", GeometricPopularity(a=1.5)),
        ({"family": "skewed", "a": 2.0}, GeometricPopularity(a=2.0)),
        ("identical", WeightsPopularity(weights=(1.0,))),
        ({"family": "weights", "weights": [1, 2]}, WeightsPopularity(weights=(1.0, 2.0))),
    ],
)
def test_families_are_named_by_their_own_names_and_by_other_clients_words(given: object, meant: Popularity) -> None:
    accepts: TypeAdapter[Popularity] = TypeAdapter(Popularity)
    assert accepts.validate_python(given) == meant


@pytest.mark.parametrize("given", ["pareto", {"family": "zipf", "alpha": 1.0}, {"family": "geometric", "a": 1.0}])
def test_unknown_families_keywords_and_values_are_refused(given: object) -> None:
    accepts: TypeAdapter[Popularity] = TypeAdapter(Popularity)
    with pytest.raises(ValidationError):
        accepts.validate_python(given)


def lru_hit_ratio(adapters: IntArray, capacity: int) -> float:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for adapter in adapters.tolist():
        hits += adapter in cache
        cache[adapter] = None
        cache.move_to_end(adapter)
        if len(cache) > capacity:
            cache.popitem(last=False)
    return hits / len(adapters)


def real_and_shuffled(adapters: IntArray, capacity: int = 16) -> tuple[float, float]:
    shuffled = np.random.default_rng(0).permutation(adapters)
    return lru_hit_ratio(adapters, capacity), lru_hit_ratio(shuffled, capacity)


def test_with_locality_a_cache_hits_far_more_often_than_on_the_same_requests_shuffled() -> None:
    real, shuffled = real_and_shuffled(drawn(RankZipfPopularity(), locality=Locality(), requests=20_000))
    assert real > shuffled + 0.4


def test_without_locality_the_order_of_requests_does_not_matter() -> None:
    real, shuffled = real_and_shuffled(drawn(RankZipfPopularity(), requests=20_000))
    assert real == pytest.approx(shuffled, abs=0.02)


def test_a_session_repeats_its_adapter_as_often_as_asked() -> None:
    locality = Locality(drift_share=0.0)
    rngs = streams(4)
    adapters = assign(UniformPopularity(), RANKS, DRAWS, locality, rngs)
    session = sessions(DRAWS, locality, streams(4)["sessions"])
    order = np.argsort(session, kind="stable")
    inside = np.diff(session[order]) == 0
    same = np.diff(adapters[order]) == 0
    assert same[inside].mean() == pytest.approx(0.79 + 0.21 / 100, abs=0.01)
    assert same[~inside].mean() == pytest.approx(0.01, abs=0.01)


def test_sessions_have_the_mean_length_asked_for() -> None:
    session = sessions(DRAWS, Locality(), np.random.default_rng(0))
    assert DRAWS / len(np.unique(session)) == pytest.approx(7, rel=0.05)


def test_sessions_are_already_under_way_when_the_first_request_arrives() -> None:
    session = sessions(20_000, Locality(at_rate_per_s=5), np.random.default_rng(0))
    oldest_to_newest = [int(np.ptp(session[part])) for part in (slice(0, 200), slice(15_000, 15_200))]
    assert oldest_to_newest[0] > 0.5 * oldest_to_newest[1]


def test_sessions_of_one_request_are_no_sessions() -> None:
    session = sessions(1000, Locality(session_requests_mean=1), np.random.default_rng(0))
    assert len(np.unique(session)) == 1000


def test_sessions_are_interleaved_as_much_as_their_rate_says() -> None:
    def under_way(at_rate_per_s: float) -> float:
        session = sessions(20_000, Locality(at_rate_per_s=at_rate_per_s), np.random.default_rng(0))
        return float(np.mean(np.diff(session) != 0))

    assert under_way(0.001) < 0.35
    assert under_way(0.5) > 0.9


def most_used(adapters: IntArray, part: slice) -> set[int]:
    return set(np.argsort(np.bincount(adapters[part], minlength=100))[-10:].tolist())


@pytest.mark.parametrize(("drift_share", "least", "most"), [(0.0, 9, 10), (0.3, 4, 9), (1.0, 0, 4)])
def test_drift_replaces_its_share_of_the_popular_adapters_each_epoch(drift_share: float, least: int, most: int) -> None:
    locality = Locality(drift_share=drift_share, at_rate_per_s=1, epoch_s=20_000, repeat_probability=0)
    adapters = drawn(ZipfPopularity(), 1, 40_000, locality)
    kept = most_used(adapters, slice(0, 20_000)) & most_used(adapters, slice(20_000, 40_000))
    assert least <= len(kept) <= most


def test_drift_leaves_every_rank_its_share_under_chameleons_scheme() -> None:
    adapters = drawn(RankZipfPopularity(), locality=Locality(drift_share=1.0, repeat_probability=0))
    mix = np.bincount(RANKS[adapters])[[8, 16, 32, 64, 128]] / DRAWS
    assert mix.tolist() == pytest.approx([0.2] * 5, abs=0.01)
