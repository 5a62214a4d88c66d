"""SIEVE and S3-FIFO: marks and queues, and what happens when the engine must keep what the scan would evict."""

from __future__ import annotations

from policies.eviction_queues import S3FIFO, Sieve
from tests.eviction_world import ADAPTERS, A, B, order, play

# --- SIEVE -----------------------------------------------------------------------------------------------------------


def test_sieve_evicts_the_oldest_that_has_no_mark() -> None:
    assert order(play(Sieve(), "a +a b +b c +c a"), "abc") == "bca"


def test_the_use_that_a_load_is_for_sets_no_mark() -> None:
    assert order(play(Sieve(), "a +a b +b"), "ab") == "ab"
    assert order(play(Sieve(), "+a +b a"), "ab") == "ab"
    assert order(play(Sieve(), "+a +b a a"), "ab") == "ba"


def test_the_hand_stays_where_it_found_its_victim() -> None:
    assert order(play(Sieve(), "a +a b +b c +c a -b d +d"), "acd") == "cda"


def test_the_hand_begins_again_at_the_oldest_once_it_has_passed_the_newest() -> None:
    assert order(play(Sieve(), "a +a a b +b -b c +c"), "ac") == "ac"


def test_the_hand_clears_the_marks_that_it_passes() -> None:
    assert order(play(Sieve(), "a +a a b +b c +c c -b"), "ac") == "ac"


def test_a_hand_that_must_take_a_marked_one_has_cleared_all() -> None:
    assert order(play(Sieve(), "a +a a b +b b c +c -a"), "bc") == "bc"


def test_sieve_passes_by_what_is_in_use() -> None:
    cache = play(Sieve(), "a +a b +b c +c")
    assert order(cache, "bc") == "bc"
    cache.evicted(B, 9.0)
    assert order(cache, "ac") == "ca"


def test_a_prefetch_would_stand_behind_all_unmarked_and_before_the_marked() -> None:
    assert order(play(Sieve(), "a +a a b +b"), "abd") == "bda"


def test_a_single_score_is_the_place_among_all_in_memory() -> None:
    cache = play(Sieve(), "a +a b +b a")
    assert (cache.score(A, 9.0), cache.score(B, 9.0)) == (1, 0)


# --- S3-FIFO ---------------------------------------------------------------------------------------------------------

MAIN_AB = "a +a a a b +b b b c +c -c"  # both have gone on to the main queue, without hits


def test_a_newcomer_leaves_the_small_queue_in_order_of_load_unless_hit_twice() -> None:
    assert order(play(S3FIFO(), "a +a a b +b"), "ab") == "ab"
    assert order(play(S3FIFO(), "a +a a a b +b"), "ab") == "ba"


def test_the_hits_that_it_takes_can_be_set() -> None:
    assert order(play(S3FIFO(move_hits=1), "a +a a b +b"), "ab") == "ba"


def test_who_comes_back_to_a_ghost_enters_the_main_queue() -> None:
    log = "a +a b +b c +c -a a +a d +d"
    assert order(play(S3FIFO(), log), "abcd") == "bcda"
    assert order(play(S3FIFO(ghost_share=0.0), log), "abcd") == "bcad"


def test_a_prefetch_comes_back_to_a_ghost_too() -> None:
    assert order(play(S3FIFO(), "a +a b +b c +c -a +a d +d"), "abcd") == "bcda"


def test_a_ghost_that_was_there_at_the_miss_counts_though_evictions_push_it_out_before_the_load() -> None:
    assert order(play(S3FIFO(ghost_share=0.4), "a +a b +b c +c -a a -b +a d +d"), "acd") == "cda"
    assert order(play(S3FIFO(ghost_share=0.4), "a +a b +b c +c -a -b a +a d +d"), "acd") == "cad"


def test_a_victim_of_the_main_queue_leaves_no_ghost() -> None:
    assert order(play(S3FIFO(), f"{MAIN_AB} d +d -a a +a e +e"), "ade") == "dae"


def test_the_main_queue_gives_another_round_for_each_hit() -> None:
    assert order(play(S3FIFO(), f"{MAIN_AB} a"), "ab") == "ba"
    assert order(play(S3FIFO(), f"{MAIN_AB} a a b"), "ab") == "ba"
    assert order(play(S3FIFO(), f"{MAIN_AB} a b"), "ab") == "ab"


def test_hits_stop_at_three() -> None:
    assert order(play(S3FIFO(), f"{MAIN_AB} a a a a a a b b b"), "ab") == "ab"


def test_the_main_queue_gives_the_victim_while_the_small_one_is_below_its_share() -> None:
    assert order(play(S3FIFO(small_share=0.5), f"{MAIN_AB} d +d"), "abd") == "adb"
    assert order(play(S3FIFO(), f"{MAIN_AB} d +d"), "abd") == "dab"


def test_an_adapter_larger_than_the_small_share_enters_the_small_queue_all_the_same() -> None:
    assert order(play(S3FIFO(), "B +B a +a"), "aB") == "Ba"
    assert order(play(S3FIFO(), "B +B a +a B B"), "aB") == "aB"


def test_s3_fifo_passes_by_what_is_in_use_and_leaves_it_where_it_is() -> None:
    cache = play(S3FIFO(), "a +a b +b c +c")
    assert order(cache, "bc") == "bc"
    cache.evicted(B, 9.0)
    assert order(cache, "ac") == "ac"


def test_rounds_are_not_used_up_where_all_of_the_main_queue_is_in_use() -> None:
    assert order(play(S3FIFO(small_share=0.9), f"{MAIN_AB} a a a b d +d -d b"), "ab") == "ba"


def test_who_is_hit_in_the_small_queue_and_alone_may_go_goes_though_the_small_queue_is_below_its_share() -> None:
    cache = play(S3FIFO(small_share=0.9), f"{MAIN_AB} d +d d d")
    assert order(cache, "d") == "d"
    cache.evicted(ADAPTERS["d"], 20.0)
    assert order(cache, "ab") == "ab"
