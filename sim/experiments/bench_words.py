"""What `vllm_bench.json` tells of a run beside its results: rate, burstiness, objectives, policies."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from hashlib import sha256

from sim.config import RunConfig
from sim.experiments.policy_words import policy_words
from sim.results.vllm_bench import BenchMeta
from sim.trace import Trace
from sim.workload.arrivals import GammaArrivals


def bench_meta(config: RunConfig, trace: Trace) -> BenchMeta:
    """Return what the file tells of a configuration and its workload."""
    rate = config.workload.rate_per_s
    return BenchMeta(
        label=config.name,
        request_rate=own_rate(trace) if rate is None else rate,
        burstiness=_burstiness(config),
        max_concurrency=config.client.max_concurrency,
        slos_ms=objectives_ms(config),
        config_hash=config_hash(config),
        policy=policy_words(config),
    )


def objectives_ms(config: RunConfig, asked: Sequence[tuple[str, float]] = ()) -> dict[str, float]:
    """Return what makes a request good: what is asked for, else the configuration's own bound."""
    return dict(asked) or {"ttft": config.ttft_slo_s * 1e3}


def own_rate(trace: Trace) -> float:
    """Return the requests/s of a trace's own stamps; infinite if all came at once."""
    span_s = float(trace.arrival_s[-1] - trace.arrival_s[0]) if len(trace) > 1 else 0.0
    return (len(trace) - 1) / span_s if span_s else math.inf


def config_hash(config: RunConfig) -> str:
    """Return a key of the resolved configuration: the same values, the same key."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def _burstiness(config: RunConfig) -> float:
    """Return vLLM's word for how even arrivals are: 1/cv^2 of gamma gaps, 1 for Poisson and what has no such number."""
    arrivals = config.workload.arrivals
    return 1 / arrivals.cv**2 if isinstance(arrivals, GammaArrivals) else 1.0
