"""The product against a second simulator that was written from the rules alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.serving.records import NEVER, SOURCES
from tests.reference import Reference, Rules, hits, serve
from tests.worlds import RoundCosts, World, play


@dataclass(frozen=True)
class RankedCosts(RoundCosts):
    """Costs in which every argument counts, so that a wrong one shows."""

    def prefill(
        self,
        requests: int,
        tokens: int,
        squared_tokens: int,
        token_rank: int,
        distinct: int,
        distinct_rank: int,
        max_rank: int,
    ) -> int:
        base = super().prefill(requests, tokens, squared_tokens, token_rank, distinct, distinct_rank, max_rank)
        return (
            base
            + 3 * requests
            + 5 * squared_tokens
            + 7 * token_rank
            + 11 * distinct
            + 13 * distinct_rank
            + 17 * max_rank
        )

    def decode(
        self, requests: int, context_tokens: int, sum_rank: int, distinct: int, distinct_rank: int, max_rank: int
    ) -> Any:
        cost = super().decode(requests, context_tokens, sum_rank, distinct, distinct_rank, max_rank)
        return cost._replace(first=cost.first + 3 * sum_rank + 5 * distinct + 7 * max_rank)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 5))
    adapters = draw(
        st.lists(
            st.tuples(st.sampled_from([8, 16, 32]), st.sampled_from([20, 50, 120, 300])), min_size=count, max_size=count
        )
    )
    gaps = st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 3000), st.integers(0, 20_000))
    outputs = st.one_of(st.sampled_from([1, 2]), st.integers(1, 30), st.integers(1, 150))
    which = st.one_of(st.none(), st.integers(0, count - 1), st.integers(0, count - 1))
    length = draw(st.integers(1, 25))
    rows = st.lists(st.tuples(gaps, st.integers(1, 60), outputs, which), min_size=length, max_size=length)
    requests, now = [], 0
    for gap, prompt, output, adapter in draw(rows):
        now += gap
        requests.append((now, prompt, output, adapter))
    total = draw(st.sampled_from([400, 700, 1500, 5000]))
    return World(
        requests,
        adapters,
        total_bytes=total,
        kv_limit_bytes=draw(st.sampled_from([None, total // 2])),
        kv_token_bytes=draw(st.sampled_from([1, 1, 3])),
        admit_every_steps=draw(st.sampled_from([0, 1, 3, 10])),
        batch_prompt_tokens=draw(st.sampled_from([60, 200, 10_000])),
        running_requests=draw(st.sampled_from([1, 2, 5, 1000])),
        costs=draw(st.sampled_from([RoundCosts, RankedCosts]))(
            decode_rank=draw(st.sampled_from([0, 1])),
            decode_context=draw(st.sampled_from([0, 1, 7])),
            load_byte=draw(st.sampled_from([1, 20])),
            floor=draw(st.sampled_from([0, 1100, 2000])),
        ),
    )


def reference(world: World) -> Reference:
    limit = world.total_bytes if world.kv_limit_bytes is None else world.kv_limit_bytes
    rules = Rules(
        world.total_bytes,
        limit,
        world.kv_token_bytes,
        world.admit_every_steps,
        world.batch_prompt_tokens,
        world.running_requests,
    )
    return serve(world.requests, world.adapters, rules, world.costs)


Outcome = dict[str, Any]


def told_by_the_reference(world: World) -> Outcome:
    engine = reference(world)
    return {
        "instants": {row.id: row.instants for row in engine.rows},
        "hits": sorted(hits(engine)),
        "loads": engine.loads,
        "evictions": engine.evictions,
        "rejected": sorted(engine.rejected),
    }


def told_by_the_product(world: World) -> Outcome:
    _, records = play(world)
    requests, transfers, evictions = records.requests, records.transfers, records.evictions
    ids = requests["request"].tolist()
    columns = [requests[name].tolist() for name in ("admitted", "ready", "first_token", "finish")]
    instants = zip(*([None if t == NEVER else t for t in column] for column in columns), strict=True)
    return {
        "instants": dict(zip(ids, instants, strict=True)),
        "hits": sorted(i for i, s in zip(ids, requests["source"].tolist(), strict=True) if SOURCES[s] == "gpu"),
        "loads": list(zip(*(transfers[c].tolist() for c in ("start", "end", "adapter")), strict=True)),
        "evictions": list(zip(*(evictions[c].tolist() for c in ("time", "adapter")), strict=True)),
        "rejected": sorted(records.rejections),
    }


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_the_product_agrees_with_the_reference_in_every_instant_hit_load_and_eviction(world: World) -> None:
    assert told_by_the_product(world) == told_by_the_reference(world)


def test_the_reference_meets_evictions_hits_and_rejections_in_a_crowded_world() -> None:
    requests = [(2_000 * i, 20, 1 + i % 20, (0, 1, 0, 2, 0, 3)[i % 6]) for i in range(30)]
    world = World([*requests, (60_000, 300, 300, 0)], [(8, 100), (16, 120), (32, 150), (8, 90)], total_bytes=500)
    told = told_by_the_reference(world)
    assert told["hits"]
    assert told["evictions"]
    assert told["rejected"] == [30]
    assert told == told_by_the_product(world)


def test_the_two_disagree_when_the_rules_differ() -> None:
    world = World([(0, 10, 50, 0), (10, 10, 50, 0)], [(8, 100)], admit_every_steps=10)
    assert told_by_the_reference(world) != told_by_the_product(replace(world, admit_every_steps=9))
