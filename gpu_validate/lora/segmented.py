"""Own Triton kernels over tiles of one adapter: each adapter's weights are read once per tile, at its true rank."""

from __future__ import annotations

import torch

from gpu_validate.lora.layout import Layout
from gpu_validate.lora.operands import check
from gpu_validate.lora.plan import LoraPlan
from gpu_validate.lora.triton_launch import OPTIONS, RANK_BLOCK, alignment, blocks, check_device, kernels, padded_rank

SHRINK = OPTIONS | {"block_in": 128, "block_rank": RANK_BLOCK, "num_stages": 3}
# An adapter's ranks are summed in a loop, one after the other: few turns, so that a large rank takes hardly longer.
EXPAND = OPTIONS | {"block_out": 128, "block_rank": 64, "num_stages": 2}


class Segmented:
    """Shrink to a float32 [tokens, ranks], then expand; see `segmented_kernels`.

    Tiles of 128 rows need more shared memory in float32 than most cards have; those of 64 do not.
    """

    name = "segmented"
    capturable = True

    def __init__(self) -> None:
        self._kernels = kernels(self.name)

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
        check_device(x)
        if plan.tiles == 0 or plan.max_rank == 0:
            return
        width = padded_rank(plan.max_rank)
        shrunk = torch.empty((plan.tokens, width), dtype=torch.float32, device=x.device)
        work = (plan.permutation, plan.tile_row, plan.tile_length, plan.tile_slot, plan.bases, plan.ranks)
        sizes = {"block_rows": plan.tile, "alignment": alignment(aligned=plan.aligned)}
        self._kernels.shrink[plan.tiles, blocks(plan.max_rank, RANK_BLOCK)](
            *(shrunk, x, arena, *work),
            *(layout.a_units(layer, module), shape.in_features, width, x.stride(0)),
            **sizes,
            **SHRINK,
        )
        self._kernels.expand[plan.tiles, blocks(shape.out_features, EXPAND["block_out"])](
            *(y, shrunk, arena, *work, plan.scales),
            *(layout.b_units(layer, module), shape.out_features, width, y.stride(0)),
            **sizes,
            **EXPAND,
        )
