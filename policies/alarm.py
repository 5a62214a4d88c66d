"""Declared instants: what a timed policy needs to notice each of them once."""

from __future__ import annotations


class Alarm:
    """The latest instant that is known to have come; a driver's rounding must not undo one that was declared."""

    __slots__ = ("_rang_s",)

    def __init__(self) -> None:
        self._rang_s = float("-inf")

    def has_come(self, at_s: float, now: float) -> bool:
        """Whether an instant is past, by the clock or because it has rung."""
        return at_s <= max(now, self._rang_s)

    def is_ahead(self, at_s: float) -> bool:
        """Whether an instant has not rung yet, so that it is worth declaring."""
        return at_s > self._rang_s

    def ring(self, declared_s: float | None, now: float) -> None:
        """Take note that the declared instant has come."""
        self._rang_s = max(now, now if declared_s is None else declared_s)
