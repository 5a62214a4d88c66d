"""Runs in a process of its own, since Triton reads TRITON_INTERPRET when kernels are defined; prints JSON.

`interpret` holds paged attention and rotary positions against torch's in Triton's interpreter (with
TRITON_INTERPRET=1), `compile` compiles the kernels for compute capabilities such as 80 without a GPU (without that
variable).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from gpu_validate.engine.attention import gathered_attention, rows_and_mask
from gpu_validate.engine.dims import BLOCK_TOKENS
from gpu_validate.engine.paged import BLOCK_N, OPTIONS, paged_attention
from gpu_validate.engine.rotary import BLOCK_HEADS, Rotation
from gpu_validate.engine.rotary import OPTIONS as TURN_OPTIONS

INTS = ("q_stride", "width", "v_offset", "qkv_stride")
TYPES = {"q": "*bf16", "cache": "*bf16", "out": "*bf16", "partial": "*fp32", "stats": "*fp32", "scale": "fp32"}
TYPES |= dict.fromkeys(("qkv", "cos", "sin"), "*bf16")
TYPES |= dict.fromkeys(("tables", "lengths", "positions", "rows"), "*i64") | dict.fromkeys(INTS, "i32")


def error(lengths: list[int], heads: int, kv_heads: int, splits: int, head_dim: int = 16) -> float:
    """Return the largest difference between both ways; the blocks of a request lie scattered."""
    dice = torch.Generator().manual_seed(0)
    width = -(-max(lengths) // BLOCK_TOKENS)
    blocks = torch.randperm(len(lengths) * width, generator=dice).view(len(lengths), width) + 1
    cache = torch.randn(2, (blocks.numel() + 1) * BLOCK_TOKENS, kv_heads, head_dim, generator=dice)
    wide = torch.randn(len(lengths), heads + 2 * kv_heads, head_dim, generator=dice)
    q, counts = wide[:, :heads], torch.tensor(lengths)
    wanted = gathered_attention(q, cache, *rows_and_mask(blocks, counts))
    return float((paged_attention(q, cache, blocks, counts, splits) - wanted).abs().max())


def turn_error(heads: int, kv_heads: int, head_dim: int = 16) -> float:
    """Return the largest difference between own kernel and torch, in what is returned and in the cache."""
    dice = torch.Generator().manual_seed(0)
    tables = torch.randn(2, 9, head_dim // 2, generator=dice)
    rotation = Rotation(tables[0], tables[1], torch.tensor([8, 0, 3]), torch.tensor([2, 5, 1]))
    qkv = torch.randn(3, (heads + 2 * kv_heads) * head_dim, generator=dice)
    empty, other = torch.zeros(2, 6, kv_heads, head_dim), torch.zeros(2, 6, kv_heads, head_dim)
    parts = qkv.view(3, -1, head_dim).clone()
    wanted = torch.cat(rotation(qkv, empty, heads), dim=1)
    rotation._launch(parts, other, heads)
    return float(max((parts - wanted).abs().max(), (other - empty).abs().max()))


def interpret() -> dict[str, float]:
    """Return errors by case."""
    return {
        "turned": turn_error(4, 4),
        "turned, grouped, several blocks of heads": turn_error(8, 2),
        "one head a query": error([1, 17], 2, 2, 1),
        "grouped": error([140, 3], 8, 2, 2),
        "many parts, some empty": error([300], 2, 1, 8),
    }


def compiled(kernel: Any, constants: dict[str, Any], options: dict[str, Any], cc: int) -> dict[str, Any]:
    """Compile one kernel as for a real model in bfloat16."""
    import triton  # noqa: PLC0415 - only here, since `interpret` must work without a compiler
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    signature = {name: "constexpr" if name in constants else TYPES[name] for name in kernel.arg_names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name not in constants and name not in {"scale", "width"}
    }
    source = ASTSource(kernel, signature, constants, attributes)
    result = triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)
    ptx = result.asm["ptx"]
    return {
        "cubin_bytes": len(result.asm["cubin"]),
        "shared_bytes": result.metadata.shared,
        "tensor_cores": "mma" in ptx,
    }


def compile_all(cc: int) -> dict[str, Any]:
    """Return what became of each kernel."""
    from gpu_validate.engine.paged_kernels import attend, join  # noqa: PLC0415 - imports Triton
    from gpu_validate.engine.rotary_kernels import turn  # noqa: PLC0415 - imports Triton

    shape = {"kv_heads": 8, "group": 4, "splits": 8, "head_dim": 128, "block_tokens": BLOCK_TOKENS}
    shape |= {"block_group": 16, "block_n": BLOCK_N}
    return {
        "attend": compiled(attend, shape, OPTIONS, cc),
        "join": compiled(join, {"splits": 8, "head_dim": 128}, {"num_warps": 4}, cc),
        "turn": compiled(turn, {"heads": 32, "kv_heads": 8, "half": 64, "block_heads": BLOCK_HEADS}, TURN_OPTIONS, cc),
    }


if __name__ == "__main__":
    print(json.dumps(interpret() if sys.argv[1] == "interpret" else {cc: compile_all(int(cc)) for cc in sys.argv[2:]}))
