"""A device that takes exactly the modelled time, on a virtual clock: the fake behind the parity test and CPU runs."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_validate.replay import Landed
from sim.core import Core
from sim.serving.channels import channels
from sim.serving.job import AdapterSlot
from sim.serving.link import AnyTransfer
from sim.serving.steps import Step


class ModelledDevice:
    """Steps last as planned, and transfers as their channel has it."""

    def __init__(self) -> None:
        self._now = 0
        self._channels = channels()

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
        self._channels[transfer.channel].push(transfer, transfer.queued)

    def promote(self, slot: AdapterSlot, now: int) -> None:
        """Treat a queued prefetch as demand from now on."""
        for channel in self._channels.values():
            channel.promote(slot, now)

    def left_ticks(self, slot: AdapterSlot, now: int) -> int | None:
        """Return the ticks until an adapter will have landed; None while it is on the disk or shares the link."""
        return self._channels["link"].left_ticks(slot, now)

    def busy_ticks(self, now: int) -> int:
        """Return the ticks until the transfer under way from host to GPU is complete; 0 if none is."""
        return self._channels["link"].busy_ticks(now)

    def landed(self, until: int) -> Iterator[Landed]:
        """Yield what is complete by then, in order; each completion starts the next transfer."""
        while (at := self.next_landing()) is not None and at <= until:
            channel = next(one for one in self._channels.values() if one.next_end() == at)
            yield Landed(at, channel.take(at))

    def next_landing(self) -> int | None:
        """Return when the first of the transfers under way will be complete."""
        ends = [channel.next_end() for channel in self._channels.values()]
        return min((end for end in ends if end is not None), default=None)

    def wait(self, until: int | None) -> int:
        """Jump to the next transfer's end or to `until`, whichever comes first."""
        times = [time for time in (until, self.next_landing()) if time is not None]
        self._now = max(self._now, min(times, default=self._now))
        return self._now
