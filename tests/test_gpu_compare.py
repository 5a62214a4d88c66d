"""The simulator against a server's log: the log's own requests are simulated, and the errors printed as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gpu_validate.compare import run_compare
from sim.experiments.run import run
from tests.commands import chameleon

REAL_LOG = Path(__file__).parents[2] / "shared/data/measured/vllm_rtx4090_llama31_8b_requests.jsonl"
COSTS = "costs.prefill_host_s=8e-3"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a somewhat slower machine did with 150 requests."""
    folder = tmp_path_factory.mktemp("log")
    return run("slora", "paper", rate=5, requests=150, changes=[COSTS]).save(folder / "run") / "requests.parquet"


def test_the_machine_that_wrote_the_log_is_predicted_without_error(log: Path) -> None:
    report = run_compare(log, system="slora", changes=[COSTS], draws=50)
    ttft = report["sim_vs_real"]["metrics"]["ttft_s"]
    assert ttft["n"] == 150
    # arrivals were taken from a table in seconds, and the predictor's draws do not matter to a FIFO
    assert ttft["ape_p90"] == pytest.approx(0, abs=1e-6)


def test_a_faster_model_than_the_machine_shows_as_a_negative_error(log: Path) -> None:
    report = run_compare(log, system="slora", draws=50)
    assert report["sim_vs_real"]["metrics"]["ttft_s"]["signed_median"] < -0.01
    assert report["measured"] == "requests.parquet"


def test_a_given_run_of_the_same_requests_is_paired(log: Path, tmp_path: Path) -> None:
    given = run("slora", "paper", rate=5, requests=150).save(tmp_path / "given")
    report = run_compare(log, given, draws=50)
    simulated = run_compare(log, system="slora", draws=50)
    assert report["paired"]
    assert report["sim_vs_real"]["metrics"]["ttft_s"]["p50"]["error"] == pytest.approx(
        simulated["sim_vs_real"]["metrics"]["ttft_s"]["p50"]["error"], rel=1e-6
    )


def test_a_given_run_of_other_requests_is_compared_by_distribution_only(log: Path, tmp_path: Path) -> None:
    given = run("slora", "paper", rate=5, requests=90, seed=8).save(tmp_path / "given")
    report = run_compare(log, given, draws=50)
    errors = report["sim_vs_real"]["metrics"]["ttft_s"]
    assert (report["paired"], report["aims"]) == (False, [])
    assert (errors["n"], errors["n_simulated"]) == (150, 90)
    assert "ape_median" not in errors
    assert "aims need runs of the same requests: not judged" in report["text"]


def client_log(folder: Path, added_s: float = 0.0) -> Path:
    """Write what `vllm bench serve` would have of a vLLM like ours, seen this much later; its times are seconds."""
    result = run("vllm", "paper", rate=2, requests=60)
    result.save(folder / "run", detailed=True)
    told = json.loads((folder / "run" / "vllm_bench.json").read_text())
    del told["sim"]
    for name in {"ttfts", "latencies"} & set(told):
        told[name] = [one + added_s for one in told[name]]
    path = folder / "bench.json"
    path.write_text(json.dumps(told))
    return path


def ranks_of(folder: Path) -> dict[str, int]:
    table = pd.read_parquet(folder / "run" / "requests.parquet")
    return dict(zip(table["adapter_id"], table["adapter_rank"].astype(int), strict=True))


def test_what_lies_between_client_and_engine_is_added_against_a_client_s_clock(tmp_path: Path) -> None:
    path = client_log(tmp_path, 3.29e-3)
    report = run_compare(path, system="vllm", ranks=ranks_of(tmp_path), draws=20)
    assert report["client_overhead_s"] == pytest.approx(3.29e-3)
    assert (report["log"]["format"], report["log"]["clock"]) == ("vllm-bench", "client")
    metrics = report["sim_vs_real"]["metrics"]
    assert [metrics[name]["ape_p90"] for name in ("ttft_s", "tpot_s", "e2el_s")] == pytest.approx([0, 0, 0], abs=1e-6)
    assert report["text"].splitlines()[1].startswith("client overhead added: 3.3 ms")


def test_nothing_is_added_to_a_run_that_is_given(tmp_path: Path) -> None:
    report = run_compare(client_log(tmp_path, 2.0e-3), tmp_path / "run", draws=20)
    ttft = report["sim_vs_real"]["metrics"]["ttft_s"]["p50"]
    assert ttft["measured_s"] - ttft["simulated_s"] == pytest.approx(2.0e-3)
    assert report["client_overhead_s"] is None
    assert report["text"].splitlines()[1] == (
        "client overhead not added: the given run has the engine's clock and the log a client's"
    )


@pytest.mark.parametrize(("name", "format"), [("requests.parquet", "table"), ("vllm_bench.json", "chameleon-bench")])
def test_nothing_is_added_against_the_engine_s_clock(name: str, format: str, tmp_path: Path) -> None:  # noqa: A002
    client_log(tmp_path)
    report = run_compare(tmp_path / "run" / name, system="vllm", ranks=ranks_of(tmp_path), draws=20)
    assert (report["log"]["format"], report["client_overhead_s"]) == (format, None)
    assert report["sim_vs_real"]["metrics"]["ttft_s"]["ape_p90"] == pytest.approx(0, abs=1e-6)
    assert f"client overhead not added: times of the format {format} are of the engine's clock" in report["text"]


def test_adapters_that_a_client_dealt_in_turn_are_simulated_and_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"{at},{at},100,5,{at + 0.2},{at + 0.6}" for at in range(6)]
    path.write_text("\n".join(["request_id,arrival_s,input,output,first_token_s,last_token_s", *rows]) + "\n")
    said = chameleon(
        "gpu", "compare", path, "--rank", "8", "--lora-modules", "a, b", "--lora-assignment", "round-robin"
    )
    assert said.code == 0, said.err
    assert "6 completed requests; 6 dealt adapters in turn\n" in said.out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--lora-modules", "a", "--lora-assignment", "random"), "'random' is not allowed; round-robin is"),
        (("--lora-modules", "a"), "need each other: vllm bench else draws at random"),
        (("--lora-assignment", "round-robin"), "need each other"),
        (("--lora-modules", "a,,b", "--lora-assignment", "round-robin"), "'a,,b' is not allowed; names with commas"),
    ],
)
def test_adapters_whose_assignment_nobody_knows_are_refused(words: tuple[str, ...], why: str, tmp_path: Path) -> None:
    said = chameleon("gpu", "compare", tmp_path / "log.csv", *words)
    assert said.code == 2
    assert why in " ".join(said.err.replace("│", " ").split())


def test_a_second_log_is_the_noise(log: Path) -> None:
    report = run_compare(log, system="slora", repeat=log, draws=50)
    assert report["real_vs_real"]["metrics"]["ttft_s"]["ape_p90"] == 0


def test_files_hold_what_was_returned(log: Path, tmp_path: Path) -> None:
    report = run_compare(log, system="slora", changes=[COSTS], out=tmp_path / "out", draws=50)
    text = report.pop("text")
    assert (tmp_path / "out" / "report.txt").read_text() == text
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert (tmp_path / "out" / "report.png").stat().st_size > 0


def test_failed_requests_of_the_log_are_said_first(tmp_path: Path) -> None:
    rows = ["request_id,arrival_s,input,output,first_token_s,last_token_s"]
    rows += [f"{at},{at},100,5,{at + 0.2},{at + 0.6}" for at in range(5)]
    (tmp_path / "log.csv").write_text("\n".join([*rows, "9,9,100,5,,"]) + "\n")
    text = run_compare(tmp_path / "log.csv", system="slora", draws=20)["text"]
    assert text.startswith("log log.csv (table): 5 completed requests; 1 failed requests left out\n")


@pytest.fixture(scope="module")
def rtx4090() -> dict[str, Any]:
    if not REAL_LOG.exists():
        pytest.skip(f"the public log is not at {REAL_LOG}")
    changes = ["memory.kv_pool_tokens=41408", "costs.kernel=none", "admission.every_steps=1"]
    # Neither its GPU nor chunked prefill is there yet: this asks whether every request is accounted for, not how well.
    return run_compare(REAL_LOG, system="slora", hardware="a40", model="llama-3.1-8b", changes=changes, draws=50)


def test_every_request_of_a_real_log_is_accounted_for(rtx4090: dict[str, Any]) -> None:
    counts = rtx4090["sim_vs_real"]["requests"]
    assert counts == {
        "simulated": 300,
        "measured": 300,
        "simulated_completed": 300,
        "measured_completed": 300,
        "paired": 300,
    }


def test_stamps_of_the_engine_itself_are_compared_without_a_client(rtx4090: dict[str, Any]) -> None:
    assert (rtx4090["log"]["format"], rtx4090["log"]["clock"]) == ("vllm-requests", "engine")
    assert rtx4090["client_overhead_s"] is None


def test_a_real_log_reads_as_its_readme_says(rtx4090: dict[str, Any]) -> None:
    metrics = rtx4090["sim_vs_real"]["metrics"]
    assert metrics["ttft_s"]["p50"]["measured_s"] == pytest.approx(60, abs=1)
    assert metrics["tpot_s"]["p50"]["measured_s"] == pytest.approx(0.031, abs=0.002)


def test_errors_on_a_real_log_are_printed_and_not_called_met(rtx4090: dict[str, Any]) -> None:
    assert {one["verdict"] for one in rtx4090["aims"]} == {"not supported"}
    error = rtx4090["sim_vs_real"]["metrics"]["ttft_s"]["p99"]["error"]
    assert f"{100 * error:+.1f} %" in rtx4090["text"]
