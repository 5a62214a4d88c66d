"""Belady's rule and its variants for unequal sizes, from a known future."""

from __future__ import annotations

from policies.eviction_bounds import Belady, By
from tests.eviction_world import ADAPTERS, A, facts, order, play


def knowing(by: By, *future: tuple[float, str]) -> Belady:
    arrivals = [(arrival_s, ADAPTERS[name]) for arrival_s, name in future]
    return play(Belady(by=by), "", facts(future=[(0.0, None), *arrivals]))


def test_the_furthest_next_use_goes_first() -> None:
    assert order(knowing("count", (1, "a"), (2, "b"), (3, "c"), (4, "a")), "abc", now=0.0) == "cba"


def test_only_arrivals_after_now_are_next() -> None:
    cache = knowing("count", (1, "a"), (2, "b"), (3, "c"), (4, "a"))
    cache.used(A, 1.0)
    assert order(cache, "abc", now=1.5) == "acb"


def test_who_is_never_used_again_goes_before_all() -> None:
    assert order(knowing("count", (1000, "a")), "ab", now=0.0) == "ba"


def test_a_request_that_has_arrived_and_waits_is_an_imminent_use() -> None:
    cache = knowing("count", (1, "a"), (3, "b"), (9, "a"))
    assert order(cache, "ab", now=2.0) == "ba"
    cache.used(A, 2.0)
    assert order(cache, "ab", now=2.0) == "ab"


def test_by_bytes_the_greatest_size_times_distance_goes_first() -> None:
    future = [(2, "B"), (10, "a")]
    assert order(knowing("count", *future), "aB", now=0.0) == "aB"
    assert order(knowing("bytes", *future), "aB", now=0.0) == "Ba"


def test_by_cost_the_cheapest_per_byte_and_second_goes_first() -> None:
    future = [(2, "B"), (10, "a")]  # a load costs 0.02 s a byte, so only the distance is left
    assert order(knowing("cost", *future), "aB", now=0.0) == "aB"
    assert order(knowing("cost", (2, "a"), (10, "B")), "aB", now=0.0) == "Ba"


def test_without_a_future_all_tie() -> None:
    cache = knowing("count")
    assert len(set(cache.scores(list(ADAPTERS.values()), 5.0))) == 1
