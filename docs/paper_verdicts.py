"""The rule by which docs/paper.md calls a printed number reproduced; nothing on the page is judged by hand."""  # noqa: INP001

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from sim.statistics import Interval, mean_interval, paired_difference

REPRODUCED, DIRECTION, UNDECIDED, MISSED = "reproduced", "direction only", "undecided", "not reproduced"
SILENT, UNSIMULATED = "no number printed", "not simulated"
WITHIN_AXIS, BEYOND_AXIS = "within the axis", "beyond the axis"
UNJUDGED = (SILENT, WITHIN_AXIS, BEYOND_AXIS)
VERDICTS = (REPRODUCED, DIRECTION, UNDECIDED, MISSED, UNSIMULATED)
NEAR = 0.10  # of the simulated mean


class Equal(NamedTuple):
    """A printed value.

    Attributes:
        printed: in the unit of the claim.
        neutral: the value of no effect; None where there is no such thing.
    """

    printed: float
    neutral: float | None = None


class Bound(NamedTuple):
    """A printed range; None: open."""

    low: float | None = None
    high: float | None = None


class Rising(NamedTuple):
    """A printed order: each value larger than the one before."""


class Axis(NamedTuple):
    """All that is printed is where the axis ends."""

    end: float


class Silent(NamedTuple):
    """Nothing is printed."""


Expect = Equal | Bound | Rising | Axis | Silent


def bounds(interval: Interval) -> tuple[float, float]:
    """Return both ends; of a single run, the value itself."""
    low, high = interval.low, interval.high
    return (interval.estimate if low is None else low, interval.estimate if high is None else high)


def judge(expect: Expect, series: Sequence[Sequence[float]]) -> str:
    """Return the verdict on one claim.

    Args:
        expect: what is printed.
        series: one list of values per number, seed by seed; only an order has several.
    """
    if isinstance(expect, Silent):
        return SILENT
    if isinstance(expect, Rising):
        return _order(series)
    interval = mean_interval(series[0])
    if isinstance(expect, Axis):
        return WITHIN_AXIS if interval.estimate <= expect.end else BEYOND_AXIS
    return _bound(expect, *bounds(interval)) if isinstance(expect, Bound) else _equal(expect, interval)


def _equal(expect: Equal, interval: Interval) -> str:
    (low, high), mean = bounds(interval), interval.estimate
    is_inside = low <= expect.printed <= high
    is_near = is_inside or abs(expect.printed - mean) <= NEAR * abs(mean)
    if expect.neutral is None:
        return REPRODUCED if is_near else MISSED
    if low <= expect.neutral <= high:
        return UNDECIDED if is_inside else MISSED
    if (expect.printed > expect.neutral) != (mean > expect.neutral):
        return MISSED
    return REPRODUCED if is_near else DIRECTION


def _bound(expect: Bound, low: float, high: float) -> str:
    least = -float("inf") if expect.low is None else expect.low
    most = float("inf") if expect.high is None else expect.high
    if least <= low and high <= most:
        return REPRODUCED
    return UNDECIDED if low <= most and high >= least else MISSED


def _order(series: Sequence[Sequence[float]]) -> str:
    steps = [bounds(paired_difference(before, after)) for before, after in pairwise(series)]
    if all(low > 0 for low, _ in steps):
        return REPRODUCED
    low, _ = bounds(paired_difference(series[0], series[-1]))
    return DIRECTION if low > 0 and all(high >= 0 for _, high in steps) else MISSED
