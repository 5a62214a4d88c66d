"""`chameleon run`: the numbers it prints, the directory it leaves, and what it warns of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sim.readers.reading import read_trace
from sim.results.rundir import read_run
from tests.commands import AZURE, azure_file, chameleon, needs_azure

RUN = ("run", "--requests", "120", "--rate", "5")
SUMMARY = {
    "schema_version", "system", "simulated", "seed", "requests", "metrics", "throughput", "adapters", "link",
    "iterations", "stability", "costs",
}  # fmt: skip
NESTED = {
    "requests": {"offered", "completed", "rejected", "unfinished"},
    "throughput": {"requests_per_s", "output_tokens_per_s"},
    "adapters": {"hit_rate", "loads", "prefetches", "evictions", "bytes_loaded"},
    "link": {"utilisation"},
    "stability": {"verdict"},
    "costs": {"origins", "warnings"},
}


@needs_azure
def test_every_request_of_the_public_trace_is_accounted_for_and_compared(tmp_path: Path) -> None:
    for system in ("slora", "chameleon"):
        flags = ("--rate", "9", "--scale", "7", "--seed", "0", "--out", tmp_path / system)
        assert chameleon("run", "--system", system, "--trace", AZURE, *flags).code == 0
        run = read_run(tmp_path / system)
        assert run.summary["requests"] == {"offered": 19_366, "completed": 19_366, "rejected": 0, "unfinished": 0}
        assert len(run.requests) == 19_366
        assert run.bench["request_rate"] == 9.0
    said = chameleon("compare", tmp_path / "slora", tmp_path / "chameleon")
    assert said.code == 0
    assert "slora 19366/19366, chameleon 19366/19366" in said.out
    assert said.err == ""


@needs_azure
def test_without_a_rate_the_stamps_of_the_file_are_replayed(tmp_path: Path) -> None:
    chameleon("run", "--trace", AZURE, "--requests", "200", "--scale", "7", "--out", tmp_path / "run")
    expected_s = read_trace(AZURE, limit=200).arrival_s
    assert np.allclose(read_run(tmp_path / "run").requests["arrival_s"], expected_s, atol=1e-9)


def test_the_words_of_vllm_mean_the_same(tmp_path: Path) -> None:
    ours = chameleon("run", "--rate", "5", "--requests", "60", "--out", tmp_path / "ours")
    theirs = chameleon("run", "--request-rate", "5", "--num-prompts", "60", "--result-dir", tmp_path / "theirs")
    assert ours.out == theirs.out
    assert read_run(tmp_path / "theirs").config == read_run(tmp_path / "ours").config


def test_a_packaged_system_may_be_named_without_its_flag() -> None:
    assert chameleon(*RUN, "slora", "--json").out == chameleon(*RUN, "--system", "slora", "--json").out


def test_it_prints_the_block_of_vllm_and_one_about_adapters() -> None:
    lines = chameleon(*RUN).out.splitlines()
    assert lines[0] == " Serving Benchmark Result ".center(50, "=")
    assert f"{'Successful requests:':<40} {120:<10}" in lines
    labels = [line[:40].rstrip() for line in lines]
    wanted = ["P99 TTFT (ms):", "P99 TPOT (ms):", "P99 ITL (ms):", "P99 E2EL (ms):", "Adapter hit rate (%):", "Queue:"]
    assert [label for label in wanted if label not in labels] == []


def test_requests_of_all_seeds_that_succeeded_are_told_of_those_that_were_offered(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "two.csv", "46.0000000,50,10", "47.0000000,5000,10")
    flags = ("--scale", "1", "--reps", "3", "--set", "memory.kv_pool_tokens=1000")  # the second does not fit
    said = chameleon("run", "slora", "--trace", trace, *flags)
    assert f"{'Successful requests, all seeds:':<40} 3 of 6" in said.out.splitlines()


def test_the_summary_has_the_declared_keys(tmp_path: Path) -> None:
    chameleon(*RUN, "--out", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary) >= SUMMARY
    assert {key: names - set(summary[key]) for key, names in NESTED.items()} == {key: set() for key in NESTED}
    assert set(summary["metrics"]) == {"ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"}
    assert set(summary["metrics"]["ttft_ms"]) >= {"mean", "std", "p50", "p90", "p95", "p99", "n"}


def test_it_says_what_its_coefficients_rest_on() -> None:
    assert "cost coefficients of h200: dense prior, attention prior" in chameleon(*RUN, "--hardware", "h200").err


def test_a_prefill_beyond_the_measured_range_is_warned_of(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "long.csv", "46.0000000,5000,10")
    said = chameleon("run", "--trace", trace, "--scale", "1")
    assert "warning: outside its range: a40: dense is fitted for 1 to 4096 tokens, used at 5000" in said.err


def test_a_prefill_within_the_measured_range_is_not_warned_of() -> None:
    assert "outside its range" not in chameleon(*RUN).err


def test_a_queue_that_cannot_keep_up_is_warned_of() -> None:
    overloaded = chameleon("run", "--requests", "2000", "--rate", "60")
    assert "warning: the queue is overloaded" in overloaded.err
    assert "warning: the queue" not in chameleon("run", "--requests", "500", "--rate", "2").err


def test_a_p99_of_few_requests_is_warned_of() -> None:
    assert "P99 of 40 requests" in chameleon("run", "--requests", "40", "--rate", "2").err


def test_the_very_same_run_is_read_and_not_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = chameleon(*RUN, "--out", tmp_path / "run")
    monkeypatch.setattr("sim.experiments.replications.execute", lambda _: pytest.fail("simulated again"))
    second = chameleon(*RUN, "--out", tmp_path / "run")
    assert second.out == first.out
    assert "not simulated again" in second.err


def test_another_run_in_the_same_directory_replaces_it(tmp_path: Path) -> None:
    chameleon(*RUN, "--out", tmp_path / "run")
    said = chameleon(*RUN, "--seed", "7", "--out", tmp_path / "run")
    assert "not simulated again" not in said.err
    assert read_run(tmp_path / "run").summary["seed"] == 7


@pytest.mark.parametrize("changed", ["policy", "trace"])
def test_a_run_whose_files_have_changed_is_simulated_again(changed: str, tmp_path: Path) -> None:
    files = {"trace": azure_file(tmp_path / "one.csv", "46.0000000,374,44"), "policy": tmp_path / "mine.py"}
    files["policy"].write_text("class Mine:\n    def score(self, adapter, now): return 0.0\n")
    flags = ("--trace", files["trace"], "--set", f"cache.kind={files['policy']}:Mine", "--out", tmp_path / "run")
    chameleon("run", *flags)
    assert "not simulated again" in chameleon("run", *flags).err
    before = files[changed].stat()
    files[changed].write_text(files[changed].read_text().replace("44", "45").replace("0.0", "1.0"))
    os.utime(files[changed], ns=(before.st_atime_ns, before.st_mtime_ns))  # only the content tells
    assert "not simulated again" not in chameleon("run", *flags).err


def test_a_run_of_another_source_is_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chameleon(*RUN, "--out", tmp_path / "run")
    monkeypatch.setattr("sim.experiments.replications.source_sha256", lambda: "edited")
    assert "not simulated again" not in chameleon(*RUN, "--out", tmp_path / "run").err


def test_stamps_of_a_file_that_give_way_to_drawn_ones_are_told(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "two.csv", "46.0000000,50,10", "47.0000000,50,10")
    told = "2 rows with stamps drawn anew (poisson); workload.arrivals=trace stretches the file's own"
    assert told in chameleon("run", "--trace", trace, "--rate", "2").err
    assert "drawn anew" not in chameleon("run", "--trace", trace).err
    assert "drawn anew" not in chameleon("run", "--trace", trace, "--rate", "2", "--set", "workload.arrivals=trace").err


def test_stamps_that_count_from_an_epoch_are_told_with_what_to_do(tmp_path: Path) -> None:
    trace = tmp_path / "epoch.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n1761352200.5,5,5\n1761352203.5,5,5\n")
    said = chameleon("run", "--trace", trace)
    assert said.code == 2
    assert "arrive from 1761352200 to 1761352204 s" in said.err
    assert "subtract the first stamp" in said.err
