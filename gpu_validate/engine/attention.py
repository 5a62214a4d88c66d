"""Attention over packed prompts and over paged KV. What torch offers is found by signature, not by version."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from gpu_validate.engine.dims import BLOCK_TOKENS
from gpu_validate.engine.paged import can_launch, paged_attention


class Packed(NamedTuple):
    """Where each of several sequences lies that are packed end to end."""

    bounds: torch.Tensor  # (sequences + 1,) int32, where each starts, on the device
    lengths: tuple[int, ...]  # the same on the host


Varlen = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Packed, Packed], torch.Tensor]


def prompt_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Packed, keys: Packed) -> torch.Tensor:
    """Return causal attention within each of several packed prompts, whose queries are their last tokens.

    Args:
        q: shape (tokens, heads, head_dim).
        k: shape (keys, kv_heads, head_dim).
        v: as k.
        queries: how q is packed.
        keys: how k and v are: each prompt as far as it has come, at least its queries' tokens.

    Returns:
        Shape (tokens, heads, head_dim).
    """
    varlen = varlen_kernel() if q.is_cuda and q.dtype != torch.float32 else None
    if varlen is not None:
        return varlen(q, k, v, queries, keys)
    packed = ((q, queries), (k, keys), (v, keys))
    parts = zip(*(torch.split(part, list(how.lengths)) for part, how in packed), strict=True)
    return torch.cat([_causal(*part) for part in parts])


def gathered_attention(
    q: torch.Tensor, cache_of_layer: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return attention of one new token a request over its KV, gathered and padded to the longest.

    The query heads that share a KV head stand where a prompt's tokens would: no kernel needs to know of groups.

    Args:
        q: shape (requests, heads, head_dim).
        cache_of_layer: shape (2, rows, kv_heads, head_dim).
        rows: shape (requests, longest), rows of the cache.
        mask: shape (requests, 1, 1, longest), true where a token is.

    Returns:
        Shape (requests, heads, head_dim).
    """
    requests, heads, head_dim = q.shape
    kv_heads = cache_of_layer.shape[2]
    k, v = (cache_of_layer[part][rows].transpose(1, 2) for part in (0, 1))
    grouped = q.view(requests, kv_heads, heads // kv_heads, head_dim)
    return scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(requests, heads, head_dim)


class TokenAttention:
    """Attention of one iteration's new tokens over paged KV: own kernels on a GPU, else gathered and padded.

    Args:
        tables: shape (requests, blocks), block numbers.
        lengths: shape (requests,), tokens of each request, the new one included.
    """

    def __init__(self, tables: torch.Tensor, lengths: torch.Tensor) -> None:
        self._tables = tables
        self._lengths = lengths
        self._padded: tuple[torch.Tensor, torch.Tensor] | None = None  # the same for all layers

    def __call__(self, q: torch.Tensor, cache_of_layer: torch.Tensor) -> torch.Tensor:
        """Return attention of queries of shape (requests, heads, head_dim), in that shape."""
        if can_launch(q):
            return paged_attention(q, cache_of_layer, self._tables, self._lengths)
        if self._padded is None:
            self._padded = rows_and_mask(self._tables, self._lengths)
        return gathered_attention(q, cache_of_layer, *self._padded)


def rows_and_mask(tables: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `rows` and `mask` for `gathered_attention`.

    Args:
        tables: shape (requests, blocks), block numbers.
        lengths: shape (requests,), tokens of each request, the new one included.
    """
    places = torch.arange(BLOCK_TOKENS, device=tables.device)
    rows = (tables.unsqueeze(2) * BLOCK_TOKENS + places).flatten(1)
    mask = torch.arange(rows.shape[1], device=tables.device) < lengths.unsqueeze(1)
    return rows, mask[:, None, None, :]


@cache
def varlen_kernel() -> Varlen | None:
    """Return causal attention over packed prompts, if this torch has one."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - older versions of torch have none
    except ImportError:
        return None
    known = set(inspect.signature(varlen_attn).parameters)
    if "window_size" not in known:
        return None
    knows_groups = "enable_gqa" in known

    def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Packed, keys: Packed) -> torch.Tensor:
        # With fewer queries than keys its causal window is that of the last tokens, as ours is.
        group = q.shape[1] // k.shape[1]
        grouped: dict[str, Any] = {"enable_gqa": True} if knows_groups and group > 1 else {}
        if group > 1 and not knows_groups:
            k, v = (part.repeat_interleave(group, dim=1) for part in (k, v))
        most, most_keys = (max(packed.lengths) for packed in (queries, keys))
        found = varlen_attn(q, k, v, queries.bounds, keys.bounds, most, most_keys, window_size=(-1, 0), **grouped)
        return found if isinstance(found, torch.Tensor) else found[0]

    return causal


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    earlier = len(k) - len(q)
    mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(earlier) if earlier else None
    q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in (q, k, v))
    has_groups = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=has_groups)
    return out.squeeze(0).transpose(0, 1)
