"""`vllm_bench.json` has vLLM's keys, order and meanings, so that readers of that format need no change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.results.result import Result, Run
from sim.results.summary import summarise
from sim.results.vllm_bench import BenchMeta, goodput, vllm_bench
from sim.serving.records import NEVER, REQUEST_COLUMNS, SOURCES, Records
from sim.trace import AdapterSpec, Trace

S = 10**12
META = BenchMeta(date="20250131-120000")
HEAD = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "simulated",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
]
WORDS = ("mean", "median", "std", "p50", "p90", "p95", "p99", "p99.9")
LATENCIES = [f"{word}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for word in WORDS]
ARRAYS = [
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "errors",
    "generated_texts",
]
TAIL = [
    "slo_attainment",
    "slo_attainment_by_metric",
    "goodput_slos_ms",
    "lora_names",
    "lora_ranks",
    "sim",
]


def tiny() -> Run:
    """Two completed requests that decode together, the second sent late; one rejected; adapter traffic."""
    trace = Trace(
        "tiny",
        np.array([1.0, 1.25, 2.0]),
        np.array([10, 20, 30]),
        np.array([3, 2, 5]),
        (None, AdapterSpec("small", 8)),
        np.array([1, 0, 1]),
    )
    records = Records()
    rows = (
        {
            "request": 0,
            "arrival": S,
            "first_token": 2 * S,
            "finish": 5 * S,
            "source": SOURCES.index("gpu"),
            "first_segment": 0,
            "last_segment": 1,
        },
        {
            "request": 1,
            "arrival": 3 * S // 2,
            "first_token": 3 * S,
            "finish": 4 * S,
            "first_segment": 0,
            "last_segment": 0,
        },
    )
    for row in rows:
        instants = {"admitted": row["arrival"], "ready": row["arrival"], "prefill_start": row["arrival"]}
        records.requests.add((dict.fromkeys(REQUEST_COLUMNS, 0) | instants | row).values())
    records.rejections[2] = "too long"
    records.segments.add((3 * S, S, 0, 1, 2, 32))
    records.segments.add((4 * S, S, 0, 1, 1, 12))
    records.gaps.add((2 * S, 1))
    records.gaps.add((S, 1))
    records.gaps.add((S, 1))
    for half, kind in ((2, 0), (4, 1), (6, 0)):  # two loads on demand and a prefetch, of half a second each
        start = half * S // 2
        records.transfers.add((start, start, start + S // 2, 1, 1000, kind))
        records.evictions.add((start + 3 * S // 4, 1))
    records.end = 5 * S
    return Run(trace, (records,), (0, 1000), np.array([3, 3, 3]), "fifo", "a40", "llama", 7, link_copies=2.0)


def bench(meta: BenchMeta = META, *, detailed: bool = False) -> dict[str, Any]:
    run = tiny()
    return vllm_bench(run, summarise(run), meta, detailed=detailed)


def read_as_vllm(text: str) -> dict[str, float]:
    """A reader written to vLLM's format: recompute the aggregates from the arrays, leaving failed requests out."""
    data = json.loads(text)
    ok = [i for i, error in enumerate(data["errors"]) if not error and data["output_lens"][i]]
    assert len(ok) == data["completed"]
    for i in ok:
        assert data["ttfts"][i] + sum(data["itls"][i]) == data["latencies"][i]
        assert len(data["itls"][i]) == data["output_lens"][i] - 1
    tpots = [(data["latencies"][i] - data["ttfts"][i]) / (data["output_lens"][i] - 1) for i in ok]
    return {
        "mean_ttft_ms": float(np.mean([data["ttfts"][i] for i in ok])) * 1e3,
        "p99_ttft_ms": float(np.percentile([data["ttfts"][i] for i in ok], 99)) * 1e3,
        "median_tpot_ms": float(np.median(tpots)) * 1e3,
        "p99.9_itl_ms": float(np.percentile([gap for i in ok for gap in data["itls"][i]], 99.9)) * 1e3,
        "std_e2el_ms": float(np.std([data["latencies"][i] for i in ok])) * 1e3,
        "total_output_tokens": sum(data["output_lens"]),
        "request_throughput": len(ok) / data["duration"],
    }


def test_the_keys_are_vllm_s_in_order() -> None:
    assert list(bench()) == HEAD + LATENCIES + TAIL


def test_the_detailed_arrays_come_after_the_latencies() -> None:
    assert list(bench(detailed=True)) == HEAD + LATENCIES + ARRAYS + TAIL


def test_a_reader_of_vllm_s_format_finds_the_aggregates_it_recomputes() -> None:
    text = json.dumps(bench(detailed=True), allow_nan=False)
    for name, value in read_as_vllm(text).items():
        assert value == pytest.approx(json.loads(text)[name]), name


def test_the_file_says_that_it_is_simulated_and_when() -> None:
    found = bench()
    assert (found["backend"], found["simulated"], found["date"]) == ("sim", True, "20250131-120000")
    assert (found["label"], found["model_id"], found["num_prompts"]) == ("fifo", "llama", 3)


@pytest.mark.parametrize(("rate", "written"), [(8.0, 8.0), (float("inf"), "inf")])
def test_an_infinite_rate_is_written_as_a_word(rate: float, written: float | str) -> None:
    assert bench(BenchMeta(date="", request_rate=rate))["request_rate"] == written


def test_counts_and_rates_are_over_completed_requests() -> None:
    found = bench()
    assert (found["completed"], found["failed"], found["duration"]) == (2, 1, 4.0)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (30, 5)
    assert (found["request_throughput"], found["total_token_throughput"]) == (0.5, 35 / 4)


def test_the_peaks_are_over_whole_seconds_from_the_first_request() -> None:
    # Tokens at 1 s, 2 s, 3 s (two of them) and 4 s after the first request; both requests are under way until 3 s.
    found = bench()
    assert (found["max_output_tokens_per_s"], found["max_concurrent_requests"]) == (2.0, 2)


def test_a_second_begins_with_its_first_instant() -> None:
    run, records = tiny(), Records()
    for request, first_token in ((0, 3 * S), (1, 7 * S // 2)):  # 2 s and 2.5 s after the first request
        row = {"request": request, "arrival": S, "first_token": first_token, "finish": first_token}
        never = {"first_segment": NEVER, "last_segment": NEVER}
        records.requests.add((dict.fromkeys(REQUEST_COLUMNS, 0) | never | row).values())
    single = Run(run.trace, (records,), (0, 1000), run.predicted_tokens, "fifo", "a40", "llama", 7)
    assert vllm_bench(single, summarise(single), META)["max_output_tokens_per_s"] == 2.0


def test_requests_wait_at_their_client_from_their_arrival_to_their_sending() -> None:
    found = bench(detailed=True)
    assert found["start_times"] == [1.0, 1.5, 2.0]
    assert found["queue_times"] == [0.0, 0.25, 0.0]


def test_requests_that_were_not_completed_are_zeros_with_a_reason() -> None:
    found = bench(detailed=True)
    assert (found["output_lens"][2], found["ttfts"][2], found["itls"][2]) == (0, 0.0, [])
    assert found["errors"] == ["", "", "too long"]


def test_the_gaps_of_a_stopped_request_are_left_empty() -> None:
    run = tiny()
    shorter = Trace(
        "t", run.trace.arrival_s, run.trace.prompt_tokens, np.array([2, 2, 5]), run.trace.palette, run.trace.adapter
    )
    stopped = Run(shorter, run.records, (0, 1000), run.predicted_tokens, "fifo", "a40", "llama", 7)
    found = vllm_bench(stopped, summarise(stopped), META, detailed=True)
    assert found["itls"] == [[], [1.0], []]
    assert found["sim"]["itls_missing"] == 1


def test_the_gaps_of_all_completed_requests_are_there_where_none_was_stopped() -> None:
    assert bench(detailed=True)["sim"]["itls_missing"] == 0


def test_intervals_that_were_wanted_are_told() -> None:
    run = tiny()
    summary = summarise(run) | {"bootstrap": {"ttft_ms": {"p99": 1.0}}}
    assert vllm_bench(run, summary, META)["sim"]["ci"] == {"ttft_ms": {"p99": 1.0}}


def test_a_request_without_decode_steps_has_no_gaps() -> None:
    run = tiny()
    records = Records()
    unmeasured = {"first_segment": NEVER, "last_segment": NEVER, "first_token": 2 * S, "finish": 2 * S}
    records.requests.add((dict.fromkeys(REQUEST_COLUMNS, 0) | unmeasured).values())
    single = Run(run.trace, (records,), (0, 1000), run.predicted_tokens, "fifo", "a40", "llama", 7)
    assert vllm_bench(single, summarise(single), META, detailed=True)["itls"] == [[], [], []]


def test_every_request_names_its_adapter_and_the_base_model_is_null() -> None:
    assert bench()["lora_names"] == ["small", None, "small"]
    assert bench()["lora_ranks"] == [8, 0, 8]


def test_without_objectives_there_is_no_goodput() -> None:
    found = bench()
    assert [found[name] for name in ("request_goodput", "slo_attainment", "slo_attainment_by_metric")] == [None] * 3
    assert found["goodput_slos_ms"] is None


def test_a_good_request_meets_every_objective_and_counts_against_all_that_were_sent() -> None:
    found = bench(BenchMeta(date="", slos_ms={"ttft": 1200, "e2el": 2500}))
    assert found["slo_attainment_by_metric"] == {"ttft": 1 / 3, "e2el": 1 / 3}
    assert (found["slo_attainment"], found["request_goodput"]) == (0.0, 0.0)
    assert found["goodput_slos_ms"] == {"ttft": 1200, "e2el": 2500}


def test_one_output_token_meets_any_tpot_objective() -> None:
    run = tiny()
    short = Trace(
        "t", run.trace.arrival_s, run.trace.prompt_tokens, np.array([3, 1, 5]), run.trace.palette, run.trace.adapter
    )
    single = Run(short, run.records, (0, 1000), run.predicted_tokens, "fifo", "a40", "llama", 7)
    found = vllm_bench(single, summarise(single), BenchMeta(date="", slos_ms={"tpot": 0.001}))
    assert found["slo_attainment"] == 1 / 3


def test_an_unknown_objective_is_an_error() -> None:
    with pytest.raises(ValueError, match="one of ttft, tpot, e2el, got itl"):
        BenchMeta(date="", slos_ms={"itl": 5})


def test_what_vllm_does_not_know_is_under_one_key() -> None:
    policy = {"cache": "lru", "scheduler": "fifo"}
    found = bench(BenchMeta(date="", config_hash="abc", policy=policy))["sim"]
    assert list(found) == ["schema_version", "config_hash", "seed", "policy", "lora", "ci"]
    assert found["policy"] == {"cache": "lru", "scheduler": "fifo", "prefetch": None, "params": None}
    assert (found["config_hash"], found["seed"], found["lora"]["num_adapters"]) == ("abc", 7, 1)


def test_what_adapters_did_is_told_in_the_order_of_the_file() -> None:
    assert list(bench()["sim"]["lora"].items()) == [
        ("num_adapters", 1),
        ("hit_rate", 1.0),
        ("loads", 2),
        ("prefetches", 1),
        ("bytes_h2d", 6000),  # every byte goes over the link twice
        ("pcie_utilisation", 1.5 / 4),
        ("evictions", 3),
    ]


def test_a_saved_run_holds_the_file_and_its_date(tmp_path: Path) -> None:
    path = Result(tiny()).save(tmp_path / "run", META, detailed=True)
    assert json.loads((path / "vllm_bench.json").read_text()) == bench(detailed=True)


def test_a_run_saved_without_a_date_gets_one_in_vllm_s_form(tmp_path: Path) -> None:
    path = Result(tiny()).save(tmp_path / "run")
    date = json.loads((path / "vllm_bench.json").read_text())["date"]
    assert len(date) == 15
    assert date.replace("-", "", 1).isdigit()


def test_goodput_alone_is_what_the_file_tells() -> None:
    run, slos_ms = tiny(), {"ttft": 1200.0, "tpot": 5000.0}
    found, file = goodput(run, summarise(run), slos_ms), bench(BenchMeta(date="", slos_ms=slos_ms))
    assert found == {
        "slos_ms": slos_ms,
        "requests_per_s": file["request_goodput"],
        "attainment": file["slo_attainment"],
        "attainment_by_metric": file["slo_attainment_by_metric"],
    }
    assert found["requests_per_s"] == 0.25
