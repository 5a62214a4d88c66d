"""Worlds drawn at random to bring a policy into trouble, made smaller while the trouble lasts, and told in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from policies.base import Policy
from policies.eviction import LRU, DropAfterUse
from policies.prefetch import NoPrefetch, Queued, SLoRAPrefetch
from policies.scheduling import FCFS, SJF
from sim.conformance.records import duration
from sim.conformance.worlds import RoundCosts, World

MICROSECOND = 10**6  # ticks
MAX_TRIALS = 300  # of smaller worlds, for one broken law
SPANS = (1, 100, 10_000)  # the same world in milliseconds, in seconds, in minutes: policies have constants of their own
OTHERS: dict[str, tuple[Callable[[], Policy], ...]] = {
    "scheduler": (FCFS, FCFS, partial(SJF, ageing_s=0.02)),
    "cache": (LRU, LRU, DropAfterUse),
    "prefetch": (NoPrefetch, Queued, SLoRAPrefetch),
}
PLAIN: dict[str, Any] = {
    one.name: getattr(World([]), one.name) for one in fields(World) if one.name not in {"requests", "costs"}
}

T = TypeVar("T")


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
    is_crowded = rng.random() < 0.5
    total = 1000 if is_crowded else _one_of(rng, 400, 700, 1500, 5000)
    adapters = _adapters(rng, is_crowded=is_crowded)
    others: dict[str, Any] = {seam: _one_of(rng, *makers) for seam, makers in OTHERS.items()}
    kv_limit, adapter_limit = _one_of(rng, (None, None), (total // 2, None), (total - total // 2, total // 2))
    return World(
        _requests(rng, len(adapters), unit // 8 if is_crowded else unit),
        adapters,
        total_bytes=total,
        kv_limit_bytes=kv_limit,
        adapter_limit_bytes=adapter_limit,
        admit_every_steps=_one_of(rng, 0, 1, 3, 10),
        batch_prompt_tokens=_one_of(rng, 60, 200, 10_000),
        running_requests=_one_of(rng, 1, 2, 5, 1000, 1000),
        distinct_adapters=_one_of(rng, 1, 2, 1000, 1000),
        blocks_on_load=rng.random() < 0.5,
        idle_poll_ticks=_one_of(rng, 0, 0, 1000 * unit),
        costs=_costs(rng, unit),
        predicted=Guess(_one_of(rng, (1.0,), (0.0,), (0.0, 1.0, 3.0))),
        ttft_slo_s=_one_of(rng, 0.01, 1.0),
        **others,
    )


def shrunk(world: World, shows: Callable[[World], bool], keep: str) -> World:
    """Return the smallest world found that still shows something.

    Args:
        world: one that shows it.
        shows: whether a world does.
        keep: the field that is not to be changed, the seam of the policy under test.
    """
    trials, is_smaller = 0, True
    while is_smaller and trials < MAX_TRIALS:
        is_smaller = False
        for candidate in _smaller(world, keep):
            trials += 1
            if shows(candidate):
                world, is_smaller = candidate, True
                break
            if trials >= MAX_TRIALS:
                break
    return world


def tell(world: World, keep: str) -> list[str]:
    """Return lines that say everything about a world but the policy under test."""
    limits = [
        f"{name} at most {limit}"
        for name, limit in (("KV", world.kv_limit_bytes), ("adapters", world.adapter_limit_bytes))
        if limit is not None
    ]
    others = ", ".join(f"{seam} {_name(getattr(world, seam))}" for seam in OTHERS if seam != keep)
    engine = ", ".join(_options(world))
    return [
        ", ".join([f"memory {world.total_bytes} bytes, 1 a token", *limits]),
        *(f"adapter a{i}: rank {rank}, {size} bytes" for i, (rank, size) in enumerate(world.adapters)),
        *(_told(world, i) for i in range(len(world.requests))),
        f"beside it: {others}",
        *([f"engine: {engine}"] if engine else []),
        *_told_costs(world.costs),
    ]


def _told_costs(costs: RoundCosts) -> list[str]:
    decode = f"decode step {duration(costs.decode_base)} + {duration(costs.decode_request)} a request"
    return [
        f"prefill {duration(costs.prefill_base)} + {duration(costs.prefill_token)} a token",
        f"{decode} + {duration(costs.decode_context)} a context token",
        f"load {duration(costs.load_base)} + {duration(costs.load_byte)} a byte",
    ]


def _one_of(rng: np.random.Generator, *values: T) -> T:
    return values[int(rng.integers(len(values)))]


def _adapters(rng: np.random.Generator, *, is_crowded: bool) -> list[tuple[int, int]]:
    if is_crowded:
        return [(8, int(size)) for size in rng.integers(250, 601, rng.integers(2, 5))]
    sizes = (20, 50, 120, 300)
    return [(_one_of(rng, 8, 16, 32, 64, 128), _one_of(rng, *sizes)) for _ in range(int(rng.integers(1, 13)))]


def _requests(rng: np.random.Generator, adapters: int, unit: int) -> list[tuple[int, int, int, int | None]]:
    made, now = [], 0
    for _ in range(int(rng.integers(1, 26))):
        now += int(rng.integers(_one_of(rng, 1, 300, 3000, 20_000))) * unit
        output = int(rng.integers(1, _one_of(rng, 3, 41, 151)))
        adapter = None if rng.random() < 0.2 else int(rng.integers(adapters))
        made.append((now, int(rng.integers(1, 61)), output, adapter))
    return made


def _costs(rng: np.random.Generator, unit: int) -> RoundCosts:
    return RoundCosts(
        prefill_base=100 * unit,
        prefill_token=10 * unit,
        decode_base=1000 * unit,
        decode_request=10 * unit,
        decode_context=_one_of(rng, 0, 1, 7) * unit,
        decode_rank=_one_of(rng, 0, 1) * unit,
        load_base=50 * unit,
        load_byte=_one_of(rng, 1, 20) * unit,
        floor=_one_of(rng, 0, 1100, 2000) * unit,
    )


def _smaller(world: World, keep: str) -> Iterator[World]:
    """Yield worlds with less in them, the greatest steps first."""
    rows = list(world.requests)
    size = len(rows) // 2
    while size:
        for start in range(0, len(rows), size):
            yield replace(world, requests=[*rows[:start], *rows[start + size :]])
        size //= 2
    first = rows[0][0] if rows else 0
    if first:
        yield replace(world, requests=[(row[0] - first, *row[1:]) for row in rows])
    if world.costs.decode_base > 1000 * MICROSECOND:
        yield _quicker(world)
    yield from _without_adapters(world)
    for name, plain in PLAIN.items():
        if name not in {keep, "adapters", "total_bytes"} and getattr(world, name) != plain:
            yield replace(world, **{name: plain})
    for i, row in enumerate(rows):
        for smaller in _smaller_requests(row, 0 if i == 0 else rows[i - 1][0]):
            yield replace(world, requests=[*rows[:i], smaller, *rows[i + 1 :]])


def _quicker(world: World) -> World:
    """Return the world with all times a hundred times shorter."""
    costs = RoundCosts(*(getattr(world.costs, one.name) // 100 for one in fields(RoundCosts)))
    rows = [(row[0] // 100, *row[1:]) for row in world.requests]
    return replace(world, costs=costs, requests=rows, idle_poll_ticks=world.idle_poll_ticks // 100)


def _without_adapters(world: World) -> Iterator[World]:
    if len(world.adapters) == 1:
        return  # a deployment without any is a case of its own
    for unused in set(range(len(world.adapters))) - {row[3] for row in world.requests}:
        rows = [(*row[:3], None if row[3] is None else row[3] - (row[3] > unused)) for row in world.requests]
        yield replace(world, requests=rows, adapters=[one for i, one in enumerate(world.adapters) if i != unused])


def _smaller_requests(
    row: tuple[int, int, int, int | None], earliest: int
) -> Iterator[tuple[int, int, int, int | None]]:
    arrival, prompt, output, adapter = row
    if adapter is not None:
        yield arrival, prompt, output, None
    for less in {1, output // 2} - {0, output}:
        yield arrival, prompt, less, adapter
    for less in {1, prompt // 2} - {0, prompt}:
        yield arrival, less, output, adapter
    if arrival > earliest:
        yield earliest, prompt, output, adapter


def _told(world: World, request_id: int) -> str:
    arrival, prompt, output, adapter = world.requests[request_id]
    predicted = world.predicted(request_id, output)
    said = "" if predicted == output else f" ({predicted} predicted)"
    who = "the base model" if adapter is None else f"a{adapter}"
    return f"request {request_id} at {duration(arrival)}: {prompt} tokens in, {output} out{said}, {who}"


def _options(world: World) -> Iterator[str]:
    for name in ("admit_every_steps", "batch_prompt_tokens", "running_requests", "distinct_adapters"):
        value = getattr(world, name)
        if value != PLAIN[name]:
            yield f"{name} {value}"
    if not world.blocks_on_load:
        yield "loads overlap with decoding"
    if world.idle_poll_ticks:
        yield f"looks for work every {duration(world.idle_poll_ticks)} while empty"


def _name(make: Callable[[], Policy]) -> str:
    return make().name
