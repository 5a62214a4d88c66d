"""How many requests a second a simulated engine can complete: what an offered load is a share of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sim.build import deploy
from sim.config import Loaded
from sim.experiments.run import execute
from sim.results.metrics import Offered, instant_s
from sim.trace import Trace

BATCHES = 8  # so many times what memory holds at once: with fewer, filling the first one is most of it
LEAST_REQUESTS = 200
MIDDLE = (0.2, 0.8)  # of the completions: the batch fills up before and empties after


def capacity_per_s(loaded: Loaded, trace: Trace) -> float:
    """Return the completions a second of an engine that never runs out of waiting requests.

    The trace's requests, again and again or only the first, arrive all at once, so many that memory is filled several
    times, and the middle of the completions is counted. Where slots are fewer than adapters a scheduler that skips
    requests does better the longer the queue is, so that no number is *the* capacity.

    Args:
        loaded: the configuration.
        trace: the workload, of at least two requests.
    """
    return _middle_rate(_finished_s(loaded, _at_once(trace, _sample(loaded, trace))))


def _sample(loaded: Loaded, trace: Trace) -> int:
    """Return how many requests fill memory, or the seats of the batch, several times."""
    limits, options = (deployment := deploy(loaded, trace)).limits, deployment.options
    tokens = float((trace.prompt_tokens + trace.output_tokens / 2).mean())  # held on average
    at_once = min(limits.kv_limit_bytes / limits.kv_token_bytes / tokens, options.running_requests)
    return max(math.ceil(BATCHES * at_once), LEAST_REQUESTS)


def _at_once(trace: Trace, requests: int) -> Trace:
    place = np.arange(requests) % len(trace)
    return replace(
        trace,
        arrival_s=np.zeros(requests),
        prompt_tokens=trace.prompt_tokens[place],
        output_tokens=trace.output_tokens[place],
        adapter=trace.adapter[place],
    )


def _finished_s(loaded: Loaded, trace: Trace) -> np.ndarray:
    run = execute(loaded, trace).run
    finish_s = instant_s(Offered(run.trace, run.records).instant("finish"))
    return np.sort(finish_s[np.isfinite(finish_s)])


def _middle_rate(finished_s: np.ndarray) -> float:
    low, high = (int(share * (len(finished_s) - 1)) for share in MIDDLE)
    span_s = float(finished_s[high] - finished_s[low])
    if not span_s:  # so few requests that they end together
        return len(finished_s) / float(finished_s[-1])
    return (high - low) / span_s
