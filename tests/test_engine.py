"""The driver: what comes first at one instant, when an idle engine wakes, and when a run must not end in silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Batch, Request
from policies.prefetch import Queued
from policies.scheduling import FCFS
from sim import engine
from sim.core import Core
from sim.serving.shape import StepCost
from sim.serving.steps import run_ticks, steps_until
from sim.serving.ticks import to_seconds
from sim.simtime import ARRIVAL, BOUNDARY, LANDINGS, TIMER, Moment
from tests.worlds import RoundCosts, World, play

# A prefill takes 100 ticks a token, every decode step 1000, a load one tick a byte.
PLAIN = RoundCosts(prefill_base=0, decode_request=0, decode_context=0, load_base=0, prefill_token=100)


def told(world: World, column: str) -> list[int]:
    requests = play(world)[1].requests
    rows = zip(requests["request"].tolist(), requests[column].tolist(), strict=True)
    return [value for _, value in sorted(rows)]


class Alarm(FCFS):
    """First come first served, and wants to be woken at given ticks."""

    def __init__(self, *ticks: int) -> None:
        self.due = list(ticks)
        self.woken_at: list[float] = []

    def wakes_at_s(self) -> float | None:
        return to_seconds(self.due[0]) if self.due else None

    def woken(self, now: float) -> None:
        self.woken_at.append(now)
        self.due.pop(0)


class NotBefore(Alarm):
    """Admits nobody until its alarm has rung."""

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        if not self.due:
            super().fill(batch, waiting, now)


def test_simultaneous_events_have_an_order() -> None:
    env = simpy.Environment()
    names: dict[simpy.Event, str] = {}
    log: list[str] = []
    for order, name in ((BOUNDARY, "boundary"), (TIMER, "timer"), (LANDINGS[0], "loaded"), (ARRIVAL, "arrival")):
        moment = Moment(env, 5, order)
        names[moment] = name
        moment.callbacks.append(lambda event: log.append(names[event]))
    env.run()
    assert log == ["arrival", "loaded", "timer", "boundary"]


@pytest.mark.parametrize("asks_every_step", [True, False])
def test_arrivals_come_before_loads_before_timers_before_the_boundary(
    monkeypatch: pytest.MonkeyPatch, asks_every_step: bool
) -> None:
    log: list[str] = []

    def logged(name: str) -> None:
        original = getattr(Core, name)

        def wrapper(core: Core, *args: Any) -> Any:
            if round(args[-1] * (10**12 if name == "woken" else 1)) == 3000:
                log.append(name)
            return original(core, *args)

        monkeypatch.setattr(Core, name, wrapper)

    for name in ("step_finished", "woken", "loaded", "submit"):
        logged(name)
    # 0 decodes at 1000, 2000, ...; the adapter of 1 is asked for at 1000 and there at 3000, when 2 comes
    world = World(
        [(0, 10, 10, None), (1000, 1, 5, 0), (3000, 1, 5, None)],
        [(8, 2000)],
        admit_every_steps=0,
        blocks_on_load=False,
        asks_every_step=asks_every_step,
        costs=PLAIN,
        scheduler=lambda: Alarm(3000),
    )
    play(world)
    assert log == ["submit", "loaded", "woken", "step_finished"]


@pytest.mark.parametrize(("arrival", "seen"), [(1999, 2000), (2000, 2000), (2001, 3000)])
def test_a_request_that_comes_in_the_instant_a_step_ends_is_seen_at_that_boundary(arrival: int, seen: int) -> None:
    assert told(World([(0, 10, 10, None), (arrival, 1, 1, None)], costs=PLAIN), "admitted")[1] == seen


def test_an_empty_engine_starts_at_once() -> None:
    assert told(World([(250, 1, 1, None), (9000, 1, 1, None)], costs=PLAIN), "admitted") == [250, 9000]


def test_requests_that_come_together_are_prefilled_together() -> None:
    _, records = play(World([(250, 1, 1, None), (250, 2, 1, None)], costs=PLAIN))
    assert [records.prefills[name].tolist() for name in records.prefills.columns] == [[250], [300], [2], [3]]


@pytest.mark.parametrize(("arrival", "seen"), [(250, 300), (300, 300), (301, 400)])
def test_a_polling_engine_sees_a_request_at_the_next_multiple_of_its_period(arrival: int, seen: int) -> None:
    assert told(World([(arrival, 1, 1, None)], costs=PLAIN, idle_poll_ticks=100), "admitted") == [seen]


def test_a_polling_engine_counts_its_period_from_the_moment_it_fell_idle() -> None:
    world = World([(0, 1, 2, None), (1500, 1, 1, None)], costs=PLAIN, idle_poll_ticks=1000)
    assert told(world, "finish")[0] == 1100
    assert told(world, "admitted")[1] == 2100


def test_a_polling_engine_that_stands_still_for_a_load_goes_on_when_it_is_there() -> None:
    world = World([(0, 1, 1, 0)], [(8, 123)], costs=PLAIN, idle_poll_ticks=1000)
    assert told(world, "prefill_start") == [123]


def test_a_timer_wakes_an_idle_engine() -> None:
    world = World([(0, 1, 1, None)], costs=PLAIN, scheduler=lambda: NotBefore(5000))
    assert told(world, "admitted") == [5000]


def test_a_timer_rings_at_its_instant_though_decode_runs_are_skipped() -> None:
    alarm = NotBefore(2500, 4500)
    world = World([(0, 1, 1, None)], costs=PLAIN, scheduler=lambda: alarm)
    assert told(world, "admitted") == [4500]
    assert alarm.woken_at == [to_seconds(2500), to_seconds(4500)]


def test_a_timer_in_the_middle_of_a_decode_run_is_acted_on_at_the_next_boundary() -> None:
    class Second(NotBefore):
        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            FCFS.fill(self, batch, [one for one in waiting if one.id == 0 or not self.due], now)

    world = World([(0, 10, 50, None), (1, 1, 1, None)], costs=PLAIN, scheduler=lambda: Second(6500))
    assert told(world, "admitted") == [0, 7000]


def test_a_timer_does_not_keep_a_run_alive() -> None:
    _, records = play(World([(0, 1, 1, None)], costs=PLAIN, scheduler=lambda: Alarm(*range(10**6, 10**7, 10**6))))
    assert records.end == 100


def test_timers_that_change_nothing_are_an_error_in_the_end() -> None:
    world = World([(0, 1, 1, None)], costs=PLAIN, scheduler=lambda: NotBefore(*range(1000, 10**7, 1000)))
    with pytest.raises(RuntimeError, match="1 requests wait in an idle engine and 1000 timers changed nothing"):
        play(world)


def test_timers_during_a_long_load_are_no_sign_of_being_stuck() -> None:
    ticks = range(1000, 10**7, 1000)
    world = World([(0, 1, 1, 0)], [(8, 5_000_000)], costs=PLAIN, total_bytes=10**7, scheduler=lambda: Alarm(*ticks))
    waiting_in_line = replace(world, blocks_on_load=False)
    assert told(waiting_in_line, "finish") == [5_000_100]


def test_a_policy_that_is_never_done_with_one_instant_is_an_error_that_names_it_alone() -> None:
    class Again(Alarm):
        def woken(self, now: float) -> None:
            pass

    world = World([(0, 1, 1, None), (9000, 1, 1, None)], costs=PLAIN, scheduler=lambda: Again(5000))
    with pytest.raises(RuntimeError, match=r"^Again: woken 1001 times at 5e-09 s, it declares"):
        play(world)


def test_a_policy_that_looks_all_the_time_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_WAKINGS", 50)
    busy = World([(0, 1, 9, None)], costs=PLAIN, scheduler=lambda: Alarm(*range(10, 100, 1)))
    with pytest.raises(RuntimeError, match=r"Alarm: woken 50 times by 6e-11 s since anything else happened"):
        play(busy)
    steps = World([(0, 1, 9, None)], costs=PLAIN, scheduler=lambda: Alarm(*range(150, 9000, 50)))
    assert told(steps, "finish") == [8100]


def test_an_arrival_and_a_landing_are_something_that_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_WAKINGS", 50)
    waits = [(0, 1, 1, 0), (400, 1, 1, 0), (800, 1, 1, 0)]
    world = World(waits, [(8, 1200)], costs=PLAIN, total_bytes=10**4, scheduler=lambda: Alarm(*range(10, 1600, 10)))
    assert told(replace(world, blocks_on_load=False), "finish") != []


def test_only_who_is_due_is_woken() -> None:
    class Strict(Alarm):
        def woken(self, now: float) -> None:
            assert self.due, "woken before its time"
            assert now >= to_seconds(self.due[0])
            super().woken(now)

    class AheadOfTime(Queued):
        def __init__(self) -> None:
            super().__init__()
            self.due = [2000, 6000]

        def wakes_at_s(self) -> float | None:
            return to_seconds(self.due[0]) if self.due else None

        def woken(self, now: float) -> None:
            assert now >= to_seconds(self.due.pop(0))

    world = World([(0, 10, 50, None)], costs=PLAIN, scheduler=lambda: Strict(3000, 9000), prefetch=AheadOfTime)
    assert told(world, "finish") == [50_000]


def test_requests_that_nobody_will_ever_admit_are_an_error() -> None:
    class Never(FCFS):
        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            pass

    with pytest.raises(RuntimeError, match="2 requests are left waiting"):
        play(World([(0, 1, 1, None), (5, 1, 1, None)], costs=PLAIN, scheduler=Never))


costs = st.builds(StepCost, st.integers(1, 1000), st.integers(0, 50), st.none())


@given(costs, st.integers(1, 60))
def test_a_run_of_steps_lasts_the_sum_of_its_steps(cost: StepCost, steps: int) -> None:
    assert run_ticks(cost, steps) == sum(cost.first + cost.growth * step for step in range(steps))


@given(costs, st.integers(-5, 10**6))
def test_the_steps_until_an_event_are_the_fewest_that_reach_it(cost: StepCost, ticks: int) -> None:
    steps = steps_until(cost, ticks)
    assert run_ticks(cost, steps) >= ticks
    assert steps == 1 or run_ticks(cost, steps - 1) < ticks
