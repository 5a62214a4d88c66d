"""A profile that `gpu fit` wrote, in the commands that simulate: what it rests on is said, and what a CPU made is."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gpu_validate.engine_costs import engine_costs
from gpu_validate.live import Served, Setup, serve
from gpu_validate.observed import from_result
from gpu_validate.profile import merge, with_attention, write_profile
from gpu_validate.solvers import Fit
from sim.build import deploy, play
from sim.config import Loaded, load_config
from sim.experiments.run import result_of
from sim.hardware import Attention, Hardware, MeasuredOn, load_hardware
from tests.commands import chameleon

LINK = {"h2d_bytes_per_s": 9.0e9, "h2d_latency_s": 2.0e-5, "copy_issue_s": 3.0e-6}
LOOP = {"kernel": "torch_loop", "host_s": 1.0e-3, "host_factor": 1.0}
ATTENTION: dict[str, Any] = {
    "origin": "measured",
    "source": "a sweep",
    "kv_bytes_per_s": 2.0e9,
    "prefill_flops_per_s": 5.0e13,
}
ATTENTION |= {"floor_s": 1.0e-5, "sequence_s": 1.0e-6, "valid_tokens": [1, 256]}
COSTS = {"kernel": "segmented", "host_s": 1.0e-3, "padded_share": 0.0, "distinct_s": 0.0}
WARNING = "was measured on a CPU: that tries the harness and is no evidence"


def profile_of(device: str, folder: Path) -> Path:
    """Write a profile whose link was measured on a device."""
    fit = Fit(name="link", values=LINK, intervals={}, errors={}, tokens=None)
    measured_on = MeasuredOn(device=device, versions={"torch": "2"}, date="2026-01-01")
    path = folder / "profile.yaml"
    write_profile(merge(load_hardware("a40"), {"link": fit}, measured_on, "a sweep"), path)
    return path


@pytest.fixture
def report_beside() -> Callable[[Path], Path]:
    """Return what writes a fit's report beside a profile."""

    def write(profile: Path) -> Path:
        told: dict[str, Any] = {"profile": {"sha256": sha256(profile.read_bytes()).hexdigest()}}
        told |= {
            "engine_costs": {"segmented": {"kernel": "segmented"}, "segmented graph": COSTS, "torch_loop eager": LOOP}
        }
        told |= {"engine_attention": ATTENTION}
        (profile.parent / "fit.json").write_text(json.dumps(told))
        return profile

    return write


@pytest.mark.parametrize("content", ["{", "{}", '{"profile": {"sha256": "x"}}', "[]"])
def test_a_fit_that_is_damaged_is_named(content: str, tmp_path: Path) -> None:
    profile = profile_of("NVIDIA A40", tmp_path)
    (tmp_path / "fit.json").write_text(content)
    with pytest.raises(ValueError, match=r"fit\.json: not as `chameleon gpu fit` wrote it"):
        engine_costs(str(profile), Setup())


@pytest.mark.parametrize(
    ("device", "origin", "is_warned"), [("cpu x86_64", "measured on a CPU", True), ("NVIDIA A40", "measured", False)]
)
def test_a_run_says_where_its_profile_was_measured(
    device: str, origin: str, *, is_warned: bool, tmp_path: Path
) -> None:
    said = chameleon("run", "-n", "20", "--hardware", profile_of(device, tmp_path), "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert f"profile.yaml: dense fitted, attention derived, link {origin}, lora derived" in said.err
    assert (WARNING in said.err) == is_warned
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["costs"]["origins"]["link"] == origin


def test_a_sweep_and_a_comparison_warn_of_a_profile_from_a_cpu(tmp_path: Path) -> None:
    profile = profile_of("cpu x86_64", tmp_path)
    words = ("sweep", "-s", "slora", "--rates", "5", "--reps", "1", "-n", "20", "-j", "1", "--hardware", profile)
    swept = chameleon(*words)
    assert swept.code == 0, swept.err
    assert WARNING in swept.err
    for system in ("slora", "chameleon"):
        chameleon("run", "--system", system, "-n", "20", "--hardware", profile, "--out", tmp_path / system)
    compared = chameleon("compare", tmp_path / "slora", tmp_path / "chameleon")
    assert compared.code == 0, compared.err
    assert compared.err.count(WARNING) == 1


def test_a_check_predicts_the_engine_that_was_calibrated(tmp_path: Path, report_beside: Callable[[Path], Path]) -> None:
    profile = report_beside(profile_of("NVIDIA A40", tmp_path))
    costs, attention, remark = engine_costs(str(profile), Setup("cuda", "segmented"))
    assert costs is not None
    assert attention is not None
    assert (costs["kernel"], costs["host_s"], costs["launch_s"]) == ("segmented", 1.0e-3, 0.0)
    assert attention.kv_bytes_per_s == 2.0e9
    assert remark == (
        "engine costs: segmented graph, fitted with the profile; "
        "attention: the engine's own kernel in place of the profile's, 2 GB/s of KV, fitted with it"
    )


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        (Setup("cuda", "bgmv"), "has no iterations of bgmv graph; it has segmented graph"),
        (Setup("cuda", "segmented", uses_graphs=False), "has no iterations of segmented eager"),
        (Setup("cpu", "segmented"), "has no iterations of segmented eager"),
    ],
)
def test_an_engine_that_was_not_calibrated_is_told(
    setup: Setup, why: str, tmp_path: Path, report_beside: Callable[[Path], Path]
) -> None:
    costs, attention, remark = engine_costs(str(report_beside(profile_of("NVIDIA A40", tmp_path))), setup)
    assert costs is None
    assert attention is not None  # it is one kernel whatever the LoRA backend and the launches
    assert why in remark


def test_a_report_of_another_profile_gives_no_costs(tmp_path: Path, report_beside: Callable[[Path], Path]) -> None:
    profile = report_beside(profile_of("NVIDIA A40", tmp_path))
    profile.write_text(profile.read_text() + "# changed\n")
    found = engine_costs(str(profile), Setup("cuda", "segmented"))
    assert (found.costs, found.attention) == (None, None)
    assert "is of another profile" in found.remark
    assert "attention: the profile's" in found.remark
    assert engine_costs("a40", Setup()).costs is None


def test_a_check_predicts_and_serves_with_the_engine_s_own_attention(
    tmp_path: Path, report_beside: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from gpu_validate import checking  # noqa: PLC0415 - needs torch

    given: list[Hardware] = []

    def serve(loaded: Loaded, _setup: Setup, label: str, *, gpu: Hardware) -> Served:
        given.append(gpu)
        deployment = deploy(loaded, gpu=gpu)
        result = result_of(deployment, *play(deployment))
        return Served(result, from_result(result, label))

    monkeypatch.setattr(checking, "serve", serve)
    profile = report_beside(profile_of("NVIDIA A40", tmp_path))
    asked: dict[str, Any] = {"systems": ("slora",), "rates": (2.0,), "requests": 12, "hardware": str(profile)}
    asked |= {"model": None, "changes": (), "seed": 1, "capacity": None, "repeats": False}
    plan = checking.Plan(**asked, setup=Setup("cpu", "torch_loop"), out=tmp_path / "out")
    said = list(checking.run_check(plan))
    assert given[0].attention.kv_bytes_per_s == 2.0e9
    report = json.loads((tmp_path / "out" / "slora-at-2.json").read_text())
    assert report["sim_vs_real"]["metrics"]["e2el_s"]["ape_p90"] == 0
    assert "the engine's own kernel in place of the profile's, 2 GB/s of KV" in report["predicted_with"]
    assert report["predicted_with"] in said[1]
    frozen = json.loads((tmp_path / "out" / "profile.frozen.json").read_text())
    assert frozen["engine_attention"]["kv_bytes_per_s"] == 2.0e9
    assert frozen["profile"]["attention"]["kv_bytes_per_s"] > 1e11


def test_served_iterations_are_predicted_by_the_profile_that_is_given() -> None:
    pytest.importorskip("torch")
    slow = with_attention(load_hardware("a40"), Attention.model_validate({**ATTENTION, "kv_bytes_per_s": 1.0e6}))
    workload = {"requests": 3, "rate_per_s": 50.0, "scale": 20.0}
    served = serve(load_config("slora", (), {"workload": workload}), Setup("cpu", "torch_loop"), gpu=slow)
    iterations = served.observed.iterations
    assert iterations is not None
    decode = iterations[iterations["kind"] == "decode"]
    assert len(decode)
    assert (decode["predicted_s"] > 0.5).all()  # 0.5 MiB a token at 1 MB/s, if it is asked
