"""Checks of what a backend is given; cheap, since an iteration makes hundreds of calls."""

from __future__ import annotations

import torch

from gpu_validate.lora.layout import Module
from gpu_validate.lora.plan import LoraPlan


def check(y: torch.Tensor, x: torch.Tensor, arena: torch.Tensor, module: Module, plan: LoraPlan) -> None:
    """Raise unless y [tokens, out], x [tokens, in] and the arena fit the module, the plan and each other.

    Raises:
        ValueError: with the shapes, dtypes, devices or strides that do not fit.
    """
    tokens = plan.tokens
    if x.shape != (tokens, module.in_features) or y.shape != (tokens, module.out_features) or arena.dim() != 1:
        msg = (
            f"module {module.name!r} and {tokens} tokens need x {(tokens, module.in_features)}, "
            f"y {(tokens, module.out_features)} and an arena of one dimension, "
            f"got {tuple(x.shape)}, {tuple(y.shape)} and {tuple(arena.shape)}"
        )
        raise ValueError(msg)
    if not x.dtype == y.dtype == arena.dtype:
        msg = f"x, y and the arena must have one dtype, got {x.dtype}, {y.dtype} and {arena.dtype}"
        raise ValueError(msg)
    if not x.device == y.device == arena.device == plan.device:
        msg = f"all must be on one device, got x {x.device}, y {y.device}, arena {arena.device}, plan {plan.device}"
        raise ValueError(msg)
    if tokens and not x.stride(1) == y.stride(1) == arena.stride(0) == 1:
        msg = f"columns must be contiguous, got strides {x.stride()}, {y.stride()} and {arena.stride()}"
        raise ValueError(msg)
