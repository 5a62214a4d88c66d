"""Policies of our own: a forecast that the traffic itself weighs, and what a cache and a prefetcher make of it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from policies.adaptive import Adaptive
from policies.base import Adapter, Facts, Request
from policies.mixture import HORIZONS, UseForecast
from policies.prefetch_adaptive import FIRST_ARRIVALS, LEVELS, AdaptivePrefetch, Books
from sim.conformance.suite import check_policy
from tests.worlds import RoundCosts, World, play

MANY = tuple(Adapter(f"a{i:03d}", 8, 10) for i in range(100))
A, B, C = MANY[:3]
BIG = Adapter("big", 128, 100)
FACTS = Facts(
    kv_token_bytes=1,
    kv_tokens=20,
    memory_tokens=60,
    admit_every_steps=1,
    batch_prompt_tokens=100,
    max_prompt_tokens=100,
    max_output_tokens=100,
    max_adapter_bytes=100,
    ttft_slo_s=5.0,
    load_s=lambda adapter: adapter.size_bytes / 1000,
)


def independent(requests: int) -> list[Adapter]:
    """Draw adapters independently, the first ones far more often."""
    weights = [1 / (1 + place) for place in range(len(MANY))]
    return random.Random(1).choices(MANY, weights, k=requests)


def in_sessions(requests: int) -> list[Adapter]:
    """Use one adapter ten times in a row, then another, none more often than others."""
    return [adapter for adapter in random.Random(1).choices(MANY, k=requests // 10) for _ in range(10)]


def forecast(uses: Iterable[Adapter], known: Iterable[Adapter] = MANY) -> UseForecast:
    made = UseForecast(known)
    for adapter in uses:
        made.add(adapter)
    return made


# --- the forecast ----------------------------------------------------------------------------------------------------


def test_before_the_first_use_all_are_alike() -> None:
    made = UseForecast([A, B])
    assert made.chances() == [0.5, 0.5]
    assert UseForecast().chance(A) == 1.0


@pytest.mark.parametrize("traffic", [independent, in_sessions])
def test_chances_are_positive_and_add_up_to_one(traffic: Callable[[int], list[Adapter]]) -> None:
    made = forecast(traffic(500))
    assert min(made.chances()) > 0
    assert math.fsum(made.chances()) == pytest.approx(1)
    assert math.fsum(made.weights) == pytest.approx(1)


def test_independent_requests_make_it_trust_the_slow_counts_and_sessions_the_fast_ones() -> None:
    slow = np.append(np.array(HORIZONS) >= 128, [True])
    assert forecast(independent(2000)).weights[slow].sum() > 0.7
    assert forecast(in_sessions(2000)).weights[~slow].sum() > 0.7


def test_it_changes_its_mind_with_the_traffic() -> None:
    made = forecast(independent(2000))
    before = made.weights[0]
    for adapter in in_sessions(1000):
        made.add(adapter)
    assert before < 0.1 < made.weights[0]


def test_its_chances_come_near_the_true_shares() -> None:
    made = forecast(independent(4000))
    total = sum(1 / (1 + place) for place in range(len(MANY)))
    assert made.chance(A) == pytest.approx(1 / total, rel=0.2)
    assert made.chance(B) == pytest.approx(0.5 / total, rel=0.3)


def test_adapters_that_nobody_registered_join_with_their_first_use() -> None:
    made = forecast(MANY, known=())
    assert list(made.adapters) == list(MANY)
    assert made.chance(MANY[-1]) > made.chance(A) > made.chance(BIG) > 0


# --- the cache -------------------------------------------------------------------------------------------------------


def cache_after(uses: Iterable[Adapter], facts: Facts = FACTS) -> Adaptive:
    cache = Adaptive()
    cache.start(replace(facts, adapters=(*MANY, BIG)))
    for now, adapter in enumerate(uses):
        cache.used(adapter, float(now))
        cache.loaded(adapter, float(now))
    return cache


def test_independent_traffic_keeps_the_frequent_and_sessions_keep_the_recent() -> None:
    frequent, recent = MANY[1], MANY[90]
    end = [frequent] * 3 + [A, MANY[80], MANY[70], MANY[60], recent]
    steady, bursty = cache_after(independent(2000) + end), cache_after(in_sessions(2000) + end)
    assert steady.score(frequent, 9e3) > steady.score(recent, 9e3)
    assert bursty.score(frequent, 9e3) < bursty.score(recent, 9e3)


def test_uses_count_still_after_an_eviction() -> None:
    once, often = cache_after([B, A]), cache_after([A, A, A, B, A])
    for cache in (once, often):
        cache.evicted(A, 5.0)
        cache.used(B, 6.0)
        cache.loaded(A, 6.0)
    assert often.score(A, 9.0) / often.score(B, 9.0) > once.score(A, 9.0) / once.score(B, 9.0)


def test_of_two_used_alike_the_one_goes_whose_bytes_save_less() -> None:
    by_bytes = cache_after([A, BIG] * 50)
    assert by_bytes.score(A, 99.0) == pytest.approx(by_bytes.score(BIG, 99.0), rel=0.5)
    alike = cache_after([A, BIG] * 50, replace(FACTS, load_s=lambda adapter: 0.02))
    assert alike.score(A, 99.0) > 5 * alike.score(BIG, 99.0)


def test_an_adapter_that_is_not_there_scores_as_if_it_were_used_now() -> None:
    cache = cache_after([A, A, A, B])
    would_be = cache.score(C, 9.0)
    cache.loaded(C, 9.0)
    assert would_be > cache.score(C, 9.0)
    cache.used(C, 9.0)
    assert would_be == pytest.approx(cache.score(C, 9.0), rel=0.5)


def test_the_load_alone_changes_nothing() -> None:
    uses = independent(300)
    slow, fast = cache_after(uses), Adaptive()
    fast.start(replace(FACTS, adapters=(*MANY, BIG)))
    for place, adapter in enumerate(uses):
        fast.used(adapter, place / 1000)
        fast.loaded(adapter, place / 1000)
    assert list(fast.scores(MANY, 1.0)) == list(slow.scores(MANY, 1e3))


def test_candidates_score_the_same_alone_and_together() -> None:
    cache = cache_after(independent(300))
    assert list(cache.scores(MANY, 1.0)) == [cache.score(adapter, 1.0) for adapter in MANY]


# --- the prefetcher --------------------------------------------------------------------------------------------------


def prefetch_after(uses: Iterable[Adapter], facts: Facts, *, gap_s: float = 1.0) -> AdaptivePrefetch:
    prefetch = AdaptivePrefetch()
    prefetch.start(facts)
    for place, adapter in enumerate(uses, 1):
        prefetch.used(adapter, place * gap_s)
    return prefetch


def steadily(*adapters: Adapter) -> list[Adapter]:
    """Go round until it is known how fast requests come."""
    return list(adapters) * (FIRST_ARRIVALS // len(adapters) + 1)


def wanted(prefetch: AdaptivePrefetch, *waiting: Adapter | None) -> list[Adapter]:
    return list(prefetch.wanted([Request(i, 0.0, 40, 10, adapter) for i, adapter in enumerate(waiting)], 1e6))


FIVE = replace(FACTS, adapters=MANY[:5])


def test_waiting_adapters_come_first_and_then_by_chance_what_nobody_has_used_yet_included() -> None:
    prefetch = prefetch_after(steadily(A, B, B), FIVE)
    assert wanted(prefetch) == [B, A, *MANY[2:5]]
    assert wanted(prefetch, MANY[4], None, MANY[4])[:2] == [MANY[4], B]


def test_no_more_is_foreseen_than_memory_could_hold() -> None:
    assert len(wanted(prefetch_after(steadily(A), replace(FACTS, adapters=MANY)))) == 6


def test_while_requests_wait_only_what_fits_beside_a_full_kv_pool_is_foreseen() -> None:
    prefetch = prefetch_after(steadily(A), replace(FACTS, adapters=MANY))
    assert wanted(prefetch, None) == wanted(prefetch)[:4]


def test_nothing_is_foreseen_before_it_is_known_how_fast_requests_come() -> None:
    uses = steadily(A)
    assert wanted(prefetch_after(uses[:FIRST_ARRIVALS], FIVE))
    assert not wanted(prefetch_after(uses[: FIRST_ARRIVALS - 1], FIVE))


def test_arrivals_too_fast_for_the_link_make_it_careful() -> None:
    uses = independent(400)
    slow_link = replace(FACTS, adapters=MANY, load_s=lambda adapter: 2.0)
    assert wanted(prefetch_after(uses, slow_link, gap_s=100.0))
    assert not wanted(prefetch_after(uses, slow_link, gap_s=0.1))


def test_books_count_who_was_used_while_among_the_best() -> None:
    books = Books()
    everywhere, nowhere = np.ones((len(LEVELS), 2), dtype=np.bool_), np.zeros((len(LEVELS), 2), dtype=np.bool_)
    books.move(everywhere, 1)
    books.move(nowhere, 1)  # 0 leaves unused; 1 came by its own use and counts neither way
    assert books.accuracy.tolist() == [0.5] * len(LEVELS)
    books.move(everywhere, 1)
    books.used(0)
    assert (books.accuracy > 0.6).all()


def test_what_was_never_of_use_is_not_foreseen() -> None:
    prefetch = prefetch_after(independent(400), replace(FACTS, adapters=MANY))
    assert wanted(prefetch)
    prefetch._books._useful *= 0
    prefetch.used(MANY[99], 401.0)
    assert not wanted(prefetch)


def test_an_adapter_that_nobody_has_used_is_there_before_its_first_request() -> None:
    world = World(
        [*((place * 10**11, 10, 5, 0) for place in range(FIRST_ARRIVALS)), (10**13, 10, 5, 1)],
        [(8, 20), (8, 20)],
        total_bytes=1000,
        costs=RoundCosts(),
        prefetch=AdaptivePrefetch,
    )
    _, records = play(world)
    assert records.requests["source"].tolist()[-1] == 2
    assert records.useful_prefetches == {1: 1}


@pytest.mark.parametrize("seam", ["cache", "prefetch"])
def test_both_keep_the_laws_of_policies(seam: str) -> None:
    check_policy("adaptive", seam, worlds=20)
