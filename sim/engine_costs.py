"""What an engine's software costs: the `costs:` section of a system file, and what each LoRA kernel is without one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sim.hardware import Hardware, Rate, Seconds, Strict

Kernel = Literal["bgmv", "mbgmv", "segmented", "vllm_v1", "torch_loop", "merged", "none"]
Ratio = Annotated[float, Field(ge=0, le=1)]

PER_TOKEN_KERNELS = {"bgmv", "mbgmv"}  # every token re-reads its adapter
MATRIX_KERNELS = {"segmented", "vllm_v1", "torch_loop"}  # an adapter is read once for all its tokens

# Sources: docs/costs.md. What is not named is 0 (a factor: 1).
KERNEL_DEFAULTS: dict[str, dict[str, float]] = {
    "bgmv": {"lora_token_s": 31.35e-6, "padded_share": 1},
    "mbgmv": {"lora_token_s": 31.35e-6},
    "segmented": {"active_s": 1.05e-3},
    "vllm_v1": {
        "padded_share": 1,
        "distinct_s": 307e-6,
        "enabled_s": 1.29e-3,
        "slot_block_s": 0.89e-9,
    },
    "torch_loop": {"active_s": 9e-3, "distinct_s": 6.4e-3},
    "merged": {},
    "none": {},
}

HOST_TIMES = ("host_s", "host_per_running_s", "prefill_host_s", "prompt_s", "launch_s", "prefill_launch_s")


class EngineCosts(Strict):
    """What an engine's software costs; the `costs:` section of a system file.

    Attributes:
        host_s: host time of an iteration that nothing hides.
        host_per_running_s: the same per running request, in decode.
        prefill_host_s: host time of a prefill iteration, in place of `host_s`; where graphs serve decode alone, also of
            one that decodes beside.
        launch_s: CPU time to launch an iteration's kernels, for 32 layers; scales with their number. An iteration lasts
            at least this long (0: CUDA graphs).
        prefill_launch_s: the same of an iteration with prompts, where graphs serve decode alone; None: launch_s.
        graph_buckets: batch sizes that decode is padded to; larger batches are not padded.
        kernel: the LoRA kernel; it chooses the live terms and the defaults of the fields below.
        lora_token_s: per token of an iteration with adapters, for 128 adapted projections; scales with their number.
        lora_sequence_s: per sequence that decodes beside an adapter, for 128 adapted projections; scales with them.
        l2_bytes_per_s: rate at which a token re-reads its adapter; None: the hardware's. Only bgmv and mbgmv.
        padded_share: share of rank x token work that is done at the largest rank of the batch.
        active_s: per iteration with any adapter, for 128 adapted projections; scales with their number.
        distinct_s: per distinct adapter in the batch.
        enabled_s: per iteration, adapters or not.
        enabled_factor: factor on the GPU time of the base model, adapters or not.
        slot_block_s: per thread block that the kernels launch for configured adapter slots, used or idle
            (`sim.slot_kernels`).
        sample_s: per sequence that gets a token, for a vocabulary of 128256; scales with its size.
        batched_s: per iteration of more than one sequence.
        prompt_s: host time per prompt of which an iteration prefills a chunk.
        api_s: between a client and the engine, both ways, before the client has its first token. It shifts every
            request alike, so no simulated run contains it: whoever compares with a client's clock adds it.
        host_factor: on the host times above, in place of the hardware profile's; None: the profile's.
    """

    host_s: Seconds = 0.0
    host_per_running_s: Seconds = 0.0
    prefill_host_s: Seconds = 0.0
    launch_s: Seconds = 0.0
    prefill_launch_s: Seconds | None = None
    graph_buckets: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False)] = ()
    kernel: Kernel = "none"
    lora_token_s: Seconds = 0.0
    lora_sequence_s: Seconds = 0.0
    l2_bytes_per_s: Rate | None = None
    padded_share: Ratio = 0.0
    active_s: Seconds = 0.0
    distinct_s: Seconds = 0.0
    enabled_s: Seconds = 0.0
    enabled_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    slot_block_s: Seconds = 0.0
    sample_s: Seconds = 0.0
    batched_s: Seconds = 0.0
    prompt_s: Seconds = 0.0
    api_s: Seconds = 0.0
    host_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults_of_the_kernel(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**KERNEL_DEFAULTS.get(str(given.get("kernel", "none")), {}), **given}


def on_host(engine: EngineCosts, hardware: Hardware) -> EngineCosts:
    """Return what an engine's software costs on this machine's CPU."""
    host, given = hardware.host, engine.host_factor
    factor = 1.0 if host is None else host.factor
    api_factor = factor if host is None else host.api_factor or factor
    times = {name: value * (given or factor) for name in HOST_TIMES if (value := getattr(engine, name)) is not None}
    return engine.model_copy(update={**times, "api_s": engine.api_s * (given or api_factor)})
