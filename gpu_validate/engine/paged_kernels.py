"""Split attention of one new token a request over paged KV, read where it lies. Importing this imports Triton."""

# ruff: noqa: PLR0913, PLR0917 - a kernel gets each table as a pointer of its own

from __future__ import annotations

import triton
import triton.language as tl


def _attend(
    partial: tl.tensor,
    stats: tl.tensor,
    q: tl.tensor,
    cache: tl.tensor,
    tables: tl.tensor,
    lengths: tl.tensor,
    q_stride: tl.tensor,
    width: tl.tensor,
    v_offset: tl.tensor,
    scale: tl.tensor,
    kv_heads: tl.constexpr,
    group: tl.constexpr,
    splits: tl.constexpr,
    head_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    block_group: tl.constexpr,
    block_n: tl.constexpr,
) -> None:
    """Weigh one part of a request's tokens for the query heads that share a KV head.

    q [requests, kv_heads * group, head_dim], rows q_stride apart; cache [2, rows, kv_heads, head_dim], V v_offset after
    K; tables int64 [requests, width]; lengths int64 [requests]. partial float32 [requests, heads, splits, head_dim] is
    sum(exp(score - top) v), stats float32 [requests, heads, splits, 2] are top and sum(exp(score - top)).
    Grid (requests, kv_heads, splits); products are accumulated in float32.
    """
    request, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + request)
    share = tl.cdiv(tl.cdiv(length, splits), block_n) * block_n
    begin = split * share
    end = tl.minimum(begin + share, length)
    g = tl.arange(0, block_group)
    d = tl.arange(0, head_dim)
    query_head = head * group + g
    is_head = g < group
    q_at = q + request * q_stride + query_head[:, None] * head_dim + d[None, :]
    q_block = tl.load(q_at, mask=is_head[:, None], other=0.0)
    top = tl.full((block_group,), float("-inf"), tl.float32)
    weight = tl.zeros((block_group,), tl.float32)
    total = tl.zeros((block_group, head_dim), tl.float32)
    for first in range(begin, end, block_n):
        n = first + tl.arange(0, block_n)
        is_n = n < end
        block = tl.load(tables + request * width + n // block_tokens, mask=is_n, other=0)
        k_at = cache + ((block * block_tokens + n % block_tokens) * kv_heads + head) * head_dim
        k = tl.load(k_at[None, :] + d[:, None], mask=is_n[None, :], other=0.0)
        scores = tl.dot(q_block, k, input_precision="ieee") * scale
        scores = tl.where(is_n[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp(top - higher)
        p = tl.exp(scores - higher[:, None])
        v = tl.load(k_at[:, None] + v_offset + d[None, :], mask=is_n[:, None], other=0.0)
        total = tl.dot(p.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
        weight = weight * shrink + tl.sum(p, 1)
        top = higher
    place = (request * kv_heads * group + query_head) * splits + split
    tl.store(partial + place[:, None] * head_dim + d[None, :], total, mask=is_head[:, None])
    tl.store(stats + place * 2, top, mask=is_head)
    tl.store(stats + place * 2 + 1, weight, mask=is_head)


def _join(out: tl.tensor, partial: tl.tensor, stats: tl.tensor, splits: tl.constexpr, head_dim: tl.constexpr) -> None:
    """out[request, head] = the parts joined; out [requests, heads, head_dim] of q's dtype. Grid (requests * heads,)."""
    row = tl.program_id(0).to(tl.int64)
    s = row * splits + tl.arange(0, splits)
    d = tl.arange(0, head_dim)
    tops = tl.load(stats + s * 2)
    factors = tl.exp(tops - tl.max(tops, 0))  # 0 for a part without tokens
    weight = tl.sum(factors * tl.load(stats + s * 2 + 1), 0)
    parts = tl.load(partial + s[:, None] * head_dim + d[None, :])
    joined = tl.sum(parts * factors[:, None], 0) / weight
    tl.store(out + row * head_dim + d, joined.to(out.dtype.element_ty))


# A batch's width and the alignment of its lengths change all the time; neither is worth another compilation.
attend = triton.jit(_attend, do_not_specialize=["width"], do_not_specialize_on_alignment=["lengths"])
join = triton.jit(_join)
