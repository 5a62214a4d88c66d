"""Rules that look at an adapter's past: ageing counts, the use before the last, rates of use, ELORA's value."""

from __future__ import annotations

import math

import pytest

from policies.eviction_history import LFUDA, LRUK, Elora, Hyperbolic
from tests.eviction_world import BIG, A, B, order, play


def test_lfu_da_goes_by_uses_while_nobody_was_evicted() -> None:
    assert order(play(LFUDA(), "a +a a b +b"), "ab") == "ba"


def test_lfu_da_lets_the_once_popular_go_when_victims_have_raised_the_level() -> None:
    # a has 3 uses at level 0; b goes with 2, c then enters at 2 + 1 and is used once more.
    assert order(play(LFUDA(), "a +a a a b +b b c -b +c c"), "ac") == "ac"
    assert play(LFUDA(), "a +a a a b +b b c -b +c c").scores([A, B], 0.0) == [3, 2]


def test_lfu_da_lets_a_newcomer_in_at_the_level_that_its_own_load_has_left() -> None:
    cache = play(LFUDA(), "a +a a b -a +b")
    assert cache.score(B, 0.0) == 2 + 1


def test_lru_2_goes_by_the_use_before_the_last() -> None:
    # Last uses are at 6 (a) and 7 (b); those before at 0 (a) and 5 (b).
    log = "a +a b +b +c b a b"
    assert order(play(LRUK(), log), "ab") == "ab"
    assert order(play(LRUK(), "a +a b +b b a a"), "ab") == "ba"


def test_lru_2_lets_those_with_a_single_use_go_first_in_order_of_load() -> None:
    assert order(play(LRUK(), "a +a a c +c b +b"), "abc") == "cba"


def test_lru_1_is_lru() -> None:
    assert order(play(LRUK(k=1), "a +a b +b a"), "ab") == "ba"


def test_lru_2_forgets_the_uses_of_the_evicted_unless_all_count() -> None:
    log = "b +b b a +a -a a +a"
    assert order(play(LRUK(), log), "ab") == "ab"
    assert order(play(LRUK(history="all"), log), "ab") == "ba"


def test_hyperbolic_goes_by_uses_per_second_of_residence() -> None:
    cache = play(Hyperbolic(), "a +a a a b +b")  # a: 3 uses since second 1; b: 1 use since second 5
    assert order(cache, "ab", now=6.0) == "ab"  # 3 / 5 < 1 / 1
    assert order(cache, "ab", now=8.0) == "ba"  # 3 / 7 > 1 / 3


def test_hyperbolic_counts_from_the_latest_load() -> None:
    assert order(play(Hyperbolic(), "a +a a a a -a b +b a +a"), "ab", now=12.0) == "ba"


def test_elora_multiplies_cost_frequency_and_recency() -> None:
    cache = play(Elora(), "B +B B a +a")
    ages_s = {"a": 1.0, "B": 3.0}
    values = [0.2 * 1 * (1 - sigmoid(ages_s["a"])), 2.0 * 2 * (1 - sigmoid(ages_s["B"]))]
    assert list(cache.scores([A, BIG], 5.0)) == pytest.approx([math.log(value) for value in values])


def test_elora_counts_the_uses_before_an_eviction_too() -> None:
    assert order(play(Elora(), "a +a a a -a b +b +a"), "ab", now=8.0) == "ba"


def test_the_unit_of_age_decides_between_a_recent_adapter_and_a_frequent_one() -> None:
    log = "a +a a a a b +b"
    assert order(play(Elora(), log), "ab", now=8.0) == "ab"
    assert order(play(Elora(age_unit_s=10.0), log), "ab", now=8.0) == "ba"


def test_elora_still_tells_adapters_apart_that_nobody_has_used_for_hours() -> None:
    assert order(play(Elora(), "b +b a +a"), "ab", now=10_000.0) == "ba"


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
