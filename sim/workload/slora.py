"""S-LoRA's own synthetic workload, bit for bit (MLSys 2024; github.com/S-LoRA/S-LoRA, benchmarks/trace.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim.trace import AdapterSpec, Trace


class Laws(NamedTuple):
    """What the generator draws from: popularity exponent, gaps and their rate, how many requests."""

    alpha: float
    cv: float
    rate_per_s: float
    requests: int


def dealt(count: int, ranks: Sequence[int]) -> tuple[AdapterSpec, ...]:
    """Return `count` adapters by number, with the ranks dealt to them in turn."""
    digits = len(str(count - 1))
    return tuple(AdapterSpec(f"lora-{index:0{digits}d}", ranks[index % len(ranks)]) for index in range(count))


def slora_synthetic(  # noqa: PLR0917 - the argument list of the generator that it repeats
    num_adapters: int,
    alpha: float,
    req_rate: float,
    cv: float,
    duration: float,
    input_range: tuple[int, int],
    output_range: tuple[int, int],
    ranks: Sequence[int],
    seed: int = 42,
) -> Trace:
    """Return S-LoRA's synthetic workload, bit-equal to its generator: int(req_rate * duration) requests.

    Args:
        num_adapters: how many, asked for by floor(num_adapters * U^(1/alpha)).
        alpha: 1 is uniform, less is skewed to the first.
        req_rate: requests per second.
        cv: coefficient of variation of the gamma gaps.
        duration: seconds.
        input_range: shortest prompt and one more than the longest, tokens.
        output_range: likewise for outputs.
        ranks: dealt to the adapters in turn.
        seed: of numpy's legacy generator; S-LoRA's is 42.

    Source: S-LoRA, benchmarks/trace.py (generate_requests).
    """
    laws = Laws(alpha, cv, req_rate, int(req_rate * duration))
    return slora_draw(dealt(num_adapters, ranks), laws, input_range, output_range, seed)


def slora_draw(
    palette: tuple[AdapterSpec, ...],
    laws: Laws,
    input_range: tuple[int, int],
    output_range: tuple[int, int],
    seed: int,
) -> Trace:
    """Return the draw for a palette; without any adapter the same requests are for the base model."""
    alpha, cv, rate_per_s, requests = laws
    rng = np.random.RandomState(seed)
    # the order of these four draws is the definition of the workload
    adapter = (rng.power(alpha, requests) * len(palette)).astype(np.int64)
    prompt = rng.randint(*input_range, size=requests).astype(np.int64)
    output = rng.randint(*output_range, size=requests).astype(np.int64)
    arrival_s = np.cumsum(rng.gamma(1 / (cv * cv), cv * cv / rate_per_s, requests))
    return Trace("uniform", arrival_s, prompt, output, palette or (None,), adapter)
