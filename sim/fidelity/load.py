"""How many requests a second a simulated engine can complete: what an offered load is a share of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.config import Loaded
from sim.experiment import execute
from sim.metrics import Offered, instant_s
from sim.trace import Trace

MOST_REQUESTS = 2000  # enough for several full batches
MIDDLE = (0.2, 0.8)  # of the completions: the batch fills up before and empties after


def capacity_per_s(loaded: Loaded, trace: Trace) -> float:
    """Return the completions a second of an engine that never runs out of waiting requests.

    The first requests of the trace arrive all at once, and the middle of the completions is counted.

    Args:
        loaded: the configuration.
        trace: the workload, of at least two requests.
    """
    return _middle_rate(_finished_s(loaded, _at_once(trace)))


def _at_once(trace: Trace) -> Trace:
    head = slice(0, MOST_REQUESTS)
    return replace(
        trace,
        arrival_s=np.zeros(len(trace.arrival_s[head])),
        prompt_tokens=trace.prompt_tokens[head],
        output_tokens=trace.output_tokens[head],
        adapter=trace.adapter[head],
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
