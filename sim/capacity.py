"""The highest load that a system carries within an objective; loads of one seed differ in nothing but the rate."""

from __future__ import annotations

from typing import NamedTuple

from sim.config import Loaded
from sim.experiment import execute
from sim.replications import replace_config


class Search(NamedTuple):
    """A search for the highest rate, in requests/s.

    Attributes:
        loaded: the system, workload and seed; its TTFT objective is what P99 TTFT must not exceed.
        low, high: where to search.
        tolerance: how far the answer may be below the true rate.
    """

    loaded: Loaded
    low: float
    high: float
    tolerance: float


def highest_rate(search: Search) -> float:
    """Return the highest rate at which P99 TTFT stays within the objective, by bisection.

    It is `low` if even that is too much and `high` if nothing is. Bisection takes P99 to grow with the rate; near the
    knee that holds only on average, so use several seeds and their spread.
    """
    low, high = search.low, search.high
    if is_within(search.loaded, high):
        return high
    while high - low > search.tolerance:
        middle = (low + high) / 2
        if is_within(search.loaded, middle):
            low = middle
        else:
            high = middle
    return low


def is_within(loaded: Loaded, rate_per_s: float) -> bool:
    """Whether P99 TTFT of all offered requests stays within the objective at this rate."""
    workload = loaded.config.workload.model_copy(update={"rate_per_s": rate_per_s})
    summary = execute(replace_config(loaded, workload=workload)).summary
    p99_ms = summary["metrics"]["ttft_ms"]["p99"]
    return p99_ms is not None and p99_ms <= loaded.config.ttft_slo_s * 1e3
