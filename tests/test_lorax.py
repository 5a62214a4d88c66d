"""LoRAX: adapters take turns in memory, and requests join when enough of them wait."""

from __future__ import annotations

import pytest

from policies.lorax import LoRAX
from tests.fake_batch import FakeBatch, adapter, again, request

A, B, C = adapter("a"), adapter("b"), adapter("c")


def test_an_adapter_is_loaded_in_the_background_and_its_request_joins_when_it_is_there() -> None:
    batch = FakeBatch(LoRAX())
    batch.arrive(request(0, A))
    assert batch.fill() == [("fetch", "a")]
    assert batch.fill() == []
    batch.land(A)
    assert batch.fill() == [("add", 0)]


def test_the_oldest_request_of_a_ready_adapter_goes_next() -> None:
    batch = FakeBatch(LoRAX(memory_share=1.0), resident=[B])
    batch.arrive(request(0, A), request(1, B), request(2, None), request(3, B))
    assert batch.admitted() == [1, 2, 3]


def test_adapters_beyond_the_budget_stay_pending_and_nobody_passes_them() -> None:
    scheduler = LoRAX(memory_share=0.2)
    batch = FakeBatch(scheduler)
    small = adapter("small", size_bytes=1)
    batch.arrive(request(0, A), request(1, B), request(2, C), request(3, small))
    assert batch.fill() == [("fetch", "a"), ("fetch", "b")]
    assert list(scheduler.pending) == [C, small]


def test_an_adapter_larger_than_the_budget_has_its_turn_alone() -> None:
    batch = FakeBatch(LoRAX(memory_share=0.001))
    batch.arrive(request(0, A), request(1, B))
    assert batch.fill() == [("fetch", "a")]


def one_place() -> tuple[LoRAX, FakeBatch]:
    """Return an engine with a place for one active adapter: A's, with a request that waits; B is pending."""
    scheduler = LoRAX(max_active=1, memory_share=1.0)
    batch = FakeBatch(scheduler, resident=[A], requests=0)
    batch.arrive(request(0, A))
    batch.fill(0.0)
    batch.arrive(request(1, B))
    return scheduler, batch


def test_an_adapter_keeps_its_place_for_its_cycle() -> None:
    scheduler, batch = one_place()
    batch.fill(1.9)
    assert list(scheduler.active) == [A]


def test_after_its_cycle_an_adapter_goes_to_the_end_of_the_pending_ones() -> None:
    scheduler, batch = one_place()
    assert batch.wake() == 2.0
    assert batch.fill(2.0)[:2] == [("drop", "a"), ("fetch", "b")]
    assert list(scheduler.active) == [B]
    assert list(scheduler.pending) == [A]


def test_an_adapter_in_use_keeps_its_place_whatever_its_cycle() -> None:
    scheduler, batch = one_place()
    batch.requests = 1
    batch.fill(1.0)
    batch.prefill()
    batch.wake()
    batch.fill(5.0)
    assert list(scheduler.active) == [A]


def test_a_load_does_not_use_up_the_cycle() -> None:
    scheduler = LoRAX(max_active=1, memory_share=1.0)
    batch = FakeBatch(scheduler)
    batch.arrive(request(0, A), request(1, B))
    batch.fill(0.0)
    assert scheduler.wakes_at_s() is None
    batch.fill(9.0)
    assert list(scheduler.active) == [A]


def test_an_idle_adapter_stays_until_another_wants_its_place() -> None:
    scheduler = LoRAX(max_active=1, memory_share=1.0)
    batch = FakeBatch(scheduler, resident=[A])
    batch.arrive(only := request(0, A))
    batch.fill()
    batch.prefill()
    batch.finish(only)
    batch.arrive(request(1, None))
    batch.fill(0.1)
    assert list(scheduler.active) == [A]
    batch.arrive(request(2, B))
    assert batch.fill(0.2)[:2] == [("drop", "a"), ("fetch", "b")]


def test_adapters_within_their_cycle_go_before_older_requests_of_others() -> None:
    batch = FakeBatch(LoRAX(memory_share=1.0), resident=[A], requests=0)
    batch.arrive(request(0, A))
    batch.fill(0.0)
    batch.arrive(request(1, B))
    batch.land(B)
    batch.fill(1.0)
    batch.wake()
    batch.requests = 9
    assert batch.admitted(2.5) == [1, 0]


def busy() -> FakeBatch:
    """Return an engine with ten running requests and one that waits."""
    batch = FakeBatch(LoRAX())
    batch.arrive(*(request(i) for i in range(10)))
    batch.decode(5)
    batch.fill()
    batch.prefill()
    batch.arrive(request(10), request(11))
    return batch


def test_few_waiting_requests_do_not_join_a_large_batch() -> None:
    assert busy().fill() == []


def test_three_tenths_of_the_batch_are_enough_to_join_it() -> None:
    batch = busy()
    batch.arrive(request(12))
    assert batch.admitted() == [10, 11, 12]


def test_after_twenty_steps_few_may_join() -> None:
    batch = busy()
    batch.fill()
    assert batch.scheduler.wakes_at_step() == 25
    batch.decode(20)
    assert batch.admitted() == [10, 11]


def test_an_engine_with_nothing_to_do_admits_the_oldest_although_nothing_could_be_fetched() -> None:
    batch = FakeBatch(LoRAX(), fetches=False)
    batch.arrive(request(0, A), request(1, B))
    assert batch.admitted() == [0]


def test_a_round_held_twice_changes_nothing() -> None:
    _, batch = one_place()
    batch.wake()
    assert again(batch, 2.0) == []


def test_a_cycle_of_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle_s must be above 0"):
        LoRAX(cycle_s=0.0)
