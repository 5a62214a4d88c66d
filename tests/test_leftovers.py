"""The queue of free blocks, as far as stopped requests look for their own in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Request
from policies.eviction import LRU
from sim.serving.job import Job
from sim.serving.kv import KvPages
from sim.serving.leftovers import Leftovers
from sim.serving.memory import GpuMemory, MemoryLimits
from tests.reference_blocks import Blocks


def job(id_: int = 0) -> Job:
    return Job(Request(id_, 0.0, 100, 10, None), 0, 10, 10, None)


Op = tuple[str, int, int]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "come", "grow", "stop", "stop"]), st.integers(0, 3), st.integers(0, 5)),
        min_size=5,
        max_size=40,
    )
)
def test_what_is_found_is_what_a_queue_of_numbered_blocks_holds(steps: list[Op]) -> None:
    blocks, leftovers, jobs = Blocks(list(range(12))), Leftovers(), [job(i) for i in range(4)]
    for what, i, count in steps:
        own, found, free = blocks.held.get(i), blocks.found(i), len(blocks.free)
        if what == "come" and own is None:
            most = min(max(count, found), free)
            leftovers.reclaim(jobs[i], found)
            leftovers.take(most - found)
            blocks.admit(i, most)
        elif what == "grow" and own is not None:
            most = min(count, free)
            leftovers.take(most)
            blocks.grow(i, len(own) + most)
        elif what == "stop" and own is not None:
            full = min(count, len(own))
            blocks.give_back(i, full)
            leftovers.leave(jobs[i], full, full, len(blocks.free) - full)
        for j, one in enumerate(jobs):
            assert leftovers.surviving(one) == (0 if j in blocks.held else blocks.found(j))


def test_blocks_that_are_found_again_no_longer_stand_before_those_behind_them() -> None:
    leftovers, sooner, later = Leftovers(), job(0), job(1)
    leftovers.leave(sooner, blocks=3, whole=3, ahead=1)
    leftovers.leave(later, blocks=2, whole=2, ahead=4)
    leftovers.reclaim(sooner, 3)
    leftovers.take(2)
    assert leftovers.surviving(later) == 1


def pages(kv_limit_bytes: int = 100) -> tuple[KvPages, GpuMemory]:
    """Return blocks of 4 in a memory of 100 that KV shares with adapters."""
    memory = GpuMemory(MemoryLimits(100, kv_limit_bytes, 100, 1), LRU(), lambda slot, now: None)
    return KvPages(4, memory), memory


@pytest.mark.parametrize(("adapter_bytes", "left"), [(60, 40), (61, 36), (79, 20), (100, 0)])
def test_adapters_that_come_into_the_memory_take_blocks_too(adapter_bytes: int, left: int) -> None:
    kv, memory = pages()
    one = job()
    kv.leave_behind(one, 40)
    memory.adapter_bytes = adapter_bytes
    assert kv.surviving_tokens(one) == left


def test_what_adapters_have_taken_does_not_come_back_when_they_go() -> None:
    kv, memory = pages()
    one = job()
    kv.leave_behind(one, 40)
    for memory.adapter_bytes in (80, 0):
        kv.make_room_for_adapters()
    assert kv.surviving_tokens(one) == 20


def test_an_adapter_in_place_of_another_takes_nothing() -> None:
    kv, memory = pages()
    memory.adapter_bytes = 60
    one = job()
    kv.leave_behind(one, 40)
    assert kv.surviving_tokens(one) == 40


@pytest.mark.parametrize(("adapter_bytes", "left"), [(40, 40), (60, 40), (64, 36)])
def test_adapters_outside_the_memory_of_kv_take_nothing_of_it(adapter_bytes: int, left: int) -> None:
    kv, memory = pages(kv_limit_bytes=80)  # 20 beside it
    one = job()
    kv.leave_behind(one, 40)
    memory.adapter_bytes = adapter_bytes
    assert kv.surviving_tokens(one) == left
