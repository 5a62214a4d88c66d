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


def interval_text(interval: Interval | None, *, percent_change: bool = False) -> str:
    """Return "12.3 [11.9, 12.8]"; with `percent_change` a reduction is shown as a signed change in per cent."""
    if interval is None:
        return "-"
    if percent_change:
        return _with_bounds(_change, interval.estimate, interval.high, interval.low)
    return _with_bounds(number, interval.estimate, interval.low, interval.high)


def _with_bounds(show: Callable[[float], str], estimate: float, low: float | None, high: float | None) -> str:
    return show(estimate) if low is None or high is None else f"{show(estimate)} [{show(low)}, {show(high)}]"


def _change(reduction: float) -> str:
    return f"{-100 * reduction:+.1f} %"


def number(value: float) -> str:
    """Return a number with about four digits that matter."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip()
