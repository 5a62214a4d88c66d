"""From a configuration to sizes: memory limits, engine options, what a load costs, GPUs that work as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.costs import LoadingCosts
from sim.files.yamlfile import ConfigError
from sim.hardware import Hardware
from sim.models import Model
from sim.parallel import Parallel
from sim.serving.inputs import PlainInputs, StepInputs
from sim.serving.memory import HostMemory, MemoryLimits
from sim.serving.options import UNLIMITED, EarlyStart, EngineOptions
from sim.serving.ticks import to_ticks
from sim.slot_kernels import NO_SLOTS, Slots
from sim.trace import Trace

if TYPE_CHECKING:
    from sim.config import RunConfig

# S-LoRA's max_req_total_len; its batch_max_tokens is max(pool / 6, this), so that all it accepts can be prefilled.
LONGEST_REQUEST_TOKENS = 3072


def parallel_of(config: RunConfig, hardware: Hardware) -> Parallel:
    """Return the GPUs that work as one; what a configuration does not say of their all-reduces, the card may."""
    given, card = config.parallel, hardware.interconnect
    gpus = Parallel(given.tensor, given.gpus_per_switch)
    if card is not None:
        gpus = gpus._replace(bytes_per_s=card.all_reduce_bytes_per_s, latency_s=card.all_reduce_s)
    if given.all_reduce_bytes_per_s is not None:
        gpus = gpus._replace(bytes_per_s=given.all_reduce_bytes_per_s)
    return gpus if given.all_reduce_s is None else gpus._replace(latency_s=given.all_reduce_s)


def slots_of(config: RunConfig, trace: Trace) -> Slots:
    """Return the slots that the engine's kernels run over."""
    adapters = config.adapters
    if adapters.memory != "slots" or not adapters.slots:
        return NO_SLOTS
    return Slots(adapters.slots, adapters.max_rank or _largest_rank(trace), _slot_modules(config))


def loading_costs(config: RunConfig, model: Model) -> LoadingCosts:
    """Return what moves an adapter."""
    loading = config.loading
    return LoadingCosts(
        copies=loading.copies,
        ops_per_adapter=loading.ops_per_layer * model.layers,
        fixed_s=loading.fixed_s,
        disk_bytes_per_s=loading.disk_bytes_per_s,
        disk_latency_s=loading.disk_latency_s,
    )


def memory_limits(config: RunConfig, hardware: Hardware, model: Model, trace: Trace | None) -> MemoryLimits:
    """Return how many bytes KV and adapters get, together and each.

    Args:
        config: sizes that were asked for.
        hardware: the GPU, or all that work as one.
        model: the base model.
        trace: tells the largest rank, which slots have by default; None: not known yet.

    Raises:
        ConfigError: if the card is too small for what is asked.
    """
    token = model.kv_token_bytes
    gpus = config.parallel.tensor
    asked_reserve = config.memory.reserve_bytes
    reserve = hardware.reserve_bytes if asked_reserve is None else asked_reserve * gpus
    card = hardware.memory_bytes - model.weight_bytes - reserve
    if card < token:
        key = "model" if asked_reserve is None else "memory.reserve_bytes"
        msg = f"{key}: {config.model} does not fit {config.hardware}: {-card} bytes too many with {reserve} in reserve"
        raise ConfigError([msg])
    asked = config.memory.kv_pool_tokens
    pool = card if asked is None else asked * token
    if not 0 < pool <= card:
        msg = (
            f"memory.kv_pool_tokens: {asked} tokens of {token} bytes do not fit; {config.model} leaves "
            f"{max(card, 0) // token} tokens on {config.hardware} beside {reserve} reserved bytes"
        )
        raise ConfigError([msg])
    host = _host_memory(config)
    if config.adapters.memory == "unified":
        return MemoryLimits(pool, pool, pool, token, host=host)
    if config.adapters.memory == "idle":
        return MemoryLimits(card, pool, card, token, host=host)
    slot = slot_bytes(config, model, trace) if config.adapters.memory == "slots" else None
    region = _region_bytes(config, card, slot)
    kv = card - region if asked is None else min(card - region, asked * token)
    return MemoryLimits(kv + region, kv, region, token, slot, host)


def _host_memory(config: RunConfig) -> HostMemory | None:
    """Return what limits host RAM for adapters; None if nothing does."""
    size_bytes, adapters = config.adapters.host_bytes, config.adapters.host_adapters
    if size_bytes is None and adapters is None:
        return None
    return HostMemory(size_bytes or UNLIMITED, config.adapters.host_starts_warm, adapters or UNLIMITED)


def slot_bytes(config: RunConfig, model: Model, trace: Trace | None) -> int:
    """Return the bytes of one slot.

    Raises:
        ConfigError: if slots lack a rank or a projection that adapters have.
    """
    largest = max((spec.rank for spec in trace.palette if spec is not None), default=1) if trace else 1
    rank = config.adapters.max_rank or largest
    if largest > rank:
        raise ConfigError([f"adapters.max_rank: an adapter of rank {largest} does not fit slots of rank {rank}"])
    return model.adapter_bytes(rank, _slot_modules(config))


def _slot_modules(config: RunConfig) -> tuple[str, ...]:
    asked = config.adapters.modules
    given = config.adapters.slot_modules or asked
    if missing := [module for module in asked if module not in given]:
        msg = f"adapters.slot_modules: slots have no room for {', '.join(missing)}, which adapters.modules has"
        raise ConfigError([msg])
    return given


def _region_bytes(config: RunConfig, card: int, slot: int | None) -> int:
    adapters = config.adapters
    if slot is None:
        key, region = "reserved_bytes", adapters.reserved_bytes
    else:
        key, region = "slots", None if adapters.slots is None else adapters.slots * slot
    if region is None:
        raise ConfigError([f"adapters.{key}: adapters.memory: {adapters.memory} needs it"])
    if not 0 < region < card:
        most = f"at most {card - 1} bytes" if slot is None else f"at most {(card - 1) // slot}, of {slot} bytes each,"
        msg = f"adapters.{key}: {most} fit beside the model on {config.hardware}, got {getattr(adapters, key)}"
        raise ConfigError([msg])
    return region


def engine_options(
    config: RunConfig,
    hardware: Hardware,
    model: Model,
    trace: Trace,
    limits: MemoryLimits,
    *,
    inputs: StepInputs | None,
    asks_every_step: bool,
) -> EngineOptions:
    """Return the mechanism of one engine.

    Args:
        config: of the run.
        hardware: of one GPU.
        model: that is served.
        trace: the workload.
        limits: of the GPU's memory.
        inputs: what a step sends to the GPU; None: as configured.
        asks_every_step: see `EngineOptions`.

    Raises:
        ConfigError: if options exclude each other.
    """
    if config.admission.reserve == "peak" and config.memory.block_tokens != 1:
        msg = f"memory.block_tokens: reserve: peak counts single tokens, got blocks of {config.memory.block_tokens}"
        raise ConfigError([msg])
    longest_prompt = int(trace.prompt_tokens.max(initial=1))
    pool_tokens = limits.kv_limit_bytes // limits.kv_token_bytes
    admission, caps = config.admission, config.limits
    is_slotted = config.adapters.memory == "slots"
    slots = (config.adapters.slots or UNLIMITED) if is_slotted else UNLIMITED
    return EngineOptions(
        admit_every_steps=admission.every_steps,
        batch_prompt_tokens=caps.batch_prompt_tokens or max(pool_tokens // 6, LONGEST_REQUEST_TOKENS, longest_prompt),
        running_requests=caps.running_requests,
        distinct_adapters=min(caps.distinct_adapters or UNLIMITED, slots),
        blocks_on_load=config.loading.mode != "overlapped",
        asks_every_step=asks_every_step,
        reserve=admission.reserve,
        prefill=config.prefill,
        step_tokens=caps.step_tokens,
        prefills_per_step=caps.prefills_per_step or UNLIMITED,
        block_tokens=config.memory.block_tokens,
        watermark_bytes=int(admission.watermark * limits.kv_limit_bytes),
        preempted=admission.preempted,
        shortage=admission.shortage,
        victim=admission.victim,
        swap_bytes=UNLIMITED if config.memory.swap_bytes is None else config.memory.swap_bytes,
        reuses_blocks=config.memory.reuses_blocks,
        base_slot=is_slotted and config.adapters.base_slot,
        slot_rank=(config.adapters.max_rank or _largest_rank(trace)) if is_slotted else 0,
        early_start=_early_start(config, model),
        returning_loads=round(config.loading.returns_per_slot * (config.adapters.slots or 0)) if is_slotted else 0,
        fair_link=config.loading.sharing == "fair",
        inputs=_inputs(config) if inputs is None else inputs,
        inline_bytes=hardware.link.inline_bytes,
        merge_ticks=to_ticks(config.loading.merge_s),
    )


def _inputs(config: RunConfig) -> StepInputs | None:
    inputs = PlainInputs(config.loading.request_input_bytes, config.loading.token_input_bytes)
    return inputs if any(inputs) else None


def _largest_rank(trace: Trace) -> int:
    return max((spec.rank for spec in trace.palette if spec is not None), default=0)


def _early_start(config: RunConfig, model: Model) -> EarlyStart | None:
    loading = config.loading
    if loading.mode == "layerwise":
        return EarlyStart(model.layers)
    if loading.mode == "cpu_assisted":
        return EarlyStart(model.layers, loading.groups, to_ticks(loading.cpu_token_s), loading.slowdown)
    return None
