"""Adapters on the host, in one pinned arena, and on the device, in another; and how one gets across."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from gpu_validate.engine.arena import Arena, aligned
from gpu_validate.engine.peft import PeftAdapter
from gpu_validate.lora.backends import Backend
from gpu_validate.lora.layout import Layout
from gpu_validate.lora.plan import LoraPlan, make_plan
from sim.serving.job import AdapterSlot

_PATTERN_ELEMENTS = (1 << 20) - 3  # random numbers repeat after so many: odd, so that adapters differ

_WIDE = 8  # elements; kernels are compiled apart for ranks that are multiples of it


class CopyMode(NamedTuple):
    """How an adapter is cut for the link, how often it is sent, from what memory and into what."""

    pieces: str
    times: int = 1
    is_pinned: bool = True
    has_slots: bool = False  # of one largest rank, zeroed before each copy


COPY_MODES = {
    "flat": CopyMode("adapter"),
    "per_layer": CopyMode("layer"),
    "per_tensor": CopyMode("tensor"),
    "slora_double": CopyMode("layer", times=2),  # its loads of A and of B each send both
    "vllm_slots": CopyMode("tensor", has_slots=True),  # its kernels compute at the slot's rank, too
    "pageable": CopyMode("adapter", is_pinned=False),
}


class HostStore:
    """All adapters of a run in one host arena.

    Args:
        layout: of each adapter.
        ranks: by palette index; None stands for the base model.
        dtype: of serving.
        pinned: whether the device can copy from it directly.
        distinct_bytes: adapters share memory beyond this; None: each has its own.
        deviation: standard deviation of the random weights.
        seed: of the random weights.
    """

    def __init__(
        self,
        layout: Layout,
        ranks: Sequence[int | None],
        *,
        dtype: torch.dtype,
        pinned: bool = False,
        distinct_bytes: int | None = None,
        deviation: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.layout = layout
        self.ranks = [rank or 0 for rank in ranks]
        self.scales = [1.0] * len(ranks)
        sizes = [aligned(layout.elements(rank), dtype.itemsize) for rank in self.ranks]
        total, largest = sum(sizes), max(sizes, default=0)
        limit = total if distinct_bytes is None else min(total, max(distinct_bytes // dtype.itemsize, largest))
        self.is_aliased = limit < total
        self._starts = list(_starts(sizes, limit))
        self.flat = torch.empty(max(limit, 1), dtype=dtype, pin_memory=pinned)
        drawn = torch.randn(min(_PATTERN_ELEMENTS, len(self.flat)), generator=torch.Generator().manual_seed(seed))
        pattern = (drawn * deviation).to(dtype)
        for chunk in torch.split(self.flat, len(pattern)):
            chunk.copy_(pattern[: len(chunk)])

    def adapter(self, index: int) -> torch.Tensor:
        """Return an adapter's weights, shape (elements,), as a view."""
        start = self._starts[index]
        return self.flat[start : start + self.layout.elements(self.ranks[index])]

    def put(self, index: int, adapter: PeftAdapter) -> None:
        """Replace random weights by real ones.

        Raises:
            ValueError: if the rank is another, or the store shares memory between adapters.
        """
        if adapter.rank != self.ranks[index] or self.is_aliased:
            msg = f"adapter {index} has rank {self.ranks[index]}, shared memory {self.is_aliased}; got {adapter.rank}"
            raise ValueError(msg)
        self.adapter(index).copy_(adapter.flat)
        self.scales[index] = adapter.scale


class DeviceAdapters:
    """The adapters in device memory; what the core has evicted is given back when room is needed.

    Args:
        store: where they come from.
        arena: where they go.
        mode: a key of `COPY_MODES`.
        slot_rank: of every slot, where the mode has slots; None: the store's largest rank.

    Raises:
        ValueError: if the mode is unknown, or an adapter is larger than a slot.
    """

    def __init__(self, store: HostStore, arena: Arena, mode: str = "flat", slot_rank: int | None = None) -> None:
        self.store = store
        self.arena = arena
        self.mode = mode_of(mode)
        self.ranks = device_ranks(store.ranks, self.mode, slot_rank)
        self._bases = [0] * len(store.ranks)
        self._slots: dict[int, AdapterSlot] = {}

    @property
    def is_aligned(self) -> bool:
        """Whether all ranks allow the kernels' wide loads; the arena's bases always do."""
        return all(rank % _WIDE == 0 for rank in self.ranks)

    @property
    def max_rank(self) -> int:
        """The largest rank on the device."""
        return max(self.ranks, default=0)

    def try_place(self, slot: AdapterSlot) -> bool:
        """Find room for an adapter without moving others."""
        self.sweep()
        index = slot.index
        if index in self.arena.offsets:  # evicted and wanted again before anybody looked
            self._free(index)
        if not self.arena.try_allocate(index, self.store.layout.elements(self.ranks[index])):
            return False
        self._slots[index] = slot
        self._bases[index] = self.arena.offsets[index]
        return True

    def place(self, slot: AdapterSlot) -> None:
        """Find room for an adapter, moving others if need be; no step and no copy may be running.

        Raises:
            RuntimeError: if there is none, so that the device holds less than the core believes.
        """
        if self.try_place(slot):
            return
        self.arena.compact()
        for index, offset in self.arena.offsets.items():
            self._bases[index] = offset
        if not self.try_place(slot):
            free = self.arena.free_elements
            msg = f"no room for adapter {slot.index} beside {len(self._slots)}: {free} elements free"
            raise RuntimeError(msg)

    def copy_in(self, slot: AdapterSlot) -> None:
        """Issue the copies of a placed adapter on the current stream."""
        rank, wide = self.store.ranks[slot.index], self.ranks[slot.index]
        source = self.store.adapter(slot.index)
        target = self.arena.slice(slot.index, self.store.layout.elements(wide))
        for _ in range(self.mode.times):
            for to, piece in zip(self._pieces(target, wide), self._pieces(source, rank), strict=True):
                if self.mode.has_slots:
                    to.zero_()
                    to[: piece.shape[0], : piece.shape[1]].copy_(piece, non_blocking=True)
                else:
                    to.copy_(piece, non_blocking=True)

    def plan(self, palette_indices: Sequence[int | None], device: torch.device | str) -> LoraPlan:
        """Return the LoRA work of tokens that use these adapters, all of them in place.

        Raises:
            RuntimeError: if one is not.
        """
        absent = {index for index in palette_indices if index is not None} - self.arena.offsets.keys()
        if absent:
            msg = f"tokens need adapters {sorted(absent)}, which are not on the device"
            raise RuntimeError(msg)
        plan = make_plan(palette_indices, self.ranks, self._bases, self.store.scales, device=device)
        plan.aligned = plan.aligned and self.is_aligned  # else some batches would want kernels that nobody warmed up
        return plan

    def empty_plan(self, tokens: int, device: torch.device | str) -> LoraPlan:
        """Return a plan without work that launches what a plan with work would."""
        plan = make_plan([None] * tokens, self.ranks, self._bases, self.store.scales, device=device)
        return plan.padded(tokens, max_rank=self.max_rank, aligned=self.is_aligned)

    def sweep(self) -> None:
        """Free what the core no longer holds."""
        for index in [index for index, slot in self._slots.items() if not slot.held]:
            self._free(index)

    def _free(self, index: int) -> None:
        self.arena.free(index)
        del self._slots[index]

    def _pieces(self, flat: torch.Tensor, rank: int) -> Iterator[torch.Tensor]:
        if self.mode.pieces == "tensor":
            return iter(self.store.layout.views(flat, rank).values())
        return iter(flat.chunk(self.store.layout.layers if self.mode.pieces == "layer" else 1))


class LoraCall:
    """The adapters of one iteration, for the decoder.

    Args:
        backend: the kernels.
        arena: where adapters lie, flat.
        layout: of each adapter.
        plan: which token uses which.
    """

    def __init__(self, backend: Backend, arena: torch.Tensor, layout: Layout, plan: LoraPlan) -> None:
        self._backend = backend
        self._arena = arena
        self._layout = layout
        self._plan = plan
        self._modules = {module.name for module in layout.modules}

    def add(self, y: torch.Tensor, x: torch.Tensor, layer: int, module: str) -> None:
        """Add scale * B A x to y in place, for a module that has adapters."""
        if module in self._modules:
            self._backend.apply(y, x, self._arena, self._layout, layer, module, self._plan)


def mode_of(name: str) -> CopyMode:
    """Return a copy mode by name.

    Raises:
        ValueError: if it is unknown.
    """
    if name not in COPY_MODES:
        msg = f"unknown copy mode {name!r}: expected one of {', '.join(COPY_MODES)}"
        raise ValueError(msg)
    return COPY_MODES[name]


def device_ranks(ranks: Sequence[int], mode: CopyMode, slot_rank: int | None) -> list[int]:
    """Return the rank at which each adapter lies on the device: its own, or the slot's.

    Raises:
        ValueError: if an adapter is larger than a slot.
    """
    if not mode.has_slots:
        return list(ranks)
    largest = max(ranks, default=0)
    slot = largest if slot_rank is None else slot_rank
    if slot < largest:
        msg = f"an adapter of rank {largest} does not fit a slot of rank {slot}"
        raise ValueError(msg)
    return [slot if rank else 0 for rank in ranks]


def _starts(sizes: Sequence[int], limit: int) -> Iterator[int]:
    """Yield where each adapter begins; beyond `limit` they begin again at the front."""
    end = 0
    for size in sizes:
        start = end if end + size <= limit else 0
        yield start
        end = start + size
