"""First come first served, and shortest job first with ageing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Request, Scheduler
from policies.scheduling import FCFS, SJF
from tests.fake_batch import FakeBatch, facts


class TokenBatch(FakeBatch):
    """A batch with room for so many prompt tokens; what it admits leaves `waiting`."""

    def __init__(self, waiting: list[Request], left_tokens: int) -> None:
        super().__init__(Scheduler(), tokens=left_tokens)
        self.waiting = waiting

    @property
    def tried(self) -> list[int]:
        return [number for _, number in self.calls]


def request(number: int, *, arrival_s: float = 0.0, prompt: int = 10, predicted: int = 10) -> Request:
    return Request(number, arrival_s, prompt, predicted, None)


def sjf(waiting: list[Request], ageing_s: float | None = None) -> SJF:
    scheduler = SJF(ageing_s=ageing_s)
    for one in waiting:
        scheduler.arrived(one, one.arrival_s)
    return scheduler


def fill(scheduler: FCFS | SJF, waiting: list[Request], *, room: int, now: float) -> list[int]:
    """Return the ids that were tried."""
    batch = TokenBatch(waiting, room)
    scheduler.fill(batch, list(waiting), now)
    return batch.tried


def test_fcfs_tries_in_the_given_order_and_stops_at_the_first_refusal() -> None:
    waiting = [request(2), request(0, prompt=50), request(1, prompt=1)]
    assert fill(FCFS(), waiting, room=20, now=1.0) == [2, 0]


def test_fcfs_yields_what_waits_as_it_waits() -> None:
    waiting = [request(2, arrival_s=5.0), request(0), request(1)]
    assert [one.id for one in FCFS().order(waiting, 9.0)] == [2, 0, 1]


def test_fcfs_looks_at_one_request_in_a_refused_round() -> None:
    waiting = [request(0, prompt=99), request(1), request(2)]
    offered = iter(waiting)
    FCFS().fill(TokenBatch(waiting, 10), offered, 0.0)
    assert next(offered).id == 1


def test_sjf_goes_by_predicted_length_and_ties_by_id() -> None:
    waiting = [request(3, predicted=5), request(1, predicted=9), request(2, predicted=5)]
    assert fill(sjf(waiting), waiting, room=100, now=0.0) == [2, 3, 1]


def test_sjf_stops_at_the_first_refusal() -> None:
    waiting = [request(0, predicted=1, prompt=50), request(1, predicted=2, prompt=1)]
    assert fill(sjf(waiting), waiting, room=20, now=0.0) == [0]


def test_sjf_without_ageing_never_asks_to_be_woken() -> None:
    assert sjf([request(0)]).wakes_at_s() is None


def test_a_request_that_has_waited_too_long_goes_before_a_shorter_one() -> None:
    waiting = [request(0, arrival_s=0.0, predicted=90), request(1, arrival_s=6.0, predicted=1)]
    assert fill(sjf(waiting, 10.0), waiting, room=10, now=9.9) == [1, 0]
    assert fill(sjf(waiting, 10.0), waiting, room=10, now=10.0) == [0, 1]


def test_sjf_wakes_when_its_oldest_request_becomes_too_old() -> None:
    waiting = [request(0, arrival_s=3.0), request(1, arrival_s=1.0), request(2, arrival_s=2.0)]
    scheduler = sjf(waiting, 10.0)
    assert scheduler.wakes_at_s() == 11.0
    scheduler.woken(11.0)
    assert scheduler.wakes_at_s() is None


def test_sjf_wakes_for_the_next_oldest_once_the_first_has_gone() -> None:
    waiting = [request(0, arrival_s=1.0, predicted=50), request(1, arrival_s=2.0, prompt=99, predicted=60)]
    scheduler = sjf(waiting, 10.0)
    scheduler.woken(11.0)
    assert fill(scheduler, waiting, room=10, now=11.0) == [0, 1]
    assert scheduler.wakes_at_s() == 12.0


def test_a_wake_that_a_driver_rounds_down_still_counts() -> None:
    waiting = [request(0, arrival_s=0.1, predicted=90), request(1, arrival_s=0.2, predicted=1)]
    scheduler = sjf(waiting, 0.2)
    declared = scheduler.wakes_at_s()
    assert declared is not None
    scheduler.woken(declared - 1e-12)
    assert fill(scheduler, waiting, room=10, now=declared - 1e-12)[0] == 0


def test_a_stopped_request_is_ranked_again_by_its_first_arrival() -> None:
    waiting = [request(0, arrival_s=0.0, predicted=90), request(1, arrival_s=1.0, predicted=1)]
    scheduler = sjf(waiting, 10.0)
    assert fill(scheduler, waiting, room=100, now=2.0) == [1, 0]
    scheduler.arrived(waiting[0], 5.0)
    scheduler.arrived(waiting[1], 5.0)
    assert fill(scheduler, waiting, room=100, now=10.5) == [0, 1]


def test_an_age_may_be_counted_in_a_request_s_own_execution_times() -> None:
    scheduler = SJF(ageing_s=100.0, ageing_factor=10.0)
    scheduler.start(facts(prefill_s=lambda tokens, rank: 0.02 * tokens, decode_s=lambda batch: 0.1))
    waiting = [request(0, predicted=9), request(1, predicted=1)]  # 0 takes 0.2 + 8 * 0.1 s
    for one in waiting:
        scheduler.arrived(one, 0.0)
    assert scheduler.wakes_at_s() == pytest.approx(10.0)
    assert fill(scheduler, waiting, room=10, now=9.9) == [1, 0]
    scheduler.arrived(waiting[1], 9.9)
    assert fill(scheduler, waiting, room=10, now=10.1) == [0, 1]


def test_a_negative_age_is_refused() -> None:
    with pytest.raises(ValueError, match="ageing_s must be at least 0"):
        SJF(ageing_s=-1.0)


waits = st.lists(st.tuples(st.floats(0, 50), st.integers(1, 30), st.integers(1, 4)), max_size=12)


@given(drawn=waits, ageing_s=st.none() | st.floats(0, 60), now=st.floats(50, 80))
def test_sjf_admits_in_the_order_that_it_shows(
    drawn: list[tuple[float, int, int]], ageing_s: float | None, now: float
) -> None:
    waiting = [request(i, arrival_s=t, prompt=p, predicted=n) for i, (t, p, n) in enumerate(drawn)]
    scheduler = sjf(waiting, ageing_s)
    shown = [one.id for one in scheduler.order(waiting, now)]
    assert sorted(shown) == list(range(len(waiting)))
    assert fill(scheduler, waiting, room=10**6, now=now) == shown


@given(drawn=waits, ageing_s=st.none() | st.floats(0, 60), room=st.integers(0, 40))
def test_a_full_batch_is_refused_the_same_way_twice(
    drawn: list[tuple[float, int, int]], ageing_s: float | None, room: int
) -> None:
    waiting = [request(i, arrival_s=t, prompt=p, predicted=n) for i, (t, p, n) in enumerate(drawn)]
    scheduler = sjf(waiting, ageing_s)
    batch = TokenBatch(waiting, room)
    scheduler.fill(batch, waiting, 60.0)
    refused = batch.tried[-1:] if batch.waiting else []
    batch.calls.clear()
    scheduler.fill(batch, batch.waiting, 60.0)
    assert batch.tried == refused
