"""The virtual token counter: the client that was served least goes first."""

from __future__ import annotations

import pytest

from policies.fairness import VTC
from tests.fake_batch import FakeBatch, adapter, again, request

A, B, C = adapter("a"), adapter("b"), adapter("c")


def test_clients_take_turns_by_what_their_prompts_cost() -> None:
    batch = FakeBatch(VTC())
    batch.arrive(request(0, A, prompt=30), request(1, A), request(2, B, prompt=10), request(3, B))
    assert batch.admitted() == [0, 2, 3, 1]


def test_the_round_ends_at_the_first_misfit_even_if_others_would_fit() -> None:
    batch = FakeBatch(VTC(), tokens=20)
    batch.arrive(request(0, A, prompt=30), request(1, B))
    assert batch.fill() == [("refuse", 0)]


def test_a_decoded_token_costs_twice_a_prompt_token() -> None:
    scheduler = VTC()
    batch = FakeBatch(scheduler, requests=1, resident=[A, B])
    batch.arrive(request(0, A, prompt=10), request(1, B))
    batch.fill()
    batch.prefill()
    batch.decode(7)
    batch.fill()
    assert scheduler.counter(A) == 10 + 2 * 7


def test_tokens_are_counted_once_however_often_a_round_is_held() -> None:
    scheduler = VTC(input_weight=0.0, output_weight=0.1)
    batch = FakeBatch(scheduler, requests=1, resident=[A, B])
    batch.arrive(only := request(0, A), request(1, B))
    batch.fill()
    batch.prefill()
    for _ in range(3):
        batch.decode(1)
        batch.fill()
        batch.fill()
    batch.decode(2)
    batch.finish(only)
    assert scheduler.counter(A) == pytest.approx(0.5)


def test_a_client_that_comes_back_is_lifted_to_the_least_of_those_that_wait() -> None:
    scheduler = VTC()
    batch = FakeBatch(scheduler, requests=1, resident=[A, B])
    batch.arrive(first := request(0, A, prompt=50), request(1, A), request(2, B, prompt=80))
    batch.fill()  # 0 costs A 50
    batch.prefill()
    batch.finish(first)
    batch.fill()  # 2 costs B 80
    batch.arrive(request(3, C))
    batch.fill()
    assert scheduler.counter(C) == 50


def test_a_client_that_comes_back_alone_is_not_lifted() -> None:
    scheduler = VTC()
    batch = FakeBatch(scheduler, requests=0)
    batch.arrive(request(0, A))
    batch.fill()
    assert scheduler.counter(A) == 0


def overtaking() -> FakeBatch:
    """Return an engine that is full; A was served 10 and decodes, B 30 and does not, and both wait."""
    batch = FakeBatch(VTC(), requests=2, resident=[A, B])
    batch.arrive(request(0, A, prompt=10), done := request(1, B, prompt=30))
    batch.fill()
    batch.prefill()
    batch.finish(done)
    batch.arrive(request(3, A), request(2, B, prompt=1))
    batch.requests = 1
    return batch


def test_the_round_is_due_again_when_another_client_becomes_the_least_served() -> None:
    batch = overtaking()
    assert batch.fill() == [("refuse", 3)]
    step = batch.scheduler.wakes_at_step()
    assert step == 10
    batch.decode(step + 1)
    assert batch.fill() == [("refuse", 2)]
    assert batch.scheduler.wakes_at_step() is None


def test_equal_clients_go_by_name() -> None:
    batch = FakeBatch(VTC())
    batch.arrive(request(0, B), request(1, A))
    assert batch.admitted() == [1, 0]


def test_a_round_held_twice_changes_nothing() -> None:
    assert again(overtaking()) == []
