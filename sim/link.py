"""The host-to-device link as a queue: one transfer at a time, demand before prefetch, each class in order.

It orders and counts; whoever drives it (SimPy or a real copy engine) does the waiting.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from sim.job import AdapterSlot


class Transfer:
    """One adapter on its way to the GPU."""

    __slots__ = ("is_demand", "queued", "slot", "started", "ticks")

    def __init__(self, slot: AdapterSlot, ticks: int, queued: int, *, is_demand: bool) -> None:
        self.slot = slot
        self.ticks = ticks  # how long the link will be busy with it
        self.queued = queued
        self.started = queued
        self.is_demand = is_demand


class Link(Protocol):
    """What the core needs from a link."""

    def send(self, transfer: Transfer) -> None:
        """Queue a transfer; the driver calls `Core.loaded` when it is complete."""

    def promote(self, slot: AdapterSlot) -> None:
        """Treat a queued prefetch as demand from now on; a transfer under way is left alone."""


class LinkQueue:
    """Transfers that wait for the link."""

    def __init__(self) -> None:
        self._demand: deque[Transfer] = deque()
        self._prefetch: deque[Transfer] = deque()

    def __len__(self) -> int:
        return len(self._demand) + len(self._prefetch)

    def push(self, transfer: Transfer) -> None:
        """Add a transfer behind those of its class."""
        (self._demand if transfer.is_demand else self._prefetch).append(transfer)

    def pop(self) -> Transfer:
        """Take the next transfer.

        Raises:
            IndexError: if none waits.
        """
        return self._demand.popleft() if self._demand else self._prefetch.popleft()

    def promote(self, slot: AdapterSlot) -> None:
        """Move the queued prefetch of `slot`, if there is one, behind the demand loads."""
        for transfer in self._prefetch:
            if transfer.slot is slot:
                self._prefetch.remove(transfer)
                self._demand.append(transfer)
                return
