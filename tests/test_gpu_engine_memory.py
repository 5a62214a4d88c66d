"""Laws of the engine's memory: KV blocks, the adapter arena, the host store, and how adapters get across."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from gpu_validate.engine.adapters import COPY_MODES, DeviceAdapters, HostStore  # noqa: E402
from gpu_validate.engine.arena import ALIGNMENT_BYTES, Arena, aligned  # noqa: E402
from gpu_validate.engine.dims import BLOCK_TOKENS  # noqa: E402
from gpu_validate.engine.kv import BlockPool, PagedKV, blocks_needed  # noqa: E402
from gpu_validate.engine.swap import HostKV  # noqa: E402
from gpu_validate.engine.told import Told  # noqa: E402
from gpu_validate.lora.layout import Layout  # noqa: E402
from policies.base import Request  # noqa: E402
from sim.serving.job import AdapterSlot, Job  # noqa: E402
from sim.serving.memory import MemoryLimits  # noqa: E402
from tests.engine_world import CPU, MODEL, RANKS, arena_for, slots_of, store_of  # noqa: E402

UNIT = ALIGNMENT_BYTES // 4
Moves = list[tuple[str, int, int]]


def moves(*names: str, size: int) -> st.SearchStrategy[Moves]:
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 7), st.integers(1, size)), max_size=40)


@given(moves("allocate", "grow", "grow", "extend", "free", size=70))
def test_every_block_is_free_or_held_by_one_request(done: Moves) -> None:
    pool = BlockPool(12)
    acts: dict[str, Callable[[int, int], object]] = {
        "allocate": pool.allocate,
        "grow": lambda owner, _: pool.grow(owner),
        "extend": pool.extend,
        "free": lambda owner, _: pool.free(owner),
    }
    for name, owner, tokens in done:
        if (name == "allocate") == (owner in pool.tables):
            continue
        before = pool.free_blocks
        try:
            acts[name](owner, tokens)
        except MemoryError:
            assert pool.free_blocks == before
        pool.check()
    rows = [row for owner in pool.tables for row in pool.rows(owner)]
    assert len(rows) == len(set(rows)) == sum(pool.tokens.values())
    assert all(BLOCK_TOKENS <= row < 13 * BLOCK_TOKENS for row in rows)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(0, 40))
def test_blocks_hold_the_token_budget_however_it_is_split(held: list[int], spare: int) -> None:
    limits = MemoryLimits(10**9, (sum(held) + spare) * 7, 0, 7)
    pool = BlockPool(blocks_needed(limits, len(held)))
    for owner, tokens in enumerate(held):
        pool.allocate(owner, tokens)
    pool.check()


def test_whole_blocks_need_no_room_for_their_ends() -> None:
    limits = MemoryLimits(10**9, 100 * 7, 0, 7)
    assert blocks_needed(limits, 30, BLOCK_TOKENS) == 7
    assert blocks_needed(limits, 30, 2 * BLOCK_TOKENS) == 7
    assert blocks_needed(limits, 30, BLOCK_TOKENS // 2) == 7 + 30


def test_swapped_kv_comes_back_as_it_was_into_other_blocks() -> None:
    kv = PagedKV(MODEL, 6, dtype=torch.float32, device=CPU)
    host = HostKV(kv)
    kv.pool.allocate(1, 40)
    kv.cache.normal_()
    before, rows = kv.cache[:, :, kv.pool.rows(1)], kv.pool.rows(1).tolist()
    host.take_out(1)
    assert (kv.pool.free_blocks, host.tokens) == (6, {1: 40})
    kv.pool.allocate(2, 90)
    assert not host.try_bring_back(1)
    kv.pool.free(2)
    kv.pool.allocate(3, 1)
    kv.cache.zero_()
    assert host.try_bring_back(1)
    assert kv.pool.rows(1).tolist() != rows
    assert torch.equal(kv.cache[:, :, kv.pool.rows(1)], before)
    host.drop(1)
    assert 1 not in host


def test_what_a_request_was_told_is_kept_while_it_waits() -> None:
    told, job = Told(1, 20, CPU), Job(Request(5, 0.0, 3, 9, None), 0, 9, 9, None)
    start = told.cell(job, 0)
    told.cells[start + 3 : start + 6] = torch.tensor([7, 8, 9])
    with pytest.raises(RuntimeError, match=r"Request\(6.* finds all 1 seats taken"):
        told.cell(Job(Request(6, 0.0, 3, 9, None), 0, 9, 9, None), 0)
    job.generated = 3
    told.set_aside(job, 3)
    told.cells.zero_()
    assert told.generated(job) == [7, 8, 9]
    assert told.cells[told.cell(job, 5)] == 9  # its latest token is where the next step reads it
    told.cells[told.cell(job, 6)] = 4
    told.set_aside(job, 4)
    job.generated = 4
    assert told.generated(job) == [7, 8, 9, 4]
    job.generated = 0  # squashed
    assert told.generated(job) == []
    told.forget(5)
    assert list(told) == []


def test_a_request_too_many_is_told_with_the_numbers() -> None:
    pool = BlockPool(2)
    pool.allocate(1, 20)
    with pytest.raises(MemoryError, match="request 2 needs 1 KV blocks, 0 of 2 are free"):
        pool.allocate(2, 1)
    with pytest.raises(ValueError, match="request 1 holds 2 blocks already"):
        pool.allocate(1, 1)
    for _ in range(12):
        pool.grow(1)
    with pytest.raises(MemoryError, match="request 1 needs 1 KV blocks"):
        pool.grow(1)


def test_books_that_do_not_balance_are_told_with_the_numbers() -> None:
    pool = BlockPool(3)
    pool.allocate(1, 20)
    pool.tables[1].pop()
    with pytest.raises(RuntimeError, match="1 free \\+ 1 held of 3"):
        pool.check()
    arena = Arena(4 * UNIT, dtype=torch.float32, device=CPU)
    arena.try_allocate(1, 5)
    arena.offsets[1] = UNIT
    with pytest.raises(RuntimeError, match=f"the arena of {4 * UNIT} elements is not tiled beyond"):
        arena.check()


@settings(deadline=None)
@given(moves("allocate", "allocate", "free", "compact", size=6 * UNIT))
def test_slices_stay_apart_aligned_and_unharmed(done: Moves) -> None:
    arena = Arena(16 * UNIT, dtype=torch.float32, device=CPU)
    sizes: dict[int, int] = {}
    for name, owner, size in done:
        if name == "compact":
            arena.compact()
        elif name == "free" and owner in sizes:
            arena.free(owner)
            del sizes[owner]
        elif name == "allocate" and owner not in sizes and arena.try_allocate(owner, size):
            sizes[owner] = size
            arena.slice(owner, size).fill_(owner)
        arena.check()
        assert all(bool((arena.slice(one, sizes[one]) == one).all()) for one in sizes)
        assert all(offset * 4 % ALIGNMENT_BYTES == 0 for offset in arena.offsets.values())
        assert arena.free_elements == len(arena.flat) - sum(aligned(size, 4) for size in sizes.values())


def test_the_first_hole_is_taken_and_neighbours_join() -> None:
    arena = Arena(4 * UNIT, dtype=torch.float32, device=CPU)
    for owner in range(4):
        assert arena.try_allocate(owner, UNIT)
    assert not arena.try_allocate(9, 1)
    arena.free(1)
    arena.free(3)
    assert not arena.try_allocate(9, 2 * UNIT)
    arena.free(2)
    assert arena.try_allocate(9, 3 * UNIT)
    assert arena.offsets[9] == UNIT
    with pytest.raises(ValueError, match="owner 9 asks for 1 elements and holds"):
        arena.try_allocate(9, 1)


def only(slots: list[AdapterSlot | None]) -> list[AdapterSlot]:
    return [slot for slot in slots if slot is not None]


def filled(mode: str, slot_rank: int | None = None) -> DeviceAdapters:
    """Return adapters that were all copied in, over what lay there before."""
    store = store_of()
    size = (len(RANKS) - 1) * aligned(store.layout.elements(slot_rank or 8), 4)
    adapters = DeviceAdapters(store, Arena(size, dtype=torch.float32, device=CPU), mode, slot_rank)
    adapters.arena.flat.fill_(7.0)
    for slot in only(slots_of(store)):
        adapters.place(slot)
        adapters.copy_in(slot)
    return adapters


@pytest.mark.parametrize("mode", [name for name, mode in COPY_MODES.items() if not mode.has_slots])
def test_an_adapter_arrives_whole_in_every_copy_mode(mode: str) -> None:
    adapters, flat = filled(mode), filled("flat")
    for index, rank in enumerate(RANKS):
        if rank is not None:
            size = adapters.store.layout.elements(rank)
            assert torch.equal(adapters.arena.slice(index, size), adapters.store.adapter(index))
            assert torch.equal(adapters.arena.slice(index, size), flat.arena.slice(index, size))


@pytest.mark.parametrize("slot_rank", [8, 12])
def test_a_slot_holds_the_adapter_in_its_corner_and_zeros_beside(slot_rank: int) -> None:
    adapters, flat = filled("vllm_slots", slot_rank), filled("flat")
    layout = adapters.store.layout
    for index, rank in enumerate(RANKS):
        if rank is None:
            continue
        wide = layout.views(adapters.arena.slice(index, layout.elements(slot_rank)), slot_rank)
        for place, tensor in layout.views(flat.arena.slice(index, layout.elements(rank)), rank).items():
            assert torch.equal(wide[place][: tensor.shape[0], : tensor.shape[1]], tensor)
            assert wide[place].count_nonzero() == tensor.count_nonzero()


def test_a_slot_that_is_used_again_keeps_nothing_of_the_last_adapter() -> None:
    store = store_of()
    one_slot = Arena(aligned(store.layout.elements(8), 4), dtype=torch.float32, device=CPU)
    adapters = DeviceAdapters(store, one_slot, "vllm_slots")
    small, *_, large = only(slots_of(store))
    for slot in (large, small):
        adapters.place(slot)
        adapters.copy_in(slot)
        slot.held = False
    assert one_slot.flat.count_nonzero() == store.adapter(small.index).count_nonzero()


def test_kernels_compute_at_the_rank_of_the_slot() -> None:
    adapters = filled("vllm_slots", 12)
    plan = adapters.plan([1, 2, None], CPU)
    assert {group.rank for group in plan.groups} == {12}
    assert adapters.max_rank == 12


def test_an_adapter_larger_than_its_slot_is_told() -> None:
    store = store_of()
    with pytest.raises(ValueError, match="an adapter of rank 8 does not fit a slot of rank 4"):
        DeviceAdapters(store, arena_for(store), "vllm_slots", 4)


def test_an_unknown_copy_mode_is_told_with_the_known_ones() -> None:
    store = store_of()
    with pytest.raises(ValueError, match="unknown copy mode 'fast': expected one of flat, per_layer"):
        DeviceAdapters(store, arena_for(store), "fast")


def test_what_the_core_evicted_makes_way_and_holes_are_compacted() -> None:
    layout = Layout(1, [("q", UNIT, UNIT)])
    store = HostStore(layout, [1, 1, 1, 2, 4], dtype=torch.float32)
    adapters = DeviceAdapters(store, Arena(8 * UNIT, dtype=torch.float32, device=CPU))
    slots = only(slots_of(store))
    for slot in slots[:3]:
        adapters.place(slot)
        adapters.copy_in(slot)
    slots[1].held = False
    assert not adapters.try_place(slots[3])  # holes of 2 units each
    adapters.place(slots[3])
    assert adapters.arena.compactions == 1
    assert sorted(adapters.arena.offsets) == [0, 2, 3]
    for index in (0, 2):
        assert torch.equal(adapters.arena.slice(index, 2 * UNIT), store.adapter(index))
    plan = adapters.plan([2, None, 3], CPU)
    assert {group.adapter: group.base for group in plan.groups} == {2: 2 * UNIT, 3: 4 * UNIT}
    with pytest.raises(RuntimeError, match="no room for adapter 4 beside 3: 0 elements free"):
        adapters.place(slots[4])


def test_an_adapter_that_was_evicted_and_is_wanted_again_gets_one_slice() -> None:
    store = store_of()
    adapters = DeviceAdapters(store, arena_for(store))
    slot = only(slots_of(store))[0]
    adapters.place(slot)
    adapters.place(slot)
    adapters.arena.check()
    assert list(adapters.arena.offsets) == [1]


def test_adapters_share_host_memory_beyond_the_distinct_bytes() -> None:
    layout = Layout(1, [("q", 2 * UNIT, 2 * UNIT)])
    ranks = [1, 2, 4, 8] * 5
    own = HostStore(layout, ranks, dtype=torch.float32)
    shared = HostStore(layout, ranks, dtype=torch.float32, distinct_bytes=20 * 4 * UNIT * 4)
    assert (own.is_aliased, shared.is_aliased) == (False, True)
    assert len(own.flat) == 5 * 15 * 4 * UNIT
    assert len(shared.flat) == 20 * 4 * UNIT
    assert all(len(shared.adapter(index)) == layout.elements(rank) for index, rank in enumerate(ranks))
    starts = [own.adapter(index).data_ptr() for index in range(20)]
    assert len(set(starts)) == 20
    assert not torch.equal(own.adapter(0), own.adapter(4))
