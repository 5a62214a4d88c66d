"""Logs of other tools, each as its tool writes it: units, failed requests, adapters, and errors that say where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_validate.log_formats import FORMATS, SIGNS, TABLES
from gpu_validate.logs import LogError, read_log
from sim.experiments.run import run
from sim.trace import AdapterSpec


def written(path: Path, *objects: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
    return path


def bench(**changes: Any) -> dict[str, Any]:
    """A detailed result of vllm bench serve: three requests, the second of which failed."""
    return {
        "num_prompts": 3,
        "request_rate": 2.0,
        "mean_ttft_ms": 150.0,
        "input_lens": [10, 20, 30],
        "output_lens": [3, 0, 2],
        "ttfts": [0.1, 0.0, 0.2],
        "itls": [[0.01, 0.02], [], [0.05]],
        "start_times": [1000.0, 1000.5, 1001.0],
        "errors": ["", "timeout", ""],
        **changes,
    }


def lifecycle(start: float, adapter: str | None = None, **changes: Any) -> dict[str, Any]:
    times = [start + 0.2, start + 0.25, start + 0.3]
    info = {"input_tokens": 7, "output_tokens": 3, "output_token_times": times, "lora_adapter": adapter}
    return {"start_time": start, "end_time": start + 0.31, "info": info, "error": None, **changes}


def aiperf(start_ns: int, unit: str = "ms", **changes: Any) -> dict[str, Any]:
    metrics = {
        "time_to_first_token": {"value": 50.0, "unit": unit},
        "request_latency": {"value": 0.25, "unit": "s"},
        "input_sequence_length": {"value": 12, "unit": "tokens"},
        "output_sequence_length": {"value": 5, "unit": "tokens"},
    }
    metadata = {"request_start_ns": start_ns, "benchmark_phase": "profiling", "was_cancelled": False}
    return {"metadata": metadata, "metrics": metrics, "error": None, **changes}


def stamps(name: str, queued: float, **changes: Any) -> dict[str, Any]:
    times = {"queued_ts": queued, "first_token_ts": queued + 0.4, "last_token_ts": queued + 1.4}
    return {"request_id": name, "input_toks": 9, "output_toks": 11, "arrival_time": 1.7e9, **times, **changes}


def test_a_detailed_vllm_result_is_read_in_seconds(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "vllm.json", bench()))
    assert log.format == "vllm-bench"
    assert log.requests["arrival_s"].tolist() == [0.0, 1.0]
    assert log.requests["ttft_s"].tolist() == [0.1, 0.2]
    assert log.requests["e2el_s"].tolist() == pytest.approx([0.13, 0.25])
    assert log.requests["tpot_s"].tolist() == pytest.approx([0.015, 0.05])


def test_failed_requests_are_left_out_and_counted(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "vllm.json", bench()))
    assert log.requests["source_id"].tolist() == ["0", "2"]
    assert log.notes == (("failed requests left out", 1),)


def test_a_request_without_output_failed_even_without_a_message(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "vllm.json", bench(errors=["", "", ""])))
    assert len(log.requests) == 2


def test_latencies_of_the_file_win_over_the_sum_of_gaps(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "vllm.json", bench(latencies=[0.5, 0.0, 0.6])))
    assert log.requests["e2el_s"].tolist() == [0.5, 0.6]


def test_a_vllm_result_without_details_says_what_was_missing(tmp_path: Path) -> None:
    plain = {"mean_ttft_ms": 3.0, "latencies": [1.0], "queue_times": [0.0]}
    with pytest.raises(LogError, match=r"vllm.json:1: .*missing: input_lens, .*--save-detailed"):
        read_log(written(tmp_path / "vllm.json", plain))


def test_arrays_of_different_length_are_refused_with_their_lengths(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="input_lens 3, output_lens 3, ttfts 1"):
        read_log(written(tmp_path / "vllm.json", bench(ttfts=[0.1])))


def test_appended_results_are_refused_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="2 results in one file; one is allowed"):
        read_log(written(tmp_path / "vllm.json", bench(), bench()), "vllm-bench")


def test_adapters_dealt_in_turn_count_failed_requests_too(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "vllm.json", bench()), adapters=["a", "b"])
    assert log.requests["adapter_id"].tolist() == ["a", "a"]


def test_a_detailed_simulated_result_reads_back(tmp_path: Path) -> None:
    result = run("slora", "paper", rate=2, requests=20)
    result.save(tmp_path / "run", detailed=True)
    log = read_log(tmp_path / "run" / "vllm_bench.json")
    expected = result.requests
    assert log.requests["ttft_s"].to_numpy() == pytest.approx(expected["ttft_s"].to_numpy())
    assert log.requests["e2el_s"].to_numpy() == pytest.approx(expected["e2el_s"].to_numpy())
    assert log.requests["adapter_id"].tolist() == expected["adapter_id"].tolist()


def sglang(**changes: Any) -> dict[str, Any]:
    kept = {name: value for name, value in bench().items() if name != "start_times"}
    return {**kept, "mean_e2e_latency_ms": 100.0, **changes}


def test_an_sglang_result_has_no_arrivals_to_replay(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "sglang.jsonl", sglang()))
    assert (log.format, log.has_arrivals) == ("sglang-bench", False)
    assert log.requests["ttft_s"].tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="do not record arrivals"):
        log.trace()


def test_an_sglang_result_at_infinite_rate_came_all_at_once(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "sglang.jsonl", sglang(request_rate="inf")))
    assert log.trace().arrival_s.tolist() == [0.0, 0.0]


def test_inference_perf_tells_the_adapter_of_each_request(tmp_path: Path) -> None:
    path = tmp_path / "per_request_lifecycle_metrics.json"
    path.write_text(json.dumps([lifecycle(5.0, "sql"), lifecycle(4.0), lifecycle(6.0, error={"type": "x"})]))
    log = read_log(path)
    assert log.format == "inference-perf"
    assert log.requests["adapter_id"].tolist() == [None, "sql"]
    assert log.requests["arrival_s"].tolist() == [0.0, 1.0]
    assert log.requests["ttft_s"].tolist() == pytest.approx([0.2, 0.2])
    assert log.requests["e2el_s"].tolist() == pytest.approx([0.31, 0.31])
    assert log.notes == (("failed requests left out", 1),)


def test_aiperf_metrics_are_read_in_the_unit_that_they_state(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "profile_export.jsonl", aiperf(10**18), aiperf(10**18 + 2 * 10**9)))
    assert log.format == "aiperf"
    assert log.requests["arrival_s"].tolist() == pytest.approx([0.0, 2.0], abs=1e-6)
    assert log.requests["ttft_s"].tolist() == pytest.approx([0.05, 0.05])
    assert log.requests["tpot_s"].tolist() == pytest.approx([0.05, 0.05])


def test_an_aiperf_unit_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path / "profile_export.jsonl", aiperf(1), aiperf(2, unit="fortnights"))
    with pytest.raises(LogError, match=r"jsonl:2: unit of time_to_first_token is 'fortnights'; one of ns, us, ms, s"):
        read_log(path)


def test_aiperf_warm_up_is_left_out_and_cancelled_requests_failed(tmp_path: Path) -> None:
    warm = aiperf(1, metadata={"request_start_ns": 1, "benchmark_phase": "warmup"})
    cancelled = aiperf(2, metadata={"request_start_ns": 2, "was_cancelled": True})
    log = read_log(written(tmp_path / "profile_export.jsonl", warm, cancelled, aiperf(3)))
    assert len(log.requests) == 1
    assert log.notes == (("failed requests left out", 1),)


def test_vllm_stamps_count_from_being_queued_on_their_own_clock(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "log.jsonl", stamps("b", 501.5), stamps("a", 500.0)))
    assert log.format == "vllm-requests"
    assert log.requests["source_id"].tolist() == ["a", "b"]
    assert log.requests["arrival_s"].tolist() == [0.0, 1.5]
    assert log.requests["tpot_s"].tolist() == pytest.approx([0.1, 0.1])


def test_a_stamp_that_is_no_number_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", stamps("a", 1.0), stamps("b", 2.0, input_toks="many"))
    with pytest.raises(LogError, match=r"log.jsonl:2: input_toks is 'many'; a number is needed"):
        read_log(path)


def test_a_first_token_before_the_arrival_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", stamps("a", 1.0, first_token_ts=0.5))
    with pytest.raises(LogError, match=r"log.jsonl:1: first token after -0.5 s"):
        read_log(path)


def test_a_line_that_is_not_json_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", stamps("a", 1.0))
    path.write_text(path.read_text() + "oops\n")
    with pytest.raises(LogError, match=r"log.jsonl:2: not a line of JSON"):
        read_log(path)


CSV = """request_id,arrival_s,input,output,first_token_s,last_token_s,adapter_id,rank
x,1.0,100,5,1.5,2.5,sql,16
y,3.0,50,1,3.25,3.25,,
z,4.0,50,1,,,,
"""


def test_our_own_csv_has_adapters_and_ranks(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    log = read_log(tmp_path / "log.csv")
    trace = log.trace()
    assert trace.arrival_s.tolist() == [0.0, 2.0]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([100, 50], [5, 1])
    assert [trace.palette[at] for at in trace.adapter] == [AdapterSpec("sql", 16), None]
    assert trace.notes == (("failed requests left out", 1),)


def test_a_single_token_has_no_time_per_token(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    assert np.isnan(read_log(tmp_path / "log.csv").requests["tpot_s"].tolist()[1])


def test_a_run_s_requests_table_reads_back(tmp_path: Path) -> None:
    result = run("slora", "paper", rate=2, requests=20)
    path = result.save(tmp_path / "run") / "requests.parquet"
    log = read_log(path)
    assert log.requests["ttft_s"].to_numpy() == pytest.approx(result.requests["ttft_s"].to_numpy())
    assert log.requests["adapter_rank"].tolist() == result.requests["adapter_rank"].tolist()
    assert log.trace().adapter.shape == (20,)


def test_an_adapter_without_a_rank_needs_one_from_the_user(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps([lifecycle(5.0, "sql")]))
    log = read_log(path)
    with pytest.raises(ValueError, match="the rank of adapter 'sql' is not in the log"):
        log.trace()
    assert log.trace(8).palette == log.trace({"sql": 8}).palette == (AdapterSpec("sql", 8),)


def test_a_log_in_which_everything_failed_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", stamps("a", 1.0, output_toks=0), stamps("b", 1.0, first_token_ts=None))
    with pytest.raises(LogError, match="none of 2 requests succeeded"):
        read_log(path)


def test_a_file_that_is_no_known_log_names_its_keys(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no known log .*: found colour, shape"):
        read_log(written(tmp_path / "log.jsonl", {"shape": 1, "colour": 2}))


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown log format 'tgi'; one of vllm-bench, sglang-bench, inference-perf"):
        read_log(written(tmp_path / "log.jsonl", stamps("a", 1.0)), "tgi")


PAGE = (Path(__file__).parents[1] / "docs" / "logs.md").read_text(encoding="utf-8")
HEAD = ["format", "written by", "recognised by", "must have", "is read, too", "times", "clock"]
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line.startswith("|")]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_page_has_every_format_as_the_reader_has_it() -> None:
    told = {quoted(row[0])[0]: dict(zip(HEAD, row, strict=True)) for row in ROWS[2:]}
    assert ROWS[0] == HEAD
    assert set(told) == set(FORMATS)
    for name, known in FORMATS.items():
        row = told[name]
        assert quoted(row["must have"]) == list(known.needs), name
        assert quoted(row["is read, too"]) == list(known.uses), name
        assert (row["times"], row["clock"]) == (known.units, known.clock), name
        signs = [sign for kind, sign in SIGNS if kind == name] or [frozenset(TABLES)]
        assert [set(quoted(part)) for part in row["recognised by"].split("; or ")] == signs, name


def without(one: Any, key: str) -> Any:
    """Return an object without a key, which may lie in an object or in the first of a list."""
    first, _, rest = key.partition(".")
    if isinstance(one, list):
        return [without(one[0], key), *one[1:]]
    return {name: without(value, rest) if name == first else value for name, value in one.items() if name != key}


SAMPLES: dict[str, Any] = {
    "vllm-bench": bench(),
    "chameleon-bench": bench(sim={}),
    "sglang-bench": sglang(),
    "inference-perf": [lifecycle(5.0)],
    "aiperf": aiperf(1),
    "vllm-requests": stamps("a", 1.0),
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in SAMPLES for key in FORMATS[kind].needs])
def test_what_the_page_says_a_log_must_have_it_must_have(kind: str, key: str, tmp_path: Path) -> None:
    assert read_log(written(tmp_path / "log.json", SAMPLES[kind])).format == kind
    with pytest.raises(LogError, match=r"log.json:1: "):
        read_log(written(tmp_path / "log.json", without(SAMPLES[kind], key)), kind)


@pytest.mark.parametrize("column", ["first_token_s", "last_token_s", "arrival_s", "input", "output"])
def test_a_table_without_a_column_that_it_must_have_says_which(column: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(CSV.replace(column, "other"))
    with pytest.raises(LogError, match=rf"log.csv:1: no column of .* \(.*{column}.*\); found .*other"):
        read_log(path)


def test_a_trace_is_told_apart_from_a_log_in_which_everything_failed(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,20\n")
    with pytest.raises(
        LogError, match=r"trace.csv:1: no column of first-token times \(first_token_s\); found arrived_at"
    ):
        read_log(path)


@pytest.mark.parametrize("name", ["log.json", "log.jsonl", "log.csv", "log"])
def test_a_binary_file_is_named_with_the_byte_that_is_no_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"ab\n\x80\x00" * 3)
    with pytest.raises(LogError, match=rf"{name}:2: no text in UTF-8: byte 0x80 at 3"):
        read_log(path)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.json"])
def test_a_file_that_is_not_there_is_told_as_such(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        read_log(tmp_path / name)


def test_a_table_without_rows_holds_no_request(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(LogError, match=r"log.csv:1: it holds no request"):
        read_log(tmp_path / "log.csv")


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(LogError, match=r"log.parquet:1: no parquet file that can be read: "):
        read_log(path)
