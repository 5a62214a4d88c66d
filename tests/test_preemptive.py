"""Learning-to-Rank and FastServe: who runs, who is taken out, who comes back from starving."""

from __future__ import annotations

from typing import Any

import pytest

from policies.base import Request
from policies.feedback import FastServe
from policies.ranking import LearningToRank
from tests.fake_batch import FakeBatch, again, request


def running(scheduler: Any, *requests: Request, **limits: Any) -> FakeBatch:
    """Return an engine in which these requests run."""
    batch = FakeBatch(scheduler, **limits)
    batch.arrive(*requests)
    batch.fill()
    batch.prefill()
    return batch


# learning to rank


def test_shorter_predictions_run_first() -> None:
    batch = FakeBatch(LearningToRank(), requests=2)
    batch.arrive(request(0, predicted=9), request(1, predicted=1), request(2, predicted=5))
    assert batch.admitted() == [1, 2]


def test_a_shorter_request_takes_the_place_of_the_longest_that_runs() -> None:
    batch = running(LearningToRank(), request(0, predicted=50), request(1, predicted=90), requests=2)
    batch.arrive(request(2, predicted=60))
    assert batch.fill() == [("refuse", 2), ("preempt", 1), ("add", 2)]
    assert batch.fill() == [("refuse", 1)]


def test_a_longer_request_waits() -> None:
    batch = running(LearningToRank(), request(0, predicted=50), requests=1)
    batch.arrive(request(1, predicted=60))
    assert batch.fill() == [("refuse", 1)]


def test_as_many_make_way_as_a_large_prompt_needs() -> None:
    batch = running(LearningToRank(), *(request(i, predicted=50 + i) for i in range(4)), tokens=40)
    batch.arrive(request(4, prompt=20, predicted=1))
    assert [call for call in batch.fill() if call[0] != "refuse"] == [("preempt", 3), ("preempt", 2), ("add", 4)]


def test_nobody_passes_the_one_that_has_just_made_way() -> None:
    batch = running(LearningToRank(), request(0, prompt=30, predicted=50), tokens=35)
    batch.arrive(request(1, prompt=20, predicted=1), request(2, prompt=10, predicted=60))
    assert batch.admitted() == [1]


def starving() -> FakeBatch:
    """Return an engine for one, in which a short request runs and a long one waits since step 0."""
    batch = running(LearningToRank(), request(0, predicted=1), requests=1)
    batch.arrive(request(1, predicted=99))
    batch.fill()
    return batch


def test_a_request_that_has_not_run_for_long_goes_first() -> None:
    batch = starving()
    assert batch.scheduler.wakes_at_step() == 200
    batch.decode(199)
    assert batch.admitted() == []
    batch.decode()
    assert batch.admitted() == [1]


def test_a_promoted_request_goes_back_to_its_place_after_ten_tokens() -> None:
    batch = starving()
    batch.decode(200)
    batch.fill()
    batch.prefill()
    batch.decode(8)
    assert batch.admitted() == []
    assert batch.scheduler.wakes_at_step() == 209
    batch.decode()
    assert batch.fill() == [("refuse", 0), ("preempt", 1), ("add", 0)]


def test_tokens_from_before_its_promotion_do_not_count() -> None:
    batch = running(LearningToRank(), request(0, predicted=99), requests=1)
    batch.decode(19)
    batch.arrive(request(1, predicted=1))
    batch.fill()
    batch.prefill()
    batch.fill()
    batch.decode(200)
    assert batch.admitted() == [0]
    batch.prefill()
    batch.decode(9)
    assert batch.admitted() == []


def test_extra_rounds_do_not_make_anybody_starve_sooner() -> None:
    batch = starving()
    for _ in range(300):
        assert batch.admitted() == []


def test_a_ranked_round_held_twice_changes_nothing() -> None:
    batch = running(LearningToRank(), request(0, predicted=50), requests=1)
    batch.arrive(request(1, predicted=1), request(2, predicted=2))
    assert again(batch) == []


# FastServe


def prefill_s(tokens: int, rank: int) -> float:
    return tokens / 1000


def fastserve(*requests: Request, **limits: Any) -> FakeBatch:
    return running(FastServe(), *requests, prefill_s=prefill_s, **limits)


def test_a_request_starts_in_the_first_lane_that_covers_its_prefill() -> None:
    batch = fastserve(request(0, prompt=10), request(1, prompt=11), request(2, prompt=41))
    assert [one.lane for one in batch.running] == [0, 1, 3]


def test_a_higher_lane_goes_first_and_takes_places() -> None:
    batch = fastserve(request(0, prompt=30), requests=1)
    batch.arrive(request(1, prompt=20), request(2, prompt=5))
    assert batch.fill()[:3] == [("refuse", 2), ("preempt", 0), ("add", 2)]


def test_a_request_that_has_used_its_quantum_sinks_and_the_next_one_runs() -> None:
    batch = fastserve(first := request(0), requests=1)
    batch.arrive(request(1))
    assert batch.fill(0.009) == [("refuse", 1)]
    assert batch.wake(0.0099999) == 0.01
    assert batch.fill(0.0099999) == [("refuse", 1), ("preempt", 0), ("add", 1)]
    assert first.lane == 1


def test_each_lane_gives_twice_the_time() -> None:
    batch = fastserve(only := request(0), requests=1)
    batch.arrive(request(1, prompt=1000))
    lanes = []
    for now in (0.009, 0.01, 0.029, 0.03, 0.069, 0.07):
        batch.fill(now)
        lanes.append(only.lane)
    assert lanes == [0, 1, 1, 2, 2, 3]


def test_lanes_depend_on_the_time_and_not_on_the_rounds() -> None:
    batch = fastserve(only := request(0), requests=1)
    batch.arrive(request(1, prompt=1000))
    batch.fill(0.07)
    assert only.lane == 3


def test_time_without_running_does_not_count() -> None:
    batch = fastserve(first := request(0), requests=1)
    batch.stop(first, 0.004)
    batch.fill(5.0)
    assert batch.scheduler.wakes_at_s() == 5.006


def test_who_sinks_goes_before_those_that_are_in_the_lane() -> None:
    batch = fastserve(request(1, prompt=20), request(0), requests=1)
    assert batch.fill(0.01) == [("refuse", 1)]


def test_a_request_that_starves_goes_to_the_front_of_the_first_lane_at_the_next_thousandth_step() -> None:
    batch = fastserve(request(0), requests=1)
    batch.arrive(late := request(1, prompt=100_000), request(2, prompt=100_000, at_s=1.0))
    batch.fill(3.5)
    assert late.lane == 14
    assert batch.scheduler.wakes_at_step() == 1000
    batch.decode(1000)
    assert batch.admitted(3.6) == [1]
    assert late.lane == 0
    assert batch.scheduler.wakes_at_s() == pytest.approx(3.61)


def test_a_round_of_lanes_held_twice_changes_nothing() -> None:
    batch = fastserve(request(0), requests=1)
    batch.arrive(request(1), request(2))
    assert again(batch, 0.02) == []
