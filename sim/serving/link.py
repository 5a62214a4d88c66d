"""Transfers and the queues that they wait in: the host-to-device link, and the disk in front of it.

Demand goes before prefetch, each class in order. Queues order and count; whoever drives them (SimPy or a real copy
engine) does the waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Literal, Protocol

from sim.serving.job import AdapterSlot, Job

Channel = Literal["link", "shared", "disk"]  # the host link first come first served, the same shared, the disk


class Transfer:
    """Bytes on their way: an adapter, or the KV of a request that comes back from the host.

    Attributes:
        ticks: how long the channel will be busy with it, alone.
        queued: when it was asked for.
        started: when the channel took it up.
        is_demand: whether an admitted request waits for it.
    """

    __slots__ = ("is_demand", "queued", "started", "ticks")

    def __init__(self, ticks: int, queued: int, *, is_demand: bool) -> None:
        self.ticks = ticks
        self.queued = queued
        self.started = queued
        self.is_demand = is_demand


class AdapterTransfer(Transfer):
    """An adapter on its way to the GPU, or from disk to the host."""

    __slots__ = ("channel", "slot")

    def __init__(
        self, slot: AdapterSlot, ticks: int, queued: int, *, is_demand: bool, channel: Channel = "link"
    ) -> None:
        super().__init__(ticks, queued, is_demand=is_demand)
        self.slot = slot
        self.channel = channel


class KvTransfer(Transfer):
    """The KV of a preempted request on its way back to the GPU."""

    __slots__ = ("channel", "job", "size_bytes")

    def __init__(self, job: Job, size_bytes: int, ticks: int, queued: int, *, channel: Channel = "link") -> None:
        super().__init__(ticks, queued, is_demand=True)
        self.job = job
        self.channel = channel
        self.size_bytes = size_bytes


AnyTransfer = AdapterTransfer | KvTransfer


class Link(Protocol):
    """What the core needs from a link."""

    def send(self, transfer: AnyTransfer) -> None:
        """Queue a transfer on its channel; the driver calls `Core.loaded` when it is complete."""

    def promote(self, slot: AdapterSlot, now: int) -> None:
        """Treat a queued prefetch as demand from now on; a transfer under way is left alone."""

    def left_ticks(self, slot: AdapterSlot, now: int) -> int | None:
        """Return the ticks until an adapter will have landed on the GPU; None if nobody can know."""

    def busy_ticks(self, now: int) -> int:
        """Return the ticks until the transfer under way from host to GPU is complete; 0 if none is, or nobody knows."""


class LinkQueue:
    """Transfers that wait for one channel."""

    def __init__(self) -> None:
        self._demand: deque[AnyTransfer] = deque()
        self._prefetch: deque[AnyTransfer] = deque()

    def __len__(self) -> int:
        return len(self._demand) + len(self._prefetch)

    def __iter__(self) -> Iterator[AnyTransfer]:
        """Yield transfers in the order in which they will go."""
        return chain(self._demand, self._prefetch)

    def push(self, transfer: AnyTransfer) -> None:
        """Add a transfer behind those of its class."""
        (self._demand if transfer.is_demand else self._prefetch).append(transfer)

    def pop(self) -> AnyTransfer:
        """Take the next transfer.

        Raises:
            IndexError: if none waits.
        """
        return self._demand.popleft() if self._demand else self._prefetch.popleft()

    def promote(self, slot: AdapterSlot) -> None:
        """Move the queued prefetch of `slot`, if there is one, behind the demand loads."""
        for transfer in self._prefetch:
            if isinstance(transfer, AdapterTransfer) and transfer.slot is slot:
                self._prefetch.remove(transfer)
                self._demand.append(transfer)
                return

    def left_ticks(self, slot: AdapterSlot, under_way: AnyTransfer | None, now: int) -> int | None:
        """Return the ticks until the transfer of `slot` is complete, if it is here or under way; None if it is not."""
        left = 0 if under_way is None else max(under_way.started + under_way.ticks - now, 0)
        if isinstance(under_way, AdapterTransfer) and under_way.slot is slot:
            return left
        for transfer in self:
            left += transfer.ticks
            if isinstance(transfer, AdapterTransfer) and transfer.slot is slot:
                return left
        return None
