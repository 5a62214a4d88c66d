"""GPU memory in bytes: KV cache, adapters, and what is free. It counts; the cache policy only ranks who may leave.

Three limits express every layout. `total` is what KV and adapters share, `kv_limit` and `adapter_limit` bound each of
them: S-LoRA's unified pool has all three equal, an adapter cache in idle memory has adapter_limit = total, a reserved
region has kv_limit + adapter_limit = total.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policies.base import Cache, are_finite
from sim.serving.job import AdapterSlot
from sim.serving.options import UNLIMITED
from sim.serving.ticks import TICKS_PER_S


class HostMemory(NamedTuple):
    """Host RAM for adapters: bytes, whether it is filled before the first request, and the most adapters in it."""

    capacity_bytes: int
    starts_warm: bool = True
    capacity_adapters: int = UNLIMITED


@dataclass(frozen=True)
class MemoryLimits:
    """Bytes that KV and adapters may take, together and each.

    Attributes:
        slot_bytes: what every adapter takes where it has a slot of the largest rank; None: its own size.
        host: host RAM under the GPU's memory; None: every adapter is there for good.
    """

    total_bytes: int
    kv_limit_bytes: int
    adapter_limit_bytes: int
    kv_token_bytes: int
    slot_bytes: int | None = None
    host: HostMemory | None = None

    def __post_init__(self) -> None:
        if min(self.total_bytes, self.kv_limit_bytes, self.kv_token_bytes) <= 0 or self.adapter_limit_bytes < 0:
            msg = f"memory limits must be positive, got {self}"
            raise ValueError(msg)

    def why_not(self, kv_tokens: int, adapter_bytes: int) -> str | None:
        """Return why a request of this size can never be served, even alone; None if it can."""
        beside = (min(self.kv_limit_bytes, self.total_bytes - adapter_bytes) - 1) // self.kv_token_bytes
        if kv_tokens <= beside and adapter_bytes <= self.adapter_limit_bytes:
            return None
        return (
            f"{kv_tokens} tokens with an adapter of {adapter_bytes} bytes exceed the memory: {max(beside, 0)} tokens "
            f"beside it, adapters of {self.adapter_limit_bytes} bytes"
        )


class GpuMemory:
    """Bytes in use on one GPU, with its conservation law in `check`."""

    def __init__(self, limits: MemoryLimits, cache: Cache, evicted: Callable[[AdapterSlot, int], None]) -> None:
        self.limits = limits
        self.total = limits.total_bytes
        self.kv_limit = limits.kv_limit_bytes
        self.adapter_limit = limits.adapter_limit_bytes
        self.token_bytes = limits.kv_token_bytes
        self.kv_bytes = 0
        self.adapter_bytes = 0  # all held adapters, in flight included, and the base model's slot
        self.active_bytes = 0  # adapters of admitted requests, and the base model's slot
        self.base_bytes = 0  # of that slot, while it is used
        self.idle_bytes = 0  # evictable now
        self.idle: dict[AdapterSlot, None] = {}
        self.held: dict[AdapterSlot, None] = {}
        self.changed = False
        self._cache = cache
        self._evicted = evicted

    @property
    def free_bytes(self) -> int:
        """Bytes that neither KV nor adapters hold."""
        return self.total - self.kv_bytes - self.adapter_bytes

    @property
    def kv_room_bytes(self) -> int:
        """Bytes that KV may still take without any eviction."""
        free = self.total - self.kv_bytes - self.adapter_bytes
        room = self.kv_limit - self.kv_bytes
        return free if free < room else room

    def kv_cap_tokens(self, new_active_bytes: int) -> int:
        """Return the most KV tokens that S-LoRA's strict test allows beside the active adapters and some more."""
        return (min(self.kv_limit, self.total - self.active_bytes - new_active_bytes) - 1) // self.token_bytes

    def can_make_room(self, kv_bytes: int, adapter_bytes: int, keep: AdapterSlot | None = None) -> bool:
        """Whether evicting idle adapters other than `keep` could free this much."""
        spare = self.idle_bytes - (keep.size if keep is not None and keep.idle else 0)
        if self.free_bytes + spare < kv_bytes + adapter_bytes or self.kv_bytes + kv_bytes > self.kv_limit:
            return False
        return self.adapter_bytes - spare + adapter_bytes <= self.adapter_limit

    def has_room_for(self, slot: AdapterSlot) -> bool:
        """Whether an adapter fits without any eviction."""
        return not self._lacks(0, slot.size)

    def make_room(self, kv_bytes: int, adapter_bytes: int, now: int) -> bool:
        """Evict idle adapters, lowest score first and those of waiting requests last, until this much is free."""
        if not self._lacks(kv_bytes, adapter_bytes):
            return True
        if not self.can_make_room(kv_bytes, adapter_bytes):
            return False
        for slot in self._ranked(self.idle, now):
            self.evict(slot, now)
            if not self._lacks(kv_bytes, adapter_bytes):
                break
        return True

    def make_room_below(self, slot: AdapterSlot, now: int) -> bool:
        """Make room for a prefetch by evicting only unwanted adapters that score lower than it; or change nothing."""
        if not self._lacks(0, slot.size):
            return True
        rivals = [one for one in self.idle if not one.queued]
        *scores, own = self._scores([*rivals, slot], now)
        lower = {one: score for one, score in zip(rivals, scores, strict=True) if score < own}
        order = sorted(lower, key=lambda one: (lower[one], one.last_used, one.index))
        return self._evict_from(order, slot, now)

    def make_room_beside_queued(self, slot: AdapterSlot, now: int) -> bool:
        """Make room for an adapter by evicting only idle ones that no waiting request needs; or change nothing."""
        if not self._lacks(0, slot.size):
            return True
        return self._evict_from(self._ranked((one for one in self.idle if not one.queued), now), slot, now)

    def hold(self, slot: AdapterSlot, now: int) -> None:
        """Take the bytes of an adapter whose transfer starts."""
        slot.held = True
        slot.last_used = now
        self.held[slot] = None
        self.adapter_bytes += slot.size
        self.changed = True
        self._cache.loaded(slot.adapter, now / TICKS_PER_S)

    def landed(self, slot: AdapterSlot) -> None:
        """Take note that an adapter's transfer is complete."""
        slot.ready = True
        if not slot.users:
            self.idle[slot] = None
            self.idle_bytes += slot.size

    def acquire(self, slot: AdapterSlot) -> None:
        """Add one user; a used adapter is not evictable."""
        slot.users += 1
        if slot.users == 1:
            self.active_bytes += slot.size
            self.changed = True
            if slot.ready:
                del self.idle[slot]
                self.idle_bytes -= slot.size

    def release(self, slot: AdapterSlot) -> None:
        """Take one user away."""
        slot.users -= 1
        if not slot.users:
            self.active_bytes -= slot.size
            self.changed = True
            if slot.ready:
                self.idle[slot] = None
                self.idle_bytes += slot.size

    def take_base(self, size_bytes: int) -> None:
        """Let the base model have a slot of so many bytes, 0 for none any more."""
        self.adapter_bytes += size_bytes - self.base_bytes
        self.active_bytes += size_bytes - self.base_bytes
        self.base_bytes = size_bytes
        self.changed = True

    def evict(self, slot: AdapterSlot, now: int) -> None:
        """Give back an idle adapter's bytes.

        Raises:
            RuntimeError: if the adapter is used, in flight or not there.
        """
        if not slot.idle:
            msg = f"cannot evict {slot.adapter!r}: held={slot.held} ready={slot.ready} users={slot.users}"
            raise RuntimeError(msg)
        del self.idle[slot]
        del self.held[slot]
        self.idle_bytes -= slot.size
        self.adapter_bytes -= slot.size
        slot.held = slot.ready = slot.prefetched = slot.fetched = False
        self.changed = True
        self._cache.evicted(slot.adapter, now / TICKS_PER_S)
        self._evicted(slot, now)

    def check(self) -> None:
        """Raise RuntimeError with all numbers if the books do not balance."""
        held = self.base_bytes + sum(slot.size for slot in self.held)
        active = self.base_bytes + sum(slot.size for slot in self.held if slot.users)
        idle = sum(slot.size for slot in self.held if slot.idle)
        books = (held, active, idle) == (self.adapter_bytes, self.active_bytes, self.idle_bytes)
        known = set(self.idle) == {slot for slot in self.held if slot.idle}
        bounds = 0 <= self.kv_bytes <= self.kv_limit and held <= self.adapter_limit and self.free_bytes >= 0
        if not (books and known and bounds):
            msg = (
                f"memory does not balance: total={self.total} free={self.free_bytes} "
                f"kv={self.kv_bytes}/{self.kv_limit} adapters={self.adapter_bytes}/{self.adapter_limit} (sum {held}) "
                f"active={self.active_bytes} (sum {active}) idle={self.idle_bytes} (sum {idle})"
            )
            raise RuntimeError(msg)

    def _lacks(self, kv_bytes: int, adapter_bytes: int) -> bool:
        over = adapter_bytes and self.adapter_bytes + adapter_bytes > self.adapter_limit
        over = over or (kv_bytes and self.kv_bytes + kv_bytes > self.kv_limit)
        return bool(over) or self.free_bytes < kv_bytes + adapter_bytes

    def _evict_from(self, order: Sequence[AdapterSlot], slot: AdapterSlot, now: int) -> bool:
        spare = sum(one.size for one in order)
        if self.free_bytes + spare < slot.size or self.adapter_bytes - spare + slot.size > self.adapter_limit:
            return False
        for one in order:
            self.evict(one, now)
            if not self._lacks(0, slot.size):
                break
        return True

    def _ranked(self, slots: Iterable[AdapterSlot], now: int) -> list[AdapterSlot]:
        idle = list(slots)
        scores = self._scores(idle, now)
        order = sorted(
            zip(idle, scores, strict=True),
            key=lambda pair: (pair[0].queued > 0, pair[1], pair[0].last_used, pair[0].index),
        )
        return [slot for slot, _ in order]

    def _scores(self, slots: Sequence[AdapterSlot], now: int) -> Sequence[float]:
        scores = self._cache.scores([slot.adapter for slot in slots], now / TICKS_PER_S)
        if len(scores) != len(slots) or not are_finite(scores):
            msg = (
                f"cache {type(self._cache).__name__}: scores of {len(slots)} adapters gave {list(scores)!r:.200}; "
                "a finite number for each is expected"
            )
            raise RuntimeError(msg)
        return scores
