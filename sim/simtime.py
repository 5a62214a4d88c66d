"""Simulated time itself: instants in their order, and the channels that transfers take through it.

At one instant the order is total: arrivals, then load completions (those of the link before those of the disk), then
timers, then the engine's step boundary.
"""

from __future__ import annotations

from collections.abc import Callable

import simpy
from simpy.events import EventPriority

from sim.serving.channels import AnyChannel, channels
from sim.serving.job import AdapterSlot
from sim.serving.link import AnyTransfer

ARRIVAL, *LANDINGS, TIMER, BOUNDARY = (EventPriority(order) for order in range(1, 7))


class Moment(simpy.Event):
    """An event that happens after `delay` ticks, in its place among simultaneous ones."""

    def __init__(self, env: simpy.Environment, delay: int, order: EventPriority) -> None:
        # As simpy.Timeout does, it sets what Event.__init__ would: one is made for every step and arrival.
        self.env = env
        self.callbacks = []
        self._ok = True
        self._value = None
        env.schedule(self, order, delay)


class Bell(simpy.Event):
    """What a sleeping engine waits for, or a client that may send nothing."""

    def ring(self, delay: int, order: EventPriority) -> None:
        """Wake who waits after `delay` ticks, in its place among simultaneous events."""
        self._ok = True
        self._value = None
        self.env.schedule(self, order, delay)


class SimChannel:
    """A channel in simulated time."""

    def __init__(
        self,
        env: simpy.Environment,
        channel: AnyChannel,
        loaded: Callable[[AnyTransfer], None],
        order: EventPriority,
    ) -> None:
        self._env = env
        self._loaded = loaded
        self._order = order  # of completions among simultaneous events
        self._end: int | None = None  # when the next transfer will be complete, as far as is known
        self.channel = channel

    def send(self, transfer: AnyTransfer) -> None:
        """Hand a transfer to the channel."""
        self.channel.push(transfer, int(self._env.now))
        self._arm()

    def promote(self, slot: AdapterSlot, now: int) -> None:
        """Treat a prefetch as demand from now on."""
        self.channel.promote(slot, now)
        self._arm()

    @property
    def is_busy(self) -> bool:
        """Whether a transfer is under way."""
        return self._end is not None

    def _arm(self) -> None:
        end = self.channel.next_end()
        if end is not None and end != self._end:
            callbacks = Moment(self._env, end - int(self._env.now), self._order).callbacks
            callbacks.append(lambda _: self._done(end))
        self._end = end

    def _done(self, end: int) -> None:
        if self._end != end:
            return  # something was added since, and all of it takes longer
        self._end = None
        transfer = self.channel.take(end)
        self._arm()
        self._loaded(transfer)


class SimLink:
    """The host-to-device link, and the disk in front of it, in simulated time."""

    def __init__(self, env: simpy.Environment, loaded: Callable[[AnyTransfer], None]) -> None:
        self._channels = {
            name: SimChannel(env, channel, loaded, order)
            for (name, channel), order in zip(channels().items(), LANDINGS, strict=True)
        }

    def send(self, transfer: AnyTransfer) -> None:
        """Queue a transfer on its channel."""
        self._channels[transfer.channel].send(transfer)

    def promote(self, slot: AdapterSlot, now: int) -> None:
        """Treat a queued prefetch as demand from now on, on the disk as on the link."""
        for channel in self._channels.values():
            channel.promote(slot, now)

    @property
    def is_busy(self) -> bool:
        """Whether anything is on its way."""
        return any(channel.is_busy for channel in self._channels.values())

    def left_ticks(self, slot: AdapterSlot, now: int) -> int | None:
        """Return the ticks until an adapter will have landed; None while it is on the disk or shares the link."""
        return self._channels["link"].channel.left_ticks(slot, now)

    def busy_ticks(self, now: int) -> int:
        """Return the ticks until the transfer under way from host to GPU is complete; 0 if none is."""
        return self._channels["link"].channel.busy_ticks(now)
