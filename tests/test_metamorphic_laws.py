"""Two configurations that must do the same, or the same at another scale, in whole configurations at random."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from sim.build import Deployment, deploy
from sim.config import RunConfig
from sim.costs import CostModel
from sim.idle_settings import idle_settings
from sim.results.isolated import isolated_ticks
from sim.serving.records import NEVER, STATUSES, Records
from sim.serving.shape import StepCost
from sim.serving.ticks import TICKS_PER_S
from sim.trace import AdapterSpec, Trace
from tests.configured_laws import in_drawn, is_alone, is_open
from tests.configured_runs import Played, parted, play, played, ran
from tests.policy_parameters import CACHES
from tests.random_configurations import KNOW_THE_FUTURE, Changes, Configuration, crowded, hungry

COUNT = 18
FEW = 8
HUGE = 10**15
INSTANTS = ("arrival", "admitted", "ready", "prefill_start", "first_token", "finish")
TIMES = (*INSTANTS, "preempted", "load", "link_wait")

# Policies that look at nothing but what a test changes alike for all: no ids, no costs, no times since the start.
PLAIN: Changes = {"scheduler": "fcfs", "cache": "lru", "prefetch": "queued", "predictor": "confusion"}
SHORT_OF_KV: Changes = {"memory.kv_pool_tokens": 500}
AMPLE: Changes = {
    "model": "llama-7b",
    "hardware": "h200",
    "memory.reserve_bytes": 0,
    "memory.kv_pool_tokens": None,
    "adapters.memory": "unified",
    "adapters.host_adapters": None,
    "adapters.host_bytes": None,
    "parallel.tensor": 1,
    "parallel.gpus_per_switch": 1,
}


def assert_alike(one: Configuration, these: Changes, those: Changes) -> None:
    this, that = one.but(these), one.but(those)
    said = parted(ran(this), ran(that))
    assert said is None, f"{said}\n{this}\n{that}"


def kind(one: Configuration, seam: str) -> str:
    return str(getattr(one.config, seam)["kind"])


def knows_the_future(one: Configuration) -> bool:
    return any(kind(one, seam) in names for seam, names in KNOW_THE_FUTURE.items())


# --- one thing said in two ways ---


@in_drawn(COUNT)
def test_lengths_that_an_oracle_predicts_are_whole_lengths(one: Configuration) -> None:
    foretold = one.but({"predictor": "oracle", **SHORT_OF_KV})
    assert_alike(foretold, {"admission.reserve": "whole"}, {"admission.reserve": "predicted"})


@in_drawn(COUNT, where=lambda one: one.config.admission.preempted != "keep")
def test_to_swap_into_no_memory_is_to_recompute(one: Configuration) -> None:
    short = one.but({**hungry(Random(0)), "memory.swap_bytes": 0})
    assert_alike(short, {"admission.shortage": "swap"}, {"admission.shortage": "recompute"})


@in_drawn(COUNT)
def test_to_swap_whom_the_scheduler_stops_into_no_memory_is_to_recompute(one: Configuration) -> None:
    stops = one.but({"scheduler": "fastserve", "limits.running_requests": 3, "memory.swap_bytes": 0})
    assert_alike(stops, {"admission.preempted": "swap"}, {"admission.preempted": "recompute"})


@in_drawn(COUNT)
def test_chunks_without_limits_are_whole_prompts(one: Configuration) -> None:
    unlimited = one.but({"limits.step_tokens": HUGE, "limits.batch_prompt_tokens": HUGE})
    assert_alike(unlimited, {"prefill": "chunked"}, {"prefill": "mixed"})


@pytest.mark.parametrize(
    "key",
    ["limits.prefills_per_step", "limits.distinct_adapters", "adapters.host_adapters", "adapters.host_bytes"],
)
@in_drawn(FEW)
def test_no_limit_is_a_huge_limit(one: Configuration, key: str) -> None:
    warm = one.but({"adapters.host_adapters": None, "adapters.host_bytes": None, "adapters.host_starts_warm": True})
    assert_alike(warm, {key: None}, {key: HUGE})


@in_drawn(FEW, where=lambda one: is_open(one) and not knows_the_future(one))
def test_an_open_loop_is_a_closed_one_of_very_many(one: Configuration) -> None:
    assert_alike(one, {}, {"client.max_concurrency": HUGE})


@pytest.mark.parametrize(
    ("seam", "name", "key"),
    [
        ("scheduler", "multi-queue", "bypass_lookahead"),
        ("scheduler", "static-lanes", "bypass_lookahead"),
        ("prefetch", "queued", "lookahead"),
        ("prefetch", "rate", "top"),
    ],
)
@in_drawn(FEW)
def test_a_policy_without_a_limit_has_a_huge_one(one: Configuration, seam: str, name: str, key: str) -> None:
    pressed = crowded(Random(0)) if seam == "scheduler" else {}  # where adapters run short some pass others
    assert_alike(one.but({**pressed, seam: name}), {f"{seam}.{key}": None}, {f"{seam}.{key}": HUGE})


@in_drawn(FEW)
def test_only_the_ratio_of_fair_weights_counts(one: Configuration) -> None:
    fair = one.but({"scheduler": "vtc"})
    less, more = ({"scheduler.input_weight": 1.0 * k, "scheduler.output_weight": 2.0 * k} for k in (1, 2))
    assert_alike(fair, dict(less), dict(more))


@in_drawn(FEW)
def test_the_shortest_of_equals_is_the_first(one: Configuration) -> None:
    # who stops is the last admitted, and waits before all others: first come, first served again
    last = {"admission.victim": "last_admitted"}
    blind = one.but({"predictor": "constant", "admission.preempted": "recompute", **last})
    assert_alike(blind, {"scheduler": "sjf"}, {"scheduler": "fcfs"})


@in_drawn(FEW)
def test_slots_of_one_rank_are_a_region_that_holds_as_many(one: Configuration) -> None:
    alike = one.but(
        {
            **AMPLE,
            "workload.ranks": [64],
            "limits.distinct_adapters": 2,
            "adapters.max_rank": None,
            "adapters.slots": 2,
            "adapters.base_slot": False,
            "costs.kernel": "bgmv",
            "costs.padded_share": 1.0,
            "adapters.slot_modules": None,
            "costs.slot_block_s": 0,
            "loading.returns_per_slot": 0,
            "workload.adapters": 10,
        }
    )
    region = 2 * played(alike).deployment.model.adapter_bytes(64, alike.config.adapters.modules)
    reserved = {"adapters.memory": "reserved", "adapters.reserved_bytes": region}
    assert_alike(alike, {"adapters.memory": "slots"}, reserved)


@pytest.mark.parametrize("cache", sorted(CACHES.keys() - {"lru", "drop-after-use", "adaptive", "belady"}))
@in_drawn(5)
def test_with_memory_for_all_every_cache_is_the_same(one: Configuration, cache: str) -> None:
    at_ease = one.but({**AMPLE, "limits.distinct_adapters": None, "prefetch": "queued"})
    assert_alike(at_ease, {"cache": "lru"}, {"cache": cache})


# --- what changes nothing ---


@in_drawn(FEW)
def test_a_slot_for_the_base_model_matters_to_nobody_where_all_requests_have_adapters(one: Configuration) -> None:
    slots = {"adapters.memory": "slots", "adapters.slots": 2, "adapters.max_rank": None}
    adapted = one.but({**AMPLE, **slots, "workload.adapters": 10, "workload.base_share": 0})
    assert_alike(adapted, {"adapters.base_slot": True}, {"adapters.base_slot": False})


@in_drawn(COUNT * 2, where=lambda one: bool(idle_settings(one.config)))
def test_a_setting_that_is_said_to_idle_changes_nothing(one: Configuration) -> None:
    for said in idle_settings(one.config):
        key = said.split(" ", maxsplit=1)[0]
        assert_alike(one, {}, {key: "round-robin" if key == "router" else default(key)})


def default(key: str) -> Any:
    section, name = key.split(".")
    model = type(getattr(RunConfig.model_construct(name=""), section))
    return model.model_fields[name].get_default(call_default_factory=True)


def blind_to_names(one: Configuration) -> bool:
    """Whether no policy looks at an adapter's id, be it to put equals in an order."""
    looks = kind(one, "scheduler") in {"dlora", "vtc", "skip", "sglang"} or kind(one, "cache") == "random"
    sorts = kind(one, "prefetch") not in {"none", "queued", "slora", "oracle"} or kind(one, "router") == "loraserve"
    return not (looks or sorts)


@in_drawn(COUNT, where=blind_to_names)
def test_names_of_adapters_do_not_matter(one: Configuration) -> None:
    run = played(one)
    palette = tuple(
        None if spec is None else replace(spec, id=f"z{index * 7919 % 1009:04d}")
        for index, spec in enumerate(run.deployment.trace.palette)
    )
    said = parted(run, play(deploy(one.loaded, replace(run.deployment.trace, palette=palette))))
    assert said is None, said


def overlooks_the_unused(one: Configuration) -> bool:
    """Whether nothing goes through all adapters there are: no host memory that they fill, no policy."""
    has_all = one.config.adapters.host_adapters is None and one.config.adapters.host_bytes is None
    return has_all and blind_to_names(one) and kind(one, "cache") != "adaptive"


@in_drawn(COUNT * 2, where=overlooks_the_unused)
def test_an_adapter_that_nobody_asks_for_does_not_matter(one: Configuration) -> None:
    trace = played(one).deployment.trace
    unused = AdapterSpec("unused", max((spec.rank for spec in trace.palette if spec is not None), default=8))
    if trace.palette != (None,):
        said = parted(played(one), play(deploy(one.loaded, replace(trace, palette=(*trace.palette, unused)))))
        assert said is None, said


# --- the same at another scale ---


class Scaled:
    """Costs times a whole number; what moves adapters by another."""

    def __init__(self, costs: CostModel, factor: int, loads: int) -> None:
        self._costs, self._factor, self._loads = costs, factor, loads

    def prefill(self, *shape: int) -> int:
        return self._costs.prefill(*shape) * self._factor

    def mixed(self, *shape: Any) -> int:
        return self._costs.mixed(*shape) * self._factor

    def decode(self, *shape: int) -> StepCost:
        first, growth, steps = self._costs.decode(*shape)
        return StepCost(first * self._factor, growth * self._factor, steps)

    def load(self, size_bytes: int) -> int:
        return self._costs.load(size_bytes) * self._loads

    def read(self, size_bytes: int) -> int:
        return self._costs.read(size_bytes) * self._loads

    def swap(self, size_bytes: int) -> int:
        return self._costs.swap(size_bytes) * self._factor


def scaled(deployment: Deployment, factor: int, loads: int) -> Deployment:
    costs: Any = Scaled(deployment.costs, factor, loads)
    return replace(deployment, costs=costs)


def on_grid(trace: Trace, *, factor: int = 1, later_s: int = 0) -> Trace:
    """Return it with stamps that are whole numbers of ticks also when they are doubled or moved."""
    return replace(trace, arrival_s=np.ceil(trace.arrival_s * 1024) / 1024 * factor + later_s)


def plain(one: Configuration) -> Configuration:
    whole = {"loading.mode": "blocking", "loading.sharing": "fifo", "admission.idle_poll_s": 0, "loading.merge_s": 0}
    router = "round-robin" if kind(one, "router") in {"loraserve", "toppings"} else kind(one, "router")
    return one.but({**PLAIN, **whole, "router": router})


def moved(records: Records, factor: int = 1, later: int = 0) -> list[dict[str, Any]]:
    """Return what became of each request, its times multiplied or its instants moved."""
    table, told = records.requests, []
    for row in zip(*(table[name].tolist() for name in table.columns), strict=True):
        request = dict(zip(table.columns, row, strict=True))
        for name in TIMES:
            if request[name] != NEVER:
                request[name] = request[name] * factor + (later if name in INSTANTS else 0)
        told.append(request)
    return told


@in_drawn(COUNT)
def test_twice_the_costs_and_twice_the_gaps_are_twice_the_latencies(one: Configuration) -> None:
    loaded = plain(one).loaded
    trace = deploy(loaded).trace
    single = play(deploy(loaded, on_grid(trace)))
    double = play(scaled(deploy(loaded, on_grid(trace, factor=2)), 2, 2))
    for this, that in zip(single.records, double.records, strict=True):
        assert moved(this, factor=2) == moved(that)


@in_drawn(COUNT)
def test_a_workload_that_comes_later_fares_the_same(one: Configuration) -> None:
    loaded = plain(one).loaded
    trace = deploy(loaded).trace
    early, late = play(deploy(loaded, on_grid(trace))), play(deploy(loaded, on_grid(trace, later_s=1024)))
    for this, that in zip(early.records, late.records, strict=True):
        assert moved(this, later=1024 * TICKS_PER_S) == moved(that)


def lonely(one: Configuration) -> Played:
    changes = {"workload.requests": 1, "admission.idle_poll_s": 0, "loading.merge_s": 0, "loading.mode": "overlapped"}
    deployment = deploy(one.but({**PLAIN, **changes}).loaded)
    return play(scaled(deployment, 1, 0))


@in_drawn(COUNT, where=is_alone)
def test_a_request_alone_takes_the_isolated_time_and_the_load(one: Configuration) -> None:
    run = lonely(one)
    table, deployment = run.records[0].requests, run.deployment
    if table["status"].tolist() == [STATUSES.index("ok")]:
        took = table["finish"] - table["arrival"]
        assert took.tolist() == isolated_ticks(deployment.trace, deployment.costs, deployment.options).tolist()
