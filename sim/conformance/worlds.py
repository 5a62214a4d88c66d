"""Tiny worlds: a cost model of round numbers, a few adapters, a few requests, played by the real core and driver.

They are what `chameleon policies check` plays a policy through, and what the tests lay out by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import simpy

from policies.base import Adapter, Cache, Facts, Prefetch, Request, Router, Scheduler
from policies.eviction import LRU
from policies.prefetch import NoPrefetch
from policies.scheduling import FCFS
from sim.core import Core
from sim.engine import Replica, simulate
from sim.facts import decode_s, prefill_s
from sim.fleet import Fleet
from sim.serving.job import Job
from sim.serving.link import Link
from sim.serving.memory import HostMemory, MemoryLimits
from sim.serving.options import UNLIMITED, EngineOptions
from sim.serving.records import Records
from sim.serving.shape import Load, StepCost
from sim.serving.ticks import to_seconds


@dataclass(frozen=True)
class RoundCosts:
    """Ticks that are easy to add up: per prompt token, per decode step and context token, per adapter byte."""

    prefill_base: int = 100
    prefill_token: int = 10
    decode_base: int = 1000
    decode_request: int = 10
    decode_context: int = 1
    decode_rank: int = 0
    load_base: int = 50
    load_byte: int = 1
    floor: int = 0  # a decode step never lasts less

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
        """Return the ticks of a prefill iteration; only its tokens count."""
        del requests, squared_tokens, token_rank, distinct, distinct_rank, max_rank
        return self.prefill_base + self.prefill_token * tokens

    def decode(
        self, requests: int, context_tokens: int, sum_rank: int, distinct: int, distinct_rank: int, max_rank: int
    ) -> StepCost:
        """Return the ticks of a decode step and of those after it."""
        del sum_rank, distinct, max_rank
        first = self.decode_base + self.decode_request * requests + self.decode_rank * distinct_rank
        first += self.decode_context * context_tokens
        growth = self.decode_context * requests
        if first >= self.floor:
            return StepCost(first, growth, None)
        return StepCost(self.floor, 0, (self.floor - first) // growth + 1 if growth else None)

    def mixed(
        self, requests: int, context_tokens: int, prompts: int, tokens: int, squared_tokens: int, load: Load
    ) -> int:
        """Return the ticks of a decode step with prompt tokens beside it."""
        del prompts, squared_tokens
        return self.decode(requests, context_tokens, *load).first + self.prefill_token * tokens

    def load(self, size_bytes: int) -> int:
        """Return the ticks for which an adapter keeps the link busy."""
        return self.load_base + self.load_byte * size_bytes

    def read(self, size_bytes: int) -> int:
        """Return the ticks for which an adapter keeps the disk busy."""
        return self.load(size_bytes)

    def swap(self, size_bytes: int) -> int:
        """Return the ticks of moving KV between GPU and host."""
        return self.load_byte * size_bytes


@dataclass
class World:
    """What `play` runs. Requests are (arrival ticks, prompt, output, adapter index or None), in order of arrival."""

    requests: Sequence[tuple[int, int, int, int | None]]
    adapters: Sequence[tuple[int, int]] = ()  # (rank, bytes)
    total_bytes: int = 10_000
    kv_limit_bytes: int | None = None
    adapter_limit_bytes: int | None = None
    kv_token_bytes: int = 1
    admit_every_steps: int = 1
    batch_prompt_tokens: int = 1_000_000
    running_requests: int = 1_000
    distinct_adapters: int = 1_000
    blocks_on_load: bool = True
    asks_every_step: bool = False
    idle_poll_ticks: int = 0
    costs: RoundCosts = field(default_factory=RoundCosts)
    scheduler: Callable[[], Scheduler] = FCFS
    cache: Callable[[], Cache] = LRU
    prefetch: Callable[[], Prefetch] = NoPrefetch
    predicted: Callable[[int, int], int] = lambda _, output: output  # from a request's id and true output
    ttft_slo_s: float = 5.0
    slot_bytes: int | None = None
    host: HostMemory | None = None
    max_concurrency: int | None = None
    mechanism: Mapping[str, Any] = field(default_factory=dict)  # further `EngineOptions`


def core_of(world: World, link: Link, records: Records, adapters: Sequence[Adapter] | None = None) -> Core:
    """Return the core of a world, its policies fresh and started; replicas of one world are given the same adapters."""
    adapters = adapters_of(world) if adapters is None else adapters
    limits = MemoryLimits(
        world.total_bytes,
        world.total_bytes if world.kv_limit_bytes is None else world.kv_limit_bytes,
        world.total_bytes if world.adapter_limit_bytes is None else world.adapter_limit_bytes,
        world.kv_token_bytes,
        slot_bytes=world.slot_bytes,
        host=world.host,
    )
    options = EngineOptions(
        admit_every_steps=world.admit_every_steps,
        batch_prompt_tokens=world.batch_prompt_tokens,
        running_requests=world.running_requests,
        distinct_adapters=world.distinct_adapters,
        blocks_on_load=world.blocks_on_load,
        asks_every_step=world.asks_every_step,
        **world.mechanism,
    )
    scheduler, cache, prefetch = world.scheduler(), world.cache(), world.prefetch()
    facts = facts_of(world, adapters)
    for policy in (scheduler, cache, prefetch):
        policy.start(facts)
    return Core(
        options,
        limits,
        world.costs,
        adapters,
        scheduler=scheduler,
        cache=cache,
        prefetch=prefetch,
        link=link,
        records=records,
    )


def adapters_of(world: World) -> list[Adapter]:
    """Return a world's adapters, named a0, a1, ..."""
    return [Adapter(f"a{i}", rank, size) for i, (rank, size) in enumerate(world.adapters)]


def jobs_of(world: World, core: Core) -> list[Job]:
    """Return a world's requests."""
    made = []
    for id_, (arrival, prompt, output, index) in enumerate(world.requests):
        slot = None if index is None else core.adapters.palette[index]
        adapter = None if slot is None else slot.adapter
        predicted = world.predicted(id_, output)
        request = Request(id_, to_seconds(arrival), prompt, predicted, adapter)
        reserved = predicted if world.mechanism.get("reserve") == "predicted" else output
        made.append(Job(request, arrival, output, reserved, slot))
    return made


def play(world: World, boundary: Callable[[Core], None] | None = Core.check) -> tuple[Core, Records]:
    """Run a world to its end under SimPy, the laws checked at every step boundary."""
    records = Records()
    env = simpy.Environment()
    replica = Replica(
        env,
        lambda link: core_of(world, link, records),
        records,
        idle_poll_ticks=world.idle_poll_ticks,
        boundary=boundary,
    )
    jobs = jobs_of(world, replica.core)
    simulate(env, [replica], jobs, lambda _: replica, max_concurrency=world.max_concurrency)
    return replica.core, records


def play_routed(
    world: World, router: Router, replicas: int, boundary: Callable[[Core], None] | None = Core.check
) -> tuple[Records, ...]:
    """Run a world's requests through several replicas of it; the router is started first."""
    adapters = adapters_of(world)
    router.start(facts_of(world, adapters))
    fleet = Fleet(
        [lambda link, records: core_of(world, link, records, adapters)] * replicas,
        router,
        idle_poll_ticks=world.idle_poll_ticks,
        boundary=boundary,
    )
    fleet.serve(jobs_of(world, fleet.cores[0]))
    return fleet.records


def facts_of(world: World, adapters: Sequence[Adapter]) -> Facts:
    """Return what the policies of a world know before its first request."""
    costs = world.costs
    kv_limit_bytes = world.total_bytes if world.kv_limit_bytes is None else world.kv_limit_bytes
    is_cut = world.mechanism.get("prefill") == "chunked"
    return Facts(
        kv_token_bytes=world.kv_token_bytes,
        kv_tokens=kv_limit_bytes // world.kv_token_bytes,
        memory_tokens=world.total_bytes // world.kv_token_bytes,
        admit_every_steps=world.admit_every_steps,
        batch_prompt_tokens=world.mechanism.get("step_tokens", UNLIMITED) if is_cut else world.batch_prompt_tokens,
        max_prompt_tokens=max((row[1] for row in world.requests), default=1),
        max_output_tokens=max((row[2] for row in world.requests), default=1),
        max_adapter_bytes=max((size for _, size in world.adapters), default=1),
        ttft_slo_s=world.ttft_slo_s,
        load_s=lambda adapter: to_seconds(costs.load(adapter.size_bytes)),
        running_requests=world.running_requests,
        distinct_adapters=world.distinct_adapters,
        adapters=tuple(adapters),
        prefill_s=partial(prefill_s, costs),
        decode_s=partial(decode_s, costs),
        future=lambda: ((to_seconds(row[0]), None if row[3] is None else adapters[row[3]]) for row in world.requests),
    )
