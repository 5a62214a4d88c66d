"""A fitted profile: what every simulator command loads, with its origin, and the rest as the base has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gpu_validate.fit import run_fit
from gpu_validate.profile import base_profile
from sim.experiments.run import run
from sim.hardware import load_hardware
from tests.gpu_sweeps import HARDWARE, report_of, sweep, write


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    kept = [one for one in sweep() if one.kind in {"load", "dense", "lm_head", "lora"}]
    return run_fit(write(folder / "sweep.jsonl", kept), folder / "out" / "card.yaml", draws=0)


def test_a_profile_reads_back_with_its_origins(profile: Path) -> None:
    origins = {"dense": "measured", "attention": "prior", "link": "measured", "lora": "measured"}
    assert load_hardware(profile).origins == origins


def test_groups_that_were_not_measured_stay_as_in_the_base(profile: Path) -> None:
    assert load_hardware(profile).attention == HARDWARE.attention


def test_measured_rates_are_those_of_the_report(profile: Path) -> None:
    found, values = load_hardware(profile), report_of(profile)["groups"]
    assert found.link.h2d_bytes_per_s == values["link"]["values"]["h2d_bytes_per_s"]
    assert found.lora.l2_bytes_per_s == values["lora bgmv"]["values"]["l2_bytes_per_s"]
    assert found.lora.weight_bytes_per_s == values["lora segmented"]["values"]["weight_bytes_per_s"]


def test_a_profile_says_where_and_from_what_it_was_measured(profile: Path) -> None:
    found = load_hardware(profile)
    digest = hashlib.sha256((profile.parents[1] / "sweep.jsonl").read_bytes()).hexdigest()
    assert found.measured_on is not None
    assert found.measured_on.device == "NVIDIA H200"
    assert found.measured_on.versions == {"driver": "570.1", "torch": "2.11.0"}
    assert found.measured_on.date == "2026-01-02"
    assert digest in found.dense.source
    assert report_of(profile)["sweep"]["sha256"] == digest


def test_a_profile_warns_outside_the_tokens_it_was_fitted_on(profile: Path) -> None:
    found = load_hardware(profile)
    assert found.dense.valid_tokens == (1, 4096)
    assert any("dense is measured for 1 to 4096 tokens, used at 9000" in one for one in found.warnings(9000))


def test_the_error_on_unseen_shapes_stands_in_the_profile(profile: Path) -> None:
    dense, errors = load_hardware(profile).dense, report_of(profile)["groups"]["dense"]["errors"]
    assert dense.held_out_mape == errors["test"]["by_kind"]["dense"]["mape"]
    assert dense.fit_mape == errors["fit"]["by_kind"]["dense"]["mape"]


def test_implied_rates_come_with_their_share_of_the_peak(profile: Path) -> None:
    link = report_of(profile)["implied"]["link_gb_per_s"]
    assert link["rate"] == pytest.approx(50, rel=0.02)
    assert link["share_of_peak"] == pytest.approx(link["rate"] / 63, rel=1e-9)


def test_the_report_names_the_bytes_of_the_profile(profile: Path) -> None:
    assert report_of(profile)["profile"]["sha256"] == hashlib.sha256(profile.read_bytes()).hexdigest()


def test_a_simulation_runs_on_a_fitted_profile(profile: Path) -> None:
    result = run("chameleon", "paper", rate=4, requests=20, hardware=str(profile))
    assert result.summary["requests"]["completed"] == 20
    assert result.summary["costs"]["origins"]["link"] == "measured"


def test_engine_costs_of_a_kernel_are_fields_of_a_system_file(profile: Path) -> None:
    costs = report_of(profile)["engine_costs"]["bgmv"]
    changes = [f"costs.{name}={value}" for name, value in costs.items()]
    result = run("chameleon", "paper", rate=4, requests=20, hardware=str(profile), changes=changes)
    assert result.config["costs"]["lora_token_s"] == pytest.approx(30e-6, rel=0.05)


def test_the_device_finds_its_packaged_profile() -> None:
    assert base_profile(None, "NVIDIA A100-SXM4-80GB").name == "a100-80"
    assert base_profile("a40", "NVIDIA H200").name == "a40"
