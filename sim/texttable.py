"""Plain text tables for standard output: columns line up, intervals are shown in one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.statistics import Interval


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text, the first column left, the others right aligned."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [_line(row, widths) for row in [header, *rows]]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def interval_text(interval: Interval | None, *, most: float | None = None) -> str:
    """Return "12.3 [11.9, 12.8]" of a quantity that is never negative; its bounds stop at 0.

    Args:
        interval: to show; None is "-".
        most: what it never exceeds: 100 for a share in per cent.
    """
    if interval is None:
        return "-"
    low = None if interval.low is None else max(interval.low, 0.0)
    high = interval.high if interval.high is None or most is None else min(interval.high, most)
    return _with_bounds(number, interval.estimate, low, high)


def change_text(reduction: Interval | None) -> str:
    """Return a reduction as a signed change in per cent, with its bounds."""
    return "-" if reduction is None else _with_bounds(_change, reduction.estimate, reduction.high, reduction.low)


def plus_minus(interval: Interval | None, *, percent_change: bool = False) -> str:
    """Return "12.3 ± 0.5", which takes less room; only for intervals around their estimate, such as those of a mean."""
    if interval is None:
        return "-"
    estimate = _change(interval.estimate) if percent_change else number(interval.estimate)
    if interval.low is None or interval.high is None:
        return estimate
    half = (interval.high - interval.low) / 2
    return (
        f"{estimate} ± {100 * half:.1f}" if percent_change else f"{estimate} ± {half:.{_decimals(interval.estimate)}f}"
    )


def points(interval: Interval | None) -> str:
    """Return a difference of two percentages, in points, with its bounds."""
    if interval is None:
        return "-"
    return f"{_with_bounds(_signed, interval.estimate, interval.low, interval.high)} pp"


def _with_bounds(show: Callable[[float], str], estimate: float, low: float | None, high: float | None) -> str:
    return show(estimate) if low is None or high is None else f"{show(estimate)} [{show(low)}, {show(high)}]"


def _change(reduction: float) -> str:
    return f"{_signed(-100 * reduction)} %"


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text


def number(value: float) -> str:
    """Return a number with about four digits that matter."""
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()
