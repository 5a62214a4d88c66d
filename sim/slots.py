"""The slots cliff: vLLM with fewer adapter slots than adapters, as measured on a real server and as simulated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from policies.base import IntArray
from sim.config import load_config
from sim.experiment import execute
from sim.statistics import Interval, mean_interval
from sim.trace import AdapterSpec, Trace

SPAN_S = 3600.0
SEEDS = (0, 1, 2)
RANK = 16
RATES_PER_S = (0.1,) * 22 + (0.05,) * 21 + (0.025,) * 21  # of each adapter
PROMPT_TOKENS, OUTPUT_TOKENS = 222.0, 198.0  # means
VARIATION = 1.0  # of lengths, standard deviation over mean; lognormal: both are ours
# An adapter is read from disk once: 263 ms at rank 16 (FerranAgulloLopez/GPULLMAdapterOptimization).
CHANGES = (
    "hardware=h100", "model=llama-3.1-8b", "adapters.host_bytes=10000000000", "adapters.host_starts_warm=false",
    "loading.disk_latency_s=0.263", "loading.disk_bytes_per_s=1.0e+12",
)  # fmt: skip


class Numbers(NamedTuple):
    """Time to first token of one server, in milliseconds, and time per further token."""

    p50_ms: float
    p99_ms: float
    mean_ms: float
    tpot_ms: float


# vLLM V1 (0.8) on an H100, Llama-3.1-8B; FerranAgulloLopez/GPULLMAdapterOptimization @ bae36e2 (Apache-2.0).
MEASURED = {
    64: Numbers(47.67, 388.24, 70.68, 22.24),
    32: Numbers(48.73, 345.95, 66.68, 21.55),
    16: Numbers(56.24, 4459.37, 490.50, 21.38),
    8: Numbers(16780.35, 41403.13, 16085.06, 18.24),
}


def workload(span_s: float = SPAN_S, seed: int = 0) -> Trace:
    """Return the requests: every adapter a Poisson source of its own, over `span_s` seconds."""
    rng = np.random.default_rng(seed)
    rates = np.array(RATES_PER_S)
    count = int(rng.poisson(rates.sum() * span_s))
    arrival_s = np.sort(rng.uniform(0, span_s, count))
    adapter = rng.choice(len(rates), count, p=rates / rates.sum()).astype(np.int64)
    palette = tuple(AdapterSpec(f"lora-{index:02d}", RANK) for index in range(len(rates)))
    return Trace("slots", arrival_s, _lengths(PROMPT_TOKENS, count, rng), _lengths(OUTPUT_TOKENS, count, rng), palette,
                 adapter)  # fmt: skip


def _lengths(mean: float, count: int, rng: np.random.Generator) -> IntArray:
    sigma = math.sqrt(math.log(1 + VARIATION**2))
    drawn = rng.lognormal(math.log(mean) - sigma**2 / 2, sigma, count)
    return np.maximum(np.rint(drawn), 1).astype(np.int64)


def simulated(slots: int, seed: int = 0, span_s: float = SPAN_S) -> Numbers:
    """Return what the packaged `vllm` does with so many slots."""
    loaded = load_config("vllm", (*CHANGES, f"adapters.slots={slots}"))
    metrics = execute(loaded, workload(span_s, seed)).summary["metrics"]
    ttft = metrics["ttft_ms"]
    return Numbers(ttft["p50"], ttft["p99"], ttft["mean"], metrics["tpot_ms"]["mean"])


def over_seeds(runs: Sequence[Numbers]) -> list[Interval]:
    """Return the interval of each number over runs with different seeds."""
    return [mean_interval(values) for values in zip(*runs, strict=True)]


def perform(jobs: int = 1) -> Iterator[tuple[int, Numbers]]:
    """Yield the simulated numbers of every number of slots and every seed, over so many processes."""
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    plan = [(slots, seed) for slots in MEASURED for seed in SEEDS]
    runs = Parallel(n_jobs=jobs, return_as="generator", inner_max_num_threads=1)
    yield from zip((slots for slots, _ in plan), runs(delayed(simulated)(*one) for one in plan), strict=True)
