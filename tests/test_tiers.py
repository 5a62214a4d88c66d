"""Adapters in slots of one size, in host RAM, on disk; prefills that start before their adapter is there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from policies.base import Adapter, Batch, Request, Scheduler
from policies.skipping import SGLang
from sim.serving.job import AdapterSlot
from sim.serving.memory import HostMemory
from sim.serving.options import EarlyStart
from sim.serving.records import SOURCES, Records
from sim.serving.tiers import HostTier
from tests.worlds import RoundCosts, World, play, replay

COSTS = RoundCosts(prefill_base=1000, prefill_token=0, decode_base=1000, decode_request=0, decode_context=0)


def column(records: Records, name: str) -> list[int]:
    rows = records.requests
    return [value for _, value in sorted(zip(rows["request"].tolist(), rows[name].tolist(), strict=True))]


def slots(*sizes: int) -> list[AdapterSlot]:
    return [AdapterSlot(Adapter(f"a{i}", 8, size), i) for i, size in enumerate(sizes)]


# --- slots of the largest rank ---


def test_every_adapter_takes_a_whole_slot_and_loads_its_own_bytes() -> None:
    world = World([(0, 10, 5, 0)], [(8, 30)], slot_bytes=200, adapter_limit_bytes=400, costs=COSTS)
    core, records = play(world)
    assert records.memory["resident_bytes"].max() == 200
    assert records.transfers["bytes"].tolist() == [30]
    assert core.memory.limits.slot_bytes == 200


def test_two_slots_hold_two_adapters_however_small_they_are() -> None:
    rows = [(i * 10_000, 10, 5, i % 3) for i in range(6)]
    small = {"adapters": [(8, 1), (8, 1), (8, 1)], "adapter_limit_bytes": 400, "costs": COSTS}
    assert len(play(World(rows, slot_bytes=200, **small))[1].transfers) == 6  # type: ignore[arg-type]
    assert len(play(World(rows, **small))[1].transfers) == 3  # type: ignore[arg-type]


def test_in_slots_every_adapter_is_computed_at_the_largest_rank() -> None:
    seen: list[int] = []

    class Watching(RoundCosts):
        def decode(self, requests: int, context: int, ranks: int, distinct: int, distinct_rank: int, top: int) -> Any:
            seen.append(top)
            return super().decode(requests, context, ranks, distinct, distinct_rank, top)

    play(World([(0, 10, 5, 0)], [(8, 30)], costs=Watching(), mechanism={"slot_rank": 64}))
    assert set(seen) == {64}


# --- host RAM and disk ---


def test_an_adapter_on_disk_is_read_and_then_copied() -> None:
    world = World([(0, 10, 5, 0)], [(8, 30)], host=HostMemory(100, starts_warm=False), costs=COSTS)
    _, records = play(world)
    assert records.reads["end"].tolist() == [80]
    assert records.transfers["start"].tolist() == [80]
    assert records.transfers["end"].tolist() == [160]
    assert column(records, "first_token") == [160 + 1000]


def test_a_warm_host_needs_no_disk() -> None:
    world = World([(0, 10, 5, 0)], [(8, 30)], host=HostMemory(100), costs=COSTS)
    assert len(play(world)[1].reads) == 0


def test_host_ram_forgets_the_least_recently_used() -> None:
    first, second, third = slots(40, 40, 40)
    tier = HostTier(HostMemory(100), [first, second])
    assert tier.has(first)
    tier.take_in(third)
    assert (tier.has(first), tier.has(second), tier.has(third)) == (True, False, True)
    assert tier.held_bytes == 80


def test_host_ram_may_be_limited_to_so_many_adapters() -> None:
    first, second, third = slots(40, 1, 40)
    tier = HostTier(HostMemory(1000, capacity_adapters=2), [first, second, third])
    assert (tier.has(first), tier.has(second), tier.has(third)) == (True, True, False)
    tier.take_in(third)
    assert (tier.has(first), tier.has(second), tier.has(third)) == (False, True, True)


def test_a_request_for_an_adapter_on_the_gpu_is_a_use_of_the_copy_on_the_host() -> None:
    # Adapter 0 is asked for again before 1 comes, so that 1 leaves the host for 2; it must be read, and 0 must not.
    rows = [(i * 10_000, 10, 5, adapter) for i, adapter in enumerate([0, 1, 0, 2, 0, 1])]
    host = HostMemory(80, starts_warm=False)
    world = World(rows, [(8, 40)] * 3, adapter_limit_bytes=80, host=host, costs=COSTS)
    assert play(world)[1].reads["adapter"].tolist() == [0, 1, 2, 1]


def test_a_request_tells_whether_its_adapter_was_on_the_host_or_on_disk() -> None:
    rows = [(0, 10, 5, 0), (10_000, 10, 5, 1), (20_000, 10, 5, 0)]
    world = World(rows, [(8, 40)] * 2, host=HostMemory(40), costs=COSTS)
    assert [SOURCES[source] for source in column(play(world)[1], "source")] == ["host", "disk", "gpu"]


def test_an_adapter_that_the_scheduler_has_fetched_from_disk_was_on_disk() -> None:
    world = World(
        [(0, 10, 5, 0)],
        [(8, 40)],
        scheduler=lambda: SGLang(resident_only=True),
        host=HostMemory(40, starts_warm=False),
        blocks_on_load=False,
        costs=COSTS,
    )
    assert [SOURCES[source] for source in column(play(world)[1], "source")] == ["disk"]


def test_an_adapter_larger_than_host_ram_passes_through() -> None:
    small, large = slots(40, 400)
    tier = HostTier(HostMemory(100), [small])
    tier.take_in(large)
    assert (tier.has(small), tier.has(large)) == (False, True)


def test_disk_and_link_work_side_by_side() -> None:
    # The second adapter is on the host; its copy does not wait for the first one's read.
    rows = [(0, 10, 5, 1), (0, 10, 5, 0)]
    world = World(rows, [(8, 30), (8, 500)], host=HostMemory(40), blocks_on_load=False, costs=COSTS)
    _, records = play(world)
    assert records.reads["adapter"].tolist() == [1]
    assert dict(zip(records.transfers["adapter"].tolist(), records.transfers["end"].tolist(), strict=True)) == {
        0: 80,
        1: 550 + 550,
    }


@pytest.mark.parametrize("blocks", [True, False])
def test_both_drivers_agree_about_disk_and_link(blocks: bool) -> None:
    rows = [(i * 700, 5 + i % 7, 1 + i % 9, i % 5) for i in range(40)]
    adapters = [(8, 30), (8, 500), (16, 80), (32, 700), (8, 50)]
    world = World(
        rows, adapters, total_bytes=1500, host=HostMemory(600), blocks_on_load=blocks, asks_every_step=True, costs=COSTS
    )
    simulated, replayed = play(world)[1], replay(world)[1]
    for table in ("requests", "transfers", "reads", "evictions"):
        one, other = getattr(simulated, table), getattr(replayed, table)
        assert {name: one[name].tolist() for name in one.columns} == {n: other[n].tolist() for n in other.columns}


# --- prefill before the adapter is there ---


def early(start: EarlyStart | None, size: int, *, load_base: int = 0) -> Records:
    costs = RoundCosts(1000, 0, 1000, 0, 0, load_base=load_base, load_byte=1)
    return play(World([(0, 10, 5, 0)], [(8, size)], costs=costs, mechanism={"early_start": start}))[1]


def test_layer_by_layer_a_short_load_hides_behind_the_prefill() -> None:
    assert column(early(None, 600), "first_token") == [1600]
    assert column(early(EarlyStart(10), 600), "first_token") == [1000]


def test_layer_by_layer_a_long_load_leaves_the_last_layer() -> None:
    assert column(early(EarlyStart(10), 5000), "first_token") == [5000 + 100]


def test_the_cpu_stands_in_for_the_first_group_or_waits_for_it_whichever_is_shorter() -> None:
    helped = EarlyStart(10, groups=2, cpu_token_ticks=7, slowdown=1.1)
    assert column(early(helped, 600), "first_token") == [1100 + 10 * 7]
    slow_cpu = EarlyStart(10, groups=2, cpu_token_ticks=7000, slowdown=1.1)
    assert column(early(slow_cpu, 600), "first_token") == [1100 + 300]


def test_an_adapter_that_is_there_costs_no_early_start() -> None:
    costs = RoundCosts(1000, 0, 1000, 0, 0)
    helped = EarlyStart(10, groups=2, cpu_token_ticks=7, slowdown=1.1)
    rows = [(0, 10, 5, 0), (100_000, 10, 5, 0)]
    _, records = play(World(rows, [(8, 60)], costs=costs, mechanism={"early_start": helped}))
    assert column(records, "first_token")[1] == 100_000 + 1000


def test_nothing_is_prefilled_while_the_adapter_is_still_on_disk() -> None:
    costs = RoundCosts(1000, 0, 1000, 0, 0, load_base=0, load_byte=1)
    world = World(
        [(0, 10, 5, 0)],
        [(8, 600)],
        costs=costs,
        host=HostMemory(1000, starts_warm=False),
        mechanism={"early_start": EarlyStart(10)},
    )
    _, records = play(world)
    assert column(records, "prefill_start") == [600]
    assert column(records, "first_token") == [1600]


class NewestAlone(Scheduler):
    """The newest request runs alone; whoever runs makes way for it."""

    name = "newest-alone"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        newest = max(waiting, key=lambda request: request.id)
        if batch.running and batch.running[0].id < newest.id:
            batch.preempt(batch.running[0])
        if not batch.running:
            batch.try_add(newest)


def test_a_request_that_goes_on_decoding_waits_for_its_adapter_where_a_prefill_would_not() -> None:
    # The second request's adapter takes the place of the first one's, whose KV stays.
    world = World(
        [(0, 10, 9, 0), (2500, 10, 2, 1)],
        [(8, 600), (8, 600)],
        total_bytes=700,
        costs=RoundCosts(1000, 0, 1000, 0, 0, load_base=0, load_byte=5),
        scheduler=NewestAlone,
        mechanism={"early_start": EarlyStart(10), "preempted": "keep"},
    )
    _, records = play(world)
    assert records.transfers["adapter"].tolist() == [0, 1, 0]
    asked_again, landed = records.transfers["queued"][-1], records.transfers["end"][-1]
    starts = records.segments["start"]
    assert starts[starts >= asked_again].min() == landed
