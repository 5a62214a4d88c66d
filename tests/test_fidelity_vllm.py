"""vLLM's published runs: how rows become workloads and servers, which are compared, and what a window leaves out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.base import IntArray
from sim.config import Loaded
from sim.fidelity import vllm_stalls
from sim.fidelity.measures import REGIONS, Measure
from sim.fidelity.vllm import CLIFF, SUBSET_REQUESTS, VllmRun, cases, every_case, metrics, most, sets_of, subset
from sim.fidelity.vllm_micro import MicroCase, MicroRow, expected_distinct, micro_cases, step_s
from sim.fidelity.vllm_rows import METRICS, RunRow, rated_rows
from sim.fidelity.vllm_server import Answered, answered, kv_pool_tokens, server, slot_bytes
from sim.fidelity.vllm_workload import cut_mean, drawn_tokens, workload
from sim.models import ALL_MODULES, load_model
from sim.slot_kernels import Slots, kernel_blocks
from sim.trace import AdapterSpec, Trace

MEASURED = Path(__file__).parents[2] / "shared" / "data" / "measured"
RUNS_CSV = MEASURED / "vllm_lora_h100_runs.csv"
MICRO_CSV = MEASURED / "vllm_lora_h100_microbench.csv"
MIB = 1 << 20

needs_runs = pytest.mark.skipif(not RUNS_CSV.exists(), reason="vLLM's table of server runs is not at hand")
needs_micro = pytest.mark.skipif(not MICRO_CSV.exists(), reason="vLLM's table of step times is not at hand")

RUN: dict[str, Any] = {
    "model": "llama-3.1-8b-instruct", "max_loras": 4, "max_lora_rank": 16, "n_adapters": 8, "rates": "0.8, 0.4, 0.1",
    "ok": 100, "dur": 200.0, "in_tok": 22_000, "out_tok": 19_000, "rps": 3.6, "ttft_p50": 50.0, "ttft_p99": 90.0,
    "ttft_mean": 55.0, "tpot_mean": 20.0, "itl_mean": 20.0,
}  # fmt: skip


LLAMA_2 = {"model": "llama-2-7b", "in_tok": 25_000, "out_tok": 23_100}


def run(**changes: Any) -> RunRow:
    return RunRow.model_validate({**RUN, **changes})


def micro(**changes: Any) -> MicroRow:
    row: dict[str, Any] = {
        "set": "slots_batch1", "model": "llama", "max_loras": 16, "max_rank": 8, "batch": 1, "active_adapters": 1,
        "out_len": 120, "itl_ms": 13.2,
    }  # fmt: skip
    return MicroRow.model_validate({**row, **changes})


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rates_are_dealt_round_robin_so_the_first_ones_may_weigh_more() -> None:
    row = run()
    assert row.dealt_per_s == (0.8, 0.4, 0.1, 0.8, 0.4, 0.1, 0.8, 0.4)
    assert row.offered_per_s == pytest.approx(3.8)
    assert row.arrivals == 760


def test_rows_that_do_not_say_when_requests_came_are_left_out(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    names = [*RUN, "max_cpu_loras"]
    rows = [{**RUN, "rates": '"0.8, 0.4, 0.1"'}, {**RUN, "rates": ""}, {**RUN, "rates": "0.5", "max_loras": ""}]
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    table.write_text("\n".join(lines))
    (row,) = rated_rows(table)
    assert row.rates == (0.8, 0.4, 0.1)
    assert row.max_cpu_loras is None


# --- workloads --------------------------------------------------------------------------------------------------------


def test_a_run_of_llama_2_with_other_lengths_is_refused() -> None:
    with pytest.raises(
        ValueError, match="llama-2-7b's requests have 250 tokens in and 231 out, got means of 220 in and 190"
    ):
        run(model="llama-2-7b")


def test_more_slots_than_the_card_holds_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="max_loras: 700 slots of rank 16 leave no memory"):
        kv_pool_tokens(run(max_loras=700))


def test_a_window_in_which_nothing_is_complete_has_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match=r"dur: no request is complete within 0\.001 s"):
        answered(server(run()), tiny([0.0], [100]), 0.001)


def test_a_step_with_more_adapters_than_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="200 are more than the 8 slots"):
        micro(max_loras=8, active_adapters=200)


def test_every_adapter_gets_its_share_of_requests_over_the_whole_window() -> None:
    row = run(dur=20_000.0)
    trace = workload(row)
    counts = np.sort(np.bincount(trace.adapter, minlength=8)) / row.dur
    assert counts == pytest.approx(np.sort(row.dealt_per_s), rel=0.05)
    assert len(trace) == row.arrivals
    assert np.all(np.diff(trace.arrival_s) >= 0)
    assert trace.arrival_s[-1] < row.dur
    assert trace.arrival_s.mean() == pytest.approx(row.dur / 2, rel=0.02)


def test_rates_are_shuffled_over_the_adapters_by_the_seed() -> None:
    busiest = {
        int(np.bincount(workload(run(rates="5.0, 0.01", n_adapters=2), seed).adapter).argmax()) for seed in range(9)
    }
    assert busiest == {0, 1}


def test_servers_with_other_slots_get_the_same_requests() -> None:
    few, many = workload(run()), workload(run(max_loras=8))
    assert np.array_equal(few.arrival_s, many.arrival_s)
    assert np.array_equal(few.adapter, many.adapter)
    assert np.array_equal(few.output_tokens, many.output_tokens)


def test_llama_2_has_fixed_lengths_and_llama_3_the_published_means() -> None:
    fixed = workload(run(**LLAMA_2))
    assert (set(fixed.prompt_tokens), set(fixed.output_tokens)) == ({250}, {231})
    drawn = workload(run(dur=20_000.0))
    assert drawn.prompt_tokens.mean() == pytest.approx(220, rel=0.02)
    assert drawn.output_tokens.mean() == pytest.approx(190, rel=0.02)


def test_drawn_lengths_stay_within_the_cuts_and_hit_the_mean() -> None:
    tokens = drawn_tokens(224.0, 1.2, (np.arange(20_000) + 0.5) / 20_000)
    assert (tokens.min(), tokens.max()) == (4, 1024)
    assert tokens.mean() == pytest.approx(224.0, rel=0.002)
    assert np.median(tokens) < 160


def test_the_mean_of_a_narrow_law_is_where_it_lies() -> None:
    assert cut_mean(np.log(200.0), 0.001) == pytest.approx(200.0, rel=1e-3)


@pytest.mark.parametrize("mean", [3.0, 1025.0])
def test_a_mean_outside_the_cuts_is_refused(mean: float) -> None:
    with pytest.raises(ValueError, match="between 4 and 1024 tokens has a mean of"):
        drawn_tokens(mean, 1.2, np.array([0.5]))


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "logged_mib"), [(8, 50.0), (16, 94.1), (32, 181.9)])
def test_a_slot_has_the_size_that_the_servers_logged(rank: int, logged_mib: float) -> None:
    assert slot_bytes(load_model("llama-3.1-8b"), rank) / MIB == pytest.approx(logged_mib, rel=0.005)


def test_slots_take_their_bytes_from_the_kv_pool() -> None:
    few, many = (kv_pool_tokens(run(max_loras=slots)) for slots in (8, 108))
    token = load_model("llama-3.1-8b").kv_token_bytes
    assert (few - many) * token == pytest.approx(100 * slot_bytes(load_model("llama-3.1-8b"), 16), rel=0.001)
    assert few % 16 == many % 16 == 0


def test_the_host_keeps_as_many_adapters_as_was_set_or_as_there_are_slots() -> None:
    default, larger = (server(row).config.adapters.host_bytes for row in (run(), run(max_cpu_loras=8)))
    assert default is not None
    assert larger == 2 * default


def tiny(arrivals_s: list[float], output_tokens: list[int]) -> Trace:
    def same(value: int) -> IntArray:
        return np.full(len(arrivals_s), value, dtype=np.int64)

    lengths = np.array(output_tokens, dtype=np.int64)
    return Trace("tiny", np.array(arrivals_s), same(50), lengths, (AdapterSpec("a", 16),), same(0))


def without_api(loaded: Loaded) -> Loaded:
    costs = loaded.config.costs.model_copy(update={"api_s": 0.0})
    return loaded._replace(config=loaded.config.model_copy(update={"costs": costs}))


def test_requests_that_are_not_complete_when_the_window_ends_count_for_nothing() -> None:
    loaded, trace = server(run(), starts_warm=True), tiny([0.0, 1.0, 9.5], [20, 20, 900])
    assert len(answered(loaded, trace, 10.0).ttft_s) == 2
    assert len(answered(loaded, trace, 100.0).ttft_s) == 3


def test_time_outside_the_engine_moves_first_tokens_and_nothing_else() -> None:
    loaded, trace = server(run(), starts_warm=True), tiny([0.0, 1.0], [20, 20])
    client, engine = answered(loaded, trace, 10.0), answered(without_api(loaded), trace, 10.0)
    assert client.ttft_s - engine.ttft_s == pytest.approx(loaded.config.costs.api_s)
    assert np.array_equal(client.tpot_s, engine.tpot_s)


def test_the_first_request_of_an_adapter_waits_for_the_disk_unless_the_host_is_warm() -> None:
    cold, warm = (answered(server(run(), starts_warm=warm), tiny([0.0, 3.0], [9, 9]), 10.0) for warm in (False, True))
    assert cold.ttft_s[0] - warm.ttft_s[0] == pytest.approx(0.263, abs=1e-3)
    assert cold.ttft_s[1] == pytest.approx(warm.ttft_s[1])


# --- cases ------------------------------------------------------------------------------------------------------------


def test_metrics_are_the_published_columns_in_their_units() -> None:
    done = Answered(np.array([0.1, 0.3]), np.array([0.02, 0.04]), 0.03, 0.3)
    assert metrics(done, 4.0) == pytest.approx(
        {
            "rps": 0.5,
            "ttft_p50": 200,
            "ttft_p99": 298,
            "ttft_mean": 200,
            "tpot_mean": 30,
            "itl_mean": 30,
            "itl_p99": 300,
        }
    )


def test_a_run_survives_being_sent_away_and_measures_every_metric_once() -> None:
    case = pickle.loads(pickle.dumps(VllmRun(run(dur=30.0), "vllm-lora-h100-8b", seeds=2)))  # noqa: S301 - our own
    assert case.requests == 2 * 114
    found = case.measures()
    told = [name for name in METRICS if name != "itl_p99"]  # a table of somebody's own may lack it
    assert [measure.metric for measure in found] == told
    assert {measure.measured for measure in found} == {getattr(case.row, name) for name in told}
    assert [measure.metric for measure in VllmRun(run(dur=30.0, itl_p99=90.0), "a set").measures()] == list(METRICS)
    assert {(measure.set, measure.region) for measure in found} == {("vllm-lora-h100-8b", REGIONS[0])}


def test_seeds_are_averaged() -> None:
    one, two = (VllmRun(run(dur=30.0), "vllm-lora-h100-8b", seeds=seeds).measures()[1].simulated for seeds in (1, 2))
    trace = workload(run(dur=30.0), 1)
    second = metrics(answered(server(run(dur=30.0)), trace, 30.0), 30.0)["ttft_p50"]
    assert two == pytest.approx((one + second) / 2)


def test_rows_that_something_was_fitted_on_have_a_set_of_their_own() -> None:
    new = [
        run(max_loras=16, n_adapters=16, rps=7.3),
        run(max_loras=16, n_adapters=32, rps=14.6),  # adapters are swapped
        run(max_loras=16, n_adapters=16, rps=2.0),  # overloaded
        run(max_loras=32, n_adapters=32, rps=14.6),
    ]
    behind = run(**LLAMA_2, max_loras=63, n_adapters=64, rps=2.0)
    old = [run(**LLAMA_2, max_loras=slots, n_adapters=64, rps=28.0) for slots in (64, 65, 66)]
    names = sets_of([*new, old[0], behind, *old[1:]])
    assert [names[row] for row in new] == ["vllm-lora-h100-8b-fit", *["vllm-lora-h100-8b"] * 3]
    assert [names[row] for row in old] == ["vllm-lora-h100-7b-fit", "vllm-lora-h100-7b", "vllm-lora-h100-7b-fit"]
    assert names[behind] == "vllm-lora-h100-7b"


def test_a_server_that_fell_behind_was_above_its_capacity_whatever_ours_can_do() -> None:
    regions = {run: VllmRun(run, "a set").measures()[0].region for run in (run(), run(rps=2.0))}
    assert list(regions.values()) == [REGIONS[0], REGIONS[-1]]


def test_of_runs_that_fell_behind_for_an_hour_every_seventh_is_kept_and_of_others_all() -> None:
    behind = [run(dur=3600.0, rps=0.1, n_adapters=adapters) for adapters in range(1, 15)]
    others = [run(dur=300.0, rps=0.1), run(dur=3600.0)]
    assert most([*behind, *others]) == [behind[3], behind[10], *others]


def test_the_subset_has_the_smallest_run_of_each_stratum_whatever_was_measured() -> None:
    small, large = run(dur=100.0), run(dur=200.0, ttft_p50=10.0)
    overloaded, fitting = run(dur=300.0, rps=1.0), run(dur=300.0, n_adapters=4)
    huge = run(dur=100.0 * SUBSET_REQUESTS, max_loras=2)
    assert subset([large, small, huge, overloaded, fitting]) == [small, overloaded, fitting]


def test_the_slots_cliff_is_always_in_the_subset() -> None:
    cliff = run(n_adapters=CLIFF[0], rates="0.1, 0.05, 0.025", dur=3600.0)
    small = run(n_adapters=16, dur=10.0, rps=6.5)
    assert cliff in subset([cliff, small])


@needs_runs
def test_the_table_has_384_runs_that_can_be_rebuilt_each_told_from_the_others() -> None:
    found = every_case(RUNS_CSV)
    assert len(found) == len({(case.set, case.row.words) for case in found}) == 384
    names = list(sets_of(rated_rows(RUNS_CSV)).values())
    assert [names.count(f"vllm-lora-h100-{model}-fit") for model in ("8b", "7b")] == [14, 11]


@needs_runs
def test_the_subset_is_small_and_lacks_no_number_of_slots_of_llama_3() -> None:
    chosen = [case.row for case in cases(RUNS_CSV)]
    assert sum(row.arrivals for row in chosen) < 220_000
    slots = {row.slots for row in chosen if row.server.set == "vllm-lora-h100-8b"}
    assert slots == {8, 16, 32, 64, 96, 128, 160, 192}


@needs_runs
@pytest.mark.parametrize(("adapters", "slots"), [(8, 8), (32, 16)])
def test_a_lightly_loaded_server_of_the_table_is_met(adapters: int, slots: int) -> None:
    """A run of an hour with few requests, which no coefficient was fitted on."""
    runs = [case for case in cases(RUNS_CSV) if (case.row.n_adapters, case.row.slots) == (adapters, slots)]
    by_metric = {measure.metric: measure for measure in runs[0].measures()}
    assert {measure.region for measure in by_metric.values()} == {REGIONS[0]}
    assert abs(by_metric["ttft_p50"].relative_error) < 0.15
    assert abs(by_metric["ttft_p99"].relative_error) < 0.30
    assert abs(by_metric["tpot_mean"].relative_error) < 0.10


# --- step times -------------------------------------------------------------------------------------------------------


def test_as_many_adapters_as_requests_leave_some_of_them_without_one() -> None:
    assert expected_distinct(1, 50) == 1
    assert expected_distinct(2, 2) == pytest.approx(1.5)
    assert expected_distinct(0, 50) == 0


def test_a_step_between_two_numbers_of_adapters_lies_between_their_times() -> None:
    one, two, both = (step_s(micro(batch=batch, active_adapters=n)) for batch, n in ((2, 1), (200, 2), (2, 2)))
    assert one < both < two


def test_without_lora_slots_and_adapters_cost_nothing() -> None:
    off, on = micro(max_loras=0, max_rank=0, active_adapters=0), micro(active_adapters=0)
    slots_s = 0.89e-9 * kernel_blocks(load_model("llama-3.1-8b"), Slots(16, on.max_rank, ALL_MODULES), on.batch)
    assert step_s(on) - step_s(off) == pytest.approx(1.29e-3 + slots_s, rel=1e-6)


def test_a_step_time_is_measured_in_milliseconds_and_a_failed_run_gives_none() -> None:
    (measure,) = MicroCase(micro()).measures()
    assert measure.simulated == pytest.approx(1e3 * step_s(micro()))
    assert (measure.set, measure.metric, measure.measured) == ("vllm-h100-microbench-fit", "itl_ms", 13.2)
    assert MicroCase(micro(model="qwen")).measures()[0].set == "vllm-h100-microbench"
    assert MicroCase(micro(itl_ms=None)).measures() == []


@needs_micro
@pytest.mark.parametrize(
    ("model", "kind", "error"),
    [
        ("llama", "slots_batch1", 0.01), ("llama", "nolora_decode", 0.04), ("llama", "overhead_lora", 0.015),
        ("qwen", "slots_batch1", 0.04), ("qwen", "overhead_lora", 0.05),
    ],
)  # fmt: skip
def test_decode_steps_take_the_published_times(model: str, kind: str, error: float) -> None:
    def mean_error(measures: list[Measure]) -> float:
        return sum(abs(measure.relative_error) for measure in measures) / len(measures)

    rows = [case for case in micro_cases(MICRO_CSV) if (case.row.model, case.row.set) == (model, kind)]
    assert mean_error([measure for case in rows for measure in case.measures()]) < error


def test_tokens_that_a_stall_hands_out_as_one_make_the_mean_gap_longer_than_the_time_per_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_stalls, "READ_EVERY_S", 0.5)
    monkeypatch.setattr(vllm_stalls, "SERIES_S", 0.02)
    held_up = answered(server(run()), tiny([0.0, 1.0, 2.0], [100, 100, 100]), 60.0)
    monkeypatch.setattr(vllm_stalls, "SERIES_S", 0.0)
    free = answered(server(run()), tiny([0.0, 1.0, 2.0], [100, 100, 100]), 60.0)
    assert free.itl_mean_s == pytest.approx(free.tpot_s.mean(), rel=1e-3)
    assert held_up.itl_mean_s > 1.02 * held_up.tpot_s.mean()
    assert held_up.itl_p99_s > free.itl_p99_s


def test_first_loads_of_llama_2_s_servers_take_what_was_fitted() -> None:
    assert server(run(**LLAMA_2)).config.loading.disk_latency_s == 0.187
    assert server(run(**LLAMA_2)).config.costs.prefill_launch_s == 0.02737
