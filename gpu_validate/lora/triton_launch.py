"""What the Triton backends share: the kernels' module, imported late, and what cannot be launched."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

import torch

RANK_BLOCK = 16  # the least that a tensor core takes
# Triton's default for the fusion of products and sums is about to change, so it is always said.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
_ALIGNED = 8  # elements; 16 bytes, the widest load


def kernels(name: str) -> ModuleType:
    """Return the module of kernels of a backend; importing it imports Triton.

    Raises:
        RuntimeError: if Triton is not installed.
    """
    try:
        return import_module(f"gpu_validate.lora.{name}_kernels")
    except ModuleNotFoundError as error:
        msg = f"the LoRA backend {name!r} needs Triton, which is not installed (it comes with torch for CUDA)"
        raise RuntimeError(msg) from error


def check_device(x: torch.Tensor) -> None:
    """Raise unless kernels can run on a tensor.

    Raises:
        RuntimeError: for a CPU tensor without Triton's interpreter, and for bfloat16 in it.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not (x.is_cuda or interpreted):
        msg = f"Triton kernels need CUDA tensors (or TRITON_INTERPRET=1 from the start), got {x.device}"
        raise RuntimeError(msg)
    if interpreted and x.dtype == torch.bfloat16:
        msg = "Triton's interpreter computes bfloat16 wrongly without an error: use float32 or float16 in it"
        raise RuntimeError(msg)


def alignment(*, aligned: bool) -> int:
    """Return the divisor of ranks and bases that a kernel may count on, in elements."""
    return _ALIGNED if aligned else 1


def padded_rank(max_rank: int) -> int:
    """Return the width of the intermediate: whole blocks, since Triton compiles apart for widths that are not."""
    return blocks(max_rank, RANK_BLOCK) * RANK_BLOCK


def blocks(size: int, block: int) -> int:
    """Return how many blocks cover a size."""
    return -(-size // block)
