"""From a configuration to a running engine: sizes, costs, policies and requests, put together once per run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import simpy

from policies.base import Adapter, Cache, Facts, IntArray, Prefetch, Request, Scheduler
from sim.config import Loaded, RunConfig
from sim.core import Core
from sim.costs import CostModel
from sim.engine import Replica, simulate
from sim.hardware import Hardware, load_hardware
from sim.job import AdapterSlot, Job
from sim.link import Link
from sim.memory import MemoryLimits
from sim.models import Model, load_model
from sim.options import EngineOptions
from sim.plugins import resolve
from sim.records import Records
from sim.ticks import TICKS_PER_S, to_seconds, to_ticks
from sim.trace import Trace
from sim.workload import make_trace, streams
from sim.yamlfile import ConfigError

UNLIMITED = 1 << 62
LONGEST_SPAN_S = 4e6  # int64 picoseconds end at 9.2e6 s, and queues need time to empty
ROWS_AT_ONCE = 4096  # a million requests as Python ints would take as much memory as all records
# S-LoRA's max_req_total_len; its batch_max_tokens is max(pool / 6, this), so that all it accepts can be prefilled.
LONGEST_REQUEST_TOKENS = 3072


class Policies(NamedTuple):
    """One fresh instance per seam; a run never shares them with another."""

    scheduler: Scheduler
    cache: Cache
    prefetch: Prefetch


@dataclass(frozen=True)
class Deployment:
    """Everything that is fixed before the first request arrives."""

    config: RunConfig
    hardware: Hardware
    model: Model
    costs: CostModel
    limits: MemoryLimits
    options: EngineOptions
    trace: Trace
    adapters: tuple[Adapter | None, ...]
    predicted_tokens: IntArray
    policies: Policies

    def core(self, link: Link, records: Records) -> Core:
        """Return the state machine of one engine around its link."""
        return Core(
            self.options,
            self.limits,
            self.costs,
            self.adapters,
            scheduler=self.policies.scheduler,
            cache=self.policies.cache,
            prefetch=self.policies.prefetch,
            link=link,
            records=records,
        )


def deploy(loaded: Loaded, trace: Trace | None = None, *, asks_every_step: bool = False) -> Deployment:
    """Put a run together.

    Args:
        loaded: the configuration and its marks.
        trace: the workload; None draws the configured one.
        asks_every_step: simulate one decode step at a time, as the oracle of the fast path.

    Raises:
        ConfigError: if a policy or a size in the configuration is wrong.
        ValueError: if the hardware, the model or the trace is.
    """
    config = loaded.config
    hardware, model = load_hardware(config.hardware), load_model(config.model)
    trace = make_trace(config.workload, config.seed) if trace is None else trace
    _check_span(trace)
    costs = CostModel(
        hardware,
        model,
        config.costs,
        modules=config.adapters.modules,
        copies=config.loading.copies,
        ops_per_adapter=config.loading.ops_per_layer * model.layers,
    )
    limits = memory_limits(config, hardware, model)
    options = _options(config, trace, limits, asks_every_step=asks_every_step)
    modules = config.adapters.modules
    adapters = tuple(
        None if spec is None else Adapter(spec.id, spec.rank, model.adapter_bytes(spec.rank, modules))
        for spec in trace.palette
    )
    facts = _facts(config, limits, options, trace, adapters, costs)
    predictor = resolve(config.predictor, "predictor", marks=loaded.marks)
    predictor.start(facts)
    uniform = streams(config.seed)["prediction"].random(len(trace))
    predicted = predictor.predict(trace.prompt_tokens, trace.output_tokens, uniform)
    policies = Policies(
        resolve(config.scheduler, "scheduler", marks=loaded.marks),
        resolve(config.cache, "cache", marks=loaded.marks),
        resolve(config.prefetch, "prefetch", marks=loaded.marks),
    )
    for policy in policies:
        policy.start(facts)
    return Deployment(config, hardware, model, costs, limits, options, trace, adapters, predicted, policies)


def play(deployment: Deployment) -> Records:
    """Simulate a deployment to its end; its policies are used up by that."""
    records = Records()
    env = simpy.Environment()
    replica = Replica(
        env,
        lambda link: deployment.core(link, records),
        records,
        idle_poll_ticks=to_ticks(deployment.config.admission.idle_poll_s),
    )
    simulate(env, [replica], jobs(deployment, replica.core.adapters.palette), lambda _: replica)
    return records


def jobs(deployment: Deployment, palette: list[AdapterSlot | None]) -> Iterator[Job]:
    """Yield the requests of the trace in order of arrival, each made when it is drawn."""
    for request_id, (arrival, prompt, output, predicted, index) in enumerate(_rows(deployment)):
        slot = palette[index]
        adapter = None if slot is None else slot.adapter
        yield Job(Request(request_id, to_seconds(arrival), prompt, predicted, adapter), arrival, output, output, slot)


def _rows(deployment: Deployment) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield arrival tick, prompt, output and predicted tokens, palette index; plain ints, made a few rows at a time."""
    trace = deployment.trace
    arrivals = (trace.arrival_s * TICKS_PER_S).round().astype(int)
    columns = (arrivals, trace.prompt_tokens, trace.output_tokens, deployment.predicted_tokens, trace.adapter)
    for start in range(0, len(trace), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield from zip(*(column[rows].tolist() for column in columns), strict=True)


def memory_limits(config: RunConfig, hardware: Hardware, model: Model) -> MemoryLimits:
    """Return how many bytes KV and adapters get, together and each.

    Raises:
        ConfigError: if the card is too small for what is asked.
    """
    token = model.kv_token_bytes
    reserve = hardware.reserve_bytes if config.memory.reserve_bytes is None else config.memory.reserve_bytes
    card = hardware.memory_bytes - model.weight_bytes - reserve
    if card < token:
        msg = f"model: {config.model} does not fit {config.hardware}: {-card} bytes too many with {reserve} in reserve"
        raise ConfigError([msg])
    asked = config.memory.kv_pool_tokens
    pool = card if asked is None else asked * token
    if not 0 < pool <= card:
        msg = (
            f"memory.kv_pool_tokens: {asked} tokens of {token} bytes do not fit; {config.model} leaves "
            f"{max(card, 0) // token} tokens on {config.hardware} beside {reserve} reserved bytes"
        )
        raise ConfigError([msg])
    if config.adapters.memory == "unified":
        return MemoryLimits(pool, pool, pool, token)
    if config.adapters.memory == "idle":
        return MemoryLimits(card, pool, card, token)
    return _reserved(config, card, asked, token)


def _check_span(trace: Trace) -> None:
    span_s = float(trace.arrival_s.max(initial=0.0))
    if span_s > LONGEST_SPAN_S:
        msg = (
            f"workload: {len(trace)} requests arrive over {span_s:.3g} s; at most {LONGEST_SPAN_S:.3g} s can be "
            "simulated in picoseconds - ask for fewer requests or a higher rate"
        )
        raise ConfigError([msg])


def _reserved(config: RunConfig, card: int, pool_tokens: int | None, token: int) -> MemoryLimits:
    region = config.adapters.reserved_bytes
    if region is None or not 0 < region < card:
        msg = f"adapters.reserved_bytes: memory: reserved needs a size below {card} bytes, got {region}"
        raise ConfigError([msg])
    kv = card - region if pool_tokens is None else min(card - region, pool_tokens * token)
    return MemoryLimits(kv + region, kv, region, token)


def _options(config: RunConfig, trace: Trace, limits: MemoryLimits, *, asks_every_step: bool) -> EngineOptions:
    longest_prompt = int(trace.prompt_tokens.max(initial=1))
    pool_tokens = limits.kv_limit_bytes // limits.kv_token_bytes
    return EngineOptions(
        admit_every_steps=config.admission.every_steps,
        batch_prompt_tokens=config.limits.batch_prompt_tokens
        or max(pool_tokens // 6, LONGEST_REQUEST_TOKENS, longest_prompt),
        running_requests=config.limits.running_requests,
        distinct_adapters=config.limits.distinct_adapters or UNLIMITED,
        blocks_on_load=config.loading.mode == "blocking",
        asks_every_step=asks_every_step,
    )


def _facts(
    config: RunConfig,
    limits: MemoryLimits,
    options: EngineOptions,
    trace: Trace,
    adapters: tuple[Adapter | None, ...],
    costs: CostModel,
) -> Facts:
    return Facts(
        kv_token_bytes=limits.kv_token_bytes,
        kv_tokens=limits.kv_limit_bytes // limits.kv_token_bytes,
        memory_tokens=limits.total_bytes // limits.kv_token_bytes,
        admit_every_steps=options.admit_every_steps,
        batch_prompt_tokens=options.batch_prompt_tokens,
        max_prompt_tokens=int(trace.prompt_tokens.max(initial=1)),
        max_output_tokens=int(trace.output_tokens.max(initial=1)),
        max_adapter_bytes=max((adapter.size_bytes for adapter in adapters if adapter is not None), default=1),
        ttft_slo_s=config.ttft_slo_s,
        load_s=lambda adapter: to_seconds(costs.load(adapter.size_bytes)),
    )


def check_config(loaded: Loaded) -> None:
    """Build every part that a configuration names, without drawing its workload.

    Raises:
        ConfigError: if a policy or a size in the configuration is wrong.
        ValueError: if the hardware or the model is.
    """
    config = loaded.config
    memory_limits(config, load_hardware(config.hardware), load_model(config.model))
    for seam in ("scheduler", "cache", "prefetch", "predictor"):
        resolve(getattr(config, seam), seam, marks=loaded.marks)
