"""A few adapters in an arena that is not a number wherever no adapter of the batch lies, and tokens that use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gpu_validate.lora.backends import Backend
from gpu_validate.lora.layout import Layout
from gpu_validate.lora.plan import LoraPlan, make_plan
from gpu_validate.lora.reference import Reference

LAYOUT = Layout(2, [("q", 72, 144), ("k", 72, 40), ("o", 144, 72), ("odd", 37, 29)])
RANKS = (8, 16, 32, 64, 128, 5, 0, 24, 1)  # of adapters 0..8
MIXED = (3, None, 0, 5, 3, 1, 2, 6, None, 4, 0, 8, 5, 3, *[7] * 19, 2, None)
EVEN = (3, None, 0, 3, 1, 2, 6, *[4] * 17, 0, 3, 7)  # without the ranks 5 and 1
SITES = [(layer, module.name) for layer in range(LAYOUT.layers) for module in LAYOUT.modules]

# Largest error of a token's row over the largest value of that row. float16 and bfloat16 round y once (2^-12, 2^-9 of
# a value), and most backends x A^T and the product too.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(eq=False)
class World:
    """One batch on one module."""

    layout: Layout
    layer: int
    module: str
    plan: LoraPlan
    arena: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor

    def apply(self, backend: Backend, *, plan: LoraPlan | None = None) -> torch.Tensor:
        """Return y after the backend has worked on a copy of it that is a part of wider rows."""
        wide = torch.full((len(self.y), self.y.shape[1] + 16), 7.0, dtype=self.y.dtype, device=self.y.device)
        y = wide[:, 8:-8]
        y.copy_(self.y)
        backend.apply(y, self.x, self.arena, self.layout, self.layer, self.module, plan or self.plan)
        assert (wide[:, :8] == 7).all()
        assert (wide[:, -8:] == 7).all()
        return y

    def wanted(self) -> torch.Tensor:
        """Return y in float64, unrounded."""
        exact = self.y.double()
        arena, x = self.arena.double(), self.x.double()
        Reference().apply(exact, x, arena, self.layout, self.layer, self.module, self.plan)
        return exact

    def error(self, backend: Backend) -> float:
        """Return the largest error of a row over that row's largest value; rows without work must be untouched."""
        got, wanted = self.apply(backend), self.wanted()
        idle = self.plan.row_slot == 0
        assert torch.equal(got[idle], self.y[idle])
        if not len(got):
            return 0.0
        return float(((got.double() - wanted).abs().amax(1) / wanted.abs().amax(1)).max())


def make_world(
    token_adapters: Sequence[int | None],
    dtype: torch.dtype,
    *,
    layer: int = 1,
    module: str = "q",
    layout: Layout = LAYOUT,
    ranks: Sequence[int] = RANKS,
    step: int = 8,
    tile: int = 16,
    device: str = "cpu",
) -> World:
    """Return a batch with values of the order of 1; an adapter's base is a multiple of `step`."""
    generator = torch.Generator().manual_seed(1)
    bases, scales, arena = _arena(layout, ranks, {a for a in token_adapters if a is not None}, step, generator)
    shape, tokens = layout.module(module), len(token_adapters)
    x = torch.randn((tokens, shape.in_features + 8), generator=generator)
    y = torch.randn((tokens, shape.out_features), generator=generator)
    plan = make_plan(token_adapters, ranks, bases, scales, device=device, tile=tile)
    arena, x, y = (tensor.to(device, dtype) for tensor in (arena, x, y))
    return World(layout, layer, module, plan, arena, x[:, : shape.in_features], y)


def _arena(
    layout: Layout, ranks: Sequence[int], used: set[int], step: int, generator: torch.Generator
) -> tuple[list[int], list[float], torch.Tensor]:
    ends = 0
    bases = []
    for rank in ranks:
        bases.append(-(-(ends + 1) // step) * step)
        ends = bases[-1] + layout.elements(rank)
    arena = torch.full((ends + step,), torch.nan)
    for adapter in used:
        rank = ranks[adapter]
        flat = arena[bases[adapter] : bases[adapter] + layout.elements(rank)]
        for view in layout.views(flat, rank).values() if rank else ():
            view.copy_(torch.randn(view.shape, generator=generator) / view.shape[1] ** 0.5)
    return bases, [0.5 + adapter / 4 for adapter in range(len(ranks))], arena
