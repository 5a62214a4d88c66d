"""Iterations in service: rows that say what a step lasts while requests come and go, batches change and copies run.

A burst of equal requests keeps one batch for all its steps; what changes between the steps of a real run, and what the
host does about it, only a run shows. No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpu_validate.shapes import Shape
from gpu_validate.timing import Measured, Timing
from policies.base import FloatArray
from sim.serving.ticks import TICKS_PER_S

if TYPE_CHECKING:
    from gpu_validate.engine.device import Iteration
    from sim.build import Deployment

RATES: dict[float, str] = {10.0: "fit", 20.0: "fit", 30.0: "test", 40.0: "fit", 60.0: "fit", 70.0: "fit", 90.0: "test"}
TINY_RATES: dict[float, str] = {20.0: "fit"}
SPAN_S, TINY_SPAN_S = 4.0, 0.4  # of arrivals at each rate
SHORT_TOKENS, LONG_TOKENS = 512, 1024  # prefills up to here, and from here on
LEAST_ITERATIONS = 5
SHORT_UNTIL, LONG_FROM = 40.0, 40.0  # rates at which prefills of the one and of the other size come often enough


class Asked(NamedTuple):
    """What the cost model is asked about a request."""

    prompt_tokens: int
    rank: int  # 0: the base model
    adapter: int | None


def service_shapes(model: str, kernel: str, seed: int, *, graph: bool, tiny: bool = False) -> Iterator[Shape]:
    """Yield what is read off a run at each rate: decode steps, short prefills and long ones.

    Args:
        model: name of the base model.
        kernel: LoRA kernel, as rows call it.
        seed: of requests and adapters.
        graph: whether decode runs from CUDA graphs.
        tiny: what a CPU can do: so few requests that nothing but decode steps comes often enough.
    """
    common = {"kernel": kernel, "graph": graph, "model": model, "seed": seed}
    for rate, split in (TINY_RATES if tiny else RATES).items():
        kinds: list[dict[str, str]] = [{"phase": "decode"}]
        kinds += [{"phase": "prefill", "part": "short"}] if rate <= SHORT_UNTIL and not tiny else []
        kinds += [{"phase": "prefill", "part": "long"}] if rate >= LONG_FROM and not tiny else []
        served = round((TINY_SPAN_S if tiny else SPAN_S) * rate)
        for kind in kinds:
            yield Shape("service", {**kind, "rate_per_s": rate, "served": served, "split": split, **common})


def asked_of(deployment: Deployment) -> dict[int, Asked]:
    """Return what the cost model is asked about each request of a trace, by its id."""
    trace = deployment.trace
    ranks = [0 if adapter is None else adapter.rank for adapter in deployment.adapters]
    rows = zip(trace.prompt_tokens.tolist(), trace.adapter.tolist(), strict=True)
    return {id_: Asked(prompt, ranks[at], at if ranks[at] else None) for id_, (prompt, at) in enumerate(rows)}


def read_off(iterations: Sequence[Iteration], asked: Mapping[int, Asked], config: Mapping[str, Any]) -> Measured:
    """Return how long the iterations of a shape lasted on average, and their mean counts as further fields.

    The quarter that was quickest and the quarter that was slowest are left out: pauses of the host are not the step's.

    Args:
        iterations: of a run, in order.
        asked: of each request by its id.
        config: of the shape.

    Raises:
        RuntimeError: if the run had too few of them.
    """
    chosen = [
        (one, counts)
        for one, counts in zip(iterations, counts_of(iterations, asked), strict=True)
        if _fits(one, config)
    ]
    if len(chosen) < LEAST_ITERATIONS:
        msg = f"the run had {len(chosen)} such iterations, at least {LEAST_ITERATIONS} are needed"
        raise RuntimeError(msg)
    lasted = np.array([(one.end - one.start) / TICKS_PER_S for one, _ in chosen])
    low, high = np.quantile(lasted, (0.25, 0.75))
    middle = (low <= lasted) & (lasted <= high)
    kept = [pair for pair, is_kept in zip(chosen, middle, strict=True) if is_kept]
    means = {name: round(float(np.mean([counts[name] for _, counts in kept]))) for name in kept[0][1]}
    issue_s = float(np.mean([(one.issued - one.start) / TICKS_PER_S for one, _ in kept]))
    return Measured(_of_mean(lasted[middle]), {**means, "issue_s": issue_s})


def _of_mean(lasted: FloatArray) -> Timing:
    """Return the mean, with quantiles of its own error in place of those of single steps, which differ in size."""
    mean, error = float(lasted.mean()), float(lasted.std() / len(lasted) ** 0.5)
    return Timing(mean - 0.84 * error, mean, mean + 0.84 * error, len(lasted), "host", 1.35 * error)


def _fits(one: Iteration, config: Mapping[str, Any]) -> bool:
    if one.kind != config["phase"]:
        return False
    part, tokens = config.get("part"), one.prompt_tokens
    return part is None or (tokens <= SHORT_TOKENS if part == "short" else tokens >= LONG_TOKENS)


def counts_of(iterations: Sequence[Iteration], asked: Mapping[int, Asked]) -> Iterator[dict[str, int]]:
    """Yield what the cost model is asked of each iteration, prompts taken as whole.

    Args:
        iterations: of a run, in order, from its first.
        asked: of each request by its id.
    """
    said: Counter[int] = Counter()  # tokens that each request has got
    for one in iterations:
        requests = [asked[id_] for id_ in one.requests]
        yield _counted(one, requests, [said[id_] for id_ in one.requests])
        said.update(one.requests)


def _counted(one: Iteration, requests: Sequence[Asked], said: Sequence[int]) -> dict[str, int]:
    prompts = [request.prompt_tokens for request in requests]
    is_prefill = one.kind == "prefill"
    ranks = {request.adapter: request.rank for request in requests if request.adapter is not None}
    tokens = prompts if is_prefill else [1] * len(requests)
    return {
        "requests": len(requests),
        "tokens": sum(tokens),
        "squared_tokens": sum(count * count for count in prompts) if is_prefill else 0,
        "context_tokens": 0 if is_prefill else sum(prompts) + sum(said),
        "longest_tokens": max(map(add, prompts[: one.decoded], said), default=0),
        "token_rank": sum(count * request.rank for count, request in zip(tokens, requests, strict=True)),
        "sum_rank": sum(request.rank for request in requests),
        "distinct": len(ranks),
        "distinct_rank": sum(ranks.values()),
        "max_rank": max(ranks.values(), default=0),
    }
