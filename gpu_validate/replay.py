"""Drives the core against a device that really executes: the same state machine and policies as under SimPy.

The loop knows no model and no GPU. On a virtual clock with a device that takes exactly the modelled time it must
produce what `sim.engine` produces, to the tick; so whatever a real run shows beyond that is the device's doing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from sim.client import Client
from sim.core import Core
from sim.serving.job import Job
from sim.serving.link import AnyTransfer, Link
from sim.serving.options import UNLIMITED
from sim.serving.records import NEVER, Records
from sim.serving.steps import Step
from sim.serving.ticks import to_ticks

ARRIVAL, LOADED, TIMER = range(3)  # the order of events at one instant


class Landed(NamedTuple):
    """A transfer that is complete, and when that was."""

    at: int
    transfer: AnyTransfer


class Device(Link, Protocol):
    """What executes steps and transfers, and has the clock; times are ticks since the start of the run."""

    def now(self) -> int:
        """Return the present."""

    def run(self, step: Step, core: Core) -> int:
        """Execute a step and return when it ended."""

    def landed(self, until: int) -> Iterable[Landed]:
        """Return transfers that have completed by `until` and were not returned before, in order."""

    def next_landing(self) -> int | None:
        """Return when the transfer under way will be complete; None if there is none or it cannot be known."""

    def wait(self, until: int | None) -> int:
        """Pass the time until `until` or, if that comes first or `until` is None, until a transfer completes."""


class Replay:
    """One run of a core on a device.

    Args:
        core: the state machine; its link must be the device.
        device: executes.
        jobs: requests in order of arrival, their `arrival` in ticks since the start.
        records: what the core writes into.
        idle_poll_ticks: an empty engine looks for work only at multiples of this after it fell idle; 0: at once.
        max_concurrency: most requests under way at once, see `sim.client.Client`; None: no limit.
    """

    def __init__(
        self,
        core: Core,
        device: Device,
        jobs: Iterable[Job],
        records: Records,
        *,
        idle_poll_ticks: int = 0,
        max_concurrency: int | None = None,
    ) -> None:
        self._core = core
        self._device = device
        self._client = Client(jobs, max_concurrency or UNLIMITED)
        self._records = records
        self._idle_poll_ticks = idle_poll_ticks

    def run(self) -> None:
        """Serve every request.

        Raises:
            RuntimeError: if requests are left waiting although nothing more will happen.
        """
        core, device = self._core, self._device
        self._deliver(device.now())
        while True:
            step = core.plan(device.now(), self._horizon)
            self._sends_at()
            if step is not None:
                end = device.run(step, core)
                self._deliver(end)
                self._records.end = end
                core.step_finished(end)
                self._sends_at()
            elif self._client.has_more or not core.is_empty:
                self._sleep()
            elif not self._deliver(device.wait(None)):  # let the last prefetches land
                return

    def _sleep(self) -> None:
        core, device = self._core, self._device
        known, was_empty = self._next_known(), not core.live
        idle_since = device.now()  # after everything that looks at a real clock, which goes on meanwhile
        now = device.wait(known)
        if now == idle_since and known is None:
            msg = f"{len(core.waiting)} requests are left waiting, which no event will ever admit"
            raise RuntimeError(msg)
        self._deliver(now)
        if was_empty and self._idle_poll_ticks:
            boundary = now + (idle_since - now) % self._idle_poll_ticks
            while device.now() < boundary:
                self._deliver(device.wait(boundary))

    def _deliver(self, until: int) -> int:
        """Tell the core, in order, what has happened up to and including this instant; return how many things."""
        delivered = 0
        # One at a time: what one landing starts, another channel's load say, may land before the next.
        landed = next(iter(self._device.landed(until)), None)
        while True:
            sending = self._sends_at()
            arrival = NEVER if sending is None else sending
            landing = NEVER if landed is None else landed.at
            due_s = self._due_s()
            timer = NEVER if due_s is None else to_ticks(due_s)
            at, order = min((arrival, ARRIVAL), (landing, LOADED), (timer, TIMER))
            if at > until:
                return delivered
            delivered += 1
            if order == ARRIVAL:
                self._core.submit(self._client.take(), at)
            elif order == LOADED and landed is not None:
                self._records.end = at
                self._core.loaded(landed.transfer, at)
                landed = next(iter(self._device.landed(until)), None)
            elif due_s is not None:
                self._core.woken(due_s)

    def _sends_at(self) -> int | None:
        """Return when the next request goes; also asked whenever one may have left, which may be what it waits for."""
        return self._client.sends_at(len(self._core.waiting) + len(self._core.live), self._device.now())

    def _due_s(self) -> float | None:
        is_over = not self._client.has_more and self._core.is_empty
        return None if is_over else self._core.wakes_at_s()

    def _next_known(self) -> int | None:
        due_s = self._due_s()
        times = (self._sends_at(), None if due_s is None else to_ticks(due_s))
        return min((time for time in times if time is not None), default=None)

    def _horizon(self) -> int | None:
        times = (self._next_known(), self._device.next_landing())
        return min((time for time in times if time is not None), default=None)
