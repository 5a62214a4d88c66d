"""One number of a published run beside the simulator's, and what many such pairs add up to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

REGIONS = ("below 0.7", "0.7 to 0.95", "above 0.95")  # of capacity
NO_LOAD = "none"  # of what is no run of a server
_BOUNDS = (0.7, 0.95)


class Measure(NamedTuple):
    """One metric of one published run.

    Attributes:
        set: the published set, such as "slora-a10g".
        row: which run of it, in words that no other run of the set has.
        region: one of `REGIONS`, by offered load over capacity, or `NO_LOAD`.
        metric: the name of the column that was published, such as "ttft_p50".
        measured: in the unit of that column.
        simulated: in the same unit.
    """

    set: str
    row: str
    region: str
    metric: str
    measured: float
    simulated: float

    @property
    def relative_error(self) -> float:
        """Return (simulated - measured) / measured."""
        return self.simulated / self.measured - 1 if self.measured else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        error = self.relative_error
        return {**self._asdict(), "relative_error": error if math.isfinite(error) else None}


class Errors(NamedTuple):
    """What the measures of one metric have in common.

    Attributes:
        pairs: how many there are.
        mean_abs: mean absolute relative error.
        median_abs: median of the same.
        max_abs: the largest.
        bias: mean signed relative error.
    """

    pairs: int
    mean_abs: float
    median_abs: float
    max_abs: float
    bias: float


def region_of(load: float) -> str:
    """Return the region of an offered load, given as a share of capacity."""
    return REGIONS[sum(load >= bound for bound in _BOUNDS)]


def errors(measures: Iterable[Measure]) -> Errors:
    """Return what some measures add up to.

    Raises:
        ValueError: if there are none; those of something measured as zero do not count.
    """
    told = [measure.relative_error for measure in measures]
    found = [error for error in told if math.isfinite(error)]
    if not found:
        msg = "there is no measure to take an error of"
        raise ValueError(msg)
    sizes = sorted(map(abs, found))
    return Errors(len(found), sum(sizes) / len(sizes), _median(sizes), sizes[-1], sum(found) / len(found))


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
