"""The mechanism of one engine, as numbers and switches; what each real system sets stands in `sim/data/systems`."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    admit_every_steps: int
    batch_prompt_tokens: int
    running_requests: int
    distinct_adapters: int
    blocks_on_load: bool
    asks_every_step: bool = False
