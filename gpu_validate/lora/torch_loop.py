"""A Python loop over adapters, as PEFT does for mixed batches: the baseline that any device can run."""

from __future__ import annotations

import torch

from gpu_validate.lora.layout import Layout
from gpu_validate.lora.operands import check
from gpu_validate.lora.plan import LoraPlan


class TorchLoop:
    """Per adapter index_select, two matrix products and index_add; x A^T and the product are rounded to y's dtype."""

    name = "torch_loop"
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
        check(y, x, arena, layout.module(module), plan)
        for group in plan.groups:
            rows = plan.permutation[group.start : group.stop]
            a = layout.a(arena, group.base, group.rank, layer, module)
            b = layout.b(arena, group.base, group.rank, layer, module)
            y.index_add_(0, rows, x.index_select(0, rows) @ a.T @ b.T, alpha=group.scale)
