"""Shrink and expand over tiles of one adapter. Importing this imports Triton."""

# ruff: noqa: PLR0913, PLR0917 - a kernel gets each table as a pointer of its own

from __future__ import annotations

import triton
import triton.language as tl


def _shrink(
    shrunk: tl.tensor,
    x: tl.tensor,
    arena: tl.tensor,
    permutation: tl.tensor,
    tile_row: tl.tensor,
    tile_length: tl.tensor,
    tile_slot: tl.tensor,
    bases: tl.tensor,
    ranks: tl.tensor,
    a_units: tl.tensor,
    in_features: tl.tensor,
    max_rank: tl.tensor,
    x_stride: tl.tensor,
    block_rows: tl.constexpr,
    block_rank: tl.constexpr,
    block_in: tl.constexpr,
    alignment: tl.constexpr,
) -> None:
    """shrunk[row, :rank] = x[permutation[row], :] @ A^T for the rows of one tile and block_rank rows of A.

    x [tokens, in_features] and A [rank, in_features] in float16, bfloat16 or float32, A at
    arena[bases[slot] + rank * a_units]; shrunk [tokens, max_rank] float32, accumulated in float32.
    Tables int32, bases int64. Grid (tiles, ceil(max_rank / block_rank)); blocks beyond the adapter's own rank return.
    """
    tile = tl.program_id(0)
    slot = tl.load(tile_slot + tile)
    rank = tl.multiple_of(tl.load(ranks + slot), alignment)
    first = tl.program_id(1) * block_rank
    if first >= rank:
        return
    offset = tl.arange(0, block_rows)
    row = tl.load(tile_row + tile) + offset
    is_row = offset < tl.load(tile_length + tile)
    token = tl.load(permutation + row, mask=is_row, other=0).to(tl.int64)
    r = first + tl.arange(0, block_rank)
    k = tl.arange(0, block_in)
    x_at = x + token[:, None] * x_stride + k[None, :]
    a = arena + tl.multiple_of(tl.load(bases + slot), alignment) + rank.to(tl.int64) * a_units
    a_at = a + r[None, :] * in_features + k[:, None]
    total = tl.zeros((block_rows, block_rank), tl.float32)
    for done in range(0, in_features, block_in):
        is_in = k < in_features - done
        x_block = tl.load(x_at + done, mask=is_row[:, None] & is_in[None, :], other=0.0)
        a_block = tl.load(a_at + done, mask=(r < rank)[None, :] & is_in[:, None], other=0.0)
        total = tl.dot(x_block, a_block, total, input_precision="ieee")
    tl.store(shrunk + row[:, None] * max_rank + r[None, :], total, mask=is_row[:, None] & (r < rank)[None, :])


def _expand(
    y: tl.tensor,
    shrunk: tl.tensor,
    arena: tl.tensor,
    permutation: tl.tensor,
    tile_row: tl.tensor,
    tile_length: tl.tensor,
    tile_slot: tl.tensor,
    bases: tl.tensor,
    ranks: tl.tensor,
    scales: tl.tensor,
    b_units: tl.tensor,
    out_features: tl.tensor,
    max_rank: tl.tensor,
    y_stride: tl.tensor,
    block_rows: tl.constexpr,
    block_rank: tl.constexpr,
    block_out: tl.constexpr,
    alignment: tl.constexpr,
) -> None:
    """y[permutation[row], :] += scale * shrunk[row, :rank] @ B^T for the rows of one tile and block_out columns.

    B [out_features, rank] at arena[bases[slot] + rank * b_units]; y [tokens, out_features] of B's dtype; shrunk
    [tokens, max_rank] float32, rounded to B's dtype for the tensor cores; the sum with y is float32.
    Grid (tiles, ceil(out_features / block_out)); the loop ends at the adapter's own rank.
    """
    tile = tl.program_id(0)
    slot = tl.load(tile_slot + tile)
    rank = tl.multiple_of(tl.load(ranks + slot), alignment)
    if rank == 0:
        return
    offset = tl.arange(0, block_rows)
    row = tl.load(tile_row + tile) + offset
    is_row = offset < tl.load(tile_length + tile)
    n = tl.program_id(1) * block_out + tl.arange(0, block_out)
    r = tl.arange(0, block_rank)
    h_at = shrunk + row[:, None] * max_rank + r[None, :]
    b = arena + tl.multiple_of(tl.load(bases + slot), alignment) + rank.to(tl.int64) * b_units
    b_at = b + n[None, :] * rank + r[:, None]
    is_out = n < out_features
    total = tl.zeros((block_rows, block_out), tl.float32)
    for done in range(0, rank, block_rank):
        is_rank = r < rank - done
        h_block = tl.load(h_at + done, mask=is_row[:, None] & is_rank[None, :], other=0.0)
        b_block = tl.load(b_at + done, mask=is_rank[:, None] & is_out[None, :], other=0.0)
        total = tl.dot(h_block.to(b_block.dtype), b_block, total, input_precision="ieee")
    token = tl.load(permutation + row, mask=is_row, other=0).to(tl.int64)
    y_at = y + token[:, None] * y_stride + n[None, :]
    mask = is_row[:, None] & is_out[None, :]
    base = tl.load(y_at, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_at, (base + tl.load(scales + slot) * total).to(y.dtype.element_ty), mask=mask)


shrink = triton.jit(_shrink)
expand = triton.jit(_expand)
