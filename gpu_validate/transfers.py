"""Adapter copies from host to device, the way each real system does it; what they cost, and what they cost others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch

from gpu_validate.layers import busy
from gpu_validate.lora.layout import Layout
from gpu_validate.shapes import MODES, Shape, find_model
from gpu_validate.timing import Measured, Work, captured, measure, measure_beside, new_stream
from sim.models import DEFAULT_MODULES, Model, unknown

WORD_BYTES = 2  # everything is moved as 16-bit words, whose bits no conversion can touch
WORD = torch.int16
SLOT_RANK = 128  # a slot of vLLM has room for the largest rank that the server allows
RANDOM_WORDS = 2**22  # random data is slow to draw; larger arenas repeat it


class Copier(Protocol):
    """One way to move an adapter; `run` only issues, on the current stream."""

    def run(self) -> None:
        """Issue the copies."""

    def landed(self) -> torch.Tensor:
        """Return what lies on the device, as words in the order of the source."""


class Pieces:
    """The source in one or more contiguous pieces, one copy each: `flat`, `pageable`, `per_layer` and `per_tensor`.

    Args:
        source: words on the host.
        device: where to.
        sizes: words of each piece.
    """

    def __init__(self, source: torch.Tensor, device: torch.device, sizes: Sequence[int]) -> None:
        self._target = torch.zeros_like(source, device=device, pin_memory=False)
        cuts = list(pairwise(accumulate(sizes, initial=0)))
        self._pairs = [(self._target[start:end], source[start:end]) for start, end in cuts]

    def run(self) -> None:
        """Issue one copy for each piece."""
        for target, source in self._pairs:
            target.copy_(source, non_blocking=True)

    def landed(self) -> torch.Tensor:
        """Return the words on the device."""
        return self._target


class SloraDouble:
    """S-LoRA's load: each layer's block is moved whole, once for A and once for B, and half of it scattered each time.

    Source: `load_lora_A` and `load_lora_B` of S-LoRA both move the combined block, which is dropped in between.

    Args:
        source: words on the host.
        device: where to.
        layout: of the adapter.
        row: words of a row of the pool.
    """

    def __init__(self, source: torch.Tensor, device: torch.device, layout: Layout, row: int) -> None:
        self._blocks = source.view(layout.layers, -1, row)
        rows = self._blocks.shape[1]
        share = sum(module.in_features for module in layout.modules) / layout.layer_units
        self._half = round(rows * share)
        generator = torch.Generator().manual_seed(0)
        # A fragmented pool: rows lie anywhere.
        self._index = torch.randperm(layout.layers * rows, generator=generator).view(layout.layers, rows).to(device)
        self._pool = torch.zeros(layout.layers * rows, row, dtype=WORD, device=device)
        self._staging = torch.zeros(rows, row, dtype=WORD, device=device)

    def run(self) -> None:
        """Issue two copies and two scatters for each layer."""
        for half in (slice(None, self._half), slice(self._half, None)):
            for block, index in zip(self._blocks, self._index, strict=True):
                self._staging.copy_(block, non_blocking=True)
                self._pool.index_copy_(0, index[half], self._staging[half])

    def landed(self) -> torch.Tensor:
        """Return the pool's rows in the order of the source."""
        return self._pool[self._index.flatten()].flatten()


class VllmSlots:
    """vLLM's load: zero a slot of the largest rank, then copy A and B into its corner, for every module of every layer.

    Args:
        source: words on the host.
        device: where to.
        layout: of the adapter.
        rank: of the adapter; the slot's is `SLOT_RANK` or larger.
    """

    def __init__(self, source: torch.Tensor, device: torch.device, layout: Layout, rank: int) -> None:
        most = max(rank, SLOT_RANK)
        self._pairs = []
        for place, tensor in layout.views(source, rank).items():
            wide = (most, tensor.shape[1]) if place.matrix == "A" else (tensor.shape[0], most)
            slot = torch.zeros(wide, dtype=WORD, device=device)
            self._pairs.append((slot, slot[: tensor.shape[0], : tensor.shape[1]], tensor))

    def run(self) -> None:
        """Issue a zeroing and a copy for each tensor."""
        for slot, corner, tensor in self._pairs:
            slot.zero_()
            corner.copy_(tensor, non_blocking=True)

    def landed(self) -> torch.Tensor:
        """Return the corners one after another."""
        return torch.cat([corner.flatten() for _, corner, _ in self._pairs])


def ops_of(mode: str, model: Model) -> int:
    """Return the device operations (copies, scatters, zeroings) that a mode issues for one adapter.

    Raises:
        ValueError: if the mode is unknown.
    """
    tensors = model.tensors(DEFAULT_MODULES)
    counts = {
        "flat": 1,
        "pageable": 1,
        "per_layer": model.layers,
        "per_tensor": tensors,
        "slora_double": 4 * model.layers,
        "vllm_slots": 2 * tensors,
    }
    if mode not in counts:
        raise ValueError(unknown("mode", mode, MODES))
    return counts[mode]


def copier_of(mode: str, source: torch.Tensor, device: torch.device, model: Model | None, rank: int) -> Copier:
    """Return what moves an adapter in this mode.

    Args:
        mode: one of `MODES`.
        source: the adapter's words on the host.
        device: where to.
        model: whose adapter it is; None: plain bytes, which only `flat` and `pageable` can move.
        rank: of the adapter.

    Raises:
        ValueError: if the mode is unknown, or needs a model.
    """
    if mode not in MODES:
        raise ValueError(unknown("mode", mode, MODES))
    if mode in {"flat", "pageable"}:
        return Pieces(source, device, [len(source)])
    if model is None:
        msg = f"the mode {mode!r} moves adapters; it needs a model"
        raise ValueError(msg)
    layout = Layout.of(model)
    if mode == "per_layer":
        return Pieces(source, device, [len(source) // layout.layers] * layout.layers)
    if mode == "per_tensor":
        return Pieces(source, device, [tensor.numel() for tensor in layout.views(source, rank).values()])
    if mode == "slora_double":
        row = math.gcd(*(size for module in layout.modules for size in (module.in_features, module.out_features)))
        return SloraDouble(source, device, layout, row)
    return VllmSlots(source, device, layout, rank)


class Arenas:
    """The host's memory for all copies: one pinned block (pinning is slow, and rounds up) and a pageable one.

    Args:
        pinned_bytes: size of the first.
        pageable_bytes: size of the second.
        seed: of the contents.
        can_pin: whether the first can be pinned; without CUDA it cannot.
    """

    def __init__(self, pinned_bytes: int, pageable_bytes: int, seed: int, *, can_pin: bool) -> None:
        self.pinned = _filled(torch.empty(pinned_bytes // WORD_BYTES, dtype=WORD, pin_memory=can_pin), seed)
        self.pageable = _filled(torch.empty(pageable_bytes // WORD_BYTES, dtype=WORD), seed)

    @classmethod
    def for_shapes(cls, shapes: Iterable[Shape], seed: int, *, can_pin: bool) -> Arenas:
        """Return arenas in which each of these shapes has room."""
        needs = {True: WORD_BYTES, False: WORD_BYTES}
        for shape in shapes:
            is_pinned = shape.config["mode"] != "pageable"
            needs[is_pinned] = max(needs[is_pinned], shape.config["bytes"] * shape.config["concurrent"])
        return cls(needs[True], needs[False], seed, can_pin=can_pin)

    def sources(self, config: dict[str, Any]) -> list[torch.Tensor]:
        """Return distinct words for each copy of a shape."""
        arena = self.pageable if config["mode"] == "pageable" else self.pinned
        pieces = config["concurrent"] * config.get("queued", 1)
        words = config["bytes"] * config["concurrent"] // pieces // WORD_BYTES
        return [arena[piece * words : (piece + 1) * words] for piece in range(pieces)]


def _filled(arena: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    first = arena[:RANDOM_WORDS]
    first.random_(generator=generator)
    for start in range(RANDOM_WORDS, len(arena), RANDOM_WORDS):
        block = arena[start : start + RANDOM_WORDS]
        block.copy_(first[: len(block)])
    return arena


class Loader:
    """Measures shapes of `load`.

    Args:
        arenas: where adapters come from.
        device: where they go.
        tiny: compute beside the copies is small, for a CPU.
    """

    def __init__(self, arenas: Arenas, device: torch.device, *, tiny: bool = False) -> None:
        self._arenas, self._device, self._tiny = arenas, device, tiny
        self._computes: dict[str, Work] = {}

    def copiers(self, config: dict[str, Any]) -> list[Copier]:
        """Return what moves each adapter of a shape."""
        model = find_model(config["model"]) if config["model"] else None
        sources = self._arenas.sources(config)
        return [copier_of(config["mode"], one, self._device, model, config["rank"]) for one in sources]

    def __call__(self, shape: Shape, budget_s: float) -> Measured:
        """Return how long a shape takes from an idle device to the last byte, and how long it took to issue."""
        config = shape.config
        copy = self._work(self.copiers(config), config["concurrent"])
        is_idle = config["beside"] == "idle"
        share_s = budget_s if is_idle else budget_s / 2
        alone = measure(copy, device=self._device, budget_s=share_s, flush_l2=False, apart=True)
        if is_idle:
            return Measured(alone, {"issue_s": alone.issue_s})
        compute = self._compute(config["beside"])
        if self._device.type != "cuda":
            compute()
            note = f"{alone.note}; a CPU has no streams: the copy ran after the compute"
            return Measured(replace(alone, note=note), {"issue_s": alone.issue_s, "compute_slowdown": None})
        return measure_beside(copy, compute, alone, device=self._device, budget_s=budget_s / 2)

    def _work(self, copiers: list[Copier], concurrent: int) -> Work:
        if concurrent == 1 or self._device.type != "cuda":
            return partial(_in_turn, copiers)
        return _AtOnce(copiers, self._device)

    def _compute(self, like: str) -> Work:
        if like not in self._computes:
            self._computes[like] = captured(busy(like, self._device, tiny=self._tiny), device=self._device)
        return self._computes[like]


def _in_turn(copiers: Iterable[Copier]) -> None:
    for copier in copiers:
        copier.run()


class _AtOnce:
    """Runs each copier on a stream of its own; the current stream waits for all."""

    def __init__(self, copiers: Sequence[Copier], device: torch.device) -> None:
        self._pairs = [(copier, new_stream(device)) for copier in copiers]

    def __call__(self) -> None:
        current = torch.cuda.current_stream()
        for copier, stream in self._pairs:
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                copier.run()
        for _, stream in self._pairs:
            current.wait_stream(stream)
