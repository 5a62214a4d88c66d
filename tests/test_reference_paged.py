"""The product against a second simulator of a vLLM-like engine that was written from the rules alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.scheduling import FCFS
from policies.skipping import SkipAdapters
from sim.records import NEVER
from sim.shape import Load
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
    slots = draw(st.one_of(st.none(), st.integers(1, 3)))
    kv = draw(st.sampled_from([100, 150, 250, 600]))
    slot_bytes = max(size for _, size in adapters)
    region = 2 * slot_bytes if slots is None else slots * slot_bytes
    prefill = draw(st.sampled_from(["separate", "mixed", "chunked"]))
    blocks = draw(st.booleans())
    return World(
        draw(rows(count)),
        adapters,
        total_bytes=kv + region,
        kv_limit_bytes=draw(st.sampled_from([None, kv])) if slots is None else kv,
        adapter_limit_bytes=draw(st.sampled_from([None, region])) if slots is None else region,
        slot_bytes=None if slots is None else slot_bytes,
        kv_token_bytes=draw(st.sampled_from([1, 1, 3])),
        admit_every_steps=0,
        batch_prompt_tokens=draw(st.sampled_from([60, 200, 10_000])) if blocks else 10_000,
        running_requests=draw(st.sampled_from([1, 2, 5, 1000])),
        distinct_adapters=draw(st.sampled_from([1, 2, 1000])) if slots is None else slots,
        blocks_on_load=blocks,
        scheduler=draw(st.sampled_from([FCFS, SkipAdapters])),
        costs=draw(st.sampled_from([MixedCosts]))(
            decode_rank=draw(st.sampled_from([0, 1])),
            decode_context=draw(st.sampled_from([0, 1, 7])),
            load_byte=draw(st.sampled_from([1, 20])),
            floor=draw(st.sampled_from([0, 1100, 2000])),
        ),
        mechanism={
            "reserve": "on_demand",
            "prefill": prefill,
            "step_tokens": draw(st.sampled_from([8, 32, 64, 10_000])),
            "prefills_per_step": draw(st.sampled_from([1, 1000] if prefill == "mixed" else [1, 2, 1000])),
            "block_tokens": draw(st.sampled_from([1, 4, 16])),
            "watermark_bytes": draw(st.sampled_from([0, 0, kv // 10])),
            "slot_rank": 0 if slots is None else 32,
        },
    )


def reference(world: World) -> Reference:
    total, mechanism = world.total_bytes, world.mechanism
    rules = Rules(
        total_bytes=total,
        kv_limit_bytes=total if world.kv_limit_bytes is None else world.kv_limit_bytes,
        adapter_limit_bytes=total if world.adapter_limit_bytes is None else world.adapter_limit_bytes,
        kv_token_bytes=world.kv_token_bytes,
        block_tokens=mechanism.get("block_tokens", 1),
        watermark_bytes=mechanism.get("watermark_bytes", 0),
        prefill=mechanism.get("prefill", "separate"),
        step_tokens=mechanism.get("step_tokens", 1 << 40),
        batch_prompt_tokens=world.batch_prompt_tokens,
        prefills_per_step=mechanism.get("prefills_per_step", 1 << 40),
        running_requests=world.running_requests,
        distinct_adapters=world.distinct_adapters,
        slot_rank=mechanism.get("slot_rank", 0),
        blocks_on_load=world.blocks_on_load,
        skips=world.scheduler is SkipAdapters,
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
        "requests": {
            row.id: (row.admitted, row.first_token, row.finish, row.preemptions) for row in engine.rows
        },
        "loads": engine.loads,
        "evictions": engine.evictions,
        "rejected": sorted(engine.rejected),
    }


def told_by_the_product(world: World) -> Outcome:
    _, records = play(world)
    requests, transfers, evictions = records.requests, records.transfers, records.evictions
    columns = [requests[name].tolist() for name in ("admitted", "first_token", "finish", "preemptions")]
    cells = zip(*([None if t == NEVER else t for t in column] for column in columns), strict=True)
    return {
        "requests": dict(sorted(zip(requests["request"].tolist(), cells, strict=True))),
        "loads": list(zip(*(transfers[c].tolist() for c in ("start", "end", "adapter")), strict=True)),
        "evictions": list(zip(*(evictions[c].tolist() for c in ("time", "adapter")), strict=True)),
        "rejected": sorted(records.rejections),
    }


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_the_product_agrees_with_the_reference_in_every_instant_preemption_load_and_eviction(world: World) -> None:
    assert told_by_the_product(world) == told_by_the_reference(world)
