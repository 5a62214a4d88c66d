"""Tiny worlds built by hand: a cost model of round numbers, a few adapters, a few requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import simpy

from gpu_validate.modelled import ModelledDevice
from gpu_validate.replay import Replay
from policies.base import Adapter, Cache, Facts, Prefetch, Request, Scheduler
from policies.eviction import LRU
from policies.prefetch import NoPrefetch
from policies.scheduling import FCFS
from sim.core import Core
from sim.engine import Replica, simulate
from sim.job import Job
from sim.link import Link
from sim.memory import MemoryLimits
from sim.options import EngineOptions
from sim.records import Records
from sim.shape import StepCost
from sim.ticks import to_seconds, to_ticks


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
        del requests, squared_tokens, token_rank, distinct, distinct_rank, max_rank
        return self.prefill_base + self.prefill_token * tokens

    def decode(
        self, requests: int, context_tokens: int, sum_rank: int, distinct: int, distinct_rank: int, max_rank: int
    ) -> StepCost:
        del sum_rank, distinct, max_rank
        first = self.decode_base + self.decode_request * requests + self.decode_rank * distinct_rank
        first += self.decode_context * context_tokens
        growth = self.decode_context * requests
        if first >= self.floor:
            return StepCost(first, growth, None)
        return StepCost(self.floor, 0, (self.floor - first) // growth + 1 if growth else None)

    def load(self, size_bytes: int) -> int:
        return self.load_base + self.load_byte * size_bytes


@dataclass
class World:
    """What `play` runs. Requests are (arrival ticks, prompt, output, adapter index or None[, predicted])."""

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
    predicted: Callable[[int, int], int] = lambda _, output: output
    ttft_slo_s: float = 5.0


def core_of(world: World, link: Link, records: Records) -> Core:
    """Return the core of a world, its policies fresh and started."""
    adapters = [Adapter(f"a{i}", rank, size) for i, (rank, size) in enumerate(world.adapters)]
    limits = MemoryLimits(
        world.total_bytes,
        world.total_bytes if world.kv_limit_bytes is None else world.kv_limit_bytes,
        world.total_bytes if world.adapter_limit_bytes is None else world.adapter_limit_bytes,
        world.kv_token_bytes,
    )
    options = EngineOptions(
        admit_every_steps=world.admit_every_steps,
        batch_prompt_tokens=world.batch_prompt_tokens,
        running_requests=world.running_requests,
        distinct_adapters=world.distinct_adapters,
        blocks_on_load=world.blocks_on_load,
        asks_every_step=world.asks_every_step,
    )
    scheduler, cache, prefetch = world.scheduler(), world.cache(), world.prefetch()
    for policy in (scheduler, cache, prefetch):
        policy.start(_facts(world, limits))
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


def jobs_of(world: World, core: Core) -> list[Job]:
    """Return a world's requests."""
    made = []
    for id_, (arrival, prompt, output, index) in enumerate(world.requests):
        slot = None if index is None else core.adapters.palette[index]
        adapter = None if slot is None else slot.adapter
        request = Request(id_, to_seconds(arrival), prompt, world.predicted(id_, output), adapter)
        made.append(Job(request, arrival, output, output, slot))
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
    simulate(env, [replica], jobs_of(world, replica.core), lambda _: replica)
    return replica.core, records


def replay(world: World) -> tuple[Core, Records]:
    """Run a world to its end with the real-time driver on a device that takes exactly the modelled time."""
    records = Records()
    device = ModelledDevice()
    core = core_of(world, device, records)
    Replay(core, device, jobs_of(world, core), records, idle_poll_ticks=world.idle_poll_ticks).run()
    return core, records


def _facts(world: World, limits: MemoryLimits) -> Facts:
    return Facts(
        kv_token_bytes=world.kv_token_bytes,
        kv_tokens=limits.kv_limit_bytes // world.kv_token_bytes,
        memory_tokens=limits.total_bytes // world.kv_token_bytes,
        admit_every_steps=world.admit_every_steps,
        batch_prompt_tokens=world.batch_prompt_tokens,
        max_prompt_tokens=max((row[1] for row in world.requests), default=1),
        max_output_tokens=max((row[2] for row in world.requests), default=1),
        max_adapter_bytes=max((size for _, size in world.adapters), default=1),
        ttft_slo_s=world.ttft_slo_s,
        load_s=lambda adapter: to_seconds(world.costs.load(adapter.size_bytes)),
    )


__all__ = ["RoundCosts", "World", "play", "replay", "to_ticks"]
