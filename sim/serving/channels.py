"""One channel for transfers as a driver sees it: what ends next and when. No clock: every call is told the time.

A first-come channel carries one transfer at a time. A shared one carries all of the more urgent class at once, each at
an equal part of the rate, as copies on streams of their own do.
"""

from __future__ import annotations

from sim.serving.job import AdapterSlot
from sim.serving.link import AdapterTransfer, AnyTransfer, Channel, LinkQueue

SHIFT = 20  # work is counted in parts of 2**-20 ticks, so that both drivers round alike


class FifoChannel:
    """One transfer after the other, demand before prefetch."""

    def __init__(self) -> None:
        self.queue = LinkQueue()
        self.under_way: AnyTransfer | None = None

    def push(self, transfer: AnyTransfer, now: int) -> None:
        """Queue a transfer and start it if the channel is free."""
        self.queue.push(transfer)
        if self.under_way is None:
            self._start(now)

    def next_end(self) -> int | None:
        """Return when the transfer under way will be complete."""
        return None if self.under_way is None else self.under_way.started + self.under_way.ticks

    def take(self, now: int) -> AnyTransfer:
        """Return the transfer that is complete now, and start the next.

        Raises:
            RuntimeError: if none is under way.
        """
        transfer, self.under_way = self.under_way, None
        if transfer is None:
            msg = "nothing is under way"
            raise RuntimeError(msg)
        if self.queue:
            self._start(now)
        return transfer

    def promote(self, slot: AdapterSlot, now: int) -> None:
        """Treat a queued prefetch as demand from now on."""
        del now
        self.queue.promote(slot)

    def left_ticks(self, slot: AdapterSlot, now: int) -> int | None:
        """Return the ticks until the transfer of `slot` is complete; None if it is not here."""
        return self.queue.left_ticks(slot, self.under_way, now)

    def busy_ticks(self, now: int) -> int:
        """Return the ticks until the transfer under way is complete; 0 if none is."""
        end = self.next_end()
        return 0 if end is None else max(end - now, 0)

    def _start(self, now: int) -> None:
        self.under_way = self.queue.pop()
        self.under_way.started = now


class _Shared:
    """Transfers that progress together: `done` is the work that each has got since the channel began."""

    def __init__(self) -> None:
        self.done = 0
        self.ends: dict[AnyTransfer, int] = {}  # transfer -> value of `done` at which it is complete

    def advance(self, ticks: int) -> None:
        if self.ends:
            self.done += (ticks << SHIFT) // len(self.ends)

    def left(self, transfer: AnyTransfer) -> int:
        return max(self.ends[transfer] - self.done, 0)

    def first(self) -> AnyTransfer:
        return min(self.ends, key=self.ends.__getitem__)  # the oldest of equals


class FairChannel:
    """All demand loads at once at equal rates; prefetches likewise while there are none."""

    def __init__(self) -> None:
        self._demand = _Shared()
        self._prefetch = _Shared()
        self._now = 0

    def push(self, transfer: AnyTransfer, now: int) -> None:
        """Start a transfer beside the others."""
        self._advance(now)
        transfer.started = now
        shared = self._demand if transfer.is_demand else self._prefetch
        shared.ends[transfer] = shared.done + (transfer.ticks << SHIFT)

    def next_end(self) -> int | None:
        """Return when the first of them will be complete if nothing is added."""
        active = self._active()
        if not active.ends:
            return None
        work = active.left(active.first()) * len(active.ends)
        return self._now - (-work >> SHIFT)

    def take(self, now: int) -> AnyTransfer:
        """Return the transfer that is complete now."""
        self._advance(now)
        active = self._active()
        transfer = active.first()
        del active.ends[transfer]
        transfer.ticks = now - transfer.started
        return transfer

    def promote(self, slot: AdapterSlot, now: int) -> None:
        """Move the prefetch of `slot` among the demand loads, with what is left of it."""
        self._advance(now)
        for transfer in self._prefetch.ends:
            if isinstance(transfer, AdapterTransfer) and transfer.slot is slot:
                self._demand.ends[transfer] = self._demand.done + self._prefetch.left(transfer)
                del self._prefetch.ends[transfer]
                return

    def left_ticks(self, slot: AdapterSlot, now: int) -> int | None:
        """Return None: what comes later slows down what is here."""
        del slot, now
        return None

    def busy_ticks(self, now: int) -> int:
        """Return 0: what else is sent gets its part of the rate at once."""
        del now
        return 0

    def _active(self) -> _Shared:
        return self._demand if self._demand.ends else self._prefetch

    def _advance(self, now: int) -> None:
        self._active().advance(now - self._now)
        self._now = now


AnyChannel = FifoChannel | FairChannel


def channels() -> dict[Channel, AnyChannel]:
    """Return the channels of one engine, in the order in which simultaneous ends count."""
    return {"link": FifoChannel(), "shared": FairChannel(), "disk": FifoChannel()}
