"""Worlds drawn at random to bring a policy into trouble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from policies.base import Policy
from policies.eviction import LRU, DropAfterUse
from policies.prefetch import NoPrefetch, Queued, SLoRAPrefetch
from policies.scheduling import FCFS, SJF
from sim.conformance.smaller import MICROSECOND
from sim.conformance.worlds import RoundCosts, World
from sim.serving.ticks import to_seconds

SPANS = (1, 100, 10_000)  # the same world in milliseconds, in seconds, in minutes: policies have constants of their own
GRAINS = (1, 1, 1, 10, 60)  # the same world with prompts of tens, hundreds and thousands of tokens
OTHERS: dict[str, tuple[Callable[[], Policy], ...]] = {
    "scheduler": (FCFS, FCFS, partial(SJF, ageing_s=0.02)),
    "cache": (LRU, LRU, DropAfterUse),
    "prefetch": (NoPrefetch, Queued, SLoRAPrefetch),
}

T = TypeVar("T")


class Queue(NamedTuple):
    """How requests come: at least so many, gaps and outputs below one of these, of the first so many adapters."""

    least: int
    gaps: tuple[int, ...]
    outputs: tuple[int, ...]
    adapters: int


# Where few adapters may run side by side, some that wait could take a seat that those before them cannot: whoever
# changes the order then, at a time that nobody was told of, is seen to.
STEADY = Queue(1, (1, 300, 3000, 20_000), (3, 41, 151), 1000)
LONG = Queue(8, (1, 300, 3000), (41, 151, 201), 2)
SEATS = (  # requests, and distinct adapters, that may run at once
    *((1, 1000), (2, 1000), (5, 1000), (1000, 1000), (1000, 1000)),
    *((1000, 1), (1000, 1), (1000, 2), (5, 3)),
)


@dataclass(frozen=True)
class Guess:
    """Predicts a request's output as its true length times a factor, the factors taken in turn by request id."""

    factors: tuple[float, ...] = (1.0,)

    def __call__(self, request_id: int, output: int) -> int:
        """Return predicted tokens, at least 1."""
        return max(1, int(output * self.factors[request_id % len(self.factors)]))


def draw(rng: np.random.Generator) -> World:
    """Return a world of up to 25 requests; every second one has too little room for its adapters."""
    unit = MICROSECOND * _one_of(rng, *SPANS)
    grain = _one_of(rng, *GRAINS)
    is_crowded = rng.random() < 0.5
    total = grain * (1000 if is_crowded else _one_of(rng, 400, 700, 1500, 5000))
    adapters = _adapters(rng, grain, is_crowded=is_crowded)
    others: dict[str, Any] = {seam: _one_of(rng, *makers) for seam, makers in OTHERS.items()}
    kv_limit, adapter_limit = _one_of(rng, (None, None), (total // 2, None), (total - total // 2, total // 2))
    running, distinct = _one_of(rng, *SEATS)
    queue = STEADY if distinct > len(adapters) else LONG
    return World(
        _requests(rng, queue, len(adapters), unit // 8 if is_crowded else unit, grain),
        adapters,
        total_bytes=total,
        kv_limit_bytes=kv_limit,
        adapter_limit_bytes=adapter_limit,
        admit_every_steps=_one_of(rng, 0, 1, 3, 10),
        batch_prompt_tokens=grain * _one_of(rng, 60, 200, 10_000),
        running_requests=running,
        distinct_adapters=distinct,
        blocks_on_load=rng.random() < 0.5,
        idle_poll_ticks=_one_of(rng, 0, 0, 1000 * unit),
        costs=_costs(rng, unit, grain),
        predicted=Guess(_one_of(rng, (1.0,), (0.0,), (0.0, 1.0, 3.0), (0.0, 1.0, 3.0))),
        ttft_slo_s=to_seconds(unit * _one_of(rng, 3000, 10_000, 30_000, 100_000, 300_000)),
        mechanism=_mechanism(rng, grain),
        **others,
    )


def _mechanism(rng: np.random.Generator, grain: int) -> dict[str, Any]:
    """Return the engine options of S-LoRA in every second world, else of vLLM, or of a server between the two."""
    kind = _one_of(rng, "slora", "slora", "vllm", "between")
    if kind == "slora":
        return {}
    stops = {"preempted": _one_of(rng, "recompute", "keep", "swap"), "block_tokens": _one_of(rng, 1, 4, 16)}
    if kind == "vllm":
        return {"reserve": "on_demand", "prefill": "chunked", "step_tokens": grain * _one_of(rng, 30, 100), **stops}
    return {"reserve": _one_of(rng, "whole", "predicted"), "prefill": _one_of(rng, "mixed", "separate"), **stops}


def _one_of(rng: np.random.Generator, *values: T) -> T:
    return values[int(rng.integers(len(values)))]


def _adapters(rng: np.random.Generator, grain: int, *, is_crowded: bool) -> list[tuple[int, int]]:
    if is_crowded:
        return [(8, grain * int(size)) for size in rng.integers(250, 601, rng.integers(2, 5))]
    sizes = (20, 50, 120, 300)
    return [(_one_of(rng, 8, 16, 32, 64, 128), grain * _one_of(rng, *sizes)) for _ in range(int(rng.integers(1, 13)))]


def _requests(
    rng: np.random.Generator, queue: Queue, adapters: int, unit: int, grain: int
) -> list[tuple[int, int, int, int | None]]:
    made, now = [], 0
    for _ in range(int(rng.integers(queue.least, 26))):
        now += int(rng.integers(_one_of(rng, *queue.gaps))) * unit
        output = int(rng.integers(1, _one_of(rng, *queue.outputs)))
        adapter = None if rng.random() < 0.2 else int(rng.integers(min(adapters, queue.adapters)))
        made.append((now, int(rng.integers(1, 60 * grain + 1)), output, adapter))
    return made


def _costs(rng: np.random.Generator, unit: int, grain: int) -> RoundCosts:
    token = unit // grain  # where prompts are longer, each of their tokens takes less
    return RoundCosts(
        prefill_base=100 * unit,
        prefill_token=10 * token,
        decode_base=1000 * unit,
        decode_request=10 * unit,
        decode_context=_one_of(rng, 0, 1, 7) * token,
        decode_rank=_one_of(rng, 0, 1) * unit,
        load_base=50 * unit,
        load_byte=_one_of(rng, 1, 20) * token,
        floor=_one_of(rng, 0, 1100, 2000) * unit,
    )
