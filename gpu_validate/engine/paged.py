"""Launches the own kernels for attention over paged KV, where they can run; `attention` has the way without them."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch

from gpu_validate.engine.dims import BLOCK_TOKENS

LEAST_DOT = 16  # what a tensor core takes
# So many that no SM waits long for the longest request: with 256, batches of mixed lengths took 16 % longer than equal
# ones of as many tokens on an H100 (10 requests, LLaMA-7B), with these 1 %, and equal ones 1 % longer than before.
PROGRAMS = 4096
MOST_SPLITS = 16
OPTIONS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
BLOCK_N = 64


def can_launch(x: torch.Tensor) -> bool:
    """Whether the own kernels take such tensors, shape (tokens, heads, head_dim)."""
    head_dim = x.shape[2]
    return x.is_cuda and has_triton() and head_dim >= LEAST_DOT and head_dim & (head_dim - 1) == 0


@cache
def has_triton() -> bool:
    """Whether Triton is installed; it comes with torch for CUDA."""
    return find_spec("triton") is not None


def splits_for(requests: int, kv_heads: int) -> int:
    """Return into how many parts each request's tokens are cut, a power of two."""
    splits = 1
    while splits < MOST_SPLITS and requests * kv_heads * splits < PROGRAMS:
        splits *= 2
    return splits


def paged_attention(
    q: torch.Tensor,
    cache_of_layer: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    splits: int | None = None,
) -> torch.Tensor:
    """Return attention of one new token a request over its KV.

    Args:
        q: shape (requests, heads, head_dim); heads and columns contiguous.
        cache_of_layer: shape (2, rows, kv_heads, head_dim), contiguous.
        tables: int64, shape (requests, blocks).
        lengths: int64, shape (requests,), each at least 1.
        splits: parts that each request's tokens are cut into, a power of two; None: as `splits_for` says.

    Returns:
        Shape (requests, heads, head_dim).
    """
    kernels = import_module("gpu_validate.engine.paged_kernels")
    requests, heads, head_dim = q.shape
    kv_heads = cache_of_layer.shape[2]
    splits = splits or splits_for(requests, kv_heads)
    partial = torch.empty((requests, heads, splits, head_dim), dtype=torch.float32, device=q.device)
    stats = torch.empty((requests, heads, splits, 2), dtype=torch.float32, device=q.device)
    out = torch.empty((requests, heads, head_dim), dtype=q.dtype, device=q.device)
    kernels.attend[requests, kv_heads, splits](
        *(partial, stats, q, cache_of_layer, tables, lengths),
        *(q.stride(0), tables.shape[1], cache_of_layer.stride(0), head_dim**-0.5),
        kv_heads=kv_heads,
        group=heads // kv_heads,
        splits=splits,
        head_dim=head_dim,
        block_tokens=BLOCK_TOKENS,
        block_group=max(LEAST_DOT, 1 << (heads // kv_heads - 1).bit_length()),
        block_n=BLOCK_N,
        **OPTIONS,
    )
    kernels.join[(requests * heads,)](out, partial, stats, splits=splits, head_dim=head_dim, num_warps=4)
    return out
