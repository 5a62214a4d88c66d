"""What policies are told of a deployment's costs and of its workload's future, as functions of plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Never

from policies.base import Adapter
from sim.serving.shape import Costs
from sim.serving.ticks import to_seconds, to_ticks
from sim.trace import Trace


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
