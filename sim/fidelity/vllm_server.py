"""A published vLLM server as a configuration of ours, run until its window ends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.base import FloatArray
from sim.build import deploy, play_until
from sim.config import Loaded, load_config
from sim.fidelity.fitting import PACKAGED, Trial
from sim.fidelity.vllm_rows import RunRow
from sim.fidelity.vllm_stalls import Seen, seen
from sim.hardware import load_hardware
from sim.models import ALL_MODULES, Model, load_model
from sim.results.metrics import Offered, duration_s, instant_s
from sim.serving.ticks import TICKS_PER_S, to_ticks
from sim.statistics import weighted_percentiles
from sim.trace import Trace

SYSTEM, HARDWARE = "vllm", "h100-64"  # whose steps and servers its costs were fitted to
RUNNING_REQUESTS = 2048  # max_num_seqs of the servers
MEMORY_SHARE = 0.9  # gpu_memory_utilization, vLLM's default
BLOCK_TOKENS = 16
# Of a slot, beside the seven projections: A and B of the embedding and the LM head, and weights of further tokens. With
# both, slots of rank 8, 16 and 32 of Llama-3.1-8B have the 50.0, 94.1 and 181.9 MiB that the servers logged.
EXTRA_VOCABULARY_BYTES = 6 * 1024 * 1024


def slot_bytes(model: Model, rank: int) -> int:
    """Return the bytes of one of vLLM's adapter slots."""
    vocabulary = 2 * rank * (model.vocab + model.hidden) * model.dtype_bytes
    return model.adapter_bytes(rank, ALL_MODULES) + vocabulary + EXTRA_VOCABULARY_BYTES


def kv_pool_tokens(row: RunRow) -> int:
    """Return the tokens of the KV pool, whole blocks: the servers' block counts were not published.

    It is what 0.9 of the card leave beside weights, slots and the profile's reserve for activations.
    """
    hardware, model = load_hardware(HARDWARE), load_model(row.server.model)
    taken = model.weight_bytes + row.slots * slot_bytes(model, row.rank) + hardware.reserve_bytes
    tokens = (int(MEMORY_SHARE * hardware.memory_bytes) - taken) // model.kv_token_bytes
    if tokens < BLOCK_TOKENS:
        msg = f"max_loras: {row.slots} slots of rank {row.rank} leave no memory for KV beside {row.server.model}"
        raise ValueError(msg)
    return tokens // BLOCK_TOKENS * BLOCK_TOKENS


def server(row: RunRow, *, starts_warm: bool = False) -> Loaded:
    """Return the configuration of a run's server."""
    model = load_model(row.server.model)
    host_adapters = row.max_cpu_loras or row.slots
    changes = (
        f"hardware={HARDWARE}",
        f"model={row.server.model}",
        f"adapters.modules=[{','.join(ALL_MODULES)}]",
        f"adapters.slots={row.slots}",
        f"adapters.max_rank={row.rank}",
        f"adapters.host_bytes={host_adapters * model.adapter_bytes(row.rank, ALL_MODULES)}",
        f"adapters.host_starts_warm={str(starts_warm).lower()}",
        f"loading.disk_latency_s={row.server.first_load_s}",
        "loading.disk_bytes_per_s=1.0e+12",
        f"limits.running_requests={RUNNING_REQUESTS}",
        f"memory.kv_pool_tokens={kv_pool_tokens(row)}",
    )
    return load_config(row.server.system, (*changes, *row.server.changes))


class Answered(NamedTuple):
    """Requests that were complete when the window ended, and the gaps between the tokens of all.

    Attributes:
        ttft_s, tpot_s: shape (n,); by the client's clock.
        itl_mean_s: mean gap between deliveries; tokens that come at once are one.
        itl_p99_s: 99th percentile of these gaps; 0 where there are none.
    """

    ttft_s: FloatArray
    tpot_s: FloatArray
    itl_mean_s: float
    itl_p99_s: float


def answered(loaded: Loaded, trace: Trace, window_s: float, trial: Trial = PACKAGED) -> Answered:
    """Simulate a server until the window ends; what has not been answered by then counts for nothing, as published.

    Args:
        loaded: the server.
        trace: its requests.
        window_s: when it ends.
        trial: the profile and the engine's costs; by default as packaged.

    Raises:
        ValueError: if no request has been answered by then.
    """
    deployment = deploy(trial.of(loaded), trace, gpu=trial.gpu)
    offered = Offered(trace, (play_until(deployment, to_ticks(window_s)),))
    shown = seen(offered, window_s)
    done = instant_s(shown.finish) <= window_s
    if not done.any():
        msg = f"dur: no request is complete within {window_s:g} s"
        raise ValueError(msg)
    ttft_s = duration_s(offered.instant("arrival"), shown.first_token)[done]
    decode_s = duration_s(shown.first_token, shown.finish)[done]
    tokens = np.maximum(trace.output_tokens[done] - 1, 1)
    gaps = np.maximum(tokens - shown.bunched[done], 1)
    p99 = _p99_s(shown)
    return Answered(ttft_s + deployment.costs.api_s, decode_s / tokens, float(decode_s.sum() / gaps.sum()), p99)


def _p99_s(shown: Seen) -> float:
    if not len(shown.gaps):
        return 0.0
    return float(weighted_percentiles(shown.gaps / TICKS_PER_S, shown.weights, (99,))[0])
