"""Settings that a configuration gives and the engine that it describes never looks at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from policies.builtin import BUILTIN
from sim.mechanism import Limits, Memory, Section

if TYPE_CHECKING:
    from sim.config import RunConfig

FETCHING = {"lorax", "peft", "sglang"}  # schedulers that bring adapters in themselves
INPUTS = ("request_input_bytes", "token_input_bytes")


def idle_settings(config: RunConfig) -> list[str]:
    """Return a sentence for each setting that differs from its default and can have no effect."""
    return [f"{key} has no effect with {why}" for key, why in _idle(config)]


def _idle(config: RunConfig) -> Iterator[tuple[str, str]]:
    adapters = config.adapters
    if adapters.memory != "slots" and config.loading.returns_per_slot:
        yield "loading.returns_per_slot", f"adapters.memory: {adapters.memory}"
    if adapters.memory != "slots":
        for key in _changed(adapters, "slots", "slot_modules", "max_rank", "base_slot"):
            yield f"adapters.{key}", f"adapters.memory: {adapters.memory}"
    if adapters.memory != "reserved" and adapters.reserved_bytes is not None:
        yield "adapters.reserved_bytes", f"adapters.memory: {adapters.memory}"
    yield from _idle_loading(config)
    yield from _idle_limits(config)
    yield from _idle_growth(config)
    if config.replicas == 1 and config.router.get("kind") != "round-robin":
        yield "router", "replicas: 1"
    if config.parallel.tensor == 1:
        for key in _changed(config.parallel, "all_reduce_bytes_per_s", "all_reduce_s"):
            yield f"parallel.{key}", "parallel.tensor: 1"


def _idle_loading(config: RunConfig) -> Iterator[tuple[str, str]]:
    adapters, loading = config.adapters, config.loading
    if adapters.host_bytes is None and adapters.host_adapters is None:
        for key in _changed(adapters, "host_starts_warm"):
            yield f"adapters.{key}", "host RAM for all adapters (adapters.host_bytes, adapters.host_adapters)"
        for key in _changed(loading, "disk_bytes_per_s", "disk_latency_s"):
            yield f"loading.{key}", "host RAM for all adapters (adapters.host_bytes, adapters.host_adapters)"
    if loading.sharing == "fair":
        for key in _changed(loading, *INPUTS):
            yield f"loading.{key}", f"loading.sharing: {loading.sharing}"
    elif not _may_overlap(config):
        for key in _changed(loading, *INPUTS):
            yield f"loading.{key}", "loading.mode: blocking, prefetch: none and no KV that is swapped"
    if loading.mode != "cpu_assisted":
        for key in _changed(loading, "groups", "cpu_token_s", "slowdown"):
            yield f"loading.{key}", f"loading.mode: {loading.mode}"


def _may_overlap(config: RunConfig) -> bool:
    """Whether something may be on its way to the GPU while steps run."""
    is_blocking = config.loading.mode == "blocking" and config.prefetch.get("kind") == "none"
    kind = config.scheduler.get("kind")
    return not is_blocking or _swaps(config) or kind in FETCHING or kind not in BUILTIN["scheduler"]


def _changed(section: Section, *keys: str) -> Iterator[str]:
    """Yield those of some keys that are not as they are by default."""
    yield from (key for key in keys if getattr(section, key) != type(section).model_fields[key].default)


def _idle_limits(config: RunConfig) -> Iterator[tuple[str, str]]:
    limits = config.limits
    if config.prefill != "chunked" and limits.step_tokens != Limits().step_tokens:
        yield "limits.step_tokens", f"prefill: {config.prefill}"
    if config.prefill == "separate" and limits.prefills_per_step is not None:
        yield "limits.prefills_per_step", "prefill: separate"
    if config.prefill == "chunked" and limits.batch_prompt_tokens is not None:
        yield "limits.batch_prompt_tokens", "prefill: chunked"


def _idle_growth(config: RunConfig) -> Iterator[tuple[str, str]]:
    admission = config.admission
    if admission.reserve == "peak":
        keys = ("watermark", "victim") if admission.preempted == "keep" else ("watermark", "victim", "shortage")
        for key in _changed(admission, *keys):  # what stopped requests keep gives way by the rule of a shortage
            yield f"admission.{key}", "admission.reserve: peak"
    if not _swaps(config) and config.memory.swap_bytes != Memory().swap_bytes:
        yield "memory.swap_bytes", "neither admission.shortage nor admission.preempted: swap"
    if config.memory.reuses_blocks and not _may_recompute(config):
        yield "memory.reuses_blocks", f"admission.preempted: {admission.preempted} and nothing else that recomputes"


def _swaps(config: RunConfig) -> bool:
    return "swap" in {config.admission.shortage, config.admission.preempted}


def _may_recompute(config: RunConfig) -> bool:
    """Whether KV of a request that stops may be dropped, so that it is computed again."""
    admission = config.admission
    memory_stops = admission.reserve != "peak"
    drops = admission.shortage == "recompute" and (memory_stops or admission.preempted == "keep")
    loses_chunks = memory_stops and config.prefill == "chunked"
    is_full = config.memory.swap_bytes is not None
    return admission.preempted == "recompute" or drops or loses_chunks or is_full
