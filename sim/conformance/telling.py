"""A world told in words: everything about it but the policy under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from policies.base import Policy
from sim.conformance.records import duration
from sim.conformance.worlds import RoundCosts, World
from sim.serving.ticks import to_ticks

BESIDE = ("scheduler", "cache", "prefetch")
LIMITS = ("admit_every_steps", "batch_prompt_tokens", "running_requests", "distinct_adapters")
PLAIN: dict[str, Any] = {
    one.name: getattr(World([]), one.name) for one in fields(World) if one.name not in {"requests", "costs"}
}


def tell(world: World, keep: str) -> list[str]:
    """Return lines that say everything about a world but the policy under test.

    Args:
        world: to tell.
        keep: its seam.
    """
    limits = [
        f"{name} at most {limit}"
        for name, limit in (("KV", world.kv_limit_bytes), ("adapters", world.adapter_limit_bytes))
        if limit is not None
    ]
    others = ", ".join(f"{seam} {_name(getattr(world, seam))}" for seam in BESIDE if seam != keep)
    engine = ", ".join(_options(world))
    return [
        ", ".join([f"memory {world.total_bytes} bytes, 1 a token", *limits]),
        *(f"adapter a{i}: rank {rank}, {size} bytes" for i, (rank, size) in enumerate(world.adapters)),
        *(_told(world, i) for i in range(len(world.requests))),
        f"beside it: {others}",
        *([f"engine: {engine}"] if engine else []),
        *_told_costs(world.costs),
    ]


def _told(world: World, request_id: int) -> str:
    arrival, prompt, output, adapter = world.requests[request_id]
    predicted = world.predicted(request_id, output)
    said = "" if predicted == output else f" ({predicted} predicted)"
    who = "the base model" if adapter is None else f"a{adapter}"
    return f"request {request_id} at {duration(arrival)}: {prompt} tokens in, {output} out{said}, {who}"


def _options(world: World) -> Iterator[str]:
    for name in LIMITS:
        value = getattr(world, name)
        if value != PLAIN[name]:
            yield f"{name} {value}"
    yield from (f"{name} {value}" for name, value in world.mechanism.items())
    if not world.blocks_on_load:
        yield "loads overlap with decoding"
    if world.idle_poll_ticks:
        yield f"looks for work every {duration(world.idle_poll_ticks)} while empty"
    if world.ttft_slo_s != PLAIN["ttft_slo_s"]:
        yield f"first tokens are due within {duration(to_ticks(world.ttft_slo_s))}"


def _told_costs(costs: RoundCosts) -> list[str]:
    decode = f"decode step {duration(costs.decode_base)} + {duration(costs.decode_request)} a request"
    rank = f" + {duration(costs.decode_rank)} a rank of its adapters" if costs.decode_rank else ""
    floor = f", at least {duration(costs.floor)}" if costs.floor else ""
    return [
        f"prefill {duration(costs.prefill_base)} + {duration(costs.prefill_token)} a token",
        f"{decode} + {duration(costs.decode_context)} a context token{rank}{floor}",
        f"load {duration(costs.load_base)} + {duration(costs.load_byte)} a byte",
    ]


def _name(make: Callable[[], Policy]) -> str:
    return make().name
