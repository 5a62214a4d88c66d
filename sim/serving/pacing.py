"""When a policy is due: how many decode steps may pass before somebody has to be asked something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.serving.records import NEVER
from sim.serving.shape import StepCost
from sim.serving.steps import Horizon, run_ticks, steps_until

if TYPE_CHECKING:
    from sim.core import Core


class AdmissionClock:
    """When the scheduler is asked: at most every so many steps, and only if its answer could differ from the last.

    Attributes:
        since: decode steps since the last admission.
    """

    __slots__ = ("_asks", "_asks_always", "_every", "_next_fit", "since")

    def __init__(self, every_steps: int, *, asks_always: bool) -> None:
        self._every = every_steps
        self._asks_always = asks_always
        self._asks = True
        self._next_fit: int | None = None  # the step at which a refused request may fit although nothing changes
        self.since = 0

    def is_due(self, step: int, wakes_at_step: int | None, *, is_busy: bool) -> bool:
        """Whether to ask now; an engine with nothing to do need not wait for the next round."""
        if is_busy and self.since < self._every:
            return False
        may_fit = self._next_fit is not None and step >= self._next_fit
        wakes = wakes_at_step is not None and step >= wakes_at_step
        return self._asks or may_fit or wakes or self._asks_always

    def asked(self) -> None:
        """Start a round; what changes from now on is news."""
        self._asks = False

    def something_changed(self) -> None:
        """Take note that the scheduler's last answer may no longer hold."""
        self._asks = True

    def admitted(self) -> None:
        """End a round that admitted requests."""
        self.since = 0
        self._asks = True

    def refused(self, next_fit: int | None) -> None:
        """End a round that admitted none; `next_fit` is when a refusal may turn by decoding alone."""
        self._next_fit = next_fit

    @property
    def has_news(self) -> bool:
        """Whether something has changed since the round began."""
        return self._asks

    @property
    def quiet_steps(self) -> int:
        """Steps for which no round is due whatever happens."""
        return self._every - self.since if self._every > self.since else 0

    def steps_until_due(self, step: int, wakes_at_step: int | None) -> int:
        """Return the steps to the next round, if requests wait and nothing changes outside."""
        if self.since < self._every:
            return self._every - self.since
        if self._asks:
            return 1
        until_fit = NEVER if self._next_fit is None else self._next_fit - step
        return until_fit if wakes_at_step is None else min(until_fit, max(wakes_at_step - step, 1))


def run_length(core: Core, cost: StepCost, now: int, horizon: Horizon) -> int:
    """Return how many decode steps the batch may take before anything can change or anybody must be asked.

    Args:
        core: between two steps, its next step a decode.
        cost: of the steps from here on.
        now: ticks.
        horizon: the tick of the next event outside.
    """
    limit = core.kv.most_steps(core.step, core.seats.first_end() - core.step)
    if cost.steps is not None and cost.steps < limit:
        limit = cost.steps
    limit, quiet = _until_asked(core, limit)
    if limit > quiet:
        event = horizon()
        if event is not None and event - now < run_ticks(cost, limit):
            steps = steps_until(cost, event - now)
            limit = steps if steps > quiet else quiet
    return limit if limit > 1 else 1


def _until_asked(core: Core, limit: int) -> tuple[int, int]:
    """Return the most steps until a policy is due, and for how many of them events outside do not matter."""
    adapters, clock = core.adapters, core.clock
    at_steps = adapters.prefetch_steps
    quiet = clock.quiet_steps
    # A read from the disk that lands starts a transfer, behind which the next step's inputs may wait.
    if core.joining or core.options.inputs is not None or (adapters.prefetches and at_steps is None):
        quiet = 0
    if at_steps is None and adapters.is_prefetch_due(core.step, clock.since):
        limit = 1
    prefetch = _until_prefetch(at_steps or (), clock.since)
    if core.waiting:
        return min(limit, prefetch, clock.steps_until_due(core.step, core.wakes_at_step())), quiet
    return limit, min(quiet, prefetch)


def _until_prefetch(at_steps: tuple[int, ...], since: int) -> int:
    for at in at_steps:  # ascending
        if at > since:
            return at - since
    return NEVER
