"""Runs in a process of its own, since Triton reads TRITON_INTERPRET when kernels are defined; prints JSON.

`interpret` runs the kernels in Triton's interpreter (with TRITON_INTERPRET=1), `compile CC` compiles them for a compute
capability such as 80 without a GPU (without that variable).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from gpu_validate.lora import bgmv, segmented
from gpu_validate.lora.backends import Backend, backend
from gpu_validate.lora.triton_launch import RANK_BLOCK, alignment, kernels
from tests.lora_world import MIXED, make_world

FEW = (3, None, 5, 3, 6, 0, 5, *[1] * 18)  # ranks 64, 5, 0, 8, and two tiles of rank 16
TYPES = dict.fromkeys(("x", "y", "arena"), "*bf16") | {"shrunk": "*fp32", "bases": "*i64", "scales": "*fp32"}
TYPES |= dict.fromkeys(("a_units", "b_units", "in_features", "out_features", "max_rank", "x_stride", "y_stride"), "i32")
KERNELS = {
    "segmented": {"shrink": segmented.SHRINK, "expand": segmented.EXPAND},
    "bgmv": {"shrink": bgmv.SHRINK, "expand": bgmv.EXPAND},
}


def refusal(work: Callable[[], object]) -> str:
    """Return the message of the RuntimeError that the work must raise."""
    try:
        work()
    except RuntimeError as error:
        return str(error)
    return "no error"


def reuses_padded_tables(kind: Backend) -> bool:
    """Whether a plan that took over another's tables gives exactly what the other gives."""
    other = make_world(FEW, torch.float32)
    held = make_world([1, *[None] * 23, 2], torch.float32).plan.padded(12, max_rank=70, aligned=False)
    plain = other.apply(kind)
    held.copy_from(other.plan.padded(12))
    return bool(torch.equal(other.apply(kind, plan=held), plain))


def untouched(kind: Backend) -> bool:
    """Whether batches without work leave y as it is."""
    worlds = [make_world(tokens, torch.float32) for tokens in ((), (None,), (6, 6, None))]
    return all(torch.equal(world.apply(kind), world.y) for world in worlds)


def interpret() -> dict[str, Any]:
    """Return errors and findings by backend."""
    found: dict[str, Any] = {}
    for name in KERNELS:
        kind = backend(name)
        found[name] = {
            "float32": make_world(MIXED, torch.float32).error(kind),
            "float16": make_world(FEW, torch.float16, module="o").error(kind),
            "float32, odd features": make_world(FEW, torch.float32, module="odd", step=1).error(kind),
            "float32, tiles of 32": make_world(FEW, torch.float32, module="k", layer=0, tile=32).error(kind),
            "float32, one token": make_world([5], torch.float32, module="k", layer=0).error(kind),
            "untouched": untouched(kind),
            "reuses padded tables": reuses_padded_tables(kind),
            "bfloat16": refusal(lambda kind=kind: make_world(FEW, torch.bfloat16).apply(kind)),  # type: ignore[misc]
        }
    return found


def compiled(kernel: Any, launch: dict[str, Any], cc: int) -> dict[str, Any]:
    """Compile one kernel as for a real model: bfloat16, sizes and pointers that are multiples of 16."""
    import triton  # noqa: PLC0415 - only here, since `interpret` must work without a compiler
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    given = {"block_rows": 16, "block_rank": RANK_BLOCK, "alignment": alignment(aligned=True), **launch}
    names = kernel.arg_names
    constants = {name: given.pop(name) for name in names if name in given}
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "*i32") for name in names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants}
    options = {name: value for name, value in given.items() if name in launch}
    source = ASTSource(kernel, signature, constants, attributes)
    result = triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)
    ptx = result.asm["ptx"]
    return {
        "cubin_bytes": len(result.asm["cubin"]),
        "shared_bytes": result.metadata.shared,
        "tensor_cores": "mma.sync" in ptx,
        "wide_loads": "ld.global.v4" in ptx or "cp.async.cg.shared.global" in ptx,
    }


def compile_all(cc: int) -> dict[str, Any]:
    """Return what became of each kernel."""
    return {
        f"{name} {part}": compiled(getattr(kernels(name), part), launch, cc)
        for name, parts in KERNELS.items()
        for part, launch in parts.items()
    }


if __name__ == "__main__":
    print(json.dumps(interpret() if sys.argv[1] == "interpret" else compile_all(int(sys.argv[2]))))
