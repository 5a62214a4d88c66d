"""What the Triton kernels do, in torch, from the same arguments: slow, but on any device and without Triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

Tensor: TypeAlias = torch.Tensor


def _matrix(arena: Tensor, base: int, rank: int, units: int, rows: int, columns: int) -> Tensor:
    start = base + rank * units
    return arena[start : start + rows * columns].view(rows, columns).float()


def _by_tile(work: Callable[[int, int, slice, Tensor], None], tables: tuple[Tensor, ...]) -> None:
    """Call for every tile with work: slot, rank, rows, tokens of the rows."""
    permutation, tile_row, tile_length, tile_slot, ranks = (table.tolist() for table in tables)
    for row, length, slot in zip(tile_row, tile_length, tile_slot, strict=True):
        if ranks[slot] and length:
            rows = slice(row, row + length)
            work(slot, ranks[slot], rows, torch.tensor(permutation[rows]))


def segmented_shrink(
    shrunk: Tensor, x: Tensor, arena: Tensor, permutation: Tensor, row: Tensor, length: Tensor, slot: Tensor, *more: Any
) -> None:
    bases, ranks, a_units, in_features, *_ = more

    def work(at: int, rank: int, rows: slice, tokens: Tensor) -> None:
        a = _matrix(arena, int(bases[at]), rank, a_units, rank, in_features)
        shrunk[rows, :rank] = x[tokens].float() @ a.T

    _by_tile(work, (permutation, row, length, slot, ranks))


def segmented_expand(
    y: Tensor, shrunk: Tensor, arena: Tensor, permutation: Tensor, row: Tensor, length: Tensor, slot: Tensor, *more: Any
) -> None:
    bases, ranks, scales, b_units, out_features, *_ = more

    def work(at: int, rank: int, rows: slice, tokens: Tensor) -> None:
        b = _matrix(arena, int(bases[at]), rank, b_units, out_features, rank)
        h = shrunk[rows, :rank].to(arena.dtype).float()
        y[tokens] = (y[tokens].float() + scales[at] * (h @ b.T)).to(y.dtype)

    _by_tile(work, (permutation, row, length, slot, ranks))


def bgmv_shrink(shrunk: Tensor, x: Tensor, arena: Tensor, row_slot: Tensor, *more: Any) -> None:
    bases, ranks, a_units, in_features, *_ = more
    for token, slot in enumerate(row_slot.tolist()):
        if rank := int(ranks[slot]):
            a = _matrix(arena, int(bases[slot]), rank, a_units, rank, in_features)
            shrunk[token, :rank] = a @ x[token].float()


def bgmv_expand(y: Tensor, shrunk: Tensor, arena: Tensor, row_slot: Tensor, *more: Any) -> None:
    bases, ranks, scales, b_units, out_features, *_ = more
    for token, slot in enumerate(row_slot.tolist()):
        if rank := int(ranks[slot]):
            b = _matrix(arena, int(bases[slot]), rank, b_units, out_features, rank)
            y[token] = (y[token].float() + scales[slot] * (b @ shrunk[token, :rank])).to(y.dtype)


def attend(partial: Tensor, stats: Tensor, q: Tensor, cache: Tensor, tables: Tensor, lengths: Tensor, *_: Any) -> None:
    """Leave all of a request's tokens to its first part."""
    partial.zero_()
    stats[..., 0], stats[..., 1] = -torch.inf, 0.0
    requests, heads, head_dim = q.shape
    for request in range(requests):
        length = int(lengths[request])
        blocks = tables[request, : -(-length // 16)]
        rows = (blocks[:, None] * 16 + torch.arange(16)).flatten()[:length]
        k, v = (part[rows].float().repeat_interleave(heads // part.shape[1], 1) for part in cache)
        scores = torch.einsum("hd,thd->ht", q[request].float(), k) * head_dim**-0.5
        top = scores.amax(1)
        p = (scores - top[:, None]).exp()
        partial[request, :, 0] = torch.einsum("ht,thd->hd", p, v)
        stats[request, :, 0, 0], stats[request, :, 0, 1] = top, p.sum(1)


def join(out: Tensor, partial: Tensor, stats: Tensor) -> None:
    factors = (stats[..., 0] - stats[..., 0].amax(2, keepdim=True)).exp()
    weight = (factors * stats[..., 1]).sum(2)
    out.copy_((partial * factors[..., None]).sum(2) / weight[..., None])


def turn(qkv: Tensor, cache: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, rows: Tensor, *_: Any) -> None:
    kv_heads = cache.shape[2]
    q_and_k, v = qkv[:, :-kv_heads], qkv[:, -kv_heads:]
    left, right = (part.float() for part in q_and_k.chunk(2, dim=-1))
    c, s = (table[positions].float().unsqueeze(1) for table in (cos, sin))
    q_and_k.copy_(torch.cat((left * c - right * s, right * c + left * s), dim=-1))
    cache[0][rows], cache[1][rows] = q_and_k[:, -kv_heads:], v


KERNELS: dict[str, dict[str, Callable[..., None]]] = {
    "gpu_validate.lora.segmented_kernels": {"shrink": segmented_shrink, "expand": segmented_expand},
    "gpu_validate.lora.bgmv_kernels": {"shrink": bgmv_shrink, "expand": bgmv_expand},
    "gpu_validate.engine.paged_kernels": {"attend": attend, "join": join},
    "gpu_validate.engine.rotary_kernels": {"turn": turn},
}
