"""Who leaves memory first, by each policy's rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Adapter, Cache, Facts
from policies.eviction import FIFO, GDSF, LFU, LRU, ChameleonScore, DropAfterUse, FairShare
from policies.frequency import SlidingCount

FACTS = Facts(
    kv_token_bytes=1,
    kv_tokens=1000,
    memory_tokens=1000,
    admit_every_steps=10,
    batch_prompt_tokens=1000,
    max_prompt_tokens=100,
    max_output_tokens=100,
    max_adapter_bytes=100,
    ttft_slo_s=5.0,
    load_s=lambda adapter: adapter.size_bytes / 50,
)
A = Adapter("a", 8, 10)
B = Adapter("b", 16, 20)
BIG = Adapter("big", 128, 100)


def play(cache: Cache, log: str) -> Cache:
    """Feed "+a" (load), "a" (use), "-a" (evict), one a second from second 0."""
    cache.start(FACTS)
    names = {"a": A, "b": B, "B": BIG}
    for now, word in enumerate(log.split()):
        hook = {"+": cache.loaded, "-": cache.evicted}.get(word[0], cache.used)
        hook(names[word[-1]], float(now))
    return cache


def victim(cache: Cache, *adapters: Adapter, now: float = 100.0) -> Adapter:
    scores = dict(zip(adapters, cache.scores(adapters, now), strict=True))
    return min(scores, key=scores.__getitem__)


def test_lru_evicts_who_was_used_longest_ago() -> None:
    assert victim(play(LRU(), "+a +b b a"), A, B) is B


def test_lru_counts_a_load_as_a_use() -> None:
    assert victim(play(LRU(), "+a a +b"), A, B) is A


def test_lfu_evicts_who_was_used_least_since_it_came() -> None:
    assert victim(play(LFU(), "+a a a +b b"), A, B) is B
    assert victim(play(LFU(), "+a a a -a +a a +b b b"), A, B) is A


def test_fifo_evicts_who_came_first_whatever_is_used() -> None:
    assert victim(play(FIFO(), "+a +b a a"), A, B) is A
    assert victim(play(FIFO(), "+a +b -a +a"), A, B) is B


@pytest.mark.parametrize("cache", [LRU(), FIFO(), ChameleonScore()])
def test_an_adapter_that_would_be_loaded_now_outranks_an_old_one_of_its_size(cache: Cache) -> None:
    twin = Adapter("twin", 8, 10)
    old, new = play(cache, "+a").scores([A, twin], 50.0)
    assert new > old


# --- drop after use --------------------------------------------------------------------------------------------------


def dropped(cache: DropAfterUse, *idle: Adapter, is_empty: bool = False) -> list[Adapter]:
    return list(cache.drops(idle, 0.0, batch_is_empty=is_empty))


def announce(cache: DropAfterUse, *rounds: list[Adapter]) -> DropAfterUse:
    for adapters in rounds:
        cache.announced(adapters, 0.0)
    return cache


def test_whatever_is_idle_is_dropped_unless_the_latest_round_asked_for_it() -> None:
    assert dropped(DropAfterUse(), A, B) == [A, B]
    assert dropped(announce(DropAfterUse(), [A]), A, B) == [B]


def test_the_bit_protects_every_second_earlier_round_by_accident() -> None:
    assert dropped(announce(DropAfterUse(), [A], [B]), A, B) == [A]
    assert dropped(announce(DropAfterUse(), [A], [B], [BIG]), A, B, BIG) == [B]


def test_the_latest_round_alone_protects_without_the_accident() -> None:
    assert dropped(announce(DropAfterUse(tag="latest"), [A], [B], [BIG]), A, B, BIG) == [A, B]


def test_no_tag_protects_nobody() -> None:
    assert dropped(announce(DropAfterUse(tag="none"), [A]), A, B) == [A, B]


def test_an_empty_batch_drops_even_what_is_tagged() -> None:
    assert dropped(announce(DropAfterUse(), [A]), A, B, is_empty=True) == [A, B]


def test_a_round_whose_first_adapter_finds_no_room_flips_the_bit_too() -> None:
    assert dropped(announce(DropAfterUse(), [A], []), A, B) == [A, B]


# --- greedy dual -----------------------------------------------------------------------------------------------------


def test_gdsf_with_the_cost_of_a_load_goes_by_frequency_if_loads_are_linear_in_bytes() -> None:
    assert victim(play(GDSF(), "+B B +a a a"), A, BIG) is BIG
    assert victim(play(GDSF(), "+B B B +a a"), A, BIG) is A


def test_gdsf_with_unit_cost_keeps_the_small() -> None:
    assert victim(play(GDSF(cost="one"), "+B B B B +a a"), A, BIG) is BIG


def test_gdsf_ages_by_the_worth_of_its_victims() -> None:
    cache = play(GDSF(), "+a a a +b b -b +B B")
    assert cache.score(A, 9.0) == pytest.approx(2 * 2.0)
    assert cache.score(BIG, 9.0) == pytest.approx(1 * 2.0 + 1 * 2.0)


def test_gdsf_values_what_nobody_has_used_at_the_present_level() -> None:
    assert play(GDSF(), "+a a -a +b").score(B, 9.0) == pytest.approx(2.0)


# --- Chameleon's score -----------------------------------------------------------------------------------------------


def test_the_score_is_the_weighted_sum_of_the_paper() -> None:
    cache = play(ChameleonScore(), "+a a a a +B B")
    ages_s = {"a": 10.0 - 3.0, "big": 10.0 - 5.0}
    expected = [
        0.45 * 3 / 3 + 0.10 * (1 - 1.0) + 0.45 * 10 / 100,
        0.45 * 1 / 3 + 0.10 * (1 - ages_s["big"] / ages_s["a"]) + 0.45 * 100 / 100,
    ]
    assert list(cache.scores([A, BIG], 10.0)) == pytest.approx(expected)


def test_the_weights_decide_between_a_large_adapter_and_a_popular_one() -> None:
    log = "+B B +a a a"
    assert victim(play(ChameleonScore(frequency=0.2, size=0.8), log), A, BIG) is A
    assert victim(play(ChameleonScore(frequency=0.8, size=0.2), log), A, BIG) is BIG


def test_fair_share_weighs_all_three_alike() -> None:
    cache = play(FairShare(), "+a a +B B B")
    expected = [(1 / 2 + 0 + 10 / 100) / 3, (1 + (1 - 6.0 / 9.0) + 1) / 3]
    assert list(cache.scores([A, BIG], 10.0)) == pytest.approx(expected)


def test_frequency_is_relative_to_residents_or_to_candidates() -> None:
    log = "+B B B B B +a a"
    assert play(ChameleonScore(recency=0), log).score(A, 7.0) == pytest.approx(0.45 / 4 + 0.045)
    assert play(ChameleonScore(recency=0, among="candidates"), log).score(A, 7.0) == pytest.approx(0.45 + 0.045)


def test_uses_leave_the_window() -> None:
    cache = play(ChameleonScore(recency=0, size=0, window_s=10.0), "+a a +b b b")
    assert list(cache.scores([A, B], 10.9)) == [pytest.approx(0.45 / 2), pytest.approx(0.45)]
    assert list(cache.scores([A, B], 11.0)) == [0.0, pytest.approx(0.45)]


def test_uses_count_still_after_an_eviction() -> None:
    cache = play(ChameleonScore(recency=0, size=0), "+a a a -a +a +b b")
    assert list(cache.scores([A, B], 10.0)) == [pytest.approx(0.45), pytest.approx(0.225)]


def test_fading_uses_have_the_mean_age_of_the_window() -> None:
    cache = ChameleonScore(recency=0, size=0, window_s=20.0, window="exponential", among="candidates")
    cache.start(FACTS)
    cache.used(A, 0.0)
    cache.used(B, 10.0)
    assert list(cache.scores([A, B], 30.0)) == [pytest.approx(0.45 * math.exp(-1)), pytest.approx(0.45)]


@given(uses=st.lists(st.tuples(st.floats(0, 5), st.sampled_from([A, B])), max_size=40), window_s=st.floats(0.1, 20))
def test_the_sliding_count_is_exact(uses: list[tuple[float, Adapter]], window_s: float) -> None:
    counter, now, seen = SlidingCount(window_s), 0.0, []
    for gap_s, adapter in uses:
        now += gap_s
        counter.add(adapter, now)
        seen.append((now, adapter))
        recent = [one for at_s, one in seen if at_s > now - window_s]
        assert counter.of([A, B], now) == [recent.count(A), recent.count(B)]


@given(log=st.lists(st.sampled_from(["+a", "a", "-a", "+b", "b", "-b", "+B", "B", "-B"]), max_size=30))
def test_every_score_is_finite_and_the_same_when_asked_again(log: list[str]) -> None:
    for cache in (LRU(), LFU(), FIFO(), GDSF(), ChameleonScore(), FairShare(window="exponential")):
        play(cache, " ".join(log))
        first = list(cache.scores([A, B, BIG], 40.0))
        assert all(map(math.isfinite, first))
        assert list(cache.scores([A, B, BIG], 40.0)) == first


@pytest.mark.parametrize(
    ("cls", "keywords"),
    [
        (DropAfterUse, {"tag": "two bits"}),
        (GDSF, {"cost": "bytes"}),
        (ChameleonScore, {"size": -0.1}),
        (ChameleonScore, {"window": "hopping"}),
        (ChameleonScore, {"among": "all"}),
        (FairShare, {"window_s": 0.0}),
    ],
)
def test_a_bad_keyword_is_named_with_what_is_allowed(cls: type[Cache], keywords: dict[str, Any]) -> None:
    (name, value), *_ = keywords.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        cls(**keywords)
