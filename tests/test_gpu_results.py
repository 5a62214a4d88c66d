"""What was measured on real GPUs: the profile works, and the simulator is held against the runs that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpu_validate.checking import Plan, run_check
from gpu_validate.live import Setup
from sim.costs import CostModel
from sim.engine_costs import EngineCosts
from sim.hardware import load_hardware
from sim.models import load_model
from tests.commands import chameleon

H100 = Path(__file__).resolve().parents[1] / "gpu_validate" / "results" / "h100"
CELLS = [(system, rate) for system in ("slora", "chameleon") for rate in (50, 80)]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """Return the reports of the kept runs by the simulator as it is now."""
    out = tmp_path_factory.mktemp("judged")
    plan = Plan(
        systems=("slora", "chameleon"),
        rates=(50.0, 80.0),
        requests=1000,
        hardware=str(H100 / "profile.yaml"),
        model="llama-7b",
        changes=("memory.reserve_bytes=41000000000",),
        seed=1000,
        capacity=93.9,
        repeats=True,
        setup=Setup(),
        out=out,
        runs=H100 / "check",
    )
    assert len(list(run_check(plan))) > len(CELLS)
    return {cell: json.loads((out / f"{cell[0]}-at-{cell[1]}.json").read_text()) for cell in CELLS}


def test_the_measured_profile_can_be_used() -> None:
    profile = load_hardware(str(H100 / "profile.yaml"))
    assert profile.measured_on is not None
    assert {profile.origins[group] for group in ("dense", "attention", "link", "lora")} == {"measured"}
    said = chameleon("run", "--hardware", str(H100 / "profile.yaml"), "--requests", "50")
    assert said.code == 0, said.err


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_simulated_first_tokens_are_close_to_those_of_a_real_gpu(judged: Any, cell: tuple[str, int]) -> None:
    """A guard, no validation: these runs taught what is simulated. Two of them differ by up to 10 % themselves."""
    ttft = judged[cell]["sim_vs_real"]["metrics"]["ttft_s"]
    assert abs(ttft["p50"]["error"]) < 0.07
    assert abs(ttft["p99"]["error"]) < 0.10
    assert ttft["n"] == 1000


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_reports_in_the_folder_are_those_of_the_simulator_as_it_is_now(judged: Any, cell: tuple[str, int]) -> None:
    kept = json.loads((H100 / "inputs_behind" / f"{cell[0]}-at-{cell[1]}.json").read_text())
    for metric in ("ttft_s", "tpot_s"):
        now, then = (report["sim_vs_real"]["metrics"][metric]["p50"]["simulated_s"] for report in (judged[cell], kept))
        assert now == pytest.approx(then, rel=1e-9)


def test_a_comparison_on_that_profile_says_whose_software_costs_it_takes() -> None:
    run = H100 / "check" / "slora-at-80-measured" / "requests.parquet"
    words = ("gpu", "compare", str(run), "--system", "slora", "--hardware")
    on_profile, on_card = (chameleon(*words, hardware).out for hardware in (str(H100 / "profile.yaml"), "h100"))
    told = "engine costs: those of slora, not the mini engine's in fit.json beside the profile"
    assert told in on_profile
    assert "engine costs" not in on_card


@pytest.mark.parametrize("model", ["llama-7b", "llama-3.1-8b"])
def test_the_card_that_was_measured_and_the_profile_fitted_to_other_people_s_servers_agree(model: str) -> None:
    engine = EngineCosts(kernel="none")
    fitted, measured = (
        CostModel(load_hardware(hardware), load_model(model), engine)
        for hardware in ("h100", str(H100 / "profile.yaml"))
    )
    for requests in (1, 8, 32, 64, 128):
        one, other = (costs.decode(requests, 500 * requests, 0, 0, 0, 0).first for costs in (fitted, measured))
        assert one == pytest.approx(other, rel=0.07)
    for tokens in (128, 512, 1024, 2048, 4096):
        one, other = (costs.prefill(1, tokens, tokens * tokens, 0, 0, 0, 0) for costs in (fitted, measured))
        assert one == pytest.approx(other, rel=0.13)


def test_real_runs_do_not_call_themselves_simulated() -> None:
    for summary in (H100 / "check").glob("*/summary.json"):
        assert json.loads(summary.read_text())["simulated"] is False


def test_two_real_runs_of_the_same_requests_differ_by_less_than_a_tenth(judged: Any) -> None:
    noise = [judged[cell]["real_vs_real"]["metrics"]["ttft_s"]["p50"]["error"] for cell in CELLS]
    assert max(map(abs, noise)) < 0.10
