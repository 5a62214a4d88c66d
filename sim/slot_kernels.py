"""Thread blocks of vLLM's LoRA kernels: the grids have some for every adapter slot, whether it is in use or not.

vLLM 0.8 (Apache-2.0), lora/ops/triton_ops/lora_shrink.py and lora_expand.py. One more than there are slots, as requests
without an adapter count as one. A block of an idle slot ends at once, but has to be launched.

Steps of up to 512 tokens are padded to multiples of 8 there, so that the hidden size is split less from 121 tokens on;
here it is from 128 on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sim.models import DEFAULT_MODULES, Model

FUSED = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))  # projections of one expand kernel, a slice each
SHARDED = {"q", "k", "v", "gate", "up"}  # whose outputs are split between GPUs that work as one
SHRINK_TOKENS, SHRINK_RANKS = 32, 16  # tiles of the kernel that multiplies by A
SHRINK_SPLITS, SHRINK_SPLITS_OF_MANY, MANY_TOKENS = 64, 8, 128  # of the hidden size; fewer from 128 tokens on
EXPAND_TOKENS, EXPAND_OUTPUTS = 64, 128  # tiles of the kernel that multiplies by B
# Up to here steps are CUDA graphs, whose kernels run whether a request has an adapter or not; beyond, only if one has.
GRAPH_TOKENS = 512


class Slots(NamedTuple):
    """Places of one size for adapters.

    Attributes:
        places: how many.
        rank: that each has room for.
        modules: projections that each has room for.
    """

    places: int = 0
    rank: int = 0
    modules: tuple[str, ...] = DEFAULT_MODULES


NO_SLOTS = Slots()


def kernel_blocks(model: Model, slots: Slots, tokens: int, gpus: int = 1) -> int:
    """Return the blocks that the kernels of all layers launch for one pass, on each GPU.

    Args:
        model: the base model.
        slots: that the kernels run over.
        tokens: of the pass.
        gpus: that work as one.
    """
    if not slots.places:
        return 0
    shapes = model.module_shapes
    splits = SHRINK_SPLITS if tokens < MANY_TOKENS else SHRINK_SPLITS_OF_MANY
    shrink = splits * math.ceil(tokens / SHRINK_TOKENS) * math.ceil(slots.rank / SHRINK_RANKS) * len(slots.modules)
    expand = 0
    for group in FUSED:
        outputs = [shapes[one][1] / (gpus if one in SHARDED else 1) for one in group if one in slots.modules]
        expand += len(outputs) * math.ceil(max(outputs, default=0) / EXPAND_OUTPUTS)
    return model.layers * (slots.places + 1) * (shrink + math.ceil(tokens / EXPAND_TOKENS) * expand)
