"""`chameleon fit`: what it prints and writes, and that a start that was stopped is gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.engine_costs import EngineCosts
from sim.fidelity import fitting, published, slora, slora_h100
from sim.fidelity.fitting import Trial
from sim.files.yamlfile import load
from sim.hardware import load_hardware
from tests.commands import chameleon
from tests.test_fidelity_vllm_fit import TABLES
from tests.test_fidelity_vllm_v0_fit import run as v0_run

RUNS = (
    "file,num_adapters,alpha,req_rate,cv,duration,in_lo,in_hi,out_lo,out_hi,throughput,avg_latency,"
    "avg_first_token_latency\n"
    "synthetic_cv_a10g_S1_slora.jsonl,4,1,1,2,20,8,64,8,32,0.9,2,0.2\n"
    "synthetic_cv_a10g_S1_slora.jsonl,4,1,2,2,20,8,64,8,32,1.8,2,0.3\n"
    "synthetic_cv_a100-80_S4_slora.jsonl,4,1,1,2,20,8,64,8,32,0.9,2,0.2\n"
    "synthetic_cv_a100-80_S4_slora.jsonl,4,1,2,2,20,8,64,8,32,1.8,2,0.3\n"
)
H100_RUNS = "n_lora,rate_per_lora,req_thr,ttft_p50_ms,tpot_mean_ms\n4,0.001,0.004,60,16\n4,0.002,0.008,60,16\n"


@pytest.fixture
def slora_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of small tables, which get one step of a fit."""
    monkeypatch.setattr(fitting, "STEPS", ((0.1, 1),))
    (tmp_path / slora.FILE).write_text(RUNS)
    (tmp_path / slora_h100.FILE).write_text(H100_RUNS)
    return tmp_path


@pytest.fixture
def vllm_data(tmp_path: Path) -> Path:
    """Return a folder of made-up steps and of short runs of servers."""
    steps = [row.model_dump() for row in (*TABLES.steps, *TABLES.other_steps)]
    runs = [row.model_copy(update={"dur": 20.0}).model_dump() for row in TABLES.runs]
    _write_rows(tmp_path / published.VLLM_MICRO, steps)
    _write_rows(tmp_path / published.VLLM_RUNS, runs)
    return tmp_path


@pytest.fixture
def v0_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of two short runs of V0's servers, which get one step of a fit."""
    monkeypatch.setattr(fitting, "STEPS", ((0.1, 1),))
    _write_rows(tmp_path / published.VLLM_RUNS, [v0_run(at, dur=10.0).model_dump() for at in range(2)])
    return tmp_path


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [rows[0], *([_cell(value) for value in row.values()] for row in rows)]
    path.write_text("\n".join(map(",".join, lines)) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, tuple):  # one rate for all adapters
        (value,) = value
    return "" if value is None else str(value)


def test_a_fit_of_s_lora_that_was_stopped_goes_on_where_it_was(
    slora_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("fit", "slora", "--data", slora_data, "-j", "1")
    at_once = chameleon(*command)
    assert at_once.code == 0
    counted: list[str] = []
    real = slora.SloraCase.simulated

    def simulated(case: slora.SloraCase, trial: Trial) -> dict[str, float]:
        if len(counted) == 20:
            raise KeyboardInterrupt
        counted.append(case.name)
        return real(case, trial)

    with monkeypatch.context() as patch:
        patch.setattr(slora.SloraCase, "simulated", simulated)
        stopped = chameleon(*command, "--keep", tmp_path / "kept")
    assert (stopped.code, stopped.out) == (130, "")
    assert "what was finished is kept" in stopped.err
    kept = len(list((tmp_path / "kept").rglob("*.json")))
    assert kept > 20 // 2  # the engine's as well
    assert chameleon(*command, "--keep", tmp_path / "kept").out == at_once.out
    assert len(list((tmp_path / "kept").rglob("*.json"))) > kept


def test_what_a_fit_has_simulated_is_kept_beside_what_it_writes(slora_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = chameleon("fit", "slora", "--data", slora_data, "-j", "1", "--out", out)
    assert said.code == 0
    assert {path.name for path in out.iterdir()} == {
        "kept",
        "fit.json",
        "slora-released.yaml",
        "a10g.yaml",
        "a100-80.yaml",
    }
    assert [one["target"] for one in json.loads((out / "fit.json").read_text())] == [
        "slora-released",
        "a10g",
        "a100-80",
    ]


def test_a_fit_of_vllm_says_what_comes_out_and_writes_an_engine_and_a_card(vllm_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = chameleon("fit", "vllm", "--data", vllm_data, "-j", "1", "--out", out)
    assert said.code == 0
    assert said.out.count("do not come out; they stay as they are.") == 2  # made-up steps are of another engine
    assert "itl_ms, unseen, the other model" in said.out
    assert "tpot_mean, as shipped" in said.out
    assert {path.name for path in out.iterdir()} == {"kept", "fit_vllm.json", "vllm.yaml", "h100-64.yaml"}
    steps, servers = json.loads((out / "fit_vllm.json").read_text())
    assert load_hardware(out / "h100-64.yaml").dense.flops_per_s == servers["values"][0]["dense.flops_per_s"]
    assert len(steps["fitted"]) == len(TABLES.steps)
    assert chameleon("fit", "vllm", "--data", vllm_data, "-j", "1", "--out", out).out == said.out


def test_a_fit_of_v0_writes_an_engine_with_what_all_runs_say(v0_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = chameleon("fit", "vllm-v0", "--data", v0_data, "-j", "1", "--out", out)
    assert said.code == 0
    assert {path.name for path in out.iterdir()} == {"kept", "fit_v0.json", "vllm-v0.yaml"}
    (told,) = json.loads((out / "fit_v0.json").read_text())
    assert (told["target"], told["set"]) == ("vllm-v0", "vllm-v0-h100")
    costs = EngineCosts.model_validate(load(out / "vllm-v0.yaml").tree["costs"], strict=False)
    values = {key: value for key, value in told["values"][0].items() if key.startswith("costs.")}
    assert {key: getattr(costs, key[6:]) for key in values} == pytest.approx(values, rel=1e-3)
    assert "loading.disk_latency_s" in said.out


@pytest.mark.parametrize(
    ("what", "file"), [("slora", slora.FILE), ("vllm", published.VLLM_MICRO), ("vllm-v0", published.VLLM_RUNS)]
)
def test_a_fit_of_absent_tables_says_which(tmp_path: Path, what: str, file: str) -> None:
    said = chameleon("fit", what, "--data", tmp_path)
    assert said.code == 2
    assert file in said.err
