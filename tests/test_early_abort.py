"""S-LoRA's early abort: who is too late is turned away, and in a rush the newest goes first."""

from __future__ import annotations

import pytest

from policies.base import Request
from policies.early_abort import EarlyAbort
from tests.fake_batch import FakeBatch, again, request


def crowd(count: int, start: int = 0, at_s: float = 0.0) -> list[Request]:
    return [request(start + i, at_s=at_s) for i in range(count)]


def test_in_a_rush_the_newest_goes_first() -> None:
    batch = FakeBatch(EarlyAbort(), requests=1)
    batch.arrive(*crowd(5))
    assert batch.admitted() == [4]


def test_a_single_request_after_a_large_batch_is_no_rush() -> None:
    batch = FakeBatch(EarlyAbort())
    batch.arrive(*crowd(10))
    batch.fill()
    batch.arrive(request(10), request(11))
    assert batch.admitted() == [10, 11]


def test_who_cannot_have_a_first_token_in_time_is_turned_away() -> None:
    batch = FakeBatch(EarlyAbort(slo_s=6.0, margin_s=0.5), requests=0)
    batch.arrive(request(0), request(1, at_s=0.1))
    assert batch.fill(5.4) == [("refuse", 1)]
    assert batch.wake() == 5.5
    assert batch.fill(5.5) == [("abort", 0), ("refuse", 1)]
    assert batch.wake() == pytest.approx(5.6)


def test_who_has_had_a_token_is_not_turned_away() -> None:
    batch = FakeBatch(EarlyAbort(slo_s=6.0))
    batch.arrive(stopped := request(0))
    batch.fill()
    batch.prefill()
    batch.stop(stopped)
    batch.requests = 0
    assert batch.fill(9.0) == [("refuse", 0)]


def test_the_estimate_of_the_rate_moves_once_a_step_and_then_rests() -> None:
    batch = FakeBatch(EarlyAbort(), requests=0)
    batch.arrive(*crowd(10))
    batch.fill()
    steps = []
    while (step := batch.scheduler.wakes_at_step()) is not None:
        steps.append(step)
        batch.decode()
        batch.fill()
    assert steps == [1]  # 7, then 9, and 9 again


def test_more_rounds_in_one_step_do_not_move_the_estimate() -> None:
    batch = FakeBatch(EarlyAbort(), requests=0)
    batch.arrive(*crowd(10))
    for _ in range(5):
        batch.fill()
    assert batch.scheduler.wakes_at_step() == 1


def test_who_was_left_over_by_the_last_batch_makes_no_rush() -> None:
    batch = FakeBatch(EarlyAbort(), requests=5)
    batch.arrive(*crowd(20))
    batch.fill()
    batch.prefill()
    for _ in range(3):
        batch.decode()
        batch.fill()
    for one in batch.running:
        batch.finish(one)
    assert batch.admitted()[0] == 0


def test_a_margin_that_makes_every_request_late_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin_s must be below slo_s, .* got 0.5 and 0.4"):
        EarlyAbort(slo_s=0.4)
    with pytest.raises(ValueError, match="margin_s must be below slo_s"):
        EarlyAbort(slo_s=0.5)


def test_a_round_held_twice_turns_nobody_away_twice() -> None:
    batch = FakeBatch(EarlyAbort(), requests=0)
    batch.arrive(request(0), request(1, at_s=3.0))
    assert again(batch, 6.0) == []
