"""What an engine does next, and the exact arithmetic of decode runs: step j lasts first + j * growth ticks."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import NamedTuple

from sim.serving.job import Job
from sim.serving.shape import StepCost

Horizon = Callable[[], int | None]  # the tick of the next event outside the engine, None if there is none


class Prefill(NamedTuple):
    """One prefill iteration over the whole prompts of its requests; the decode batch pauses."""

    start: int
    ticks: int
    jobs: list[Job]


class Chunk(NamedTuple):
    """A part of one request's prefill: `tokens` after the `before` that are done."""

    job: Job
    before: int
    tokens: int


class Mixed(NamedTuple):
    """One iteration that prefills chunks and gives every request of the decode batch one token."""

    start: int
    ticks: int
    chunks: list[Chunk]


class Decode(NamedTuple):
    """A run of decode steps over one unchanged batch."""

    start: int
    ticks: int
    steps: int
    first: int
    growth: int

    def as_taken(self, end: int) -> Decode:
        """Return the run with the time that a real device took for it, one step at a time.

        Raises:
            RuntimeError: if several steps did not take their planned time: nobody knows then what each took.
        """
        ticks = end - self.start
        if ticks == self.ticks:
            return self
        if self.steps > 1:
            msg = f"{self.steps} steps took {ticks} ticks instead of {self.ticks}: real devices run one step at a time"
            raise RuntimeError(msg)
        return self._replace(ticks=ticks, first=ticks, growth=0)


Step = Prefill | Mixed | Decode


def run_ticks(cost: StepCost, steps: int) -> int:
    """Return the ticks of so many steps."""
    return steps * cost.first + cost.growth * (steps * (steps - 1) // 2)


def steps_until(cost: StepCost, ticks: int) -> int:
    """Return the least number of steps, at least 1, that last `ticks` or longer."""
    if ticks <= cost.first:
        return 1
    if not cost.growth:
        return -(-ticks // cost.first)
    # growth k^2 + (2 first - growth) k - 2 ticks >= 0; the integer root can only be too small
    slope = 2 * cost.first - cost.growth
    steps = (isqrt(slope * slope + 8 * cost.growth * ticks) - slope) // (2 * cost.growth)
    while run_ticks(cost, steps) < ticks:
        steps += 1
    return steps
