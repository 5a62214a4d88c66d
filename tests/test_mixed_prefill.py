"""Prompts beside the decode batch: whole ones (mixed), or in chunks up to a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sim.serving.records import Records
from sim.serving.steps import Chunk, Mixed
from tests.worlds import RoundCosts, World, core_of, jobs_of, play

# A step takes 1000 ticks and 10 for each prompt token beside it; a prefill of its own 100 and 10 for each token.
COSTS = RoundCosts(prefill_base=100, prefill_token=10, decode_base=1000, decode_request=0, decode_context=0)
ROWS = [(0, 10, 10, None), (500, 40, 5, None)]


def world(rows: Sequence[tuple[int, int, int, int | None]], prefill: str, **changes: Any) -> World:
    mechanism = {"prefill": prefill, **changes.pop("mechanism", {})}
    return World(rows, costs=COSTS, admit_every_steps=0, mechanism=mechanism, **changes)


def column(records: Records, name: str) -> list[int]:
    rows = records.requests
    return [value for _, value in sorted(zip(rows["request"].tolist(), rows[name].tolist(), strict=True))]


def test_a_prompt_in_an_iteration_of_its_own_stops_the_others_and_a_mixed_one_does_not() -> None:
    separate, mixed = (play(world(ROWS, prefill))[1] for prefill in ("separate", "mixed"))
    # Separate: 200 for the first prompt, a step to 1200, then 500 for the second prompt while the first waits.
    assert column(separate, "first_token") == [200, 1700]
    assert separate.gaps["gap"].max() == 1500
    # Mixed: the first prompt beside no decode costs a step all the same.
    assert column(mixed, "first_token") == [1100, 1100 + 1400]
    assert mixed.gaps["gap"].max() == 1400


def test_chunks_take_what_the_decode_batch_leaves_of_the_budget() -> None:
    _, records = play(world(ROWS, "chunked", mechanism={"step_tokens": 16}))
    assert records.prefills["tokens"].tolist() == [10, 15, 15, 10]
    assert column(records, "first_token")[1] == 1100 + 1150 + 1150 + 1100


def test_a_chunk_attends_to_the_chunks_before_it() -> None:
    squares: list[int] = []

    class Watching(RoundCosts):
        def mixed(self, requests: int, context_tokens: int, prompts: int, tokens: int, squared: int, load: Any) -> int:
            squares.append(squared)
            return super().mixed(requests, context_tokens, prompts, tokens, squared, load)

    rows = [(0, 40, 1, None)]
    play(World(rows, costs=Watching(), mechanism={"prefill": "chunked", "step_tokens": 16}))
    assert squares == [16 * 16, 16 * (2 * 16 + 16), 8 * (2 * 32 + 8)]
    assert sum(squares) == 40 * 40


def test_a_prompt_longer_than_one_iteration_is_served_in_chunks_only() -> None:
    rows = [(0, 40, 3, None)]
    assert column(play(world(rows, "mixed", batch_prompt_tokens=16))[1], "status") == [1]
    assert column(play(world(rows, "chunked", mechanism={"step_tokens": 16}))[1], "status") == [0]


def test_one_prefill_a_step_takes_waiting_prompts_in_order() -> None:
    rows = [(0, 10, 10, None), (0, 20, 10, None), (0, 30, 10, None)]
    _, records = play(world(rows, "mixed", mechanism={"prefills_per_step": 1}))
    assert records.prefills["tokens"].tolist() == [10, 20, 30]
    first_tokens = column(records, "first_token")
    assert first_tokens == sorted(set(first_tokens))


def test_a_prompt_makes_progress_beside_a_batch_that_fills_the_budget() -> None:
    rows = [(0, 1, 30, None), (0, 1, 30, None), (0, 3, 2, None)]
    _, records = play(world(rows, "chunked", mechanism={"step_tokens": 2}))
    assert column(records, "status") == [0, 0, 0]


def test_a_mixed_iteration_is_told_as_prefill_as_decode_and_as_mixed() -> None:
    _, records = play(world(ROWS, "mixed"))
    assert records.prefills["tokens"].tolist() == [10, 40]
    assert records.mixed["start"].tolist() == [1100]
    assert 1100 in records.segments["start"].tolist()


def test_nobody_is_admitted_beyond_the_budget_of_a_step() -> None:
    rows = [(0, 30, 2, None), (0, 30, 2, None), (0, 30, 2, None)]
    _, records = play(world(rows, "chunked", mechanism={"step_tokens": 32}))
    # 30 and a piece of the second fill the first step; the third comes once tokens are left.
    assert column(records, "admitted")[:2] == [0, 0]
    assert column(records, "admitted")[2] > 0


@pytest.mark.parametrize("prefill", ["mixed", "chunked"])
def test_both_plan_one_iteration_for_prompt_and_batch(prefill: str) -> None:
    world_ = world([(0, 10, 10, None), (0, 4, 10, None)], prefill)

    class NoLink:
        def send(self, transfer: object) -> None: ...
        def promote(self, slot: object, now: int) -> None: ...
        def left_ticks(self, slot: object, now: int) -> None: ...
        def busy_ticks(self, now: int) -> int:
            return 0

    core = core_of(world_, NoLink(), Records())
    for job in jobs_of(world_, core):
        core.submit(job, 0)
    step = core.plan(0, lambda: None)
    assert isinstance(step, Mixed)
    assert step.chunks == [Chunk(job, 0, job.prompt_tokens) for job in core.joining]
