"""A device that takes exactly the modelled time, on a virtual clock: the fake behind the parity test and CPU runs."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_validate.replay import Landed
from sim.core import Core
from sim.job import AdapterSlot
from sim.link import LinkQueue, Transfer
from sim.steps import Step


class ModelledDevice:
    """Steps last as planned, transfers as their `ticks` say, one at a time."""

    def __init__(self) -> None:
        self._now = 0
        self._queue = LinkQueue()
        self._under_way: Transfer | None = None

    def now(self) -> int:
        """Return the present in ticks."""
        return self._now

    def run(self, step: Step, core: Core) -> int:
        """Pass the planned time."""
        del core
        self._now = step.start + step.ticks
        return self._now

    def send(self, transfer: Transfer) -> None:
        """Queue a transfer and start it if the link is free."""
        self._queue.push(transfer)
        if self._under_way is None:
            self._start(self._now)

    def promote(self, slot: AdapterSlot) -> None:
        """Treat a queued prefetch as demand from now on."""
        self._queue.promote(slot)

    def landed(self, until: int) -> Iterator[Landed]:
        """Yield what is complete by then; each completion starts the next transfer."""
        while (at := self.next_landing()) is not None and at <= until and self._under_way is not None:
            transfer, self._under_way = self._under_way, None
            if self._queue:
                self._start(at)
            yield Landed(at, transfer)

    def next_landing(self) -> int | None:
        """Return when the transfer under way will be complete."""
        return None if self._under_way is None else self._under_way.started + self._under_way.ticks

    def wait(self, until: int | None) -> int:
        """Jump to the next transfer's end or to `until`, whichever comes first."""
        times = [time for time in (until, self.next_landing()) if time is not None]
        self._now = max(self._now, min(times, default=self._now))
        return self._now

    def _start(self, at: int) -> None:
        self._under_way = self._queue.pop()
        self._under_way.started = at
