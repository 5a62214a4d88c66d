"""torch's own grouped matrix product, one call per distinct rank and factor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch.nn.functional import grouped_mm

from gpu_validate.lora.layout import Layout
from gpu_validate.lora.operands import check
from gpu_validate.lora.plan import Group, LoraPlan

_STEP = 8  # elements; the product wants strides of 16 bytes


class Grouped:
    """Adapters of one rank in one `grouped_mm` for A and one for B; x A^T and the product are rounded to y's dtype.

    The product wants a group's matrices at one distance from each other. Where those of one rank lie so in the arena
    they are used in place; else they are copied together, and padded if the rank is no multiple of 8. Features must be
    multiples of 8. On CUDA torch takes bfloat16 from compute capability 8.0 on.
    """

    name = "grouped"
    capturable = False

    def apply(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        arena: torch.Tensor,
        layout: Layout,
        layer: int,
        module: str,
        plan: LoraPlan,
    ) -> None:
        """Do as `Backend.apply` says."""
        shape = layout.module(module)
        check(y, x, arena, shape, plan)
        if shape.in_features % _STEP or shape.out_features % _STEP:
            msg = f"torch's grouped product needs features that are multiples of {_STEP}, got {shape}"
            raise RuntimeError(msg)
        for rank, same in groupby(plan.groups, key=lambda group: group.rank):
            groups = list(same)
            a_offset, b_offset = layout.a_offset(rank, layer, module), layout.b_offset(rank, layer, module)
            wide = -(-rank // _STEP) * _STEP
            a = _stacked(arena, groups, a_offset, (rank, shape.in_features), (wide, shape.in_features))
            b = _stacked(arena, groups, b_offset, (shape.out_features, rank), (shape.out_features, wide))
            rows = plan.permutation[groups[0].start : groups[-1].stop]
            ends = plan.ends[groups[0].slot : groups[-1].slot + 1]
            shrunk = grouped_mm(x.index_select(0, rows), a.transpose(1, 2), offs=ends)
            product = grouped_mm(shrunk, b.transpose(1, 2), offs=ends)
            scales = plan.scales.index_select(0, plan.row_slot.index_select(0, rows))
            y.index_add_(0, rows, (product * scales[:, None]).to(y.dtype))


def _stacked(
    arena: torch.Tensor, groups: Sequence[Group], offset: int, shape: tuple[int, int], padded: tuple[int, int]
) -> torch.Tensor:
    """Return [groups, *padded]: a view of the arena if the matrices lie evenly and aligned, else a zero-padded copy."""
    starts = [group.base + offset for group in groups]
    size = shape[0] * shape[1]
    step = starts[1] - starts[0] if len(starts) > 1 else -(-size // _STEP) * _STEP
    is_even = step >= size and all(start == starts[0] + i * step for i, start in enumerate(starts))
    if is_even and shape == padded and starts[0] % _STEP == 0 and step % _STEP == 0:
        return arena.as_strided((len(starts), *shape), (step, shape[1], 1), arena.storage_offset() + starts[0])
    copy = arena.new_zeros((len(starts), *padded))
    for i, start in enumerate(starts):
        copy[i, : shape[0], : shape[1]] = arena[start : start + size].view(shape)
    return copy
