"""vLLM's and SGLang's schedulers: who is skipped, what is copied in the background, which adapter drains."""

from __future__ import annotations

import pytest

from policies.scheduling import HeadOfLine
from policies.skipping import SGLang, SkipAdapters
from tests.fake_batch import FakeBatch, adapter, again, request

A, B, C, D = adapter("a"), adapter("b"), adapter("c"), adapter("d")


def test_a_request_beyond_the_adapter_limit_lets_the_next_one_pass() -> None:
    batch = FakeBatch(SkipAdapters(), adapters=1)
    batch.arrive(request(0, A), request(1, B), request(2, A), request(3, None))
    assert batch.admitted() == [0, 2, 3]


def test_any_other_refusal_ends_the_scan() -> None:
    batch = FakeBatch(SkipAdapters(), tokens=25)
    batch.arrive(request(0, A), request(1, B, prompt=20), request(2, A, prompt=1))
    assert batch.fill() == [("add", 0), ("refuse", 1)]


def test_requests_go_by_arrival_across_adapters() -> None:
    batch = FakeBatch(SkipAdapters())
    batch.arrive(request(0, A), request(1, B), request(2, A), request(3, B))
    assert batch.admitted() == [0, 1, 2, 3]


def test_a_skipped_adapter_has_its_turn_once_the_other_has_gone() -> None:
    batch = FakeBatch(SkipAdapters(), adapters=1, resident=[A, B])
    batch.arrive(first := request(0, A), request(1, B))
    batch.fill()
    batch.prefill()
    batch.finish(first)
    assert batch.admitted() == [1]


def test_a_stopped_request_goes_before_those_that_have_not_run() -> None:
    batch = FakeBatch(SkipAdapters(), resident=[A, B], requests=2)
    batch.arrive(request(0, A), stopped := request(1, B), request(2, A))
    batch.fill()
    batch.prefill()
    batch.stop(stopped)
    assert batch.admitted() == [1]


def test_a_request_that_sglang_stopped_waits_behind_all_others() -> None:
    batch = FakeBatch(SGLang(), resident=[A, B], requests=2)
    batch.arrive(request(0, A), stopped := request(1, B), request(2, B))
    batch.fill()
    batch.prefill()
    batch.stop(stopped)
    assert batch.admitted() == [2]
    batch.requests = 3
    assert batch.admitted() == [1]


def test_a_round_held_twice_admits_nobody_more() -> None:
    batch = FakeBatch(SkipAdapters(), adapters=1)
    batch.arrive(request(0, A), request(1, B), request(2, A))
    assert again(batch) == []


def test_with_background_loads_a_request_waits_for_its_copy_and_others_pass() -> None:
    batch = FakeBatch(SGLang(resident_only=True), resident=[B])
    batch.arrive(request(0, A), request(1, B))
    assert batch.fill() == [("fetch", "a"), ("add", 1)]
    batch.land(A)
    assert batch.admitted() == [0]


def test_as_many_copies_are_under_way_as_there_are_slots_beside_the_batch() -> None:
    batch = FakeBatch(SGLang(resident_only=True), adapters=2)
    batch.arrive(request(0, A), request(1, B), request(2, C), request(3, A))
    assert batch.fill() == [("fetch", "a"), ("fetch", "b")]
    batch.land(A)
    assert batch.fill() == [("add", 0), ("add", 3)]
    batch.land(B)
    assert batch.fill() == [("add", 1)]


def test_no_copy_starts_without_a_free_slot() -> None:
    batch = FakeBatch(SGLang(resident_only=True), adapters=1, resident=[A])
    batch.arrive(request(0, A), request(1, B))
    assert batch.fill() == [("add", 0)]


def test_a_copy_that_ended_long_ago_lets_the_next_start_also_after_a_round_without_a_slot() -> None:
    batch = FakeBatch(SGLang(resident_only=True), adapters=2, resident=[C, D])
    batch.arrive(first := request(0, A))
    batch.fill()
    batch.land(A)
    batch.arrive(second := request(1, C))
    batch.fill()
    batch.prefill()
    batch.arrive(request(2, D), request(3, B))
    assert batch.fill() == [("refuse", 2)]  # and B has its turn too: no copy is under way any more
    for one in (first, second):
        batch.finish(one)
    batch.resident.discard(A)
    batch.arrive(request(4, A))
    assert batch.fill() == [("add", 2), ("fetch", "b")]


def test_with_background_loads_the_base_model_takes_a_slot_beside_those_that_run_or_come() -> None:
    batch = FakeBatch(SGLang(resident_only=True), adapters=2, resident=[A])
    batch.arrive(request(0, A), request(1, B), request(2, None))
    assert batch.fill() == [("add", 0), ("fetch", "b")]
    batch = FakeBatch(SGLang(resident_only=True), adapters=2, resident=[A])
    batch.arrive(request(0, A), request(1, None), request(2, B))
    assert batch.fill() == [("add", 0), ("add", 1)]


def test_without_background_loads_the_batch_waits_for_the_load() -> None:
    batch = FakeBatch(SGLang())
    batch.arrive(request(0, A))
    assert batch.fill() == [("add", 0)]


def draining(*, predicted: int) -> FakeBatch:
    """Return an engine with two slots in use, the tenth token of A's and of B's request decoded, and C starving."""
    batch = FakeBatch(SGLang(drain_wait_s=2.0), adapters=2, resident=[A, B, C])
    batch.arrive(request(0, A, predicted=100), request(1, B, predicted=30))
    batch.fill()
    batch.prefill()
    batch.decode(9)
    batch.arrive(request(2, C, at_s=1.0), request(3, B, at_s=1.5, predicted=predicted))
    return batch


def test_the_adapter_that_ends_first_drains_for_one_that_starves() -> None:
    batch = draining(predicted=25)
    assert batch.wake() == 3.0
    assert batch.admitted(3.0) == []


def test_a_draining_adapter_admits_what_is_little_longer_than_its_rest() -> None:
    batch = draining(predicted=24)
    batch.wake()
    assert batch.admitted(3.0) == [3]


def test_nothing_drains_before_somebody_starves() -> None:
    assert draining(predicted=25).admitted(2.9) == [3]


def test_an_adapter_with_a_longer_rest_does_not_drain() -> None:
    batch = draining(predicted=25)
    batch.arrive(request(4, A, at_s=1.6, predicted=1000))
    batch.wake()
    assert batch.admitted(3.0) == [4]


def test_the_scan_is_due_again_when_a_refused_request_becomes_too_long_for_its_draining_adapter() -> None:
    batch = draining(predicted=12)
    batch.tokens = 20
    batch.wake()
    assert batch.fill(3.0)[-1] == ("refuse", 3)
    assert batch.scheduler.wakes_at_step() == 9 + 10
    batch.tokens = 30
    batch.decode(11)
    assert batch.admitted(3.0) == []


def test_the_slot_goes_to_the_one_that_starved() -> None:
    batch = draining(predicted=25)
    batch.wake()
    batch.fill(3.0)
    batch.finish(batch.running[1])
    assert batch.admitted(3.1) == [2]


def test_a_drain_ends_only_when_its_adapter_has_run_out() -> None:
    batch = draining(predicted=25)
    batch.wake()
    batch.fill(3.0)
    first, second = batch.running
    batch.finish(first)
    assert batch.admitted(3.1) == [2]  # who starved has a slot, and the other one goes on draining
    assert batch.admitted(3.2) == []
    batch.finish(second)
    assert batch.admitted(3.3) == [3]


def test_an_adapter_of_the_batch_may_starve_too_and_who_has_waited_longest_is_helped_first() -> None:
    batch = FakeBatch(SGLang(drain_wait_s=2.0), adapters=2, resident=[A, B, C], requests=2)
    batch.arrive(request(0, A, predicted=100), request(1, B, predicted=30))
    batch.fill()
    batch.prefill()
    batch.arrive(request(2, A, at_s=1.0, predicted=200), request(3, C, at_s=1.5), request(4, B, at_s=1.6, predicted=90))
    batch.requests = 9
    batch.wake(3.0)  # B drains for A, which has waited longest
    assert batch.admitted(3.0) == [2]
    batch.wake(3.5)  # and A for C
    batch.arrive(request(5, A, at_s=3.4, predicted=500))
    assert batch.admitted(3.5) == []


def test_the_base_model_starves_and_drains_like_an_adapter() -> None:
    batch = FakeBatch(SGLang(drain_wait_s=2.0), adapters=2, resident=[A, B], base_slot=True)
    batch.arrive(request(0, A, predicted=100), request(1, None, predicted=30))
    batch.fill()
    batch.prefill()
    batch.arrive(request(2, B, at_s=1.0))
    batch.wake()
    batch.arrive(request(3, None, at_s=3.0, predicted=90), request(4, A, at_s=3.0, predicted=90))
    assert batch.admitted(3.0) == [4]
    batch.finish(batch.running[1])
    assert batch.admitted(3.1) == [2]
    batch.wake()
    batch.fill(5.0)
    assert batch.scheduler._drainer._drains_for == {B: None}  # type: ignore[attr-defined]


def test_a_stopped_request_starves_by_its_second_wait() -> None:
    batch = FakeBatch(SGLang(drain_wait_s=2.0), adapters=1, resident=[A, B], requests=2)
    batch.arrive(request(0, A, predicted=100), stopped := request(1, A, predicted=100))
    batch.fill()
    batch.prefill()
    batch.stop(stopped, now=5.0)
    batch.requests = 1
    assert batch.scheduler.wakes_at_s() == 7.0
    batch.fill(6.9)
    assert batch.scheduler._drainer._drains_for == {}  # type: ignore[attr-defined]
    batch.wake()
    batch.fill(7.0)
    assert batch.scheduler._drainer._drains_for == {A: A}  # type: ignore[attr-defined]


def test_nothing_drains_while_a_slot_is_free() -> None:
    batch = FakeBatch(SGLang(drain_wait_s=2.0), adapters=3, resident=[A, B, C])
    batch.arrive(request(0, A, predicted=100), request(1, B, predicted=30))
    batch.fill()
    batch.prefill()
    batch.requests = 3
    batch.arrive(request(2, B, at_s=0.9, predicted=50), request(3, C, at_s=1.0))
    batch.wake(3.0)
    assert batch.admitted(3.0) == [2]


def test_one_adapter_drains_for_each_that_starves_however_often_it_is_asked() -> None:
    batch = FakeBatch(SGLang(drain_wait_s=2.0), adapters=2, resident=[A, B, C], requests=2)
    batch.arrive(request(0, A, predicted=100), request(1, B, predicted=30))
    batch.fill()
    batch.prefill()
    batch.arrive(request(2, C, at_s=1.0))
    batch.requests = 9
    batch.wake(3.0)
    batch.fill(3.0)
    batch.fill(3.1)
    batch.arrive(request(3, A, at_s=3.1, predicted=1000))  # B drains for C, and A for nobody
    assert batch.admitted(3.2) == [3]


def test_who_has_waited_longest_gets_the_adapter_that_ends_first_whatever_its_name() -> None:
    batch = FakeBatch(SGLang(drain_wait_s=2.0), adapters=1, resident=[A, B, C], requests=1)
    batch.arrive(request(0, B, predicted=30))
    batch.fill()
    batch.prefill()
    batch.arrive(request(1, C, at_s=1.0), request(2, A, at_s=1.5))
    batch.wake(3.5)
    batch.fill(3.5)
    assert batch.scheduler._drainer._drains_for == {B: C}  # type: ignore[attr-defined]


def test_a_drain_without_a_wait_is_refused() -> None:
    with pytest.raises(ValueError, match="drain_wait_s must be above 0"):
        SGLang(drain_wait_s=0.0)


def test_only_the_head_of_the_line_starts_a_load_and_nobody_passes_it() -> None:
    batch = FakeBatch(HeadOfLine(), resident=[B])
    batch.arrive(request(0, B), request(1, A), request(2, B))
    assert batch.fill() == [("add", 0), ("add", 1)]
    assert batch.fill() == []


def test_the_line_moves_on_once_the_load_is_complete() -> None:
    batch = FakeBatch(HeadOfLine())
    batch.arrive(request(0, A), request(1, B), request(2, A))
    assert batch.admitted() == [0]
    batch.land(A)
    assert batch.admitted() == [1]
