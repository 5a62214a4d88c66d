"""Tables, summary, verdict and report of a run, on worlds filled in by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

import sim
from policies.base import Batch, Request
from policies.scheduling import FCFS
from sim.results.frames import adapters_frame, p99_over_time, requests_frame, timeseries_frame
from sim.results.result import Result, Run, vllm_style_report
from sim.results.stability import stability
from sim.results.summary import Summary, summarise
from sim.serving.records import NEVER, REQUEST_COLUMNS, SOURCES, Records
from sim.trace import AdapterSpec, Trace

S = 10**12
SIZES = (7, 1000, 4000)
COLUMNS = [
    "request_id",
    "trace_line",
    "adapter_id",
    "adapter_rank",
    "adapter_bytes",
    "tenant",
    "slo_class",
    "replica",
    "prompt_tokens",
    "output_tokens",
    "predicted_output_tokens",
    "wrs",
    "queue_id",
    "arrival_s",
    "send_s",
    "admitted_s",
    "adapter_ready_s",
    "first_token_s",
    "finish_s",
    "ttft_s",
    "tpot_s",
    "e2el_s",
    "itl_max_s",
    "client_queue_time_s",
    "isolated_s",
    "queue_s",
    "adapter_wait_s",
    "prefill_s",
    "preempt_s",
    "overhead_s",
    "adapter_source",
    "adapter_load_s",
    "adapter_load_bytes",
    "pcie_wait_s",
    "n_preempt",
    "n_bypassed",
    "n_iterations",
    "mean_batch",
    "status",
    "error",
    "slo_ok",
]


def add_request(records: Records, request: int, columns: dict[str, int], source: str = "none") -> None:
    instants = ("admitted", "ready", "prefill_start", "first_token", "finish", "first_segment", "last_segment")
    row = dict.fromkeys(REQUEST_COLUMNS, 0) | dict.fromkeys(instants, NEVER)
    row |= {"request": request, "source": SOURCES.index(source)} | columns
    records.requests.add(row.values())


def tiny() -> Run:
    """Four requests: base model; an adapter that loads; one rejected; one that arrives after the end."""
    trace = Trace(
        "tiny",
        np.array([0.0, 1.0, 2.0, 99.0]),
        np.array([10, 20, 30, 40]),
        np.array([3, 2, 5, 6]),
        (None, AdapterSpec("small", 8), AdapterSpec("large", 32)),
        np.array([0, 1, 2, 2]),
    )
    records = Records()
    base = {"arrival": 0, "admitted": 0, "ready": 0, "prefill_start": 0, "first_token": S, "finish": 7 * S}
    base |= {"steps": 2, "batch_sum": 3, "first_segment": 0, "last_segment": 1}
    add_request(records, 0, base)
    loads = {
        "arrival": S,
        "admitted": 2 * S,
        "ready": 4 * S,
        "prefill_start": 4 * S,
        "first_token": 5 * S,
        "finish": 7 * S,
    }
    loads |= {"load": 3 * S // 2, "load_bytes": 1000, "link_wait": S // 2}
    loads |= {"bypassed": 1, "lane": 2, "weight_ppm": 1_500_000}
    loads |= {"steps": 1, "batch_sum": 2, "first_segment": 1, "last_segment": 1}
    add_request(records, 1, loads, "host")
    records.rejections[2] = "too long"
    records.prefills.add((0, S, 1, 10))
    records.prefills.add((4 * S, S, 1, 20))
    records.segments.add((S, S, 0, 1, 1, 11))
    records.segments.add((5 * S, 2 * S, 0, 1, 2, 33))
    records.gaps.add((S, 1))
    records.gaps.add((5 * S, 1))
    records.gaps.add((2 * S, 1))
    records.transfers.add((2 * S, 5 * S // 2, 4 * S, 1, 1000, 0))
    records.transfers.add((4 * S, 4 * S, 8 * S, 2, 4000, 1))
    records.memory.add((2 * S, 1000, 1000, 1))
    records.memory.add((4 * S, 5000, 1000, 2))
    records.memory.add((7 * S, 4000, 0, 1))
    records.evictions.add((7 * S, 1))
    records.stalls.add((2 * S, 2 * S))
    records.input_waits.add((5 * S, S))
    records.end = 8 * S
    return Run(
        trace, (records,), SIZES, np.array([3, 3, 3, 3]), "fifo", "a40", "llama", 1, kv_token_bytes=2, ttft_slo_s=2.0
    )


def table(run: Run, ttft_slo_s: float | None = None) -> pd.DataFrame:
    return requests_frame(replace(run, ttft_slo_s=ttft_slo_s))


def test_the_requests_table_has_the_columns_of_the_file_in_order() -> None:
    assert list(table(tiny()).columns) == COLUMNS


def test_the_types_of_the_requests_table_are_those_of_the_file() -> None:
    types = table(tiny()).dtypes
    assert {types[name] for name in ("prompt_tokens", "output_tokens", "predicted_output_tokens")} == {
        np.dtype("int32")
    }
    assert [str(types[name]) for name in ("request_id", "adapter_rank", "replica", "adapter_bytes")] == [
        "int64",
        "int16",
        "Int16",
        "int64",
    ]
    assert {types[name] for name in COLUMNS if name.endswith("_s")} == {np.dtype("float64")}


def test_a_served_request_shows_where_its_time_went() -> None:
    row = table(tiny()).loc[1]
    assert [row[name] for name in ("adapter_id", "adapter_source", "status")] == ["small", "host", "ok"]
    assert [row[f"{part}_s"] for part in ("queue", "adapter_wait", "prefill", "preempt", "overhead", "ttft")] == [
        1.0,
        2.0,
        1.0,
        0.0,
        0.0,
        4.0,
    ]
    assert (row["tpot_s"], row["e2el_s"], row["itl_max_s"]) == (2.0, 6.0, 2.0)
    assert (row["wrs"], row["queue_id"], row["n_bypassed"], row["mean_batch"]) == (1.5, 2, 1, 2.0)
    assert (row["adapter_load_s"], row["pcie_wait_s"], row["adapter_load_bytes"]) == (1.5, 0.5, 1000)


def test_the_base_model_has_no_adapter_and_no_bytes() -> None:
    row = table(tiny()).loc[0]
    assert pd.isna(row["adapter_id"])
    assert (row["adapter_rank"], row["adapter_bytes"], row["adapter_source"]) == (0, 0, "none")


def test_a_request_of_which_nothing_is_known_has_identity_workload_and_arrival_only() -> None:
    row = table(tiny()).loc[3].dropna()
    known = {"request_id", "adapter_id", "adapter_rank", "adapter_bytes", "prompt_tokens", "output_tokens"}
    counts = {"adapter_load_bytes", "n_preempt", "n_bypassed", "n_iterations"}
    assert set(row.index) == known | counts | {"predicted_output_tokens", "arrival_s", "status"}
    assert (row["status"], row["arrival_s"]) == ("unfinished", 99.0)
    assert not row[sorted(counts)].any()


def test_a_rejected_request_carries_its_reason() -> None:
    row = table(tiny()).loc[2]
    assert (row["status"], row["error"], row["replica"]) == ("rejected", "too long", 0)


def test_only_completed_requests_in_time_meet_the_objective() -> None:
    assert table(tiny(), ttft_slo_s=2.0)["slo_ok"].tolist() == [True, False, False, False]


def test_without_an_objective_nothing_is_judged() -> None:
    assert table(tiny())["slo_ok"].isna().all()


def test_each_request_names_its_replica() -> None:
    run = tiny()
    second = Records()
    add_request(second, 3, {"arrival": 99 * S})
    frame = requests_frame(replace(run, records=(*run.records, second)))
    assert frame["replica"].fillna(-1).tolist() == [0, 0, 0, 1]


def test_the_adapters_table_counts_requests_transfers_and_stays() -> None:
    run = tiny()
    frame = adapters_frame(run.trace, run.records, SIZES).set_index("adapter_id")
    small, large = frame.loc["small"], frame.loc["large"]
    assert list(frame.index) == ["small", "large"]
    assert [small[name] for name in ("rank", "bytes", "requests", "hits", "misses", "loads")] == [8, 1000, 1, 0, 1, 1]
    assert (small["resident_s"], small["evictions"], small["p50_ttft_s"], small["traffic_share"]) == (3.0, 1, 4.0, 0.25)
    assert (large["prefetches"], large["bytes_loaded"], large["loads"], large["resident_s"]) == (1, 4000, 0, 0.0)
    assert pd.isna(large["p99_ttft_s"])


def test_an_adapter_that_came_and_went_twice_was_resident_for_both_stays() -> None:
    run = tiny()
    records = Records()
    for start in (0, 10, 20):
        records.transfers.add((start * S, start * S, (start + 1) * S, 1, 1, 0))
    records.evictions.add((3 * S, 1))
    records.evictions.add((15 * S, 1))
    records.end = 30 * S
    assert adapters_frame(run.trace, [records], SIZES)["resident_s"].tolist() == [2 + 4 + 9, 0]


def test_the_timeseries_tells_the_state_at_each_instant_and_the_rates_before_it() -> None:
    run = tiny()
    frame = timeseries_frame(run.trace, run.records, step_s=2.0, kv_token_bytes=2)
    assert frame["t_s"].tolist() == [2.0, 4.0, 6.0, 8.0]
    assert frame["running"].tolist() == [2, 2, 2, 0]
    assert frame["waiting"].tolist() == [0, 0, 0, 0]
    assert frame["kv_tokens"].tolist() == [11, 11 + 20, 33, 0]
    assert frame["kv_bytes"].tolist() == [22, 62, 66, 0]
    assert frame["adapter_bytes_inuse"].tolist() == [1000, 1000, 1000, 0]
    assert frame["adapter_bytes_idle"].tolist() == [0, 4000, 4000, 4000]
    assert frame["n_adapters_resident"].tolist() == [1, 2, 2, 1]
    assert frame["pcie_busy"].tolist() == [0.0, 0.75, 1.0, 1.0]
    assert frame["tokens_per_s"].tolist() == [1.0, 0.0, 0.5, 1.0]


def test_a_request_waits_from_its_arrival_to_its_admission() -> None:
    run = tiny()
    frame = timeseries_frame(run.trace, run.records, step_s=0.5)
    waiting = frame.set_index("t_s")["waiting"]
    assert waiting[waiting > 0].index.tolist() == [1.0, 1.5]


def test_a_timeseries_needs_a_positive_step() -> None:
    with pytest.raises(ValueError, match="step_s must be at least"):
        timeseries_frame(tiny().trace, [Records()], step_s=0.0)


def decoded(pieces: Sequence[tuple[int, int, int, int]], cuts: Sequence[int]) -> Run:
    """A run of decode segments over two requests that never change, each segment cut into pieces of `cuts` steps."""
    records = Records()
    rows: list[int] = []
    now, context = S, 12
    for (pause, first, growth, count), size in zip(pieces, cuts, strict=True):
        now += pause
        for begin in range(0, count, size):
            steps, start = min(size, count - begin), first + begin * growth
            records.segments.add((now, start, growth, steps, 2, context))
            records.gaps.add((start + (pause if begin == 0 else 0), 2))
            now += steps * start + growth * steps * (steps - 1) // 2
            context += 2 * steps
        rows.append(len(records.segments) - 1)
    steps = sum(piece[3] for piece in pieces)
    instants = {"admitted": 0, "ready": 0, "prefill_start": 0, "first_token": S, "finish": now}
    for request in (0, 1):
        add_request(records, request, instants | {"first_segment": 0, "last_segment": rows[-1], "steps": steps})
    records.end = now
    n = np.array([steps + 1, steps + 1])
    trace = Trace("t", np.zeros(2), np.array([5, 5]), n, (AdapterSpec("a", 8),), np.zeros(2, dtype=np.int64))
    return Run(trace, (records,), [1], n, "fifo", "a40", "llama", 1)


ticks = st.integers(1, S)
piece = st.tuples(st.integers(0, S), ticks, st.integers(0, S // 100), st.integers(1, 9))


@settings(max_examples=30, deadline=None)
@given(st.lists(piece, min_size=1, max_size=5), st.data())
def test_no_result_depends_on_how_decode_runs_were_cut(
    pieces: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    # A pause is a prefill of others: without one, two segments differ only in their step time.
    cuts = [data.draw(st.integers(1, count)) for *_, count in pieces]
    whole, cut = (Result(decoded(pieces, sizes), timeseries_step_s=0.37) for sizes in ([9] * len(pieces), cuts))
    assert_frame_equal(whole.requests, cut.requests, check_exact=True)
    assert_frame_equal(whole.timeseries, cut.timeseries, check_exact=True)
    assert whole.summary == cut.summary


def test_p99_over_time_looks_at_windows_of_arrival_and_tells_n() -> None:
    requests = pd.DataFrame({"arrival_s": [0.0, 49.0, 120.0, 130.0], "ttft_s": [1.0, 3.0, 5.0, math.nan]})
    frame = p99_over_time(requests, window_s=50)
    assert frame["t_s"].tolist() == [0.0, 50.0, 100.0]
    assert frame["n"].tolist() == [2, 0, 1]
    assert frame["p99_ttft_s"].fillna(-1).tolist() == [np.percentile([1.0, 3.0], 99), -1, 5.0]


def test_the_summary_counts_every_offered_request_once() -> None:
    assert summarise(tiny())["requests"] == {"offered": 4, "completed": 2, "rejected": 1, "unfinished": 1}


def test_the_summary_s_latencies_are_over_completed_requests_in_ms() -> None:
    metrics = summarise(tiny())["metrics"]
    assert list(metrics) == ["ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"]
    assert (metrics["ttft_ms"]["mean"], metrics["ttft_ms"]["n"], metrics["ttft_ms"]["unit"]) == (2500.0, 2, "ms")
    assert (metrics["itl_ms"]["n"], metrics["itl_ms"]["p50"], metrics["itl_ms"]["mean"]) == (3, 2000.0, 8000 / 3)


def test_the_breakdown_adds_up_to_the_mean_ttft() -> None:
    summary = summarise(tiny())
    assert summary["ttft_breakdown_ms"]["adapter_wait"] == 1000.0
    assert sum(summary["ttft_breakdown_ms"].values()) == summary["metrics"]["ttft_ms"]["mean"]


def test_the_summary_has_a_row_per_rank_and_the_base_model_is_rank_zero() -> None:
    base, small, large = summarise(tiny())["by_rank"]
    assert base == {"rank": 0, "n": 1, "ttft_p50_ms": 1000.0, "ttft_p99_ms": 1000.0, "hit_rate": None}
    assert (small["rank"], small["ttft_p99_ms"], small["hit_rate"]) == (8, 4000.0, 0.0)
    assert large == {"rank": 32, "n": 0, "ttft_p50_ms": None, "ttft_p99_ms": None, "hit_rate": None}


@pytest.mark.parametrize(
    ("source", "rate"), [("gpu", 1.0), ("prefetched", 1.0), ("inflight", 0.0), ("host", 0.0), ("none", None)]
)
def test_a_hit_is_an_adapter_resident_at_admission(source: str, rate: float | None) -> None:
    run = decoded([(0, S, 0, 1)], [1])
    records = Records()
    add_request(records, 0, {"admitted": 0}, source)
    add_request(records, 1, {}, "host")  # never admitted: neither hit nor miss
    assert (
        summarise(Run(run.trace, (records,), [1], run.predicted_tokens, "", "", "", 0))["adapters"]["hit_rate"] == rate
    )


def test_the_summary_counts_what_link_and_engine_did() -> None:
    summary = summarise(tiny())
    assert summary["link"] == {"utilisation": 5.5 / 8, "busy_s": 5.5, "bytes": 5000}
    counts = ("loads", "prefetches", "evictions", "bytes_loaded")
    assert [summary["adapters"][name] for name in counts] == [1, 1, 1, 5000]
    iterations = summary["iterations"]
    assert [iterations[name] for name in ("prefill", "prefill_s", "prefill_tokens")] == [2, 2.0, 30]
    assert [iterations[name] for name in ("decode", "decode_s", "decode_tokens", "mean_batch")] == [2, 3.0, 3, 1.5]
    assert iterations["stall_s"] == 2.0
    assert (iterations["input_waits"], iterations["input_wait_s"]) == (1, 1.0)


def test_throughput_is_over_the_time_from_first_request_to_last_completion() -> None:
    throughput = summarise(tiny())["throughput"]
    assert throughput["duration_s"] == 7.0
    assert (throughput["requests_per_s"], throughput["output_tokens_per_s"]) == (2 / 7, 5 / 7)


def test_attainment_is_the_share_of_offered_requests() -> None:
    assert summarise(tiny())["slo"] == {"ttft_s": 2.0, "attainment": 0.25}


def test_a_summary_without_a_completed_request_is_null_and_valid_json() -> None:
    run = tiny()
    summary = summarise(Run(run.trace, (Records(),), SIZES, run.predicted_tokens, "fifo", "a40", "llama", 1))
    assert json.loads(json.dumps(summary, allow_nan=False))["metrics"]["ttft_ms"]["p99"] is None
    assert summary["throughput"]["requests_per_s"] is None


def test_a_summary_of_no_requests_is_valid_json() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    trace = Trace("none", np.zeros(0), nothing, nothing, (), nothing)
    summary = summarise(Run(trace, (Records(),), (), nothing, "fifo", "a40", "llama", 1))
    assert json.loads(json.dumps(summary, allow_nan=False))["requests"]["offered"] == 0


def queue(arrival_s: np.ndarray, service_s: np.ndarray) -> Summary:
    """The verdict on a single server's queue (Lindley's recursion)."""
    work = np.cumsum(service_s)
    finish = np.maximum.accumulate(arrival_s - (work - service_s)) + work
    return stability(arrival_s, finish - service_s, float(finish[-1]))


@pytest.mark.parametrize(
    ("load", "verdict"), [(0.5, "stable"), (0.9, "stable"), (1.1, "overloaded"), (3.0, "overloaded")]
)
def test_a_queue_is_overloaded_when_work_comes_faster_than_it_goes(load: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    arrival_s = np.cumsum(rng.exponential(1.0, 5000))
    assert queue(arrival_s, np.full(5000, load))["verdict"] == verdict


def test_a_queue_that_a_burst_left_behind_is_backlogged_not_overloaded() -> None:
    arrival_s = np.concatenate((np.zeros(500), np.linspace(1, 1000, 500)))
    assert queue(arrival_s, np.full(1000, 0.9))["verdict"] == "backlogged"


def test_a_queue_that_grows_but_empties_in_time_is_backlogged() -> None:
    sent = np.arange(2000.0) * 0.5
    delay = np.arange(2000.0) * 0.0075  # up to 1.5 % of the span: neither late nor deep
    verdict = stability(sent, sent + delay, 1020.0)
    assert verdict["trend_z"] > 2.33
    assert verdict["verdict"] == "backlogged"


def test_a_deep_queue_that_grows_little_is_backlogged_not_overloaded() -> None:
    arrival_s = np.concatenate((np.zeros(500), np.linspace(1, 1000, 1050)))
    verdict = queue(arrival_s, np.full(1550, 1.0))
    assert verdict["trend_z"] > 2.33
    assert verdict["verdict"] == "backlogged"


def test_a_queue_that_was_deep_and_drained_is_backlogged() -> None:
    arrival_s = np.concatenate((np.zeros(200), np.linspace(1, 1000, 500)))
    assert queue(arrival_s, np.full(700, 0.5))["verdict"] == "backlogged"


def test_requests_that_are_never_admitted_overload_a_queue() -> None:
    arrival_s = np.arange(100.0)
    admitted_s = np.where(arrival_s < 50, arrival_s * 1.5, math.nan)
    verdict = stability(arrival_s, admitted_s, end_s=99.0)
    assert (verdict["verdict"], verdict["never_admitted"]) == ("overloaded", 50)


def test_requests_that_all_came_at_once_are_a_backlog() -> None:
    assert stability(np.zeros(9), np.arange(9.0), 9.0)["verdict"] == "backlogged"


def test_one_request_is_no_queue_however_long_it_waits() -> None:
    assert stability(np.zeros(1), np.full(1, 3.0), 9.0)["verdict"] == "stable"


def test_the_verdict_gives_its_numbers() -> None:
    verdict = stability(np.array([0.0, 8.0]), np.array([2.0, 9.0]), 9.0)
    assert (verdict["drain_s"], verdict["span_s"], verdict["backlog_first_half"]) == (1.0, 8.0, 0.5)
    assert "emptied 1 s later" in verdict["reason"]


def test_a_result_shows_itself_in_one_line_with_n_beside_the_p99() -> None:
    shown = repr(Result(tiny()))
    assert shown == (
        "<Result fifo on tiny: 2 of 4 requests, TTFT P50 2500 ms P99 3970 ms (n=2), hit rate 0, overloaded>"
    ).replace("overloaded", summarise(tiny())["stability"]["verdict"])


def test_a_result_builds_each_table_once() -> None:
    result = Result(tiny())
    assert result.requests is result.requests
    assert result.timeseries is result.timeseries
    assert result.adapters is result.adapters


def test_a_result_judges_by_its_own_objective() -> None:
    assert Result(tiny()).requests["slo_ok"].tolist() == [True, False, False, False]


def test_saving_a_result_twice_gives_the_same_bytes_but_for_the_dated_files(tmp_path: Path) -> None:
    first, second = (Result(tiny(), {"seed": 1}).save(tmp_path / name) for name in "ab")
    for name in ("config.yaml", "summary.json", "requests.parquet", "adapters.parquet", "timeseries.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_report_uses_vllm_s_labels_and_columns() -> None:
    lines = vllm_style_report(summarise(tiny())).splitlines()
    assert f"{'Successful requests:':<40} {2:<10}" in lines
    assert f"{'P99 TTFT (ms):':<40} {3970.0:<10.2f}" in lines
    assert f"{'Request throughput (req/s):':<40} {2 / 7:<10.2f}" in lines
    assert f"{'Adapter hit rate (%):':<40} {0.0:<10.2f}" in lines


def test_the_report_shows_nan_for_what_was_not_measured() -> None:
    run = tiny()
    empty = summarise(Run(run.trace, (Records(),), SIZES, run.predicted_tokens, "fifo", "a40", "llama", 1))
    assert f"{'Mean TPOT (ms):':<40} {'nan':<10}" in vllm_style_report(empty).splitlines()


def test_the_report_tells_how_often_requests_were_stopped_if_they_were() -> None:
    calm = sim.run("fastserve", "paper", rate=2, requests=20)
    assert "stopped" not in vllm_style_report(calm.summary)
    busy = sim.run("fastserve", "paper", rate=12, requests=60, changes="memory.kv_pool_tokens=3000")
    assert busy.summary["preemption"]["stops"] > 0
    assert f"Times that requests were stopped:        {busy.summary['preemption']['stops']}" in vllm_style_report(
        busy.summary
    )


def test_requests_that_were_stopped_count_as_waiting_to_their_end() -> None:
    overloaded = sim.run("fastserve", "paper", rate=12, requests=400, changes="memory.kv_pool_tokens=3000")
    assert overloaded.summary["stability"]["verdict"] != "stable"
    assert overloaded.summary["stability"]["drain_s"] > 10


def test_a_trace_of_ones_own_is_used_as_it_is_or_refused() -> None:
    trace = sim.run("slora", requests=5).run.trace
    with pytest.raises(ValueError, match="a Trace is used as it is: rate, scale would change nothing"):
        sim.run("slora", trace=trace, rate=3, scale=2)
    assert len(sim.run("slora", trace=trace).requests) == 5


def test_late_requests_are_no_backlog_where_hardly_anybody_waits() -> None:
    result = sim.run(system="chameleon", workload="azure-conv", rate=1, requests=500, seed=0)
    numbers = result.summary["stability"]
    assert numbers["backlog_last_quarter"] > 2 * numbers["backlog_first_half"]
    assert numbers["verdict"] == "stable"


def test_a_burst_at_the_end_that_many_still_wait_of_is_no_stable_queue() -> None:
    arrival_s = np.concatenate([np.arange(1000.0), np.full(50, 999.9)])
    assert queue(arrival_s, np.concatenate([np.full(1000, 0.5), np.full(50, 2.0)]))["verdict"] == "backlogged"


def test_what_requests_waited_at_their_client_stands_in_the_summary() -> None:
    waited = sim.run("slora", requests=40, rate=50, changes="client.max_concurrency=2").summary["client"]
    assert waited["max_wait_s"] > waited["mean_wait_s"] > 0
    assert sim.run("slora", requests=40, rate=50).summary["client"] == {"mean_wait_s": 0.0, "max_wait_s": 0.0}


class TurnsAway(FCFS):
    """Serves nobody."""

    name = "turns-away"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for request in list(waiting):
            batch.abort(request, "closed")


def test_where_all_were_turned_away_throughput_is_nothing_over_the_time_that_they_took_to_come() -> None:
    result = sim.run("slora", requests=50, rate=5, scheduler=TurnsAway)
    throughput = result.summary["throughput"]
    arrival_s = result.run.trace.arrival_s
    assert throughput["duration_s"] == pytest.approx(arrival_s[-1] - arrival_s[0])
    assert throughput["requests_per_s"] == 0
