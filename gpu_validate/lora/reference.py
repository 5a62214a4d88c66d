"""The oracle: y += scale * (x A^T) B^T in float64, plainly, for tests and small shapes."""

from __future__ import annotations

import torch

from gpu_validate.lora.layout import Layout
from gpu_validate.lora.operands import check
from gpu_validate.lora.plan import LoraPlan


class Reference:
    """Float64, one adapter after the other, by the plan's `row_slot` alone; only the sum is rounded to y's dtype."""

    name = "reference"
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
            a = layout.a(arena, group.base, group.rank, layer, module).double()
            b = layout.b(arena, group.base, group.rank, layer, module).double()
            rows = plan.row_slot == group.slot
            y[rows] = (y[rows].double() + group.scale * (x[rows].double() @ a.T @ b.T)).to(y.dtype)
