"""The search for the highest rate, on a made-up knee and on a real system."""

from __future__ import annotations

import pytest

from sim.config import load_config
from sim.experiments import capacity
from sim.experiments.capacity import Search, highest_rate, highest_rates, is_within

SMALL = load_config("chameleon", (), {"workload": {"requests": 400}})


class Knee:
    """A system that carries every rate up to its knee; remembers what it was asked."""

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.asked: list[float] = []

    def __call__(self, _: object, rate_per_s: float) -> bool:
        self.asked.append(rate_per_s)
        return rate_per_s <= self.rate_per_s


def search(low: float = 4.0, high: float = 20.0, tolerance: float = 0.25) -> Search:
    return Search(SMALL, low, high, tolerance)


@pytest.mark.parametrize("knee", [4.0, 4.1, 7.3, 11.99, 12.0, 18.8, 19.9])
@pytest.mark.parametrize("start", [None, 4.0, 9.0, 18.5, 20.0, 1.0, 99.0])
def test_the_answer_is_carried_and_a_tolerance_more_is_not(
    knee: float, start: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "is_within", Knee(knee))
    assert highest_rate(search(), start) <= knee < highest_rate(search(), start) + 0.25


def test_a_system_that_carries_nothing_gets_the_lowest_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "is_within", Knee(1.0))
    assert highest_rate(search()) == 4.0


def test_a_system_that_carries_everything_gets_the_highest_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "is_within", Knee(99.0))
    assert highest_rate(search(high=20.1)) == 20.1


def test_no_rate_is_tried_outside_the_bounds_nor_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    knee = Knee(18.8)
    monkeypatch.setattr(capacity, "is_within", knee)
    highest_rate(search(high=20.1))
    assert all(4.0 <= rate <= 20.1 for rate in knee.asked)
    assert len(set(knee.asked)) == len(knee.asked)


def test_a_search_that_begins_at_a_like_answer_asks_less(monkeypatch: pytest.MonkeyPatch) -> None:
    knee = Knee(8.6)
    monkeypatch.setattr(capacity, "is_within", knee)
    assert highest_rates([search(), search(), search()]) == [8.5, 8.5, 8.5]
    first_alone = Knee(8.6)
    monkeypatch.setattr(capacity, "is_within", first_alone)
    highest_rate(search())
    assert len(knee.asked) == len(first_alone.asked) + 2 + 2


@pytest.mark.parametrize("bounds", [(0.0, 5.0, 0.1), (5.0, 5.0, 0.1), (1.0, 5.0, 0.0), (1.0, float("inf"), 1.0)])
def test_bounds_that_leave_nothing_to_search_are_refused(bounds: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="a search needs"):
        highest_rate(search(*bounds))


def test_a_light_load_is_within_the_objective_and_a_heavy_one_is_not() -> None:
    assert is_within(SMALL, 2.0)
    assert not is_within(SMALL, 200.0)


def test_requests_that_are_never_served_miss_the_objective() -> None:
    too_long = load_config("chameleon", ["memory.kv_pool_tokens=100"], {"workload": {"requests": 400}})
    assert not is_within(too_long, 2.0)
