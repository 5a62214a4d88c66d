"""The one place where seconds come from: iteration and load times as sums of non-negative terms, in integer ticks.

What each term means, where its coefficients come from and what is not modelled: docs/costs.md. Every coefficient is
rounded to whole ticks once, so a time is an exact integer sum and a run of decode steps is exactly affine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from sim.engine_costs import KERNEL_DEFAULTS, MATRIX_KERNELS, PER_TOKEN_KERNELS, EngineCosts, Kernel, on_host
from sim.hardware import Hardware
from sim.models import DEFAULT_MODULES, Model
from sim.parallel import ONE_GPU, Parallel
from sim.serving.shape import Load, StepCost
from sim.serving.ticks import TICKS_PER_S, to_seconds, to_ticks
from sim.slot_kernels import GRAPH_TOKENS, NO_SLOTS, Slots, kernel_blocks

__all__ = ["KERNEL_DEFAULTS", "MEDIUM_PROMPT_TOKENS", "CostModel", "EngineCosts", "Kernel", "StepCost"]

# The paper only says "medium". Its Fig. 2 fixes the base part of an unloaded first token at 57.6 ms (40 % of 144 ms),
# and at the A40's measured prefill rate that is 350 to 390 tokens; 370 is the middle.
MEDIUM_PROMPT_TOKENS = 370

REFERENCE_PROJECTIONS = 128  # q, k, v, o of 32 layers: what `lora_token_s` and `active_s` were found for
REFERENCE_LAYERS = 32  # what `launch_s` was found for
REFERENCE_HIDDEN = 4096  # what `elementwise_s_per_token` was found for
REFERENCE_VOCAB = 128256  # what `sample_s` was found for


class LoadingCosts(NamedTuple):
    """What moves an adapter.

    Attributes:
        copies: bytes moved over the link per adapter byte (S-LoRA 2).
        ops_per_adapter: copy operations issued per adapter load.
        fixed_s: time of one load beside issuing copies and moving bytes.
        disk_bytes_per_s: rate of a read from disk.
        disk_latency_s: fixed time of a read from disk.
    """

    copies: float = 1.0
    ops_per_adapter: int = 0
    fixed_s: float = 0.0
    disk_bytes_per_s: float = 2e9
    disk_latency_s: float = 0.0


PLAIN_LOADING = LoadingCosts()


class CostModel:
    """Seconds of one engine with one model on one GPU, as integer ticks.

    Args:
        hardware: effective rates of the GPU and its link.
        model: dimensions of the base model.
        engine: what the engine's software costs.
        modules: projections that every adapter targets.
        loading: what moves an adapter.
        slots: configured adapter slots; they matter only where the engine has a `slot_block_s`.
        parallel: GPUs that work as one.
    """

    def __init__(
        self,
        hardware: Hardware,
        model: Model,
        engine: EngineCosts,
        *,
        modules: Iterable[str] = DEFAULT_MODULES,
        loading: LoadingCosts = PLAIN_LOADING,
        slots: Slots = NO_SLOTS,
        parallel: Parallel = ONE_GPU,
    ) -> None:
        copies, operations = loading.copies, loading.ops_per_adapter
        if not (math.isfinite(copies) and copies > 0) or operations < 0 or slots.places < 0:
            msg = f"need copies > 0, ops_per_adapter and slots >= 0, got {copies}, {operations} and {slots.places}"
            raise ValueError(msg)
        modules = tuple(modules)
        hardware = parallel.as_one(hardware)
        engine = on_host(engine, hardware)
        self._hardware, self._model, self._engine, self._slots = hardware, model, engine, slots
        self._loading, self._parallel = loading, parallel
        self.api_s = engine.api_s  # on this host; no simulated time contains it
        self.rank_bytes = model.adapter_bytes(1, modules)  # bytes of an adapter per unit of rank
        self._dense: dict[int, int] = {}  # tokens -> ticks of the linear layers
        self._slot_kernels: dict[int, int] = {}  # tokens -> ticks of blocks that slots have
        self._prompts: dict[int, int] = {}  # requests -> ticks of the other base terms
        self._batches: dict[int, tuple[int, int, int]] = {}  # running requests -> see `_batch`
        self._set_base_rates()
        self._set_lora_rates(slots.modules if self._runs_over_slots else modules)
        self._latency = to_ticks(hardware.link.h2d_latency_s)
        self._issue = to_ticks(operations * hardware.link.copy_issue_s)
        self._gaps = to_ticks(operations * hardware.link.copy_gap_s)
        self._load_fixed = to_ticks(loading.fixed_s)
        self._load_byte_s = copies / hardware.link.h2d_bytes_per_s

    def decode(
        self, requests: int, context_tokens: int, sum_rank: int, distinct: int, distinct_rank: int, max_rank: int
    ) -> StepCost:
        """Return the durations of the next decode steps of one batch.

        The first step reads `context_tokens` and every later one `requests` more. Where the CPU's launches hide the
        GPU the time is constant until the context has grown enough; `steps` says for how long. Evaluated at the
        context of step j, the law gives the same duration of step j, to the tick.

        Args:
            requests: running requests.
            context_tokens: KV tokens that the first step reads, over all requests.
            sum_rank: sum of ranks over the requests.
            distinct: number of distinct adapters in the batch.
            distinct_rank: sum of ranks over the distinct adapters.
            max_rank: largest rank in the batch (or of the engine's slots, where it always computes at that).
        """
        batch = self._batches.get(requests)
        if batch is None:
            batch = self._batches[requests] = self._batch(requests)
        host, gpu, lora = batch
        gpu += context_tokens * self._kv
        if distinct:
            gpu += lora + sum_rank * self._rank + max_rank * requests * self._pad
            gpu += distinct * self._distinct + distinct_rank * self._read
        growth = requests * self._kv
        hidden = self._launch - gpu
        if hidden > 0 and growth:
            return StepCost(host + self._launch, 0, hidden // growth + 1)
        return StepCost(host + max(gpu, self._launch), growth, None)

    def prefill(
        self,
        requests: int,
        tokens: int,
        squared_tokens: int,
        token_rank: int,
        distinct: int,
        distinct_rank: int,
        max_rank: int,
    ) -> int:
        """Return ticks of one prefill iteration over one or more prompts.

        Args:
            requests: prompts in the iteration.
            tokens: prompt tokens, over all prompts.
            squared_tokens: sum of squared prompt lengths (of a chunk c after k cached tokens: c * (2 * k + c)).
            token_rank: sum over prompts of tokens times rank.
            distinct: number of distinct adapters.
            distinct_rank: sum of ranks over the distinct adapters.
            max_rank: largest rank.
        """
        rest = self._prompts.get(requests)
        if rest is None:
            rest = self._prompts[requests] = sum(self._sequence_terms(requests).values())
        gpu = (
            rest + self._dense_ticks(tokens) + self._slot_ticks(tokens, distinct) + round(squared_tokens * self._square)
        )
        if distinct:
            gpu += self._active + tokens * self._lora_token + token_rank * self._rank + max_rank * tokens * self._pad
            gpu += distinct * self._distinct + distinct_rank * self._read_prefill
        return self._prefill_host + requests * self._prompt + max(gpu, self._prefill_launch)

    def mixed(
        self, requests: int, context_tokens: int, prompts: int, tokens: int, squared_tokens: int, load: Load
    ) -> int:
        """Return ticks of one iteration that decodes a batch and prefills chunks of prompts beside it.

        The linear layers and the LoRA kernels see all tokens at once; attention is the sum of both kinds.

        Args:
            requests: running requests, each with one token.
            context_tokens: KV tokens that their attention reads.
            prompts: prompts of which a chunk is prefilled.
            tokens: prompt tokens, over all chunks.
            squared_tokens: as in `prefill`.
            load: of the LoRA kernels, over both kinds of tokens.
        """
        all_tokens = tokens + requests
        gpu = sum(self._sequence_terms(requests + prompts).values())
        gpu += self._dense_ticks(all_tokens) + self._slot_ticks(all_tokens, load.distinct)
        gpu += context_tokens * self._kv_mixed + round(squared_tokens * self._square)
        if load.distinct:
            gpu += self._active + all_tokens * self._lora_token + requests * self._lora_sequence
            gpu += load.token_rank * self._rank + load.max_rank * all_tokens * self._pad
            gpu += load.distinct * self._distinct + load.distinct_rank * self._read
        host = self._prefill_host if not requests else self._mixed_host + requests * self._host_running
        return host + prompts * self._prompt + max(gpu, self._prefill_launch)

    def load(self, size_bytes: int) -> int:
        """Return ticks that the link is busy with one adapter: the slower of issuing copies and moving bytes."""
        moved = to_ticks(size_bytes * self._load_byte_s) + self._gaps
        return self._latency + self._load_fixed + max(self._issue, moved)

    def read(self, size_bytes: int) -> int:
        """Return ticks that the disk is busy with one adapter."""
        return to_ticks(self._loading.disk_latency_s + size_bytes / self._loading.disk_bytes_per_s)

    def swap(self, size_bytes: int) -> int:
        """Return ticks of moving KV between GPU and host, either way: plain bytes over the link."""
        return self._latency + to_ticks(size_bytes / self._hardware.link.h2d_bytes_per_s)

    def explain_decode(
        self, requests: int, context_tokens: int, sum_rank: int, distinct: int, distinct_rank: int, max_rank: int
    ) -> dict[str, float]:
        """Return seconds of each term of the first step of `decode`; they sum to it."""
        padded = self._padded(requests)
        terms = {"dense": self._dense_ticks(padded), **self._sequence_terms(requests)}
        terms["attention"] += context_tokens * self._kv
        terms["lora_slots"] = self._slot_ticks(padded, distinct)
        terms |= self._lora_terms(requests, sum_rank, distinct, distinct_rank * self._read, max_rank)
        if distinct:
            terms["lora_tokens"] += requests * self._lora_sequence
        return _explained(self._batch(requests)[0], terms, self._launch)

    def explain_prefill(
        self,
        requests: int,
        tokens: int,
        squared_tokens: int,
        token_rank: int,
        distinct: int,
        distinct_rank: int,
        max_rank: int,
    ) -> dict[str, float]:
        """Return seconds of each term of `prefill`; they sum to it."""
        terms = {"dense": self._dense_ticks(tokens), **self._sequence_terms(requests)}
        terms["attention"] += round(squared_tokens * self._square)
        terms["lora_slots"] = self._slot_ticks(tokens, distinct)
        terms |= self._lora_terms(tokens, token_rank, distinct, distinct_rank * self._read_prefill, max_rank)
        return _explained(self._prefill_host + requests * self._prompt, terms, self._prefill_launch)

    def dense_s(self, tokens: int) -> float:
        """Return seconds of the linear layers for this many tokens: a roofline per matrix, floors, elementwise work."""
        dense, model = self._hardware.dense, self._model
        gemms_s = sum(self._gemm_s(tokens, n * k) for n, k in model.gemms.values())
        floors_s = dense.kernels_per_layer * dense.kernel_floor_s
        elementwise_s = tokens * dense.elementwise_s_per_token * model.hidden / REFERENCE_HIDDEN
        return model.layers * (gemms_s + floors_s + elementwise_s + self._parallel.layer_s(tokens, model))

    def _gemm_s(self, tokens: int, parameters: int) -> float:
        dense = self._hardware.dense
        tiles = math.ceil(tokens / dense.tile_tokens) * dense.tile_tokens
        weight_bytes = parameters * self._model.dtype_bytes
        unhidden_s = dense.unhidden_share * 2 * tokens * parameters / dense.flops_per_s
        return max(2 * tiles * parameters / dense.flops_per_s, weight_bytes / dense.weight_bytes_per_s + unhidden_s)

    def _set_base_rates(self) -> None:
        attention, model, engine = self._hardware.attention, self._model, self._engine
        self._kv = to_ticks(engine.enabled_factor * model.kv_token_bytes / attention.kv_bytes_per_s)
        mixed_kv_bytes_per_s = attention.mixed_kv_bytes_per_s or attention.kv_bytes_per_s
        self._kv_mixed = to_ticks(engine.enabled_factor * model.kv_token_bytes / mixed_kv_bytes_per_s)
        width = 2 * model.layers * model.heads * model.head_dim
        # In ticks, but not a whole number: a square of tokens is too short for that on a fast GPU.
        self._square = TICKS_PER_S * engine.enabled_factor * width / attention.prefill_flops_per_s
        launch_s, prefill_launch_s = engine.launch_s, engine.prefill_launch_s
        self._launch = to_ticks(launch_s * model.layers / REFERENCE_LAYERS)
        self._prefill_launch = self._launch
        if prefill_launch_s is not None:
            self._prefill_launch = to_ticks(prefill_launch_s * model.layers / REFERENCE_LAYERS)
        self._prefill_host = to_ticks(engine.prefill_host_s)
        has_decode_graphs = prefill_launch_s is not None
        self._mixed_host = to_ticks(engine.prefill_host_s if has_decode_graphs else engine.host_s)
        self._host_running = to_ticks(engine.host_per_running_s)
        self._prompt = to_ticks(engine.prompt_s)

    @property
    def _runs_over_slots(self) -> bool:
        """Whether the LoRA kernel computes with whole slots: vLLM's, whatever an adapter fills of its own."""
        return self._engine.kernel == "vllm_v1" and self._slots.places > 0

    def _set_lora_rates(self, modules: tuple[str, ...]) -> None:
        engine, lora, kernel = self._engine, self._hardware.lora, self._engine.kernel
        projections = self._model.tensors(modules) / 2 / REFERENCE_PROJECTIONS
        rank_bytes = self._model.adapter_bytes(1, modules)
        rank_s = 0.0  # seconds per token and unit of rank
        if kernel in PER_TOKEN_KERNELS:
            rank_s = rank_bytes / (engine.l2_bytes_per_s or lora.l2_bytes_per_s)
        elif kernel in MATRIX_KERNELS:  # two operations per parameter
            rank_s = 2 * rank_bytes / self._model.dtype_bytes / self._hardware.dense.flops_per_s
        self._rank = to_ticks(rank_s * (1 - engine.padded_share))
        self._pad = to_ticks(rank_s * engine.padded_share)
        self._lora_token = to_ticks(engine.lora_token_s * projections)
        self._lora_sequence = to_ticks(engine.lora_sequence_s * projections)
        self._active = to_ticks(engine.active_s * projections)
        self._distinct = to_ticks(engine.distinct_s)
        read = to_ticks(rank_bytes / lora.weight_bytes_per_s)
        if self._runs_over_slots:
            self._distinct, read = self._distinct + self._slots.rank * read, 0
        self._read = read if kernel in PER_TOKEN_KERNELS | MATRIX_KERNELS else 0
        self._read_prefill = read if kernel in MATRIX_KERNELS else 0

    def _padded(self, requests: int) -> int:
        return min((bucket for bucket in self._engine.graph_buckets if bucket >= requests), default=requests)

    def _batch(self, requests: int) -> tuple[int, int, int]:
        """Return what depends on the batch size alone: host, GPU without adapters, what any adapter adds."""
        host = to_ticks(self._engine.host_s) + requests * self._host_running
        padded = self._padded(requests)
        always = self._slot_ticks(padded, 0)
        gpu = self._dense_ticks(padded) + always + sum(self._sequence_terms(requests).values())
        lora = self._active + requests * (self._lora_token + self._lora_sequence)
        return host, gpu, lora + self._slot_ticks(padded, 1) - always

    def _dense_ticks(self, tokens: int) -> int:
        ticks = self._dense.get(tokens)
        if ticks is None:
            ticks = self._dense[tokens] = to_ticks(self._engine.enabled_factor * self.dense_s(tokens))
        return ticks

    def _slot_ticks(self, tokens: int, distinct: int) -> int:
        if not distinct and tokens > GRAPH_TOKENS:
            return 0
        ticks = self._slot_kernels.get(tokens)
        if ticks is None:
            blocks = kernel_blocks(self._model, self._slots, tokens, self._parallel.degree)
            ticks = self._slot_kernels[tokens] = to_ticks(self._engine.slot_block_s * blocks)
        return ticks

    def _sequence_terms(self, requests: int) -> dict[str, int]:
        model, attention, engine = self._model, self._hardware.attention, self._engine
        lm_head_s = self._gemm_s(requests, model.vocab * model.hidden) + self._hardware.dense.kernel_floor_s
        attention_s = model.layers * (attention.floor_s + requests * attention.sequence_s)
        sampling_s = requests * engine.sample_s * model.vocab / REFERENCE_VOCAB
        batched_s = engine.batched_s if requests > 1 else 0.0
        return {
            "lm_head": to_ticks(engine.enabled_factor * lm_head_s),
            "attention": to_ticks(engine.enabled_factor * attention_s),
            "sampling": to_ticks(engine.enabled_factor * (sampling_s + batched_s)),
            "lora_enabled": to_ticks(engine.enabled_s),
        }

    def _lora_terms(self, tokens: int, token_rank: int, distinct: int, read: int, max_rank: int) -> dict[str, int]:
        if not distinct:
            return {}
        return {
            "lora_tokens": self._active + tokens * self._lora_token,
            "lora_rank": token_rank * self._rank + max_rank * tokens * self._pad,
            "lora_distinct": distinct * self._distinct,
            "lora_read": read,
        }


def _explained(host: int, gpu_terms: dict[str, int], launch: int) -> dict[str, float]:
    launch_wait = max(0, launch - sum(gpu_terms.values()))
    terms = {"host": host, **gpu_terms, "launch_wait": launch_wait}
    return {name: to_seconds(ticks) for name, ticks in terms.items()}
