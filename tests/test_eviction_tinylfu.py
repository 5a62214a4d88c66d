"""W-TinyLFU: window, probation and protected part, and the contest of their victims."""

from __future__ import annotations

from policies.eviction_tinylfu import WTinyLFU
from tests.eviction_world import facts, order, play

NARROW = facts(largest_bytes=10)  # the window has room for one adapter


def after(log: str, **keywords: float) -> WTinyLFU:
    return play(WTinyLFU(**keywords), log, NARROW)


def test_a_newcomer_goes_before_a_victim_that_is_used_as_often() -> None:
    assert order(after("a +a b +b"), "ab") == "ba"


def test_a_newcomer_that_is_used_more_often_stays() -> None:
    assert order(after("a +a b +b b"), "ab") == "ab"


def test_uses_before_an_eviction_count_in_the_contest() -> None:
    assert order(after("b +b b -b a +a b +b"), "ab") == "ab"


def test_the_window_is_an_lru_list_with_room_for_a_largest_adapter() -> None:
    assert order(play(WTinyLFU(), "a +a b +b c +c a"), "abc") == "bca"


def test_the_window_can_be_given_a_greater_share() -> None:
    assert order(after("a +a b +b", window_share=1.0), "ab") == "ab"
    assert order(after("a +a b +b", window_share=0.5), "ab") == "ba"


def test_a_hit_on_probation_protects() -> None:
    assert order(after("a +a b +b c +c a"), "abc") == "cba"


def test_the_protected_that_outgrow_their_share_go_back_on_probation() -> None:
    log = "a +a b +b c +c a b d +d"
    assert order(after(log, protected_share=0.5), "abcd") == "dacb"
    assert order(after(log, protected_share=1.0), "abcd") == "dcab"


def test_frequencies_are_halved_after_some_uses_per_resident() -> None:
    log = "a +a a a a b +b b b b"
    assert order(after(log, halving_uses=5.0), "ab") == "ab"
    assert order(after(log, halving_uses=50.0), "ab") == "ba"


def test_frequencies_stop_at_fifteen() -> None:
    log = f"a +a {'a ' * 14} b +b {'b ' * 40}"
    assert order(after(log, halving_uses=1000.0), "ab") == "ba"


def test_the_first_use_of_a_prefetched_adapter_makes_it_recent_in_the_window() -> None:
    assert order(play(WTinyLFU(), "+a +b a"), "ab") == "ba"
