"""The highest load that a system carries within an objective; loads of one seed differ in nothing but the rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sim.config import Loaded
from sim.experiments.objective import Objective, at_rate, probe


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


def highest_rates(searches: Sequence[Search]) -> list[float]:
    """Return the answer of each search; all but the first begin where the one before ended, which saves most of it."""
    found: list[float] = []
    for search in searches:
        found.append(highest_rate(search, found[-1] if found else None))
    return found


def highest_rate(search: Search, start: float | None = None) -> float:
    """Return the highest rate within the objective, on a grid of `tolerance` above `low`.

    It is `low` if even that is too much and `high` if nothing is. From `start`, the answer of a like search, it looks
    near by first and in doubled steps further away; then it bisects. That takes P99 to grow with the rate; near the
    knee it does so only on average, so use several seeds and their spread.

    Raises:
        ValueError: if there is nothing to search.
    """
    low, high, tolerance = search[1:]
    if not (0 < low < high < math.inf and tolerance > 0):
        msg = f"a search needs 0 < low < high and a tolerance above 0, got low {low}, high {high}, {tolerance}"
        raise ValueError(msg)
    steps = math.ceil((high - low) / tolerance)

    def rate(step: int) -> float:
        return min(low + step * tolerance, high)

    first, stride = (steps // 2, max(steps // 4, 1)) if start is None else (round((start - low) / tolerance), 1)
    found = highest_step(lambda step: is_within(search.loaded, rate(step)), steps, min(max(first, 0), steps), stride)
    return rate(max(found, 0))


def highest_step(carries: Callable[[int], bool], steps: int, first: int, stride: int) -> int:
    """Return the highest of the steps 0 to `steps` that is carried, asking about none of them twice; -1 if none is.

    Args:
        carries: true up to some step, false beyond it.
        steps: the last one.
        first: where to begin.
        stride: how far the second question is from the first; the third is twice as far, and so on; then bisection.
    """
    fine, much = _bracket(carries, first, steps, stride)
    while much - fine > 1:
        middle = (fine + much) // 2
        fine, much = (middle, much) if carries(middle) else (fine, middle)
    return fine


def _bracket(carries: Callable[[int], bool], first: int, steps: int, stride: int) -> tuple[int, int]:
    """Return a step that is carried and a higher one that is not; -1 and steps + 1 where there is none."""
    fine = much = first
    if carries(first):
        while fine < steps:
            much = min(fine + stride, steps)
            if not carries(much):
                return fine, much
            fine, stride = much, 2 * stride
        return fine, steps + 1
    while much > 0:
        fine = max(much - stride, 0)
        if carries(fine):
            return fine, much
        much, stride = fine, 2 * stride
    return -1, 0


def is_within(loaded: Loaded, rate_per_s: float) -> bool:
    """Whether 99 % of all offered requests are completed, and their P99 TTFT is within the objective, at this rate."""
    return probe(at_rate(loaded, rate_per_s), Objective(loaded.config.ttft_slo_s)).is_met
