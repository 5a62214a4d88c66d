"""LHD: hits expected per byte and access, from what was seen at each age."""

from __future__ import annotations

import pytest

from policies.eviction_lhd import LHD
from tests.eviction_world import A, B, order, play


def test_at_the_start_age_in_accesses_decides() -> None:
    assert order(play(LHD(), "a +a b +b"), "ab") == "ab"


def test_the_clock_does_not_make_older() -> None:
    cache = play(LHD(), "a +a b +b")
    assert cache.scores([A, B], 10.0) == cache.scores([A, B], 9999.0)


def test_density_is_per_byte_unless_weighed_by_the_cost_of_a_load() -> None:
    log = "a +a B +B"
    assert order(play(LHD(), log), "aB") == "Ba"
    assert order(play(LHD(cost="load_s"), log), "aB") == "aB"


def test_short_ages_at_the_last_two_hits_make_a_better_class() -> None:
    # a was hit at age 1, b at age 133; since then a is the older by one access.
    log = "b +b" + " c" * 131 + " a +a a b" + " c" * 8
    assert order(play(LHD(), log), "ab") == "ba"


def test_who_is_always_hit_at_one_age_is_worth_most_just_before_it() -> None:
    log = "a +a b +b c +c d +d" + " a b c d" * 10
    assert order(play(LHD(renew_uses=1000), log), "abcd") == "abcd"
    assert order(play(LHD(renew_uses=40), log), "abcd") == "dcba"


def test_densities_are_later_hits_over_the_time_spent_from_an_age_on() -> None:
    # Never hit before: one was then hit at age 1, one evicted at age 3. Two lived at ages 0 and 1, one at ages 2 and 3.
    cache = play(LHD(renew_uses=7), "a +a a -a b +b c d e -b a")
    newcomer = cache.score(A, 0.0) * A.size_bytes
    assert newcomer == pytest.approx(1 / (2 + 2 + 1 + 1))


def test_ages_in_one_bucket_count_as_many_accesses_as_it_is_wide() -> None:
    cache = play(LHD(renew_uses=21), "a +a" + " c" * 19 + " a d")
    assert cache.score(B, 0.0) * B.size_bytes == pytest.approx(1 / 21, rel=0.1)


def test_a_class_of_which_nothing_is_known_keeps_its_start_values() -> None:
    log = "a +a a"  # the hit was of one not hit before
    assert play(LHD(renew_uses=2), log).score(A, 0.0) == play(LHD(), log).score(A, 0.0)


def test_earlier_evictions_fade() -> None:
    log = "a +a -a b c +c c"  # an eviction in an earlier period, a hit in the last
    kept, faded = play(LHD(renew_uses=2, fade=1.0), log), play(LHD(renew_uses=2, fade=0.1), log)
    assert kept.score(A, 0.0) < faded.score(A, 0.0)


def test_earlier_hits_fade() -> None:
    log = "a +a a -a b +b c -b d d"  # a hit at age 1 in an earlier period, an eviction at age 1 in the last
    kept, faded = play(LHD(renew_uses=2, fade=1.0), log), play(LHD(renew_uses=2, fade=0.1), log)
    assert kept.score(A, 0.0) > faded.score(A, 0.0)
