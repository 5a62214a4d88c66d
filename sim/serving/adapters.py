"""The adapters of one engine: which are on the GPU, which are on their way, and which must leave.

Policies say what is worth keeping or fetching; who may leave, what fits and what goes over the link is settled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from policies.base import Adapter, Cache, Prefetch, Request
from sim.serving.job import AdapterSlot, Job
from sim.serving.ledger import Ledger
from sim.serving.link import AdapterTransfer, Channel, Link
from sim.serving.memory import GpuMemory, MemoryLimits
from sim.serving.options import EngineOptions
from sim.serving.records import SOURCES
from sim.serving.shape import Costs
from sim.serving.ticks import TICKS_PER_S
from sim.serving.tiers import HostTier

BASE_MODEL, RESIDENT, PREFETCHED, IN_FLIGHT, ON_HOST, ON_DISK = range(len(SOURCES))

MOST_WANTED_AT_ONCE = 1_000_000  # a prefetcher that never ends would hang the run


class AdapterTraffic:
    """Loads, prefetches and evictions on one GPU.

    Args:
        adapters: the trace's palette; None stands for the base model.
        limits: memory that adapters share with KV.
        costs: how long a load keeps the link busy.
        cache, prefetch: the policies.
        link: takes transfers.
        ledger: is told what happens.
        changed: called whenever an answer that a policy gave may no longer hold.
        options: how the link serves transfers, and what a load costs when all slots are in use.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter | None],
        limits: MemoryLimits,
        costs: Costs,
        *,
        cache: Cache,
        prefetch: Prefetch,
        link: Link,
        ledger: Ledger,
        changed: Callable[[], None],
        options: EngineOptions,
    ) -> None:
        self.memory = GpuMemory(limits, cache, self._evicted)
        self.palette = [
            None if adapter is None else AdapterSlot(adapter, i, limits.slot_bytes)
            for i, adapter in enumerate(adapters)
        ]
        self.slots = {slot.adapter: slot for slot in self.palette if slot is not None}
        self.missing = 0  # adapters that waiting requests need and that are not even on their way
        self.active = 0  # distinct adapters of admitted requests, the base model among them if it has a slot
        self.base_users = 0  # admitted requests without an adapter
        self.asks = False  # whether something has changed since `prefetch` was last asked
        self.prefetch_steps = None if prefetch.asks_at_steps is None else tuple(sorted(prefetch.asks_at_steps))
        self.prefetches = type(prefetch).wanted is not Prefetch.wanted
        self._costs = costs
        self._cache = cache
        self._prefetch = prefetch
        self._link = link
        self._ledger = ledger
        self._changed = changed
        self._channel: Channel = "shared" if options.fair_link else "link"
        self._options = options
        self._base_bytes = (limits.slot_bytes or 0) if options.base_slot else 0
        self._drops = type(cache).drops is not Cache.drops
        self._announces = type(cache).announced is not Cache.announced
        self._asked_at_step: int | None = None
        host, slots = limits.host, self.slots.values()
        self._host = None if host is None else HostTier(host, slots)

    def queued(self, slot: AdapterSlot) -> None:
        """One more waiting request needs this adapter."""
        slot.queued += 1
        self.missing += slot.queued == 1 and not slot.held

    def unqueued(self, slot: AdapterSlot) -> None:
        """One waiting request less needs this adapter."""
        slot.queued -= 1
        self.missing -= slot.queued == 0 and not slot.held

    def pin(self, slot: AdapterSlot) -> None:
        """Add a user that keeps the adapter where it is."""
        self.memory.acquire(slot)
        self.active += slot.users == 1

    def acquire(self, slot: AdapterSlot, now: int) -> int:
        """Give the adapter to a request that no longer waits; return where it was (an index into SOURCES)."""
        is_on_host = self._host is None or self._host.has(slot)  # asked for every request: each is a use of that copy
        source = RESIDENT if slot.ready else IN_FLIGHT if slot.held else ON_HOST if is_on_host else ON_DISK
        if slot.prefetched:
            source = PREFETCHED if slot.ready else IN_FLIGHT
            slot.prefetched = False
            self._ledger.prefetch_was_useful(slot)
        elif slot.fetched:
            source, slot.fetched = ON_DISK if slot.was_read else ON_HOST, False
        self.unqueued(slot)
        self.pin(slot)
        slot.last_used = now
        self._cache.used(slot.adapter, now / TICKS_PER_S)
        return source

    def release(self, slot: AdapterSlot) -> None:
        """Take the adapter back from a request that has left the batch, or from another user."""
        self.memory.release(slot)
        self.active -= slot.users == 0

    def base_joined(self) -> None:
        """Take note that a request without an adapter is admitted; its memory is free."""
        self.base_users += 1
        if self.base_users == 1 and self._options.base_slot:
            self.active += 1
            self.memory.take_base(self._base_bytes)

    def base_left(self) -> None:
        """Take note that such a request has left; after the last one the base model's slot is anybody's."""
        self.base_users -= 1
        if not self.base_users and self._options.base_slot:
            self.active -= 1
            self.memory.take_base(0)

    def is_used(self, slot: AdapterSlot | None) -> bool:
        """Whether one more request with this adapter (None: without any) needs no place that others do not have."""
        return slot.users > 0 if slot is not None else self.base_users > 0 or not self._options.base_slot

    def is_last_user(self, slot: AdapterSlot | None) -> bool:
        """Whether a place comes free if a request with this adapter (None: without any) leaves."""
        return slot.users == 1 if slot is not None else self.base_users == 1 and self._options.base_slot

    def size_of(self, slot: AdapterSlot | None) -> int:
        """Return the bytes that an adapter (None: the base model) takes while it is used."""
        return self._base_bytes if slot is None else slot.size

    def absent_bytes(self, slot: AdapterSlot | None) -> int:
        """Return the bytes that must be found before a request with this adapter (None: without any) is admitted."""
        is_there = slot.held if slot is not None else self.base_users > 0
        return 0 if is_there else self.size_of(slot)

    def demand(self, slot: AdapterSlot, job: Job, now: int) -> None:
        """Bring in the adapter that an admitted request lacks."""
        if slot.held:
            self._link.promote(slot, now)
        else:
            job.loads_for_itself = True
            self._load(slot, now, is_demand=True)
        slot.waiters.append(job)

    def try_fetch(self, slot: AdapterSlot, now: int) -> bool:
        """Send for an adapter because the scheduler says so; True if it is there, on its way or now sent for."""
        if slot.held:
            return True
        has_room = self.memory.make_room_beside_queued(slot, now)
        if has_room:
            self._load(slot, now, is_demand=True)
            slot.fetched = True
        return has_room

    def read(self, transfer: AdapterTransfer, now: int) -> None:
        """An adapter has come from disk to the host: send it on."""
        self._ledger.read(transfer, now)
        if self._host is not None:
            self._host.take_in(transfer.slot)
        self._send(transfer.slot, now, is_demand=transfer.is_demand)
        if transfer.slot.waiters:  # somebody was admitted while it was read ahead of need
            self._link.promote(transfer.slot, now)

    def landed(self, transfer: AdapterTransfer, now: int) -> None:
        """An adapter is complete on the GPU: tell those that wait for it."""
        slot = transfer.slot
        self.memory.landed(slot)
        self._ledger.transferred(transfer, now)
        for job in slot.waiters:
            self._ledger.adapter_ready(job, transfer, now)
        slot.waiters.clear()

    def load_ticks(self, slot: AdapterSlot) -> int:
        """Return how long the link is busy with an adapter, and with those that it sends away although they are in use.

        vLLM's worker (0.8.5, LRUCacheWorkerLoRAManager) activates the adapters of a step one by one in an
        order of its own, each in place of the one touched least recently. With every slot in use, that may be one of
        this step whose turn is still to come; it then takes the next one's place, and so on up to the slot that had
        come free. With both places random that is one in six of all slots on average.
        """
        ticks = self._costs.load(slot.adapter.size_bytes)
        all_are_used = self.active >= self._options.distinct_adapters
        return ticks * (1 + self._options.returning_loads) if all_are_used else ticks

    def drop(self, now: int, *, batch_is_empty: bool) -> None:
        """Let the cache policy give back idle adapters after a decode step that ended a request."""
        if not (self._drops and self.memory.idle):
            return
        idle = [slot.adapter for slot in self.memory.idle]
        for adapter in list(self._cache.drops(idle, now / TICKS_PER_S, batch_is_empty=batch_is_empty)):
            self.memory.evict(self.slots[adapter], now)

    def is_prefetch_due(self, step: int, since_admission: int) -> bool:
        """Whether the prefetcher is to be asked at this boundary; one that counts steps is asked once per step."""
        if not self.prefetches:
            return False
        if self.prefetch_steps is not None:
            return since_admission in self.prefetch_steps and self._asked_at_step != step
        return self.asks and (self.missing > 0 or not self._prefetch.only_waiting)

    def prefetch(self, waiting: Iterable[Request], step: int, now: int) -> None:
        """Start the transfers that the prefetcher wants, up to the first that finds no room."""
        self.asks = False
        self._asked_at_step = step
        now_s = now / TICKS_PER_S
        wants_any = False
        asked: list[Adapter] = []
        for count, adapter in enumerate(self._prefetch.wanted(waiting, now_s)):
            wants_any = True
            if count > MOST_WANTED_AT_ONCE:
                msg = f"prefetch {type(self._prefetch).__name__}: wanted has named {count} adapters and goes on"
                raise RuntimeError(msg)
            if (slot := self.slots.get(adapter)) is None:
                msg = f"prefetch {type(self._prefetch).__name__}: wanted gave {adapter!r}, no adapter of this workload"
                raise RuntimeError(msg)
            if not self._is_brought(slot, now):
                break
            asked.append(adapter)
            if not self.missing and self._prefetch.only_waiting and not self._announces:
                break
        if wants_any and self._announces:
            self._cache.announced(asked, now_s)

    def _is_brought(self, slot: AdapterSlot, now: int) -> bool:
        if slot.held:
            return True
        may_evict = self._prefetch.may_evict and slot.queued > 0
        has_room = self.memory.make_room_below(slot, now) if may_evict else self.memory.has_room_for(slot)
        if has_room:
            self._load(slot, now, is_demand=False)
            slot.prefetched = True
        return has_room

    def _load(self, slot: AdapterSlot, now: int, *, is_demand: bool) -> None:
        self.missing -= slot.queued > 0
        self.memory.hold(slot, now)
        slot.was_read = self._host is not None and not self._host.has(slot)
        if not slot.was_read:
            self._send(slot, now, is_demand=is_demand)
            return
        ticks = self._costs.read(slot.adapter.size_bytes)
        self._link.send(AdapterTransfer(slot, ticks, now, is_demand=is_demand, channel="disk"))

    def _send(self, slot: AdapterSlot, now: int, *, is_demand: bool) -> None:
        ticks = self.load_ticks(slot)
        self._link.send(AdapterTransfer(slot, ticks, now, is_demand=is_demand, channel=self._channel))

    def _evicted(self, slot: AdapterSlot, now: int) -> None:
        self.missing += slot.queued > 0
        self._ledger.evicted(slot, now)
        self._changed()
