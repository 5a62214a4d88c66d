"""What policies are told of a deployment before its first request: limits, costs, and the workload's future."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Never

from policies.base import Adapter, Facts
from sim.serving.memory import MemoryLimits
from sim.serving.options import EngineOptions
from sim.serving.shape import Costs
from sim.serving.ticks import to_seconds, to_ticks
from sim.trace import Trace

if TYPE_CHECKING:
    from sim.config import RunConfig


def prefill_s(costs: Costs, tokens: int, rank: int) -> float:
    """Return seconds of a prefill iteration over one prompt, for an adapter of this rank (0: the base model)."""
    return to_seconds(costs.prefill(1, tokens, tokens * tokens, tokens * rank, int(rank > 0), rank, rank))


def decode_s(costs: Costs, batch: Sequence[Adapter | None]) -> float:
    """Return seconds of one decode step over a batch, KV reads left out; 0 for an empty batch."""
    if not batch:
        return 0.0
    ranks = [adapter.rank for adapter in batch if adapter is not None]
    distinct = [adapter.rank for adapter in set(batch) if adapter is not None]
    cost = costs.decode(len(batch), 0, sum(ranks), len(distinct), sum(distinct), max(ranks, default=0))
    return to_seconds(cost.first)


def future(trace: Trace, adapters: Sequence[Adapter | None]) -> Iterator[tuple[float, Adapter | None]]:
    """Yield when each request of a trace arrives, as it will be told in `Request.arrival_s`, and its adapter."""
    for at_s, index in zip(trace.arrival_s.tolist(), trace.adapter.tolist(), strict=True):
        yield to_seconds(to_ticks(at_s)), adapters[index]


class UntoldFutureError(LookupError):
    """A policy has asked for a future that nobody knows."""


def untold_future() -> Never:
    """Refuse to tell the future.

    Raises:
        UntoldFutureError: always.
    """
    msg = "with several replicas or in a closed loop nobody knows when which request reaches which engine"
    raise UntoldFutureError(msg)


def facts_of(
    config: RunConfig,
    limits: MemoryLimits,
    options: EngineOptions,
    trace: Trace,
    adapters: tuple[Adapter | None, ...],
    costs: Costs,
) -> Facts:
    """Return what every policy of a deployment is given by `start`.

    Args:
        config: what was asked for.
        limits: bytes for KV and adapters.
        options: of the engine.
        trace: the workload.
        adapters: by palette index; None is the base model.
        costs: seconds of what the engine does.
    """
    return Facts(
        kv_token_bytes=limits.kv_token_bytes,
        kv_tokens=limits.kv_limit_bytes // limits.kv_token_bytes,
        memory_tokens=limits.total_bytes // limits.kv_token_bytes,
        admit_every_steps=options.admit_every_steps,
        batch_prompt_tokens=options.step_tokens if options.prefill == "chunked" else options.batch_prompt_tokens,
        max_prompt_tokens=int(trace.prompt_tokens.max(initial=1)),
        max_output_tokens=int(trace.output_tokens.max(initial=1)),
        max_adapter_bytes=max((adapter.size_bytes for adapter in adapters if adapter is not None), default=1),
        ttft_slo_s=config.ttft_slo_s,
        load_s=lambda adapter: to_seconds(costs.load(adapter.size_bytes)),
        running_requests=options.running_requests,
        distinct_adapters=options.distinct_adapters,
        adapters=tuple(adapter for adapter in adapters if adapter is not None),
        prefill_s=partial(prefill_s, costs),
        decode_s=partial(decode_s, costs),
        future=partial(future, trace, adapters) if _knows_the_order(config) else untold_future,
    )


def _knows_the_order(config: RunConfig) -> bool:
    return config.replicas == 1 and config.client.max_concurrency is None
