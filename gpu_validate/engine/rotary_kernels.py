"""Rotary positions and the way into the paged cache, in one pass over q, k and v. Importing this imports Triton."""

# ruff: noqa: PLR0913, PLR0917 - a kernel gets each table as a pointer of its own

from __future__ import annotations

import triton
import triton.language as tl


def _turn(
    qkv: tl.tensor,
    cache: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    positions: tl.tensor,
    rows: tl.tensor,
    qkv_stride: tl.tensor,
    v_offset: tl.tensor,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,
    block_heads: tl.constexpr,
) -> None:
    """Turn the q and k of some heads of one token in place, and store its k and v.

    qkv [tokens, heads + 2 * kv_heads, 2 * half], rows qkv_stride apart; cos and sin [positions, half]; positions and
    rows int64 [tokens]; cache [2, rows, kv_heads, 2 * half], V v_offset after K. Computed in float32.
    Grid (tokens, ceil((heads + 2 * kv_heads) / block_heads)).
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * block_heads + tl.arange(0, block_heads)
    d = tl.arange(0, half)
    is_head = (head < heads + 2 * kv_heads)[:, None]
    is_turned = (head < heads + kv_heads)[:, None]
    at = qkv + token * qkv_stride + head[:, None] * (2 * half) + d[None, :]
    left = tl.load(at, mask=is_head, other=0.0)
    right = tl.load(at + half, mask=is_head, other=0.0)
    place = tl.load(positions + token) * half + d
    c = tl.load(cos + place)[None, :].to(tl.float32)
    s = tl.load(sin + place)[None, :].to(tl.float32)
    turned_left = (left.to(tl.float32) * c - right.to(tl.float32) * s).to(left.dtype)
    turned_right = (right.to(tl.float32) * c + left.to(tl.float32) * s).to(left.dtype)
    left = tl.where(is_turned, turned_left, left)
    right = tl.where(is_turned, turned_right, right)
    tl.store(at, left, mask=is_turned)
    tl.store(at + half, right, mask=is_turned)
    kv_head = head - heads
    is_value = kv_head >= kv_heads
    start = tl.where(is_value, kv_head - kv_heads, kv_head) * (2 * half) + is_value.to(tl.int64) * v_offset
    to = cache + tl.load(rows + token) * (kv_heads * 2 * half) + start[:, None] + d[None, :]
    is_stored = is_head & (kv_head >= 0)[:, None]
    tl.store(to, left, mask=is_stored)
    tl.store(to + half, right, mask=is_stored)


turn = triton.jit(_turn)
