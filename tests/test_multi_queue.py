"""Chameleon's scheduler: where lanes end, what they may use, what they lend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from policies.base import Adapter, Facts, Refusal, Request
from policies.clustering import Choice
from policies.lanes import LaneScheduler, Lending
from policies.multi_queue import MultiQueue, StaticLanes
from tests.fake_batch import Unasked

FACTS = Facts(
    kv_token_bytes=100,
    kv_tokens=400,
    memory_tokens=400,
    admit_every_steps=10,
    batch_prompt_tokens=10**6,
    max_prompt_tokens=100,
    max_output_tokens=100,
    max_adapter_bytes=1280,
    ttft_slo_s=5.0,
    load_s=lambda adapter: adapter.size_bytes / 1e3,
)
BIG = Adapter("big", 128, 1280)
HALF = Adapter("half", 64, 640)
TINY = Adapter("tiny", 8, 80)


class World(Unasked):
    """One engine around one scheduler, and its own `Batch`: it counts KV tokens and the prompts of a round."""

    def __init__(self, scheduler: LaneScheduler, *, kv_tokens: int = 10**6, prompt_tokens: int = 10**6) -> None:
        self.scheduler = scheduler
        self.kv_left = kv_tokens
        self.prompt_tokens = self.prompt_left = prompt_tokens
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.admitted: list[int] = []  # in the latest round
        self.refusal: Refusal | None = None
        self.tries = 0
        self.execution: Callable[[Request], float] = lambda request: 1.0
        scheduler.start(FACTS)

    def arrive(self, *requests: Request, now: float = 0.0) -> None:
        for request in requests:
            self.waiting.append(request)
            self.scheduler.arrived(request, now)

    def fill(self, now: float = 0.0) -> list[int]:
        """Run one round; return the ids admitted."""
        self.tries, self.prompt_left, self.admitted = 0, self.prompt_tokens, []
        self.scheduler.fill(self, list(self.waiting), now)
        self.scheduler.check()
        return self.admitted

    def finish(self, request: Request, now: float = 0.0) -> None:
        self.running.remove(request)
        self.kv_left += request.prompt_tokens + request.predicted_tokens
        self.scheduler.finished(request, now)
        self.scheduler.check()

    def try_add(self, request: Request) -> bool:
        self.tries += 1
        tokens = request.prompt_tokens + request.predicted_tokens
        self.refusal = Refusal.KV if tokens > self.kv_left else None
        if request.prompt_tokens > self.prompt_left:
            self.refusal = Refusal.PROMPT_TOKENS
        if self.refusal is not None:
            return False
        self.waiting.remove(request)
        self.running.append(request)
        self.admitted.append(request.id)
        self.kv_left -= tokens
        self.prompt_left -= request.prompt_tokens
        return True

    def execution_s(self, request: Request) -> float:
        return self.execution(request)

    def is_resident(self, adapter: Adapter | None) -> bool:
        raise NotImplementedError

    def wait_s(self, request: Request) -> float:
        raise NotImplementedError

    def can_squash_for(self, victim: Request, request: Request) -> bool:
        raise NotImplementedError

    def squash(self, victim: Request) -> None:
        raise NotImplementedError


def request(number: int, adapter: Adapter | None = None, prompt: int = 10, predicted: int = 10) -> Request:
    return Request(number, 0.0, prompt, predicted, adapter)


def small(number: int, prompt: int = 20) -> Request:
    """Return a request of the lowest of two static lanes, charged prompt + 10."""
    return request(number, None, prompt, 10)


def large(number: int, prompt: int = 100, predicted: int = 28) -> Request:
    """Return a request of the highest of two static lanes, charged prompt + predicted + 13."""
    return request(number, BIG, prompt, predicted)


def two_lanes(**keywords: Any) -> StaticLanes:
    """Return two lanes with 200 tokens each; a weight of 0.5 parts them."""
    return StaticLanes(lanes=2, **keywords)


def test_before_the_first_division_one_lane_has_the_whole_pool() -> None:
    world = World(MultiQueue(first_refresh=100))
    world.arrive(*(request(i, prompt=90) for i in range(5)))
    assert world.scheduler.quotas == (400,)
    assert world.fill() == [0, 1, 2, 3]


def test_static_lanes_are_equally_wide_with_equal_quotas() -> None:
    scheduler = World(StaticLanes()).scheduler
    assert scheduler.cuts == (0.25, 0.5, 0.75)
    assert scheduler.quotas == (100, 100, 100, 100)


def test_static_lanes_never_wake() -> None:
    world = World(StaticLanes())
    world.arrive(*(request(i) for i in range(300)))
    assert world.scheduler.wakes_at_s() is None


def test_the_first_division_comes_with_the_stated_number_of_requests() -> None:
    world = World(MultiQueue(first_refresh=4))
    world.arrive(request(0, TINY), request(1, BIG), request(2, TINY), now=1.0)
    assert world.scheduler.cuts == ()
    assert world.scheduler.wakes_at_s() is None
    world.arrive(request(3, BIG), now=5.0)
    tiny, big = 0.1 * 8 / 128, 0.1
    assert world.scheduler.cuts == pytest.approx(((tiny + big) / 2,))
    assert world.scheduler.wakes_at_s() == 305.0


def test_what_waits_is_sorted_into_the_new_lanes() -> None:
    world = World(MultiQueue(first_refresh=4))
    waiting = [request(0, BIG), request(1, TINY), request(2, BIG), request(3, TINY)]
    world.arrive(*waiting)
    assert [one.lane for one in waiting] == [1, 0, 1, 0]
    assert [one.id for one in world.scheduler.order(waiting, 0.0)] == [1, 3, 0, 2]


def test_what_runs_keeps_its_charge_and_its_lane() -> None:
    world = World(MultiQueue(first_refresh=3))
    runs = request(0, BIG)
    world.arrive(runs)
    world.fill()
    world.arrive(request(1, TINY), request(2, BIG))
    assert len(world.scheduler.quotas) == 2
    assert world.scheduler.inflight[:2] == (33, 0)
    world.finish(runs)
    assert world.scheduler.inflight[:2] == (0, 0)


def test_a_wake_divides_by_what_arrived_since_the_last() -> None:
    world = World(MultiQueue(first_refresh=2))
    world.arrive(request(0, TINY), request(1, TINY))
    assert world.scheduler.cuts == ()
    world.arrive(request(2, HALF), request(3, BIG), now=10.0)
    world.scheduler.woken(300.0)
    assert world.scheduler.cuts == pytest.approx(((0.05 + 0.1) / 2,))
    assert world.scheduler.wakes_at_s() == 600.0


def test_a_period_without_arrivals_changes_no_lane() -> None:
    world = World(MultiQueue(first_refresh=2))
    world.arrive(request(0, TINY), request(1, BIG))
    before = (world.scheduler.cuts, world.scheduler.quotas)
    world.scheduler.woken(300.0)
    assert (world.scheduler.cuts, world.scheduler.quotas) == before
    assert world.scheduler.wakes_at_s() == 600.0


def test_quotas_follow_charge_duration_and_rate_of_each_lane() -> None:
    scheduler = MultiQueue(first_refresh=4)
    world = World(scheduler)
    first = request(0, TINY)
    world.execution = lambda request: 3.0 if request.adapter is BIG else 7.0
    world.arrive(first)
    world.fill(0.0)
    world.arrive(request(1, BIG), now=1.0)
    world.fill(1.0)
    world.finish(first, 2.0)
    world.arrive(request(2, BIG), request(3, BIG), now=10.0)
    expected = [21 * 2.0 * (0.2 + 0.1), 33 * 3.0 * (0.2 + 0.3)]
    assert scheduler.divisions[0].minimum_tokens == pytest.approx(expected)
    assert sum(scheduler.quotas) in {399, 400}
    assert scheduler.quotas[1] == int(400 * expected[1] / sum(expected))


def test_argmin_uses_every_lane_where_the_elbow_stops() -> None:
    cuts = {}
    for choice in get_args(Choice):
        world = World(MultiQueue(first_refresh=40, choice=choice))
        world.arrive(*(request(i, BIG if i % 2 else TINY, 50 + i) for i in range(40)))
        cuts[choice] = len(world.scheduler.cuts)
    assert cuts == {"elbow": 1, "argmin": 3}


def test_one_lane_at_most_stays_one_lane() -> None:
    world = World(MultiQueue(first_refresh=2, max_lanes=1))
    world.arrive(request(0, TINY), request(1, BIG))
    assert world.scheduler.quotas == (400,)


# --- quotas and lending ----------------------------------------------------------------------------------------------


def test_a_lane_stops_at_its_quota_and_the_other_goes_on() -> None:
    world = World(two_lanes())
    world.arrive(*(small(i, 90) for i in range(3)), large(3), large(4))
    assert world.fill() == [0, 1, 3]
    assert world.scheduler.inflight == (200, 141)


def test_an_empty_lane_lends_its_quota() -> None:
    world = World(two_lanes())
    world.arrive(*(small(i, 90) for i in range(5)))
    assert world.fill() == [0, 1, 2, 3]
    assert world.scheduler.inflight == (400, 0)


def test_a_lane_with_requests_lends_nothing() -> None:
    world = World(two_lanes(), kv_tokens=320)
    world.arrive(*(small(i, 90) for i in range(3)), large(3, 130, 100))
    assert world.fill() == [0, 1]


def test_lane_order_is_small_before_large() -> None:
    world = World(two_lanes())
    world.arrive(large(0), small(1))
    assert world.fill() == [1, 0]


def test_a_lane_goes_in_order_of_arrival_and_stops_at_the_first_misfit() -> None:
    world = World(two_lanes(), kv_tokens=60)
    world.arrive(small(0), small(1, 90), small(2))
    assert world.fill() == [0]


def test_a_finish_gives_the_tokens_back() -> None:
    world = World(two_lanes())
    first = large(0)
    world.arrive(first, large(1), *(small(i, 90) for i in range(2, 5)))
    assert world.fill() == [2, 3, 0]
    assert world.fill() == []
    world.finish(first)
    assert world.fill() == [1]


def test_what_is_lent_beyond_the_quota_stops_the_lane_until_it_is_back() -> None:
    world = World(two_lanes())
    lent = [small(i, 90) for i in range(4)]
    world.arrive(*lent)
    world.fill()
    world.arrive(small(4, 90), large(5))
    world.finish(lent[0])
    assert world.fill() == [5]
    assert world.scheduler.inflight == (300, 141)


def test_net_lending_leaves_alone_what_a_waiting_lane_may_still_claim() -> None:
    admitted = {}
    for lending in get_args(Lending):
        world = World(StaticLanes(lanes=4, lending=lending), prompt_tokens=250)
        borrowers = [request(i, HALF, 10, 90) for i in range(3)]  # charged 107 each, in a lane of 100
        claimant = request(3, BIG, 300, 10)  # too long a prompt for this round
        world.arrive(*borrowers, claimant)
        assert [one.lane for one in (*borrowers, claimant)] == [1, 1, 1, 3]
        admitted[lending] = world.fill()
    assert admitted == {"pool": [0, 1, 2], "net": [0, 1]}


def test_a_request_larger_than_its_quota_runs_when_its_lane_is_idle() -> None:
    world = World(two_lanes())
    world.arrive(large(0, 100, 100), large(1, 100, 100), small(2))
    assert world.fill() == [2, 0]
    assert world.fill() == []


def test_a_shared_adapter_charged_once_leaves_room_for_more() -> None:
    admitted = {}
    for charge in ("per_request", "once"):
        world = World(two_lanes(charge_adapter=charge), prompt_tokens=50)
        world.arrive(large(0, 15, 75), large(1, 15, 75), small(2, 60))  # the last keeps its lane from lending
        admitted[charge] = world.fill()
    assert admitted == {"per_request": [0], "once": [0, 1]}


def test_the_prompt_limit_of_a_round_does_not_hold_up_the_other_lane() -> None:
    world = World(two_lanes(), prompt_tokens=50)
    world.arrive(small(0, 60), large(1, 40, 90))
    assert world.fill() == [1]


def test_a_refused_round_tries_one_request_per_lane() -> None:
    world = World(StaticLanes(lanes=2), kv_tokens=5)
    world.arrive(*(small(i) for i in range(100)), *(large(i) for i in range(100, 200)))
    assert world.fill() == []
    assert world.tries == 2


@pytest.mark.parametrize(
    "keywords",
    [
        {"a": -1.0},
        {"max_lanes": 0},
        {"elbow": -0.1},
        {"first_refresh": 0},
        {"refresh_s": 0.0},
        {"bypass_lookahead": 0},
        {"size": "rank"},
        {"maxima": "none"},
        {"choice": "best"},
        {"remainder": "none"},
        {"charge_adapter": "never"},
        {"lending": "gross"},
    ],
)
def test_a_bad_keyword_is_named_with_what_is_allowed(keywords: dict[str, Any]) -> None:
    (name, value), *_ = keywords.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        MultiQueue(**keywords)
