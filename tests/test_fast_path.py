"""Skipping decode steps and admission rounds changes nothing: the slow way is the oracle, in random worlds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from policies.adaptive import Adaptive
from policies.base import Batch, Cache, Prefetch, Refusal, Request, Scheduler
from policies.builtin import BUILTIN
from policies.eviction import FIFO, GDSF, LFU, LRU, ChameleonScore, DropAfterUse, FairShare
from policies.eviction_bounds import Belady
from policies.eviction_history import LFUDA, LRUK, Elora, Hyperbolic
from policies.eviction_lhd import LHD
from policies.eviction_queues import S3FIFO, Sieve
from policies.eviction_simple import LargestFirst, RandomEviction, SmallestFirst
from policies.eviction_tinylfu import WTinyLFU
from policies.lanes import LaneScheduler
from policies.lines import Turn
from policies.multi_queue import MultiQueue, StaticLanes
from policies.prefetch import NoPrefetch, Queued, SLoRAPrefetch
from policies.prefetch_adaptive import AdaptivePrefetch
from policies.prefetch_histogram import Histogram
from policies.prefetch_order import Markov, Oracle
from policies.prefetch_rates import PLoRA, Rate, UseWithin
from policies.scheduling import FCFS, SJF
from policies.skipping import SkipAdapters
from sim.config import load_config
from sim.core import Core
from sim.experiments.run import execute
from sim.files.yamlfile import packaged_names
from sim.serving.inputs import PlainInputs
from sim.serving.memory import HostMemory
from sim.serving.options import EarlyStart
from sim.serving.records import Records, Table
from tests.drawn_schedulers import DRAWN
from tests.tables import Tables
from tests.worlds import RoundCosts, World, play, replay

US = 10**6  # ticks: worlds are laid out in microseconds, so that policies that think in seconds have something to do

T = TypeVar("T")
Draw = st.DrawFn


def one_of(draw: Draw, *values: T) -> T:
    return draw(st.sampled_from(values))


# --- policies, each with parameters that matter within milliseconds ---


def sjf(draw: Draw) -> Callable[[], Scheduler]:
    return partial(
        SJF, ageing_s=one_of(draw, None, 0.0, 0.002, 0.02), ageing_factor=one_of(draw, None, None, 0.3, 10.0)
    )


def lane_options(draw: Draw) -> dict[str, Any]:
    return {
        "size": one_of(draw, "wrs", "output"),
        "maxima": one_of(draw, "trace", "running"),
        "charge_adapter": one_of(draw, "per_request", "once"),
        "lending": one_of(draw, "pool", "net"),
        "bypass": one_of(draw, True, True, False),
        "bypass_lookahead": one_of(draw, None, 1, 32),
        "squash": one_of(draw, True, True, False),
    }


def multi_queue(draw: Draw) -> Callable[[], Scheduler]:
    return partial(
        MultiQueue,
        first_refresh=one_of(draw, 1, 3, 10, 1000),
        refresh_s=one_of(draw, 0.0007, 0.005, 0.05),
        choice=one_of(draw, "elbow", "argmin"),
        remainder=one_of(draw, "minimum", "equal"),
        max_lanes=one_of(draw, 1, 2, 4),
        **lane_options(draw),
    )


def static_lanes(draw: Draw) -> Callable[[], Scheduler]:
    return partial(StaticLanes, lanes=one_of(draw, 1, 2, 4), **lane_options(draw))


SCHEDULERS: dict[str, Callable[[Draw], Callable[[], Scheduler]]] = {
    "fcfs": lambda draw: FCFS,
    "sjf": sjf,
    "multi-queue": multi_queue,
    "static-lanes": static_lanes,
    **DRAWN,
}
CACHES: dict[str, Callable[[Draw], Callable[[], Cache]]] = {
    "drop-after-use": lambda draw: partial(DropAfterUse, tag=one_of(draw, "bit", "latest", "none")),
    "lru": lambda draw: LRU,
    "lfu": lambda draw: LFU,
    "fifo": lambda draw: FIFO,
    "chameleon": lambda draw: partial(
        ChameleonScore,
        window_s=one_of(draw, 0.003, 0.05),
        window=one_of(draw, "sliding", "exponential"),
        among=one_of(draw, "residents", "candidates"),
    ),
    "fairshare": lambda draw: partial(FairShare, window_s=one_of(draw, 0.003, 0.05)),
    "gdsf": lambda draw: partial(GDSF, cost=one_of(draw, "load_s", "one")),
    "random": lambda draw: partial(RandomEviction, seed=one_of(draw, 0, 1)),
    "largest-first": lambda draw: LargestFirst,
    "smallest-first": lambda draw: SmallestFirst,
    "lfu-da": lambda draw: LFUDA,
    "lru-k": lambda draw: partial(LRUK, k=one_of(draw, 2, 3), history=one_of(draw, "residents", "all")),
    "hyperbolic": lambda draw: Hyperbolic,
    "elora": lambda draw: partial(Elora, age_unit_s=one_of(draw, 0.001, 0.02)),
    "lhd": lambda draw: partial(LHD, cost=one_of(draw, "load_s", "one"), renew_uses=one_of(draw, 1, 5)),
    "s3-fifo": lambda draw: partial(S3FIFO, small_share=one_of(draw, 0.1, 0.5), move_hits=one_of(draw, 1, 2)),
    "sieve": lambda draw: Sieve,
    "w-tinylfu": lambda draw: partial(
        WTinyLFU, window_share=one_of(draw, 0.01, 0.5), halving_uses=one_of(draw, 1.0, 10.0)
    ),
    "belady": lambda draw: partial(Belady, by=one_of(draw, "count", "bytes", "cost")),
    "adaptive": lambda draw: Adaptive,
}
PREFETCHES: dict[str, Callable[[Draw], Callable[[], Prefetch]]] = {
    "none": lambda draw: NoPrefetch,
    "slora": lambda draw: partial(SLoRAPrefetch, at_steps=one_of(draw, (5, 7), (0, 1, 2), (3, 12))),
    "queued": lambda draw: partial(Queued, lookahead=one_of(draw, None, 1, 3)),
    "rate": lambda draw: partial(
        Rate, per=one_of(draw, "byte", "adapter"), top=one_of(draw, None, 1, 3), window_s=one_of(draw, 0.003, 0.05)
    ),
    "use-within": lambda draw: partial(
        UseWithin,
        threshold=one_of(draw, 0.05, 0.5),
        margin_s=one_of(draw, 0.0, 0.003),
        window_s=one_of(draw, 0.003, 0.05),
    ),
    "p-lora": lambda draw: partial(PLoRA, bin_s=one_of(draw, 0.001, 0.01), share=one_of(draw, 0.5, 0.99)),
    "histogram": lambda draw: partial(
        Histogram,
        bin_s=one_of(draw, 0.0002, 0.003),
        bins=one_of(draw, 3, 50),
        head=one_of(draw, 0.05, 0.5),
        variation=one_of(draw, 0.0, 2.0),
        gaps=one_of(draw, 1, 2, 10),
        keep_alive_s=one_of(draw, None, 0.004),
    ),
    "markov": lambda draw: partial(
        Markov,
        lookback=one_of(draw, 1, 3),
        window_s=one_of(draw, 0.003, 1.0),
        threshold=one_of(draw, 0.01, 0.5),
        top=one_of(draw, 1, 4),
        memory=one_of(draw, 2, 1000),
    ),
    "oracle": lambda draw: partial(Oracle, lookahead=one_of(draw, 1, 3, 20)),
    "adaptive": lambda draw: AdaptivePrefetch,
}


# --- worlds ---


def layout(draw: Draw, total: int) -> tuple[int | None, int | None]:
    """Return the limits of KV and of adapters: a unified pool, idle memory or a reserved region."""
    return one_of(draw, (None, None), (total // 2, None), (total - total // 2, total // 2))


def mechanism(draw: Draw) -> dict[str, Any]:
    """Return engine options beyond S-LoRA's, half of the time none."""
    if draw(st.booleans()):
        return {}
    reserve = one_of(draw, "peak", "whole", "predicted", "on_demand", "on_demand")
    return {
        "reserve": reserve,
        "prefill": one_of(draw, "separate", "mixed", "chunked"),
        "step_tokens": one_of(draw, 16, 64, 10_000),
        "prefills_per_step": one_of(draw, 1, 1000),
        "block_tokens": 1 if reserve == "peak" else one_of(draw, 1, 4, 16),
        "watermark_bytes": one_of(draw, 0, 20),
        "preempted": one_of(draw, "recompute", "swap", "keep"),
        "shortage": one_of(draw, "recompute", "swap"),
        "victim": one_of(draw, "last_admitted", "least_generated"),
        "swap_bytes": one_of(draw, 100, 1 << 40),
        "reuses_blocks": one_of(draw, False, True),
        "base_slot": one_of(draw, False, True),
        "slot_rank": one_of(draw, 0, 32),
        "early_start": one_of(
            draw, None, None, EarlyStart(4), EarlyStart(4, groups=2, cpu_token_ticks=US, slowdown=1.07)
        ),
        "returning_loads": one_of(draw, 0, 0, 3),
        "fair_link": one_of(draw, False, False, True),
        "inputs": one_of(draw, None, PlainInputs(8, 1), Tables(4)),
        "inline_bytes": one_of(draw, 0, 30, 200),
        "merge_ticks": one_of(draw, 0, 500 * US),
    }


def costs(draw: Draw) -> RoundCosts:
    return RoundCosts(
        prefill_base=100 * US,
        prefill_token=10 * US,
        decode_base=1000 * US,
        decode_request=10 * US,
        decode_context=one_of(draw, 0, 1, 7) * US,
        decode_rank=one_of(draw, 0, 1) * US,
        load_base=50 * US,
        load_byte=one_of(draw, 1, 20) * US,
        floor=one_of(draw, 0, 1100, 2000) * US,
    )


def requests(draw: Draw, adapters: int) -> list[tuple[int, int, int, int | None]]:
    gaps = st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 3000), st.integers(0, 20_000))
    outputs = st.one_of(st.sampled_from([1, 2]), st.integers(1, 40), st.integers(1, 150))
    which = st.sampled_from([None, *range(adapters), *range(adapters)])
    length = draw(st.integers(1, 25))
    rows = draw(st.lists(st.tuples(gaps, st.integers(1, 60), outputs, which), min_size=length, max_size=length))
    made, now = [], 0
    for gap, prompt, output, adapter in rows:
        now += gap * US
        made.append((now, prompt, output, adapter))
    return made


@st.composite
def worlds(draw: Draw, scheduler: str) -> World:
    sizes = st.tuples(st.sampled_from([8, 16, 32]), st.sampled_from([20, 50, 120, 300]))
    adapters = draw(st.lists(sizes, min_size=1, max_size=6))
    total = one_of(draw, 400, 700, 1500, 5000)
    kv_limit, adapter_limit = layout(draw, total)
    return World(
        requests(draw, len(adapters)),
        adapters,
        total_bytes=total,
        kv_limit_bytes=kv_limit,
        adapter_limit_bytes=adapter_limit,
        admit_every_steps=one_of(draw, 0, 1, 3, 10),
        batch_prompt_tokens=one_of(draw, 60, 200, 10_000),
        running_requests=one_of(draw, 1, 2, 5, 1000),
        distinct_adapters=one_of(draw, 1, 2, 1000),
        blocks_on_load=one_of(draw, True, False),
        idle_poll_ticks=one_of(draw, 0, 0, 1000 * US),
        costs=costs(draw),
        scheduler=SCHEDULERS[scheduler](draw),
        cache=CACHES[one_of(draw, *CACHES)](draw),
        prefetch=PREFETCHES[one_of(draw, *PREFETCHES)](draw),
        predicted=predictions(one_of(draw, (1.0,), (0.0, 1.0, 2.0))),
        ttft_slo_s=one_of(draw, 0.01, 1.0),
        host=one_of(draw, None, None, HostMemory(150), HostMemory(400, starts_warm=False)),
        max_concurrency=one_of(draw, None, None, None, 1, 2, 5),
        mechanism=mechanism(draw),
    )


def predictions(factors: tuple[float, ...]) -> Callable[[int, int], int]:
    return lambda i, output: max(1, int(output * factors[i % len(factors)]))


@st.composite
def crowded_worlds(draw: Draw, scheduler: str) -> World:
    """Adapters, not KV, run short and some requests outlive their prediction: some pass others, some must yield."""
    world = draw(worlds(scheduler))
    sizes = draw(st.lists(st.integers(250, 600), min_size=2, max_size=4))
    brief = [(when // 8, prompt, output, i) for when, prompt, output, i in requests(draw, len(sizes))]
    return replace(
        world,
        requests=brief,
        adapters=[(8, size) for size in sizes],
        total_bytes=1000,
        kv_limit_bytes=one_of(draw, None, 500),
        adapter_limit_bytes=None,
        batch_prompt_tokens=10_000,
        running_requests=1000,
        distinct_adapters=1000,
        predicted=predictions(one_of(draw, (0.0,), (0.0, 3.0))),
    )


# --- what must be equal ---


def rows(table: Table, without: tuple[str, ...] = ()) -> dict[str, list[int]]:
    return {column: table[column].tolist() for column in table.columns if column not in without}


def gaps(records: Records) -> Counter[int]:
    """Return how many requests waited how many ticks for a token, one segment's steps told one by one."""
    told: Counter[int] = Counter()
    for gap, weight in zip(*rows(records.gaps).values(), strict=True):
        told[gap] += weight
    for _, first, growth, count, batch, _ in zip(*rows(records.segments).values(), strict=True):
        for step in range(1, count):
            told[first + growth * step] += batch
    return told


def memory(records: Records) -> dict[int, tuple[int, ...]]:
    return {time: rest for time, *rest in zip(*rows(records.memory).values(), strict=True)}  # type: ignore[misc]


def told(core: Core, records: Records) -> dict[str, Any]:
    return {
        "requests": rows(records.requests, without=("first_segment", "last_segment")),
        "gaps": gaps(records),
        "prefills": rows(records.prefills),
        "transfers": rows(records.transfers),
        "evictions": rows(records.evictions),
        "stalls": rows(records.stalls),
        "input waits": rows(records.input_waits),
        "memory": memory(records),
        "mixed": rows(records.mixed),
        "pauses": rows(records.pauses),
        "swaps": rows(records.swaps),
        "reads": rows(records.reads),
        "rejections": records.rejections,
        "useful prefetches": records.useful_prefetches,
        "forced evictions": records.forced_evictions,
        "end": records.end,
        "steps": core.step,
        "divisions": getattr(core._scheduler, "divisions", ()),
    }


def check_laws(core: Core) -> None:
    core.check()
    if isinstance(core._scheduler, LaneScheduler):
        core._scheduler.check()


def both(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    fast = play(replace(world, asks_every_step=False), check_laws)
    slow = play(replace(world, asks_every_step=True), None)
    assert len(fast[1].segments) <= len(slow[1].segments)
    return told(*fast), told(*slow)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_one_step_at_a_time_gives_the_same_in_random_worlds(scheduler: str, data: st.DataObject) -> None:
    fast, slow = both(data.draw(st.one_of(worlds(scheduler), crowded_worlds(scheduler))))
    for what in slow:
        assert fast[what] == slow[what], what


class OffersToAll(SkipAdapters):
    """Asks for every line until the round ends, whether the batch has its adapter or not."""

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        self._lines.offer(batch, skips=Refusal.ADAPTERS, turn=lambda _: Turn.OFFER)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_lines_that_a_full_batch_cannot_take_may_be_left_out(data: st.DataObject) -> None:
    world = replace(data.draw(worlds("skip")), distinct_adapters=data.draw(st.integers(1, 3)))
    assert told(*play(world, None)) == told(*play(replace(world, scheduler=OffersToAll), None))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_real_time_driver_with_modelled_time_gives_the_same_in_random_worlds(data: st.DataObject) -> None:
    scheduler = data.draw(st.sampled_from(sorted(SCHEDULERS)))
    world = replace(data.draw(st.one_of(worlds(scheduler), crowded_worlds(scheduler))), asks_every_step=True)
    simulated, replayed = told(*play(world)), told(*replay(world))
    for what in simulated:
        assert simulated[what] == replayed[what], what


def test_random_worlds_reach_every_built_in_policy() -> None:
    assert SCHEDULERS.keys() == BUILTIN["scheduler"].keys()
    assert CACHES.keys() == BUILTIN["cache"].keys()
    assert PREFETCHES.keys() == BUILTIN["prefetch"].keys()


# --- fixed worlds for what random ones meet now and then ---

COSTS = RoundCosts(100 * US, 10 * US, 1000 * US, 10 * US, US, 0, 50 * US, US)
# The adapter of 1 finds no room beside 0; 2 passes, outlives its prediction, and must give way when 0 has gone.
BLOCKED = World(
    [(0, 150, 250, None), (1 * US, 20, 60, 0), (2 * US, 100, 300, None)],
    [(8, 700)],
    total_bytes=1000,
    costs=COSTS,
    scheduler=partial(MultiQueue, first_refresh=1000),
    predicted=lambda i, output: (50, 60, 2)[i],
)


def test_a_bypass_and_a_squash_come_at_the_same_instants() -> None:
    fast, slow = both(BLOCKED)
    assert fast["requests"]["bypassed"] == [0, 1, 0]
    assert fast["requests"]["preemptions"] == [0, 0, 1]
    assert fast == slow


def test_lanes_are_redrawn_at_the_same_instants() -> None:
    scheduler = partial(MultiQueue, first_refresh=5, refresh_s=0.01)
    rows = [(i * 1500 * US, 1 + i * 7 % 60, 1 + i * 11 % 50, i % 3) for i in range(40)]
    world = World(rows, [(8, 20), (16, 50), (32, 120)], total_bytes=700, costs=COSTS, scheduler=scheduler)
    fast, slow = both(world)
    assert len(fast["divisions"]) > 5
    assert len({lanes.cuts for lanes in fast["divisions"]}) > 5
    assert fast == slow


def test_prefetched_adapters_are_forced_out_by_growing_requests_at_the_same_instants() -> None:
    # Two requests grow into the memory that was free when the adapter of the third was prefetched.
    rows = [(0, 40, 150, None), (0, 40, 150, None), (US, 40, 150, 0)]
    world = World(rows, [(8, 150)], total_bytes=400, admit_every_steps=10, costs=COSTS, prefetch=partial(SLoRAPrefetch))
    fast, slow = both(world)
    assert fast["forced evictions"] == 1
    assert fast["evictions"]["adapter"] == [0]
    assert fast == slow


def test_a_long_run_of_decode_steps_is_skipped_at_once() -> None:
    _, records = play(World([(0, 10, 1000, None)]))
    assert records.segments["count"].tolist() == [999]


# --- packaged systems with real costs ---


DISK = ("loading.request_input_bytes=2000", "adapters.host_adapters=5")


@pytest.mark.parametrize("pool", [(), ("memory.kv_pool_tokens=6000",), DISK], ids=["default", "6000", "disk"])
@pytest.mark.parametrize("system", packaged_names())
def test_packaged_systems_give_the_same_results_one_step_at_a_time(system: str, pool: tuple[str, ...]) -> None:
    workload = {"preset": "paper", "requests": 200, "rate_per_s": 12.0, "adapters": 40 if pool is DISK else 100}
    loaded = load_config(system, pool, {"workload": workload, "seed": 3})
    fast, slow = execute(loaded), execute(loaded, asks_every_step=True)
    assert_frame_equal(fast.requests, slow.requests, check_exact=True)
    assert fast.summary == slow.summary
