"""Arithmetic of decode runs, exact in integers: step j lasts first + j * growth ticks."""

from __future__ import annotations

from math import isqrt

from sim.shape import StepCost


def run_ticks(cost: StepCost, count: int) -> int:
    """Return the ticks of `count` steps."""
    return count * cost.first + cost.growth * (count * (count - 1) // 2)


def steps_until(cost: StepCost, ticks: int) -> int:
    """Return the least number of steps, at least 1, that last `ticks` or longer."""
    if ticks <= cost.first:
        return 1
    if not cost.growth:
        return -(-ticks // cost.first)
    # growth k^2 + (2 first - growth) k - 2 ticks >= 0
    slope = 2 * cost.first - cost.growth
    count = (isqrt(slope * slope + 8 * cost.growth * ticks) - slope) // (2 * cost.growth)
    while run_ticks(cost, count) < ticks:
        count += 1
    return count
