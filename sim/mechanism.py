"""The sections of a configuration that describe the mechanism; policies, workload and costs stand elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sim.models import DEFAULT_MODULES, canonical_modules
from sim.serving.options import Preempted, Reserve, Shortage, Victim

LONGEST_S = 1e6  # of one thing that takes time: eleven days

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Modules = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(canonical_modules)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)]


class Section(BaseModel):
    """Unknown keys are errors, and so is true or false for a number; instances do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            msg = "true and false are not allowed here"
            raise ValueError(msg)
        return value


class Admission(Section):
    """When and how requests join the batch, and what becomes of those that must leave it."""

    every_steps: int = Field(1, ge=0, description="decode steps between admission rounds; 0: also after a prefill")
    reserve: Reserve = Field(
        "peak",
        description="what is planned for. peak: S-LoRA's test that KV cannot overflow if all run to their end; "
        "whole: prompt and true output; predicted: prompt and predicted output; on_demand: only the prompt",
    )
    watermark: Share = Field(0.0, description="share of the KV pool that admission leaves free, with on_demand")
    preempted: Preempted = Field("recompute", description="where the KV of a request stays that the scheduler stops")
    shortage: Shortage = Field("recompute", description="what becomes of the KV of a request that memory stops")
    victim: Victim = Field(
        "last_admitted",
        description="whom a lack of memory stops first: the last admitted, or the one with the fewest output tokens so "
        "far and, of several, the longest prompt (SGLang)",
    )
    idle_poll_s: Seconds = Field(0.0, description="an empty engine looks for work only this often; 0: at once")


class Limits(Section):
    """Caps on a batch."""

    running_requests: Count = Field(1000, description="admitted requests at once")
    batch_prompt_tokens: Count | None = Field(
        None,
        description="prompt tokens of one prefill; None: a sixth of the pool, at least 3072 and any one prompt",
    )
    step_tokens: Count = Field(2048, description="tokens of one chunked iteration, decode tokens first")
    prefills_per_step: Count | None = Field(None, description="prompts of one mixed or chunked iteration; None: any")
    distinct_adapters: Count | None = Field(
        None, description="distinct adapters of admitted requests; None: no limit but the number of slots"
    )


class Memory(Section):
    """How much of the GPU serves KV, in which pieces, and what the host takes of it."""

    kv_pool_tokens: Count | None = Field(None, description="tokens of the KV pool; None: all memory that is left over")
    reserve_bytes: int | None = Field(
        None, ge=0, description="activations and the like, per GPU; None: as the hardware profile says"
    )
    block_tokens: Count = Field(1, description="tokens of one KV block; requests hold whole blocks")
    reuses_blocks: bool = Field(
        default=False,
        description="a stopped request computes only those blocks again that somebody has taken meanwhile; false: all",
    )
    swap_bytes: int | None = Field(None, ge=0, description="host memory for KV; None: no limit")


class Adapters(Section):
    """Where adapters live on the GPU, and below it."""

    memory: Literal["unified", "idle", "reserved", "slots"] = Field(
        "unified",
        description="unified: inside the KV pool; idle: in memory that KV leaves over; reserved: a region of its own; "
        "slots: such a region in slots of the largest rank",
    )
    reserved_bytes: int | None = Field(
        None, ge=1, description="size of the reserved region; only with memory: reserved"
    )
    slots: Count | None = Field(None, description="number of slots; only with memory: slots")
    max_rank: Count | None = Field(None, description="rank of a slot; None: the largest of the workload")
    base_slot: bool = Field(
        default=False,
        description="admitted requests without an adapter take a slot together (SGLang); only with memory: slots",
    )
    modules: Modules = Field(DEFAULT_MODULES, description="projections that every adapter targets")
    slot_modules: Modules | None = Field(
        None,
        description="projections that a slot has room for, and that the kernels of all slots run over; None: modules",
    )
    host_bytes: Count | None = Field(None, description="host RAM for adapters; None: it holds all of them for good")
    host_adapters: Count | None = Field(
        None, description="how many adapters host RAM holds (vLLM's max_cpu_loras, which is max_loras by default)"
    )
    host_starts_warm: bool = Field(default=True, description="whether host RAM is filled before the first request")


class Loading(Section):
    """How an adapter gets from disk and host memory to the GPU."""

    mode: Literal["blocking", "overlapped", "layerwise", "cpu_assisted"] = Field(
        "blocking",
        description="blocking: the engine stands still until it is there; overlapped: others go on meanwhile; "
        "layerwise: the prefill starts and follows the load; cpu_assisted: the CPU computes what is not there yet",
    )
    copies: float = Field(
        1.0, gt=0, le=1e6, description="bytes moved over the link per adapter byte (the released S-LoRA: 2)"
    )
    ops_per_layer: int = Field(1, ge=0, description="copy operations issued per layer")
    fixed_s: Seconds = Field(0.0, description="time of a load beside issuing copies and moving bytes")
    returns_per_slot: Share = Field(
        0.0,
        description="while requests use every slot, a load makes so many of them leave and come back, as a share of "
        "all: vLLM's worker takes a step's adapters in no order, and a new one the place of one still to come (1/6)",
    )
    pinned: bool = Field(
        default=True,
        description="whether the GPU engine's host copies of adapters are page-locked; no cost depends on it",
    )
    groups: Count = Field(4, description="groups of layers that arrive together; only with mode: cpu_assisted")
    cpu_token_s: Seconds = Field(
        20e-6, description="CPU time of a prompt token over the first group; only with mode: cpu_assisted"
    )
    slowdown: float = Field(
        1.07, ge=1, description="factor on a prefill that the CPU helps; only with mode: cpu_assisted"
    )
    disk_bytes_per_s: float = Field(2e9, gt=0, description="rate of a read from disk")
    disk_latency_s: Seconds = Field(0.0, description="fixed time of a read from disk")
    sharing: Literal["fifo", "fair"] = Field(
        "fifo", description="transfers on the link go one after the other, or all at once at equal rates"
    )
    request_input_bytes: int = Field(
        0,
        ge=0,
        description="bytes that a step sends to the GPU for each of its requests, such as a row of the block table; "
        "more than the link's inline_bytes in all wait for the transfer under way; only with sharing: fifo",
    )
    token_input_bytes: int = Field(
        0, ge=0, description="the same for each token that goes through the decoder, such as its id and position"
    )
    merge_s: Seconds = Field(0.015, description="time to merge an adapter into the weights, or to take it out again")


class LoadGenerator(Section):
    """Who sends the requests."""

    max_concurrency: Count | None = Field(
        None,
        description="most requests under way at once; others wait at the client, in no latency (a closed loop, as "
        "`vllm bench serve --max-concurrency`); None: each is sent when it is due",
    )


class Parallelism(Section):
    """GPUs that work as one engine."""

    tensor: Count = Field(1, description="GPUs that share every layer; adapters and KV are sharded, each has its link")
    gpus_per_switch: Count = Field(1, description="GPUs whose loads share the host link of one switch")
    all_reduce_bytes_per_s: float | None = Field(
        None, gt=0, description="rate of an all-reduce per GPU; null: the card's, or 20e9 (PCIe 4) if it states none"
    )
    all_reduce_s: Seconds | None = Field(
        None, description="fixed time of one all-reduce; null: the card's, or 20e-6 if it states none"
    )

    @model_validator(mode="after")
    def _switches_hold_whole_engines(self) -> Self:
        if self.gpus_per_switch > self.tensor:
            msg = f"gpus_per_switch: {self.gpus_per_switch} GPUs on a switch exceed the {self.tensor} of tensor"
            raise ValueError(msg)
        return self
