"""Rotary positions of one iteration's tokens, and the way of their K and V into the cache."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module

import torch

from gpu_validate.engine.paged import can_launch

BLOCK_HEADS = 8  # of a token that one program turns
OPTIONS = {"num_warps": 2, "enable_fp_fusion": True}


class Rotation:
    """Turns queries and keys and stores keys and values: own kernel on a GPU, where it is one launch, else torch.

    Args:
        cos: of all positions, shape (positions, head_dim / 2).
        sin: likewise.
        positions: int64, shape (tokens,).
        rows: of the cache, int64, shape (tokens,).
    """

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> None:
        self._cos, self._sin = cos, sin
        self._positions = positions
        self._rows = rows

    def __call__(
        self, qkv: torch.Tensor, cache_of_layer: torch.Tensor, heads: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return q, k and v with q and k turned, each (tokens, its heads, head_dim), when k and v are in the cache.

        Args:
            qkv: shape (tokens, (heads + 2 * kv_heads) * head_dim); it may be overwritten.
            cache_of_layer: shape (2, rows, kv_heads, head_dim), contiguous.
            heads: of q.
        """
        kv_heads, head_dim = cache_of_layer.shape[2:]
        parts = qkv.view(len(qkv), heads + 2 * kv_heads, head_dim)
        if can_launch(parts):
            self._launch(parts, cache_of_layer, heads)
        else:
            self._turn_and_store(parts, cache_of_layer, heads)
        q, k, v = torch.split(parts, [heads, kv_heads, kv_heads], dim=1)
        return q, k, v

    def _turn_and_store(self, parts: torch.Tensor, cache_of_layer: torch.Tensor, heads: int) -> None:
        kv_heads = cache_of_layer.shape[2]
        q_and_k, kv = parts[:, : heads + kv_heads], parts[:, heads:]
        q_and_k.copy_(turned(q_and_k, *self._turn))
        cache_of_layer[0].index_copy_(0, self._rows, kv[:, :kv_heads])
        cache_of_layer[1].index_copy_(0, self._rows, kv[:, kv_heads:])

    @cached_property
    def _turn(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin of each token, the same for all layers, shape (tokens, 1, head_dim / 2)."""
        return self._cos[self._positions].unsqueeze(1), self._sin[self._positions].unsqueeze(1)

    def _launch(self, parts: torch.Tensor, cache_of_layer: torch.Tensor, heads: int) -> None:
        tokens, all_heads, head_dim = parts.shape
        kernels = import_module("gpu_validate.engine.rotary_kernels")
        kernels.turn[tokens, -(-all_heads // BLOCK_HEADS)](
            *(parts, cache_of_layer, self._cos, self._sin, self._positions, self._rows),
            *(parts.stride(0), cache_of_layer.stride(0)),
            heads=heads,
            kv_heads=cache_of_layer.shape[2],
            half=head_dim // 2,
            block_heads=BLOCK_HEADS,
            **OPTIONS,
        )


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return x of shape (tokens, heads, head_dim) turned by the angles of its tokens."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
