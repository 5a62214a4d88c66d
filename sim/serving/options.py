"""The mechanism of one engine, as numbers and switches; what each real system sets stands in `sim/data/systems`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.serving.inputs import StepInputs
from sim.serving.ticks import TICKS_PER_S

Reserve = Literal["peak", "whole", "predicted", "on_demand"]
PrefillMode = Literal["separate", "mixed", "chunked"]
Preempted = Literal["recompute", "swap", "keep"]
Shortage = Literal["recompute", "swap"]
Victim = Literal["last_admitted", "least_generated"]

UNLIMITED = 1 << 62


@dataclass(frozen=True)
class EarlyStart:
    """A prefill that starts while its adapter is still on its way; it ends no sooner than the adapter has landed.

    Attributes:
        layers: of the model; the last one's share of the prefill comes after the landing (layer-wise loading).
        groups: of layers that arrive together; the first one is waited for, or computed on the CPU (CaraServe). None:
            nobody helps, and only the landing counts.
        cpu_token_ticks: CPU time for one prompt token over the first group.
        slowdown: factor on the prefill while the CPU helps.
    """

    layers: int
    groups: int | None = None
    cpu_token_ticks: int = 0
    slowdown: float = 1.0

    def ticks(self, prefill: int, tokens: int, load: int, left: int) -> int:
        """Return how long such a prefill lasts.

        Args:
            prefill: ticks of the same prefill with its adapters at hand.
            tokens: prompt tokens whose adapter is missing.
            load: ticks of the longest load that it started with.
            left: ticks until the last adapter lands.
        """
        last_layer = -(-prefill // self.layers)
        if self.groups is None:
            return max(prefill, left + last_layer)
        exposed = min(tokens * self.cpu_token_ticks, load // self.groups)
        return max(round(prefill * self.slowdown) + exposed, left + last_layer)


@dataclass(frozen=True)
class EngineOptions:
    """Mechanism of one engine.

    Attributes:
        admit_every_steps: decode steps between two admission rounds while the batch is not empty.
        batch_prompt_tokens: prompt tokens that one prefill iteration may take.
        running_requests: limit on admitted requests.
        distinct_adapters: limit on distinct adapters of admitted requests.
        blocks_on_load: the engine stands still while an adapter loads for an admitted request; else others go on.
        asks_every_step: never skip a decode step or an admission round; slow, and the oracle for the fast path.
        reserve: what admission plans for: S-LoRA's future peak, the whole true length, the predicted length, or only
            the prompt (paged growth on demand).
        prefill: an iteration of its own, in one iteration with the decode batch, or in chunks beside it.
        step_tokens: tokens that one chunked iteration may take, decode tokens first.
        prefills_per_step: prompts that one mixed or chunked iteration may work on.
        block_tokens: tokens of one KV block; a request holds whole blocks.
        watermark_bytes: KV memory that admission leaves free where growth is on demand.
        preempted: where the KV of a request that the scheduler stops stays meanwhile.
        shortage: what becomes of the KV of a request that is stopped because memory ran out.
        victim: who is stopped first then: the last admitted, or (SGLang) who has the fewest output tokens so far.
        swap_bytes: host memory for KV; what does not fit is recomputed.
        reuses_blocks: a stopped request that is recomputed keeps its first blocks as far as nobody has taken them.
        base_slot: admitted requests without an adapter use a slot together, and count as one adapter (SGLang).
        slot_rank: rank that every adapter of a batch is computed at; 0: its own, or as the kernel pads.
        early_start: prefill before the adapter is there; None: wait for it.
        returning_loads: further loads of a load that is sent while admitted requests use every slot.
        fair_link: loads share the link at equal rates; else they go one after the other.
        inputs: what a step sends to the GPU; None: nothing that could wait for a transfer.
        inline_bytes: of inputs that wait for no transfer.
        merge_ticks: time to merge an adapter into the weights, or to take it out again.
    """

    admit_every_steps: int
    batch_prompt_tokens: int
    running_requests: int
    distinct_adapters: int
    blocks_on_load: bool
    asks_every_step: bool = False
    reserve: Reserve = "peak"
    prefill: PrefillMode = "separate"
    step_tokens: int = UNLIMITED
    prefills_per_step: int = UNLIMITED
    block_tokens: int = 1
    watermark_bytes: int = 0
    preempted: Preempted = "recompute"
    shortage: Shortage = "recompute"
    victim: Victim = "last_admitted"
    swap_bytes: int = UNLIMITED
    reuses_blocks: bool = False
    base_slot: bool = False
    slot_rank: int = 0
    early_start: EarlyStart | None = None
    returning_loads: int = 0
    fair_link: bool = False
    inputs: StepInputs | None = None
    inline_bytes: int = 0
    merge_ticks: int = 15 * TICKS_PER_S // 1000
