"""Shrink and expand per token. Importing this imports Triton."""

# ruff: noqa: PLR0913, PLR0917 - a kernel gets each table as a pointer of its own

from __future__ import annotations

import triton
import triton.language as tl


def _shrink(
    shrunk: tl.tensor,
    x: tl.tensor,
    arena: tl.tensor,
    row_slot: tl.tensor,
    bases: tl.tensor,
    ranks: tl.tensor,
    a_units: tl.tensor,
    in_features: tl.tensor,
    max_rank: tl.tensor,
    x_stride: tl.tensor,
    block_rank: tl.constexpr,
    block_in: tl.constexpr,
    alignment: tl.constexpr,
) -> None:
    """shrunk[token, :rank] = A @ x[token, :] for one token and block_rank rows of its adapter's A.

    x [tokens, in_features] and A [rank, in_features] in float16, bfloat16 or float32, A at
    arena[bases[slot] + rank * a_units]; shrunk [tokens, max_rank] float32, accumulated in float32.
    Tables int32, bases int64. Grid (tokens, ceil(max_rank / block_rank)).
    """
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(row_slot + token)
    rank = tl.multiple_of(tl.load(ranks + slot), alignment)
    first = tl.program_id(1) * block_rank
    if first >= rank:
        return
    r = first + tl.arange(0, block_rank)
    k = tl.arange(0, block_in)
    a = arena + tl.multiple_of(tl.load(bases + slot), alignment) + rank.to(tl.int64) * a_units
    a_at = a + r[:, None] * in_features + k[None, :]
    total = tl.zeros((block_rank, block_in), tl.float32)
    for done in range(0, in_features, block_in):
        is_in = k < in_features - done
        x_block = tl.load(x + token * x_stride + done + k, mask=is_in, other=0.0).to(tl.float32)
        a_block = tl.load(a_at + done, mask=(r < rank)[:, None] & is_in[None, :], other=0.0).to(tl.float32)
        total += a_block * x_block[None, :]
    tl.store(shrunk + token * max_rank + r, tl.sum(total, axis=1), mask=r < rank)


def _expand(
    y: tl.tensor,
    shrunk: tl.tensor,
    arena: tl.tensor,
    row_slot: tl.tensor,
    bases: tl.tensor,
    ranks: tl.tensor,
    scales: tl.tensor,
    b_units: tl.tensor,
    out_features: tl.tensor,
    max_rank: tl.tensor,
    y_stride: tl.tensor,
    block_rank: tl.constexpr,
    block_out: tl.constexpr,
    alignment: tl.constexpr,
) -> None:
    """y[token, :] += scale * B @ shrunk[token, :rank] for one token and block_out columns.

    B [out_features, rank] at arena[bases[slot] + rank * b_units]; y [tokens, out_features] of B's dtype; shrunk
    [tokens, max_rank] float32; products and sums are float32. Grid (tokens, ceil(out_features / block_out)).
    """
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(row_slot + token)
    rank = tl.multiple_of(tl.load(ranks + slot), alignment)
    if rank == 0:
        return
    n = tl.program_id(1) * block_out + tl.arange(0, block_out)
    r = tl.arange(0, block_rank)
    is_out = n < out_features
    b = arena + tl.multiple_of(tl.load(bases + slot), alignment) + rank.to(tl.int64) * b_units
    b_at = b + n[:, None] * rank + r[None, :]
    total = tl.zeros((block_out, block_rank), tl.float32)
    for done in range(0, rank, block_rank):
        is_rank = r < rank - done
        h_block = tl.load(shrunk + token * max_rank + done + r, mask=is_rank, other=0.0)
        b_block = tl.load(b_at + done, mask=is_out[:, None] & is_rank[None, :], other=0.0).to(tl.float32)
        total += b_block * h_block[None, :]
    y_at = y + token * y_stride + n
    base = tl.load(y_at, mask=is_out, other=0.0).to(tl.float32)
    tl.store(y_at, (base + tl.load(scales + slot) * tl.sum(total, axis=1)).to(y.dtype.element_ty), mask=is_out)


shrink = triton.jit(_shrink)
expand = triton.jit(_expand)
