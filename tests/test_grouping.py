"""Schedulers that keep the adapters of a batch few: S-LoRA's clusters, and one merged adapter at a time."""

from __future__ import annotations

from policies.grouping import PEFT, Cluster
from tests.fake_batch import FakeBatch, adapter, again, request

A, B = adapter("a"), adapter("b")


def clustered(adapters: int, *, tokens: int = 1000) -> FakeBatch:
    """Return an engine in which A runs; B waits before A."""
    batch = FakeBatch(Cluster(adapters=adapters), resident=[A, B], tokens=tokens)
    batch.arrive(request(0, A))
    batch.fill()
    batch.prefill()
    batch.arrive(request(1, B), request(2, A))
    return batch


def test_with_enough_adapters_in_the_batch_their_requests_go_first() -> None:
    assert clustered(1).admitted() == [2, 1]


def test_with_too_few_adapters_in_the_batch_all_go_by_arrival() -> None:
    assert clustered(2).admitted() == [1, 2]


def test_a_misfit_among_the_first_still_lets_the_others_try() -> None:
    assert clustered(1, tokens=15).fill() == [("refuse", 2), ("refuse", 1)]


def test_the_base_model_counts_as_an_adapter_that_is_there() -> None:
    batch = clustered(1)
    batch.arrive(request(3, None))
    assert batch.admitted() == [2, 3, 1]


def peft() -> FakeBatch:
    return FakeBatch(PEFT(), resident=[A, B])


def test_a_batch_takes_the_oldest_request_s_adapter_alone_and_merges_it() -> None:
    batch = peft()
    batch.arrive(request(0, A), request(1, B), request(2, A))
    assert batch.fill() == [("merge", "a"), ("add", 0), ("add", 2)]


def test_nobody_joins_a_batch_before_it_is_empty() -> None:
    batch = peft()
    batch.arrive(first := request(0, A), request(1, B), request(2, A))
    batch.fill()
    batch.prefill()
    batch.arrive(request(3, A))
    assert batch.fill() == []
    batch.finish(first)
    assert batch.fill() == []


def test_the_next_batch_is_the_next_oldest_s() -> None:
    batch = peft()
    batch.arrive(first := request(0, A), request(1, B), request(2, B))
    batch.fill()
    batch.prefill()
    batch.finish(first)
    assert batch.fill() == [("merge", None), ("merge", "b"), ("add", 1), ("add", 2)]


def test_the_base_model_runs_with_nothing_merged() -> None:
    batch = peft()
    batch.arrive(request(0, None), request(1, A))
    assert batch.fill() == [("add", 0)]


def test_an_absent_adapter_is_fetched_before_it_is_merged() -> None:
    batch = FakeBatch(PEFT())
    batch.arrive(request(0, A))
    assert batch.fill() == [("fetch", "a")]
    assert batch.fill() == []
    batch.land(A)
    assert batch.fill() == [("merge", "a"), ("add", 0)]


def test_adapters_of_others_that_wait_make_room_for_the_one_whose_turn_it_is() -> None:
    batch = FakeBatch(PEFT(), resident=[B], fetches=False)
    batch.arrive(request(0, A), request(1, B))
    assert batch.fill() == [("fetch", "a"), ("drop", "b"), ("fetch", "a")]


def test_a_round_held_twice_changes_nothing() -> None:
    batch = peft()
    batch.arrive(request(0, A), request(1, B))
    assert again(batch) == []
    assert again(clustered(1)) == []
