"""Time inside the simulator: integer picoseconds, so that sums are exact and fast and slow paths agree to the bit."""

from __future__ import annotations

import math

TICKS_PER_S = 10**12


def to_ticks(seconds: float) -> int:
    """Return the nearest integer number of picoseconds.

    Raises:
        ValueError: if seconds is negative, infinite or not a number.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        msg = f"a time must be finite and not negative, got {seconds!r} s"
        raise ValueError(msg)
    return round(seconds * TICKS_PER_S)


def to_seconds(ticks: int) -> float:
    """Return seconds, the nearest float to an integer number of picoseconds."""
    return ticks / TICKS_PER_S
