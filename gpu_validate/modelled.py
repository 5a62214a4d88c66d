"""A device that takes exactly the modelled time, on a virtual clock: the fake behind the parity test and CPU runs."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_validate.replay import Landed
from sim.core import Core
from sim.job import AdapterSlot
from sim.link import CHANNELS, AnyTransfer, LinkQueue
from sim.steps import Step


class _Lane:
    """One channel: its queue, and the transfer under way."""

    def __init__(self) -> None:
        self.queue = LinkQueue()
        self.under_way: AnyTransfer | None = None

    @property
    def lands_at(self) -> int | None:
        return None if self.under_way is None else self.under_way.started + self.under_way.ticks

    def start(self, at: int) -> None:
        self.under_way = self.queue.pop()
        self.under_way.started = at

    def pop(self, at: int) -> AnyTransfer:
        if self.under_way is None:
            msg = "nothing is under way"
            raise RuntimeError(msg)
        transfer, self.under_way = self.under_way, None
        if self.queue:
            self.start(at)
        return transfer


class ModelledDevice:
    """Steps last as planned, transfers as their `ticks` say, one at a time on each channel."""

    def __init__(self) -> None:
        self._now = 0
        self._lanes = {name: _Lane() for name in CHANNELS}

    def now(self) -> int:
        """Return the present in ticks."""
        return self._now

    def run(self, step: Step, core: Core) -> int:
        """Pass the planned time."""
        del core
        self._now = step.start + step.ticks
        return self._now

    def send(self, transfer: AnyTransfer) -> None:
        """Queue a transfer and start it if its channel is free."""
        lane = self._lanes[transfer.channel]
        lane.queue.push(transfer)
        if lane.under_way is None:
            lane.start(transfer.queued)

    def promote(self, slot: AdapterSlot) -> None:
        """Treat a queued prefetch as demand from now on."""
        for lane in self._lanes.values():
            lane.queue.promote(slot)

    def left_ticks(self, slot: AdapterSlot, now: int) -> int | None:
        """Return the ticks until an adapter will have landed; None while it is on the disk."""
        lane = self._lanes["link"]
        return lane.queue.left_ticks(slot, lane.under_way, now)

    def landed(self, until: int) -> Iterator[Landed]:
        """Yield what is complete by then, in order; each completion starts the next transfer."""
        while (at := self.next_landing()) is not None and at <= until:
            lane = next(lane for lane in self._lanes.values() if lane.lands_at == at)
            yield Landed(at, lane.pop(at))

    def next_landing(self) -> int | None:
        """Return when the first of the transfers under way will be complete."""
        times = [lane.lands_at for lane in self._lanes.values()]
        return min((time for time in times if time is not None), default=None)

    def wait(self, until: int | None) -> int:
        """Jump to the next transfer's end or to `until`, whichever comes first."""
        times = [time for time in (until, self.next_landing()) if time is not None]
        self._now = max(self._now, min(times, default=self._now))
        return self._now
