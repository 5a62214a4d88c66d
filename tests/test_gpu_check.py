"""The check: errors per request, of percentiles and of iterations, each beside its noise and its n."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gpu_validate.check import Observed, Pair, from_directory, from_result, report_pair, report_policies
from gpu_validate.errors import iteration_errors, metric_errors, pair_iterations, pair_requests
from gpu_validate.report import draw, policies_text, text_of, write_report
from sim.experiments.run import run
from sim.results.result import Result

SLOWER = "costs.prefill_host_s=13.1e-3"  # ten milliseconds more for every prefill: the "real" machine


def simulated(*changes: str, system: str = "slora", requests: int = 300, rate: float = 5) -> Result:
    return run(system, "paper", rate=rate, requests=requests, seed=3, changes=changes)


def table(ttft_s: Any, **columns: Any) -> pd.DataFrame:
    ttft = np.asarray(ttft_s, dtype=float)
    n = len(ttft)
    given = {"request_id": np.arange(n), "arrival_s": np.arange(n) * 0.1, "ttft_s": ttft}
    return pd.DataFrame({**given, "tpot_s": np.full(n, 0.02), "e2el_s": ttft + 1, **columns})


@pytest.fixture(scope="module")
def runs() -> dict[str, Observed]:
    return {
        "predicted": from_result(simulated()),
        "real": from_result(simulated(SLOWER), "card"),
        "again": from_result(simulated("costs.prefill_host_s=13.2e-3"), "card again"),
    }


@pytest.fixture(scope="module")
def report(runs: dict[str, Observed]) -> dict[str, Any]:
    return report_pair(runs["predicted"], runs["real"], runs["again"], load=0.5, draws=200)


def test_a_run_against_itself_has_no_error(runs: dict[str, Observed]) -> None:
    found = report_pair(runs["real"], runs["real"], load=0.5, draws=50)["sim_vs_real"]
    ttft = found["metrics"]["ttft_s"]
    assert (ttft["ape_p90"], ttft["ks"], ttft["w1_s"], ttft["p99"]["error"]) == (0, 0, 0, 0)
    assert found["iterations"]["all"]["mape"] == 0
    assert {one["difference"] for one in found["counters"].values()} == {0}


def test_a_faster_model_than_the_card_is_told_with_its_sign(report: dict[str, Any]) -> None:
    errors = report["sim_vs_real"]["metrics"]["ttft_s"]
    assert errors["signed_median"] < 0 < errors["ape_median"]
    assert errors["p50"]["low"] < errors["p50"]["error"] < errors["p50"]["high"] < 0


def test_the_noise_of_the_card_stands_beside_the_error(report: dict[str, Any]) -> None:
    noise = report["real_vs_real"]["metrics"]["ttft_s"]["ape_median"]
    assert 0 < noise < report["sim_vs_real"]["metrics"]["ttft_s"]["ape_median"]
    assert "card again" in report["repeat"]
    assert "real-real" in text_of(report)


def test_iteration_errors_are_told_by_kind(report: dict[str, Any]) -> None:
    kinds = report["sim_vs_real"]["iterations"]["by_kind"]
    assert kinds["prefill"]["bias"] < 0
    # decode costs the same on both sides; what is left are batches of other ranks
    assert kinds["decode"]["mape"] < abs(kinds["prefill"]["bias"]) / 3


def test_iterations_with_a_prediction_of_their_own_need_no_partner() -> None:
    measured = pd.DataFrame({"kind": ["decode"] * 4, "duration_s": [1.0, 1.0, 2.0, 4.0]})
    found = iteration_errors(pair_iterations(None, measured.assign(predicted_s=[1.1, 0.9, 2.0, 4.0])))
    assert found is not None
    assert found["all"]["mape"] == pytest.approx(0.05)
    assert found["all"]["bias"] == pytest.approx(0.0)
    assert found["all"]["n"] == 4


def test_iterations_without_a_partner_are_counted_and_not_judged() -> None:
    one = pd.DataFrame({"kind": ["decode"], "duration_s": [1.0], "requests": [4]})
    two = pd.DataFrame({"kind": ["decode", "decode"], "duration_s": [2.0, 9.0], "requests": [4, 5]})
    found = iteration_errors(pair_iterations(one, two))
    assert found is not None
    assert (found["iterations"], found["all"]["n"], found["all"]["bias"]) == (2, 1, -0.5)


def test_iterations_add_up_to_the_summary() -> None:
    result = simulated()
    iterations = from_result(result).iterations
    assert iterations is not None
    told = result.summary["iterations"]
    by_kind = iterations.groupby("kind")["duration_s"]
    assert by_kind.count()["decode"] == told["decode"]
    assert by_kind.sum()["decode"] == pytest.approx(told["decode_s"], rel=1e-9)
    assert by_kind.sum()["prefill"] == pytest.approx(told["prefill_s"], rel=1e-9)


def test_an_iteration_that_prefills_and_decodes_is_one_of_its_own_kind() -> None:
    result = simulated(system="vllm")
    iterations, told = from_result(result).iterations, result.summary["iterations"]
    assert iterations is not None
    count = iterations["kind"].value_counts()
    assert count["mixed"] == told["mixed"] > 0
    assert count["prefill"] == told["prefill"] - told["mixed"]
    assert count["decode"] == told["decode"] - told["mixed"]
    rows = iterations[iterations["kind"] == "mixed"]
    assert rows["duration_s"].sum() == pytest.approx(told["mixed_s"], rel=1e-9)
    assert (rows["tokens"] >= rows["requests"]).all()
    assert iterations["tokens"].sum() == told["prefill_tokens"] + told["decode_tokens"]


@pytest.mark.parametrize("system", ["slora", "vllm"])
def test_iterations_follow_each_other_without_overlap(system: str) -> None:
    iterations = from_result(simulated(system=system)).iterations
    assert iterations is not None
    ends = (iterations["start_s"] + iterations["duration_s"]).to_numpy()
    assert (iterations["start_s"].to_numpy()[1:] >= ends[:-1] - 1e-9).all()


def test_counters_are_compared_by_their_difference(report: dict[str, Any], runs: dict[str, Observed]) -> None:
    found = report["sim_vs_real"]["counters"]["iterations.decode"]
    assert found["measured"] == runs["real"].counters["iterations.decode"]
    assert found["difference"] == found["simulated"] - found["measured"]


def test_requests_that_one_side_did_not_complete_are_left_out_and_counted() -> None:
    ours, theirs = table([1.0, 2.0, np.nan, 4.0]), table([1.0, 2.0, 3.0, 4.0], status=["ok", "rejected", "ok", "ok"])
    one, other, counts = pair_requests(ours, theirs)
    assert list(one.index) == list(other.index) == [0, 3]
    assert (counts["simulated"], counts["measured"], counts["paired"]) == (4, 3, 2)


def test_requests_of_other_lengths_are_not_the_same_requests() -> None:
    ours, theirs = table([1.0, 2.0], prompt_tokens=[5, 6]), table([1.0, 2.0], prompt_tokens=[5, 7])
    with pytest.raises(ValueError, match="prompt_tokens differs for 1 ids, first for 1"):
        pair_requests(ours, theirs)


def test_a_table_without_a_metric_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"measured requests need .* missing: \['tpot_s'\]"):
        pair_requests(table([1.0]), table([1.0]).drop(columns="tpot_s"))


def test_relative_errors_are_those_of_the_definition() -> None:
    found = metric_errors(np.array([1.1, 1.8, 4.0]), np.array([1.0, 2.0, 4.0]), draws=20)
    assert found["signed_median"] == pytest.approx(0.0)
    assert found["ape_median"] == pytest.approx(0.1)
    assert found["p50"]["error"] == pytest.approx(1.8 / 2 - 1)


def aims_of(factor: float, n: int, load: float | None) -> dict[str, dict[str, Any]]:
    measured = np.random.default_rng(0).lognormal(size=n)
    iterations = pd.DataFrame({"kind": ["decode"] * 40, "duration_s": [1.0] * 40, "predicted_s": [factor] * 40})
    ours, theirs = Observed("sim", table(factor * measured)), Observed("card", table(measured), iterations)
    return {one["aim"]: one for one in report_pair(ours, theirs, load=load, draws=20)["aims"]}


def test_aims_within_their_bounds_at_a_known_low_load_are_met() -> None:
    found = aims_of(1.04, 1500, 0.7)
    assert {one["verdict"] for one in found.values()} == {"met"}
    assert {name: one["n"] for name, one in found.items()} == {
        "iteration MAPE": 40,
        "TTFT P50 error": 1500,
        "TTFT P99 error": 1500,
    }


@pytest.mark.parametrize(
    ("factor", "n", "load", "reason"),
    [
        (1.2, 1500, 0.7, "20.0 % is above 10 %"),
        (1.0, 900, 0.7, "n = 900 is below 1000"),
        (1.0, 1500, 0.95, "load is 0.95 of capacity; the aim is for up to 0.8"),
        (1.0, 1500, None, "load is unknown; the aim is for up to 0.8"),
    ],
)
def test_an_aim_that_is_missed_or_not_shown_is_not_supported(
    factor: float, n: int, load: float | None, reason: str
) -> None:
    found = aims_of(factor, n, load)["TTFT P99 error"]
    assert (found["verdict"], found["reason"]) == ("not supported", reason)


def test_the_text_prints_every_aim_with_its_n(report: dict[str, Any]) -> None:
    lines = [line for line in text_of(report).splitlines() if " within " in line]
    assert len(lines) == 3
    assert all("n = " in line and line.endswith(("met", ")")) for line in lines)
    assert "TTFT P99 error within 10 %" in lines[2]
    assert "n = 300: not supported" in lines[2]


def test_every_percentile_in_the_text_has_its_n(report: dict[str, Any]) -> None:
    lines = [line for line in text_of(report).splitlines() if line.startswith(("TTFT P", "TPOT P", "E2EL P"))]
    table_lines = [line for line in lines if " ms " in line]
    assert len(table_lines) == 12
    assert all(line.split()[-1].isdigit() for line in table_lines)


def test_two_run_directories_give_the_same_report_as_the_runs(tmp_path: Path, runs: dict[str, Observed]) -> None:
    simulated().save(tmp_path / "sim")
    simulated(SLOWER).save(tmp_path / "real")
    found = report_pair(from_directory(tmp_path / "sim"), from_directory(tmp_path / "real"), load=0.5, draws=200)
    expected = report_pair(runs["predicted"], runs["real"], load=0.5, draws=200)
    assert found["sim_vs_real"]["metrics"] == expected["sim_vs_real"]["metrics"]
    assert found["sim_vs_real"]["counters"] == expected["sim_vs_real"]["counters"]
    assert found["sim_vs_real"]["iterations"] is None


def test_a_report_is_written_as_json_text_and_picture(
    tmp_path: Path, report: dict[str, Any], runs: dict[str, Observed]
) -> None:
    figure = draw(runs["predicted"], runs["real"], runs["again"])
    paths = write_report(report, text_of(report), tmp_path, figure)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.png", "report.txt"]
    assert json.loads(paths[0].read_text()) == report
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_a_curve_per_run_and_a_cloud_per_kind(runs: dict[str, Observed]) -> None:
    left, right = draw(runs["predicted"], runs["real"], runs["again"]).axes
    assert len(left.lines) == 3
    real = runs["real"].iterations
    assert real is not None
    assert len(right.collections) == real["kind"].nunique()


def test_a_picture_without_iterations_says_so() -> None:
    only = Observed("card", table([1.0, 2.0]))
    assert draw(only, only).axes[1].texts[0].get_text() == "no iterations to compare"


@pytest.fixture(scope="module")
def policies() -> dict[str, Any]:
    def pair(*changes: str, system: str) -> Pair:
        ours = from_result(simulated(*changes, system=system, rate=9))
        theirs = from_result(simulated(SLOWER, *changes, system=system, rate=9))
        return Pair(ours, theirs, theirs, load=0.9)

    return report_policies({name: pair(system=name) for name in ("slora", "chameleon")}, draws=100)


def test_the_gain_of_a_policy_is_predicted_and_real_with_an_interval(policies: dict[str, Any]) -> None:
    (gain,) = policies["gains"]
    ttft = {name: one["sim_vs_real"]["metrics"]["ttft_s"]["p50"] for name, one in policies["pairs"].items()}
    expected = 1 - ttft["chameleon"]["simulated_s"] / ttft["slora"]["simulated_s"]
    assert (gain["policy"], gain["baseline"], gain["n"]) == ("chameleon", "slora", 300)
    assert gain["p50"]["predicted"] == pytest.approx(expected)
    assert gain["p50"]["difference"] == pytest.approx(gain["p50"]["predicted"] - gain["p50"]["real"])
    assert gain["p50"]["low"] <= gain["p50"]["difference"] <= gain["p50"]["high"]
    assert gain["p50"]["real_again"] == gain["p50"]["real"]


def test_a_gain_at_p99_of_few_requests_is_not_supported(policies: dict[str, Any]) -> None:
    assert policies["gains"][0]["p99"]["verdict"] == "not supported"


def test_policies_are_ranked_as_predicted_and_as_measured() -> None:
    def pair(ours: float, theirs: float) -> Pair:
        return Pair(Observed("sim", table([ours] * 5)), Observed("card", table([theirs] * 5)))

    found = report_policies({"a": pair(3, 3), "b": pair(2, 1), "c": pair(1, 2)}, draws=10)["order"]
    assert (found["predicted"], found["real"]) == (["c", "b", "a"], ["b", "c", "a"])
    assert found["agreement"] == pytest.approx(2 / 3)


def test_errors_are_grouped_by_region_of_load(policies: dict[str, Any]) -> None:
    assert list(policies["regions"]) == ["near capacity"]
    assert policies["regions"]["near capacity"]["runs"] == 2
    assert len(policies["regions"]["near capacity"]["ttft_p99_errors"]) == 2


def test_the_text_on_policies_names_gains_and_order(policies: dict[str, Any]) -> None:
    text = policies_text(policies)
    assert "chameleon over slora, TTFT P50: predicted gain" in text
    assert "pairs of policies in the same order: 100 %" in text


def test_nothing_slow_is_imported_before_it_is_needed() -> None:
    modules = ", ".join(f"gpu_validate.{name}" for name in ("fit", "profile", "check", "report", "logs", "compare"))
    slow = "[name for name in ('torch', 'scipy', 'pandas', 'matplotlib') if name in sys.modules]"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print({slow})"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
