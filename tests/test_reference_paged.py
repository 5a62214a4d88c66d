"""The product against a second simulator of a vLLM-like engine that was written from the rules alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.scheduling import FCFS
from policies.skipping import SkipAdapters
from sim.serving.options import Victim
from sim.serving.records import NEVER
from sim.serving.shape import Load
from tests.reference_paged import Reference, Row, Rules
from tests.test_reference import RankedCosts
from tests.worlds import World, play


@dataclass(frozen=True)
class MixedCosts(RankedCosts):
    """Costs in which the arguments of a mixed iteration count too."""

    def mixed(
        self, requests: int, context_tokens: int, prompts: int, tokens: int, squared_tokens: int, load: Load
    ) -> int:
        both = super().mixed(requests, context_tokens, prompts, tokens, squared_tokens, load)
        return both + 19 * prompts + 23 * squared_tokens


@st.composite
def rows(draw: st.DrawFn, adapters: int) -> list[tuple[int, int, int, int | None]]:
    gaps = st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 3000), st.integers(0, 20_000))
    outputs = st.one_of(st.sampled_from([1, 2]), st.integers(1, 30), st.integers(1, 100))
    which = st.one_of(st.none(), st.integers(0, adapters - 1), st.integers(0, adapters - 1))
    length = draw(st.integers(1, 20))
    drawn = draw(st.lists(st.tuples(gaps, st.integers(1, 60), outputs, which), min_size=length, max_size=length))
    requests, now = [], 0
    for gap, prompt, output, adapter in drawn:
        now += gap
        requests.append((now, prompt, output, adapter))
    return requests


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 5))
    sizes = st.tuples(st.sampled_from([8, 16, 32]), st.sampled_from([20, 50, 120]))
    adapters = draw(st.lists(sizes, min_size=count, max_size=count))
    kv = draw(st.sampled_from([100, 150, 250, 600]))
    mechanism = draw(mechanisms(kv))
    memory = draw(in_slots(adapters, kv) if mechanism["slot_rank"] else shared(adapters, kv))
    mechanism["base_slot"] = "slot_bytes" in memory and draw(st.booleans())
    if (memory["kv_limit_bytes"] or 0) + (memory["adapter_limit_bytes"] or 0) == memory["total_bytes"]:
        mechanism["reuses_blocks"] = draw(st.booleans())  # elsewhere the reference cannot tell where adapters lie
    return World(
        draw(rows(count)),
        adapters,
        **memory,
        kv_token_bytes=draw(st.sampled_from([1, 1, 3])),
        admit_every_steps=0,
        batch_prompt_tokens=draw(st.sampled_from([60, 200, 10_000])),
        running_requests=draw(st.sampled_from([1, 2, 5, 1000])),
        blocks_on_load=draw(st.booleans()),
        scheduler=draw(st.sampled_from([FCFS, SkipAdapters])),
        costs=MixedCosts(
            decode_rank=draw(st.sampled_from([0, 1])),
            decode_context=draw(st.sampled_from([0, 1, 7])),
            load_byte=draw(st.sampled_from([1, 20])),
            floor=draw(st.sampled_from([0, 1100, 2000])),
        ),
        mechanism=mechanism,
    )


@st.composite
def mechanisms(draw: st.DrawFn, kv_bytes: int) -> dict[str, Any]:
    prefill = draw(st.sampled_from(["separate", "mixed", "chunked"]))
    return {
        "reserve": "on_demand",
        "prefill": prefill,
        "step_tokens": draw(st.sampled_from([8, 32, 64, 10_000])),
        "prefills_per_step": draw(st.sampled_from([1, 2, 1000])),
        "block_tokens": draw(st.sampled_from([1, 4, 16])),
        "watermark_bytes": draw(st.sampled_from([0, 0, kv_bytes // 10])),
        "slot_rank": draw(st.sampled_from([0, 32])),
        "shortage": draw(st.sampled_from(["recompute", "swap"])),
        "swap_bytes": draw(st.sampled_from([60, 10_000])),
        "victim": draw(st.sampled_from(["last_admitted", "least_generated"])),
    }


@st.composite
def in_slots(draw: st.DrawFn, adapters: list[tuple[int, int]], kv_bytes: int) -> dict[str, Any]:
    slots, slot_bytes = draw(st.integers(1, 3)), max(size for _, size in adapters)
    return {
        "total_bytes": kv_bytes + slots * slot_bytes,
        "kv_limit_bytes": kv_bytes,
        "adapter_limit_bytes": slots * slot_bytes,
        "slot_bytes": slot_bytes,
        "distinct_adapters": slots,
    }


@st.composite
def shared(draw: st.DrawFn, adapters: list[tuple[int, int]], kv_bytes: int) -> dict[str, Any]:
    region = 2 * max(size for _, size in adapters)
    return {
        "total_bytes": kv_bytes + region,
        "kv_limit_bytes": draw(st.sampled_from([None, kv_bytes])),
        "adapter_limit_bytes": draw(st.sampled_from([None, region])),
        "distinct_adapters": draw(st.sampled_from([1, 2, 1000])),
    }


def reference(world: World) -> Reference:
    total, mechanism = world.total_bytes, world.mechanism
    rules = Rules(
        total_bytes=total,
        kv_limit_bytes=total if world.kv_limit_bytes is None else world.kv_limit_bytes,
        adapter_limit_bytes=total if world.adapter_limit_bytes is None else world.adapter_limit_bytes,
        kv_token_bytes=world.kv_token_bytes,
        block_tokens=mechanism.get("block_tokens", 1),
        watermark_bytes=mechanism.get("watermark_bytes", 0),
        swap_bytes=mechanism.get("swap_bytes", 1 << 40) if mechanism.get("shortage") == "swap" else 0,
        prefill=mechanism.get("prefill", "separate"),
        step_tokens=mechanism.get("step_tokens", 1 << 40),
        batch_prompt_tokens=world.batch_prompt_tokens,
        prefills_per_step=mechanism.get("prefills_per_step", 1 << 40),
        running_requests=world.running_requests,
        distinct_adapters=world.distinct_adapters,
        slot_rank=mechanism.get("slot_rank", 0),
        blocks_on_load=world.blocks_on_load,
        skips=world.scheduler is SkipAdapters,
        reuses_blocks=mechanism.get("reuses_blocks", False),
        base_bytes=world.slot_bytes if mechanism.get("base_slot") else None,
        stops_least=mechanism.get("victim") == "least_generated",
    )
    places = [(rank, world.slot_bytes or size) for rank, size in world.adapters]
    rows = [Row(i, *request) for i, request in enumerate(world.requests)]
    engine = Reference(rows, places, [size for _, size in world.adapters], rules, world.costs)
    engine.serve()
    return engine


Outcome = dict[str, Any]


def told_by_the_reference(world: World) -> Outcome:
    engine = reference(world)
    return {
        "requests": {row.id: (row.admitted, row.first_token, row.finish, row.preemptions) for row in engine.rows},
        "loads": engine.loads,
        "returns": engine.returns,
        "evictions": engine.evictions,
        "rejected": sorted(engine.rejected),
    }


def told_by_the_product(world: World) -> Outcome:
    _, records = play(world)
    requests, transfers, evictions, swaps = records.requests, records.transfers, records.evictions, records.swaps
    returns = zip(*(swaps[c].tolist() for c in ("start", "end", "request", "way")), strict=True)
    columns = [requests[name].tolist() for name in ("admitted", "first_token", "finish", "preemptions")]
    cells = zip(*([None if t == NEVER else t for t in column] for column in columns), strict=True)
    return {
        "requests": dict(sorted(zip(requests["request"].tolist(), cells, strict=True))),
        "loads": list(zip(*(transfers[c].tolist() for c in ("start", "end", "adapter")), strict=True)),
        "returns": [row[:3] for row in returns if not row[3]],
        "evictions": list(zip(*(evictions[c].tolist() for c in ("time", "adapter")), strict=True)),
        "rejected": sorted(records.rejections),
    }


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_the_product_agrees_with_the_reference_in_every_instant_preemption_load_and_eviction(world: World) -> None:
    assert told_by_the_product(world) == told_by_the_reference(world)


@st.composite
def reusing_worlds(draw: st.DrawFn) -> World:
    """Many requests stop, and others take some of the blocks that they will look for."""
    length = draw(st.integers(4, 14))
    sizes = st.tuples(st.integers(0, 3000), st.integers(1, 40), st.integers(5, 60), st.sampled_from([None, 0, 1, 2]))
    rows, now = [], 0
    for gap, prompt, output, adapter in draw(st.lists(sizes, min_size=length, max_size=length)):
        now += gap
        rows.append((now, prompt, output, adapter))
    kv_bytes = draw(st.integers(105, 200))
    world = crowded(
        draw(st.sampled_from(["separate", "mixed", "chunked"])),
        reuses_blocks=True,
        block_tokens=draw(st.sampled_from([1, 2, 4])),
        step_tokens=draw(st.sampled_from([8, 16, 64])),
    )
    scheduler = draw(st.sampled_from([FCFS, SkipAdapters]))
    return replace(world, requests=rows, total_bytes=kv_bytes + 300, kv_limit_bytes=kv_bytes, scheduler=scheduler)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(reusing_worlds())
def test_the_product_agrees_with_the_reference_where_stopped_requests_look_for_their_blocks(world: World) -> None:
    assert told_by_the_product(world) == told_by_the_reference(world)


def crowded(prefill: str = "chunked", **mechanism: Any) -> World:
    """Return a world of two slots and little memory: skipping, chunks, evictions, preemptions and a rejection."""
    requests = [(1_000 * i, 11 + i, 12 + i % 20, (0, 1, None, 2, 0, 3)[i % 6]) for i in range(24)]
    return World(
        [*requests, (60_000, 300, 300, 0)],
        [(8, 100), (16, 120), (32, 150), (8, 90)],
        total_bytes=460,
        kv_limit_bytes=160,
        adapter_limit_bytes=300,
        slot_bytes=150,
        distinct_adapters=2,
        admit_every_steps=0,
        scheduler=SkipAdapters,
        costs=MixedCosts(),
        mechanism={
            "reserve": "on_demand",
            "prefill": prefill,
            "step_tokens": 16,
            "block_tokens": 4,
            "slot_rank": 32,
            **mechanism,
        },
    )


@pytest.mark.parametrize("prefill", ["separate", "mixed", "chunked"])
@pytest.mark.parametrize("shortage", ["recompute", "swap"])
@pytest.mark.parametrize("reuses_blocks", [False, True])
def test_a_crowded_world_meets_everything_that_the_reference_can_tell(
    prefill: str, shortage: str, reuses_blocks: bool
) -> None:
    world = crowded(prefill, shortage=shortage, reuses_blocks=reuses_blocks)
    told = told_by_the_reference(world)
    admitted = [row[0] for row in told["requests"].values() if row[0] is not None]
    assert admitted != sorted(admitted)
    assert sum(row[3] for row in told["requests"].values()) > 1
    assert told["evictions"]
    assert bool(told["returns"]) == (shortage == "swap")
    assert told["rejected"] == [24]
    assert told == told_by_the_product(world)


@pytest.mark.parametrize(
    "change",
    [
        {"block_tokens": 1},
        {"step_tokens": 17},
        {"slot_rank": 16},
        {"watermark_bytes": 20},
        {"prefills_per_step": 1},
        {"shortage": "swap"},
        {"reuses_blocks": True},
        {"base_slot": True},
    ],
)
def test_the_two_disagree_when_the_rules_differ(change: dict[str, Any]) -> None:
    assert told_by_the_reference(crowded()) != told_by_the_product(crowded(**change))


def test_the_two_disagree_when_nobody_is_skipped() -> None:
    assert told_by_the_reference(crowded()) != told_by_the_product(replace(crowded(), scheduler=FCFS))


def test_the_two_disagree_on_who_stops_where_the_longest_prompt_is_not_the_newest() -> None:
    requests = crowded().requests[:-1]
    shorter_and_shorter = [(when, 40 - prompt, output, adapter) for when, prompt, output, adapter in requests]
    last, least = (replace(crowded(victim=victim), requests=shorter_and_shorter) for victim in get_args(Victim))
    assert told_by_the_reference(least) == told_by_the_product(least) != told_by_the_reference(last)
