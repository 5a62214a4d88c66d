"""Bytes on the GPU: what fits, who leaves first, and the law that they add up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.base import Adapter, Cache
from policies.eviction import LFU, LRU
from sim.serving.job import AdapterSlot
from sim.serving.memory import GpuMemory, MemoryLimits


class ById(Cache):
    """Keeps what comes later in the alphabet."""

    def score(self, adapter: Adapter, now: float) -> float:
        return float(ord(adapter.id))


class Gpu:
    """A GPU with adapters of given sizes: a, b, c, ... loaded at ticks 1, 2, 3, ... and idle."""

    def __init__(
        self,
        *sizes: int,
        total: int = 1000,
        kv_limit: int | None = None,
        adapter_limit: int | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.left: list[str] = []
        limits = MemoryLimits(total, kv_limit or total, total if adapter_limit is None else adapter_limit, 1)
        self.memory = GpuMemory(limits, cache or LRU(), lambda slot, now: self.left.append(slot.adapter.id))
        self.slots = [AdapterSlot(Adapter("abcdef"[i], 8, size), i) for i, size in enumerate(sizes)]
        for now, slot in enumerate(self.slots, 1):
            self.memory.hold(slot, now)
            self.memory.landed(slot)


def newcomer(size: int, name: str = "z") -> AdapterSlot:
    return AdapterSlot(Adapter(name, 8, size), 9)


def test_adapters_leave_in_the_order_of_their_scores() -> None:
    gpu = Gpu(300, 300, 300, cache=ById())
    assert gpu.memory.make_room(0, 500, 10)
    assert gpu.left == ["a", "b"]


def test_nobody_leaves_while_there_is_room() -> None:
    gpu = Gpu(300, 300)
    assert gpu.memory.make_room(400, 0, 10)
    assert gpu.left == []


def test_no_more_leave_than_must() -> None:
    gpu = Gpu(300, 300, 300)
    assert gpu.memory.make_room(0, 400, 10)
    assert gpu.left == ["a"]


def test_tokens_make_adapters_leave_too() -> None:
    gpu = Gpu(300, 300, 300)
    assert gpu.memory.make_room(101, 0, 10)
    assert gpu.left == ["a"]


def test_an_adapter_that_a_waiting_request_needs_goes_last() -> None:
    gpu = Gpu(300, 300, 300)
    gpu.slots[0].queued = 1
    assert gpu.memory.make_room(0, 500, 10)
    assert gpu.left == ["b", "c"]


def test_an_adapter_that_a_waiting_request_needs_goes_if_nothing_else_is_left() -> None:
    gpu = Gpu(300, 300, 300)
    gpu.slots[0].queued = 1
    assert gpu.memory.make_room(0, 1000, 10)
    assert gpu.left == ["b", "c", "a"]


def test_an_adapter_in_use_is_not_evicted() -> None:
    gpu = Gpu(300, 300, 300)
    gpu.memory.acquire(gpu.slots[0])
    assert gpu.memory.make_room(0, 500, 10)
    assert gpu.left == ["b", "c"]
    assert not gpu.memory.make_room(0, 800, 10)
    with pytest.raises(RuntimeError, match=r"cannot evict Adapter\('a', .*held=True ready=True users=1"):
        gpu.memory.evict(gpu.slots[0], 10)


def test_an_adapter_that_one_of_two_users_has_released_is_still_in_use() -> None:
    gpu = Gpu(600)
    gpu.memory.acquire(gpu.slots[0])
    gpu.memory.acquire(gpu.slots[0])
    gpu.memory.release(gpu.slots[0])
    assert not gpu.memory.make_room(0, 500, 10)
    gpu.memory.release(gpu.slots[0])
    assert gpu.memory.make_room(0, 500, 10)


def test_a_loading_adapter_is_not_evicted() -> None:
    gpu = Gpu(300)
    loading = newcomer(400)
    gpu.memory.hold(loading, 5)
    assert not gpu.memory.make_room(0, 700, 10)
    assert gpu.left == []
    with pytest.raises(RuntimeError, match="ready=False"):
        gpu.memory.evict(loading, 10)
    gpu.memory.landed(loading)
    assert gpu.memory.make_room(0, 700, 10)
    assert gpu.left == ["a", "z"]


def test_nobody_leaves_if_that_would_not_make_enough_room() -> None:
    gpu = Gpu(300, 300)
    assert not gpu.memory.make_room(0, 1001, 10)
    assert gpu.left == []


def test_of_equal_scores_the_one_used_longest_ago_leaves() -> None:
    gpu = Gpu(300, 300, cache=LFU())
    gpu.slots[0].last_used = 7
    assert gpu.memory.make_room(0, 500, 10)
    assert gpu.left == ["b"]


def test_of_equal_scores_and_times_the_first_of_the_palette_leaves() -> None:
    gpu = Gpu(300, 300, cache=LFU())
    gpu.slots[0].last_used = gpu.slots[1].last_used
    gpu.memory.idle = dict.fromkeys(reversed(gpu.slots))
    assert gpu.memory.make_room(0, 500, 10)
    assert gpu.left == ["a"]


def test_a_prefetch_evicts_only_what_scores_lower() -> None:
    gpu = Gpu(300, 300, 300, cache=ById())
    assert not gpu.memory.make_room_below(newcomer(500, "b"), 10)
    assert gpu.left == []
    assert gpu.memory.make_room_below(newcomer(400, "b"), 10)
    assert gpu.left == ["a"]


def test_a_prefetch_evicts_nothing_that_a_waiting_request_needs() -> None:
    gpu = Gpu(300, 300, 300, cache=ById())
    gpu.slots[0].queued = 1
    assert gpu.memory.make_room_below(newcomer(400), 10)
    assert gpu.left == ["b"]
    gpu.slots[2].queued = 1
    assert not gpu.memory.make_room_below(newcomer(600), 10)
    assert gpu.left == ["b"]


def test_adapters_stay_within_their_limit() -> None:
    gpu = Gpu(300, adapter_limit=500)
    assert not gpu.memory.has_room_for(newcomer(201))
    assert gpu.memory.has_room_for(newcomer(200))
    assert not gpu.memory.can_make_room(0, 501)
    assert gpu.memory.make_room(0, 201, 10)
    assert gpu.left == ["a"]


def test_tokens_stay_within_their_limit_however_much_is_free() -> None:
    gpu = Gpu(100, kv_limit=400)
    assert gpu.memory.can_make_room(400, 0)
    assert not gpu.memory.can_make_room(401, 0)


def test_an_idle_adapter_that_must_stay_makes_no_room() -> None:
    gpu = Gpu(300, 300)
    assert gpu.memory.can_make_room(1000, 0)
    assert not gpu.memory.can_make_room(1000, 0, keep=gpu.slots[0])
    assert gpu.memory.can_make_room(700, 0, keep=gpu.slots[0])


def test_the_peak_test_is_strict_and_counts_only_adapters_in_use() -> None:
    gpu = Gpu(300, 200)
    gpu.memory.acquire(gpu.slots[0])
    assert gpu.memory.kv_cap_tokens(0) == 699
    assert gpu.memory.kv_cap_tokens(200) == 499
    assert Gpu(300, kv_limit=400).memory.kv_cap_tokens(0) == 399


@pytest.mark.parametrize(
    ("tokens", "adapter_bytes", "fits"),
    [(599, 400, True), (600, 400, False), (799, 0, True), (800, 0, False), (1, 500, True), (1, 501, False)],
)
def test_a_request_that_fills_the_memory_does_not_fit(tokens: int, adapter_bytes: int, fits: bool) -> None:
    reason = MemoryLimits(1000, 800, 500, 1).why_not(tokens, adapter_bytes)
    assert (reason is None) == fits
    if reason is not None:
        assert f"{tokens} tokens with an adapter of {adapter_bytes} bytes exceed the memory" in reason


def test_limits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="memory limits must be positive"):
        MemoryLimits(0, 1, 1, 1)
    with pytest.raises(ValueError, match="memory limits must be positive"):
        MemoryLimits(10, 10, -1, 1)


def cook_total(gpu: Gpu) -> None:
    gpu.memory.adapter_bytes += 1


def cook_active(gpu: Gpu) -> None:
    gpu.memory.active_bytes += 1


def cook_idle(gpu: Gpu) -> None:
    gpu.memory.idle_bytes -= 1


def cook_list(gpu: Gpu) -> None:
    gpu.memory.idle.clear()


def cook_tokens(gpu: Gpu) -> None:
    gpu.memory.kv_bytes = 701


def cook_debt(gpu: Gpu) -> None:
    gpu.memory.kv_bytes = -1


def cook_limit(gpu: Gpu) -> None:
    gpu.memory.adapter_limit = 299


def cook_kv_limit(gpu: Gpu) -> None:
    gpu.memory.kv_limit, gpu.memory.kv_bytes = 10, 11


@pytest.mark.parametrize(
    "cook", [cook_total, cook_active, cook_idle, cook_list, cook_tokens, cook_debt, cook_limit, cook_kv_limit]
)
def test_cooked_books_do_not_balance(cook: Callable[[Gpu], None]) -> None:
    gpu = Gpu(300)
    gpu.memory.check()
    cook(gpu)
    with pytest.raises(RuntimeError, match="memory does not balance: total=1000"):
        gpu.memory.check()
