"""Chameleon's scheduler: who passes a head whose adapter finds no room, who is squashed for it, and the laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Adapter, Facts, Refusal, Request
from policies.lanes import LaneScheduler
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
    """One engine around one scheduler, and its own `Batch`: KV tokens and adapter bytes are two separate budgets."""

    def __init__(
        self,
        scheduler: LaneScheduler,
        *,
        kv_tokens: int = 10**6,
        adapter_bytes: int = 10**6,
        prompt_tokens: int = 10**6,
    ) -> None:
        self.scheduler = scheduler
        self.kv_left = kv_tokens
        self.adapter_bytes = adapter_bytes
        self.prompt_tokens = self.prompt_left = prompt_tokens
        self.residents: list[Adapter] = []
        self.waiting: list[Request] = []
        self.admitted: list[Request] = []  # in this round
        self.running: list[Request] = []
        self.joining: list[Request] = []  # admitted, its adapter still on the way
        self.squashed: list[Request] = []
        self.refusal: Refusal | None = None
        self.tries = 0
        self.wait: Callable[[Request], float] = lambda request: 10.0
        self.execution: Callable[[Request], float] = lambda request: 1.0
        scheduler.start(FACTS)

    def arrive(self, *requests: Request, now: float = 0.0) -> None:
        for request in requests:
            self.waiting.append(request)
            self.scheduler.arrived(request, now)

    def fill(self, now: float = 0.0) -> list[int]:
        """Run one round; return the ids admitted."""
        self.tries = 0
        self.prompt_left = self.prompt_tokens
        back = len(self.squashed)
        self.scheduler.fill(self, list(self.waiting), now)
        admitted = [request.id for request in self.admitted]
        self.running += self.admitted
        self.admitted = []
        for request in self.squashed[back:]:
            self.waiting.insert(0, request)
            self.scheduler.arrived(request, now)
        self.scheduler.check()
        return admitted

    def finish(self, request: Request, now: float = 0.0) -> None:
        self._leave(request)
        self.scheduler.finished(request, now)
        self.scheduler.check()

    # --- the batch ---

    def try_add(self, request: Request) -> bool:
        assert request in self.waiting, "offered a request that does not wait"
        self.tries += 1
        self.refusal = self._refusal(request)
        if self.refusal is not None:
            return False
        self.waiting.remove(request)
        self.admitted.append(request)
        self.kv_left -= request.prompt_tokens + request.predicted_tokens
        self.prompt_left -= request.prompt_tokens
        if request.adapter is not None and request.adapter not in self.residents:
            self._evict(request.adapter.size_bytes)
            self.residents.append(request.adapter)
        return True

    def is_resident(self, adapter: Adapter | None) -> bool:
        return adapter is None or adapter in self.residents

    def wait_s(self, request: Request) -> float:
        return self.wait(request)

    def execution_s(self, request: Request) -> float:
        return self.execution(request)

    def can_squash_for(self, victim: Request, request: Request) -> bool:
        assert victim in self.running, "would squash what does not run"
        self._leave(victim)
        fits = self._memory_refusal(request) is None
        self.running.append(victim)
        self.kv_left -= victim.prompt_tokens + victim.predicted_tokens
        return fits

    def squash(self, victim: Request) -> None:
        self._leave(victim)
        self.squashed.append(victim)

    def _leave(self, request: Request) -> None:
        self.running.remove(request)
        self.kv_left += request.prompt_tokens + request.predicted_tokens

    def _refusal(self, request: Request) -> Refusal | None:
        return Refusal.PROMPT_TOKENS if request.prompt_tokens > self.prompt_left else self._memory_refusal(request)

    def _memory_refusal(self, request: Request) -> Refusal | None:
        if request.prompt_tokens + request.predicted_tokens > self.kv_left:
            return Refusal.KV
        used = self._used()
        if request.adapter is not None and request.adapter not in used:
            free = self.adapter_bytes - sum(adapter.size_bytes for adapter in used)
            return Refusal.ADAPTER if request.adapter.size_bytes > free else None
        return None

    def _used(self) -> set[Adapter]:
        return {one.adapter for one in [*self.running, *self.joining, *self.admitted] if one.adapter is not None}

    def _evict(self, need_bytes: int) -> None:
        idle = [adapter for adapter in self.residents if adapter not in self._used()]
        while sum(adapter.size_bytes for adapter in self.residents) + need_bytes > self.adapter_bytes:
            self.residents.remove(idle.pop(0))


def request(number: int, adapter: Adapter | None = None, prompt: int = 10, predicted: int = 10) -> Request:
    return Request(number, 0.0, prompt, predicted, adapter)


def blocked_world(**keywords: Any) -> tuple[World, Request, Request, Request]:
    """One running request pins BIG; the head wants HALF, for which there is no room; a younger one wants BIG."""
    world = World(MultiQueue(**keywords), adapter_bytes=1500)
    pins, head, younger = request(0, BIG), request(1, HALF), request(2, BIG)
    world.arrive(pins)
    world.fill(0.0)
    world.arrive(head, younger, now=1.0)
    return world, pins, head, younger


def test_a_younger_request_passes_a_head_whose_adapter_finds_no_room() -> None:
    world, _, head, _ = blocked_world()
    assert world.fill(1.0) == [2]
    assert head.bypassed == 1


def test_nobody_passes_where_bypass_is_off() -> None:
    world, *_ = blocked_world(bypass=False)
    assert world.fill(1.0) == []


def test_nobody_passes_who_would_run_as_long_as_the_head_waits() -> None:
    world, *_ = blocked_world()
    world.execution = lambda request: 10.0
    assert world.fill(1.0) == []


def test_nobody_passes_a_head_that_lacks_kv() -> None:
    world, *_ = blocked_world()
    world.waiting[0].prompt_tokens = 200
    world.kv_left = 100
    assert world.fill(1.0) == []
    assert world.refusal is Refusal.KV


def test_nobody_passes_beyond_the_quota() -> None:
    world, _, _, younger = blocked_world()
    younger.prompt_tokens = 360
    assert world.fill(1.0) == []


def test_one_bypass_of_a_head_is_outstanding_at_most() -> None:
    world, _, _, younger = blocked_world()
    world.arrive(request(3, BIG))
    assert world.fill(1.0) == [2]
    assert world.fill(2.0) == []
    world.finish(younger, 3.0)
    assert world.fill(3.0) == [3]


def test_an_absent_adapter_passes_only_if_it_is_smaller() -> None:
    world = World(MultiQueue(), adapter_bytes=1500)
    world.arrive(request(0, BIG))
    world.fill(0.0)
    world.arrive(request(1, HALF), request(2, Adapter("half too", 64, 640)), request(3, TINY), now=1.0)
    assert world.fill(1.0) == [3]


def test_the_bypass_looks_no_further_than_it_is_told() -> None:
    world = World(MultiQueue(bypass_lookahead=1), adapter_bytes=1500)
    world.arrive(request(0, BIG))
    world.fill(0.0)
    world.arrive(request(1, HALF), request(2, HALF), request(3, BIG), now=1.0)
    assert world.fill(1.0) == []


def test_a_request_of_another_lane_does_not_pass() -> None:
    world = World(StaticLanes(lanes=2), adapter_bytes=1500)
    world.arrive(request(0, BIG, 100, 28))
    world.fill(0.0)
    rival = Adapter("rival", 128, 1280)
    head = request(1, rival, 100, 20)
    world.arrive(head, request(2))
    assert head.lane == 1
    assert world.fill(1.0) == [2]
    assert head.bypassed == 0


def test_who_has_passed_is_squashed_once_the_head_could_run_in_its_place() -> None:
    world, pins, _, younger = blocked_world()
    assert world.fill(1.0) == [2]
    world.finish(pins, 2.0)
    assert world.fill(2.0) == [1]
    assert world.squashed == [younger]
    assert younger.arrival_s == 0.0


def test_who_was_squashed_waits_at_the_head_of_its_lane() -> None:
    world, pins, _, younger = blocked_world()
    world.fill(1.0)
    world.arrive(request(3, BIG), request(4, BIG))
    world.finish(pins, 2.0)
    world.fill(2.0)
    assert [one.id for one in world.scheduler.order((), 2.0)] == [younger.id, 3, 4]


def test_nobody_is_squashed_while_the_head_would_not_fit_all_the_same() -> None:
    world, *_ = blocked_world()
    world.fill(1.0)
    assert world.fill(2.0) == []
    assert world.squashed == []


def test_the_tokens_of_who_has_passed_count_as_free_for_the_head() -> None:
    world, pins, head, younger = blocked_world()
    head.prompt_tokens = younger.prompt_tokens = 190  # one of them fits into the quota of 400, but not both
    assert world.fill(1.0) == [2]
    world.finish(pins, 2.0)
    assert world.fill(2.0) == [1]


def test_nobody_is_squashed_whose_adapter_is_still_on_the_way() -> None:
    world, pins, _, younger = blocked_world()
    world.fill(1.0)
    world.finish(pins, 2.0)
    world.running.remove(younger)
    world.joining.append(younger)
    assert world.fill(2.0) == []
    assert world.squashed == []


def test_nobody_is_squashed_where_it_is_off() -> None:
    world, pins, _, _ = blocked_world(squash=False)
    world.fill(1.0)
    world.finish(pins, 2.0)
    assert world.fill(2.0) == []
    assert world.squashed == []


def test_nobody_is_squashed_for_a_head_that_only_exceeds_the_round() -> None:
    world, pins, head, _ = blocked_world()
    world.fill(1.0)
    world.finish(pins, 2.0)
    head.prompt_tokens = 30
    world.prompt_tokens = 20
    assert world.fill(2.0) == []
    assert world.squashed == []


def test_a_squash_that_does_not_help_leaves_the_head_in_front() -> None:
    class Liar(World):
        def can_squash_for(self, victim: Request, request: Request) -> bool:
            return True

    world = Liar(MultiQueue(), adapter_bytes=1500)
    pins, head, younger = request(0, BIG), request(1, HALF), request(2, BIG)
    world.arrive(pins)
    world.fill(0.0)
    world.arrive(head, younger, now=1.0)
    world.fill(1.0)
    assert world.fill(2.0) == []
    assert world.squashed == [younger]
    assert [one.id for one in world.scheduler.order((), 2.0)] == [1, 2]
    assert world.fill(3.0) == []  # nobody passes it again: the two could squash and pass for ever


def test_a_request_that_the_engine_stopped_returns_to_the_head_and_gives_back_its_tokens() -> None:
    world = World(MultiQueue())
    stopped = request(0)
    world.arrive(stopped)
    world.fill()
    world.arrive(request(1))
    world.running.remove(stopped)
    world.arrive(stopped, now=3.0)
    assert world.scheduler.inflight[0] == 0
    assert [one.id for one in world.scheduler.order((), 3.0)] == [0, 1]


def test_a_request_in_two_places_breaks_the_law() -> None:
    world = World(MultiQueue())
    twin = request(0)
    world.arrive(twin, twin)
    with pytest.raises(RuntimeError, match="1 of 2 waiting requests are in two places"):
        world.scheduler.check()


shapes = st.tuples(st.integers(1, 100), st.integers(1, 100), st.sampled_from([None, TINY, HALF, BIG]))
moves = st.lists(st.one_of(shapes, st.integers(0, 30), st.sampled_from(["fill", "wake"])), max_size=60)


@settings(max_examples=200)
@given(
    moves=moves,
    charge=st.sampled_from(["per_request", "once"]),
    lending=st.sampled_from(["pool", "net"]),
    kv_tokens=st.integers(200, 900),
    adapter_bytes=st.integers(1280, 2600),
)
def test_whatever_happens_the_tokens_add_up_and_a_second_round_adds_nothing(
    moves: list[Any], charge: Any, lending: Any, kv_tokens: int, adapter_bytes: int
) -> None:
    scheduler = MultiQueue(first_refresh=5, charge_adapter=charge, lending=lending)
    world = World(scheduler, kv_tokens=kv_tokens, adapter_bytes=adapter_bytes)
    world.execution = lambda request: float(request.predicted_tokens)
    world.wait = lambda request: 50.0
    for now, move in enumerate(moves):
        if isinstance(move, tuple):
            world.arrive(Request(now, float(now), *move), now=float(now))
        elif isinstance(move, int):
            if world.running:
                world.finish(world.running[move % len(world.running)], float(now))
        elif move == "wake" and scheduler.wakes_at_s() is not None:
            scheduler.woken(float(now))
        else:
            world.fill(float(now))
            squashes = len(world.squashed)
            again = world.fill(float(now))
            assert again == [] or len(world.squashed) > squashes
        scheduler.check()
    while world.waiting:
        for running in list(world.running):
            world.finish(running, 1000.0)
        assert world.fill(1000.0), "an idle engine starves a request"
