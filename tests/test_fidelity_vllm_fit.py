"""Fits of vLLM: made-up steps and servers give back what made them, and what steps cannot show is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.engine_costs import EngineCosts
from sim.fidelity import fit_report, vllm_fit
from sim.fidelity.fitting import Values
from sim.fidelity.measures import NO_LOAD, Measure
from sim.fidelity.slora_profiles import system_text
from sim.fidelity.vllm_fit import ENDS, ServerRun, Tables, VllmFit, fit_vllm, halved, read, work
from sim.fidelity.vllm_micro import FITTED, MicroRow, step_s
from sim.fidelity.vllm_profiles import profile
from sim.fidelity.vllm_rows import RunRow
from sim.fidelity.vllm_server import HARDWARE, SYSTEM
from sim.fidelity.vllm_steps_fit import FLOPS, HOST, KV, fit_steps, shipped, trial_of
from sim.files.yamlfile import load
from sim.hardware import load_hardware
from sim.hardware_file import write_profile

MEASURED = Path(__file__).parents[2] / "shared" / "data" / "measured"
needs_tables = pytest.mark.skipif(not MEASURED.is_dir(), reason="the published tables are not here")

TRUTH: Values = {
    HOST: 1.1e-3, "costs.batched_s": 0.9e-3, "costs.slot_block_s": 1.2e-9,
    "costs.distinct_s": 2e-4, "costs.enabled_s": 1e-3, KV: 1.2e12, FLOPS: 6e14,
}  # fmt: skip
ROW: dict[str, Any] = {"model": "llama", "max_loras": 0, "max_rank": 0, "active_adapters": 0, "out_len": 100}


def published(values: Values, first_token_more_ms: float = 7.0, **cells: Any) -> MicroRow:
    """Return a step that takes what some coefficients say."""
    row = MicroRow.model_validate({**ROW, "itl_ms": 1.0, **cells})
    itl_ms = 1e3 * step_s(row, trial_of(values))
    return row.model_copy(update={"itl_ms": itl_ms, "ttft_ms": itl_ms + first_token_more_ms})


def steps(values: Values, model: str = "llama") -> tuple[MicroRow, ...]:
    """Return steps of the three kinds that are published."""
    alone: list[dict[str, Any]] = [
        {"set": "one", "batch": 1, "max_loras": slots, "max_rank": 8, "active_adapters": 1}
        for slots in range(8, 368, 40)
    ]
    without = [{"set": "off", "batch": n, "out_len": out} for n in (50, 200, 600, 1000) for out in (100, 400)]
    lora = {"set": "on", "max_loras": 300, "max_rank": 8}
    many = [{**lora, "batch": 220, "active_adapters": n} for n in (1, 32, 96, 160, 256)]
    return tuple(published(values, model=model, **cells) for cells in (*alone, *without, *many))


def test_the_coefficients_of_made_up_steps_come_back() -> None:
    found = fit_steps(steps(TRUTH))
    assert {key: found[key] for key in TRUTH} == pytest.approx(TRUTH, rel=5e-3)


def scaled(row: MicroRow, factor: float) -> MicroRow:
    assert row.itl_ms is not None
    return row.model_copy(update={"itl_ms": factor * row.itl_ms})


def test_a_few_wrong_steps_move_little() -> None:
    rows = [scaled(row, 1.0 if at % 7 else 1.3) for at, row in enumerate(steps(TRUTH))]
    found = fit_steps(rows)
    assert found["costs.distinct_s"] == pytest.approx(TRUTH["costs.distinct_s"], rel=0.1)


def test_no_fitted_rate_is_above_the_peak_and_no_time_below_zero() -> None:
    found = fit_steps([scaled(row, 0.8) for row in steps({**TRUTH, KV: 1.64e12})])
    assert found[KV] <= load_hardware(HARDWARE).peak_hbm_bytes_per_s
    assert min(found.values()) >= 0


# --- servers ----------------------------------------------------------------------------------------------------------


def run(at: int) -> RunRow:
    """Return a calibration run."""
    return RunRow.model_validate(
        {
            "model": "llama-3.1-8b-instruct", "max_loras": 16, "max_lora_rank": 16, "n_adapters": 16,
            "rates": f"0.0{at + 1}", "ok": 10, "dur": 60.0, "in_tok": 2200, "out_tok": 190, "rps": 0.16 * (at + 1),
            "ttft_p50": 50.0 + at, "ttft_p99": 90.0, "ttft_mean": 55.0, "tpot_mean": 14.0 + at, "itl_mean": 14.0,
        }
    )  # fmt: skip


TABLES = Tables(steps(TRUTH), steps(TRUTH, "qwen"), tuple(run(at) for at in range(4)))


class Servers:
    """Servers of which the logarithm of each metric is linear in `prompt_s`; one choice meets them."""

    def __init__(self, prompt_s: float) -> None:
        self.asked: list[ServerRun] = []
        self._met = prompt_s

    def __call__(self, runs: Sequence[ServerRun]) -> list[list[Measure]]:
        self.asked += runs
        return [self._measures(run) for run in runs]

    def _measures(self, run: ServerRun) -> list[Measure]:
        off = (dict(run.values)["costs.prompt_s"] - self._met) * 1e3
        return [
            Measure("vllm-lora-h100-8b-fit", run.name, "", metric, 1.0, float(np.exp(off * slope)))
            for metric, slope in (("ttft_p50", 0.08), ("tpot_mean", 0.02))
        ]


@pytest.fixture(scope="module")
def servers() -> Servers:
    return Servers(5.5e-3)


@pytest.fixture(scope="module")
def found(servers: Servers) -> VllmFit:
    return fit_vllm(TABLES, servers)


def test_servers_show_what_steps_do_not(servers: Servers, found: VllmFit) -> None:
    assert found.servers[0].values["costs.prompt_s"] == pytest.approx(5.5e-3, rel=0.02)
    assert found.servers[0].values["costs.api_s"] == pytest.approx(1.5e-3, rel=0.05)
    assert found.servers[0].values.items() >= found.steps[0].values.items()
    assert max(abs(one.relative_error) for one in found.servers[0].fitted) < 1e-2
    assert sum(run.requests for run in servers.asked) == work(TABLES)


def test_each_half_is_served_with_what_the_other_one_asked_for(found: VllmFit) -> None:
    even, odd = ({row.words for row in half} for half in halved(TABLES.runs))
    assert [{one.row for one in half.unseen} for half in found.servers[1:]] == [odd, even]
    first, second = ({row.words for row in half} for half in halved(TABLES.steps))
    assert [{one.row for one in half.unseen} for half in found.steps[1:]] == [second, first]
    assert {one.row for one in found.steps[0].unseen} == {row.words for row in TABLES.other_steps}


def test_the_packaged_engine_is_served_too(servers: Servers, found: VllmFit) -> None:
    packaged = [run.name for run in servers.asked if dict(run.values) == shipped(*dict(run.values))]
    assert packaged == [one.row for one in found.packaged[::2]] == [row.words for row in TABLES.runs]


@pytest.mark.parametrize(("met", "end"), list(zip((1e-3, 9e-3), ENDS, strict=True)))
def test_what_is_found_lies_between_the_ends(met: float, end: float) -> None:
    values = fit_vllm(TABLES, Servers(met)).servers[0].values
    assert values["costs.prompt_s"] == pytest.approx(end * 7e-3, rel=3e-3)


def test_a_run_is_served_with_its_own_coefficients() -> None:
    packaged = shipped("costs.prompt_s", "costs.api_s", "costs.batched_s")
    slow = {**packaged, "costs.api_s": packaged["costs.api_s"] + 0.1}
    one, other = (ServerRun(run(3), tuple(sorted(values.items()))) for values in (packaged, slow))
    (first, token), (later, same) = one.measures(), other.measures()
    assert later.simulated - first.simulated == pytest.approx(100.0, abs=1e-6)
    assert same.simulated == token.simulated
    assert (first.set, first.metric, first.measured) == ("vllm-lora-h100-8b-fit", "ttft_p50", 53.0)


def test_too_few_rows_to_halve_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_fit, "rated_rows", lambda path: [run(0)])
    monkeypatch.setattr(vllm_fit, "micro_cases", lambda path: [])
    with pytest.raises(ValueError, match="0 steps of the fitted model; at least 20"):
        read(tmp_path)


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_fitted_values_stand_beside_the_shipped_ones(found: VllmFit) -> None:
    header, rows = fit_report.values_grid(found.steps)
    assert header == ["coefficient", "all rows", "shipped", "difference", "one half", "other half"]
    line = dict(zip(header, next(row for row in rows if row[0] == "costs.distinct_s"), strict=True))
    assert (line["shipped"], line["difference"]) == (
        "0.000307",
        f"{100 * (float(line['all rows']) / 307e-6 - 1):+.1f} %",
    )


def test_whether_the_shipped_values_come_out_is_said() -> None:
    values = shipped(HOST, KV)
    assert fit_report.verdict(values).startswith("The shipped values come out")
    told = fit_report.verdict(values | {HOST: 1.02 * values[HOST]})
    assert told == "The shipped values of costs.host_s do not come out; they stay as they are."


def test_errors_are_told_by_what_was_seen(found: VllmFit) -> None:
    groups = fit_report.servers_groups(found)
    assert [len(own) for own in groups.values()] == [8, 8, 8]
    header, rows = fit_report.errors_grid(
        {"seen": [Measure("s", "r", NO_LOAD, "itl_ms", 1.0, at) for at in (0.9, 1.2)]}
    )
    assert dict(zip(header, rows[0], strict=True)) == {
        "relative errors": "itl_ms, seen", "rows": "2", "mean size": "15.0 %", "largest": "20.0 %", "bias": "+5.0 %",
    }  # fmt: skip


def test_every_number_is_left_for_machines(found: VllmFit) -> None:
    told_steps, told_servers = fit_report.as_dicts(found)
    assert (told_steps["set"], told_servers["set"]) == ("vllm-h100-microbench", "vllm-lora-h100-8b")
    assert told_servers["values"][0] == found.servers[0].values
    assert set(told_servers["priors"]) == set(told_servers["values"][0])
    assert len(told_servers["unseen"]) == 8
    assert len(told_steps["unseen"]) == len(TABLES.steps)


def test_a_fitted_engine_and_card_are_files_that_load(found: VllmFit, tmp_path: Path) -> None:
    values = found.servers[0].values
    path = tmp_path / "vllm.yaml"
    path.write_text(system_text(values, SYSTEM))
    costs = EngineCosts.model_validate(load(path).tree["costs"], strict=False)
    assert {key: getattr(costs, key[6:]) for key in values if key.startswith("costs.")} == pytest.approx(
        {key: value for key, value in values.items() if key.startswith("costs.")}, rel=1e-3
    )
    card = load_hardware(write_profile(profile(found), tmp_path, "a command"))
    assert (card.attention.kv_bytes_per_s, card.dense.flops_per_s) == (values[KV], values[FLOPS])
    assert "other model" in card.dense.source


@needs_tables
def test_the_shipped_coefficients_come_out_of_the_published_steps() -> None:
    tables = read(MEASURED)
    assert len(tables.runs) == 14
    assert {row.model for row in tables.steps} == {FITTED}
    values = fit_steps(tables.steps)
    assert values == pytest.approx(shipped(*values), rel=5e-3)
