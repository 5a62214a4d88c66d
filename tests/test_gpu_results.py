"""What was measured on real GPUs: the profile works, and the simulator is held against the runs that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gpu_validate.checking import Plan, run_check
from gpu_validate.live import Setup
from sim.costs import CostModel
from sim.engine_costs import EngineCosts
from sim.hardware import load_hardware
from sim.models import load_model
from tests.commands import chameleon

H100 = Path(__file__).resolve().parents[1] / "gpu_validate" / "results" / "h100"
ROOM = "memory.reserve_bytes=41000000000"
PAIR = ("slora", "chameleon")
LARGE = ("memory.reserve_bytes=47000000000", "workload.ranks=[128]", "workload.adapters=200")
PLAN = Plan(PAIR, (50.0, 80.0), 1000, str(H100 / "profile.yaml"), "llama-7b", (ROOM,), 1000, 118.0, True, Setup(), H100)
PLANS = {
    "check": PLAN,
    "check_45_75": replace(PLAN, rates=(45.0, 75.0), seed=2000),
    "check_8b": replace(PLAN, rates=(60.0, 90.0), seed=2000, model="llama-3.1-8b", capacity=134.0),
    "check_large": replace(
        PLAN, systems=("slora-no-prefetch", *PAIR), rates=(45.0,), seed=2000, changes=LARGE, capacity=None
    ),
}
CELLS = [(folder, system, rate) for folder, plan in PLANS.items() for system in plan.systems for rate in plan.rates]
Cell = tuple[str, str, float]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the reports of the kept runs by the simulator as it is now."""
    out = tmp_path_factory.mktemp("judged")
    for folder, plan in PLANS.items():
        assert list(run_check(replace(plan, out=out / folder, runs=H100 / folder)))
    return out


@pytest.fixture(scope="module")
def judged(reports: Path) -> dict[Cell, Any]:
    return {cell: report_of(reports, cell) for cell in CELLS}


def report_of(root: Path, cell: Cell) -> Any:
    folder, system, rate = cell
    return json.loads((root / folder / f"{system}-at-{rate:g}.json").read_text())


def test_the_measured_profile_can_be_used() -> None:
    profile = load_hardware(str(H100 / "profile.yaml"))
    assert profile.measured_on is not None
    assert {profile.origins[group] for group in ("dense", "attention", "link", "lora")} == {"measured"}
    said = chameleon("run", "--hardware", str(H100 / "profile.yaml"), "--requests", "50")
    assert said.code == 0, said.err


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_simulated_runs_are_close_to_those_of_a_real_gpu(judged: Any, cell: Cell) -> None:
    """A guard, no aim: its bounds are what the host's changing speed left (see the folder's page)."""
    ttft = judged[cell]["sim_vs_real"]["metrics"]["ttft_s"]
    assert abs(ttft["p50"]["error"]) < 0.115
    assert abs(ttft["p99"]["error"]) < 0.17
    assert ttft["n"] == 1000
    if cell[0] != "check":  # the oldest tables do not say what the cost model was asked
        assert judged[cell]["sim_vs_real"]["iterations"]["all"]["mape"] < 0.055


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_reports_in_the_folder_are_those_of_the_simulator_as_it_is_now(judged: Any, cell: Cell) -> None:
    kept = report_of(H100 / "again", cell)
    for metric in ("ttft_s", "tpot_s"):
        now, then = (report["sim_vs_real"]["metrics"][metric]["p50"]["simulated_s"] for report in (judged[cell], kept))
        assert now == pytest.approx(then, rel=1e-9)


def test_where_adapter_management_decides_its_gains_are_those_of_a_real_gpu(reports: Path) -> None:
    gains = json.loads((reports / "check_large" / "policies-at-45.json").read_text())["gains"]
    told = {(gain["policy"], q): gain[q] for gain in gains for q in ("p50", "p99")}
    assert len(told) == 4
    for gain in told.values():
        assert gain["real"] > 0.3
        assert gain["predicted"] == pytest.approx(gain["real"], abs=0.06)


def test_decode_steps_waited_for_copies_by_the_size_of_their_inputs() -> None:
    tables = [pd.read_parquet(path) for path in H100.glob("*/*.iterations.parquet")]
    steps = pd.concat([one for one in tables if "input_bytes" in one])
    steps = steps[(steps["kind"] == "decode") & (steps["copy_left_s"] >= 3e-3)]
    waited = steps["duration_s"] - steps["predicted_s"] > steps["copy_left_s"] / 2
    is_large = steps["input_bytes"] > load_hardware(str(H100 / "profile.yaml")).link.inline_bytes
    assert (is_large.sum(), (~is_large).sum()) == (514, 892)
    assert waited[is_large].all()
    assert waited[~is_large].mean() < 0.04


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
    summaries = list(H100.glob("*/*/summary.json"))
    assert len(summaries) == 33
    for summary in summaries:
        assert json.loads(summary.read_text())["simulated"] is False


def test_a_report_of_real_runs_does_not_call_them_simulated(tmp_path: Path) -> None:
    run = H100 / "check" / "slora-at-50-measured"
    said = chameleon("run", "--requests", "20", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    for others, heading in (((), "Measured by"), ((tmp_path / "run",), "Simulated and measured by")):
        said = chameleon("report", str(run), *map(str, others), "--out", str(tmp_path / "page.html"))
        assert said.code == 0, said.err
        page = (tmp_path / "page.html").read_text()
        assert f"{heading} chameleon-sim of source 16f1b74515b9" in page
        assert page.count(": measured, not simulated.") == 1
        assert "different versions" not in page


def test_a_real_run_has_no_timeline() -> None:
    said = chameleon("timeline", str(H100 / "check" / "slora-at-50-measured"))
    assert said.code == 2
    assert "was served by a real engine; a timeline needs a simulated run" in " ".join(said.err.split())


def test_two_real_runs_of_the_same_requests_differ_by_less_than_a_tenth(judged: Any) -> None:
    noise = [
        report["real_vs_real"]["metrics"]["ttft_s"]["p50"]["error"]
        for report in judged.values()
        if report["real_vs_real"]
    ]
    assert len(noise) == 13
    assert max(map(abs, noise)) < 0.10
