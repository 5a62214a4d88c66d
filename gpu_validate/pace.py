"""Whether another real run fits into a budget, judged by those that are over. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter


class Pace:
    """A budget of wall time for runs whose own length is known beforehand.

    A run is expected to take its simulated span and, beyond that, the most that any run before it took: building the
    engine, warming up, a real device slower than the simulated one. A run that was started is finished in any case.

    Args:
        budget_s: seconds from now on; None: no limit.
        now: the clock.
    """

    def __init__(self, budget_s: float | None, now: Callable[[], float] = perf_counter) -> None:
        self._now = now
        self._end = None if budget_s is None else now() + budget_s
        self._beyond_s = 0.0

    def note(self, wall_s: float, span_s: float) -> None:
        """Learn from a run that took so long and was simulated to last so long."""
        self._beyond_s = max(self._beyond_s, wall_s - span_s)

    def fits(self, span_s: float) -> bool:
        """Whether a run that is simulated to last so long should end in time."""
        return self._end is None or self._now() + span_s + self._beyond_s <= self._end
