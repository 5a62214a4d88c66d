"""Puts a torch engine under a deployment, whose sizes and costs the core keeps; the decoder may be smaller."""

from __future__ import annotations

from math import ceil
from typing import Literal, NamedTuple

import torch

from gpu_validate.engine.adapters import DeviceAdapters, HostStore, mode_of
from gpu_validate.engine.arena import Arena, aligned
from gpu_validate.engine.decoder import Decoder
from gpu_validate.engine.device import TorchDevice, VirtualTorchDevice
from gpu_validate.engine.dims import BLOCK_TOKENS, TINY_RANK_DIVISOR, executed_rank, tiny
from gpu_validate.engine.kv import PagedKV, blocks_needed
from gpu_validate.engine.worker import Worker
from gpu_validate.lora import backends
from gpu_validate.lora.layout import Layout
from sim.build import Deployment
from sim.config import RunConfig
from sim.core import Core
from sim.models import Model
from sim.serving.records import Records

Clock = Literal["real", "virtual"]

ARENA_SLACK = 1.125  # room beyond the logical budget, so that holes seldom force a compaction
AMPERE = 8


class Engine(NamedTuple):
    """What `Replay` needs."""

    core: Core
    device: TorchDevice | VirtualTorchDevice
    records: Records


def open_engine(  # noqa: PLR0913 - one keyword per free choice
    deployment: Deployment,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    backend: str = "torch_loop",
    dims: Model | None = None,
    rank_divisor: int | None = None,
    clock: Clock = "virtual",
    copy_mode: str = "flat",
    distinct_bytes: int | None = None,
    positions: int | None = None,
    uses_graphs: bool = True,
    keeps_tokens: bool = False,
    checks: bool = False,
    seed: int = 0,
) -> Engine:
    """Return a core, a device that executes its steps, and their records.

    Memory limits and costs are the deployment's in any case. What is executed is, on a CPU, `tiny` dimensions with the
    deployment's number of layers and ranks divided by 8 (at least 1); on a GPU, the deployment's own. KV and adapters
    have arenas of their own, so that a shared logical budget may be taken twice; the logical budget is never exceeded.

    Args:
        deployment: made for this run alone; with `asks_every_step` if the clock is real.
        device: where torch works.
        backend: LoRA kernels, a name that `gpu_validate.lora` knows.
        dims: dimensions to execute instead.
        rank_divisor: what ranks are divided by instead.
        clock: real, or the cost model's.
        copy_mode: how adapters cross the link, a key of `COPY_MODES`.
        distinct_bytes: size of the host's adapter memory, shared beyond this; None: each adapter has its own.
        positions: of the longest sequence that may be executed; None: of the longest in the trace.
        uses_graphs: capture decode steps, where device and backend allow it.
        keeps_tokens: keep all token ids, for tests.
        checks: check the worker's laws before every step (virtual clock).
        seed: of the weights.

    Raises:
        ValueError: if the engine cannot execute the deployment (see `refusals`), the deployment takes several decode
            steps at once on a real clock, or something cannot be built or has no room on the GPU.
    """
    if reasons := refusals(deployment, clock):
        msg = f"the mini engine cannot run {deployment.config.name}: {'; '.join(reasons)}"
        raise ValueError(msg)
    if clock == "real" and not deployment.options.asks_every_step:
        msg = "a real clock needs a deployment with asks_every_step=True: nobody knows when the next event will be"
        raise ValueError(msg)
    where = torch.device(device)
    model = dims or (deployment.model if device == "cuda" else tiny(deployment.model))
    divisor = rank_divisor or (1 if device == "cuda" else TINY_RANK_DIVISOR)
    dtype = serving_dtype(where)
    layout = Layout.of(model, deployment.config.adapters.modules)
    ranks = [None if one is None else executed_rank(one.rank, divisor) for one in deployment.adapters]
    pinned = device == "cuda" and deployment.config.loading.pinned and mode_of(copy_mode).is_pinned
    store = HostStore(layout, ranks, dtype=dtype, pinned=pinned, distinct_bytes=distinct_bytes, seed=seed)
    adapters, kv = _memory(deployment, store, model, copy_mode, configured_slots(deployment, divisor), where)
    limits = deployment.limits
    worker = Worker(
        Decoder(model, max_positions=positions or longest(deployment), dtype=dtype, device=where, seed=seed),
        kv,
        adapters,
        backends.backend(backend),
        seats=min(deployment.options.running_requests, limits.kv_limit_bytes // limits.kv_token_bytes),
        uses_graphs=uses_graphs and device == "cuda",
        keeps_tokens=keeps_tokens,
    )
    executor = TorchDevice(worker) if clock == "real" else VirtualTorchDevice(worker, checks=checks)
    records = Records()
    return Engine(deployment.core(executor, records), executor, records)


def serving_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on CUDA (float16 before Ampere), float32 elsewhere."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= AMPERE else torch.float16


def _memory(
    deployment: Deployment, store: HostStore, model: Model, copy_mode: str, slots: Slots | None, device: torch.device
) -> tuple[DeviceAdapters, PagedKV]:
    """Allocate what adapters and KV get, or say beforehand that the device is too small."""
    dtype = store.flat.dtype
    size = arena_elements(deployment, store, dtype, copy_mode, slots)
    blocks = blocks_needed(deployment.limits, holders(deployment), deployment.options.block_tokens)
    if device.type == "cuda":
        needed = device_bytes(model, blocks, size, dtype.itemsize) + deployment.hardware.reserve_bytes
        check_room(needed, torch.cuda.mem_get_info(device)[0])
    arena = Arena(size, dtype=dtype, device=device)
    adapters = DeviceAdapters(store, arena, copy_mode, slots.rank if slots else None)
    return adapters, PagedKV(model, blocks, dtype=dtype, device=device)


class Slots(NamedTuple):
    """Places of one size for adapters."""

    places: int
    rank: int  # that is executed


def configured_slots(deployment: Deployment, divisor: int) -> Slots | None:
    """Return the configured slots; None if adapters take as much room as they need."""
    places, rank = deployment.config.adapters.slots, deployment.options.slot_rank
    return Slots(places, executed_rank(rank, divisor)) if places and rank else None


def refusals(deployment: Deployment, clock: Clock = "virtual") -> list[str]:
    """Return why this engine cannot execute what the core would plan, a line each; nothing if it can."""
    config, options = deployment.config, deployment.options
    checks = (
        (len(deployment.policies) > 1, f"replicas: one GPU serves one replica, got {len(deployment.policies)}"),
        (config.parallel.tensor > 1, f"parallel.tensor: {config.parallel.tensor}; one GPU is used"),
    )
    in_real_time = (
        (options.early_start is not None, f"loading.mode: {config.loading.mode}; only blocking and overlapped"),
        (options.fair_link, "loading.sharing: fair; copies go one after the other"),
        (deployment.limits.host is not None, f"{_host_limit(config)}: there is no disk behind the host"),
    )
    reasons = [text for is_refused, text in checks if is_refused]
    return reasons + [f"{text}, in real time" for is_refused, text in in_real_time if is_refused and clock == "real"]


def _host_limit(config: RunConfig) -> str:
    """Return the keys that limit the host's memory for adapters."""
    given = (name for name in ("host_bytes", "host_adapters") if getattr(config.adapters, name) is not None)
    return ", ".join(f"adapters.{name}" for name in given)


def arena_elements(
    deployment: Deployment,
    store: HostStore,
    dtype: torch.dtype,
    copy_mode: str = "flat",
    slots: Slots | None = None,
) -> int:
    """Return elements that hold every set of adapters which the logical budget allows, and some slack."""
    logical = [one.size_bytes for one in deployment.adapters if one is not None]
    budget_bytes = deployment.limits.adapter_limit_bytes
    if mode_of(copy_mode).has_slots:
        rank = max(store.ranks, default=0) if slots is None else slots.rank
        most = budget_bytes // min(logical, default=1) if slots is None else slots.places
        return min(most, len(logical)) * aligned(store.layout.elements(rank), dtype.itemsize)
    sizes = [aligned(store.layout.elements(rank), dtype.itemsize) for rank in store.ranks if rank]
    per_byte = max((size / bytes_ for size, bytes_ in zip(sizes, logical, strict=True)), default=0.0)
    budget = ceil(min(budget_bytes, sum(logical)) * per_byte)
    return ceil(min(budget, sum(sizes)) * ARENA_SLACK)


def device_bytes(model: Model, blocks: int, arena: int, itemsize: int) -> int:
    """Return the bytes of weights, KV blocks and adapter elements together."""
    rows = (blocks + 1) * BLOCK_TOKENS
    kv = 2 * model.layers * rows * model.kv_heads * model.head_dim * itemsize
    return model.weight_bytes + kv + arena * itemsize


def check_room(needed_bytes: int, free_bytes: int) -> None:
    """Raise ValueError if the device has not so much free memory: KV and adapters have regions of their own here."""
    if needed_bytes > free_bytes:
        msg = (
            f"the engine needs {needed_bytes / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB of the device are free: KV and "
            "adapters lie apart here, so set memory.kv_pool_tokens lower than what is left beside the weights"
        )
        raise ValueError(msg)


def holders(deployment: Deployment) -> int:
    """Return the most requests that hold KV on the GPU at once: those in the batch, those that wait and keep some."""
    options = deployment.options
    waiting = len(deployment.trace) if options.preempted == "keep" or options.reuses_blocks else 0
    return max(options.running_requests, waiting)


def longest(deployment: Deployment) -> int:
    """Return the tokens of the longest sequence in the trace."""
    return int((deployment.trace.prompt_tokens + deployment.trace.output_tokens).max(initial=1))
