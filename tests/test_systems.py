"""What tells each packaged system from the others: its rule, seen in a handful of requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sim
from sim.results.result import Result
from sim.serving.records import Records
from sim.trace import AdapterSpec, Trace

A, B, C = 0, 1, 2
RANKS = (16, 16, 16)

Row = tuple[float, int, int, int]  # arrival seconds, prompt and output tokens, adapter


def served(system: str, *rows: Row, ranks: tuple[int, ...] = RANKS, changes: tuple[str, ...] = ()) -> Result:
    """Return what a system does with a few requests, whose lengths it can foresee."""
    arrival_s, *columns = zip(*rows, strict=True)
    prompt, output, adapter = (np.array(column, dtype=np.int64) for column in columns)
    palette = tuple(AdapterSpec("abcd"[index], rank) for index, rank in enumerate(ranks))
    trace = Trace("by hand", np.array(arrival_s), prompt, output, palette, adapter)
    return sim.run(system, trace=trace, changes=("predictor.kind=oracle", *changes))


def column(result: Result, name: str) -> Any:
    return result.requests[name].tolist()


def admitted(result: Result) -> list[float]:
    seconds: list[float] = column(result, "admitted_s")
    return seconds


def order(result: Result) -> list[int]:
    """Return the requests by admission."""
    return [int(index) for index in np.argsort(admitted(result), kind="stable")]


def records(result: Result) -> Records:
    (one,) = result.run.records
    return one


# --- slots: vLLM, SGLang, EdgeLoRA, BLIS ---

BUSY: tuple[Row, ...] = ((0.0, 50, 200, A), (1.0, 50, 20, B), (1.001, 50, 20, A))
ONE_SLOT = ("adapters.slots=1",)
ONE_AT_A_TIME = ("limits.running_requests=1",)


@pytest.mark.parametrize("system", ["vllm", "vllm-v0", "vllm-swap", "sglang"])
def test_a_request_whose_adapter_has_no_slot_is_skipped(system: str) -> None:
    result = served(system, *BUSY, changes=ONE_SLOT)
    assert order(result) == [0, 2, 1]
    assert admitted(result)[1] >= column(result, "finish_s")[0]


@pytest.mark.parametrize("system", ["edgelora", "blis-like"])
def test_a_request_whose_adapter_has_no_slot_holds_up_those_behind_it(system: str) -> None:
    assert order(served(system, *BUSY, changes=ONE_SLOT)) == [0, 1, 2]


def test_vllm_loads_an_absent_adapter_inside_the_step_and_all_wait() -> None:
    result = served("vllm", *BUSY)
    assert len(records(result).stalls) == 2  # each adapter's first request
    assert admitted(result)[1] - 1.0 < 0.05


def test_vllm_s_load_takes_the_same_time_whatever_the_rank() -> None:
    def load_s(system: str, rank: int) -> float:
        seconds: float = column(served(system, *BUSY, ranks=(rank,) * 3), "adapter_load_s")[1]
        return seconds

    assert load_s("vllm", 16) == pytest.approx(load_s("vllm", 8), rel=0.01)
    assert load_s("slora", 16) == pytest.approx(2 * load_s("slora", 8), rel=0.01)


def test_sglang_with_overlap_skips_a_request_until_its_adapter_is_there() -> None:
    rows = ((0.0, 50, 200, A), (1.0, 50, 20, B), (1.0, 50, 20, A))
    plain, overlap = served("sglang", *rows, ranks=(128,) * 3), served("sglang-overlap", *rows, ranks=(128,) * 3)
    assert order(plain) == [0, 1, 2]
    assert order(overlap) == [0, 2, 1]
    assert len(records(plain).stalls) == 2
    assert len(records(overlap).stalls) == 0
    assert column(overlap, "adapter_wait_s")[1] == 0


def test_sglang_s_drainer_frees_a_slot_for_an_adapter_that_starves() -> None:
    rows: list[Row] = [(0.0, 50, 100, A), (0.1, 50, 20, B), *((0.5 + i, 50, 100, A) for i in range(12))]
    plain, drained = (served(system, *rows, changes=ONE_SLOT) for system in ("sglang", "sglang-drain"))
    assert order(plain).index(1) == len(rows) - 1
    assert 1 < order(drained).index(1) < 6


def test_blis_lets_nobody_join_while_a_load_is_under_way_and_the_batch_goes_on() -> None:
    rows = ((0.0, 50, 200, A), (1.0, 50, 20, B), (1.001, 50, 20, A))
    result = served("blis-like", *rows, ranks=(128,) * 3, changes=("hardware=a10g", "loading.fixed_s=0.3"))
    landed = column(result, "adapter_ready_s")[1]
    assert admitted(result)[2] >= landed > 1.3
    assert len(records(result).stalls) == 0
    passed = served("blis-like", *rows, ranks=(128,) * 3, changes=("loading.fixed_s=0.3", "scheduler.kind=skip"))
    assert admitted(passed)[2] < 1.3


def test_the_digital_twin_does_not_look_at_ranks() -> None:
    results = [served("digital-twin-like", *BUSY, ranks=(rank,) * 3) for rank in (8, 128)]
    assert column(results[0], "finish_s") == column(results[1], "finish_s")
    assert column(served("vllm", *BUSY, ranks=(8,) * 3), "finish_s") != column(
        served("vllm", *BUSY, ranks=(128,) * 3), "finish_s"
    )


def test_the_digital_twin_doubles_a_step() -> None:
    whole, base = (
        served("digital-twin-like", (0.0, 50, 100, A), changes=changes)
        for changes in ((), ("costs.enabled_factor=1.0",))
    )
    assert column(whole, "tpot_s")[0] == pytest.approx(2 * column(base, "tpot_s")[0], rel=0.02)


# --- prefill: Punica, vLLM, SGLang ---

THREE: tuple[Row, ...] = ((0.0, 40, 60, A), (0.5, 40, 60, A), (0.5, 40, 60, A))


def test_punica_prefills_one_prompt_an_iteration_beside_all_decodes() -> None:
    result = served("punica", *THREE)
    assert records(result).prefills["tokens"].tolist() == [40, 40, 40]
    assert records(result).mixed["start"].tolist() == records(result).prefills["start"].tolist()[1:]
    firsts = column(result, "first_token_s")
    assert firsts[1] < firsts[2]


def test_punica_s_batch_holds_32_requests() -> None:
    waits = admitted(served("punica", *((0.0, 40, 60, A),) * 33))
    assert waits[32] > max(waits[:32])


def test_vllm_s_chunks_and_sglang_s_prefills_take_prompts_together() -> None:
    assert records(served("vllm", *THREE)).mixed["start"].size == 1
    separate = records(served("sglang", *THREE))
    assert separate.mixed["start"].size == 0
    assert separate.prefills["tokens"].tolist() == [40, 80]


def test_vllm_cuts_a_long_prompt_and_the_older_vllm_does_not() -> None:
    long = ((0.0, 40, 60, A), (0.5, 5000, 5, A))
    assert records(served("vllm", *long)).prefills["tokens"].tolist()[1:] == [2047, 2047, 906]
    assert records(served("vllm-v0", *long)).prefills["tokens"].tolist()[1:] == [5000]


def test_punica_loads_beside_the_others_and_keeps_nothing() -> None:
    rows = ((0.0, 50, 200, A), (1.0, 50, 5, B), (3.0, 50, 5, B))
    result = served("punica", *rows, ranks=(128,) * 3)
    assert len(records(result).stalls) == 0
    assert column(result, "adapter_source") == ["host", "host", "host"]
    assert column(served("p-lora", *rows), "adapter_source")[2] == "gpu"


# --- memory: LoRAX, vLLM V0 ---

TWO: tuple[Row, ...] = ((0.0, 100, 150, A), (0.0, 100, 150, A))
SMALL_POOL = ("memory.kv_pool_tokens=400",)


def test_lorax_reserves_a_request_whole_and_vllm_only_its_prompt() -> None:
    whole, prompt = (served(system, *TWO, changes=SMALL_POOL) for system in ("lorax", "vllm-v0"))
    assert admitted(whole)[1] >= column(whole, "finish_s")[0]
    assert admitted(prompt)[1] == admitted(prompt)[0]


def test_lorax_prefers_an_adapter_whose_two_seconds_are_not_over() -> None:
    rows = ((0.0, 50, 100, A), (2.4, 50, 20, A), (2.5, 50, 20, B))
    assert order(served("lorax", *rows, changes=ONE_AT_A_TIME)) == [0, 2, 1]
    assert order(served("lorax", *rows, changes=(*ONE_AT_A_TIME, "scheduler.cycle_s=100"))) == [0, 1, 2]


def test_vllm_v0_recomputes_what_memory_stops_and_vllm_swap_brings_it_back_from_the_host() -> None:
    recomputed, swapped = (served(system, *TWO, changes=SMALL_POOL).summary for system in ("vllm-v0", "vllm-swap"))
    assert recomputed["preemption"]["recomputed"] > 0 == recomputed["preemption"]["swapped_in_bytes"]
    assert swapped["preemption"]["swapped_in_bytes"] > 0 == swapped["preemption"]["recomputed"]


def test_vllm_v0_keeps_one_per_cent_of_the_blocks_free() -> None:
    rows = ((0.0, 8000, 40, A), (0.0, 7900, 5, A))
    pool = "memory.kv_pool_tokens=16000"
    with_it = served("vllm-v0", *rows, changes=(pool,))
    without = served("vllm-v0", *rows, changes=(pool, "admission.watermark=0.0"))
    assert admitted(without)[1] < column(without, "finish_s")[0]
    assert admitted(with_it)[1] >= column(with_it, "finish_s")[0]


def test_elora_evicts_what_is_rarely_used_and_not_what_was_used_longest_ago() -> None:
    rows = [*((0.6 * i, 16, 4, A) for i in range(6)), (4.0, 16, 4, B), (5.0, 16, 4, C), (6.0, 16, 4, A)]
    pool = ("memory.kv_pool_tokens=384", "prefetch.kind=none")
    by_value = served("elora", *rows, ranks=(32,) * 3, changes=pool)
    by_age = served("elora", *rows, ranks=(32,) * 3, changes=(*pool, "cache.kind=lru"))
    assert column(by_value, "adapter_source")[-1] == "gpu"
    assert column(by_age, "adapter_source")[-1] == "host"


# --- S-LoRA and its kin ---


@pytest.mark.parametrize(("system", "steps"), [("slora", 10), ("slora-ideal", 1)])
def test_a_request_that_comes_right_after_a_prefill_waits_for_so_many_steps(system: str, steps: int) -> None:
    start = records(served(system, (0.0, 50, 200, A))).segments["start"][0] / 1e12
    result = served(system, (0.0, 50, 200, A), (start + 1e-6, 50, 20, A))
    log = records(result)
    before = log.segments["start"] < log.prefills["start"][1]
    assert int(log.segments["count"][before].sum()) == steps


@pytest.mark.parametrize(
    ("system", "source"),
    [("slora", "host"), ("chameleon", "gpu"), ("chameleon-no-sched", "gpu"), ("chameleon-no-cache", "host")],
)
def test_an_adapter_that_comes_back_is_still_there_only_with_the_cache(system: str, source: str) -> None:
    assert column(served(system, (0.0, 50, 20, A), (5.0, 50, 20, A)), "adapter_source")[1] == source


@pytest.mark.parametrize(("system", "is_loaded"), [("slora", True), ("slora-no-prefetch", False), ("slora-vtc", False)])
def test_the_prefetch_of_slora_is_an_option(system: str, is_loaded: bool) -> None:
    rows = ((0.0, 50, 200, A), (0.1, 50, 20, B))
    assert (served(system, *rows).summary["adapters"]["prefetches"] > 0) is is_loaded


QUEUE: tuple[Row, ...] = ((0.0, 50, 100, A), (0.1, 50, 60, A), (0.2, 50, 10, B))


@pytest.mark.parametrize(
    ("system", "expected"),
    [("slora", [0, 1, 2]), ("slora-sjf", [0, 2, 1]), ("userve", [0, 2, 1]), ("slora-vtc", [0, 2, 1])],
)
def test_who_goes_first_of_those_that_wait(system: str, expected: list[int]) -> None:
    assert order(served(system, *QUEUE, changes=ONE_AT_A_TIME)) == expected


def test_userve_lets_the_long_go_once_it_has_waited_too_long_and_sjf_never() -> None:
    rows = ((0.0, 50, 20, A), (0.01, 50, 40, A), *((0.02, 50, 10, A),) * 60)
    aged, plain = (served(system, *rows, changes=ONE_AT_A_TIME) for system in ("userve", "slora-sjf"))
    assert order(plain).index(1) == len(rows) - 1
    assert order(aged).index(1) < len(rows) - 1


def test_a_cluster_takes_requests_of_its_adapters_first() -> None:
    rows = ((0.0, 50, 200, A), (1.0, 50, 20, B), (1.0, 50, 20, A))
    two = "limits.running_requests=2"
    assert order(served("slora-cluster", *rows, changes=(two, "scheduler.adapters=1"))) == [0, 2, 1]
    assert order(served("slora-cluster", *rows, changes=(two, "scheduler.adapters=2"))) == [0, 1, 2]


def test_early_abort_turns_away_who_would_miss_six_seconds() -> None:
    rows = ((0.0, 50, 500, A), (1.0, 50, 10, A), (2.0, 50, 10, A), (11.0, 50, 10, A))
    result = served("slora-abort", *rows, changes=ONE_AT_A_TIME)
    assert column(result, "status") == ["ok", "rejected", "rejected", "ok"]
    assert column(served("slora", *rows, changes=ONE_AT_A_TIME), "status") == ["ok"] * 4


def test_peft_serves_one_adapter_until_its_batch_is_empty() -> None:
    result = served("peft", (0.0, 50, 100, A), (0.1, 50, 20, B), (0.2, 50, 20, A))
    finish = column(result, "finish_s")
    assert admitted(result)[1] >= finish[0]
    assert admitted(result)[2] >= finish[1] or admitted(result)[2] >= finish[0]
    assert order(result)[0] == 0


def test_a_merged_adapter_costs_nothing_in_a_step() -> None:
    merged, unmerged = (column(served(one, (0.0, 50, 100, A)), "tpot_s")[0] for one in ("peft", "slora-ideal"))
    assert merged < unmerged


def test_caraserve_s_first_token_does_not_wait_for_the_load() -> None:
    row = (0.0, 370, 20, A)
    at_once, blocking = (
        served("caraserve", row, ranks=(128,), changes=changes) for changes in ((), ("loading.mode=blocking",))
    )
    load_s = column(blocking, "adapter_load_s")[0]
    assert column(at_once, "adapter_wait_s")[0] == 0
    assert column(blocking, "adapter_wait_s")[0] == pytest.approx(load_s, rel=0.01)
    prefill_s = column(blocking, "prefill_s")[0]
    assert column(at_once, "ttft_s")[0] < prefill_s * 1.07 + load_s / 2
    assert column(at_once, "ttft_s")[0] > prefill_s


# --- preemption and merging: FastServe, Learning-to-Rank, dLoRA ---

LONG_THEN_SHORT: tuple[Row, ...] = ((0.0, 50, 300, A), (2.0, 50, 10, A))


@pytest.mark.parametrize("system", ["fastserve", "learning-to-rank"])
def test_a_long_request_makes_way_for_a_short_one(system: str) -> None:
    result = served(system, *LONG_THEN_SHORT, changes=ONE_AT_A_TIME)
    assert column(result, "n_preempt")[0] > 0
    assert column(result, "finish_s")[1] < column(result, "finish_s")[0]
    assert column(served("vllm-v0", *LONG_THEN_SHORT, changes=ONE_AT_A_TIME), "n_preempt") == [0, 0]


def test_fastserve_moves_the_stopped_request_s_kv_and_learning_to_rank_computes_it_again() -> None:
    moved, again = (
        served(system, *LONG_THEN_SHORT, changes=ONE_AT_A_TIME).summary["preemption"]
        for system in ("fastserve", "learning-to-rank")
    )
    assert moved["swapped_in_bytes"] == moved["swapped_out_bytes"] > 0 == moved["recomputed"]
    assert again["recomputed"] > 0 == again["swapped_out_bytes"]


def test_dlora_merges_what_all_requests_want() -> None:
    rows = (*((0.0, 50, 100, A),) * 3, (0.5, 50, 100, A))
    alone, fcfs = (served("dlora", *rows, changes=changes) for changes in ((), ("scheduler.kind=fcfs",)))
    assert np.mean(column(alone, "tpot_s")) < np.mean(column(fcfs, "tpot_s")) - 0.5e-3


# --- clusters ---

CLUSTERS = ("punica-cluster", "toppings", "loraserve")


@pytest.mark.parametrize("system", CLUSTERS)
def test_a_cluster_has_four_gpus(system: str) -> None:
    assert len(served(system, (0.0, 50, 20, A)).run.records) == 4


def test_punica_packs_requests_onto_one_gpu_and_toppings_spreads_them() -> None:
    rows = ((0.0, 50, 200, A), (0.1, 50, 200, B), (0.2, 50, 200, C))
    packed, spread = (column(served(system, *rows), "replica") for system in ("punica-cluster", "toppings"))
    assert len(set(packed)) == 1
    assert len(set(spread)) == 3


def test_loraserve_does_not_mix_ranks() -> None:
    rows: list[Row] = [(0.1 * i, 50, 50, i % 4) for i in range(16)]
    replicas = column(served("loraserve", *rows, ranks=(8, 128, 8, 128)), "replica")
    small = {replica for replica, row in zip(replicas, rows, strict=True) if row[3] % 2 == 0}
    large = {replica for replica, row in zip(replicas, rows, strict=True) if row[3] % 2 == 1}
    assert not small & large
