"""The worlds of the conformance suite: drawn, made smaller, told in words, and what two runs of one differ in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.conformance.draw import Guess, draw
from sim.conformance.records import difference, duration
from sim.conformance.smaller import can_be_quicker, quicker, shrunk
from sim.conformance.telling import tell
from sim.conformance.worlds import RoundCosts, World, play
from sim.serving.ticks import to_seconds
from tests.lawbreakers import Cached, Scheduled


def drawn(seed: int) -> World:
    return draw(np.random.default_rng(seed))


def test_the_same_seed_draws_the_same_world() -> None:
    assert tell(drawn(3), "cache") == tell(drawn(3), "cache")
    assert tell(drawn(3), "cache") != tell(drawn(4), "cache")


def test_worlds_differ_in_what_policies_must_cope_with() -> None:
    worlds = [drawn(seed) for seed in range(60)]
    for told in (
        {world.admit_every_steps for world in worlds},
        {world.blocks_on_load for world in worlds},
        {world.kv_limit_bytes is None for world in worlds},
        {world.requests[-1][0] > 10**13 for world in worlds},  # ten seconds
        {sum(size for _, size in world.adapters) > world.total_bytes for world in worlds},
        {world.mechanism.get("prefill") for world in worlds},
        {world.ttft_slo_s > 10 for world in worlds},
    ):
        assert len(told) > 1


def test_prompts_of_tens_of_hundreds_and_of_thousands_of_tokens_are_drawn() -> None:
    longest = [max(row[1] for row in drawn(seed).requests) for seed in range(60)]
    assert all(any(least < one <= 10 * least for one in longest) for least in (10, 100, 1000))


def test_deadlines_come_and_go_while_requests_wait_in_a_world_of_any_unit() -> None:
    in_steps = {world.ttft_slo_s / to_seconds(world.costs.decode_base) for world in map(drawn, range(60))}
    assert {round(one) for one in in_steps} == {3, 10, 30, 100, 300}


def test_a_quicker_world_is_the_same_in_a_hundredth_of_the_time() -> None:
    slow = next(world for world in map(drawn, range(60)) if can_be_quicker(world))
    fast = quicker(slow)
    assert [row[0] * 100 for row in fast.requests] == [row[0] for row in slow.requests]
    assert fast.costs.decode_base * 100 == slow.costs.decode_base
    assert fast.ttft_slo_s * 100 == pytest.approx(slow.ttft_slo_s)


def test_a_world_is_no_longer_made_smaller_once_that_may_not_go_on() -> None:
    left = iter([True, True, False])
    shown: list[World] = []

    def shows(world: World) -> bool:
        shown.append(world)
        return False

    assert shrunk(drawn(1), shows, "cache", lambda: next(left)).requests == drawn(1).requests
    assert len(shown) == 2


def test_a_world_is_made_smaller_only_as_long_as_it_shows_what_it_must() -> None:
    def shows(world: World) -> bool:
        return sum(row[2] for row in world.requests) >= 5 and any(row[3] is not None for row in world.requests)

    small = shrunk(next(world for world in map(drawn, range(20)) if shows(world)), shows, "cache")
    assert shows(small)
    assert len(small.adapters) == 1
    assert sum(row[2] for row in small.requests) < 10
    assert small.requests[0][:2] == (0, 1)


def test_a_smaller_world_keeps_the_policy_under_test() -> None:
    world = World([(0, 1, 1, None)], cache=Cached, scheduler=Scheduled)
    small = shrunk(world, lambda _: True, "cache")
    assert (small.cache, small.scheduler is Scheduled) == (Cached, False)


DUE = "first tokens are due within 250 ms"


def test_a_world_is_told_with_all_its_numbers() -> None:
    world = World(
        [(0, 10, 5, None), (2_500_000_000, 7, 3, 0)],
        [(8, 300)],
        total_bytes=900,
        kv_limit_bytes=400,
        admit_every_steps=3,
        blocks_on_load=False,
        predicted=Guess((1.0, 2.0)),
        costs=RoundCosts(load_base=10**6, floor=2 * 10**9),
        mechanism={"reserve": "on_demand"},
        ttft_slo_s=0.25,
    )
    assert tell(world, "cache")[:6] == [
        "memory 900 bytes, 1 a token, KV at most 400",
        "adapter a0: rank 8, 300 bytes",
        "request 0 at 0: 10 tokens in, 5 out, the base model",
        "request 1 at 2.5 ms: 7 tokens in, 3 out (6 predicted), a0",
        "beside it: scheduler fcfs, prefetch none",
        "engine: admit_every_steps 3, reserve on_demand, loads overlap with decoding, " + DUE,
    ]
    assert tell(world, "cache")[-2].endswith(", at least 2 ms")
    assert tell(world, "cache")[-1].startswith("load 1 us + ")


# --- what two runs differ in ---


def run(*rows: tuple[int, int, int, int | None], **more: Any) -> Any:
    return play(World(rows, [(8, 100)], **more))[1]


def test_runs_that_did_the_same_have_no_difference_however_steps_were_taken_together() -> None:
    rows = [(0, 10, 50, 0), (20_000, 10, 5, None)]
    fast, slow = run(*rows), run(*rows, asks_every_step=True)
    assert len(fast.segments) < len(slow.segments)
    assert difference(fast, slow) is None


def test_the_first_request_that_fared_otherwise_is_told() -> None:
    told = difference(run((0, 10, 2, None), (0, 10, 2, None)), run((0, 10, 2, None), (0, 10, 3, None)))
    assert told is not None
    assert told.startswith("request 1: finish ")


def test_runs_of_other_requests_differ_in_their_number() -> None:
    assert difference(run((0, 1, 1, None)), run()) == "1 requests left the engine, and 0 the other time"


@pytest.mark.parametrize(
    ("ticks", "told"),
    [(0, "0"), (5_000_000, "5 us"), (2_500_000_000, "2.5 ms"), (90 * 10**12, "90 s"), (2**63 - 1, "never")],
)
def test_durations_are_told_in_the_unit_that_suits_them(ticks: int, told: str) -> None:
    assert duration(ticks) == told
