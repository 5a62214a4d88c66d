"""Whole configurations at random, as a user could write them; each prints as the command that runs it.

They start where users do, above `sim.build`, `sim.sizing` and `sim.facts`. Every run of the tests looks at the same
ones, and so do all tests that draw the same kind. To look at others, and at more of them:

    CHAMELEON_DRAWS_SEED=7 CHAMELEON_DRAWS_TIMES=20 pytest tests/test_random_configurations.py
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from sim.config import Loaded, RunConfig, load_config
from sim.files.yamlfile import packaged_names
from sim.hardware import load_hardware
from sim.models import ALL_MODULES, load_model
from sim.names import SEAMS
from tests.policy_parameters import POLICIES, Values

SEED = int(os.environ.get("CHAMELEON_DRAWS_SEED", "0"))

Changes = dict[str, object]

SYSTEMS = ("slora", *(name for name in packaged_names() if name != "slora"))
CARDS = ("a40", "a100-80", "h100", "h200", "a10g", "rtx-4090", "l40s")
MODELS = ("llama-7b", "llama-7b", "mistral-7b", "llama-13b", "qwen-3-8b")
KNOW_THE_FUTURE = {"cache": ("belady",), "prefetch": ("oracle",)}
LIKELY = {"scheduler": ("multi-queue", "multi-queue", "static-lanes")}  # those with most rules


ADMISSION: Mapping[str, Values] = {
    "admission.every_steps": (0, 1, 2, 3, 17),
    "admission.watermark": (0.0, 0.01, 0.1, 0.5),
    "admission.preempted": ("recompute", "swap", "keep"),
    "admission.idle_poll_s": (0.0, 0.003, 0.5),
    "memory.swap_bytes": (None, 0, 10**8, 10**9),
    "memory.reuses_blocks": (False, True),
}
LIMITS: Mapping[str, Values] = {
    "limits.running_requests": (1, 2, 3, 8),
    "limits.step_tokens": (1, 2, 16, 64, 512),
    "limits.prefills_per_step": (1, 2),
    "limits.distinct_adapters": (1, 2, 3, 8),
    "limits.batch_prompt_tokens": (100, 300, 1000),
}
TIERS: Mapping[str, Values] = {
    "adapters.host_adapters": (None, 1, 2, 3),
    "adapters.host_bytes": (None, 10**7, 10**8, 10**9),
    "adapters.host_starts_warm": (True, False),
    "loading.disk_bytes_per_s": (2e9, 1e8, 1e12),
    "loading.disk_latency_s": (0, 0.01, 0.3),
}
LOADING: Mapping[str, Values] = {
    "loading.mode": ("blocking", "overlapped", "layerwise", "cpu_assisted"),
    "loading.copies": (1, 2, 0.001, 7.5),
    "loading.ops_per_layer": (0, 1, 8, 100),
    "loading.fixed_s": (0, 0.001, 0.2),
    "loading.returns_per_slot": (0, 0.1667, 0.5, 0.99),
    "loading.groups": (1, 4, 100),
    "loading.cpu_token_s": (0, 0.00002, 0.001),
    "loading.slowdown": (1, 1.07, 3),
    "loading.sharing": ("fifo", "fair"),
    "loading.request_input_bytes": (0, 2000, 30_000),
    "loading.token_input_bytes": (0, 24),
    "loading.merge_s": (0, 0.015, 0.5),
}
COSTS: Mapping[str, Values] = {
    "costs.kernel": ("bgmv", "mbgmv", "segmented", "vllm_v1", "torch_loop", "merged", "none"),
    "costs.launch_s": (0, 0.01, 0.05),
    "costs.prefill_launch_s": (None, 0, 0.02),
    "costs.graph_buckets": ([], [1, 2, 4, 8], [16]),
    "costs.padded_share": (0, 0.5, 1),
    "costs.host_s": (0, 0.003),
    "costs.host_per_running_s": (0, 0.001),
    "costs.batched_s": (0, 0.002),
    "costs.slot_block_s": (0, 1e-8),
    "costs.host_factor": (None, 2.0),
}
UNUSED_LAYOUT: Mapping[str, Values] = {"adapters.slots": (2, 64), "adapters.max_rank": (256,)}
RANKS = ([8, 16, 32, 64, 128], [8], [1], [64, 64, 256], [16, 128])
ARRIVALS = ("poisson", {"family": "gamma", "cv": 5}, {"family": "gamma", "cv": 50}, "conv", "code")
POPULARITIES = ("rank_zipf", "zipf", "uniform", "round_robin", "geometric")


@dataclass(frozen=True)
class Configuration:
    """A packaged system and changes to it, each a key and a value as YAML writes it."""

    system: str
    changes: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        sets = (f"--set {shlex.quote(f'{key}={value}')}" for key, value in self.changes)
        return " ".join(["chameleon run --system", self.system, *sets])

    def but(self, changes: Mapping[str, object]) -> Configuration:
        """Return it with further changes; one that names another policy takes the parameters of the old one along."""
        seams = {key for key in changes if key in SEAMS}
        kept = [one for one in self.changes if one[0] not in changes and one[0].partition(".")[0] not in seams]
        return Configuration(self.system, (*kept, *((key, json.dumps(value)) for key, value in changes.items())))

    def without(self, key: str) -> Configuration:
        """Return it without one change."""
        return Configuration(self.system, tuple(change for change in self.changes if change[0] != key))

    @property
    def loaded(self) -> Loaded:
        """The configuration as the command reads it."""
        return _loaded(self)

    @property
    def config(self) -> RunConfig:
        """Its values."""
        return self.loaded.config


@lru_cache(maxsize=256)
def _loaded(one: Configuration) -> Loaded:
    return load_config(one.system, [f"{key}={value}" for key, value in one.changes])


@lru_cache
def _own(system: str) -> RunConfig:
    return load_config(system).config


def some(draw: Random, table: Mapping[str, Values]) -> Changes:
    """Return values for some keys of a table, half of the time for none."""
    is_any = draw.random() < 0.5
    return {key: draw.choice(values) for key, values in table.items() if is_any and draw.random() < 0.5}


def workload(draw: Random, ranks: list[int]) -> Changes:
    tokens = {"input_high_tokens": draw.choice((2, 60, 200)), "output_high_tokens": draw.choice((3, 20, 60, 100, 200))}
    uniform = {"family": "uniform", "input_low_tokens": 1, "output_low_tokens": 1, **tokens}
    return {
        "workload.requests": draw.choice((12, 25, 40)),
        "workload.rate_per_s": draw.choice((3, 30, 100, 100, 1000)),
        "workload.adapters": draw.choice((0, 1, 2, 5, 10, 10, 10, 30)),
        "workload.ranks": ranks,
        "workload.popularity": draw.choice(POPULARITIES),
        "workload.arrivals": draw.choice(ARRIVALS),
        "workload.base_share": draw.choice((0.0, 0.0, 0.0, 0.0, 0.3, 1.0)),
        "seed": draw.choice((0, 1, 2, 12345)),
        "ttft_slo_s": draw.choice((5.0, 0.05, 1.0)),
        **draw.choice(({"workload.lengths": uniform}, {"workload.scale": 8})),
    }


def memory(draw: Random, largest_rank: int) -> Changes:
    """Return a layout on a card with so little left over that KV and adapters press each other."""
    model, gpus = load_model(draw.choice(MODELS)), draw.choice((1, 1, 1, 2, 4))
    card = load_hardware(draw.choice(CARDS))
    if card.memory_bytes * gpus < 1.5 * model.weight_bytes:
        card = load_hardware("h200")
    kind = draw.choice(("unified", "unified", "idle", "reserved", "reserved", "reserved", "slots"))
    slots, rank = draw.choice((1, 1, 2, 8)), draw.choice((largest_rank, 256)) if kind == "slots" else largest_rank
    modules = draw.choice((None, ALL_MODULES)) if kind == "slots" else None
    has_base_slot = kind == "slots" and draw.random() < 0.5
    region = slots * model.adapter_bytes(rank, modules or _own("slora").adapters.modules)
    tokens = draw.choice((500, 700, 1000, 2000))
    kv_bytes = tokens * model.kv_token_bytes
    left = {"reserved": kv_bytes + region, "slots": kv_bytes + region}.get(kind, kv_bytes)
    return {
        "model": model.name,
        "hardware": card.name,
        "parallel.tensor": gpus,
        "parallel.gpus_per_switch": draw.choice((1, gpus)),
        "memory.reserve_bytes": (card.memory_bytes * gpus - model.weight_bytes - left) // gpus,
        "memory.kv_pool_tokens": draw.choice((None, None, 450)),
        "adapters.memory": kind,
        "adapters.slots": slots if kind == "slots" else None,
        "adapters.slot_modules": modules,
        "adapters.max_rank": rank if kind == "slots" else None,
        "adapters.base_slot": has_base_slot,
        **({"workload.base_share": 0.3} if has_base_slot else {}),
        "adapters.reserved_bytes": region if kind == "reserved" else None,
        **({} if kind == "slots" else some(draw, UNUSED_LAYOUT)),
    }


def reservation(draw: Random) -> Changes:
    kind = draw.choice(("peak", "whole", "predicted", "on_demand", "on_demand", "on_demand"))
    block_tokens = 1 if kind == "peak" else draw.choice((1, 4, 16, 7))
    return {
        "admission.reserve": kind,
        "admission.shortage": draw.choice(("recompute", "swap")),
        "admission.victim": draw.choice(("last_admitted", "least_generated")),
        "memory.block_tokens": block_tokens,
        "prefill": draw.choice(("separate", "mixed", "chunked")),
    }


def hungry(draw: Random) -> Changes:
    """Return what makes KV run short: requests that grow, many at once, nothing reserved."""
    tokens = {"input_low_tokens": 1, "input_high_tokens": 60, "output_low_tokens": 1, "output_high_tokens": 200}
    return {
        "workload.rate_per_s": 100,
        "workload.lengths": {"family": "uniform", **tokens},
        "workload.scale": 1,
        "limits.running_requests": 1000,
        "memory.kv_pool_tokens": draw.choice((450, 500)),
        "admission.reserve": "on_demand",
        "client.max_concurrency": None,
    }


def crowded(draw: Random) -> Changes:
    """Return what makes adapters, not KV, run short for lanes that predict badly: some pass others, some must yield."""
    return {
        "workload.requests": 40,
        "workload.rate_per_s": 100,
        "workload.lengths": "conv",
        "workload.scale": 8,
        "workload.adapters": 10,
        "workload.base_share": 0,
        "client.max_concurrency": None,
        "adapters.memory": "reserved",
        "adapters.reserved_bytes": 300_000_000,
        "memory.kv_pool_tokens": None,
        "memory.reserve_bytes": None,
        "limits.running_requests": 1000,
        "limits.distinct_adapters": None,
        "scheduler": draw.choice(("multi-queue", "static-lanes")),
        "predictor": draw.choice(("confusion", "lognormal")),
    }


def topology(draw: Random) -> Changes:
    several = draw.choice((1, 1, 1, 2, 3))
    if several > 1:
        return {
            "replicas": several,
            "client.max_concurrency": None,
            **policy(draw, "router", tuple(POLICIES["router"])),
        }
    return {"replicas": 1, "client.max_concurrency": draw.choice((None, None, None, 1, 2, 10))}


def policy(draw: Random, seam: str, names: Sequence[str]) -> Changes:
    name = draw.choice(names)
    return {seam: name, **some(draw, {f"{seam}.{key}": values for key, values in POLICIES[seam][name].items()})}


def policies(draw: Random, *, future_is_known: bool) -> Changes:
    """Return policies for some seams; the system's own stay at the others."""
    changes: Changes = {}
    for seam in ("scheduler", "cache", "prefetch", "predictor"):
        if draw.random() < 0.75:
            may = [
                *LIKELY.get(seam, ()),
                *(name for name in POLICIES[seam] if future_is_known or name not in KNOW_THE_FUTURE.get(seam, ())),
            ]
            changes |= policy(draw, seam, may)
    return changes


@lru_cache(maxsize=1024)
def drawn(index: int) -> Configuration:
    """Return one of the configurations, all of which can be run."""
    draw = Random(f"{SEED} {index}")
    ranks, served = draw.choice(RANKS), topology(draw)
    is_open_and_alone = served["replicas"] == 1 and served["client.max_concurrency"] is None
    changes = workload(draw, ranks) | served | policies(draw, future_is_known=is_open_and_alone)
    if draw.random() < 0.75:
        changes |= reservation(draw)
    if draw.random() < 0.75:
        changes |= memory(draw, max(ranks))
    for table in (ADMISSION, LIMITS, TIERS, LOADING, COSTS):
        changes |= some(draw, table)
    one, pressure = Configuration(draw.choice(SYSTEMS), ()).but(changes), draw.random()
    return one.but(crowded(draw)) if pressure < 0.15 else one.but(hungry(draw)) if pressure < 0.3 else one
