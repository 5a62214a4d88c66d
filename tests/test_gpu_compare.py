"""The simulator against a server's log: the log's own requests are simulated, and the errors printed as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpu_validate.compare import run_compare
from sim.experiment import run

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


def test_a_real_log_reads_as_its_readme_says(rtx4090: dict[str, Any]) -> None:
    metrics = rtx4090["sim_vs_real"]["metrics"]
    assert metrics["ttft_s"]["p50"]["measured_s"] == pytest.approx(60, abs=1)
    assert metrics["tpot_s"]["p50"]["measured_s"] == pytest.approx(0.031, abs=0.002)


def test_errors_on_a_real_log_are_printed_and_not_called_met(rtx4090: dict[str, Any]) -> None:
    assert {one["verdict"] for one in rtx4090["aims"]} == {"not supported"}
    error = rtx4090["sim_vs_real"]["metrics"]["ttft_s"]["p99"]["error"]
    assert f"{100 * error:+.1f} %" in rtx4090["text"]
