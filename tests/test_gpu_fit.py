"""The fit: known coefficients come back, impossible rows do not count, and errors are those of unseen shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gpu_validate.engine.dims import BUCKETS
from gpu_validate.engine_laws import iteration_law, kernel_fields
from gpu_validate.fit import fit_text, run_fit
from gpu_validate.laws import dense_law
from gpu_validate.profile import with_attention
from gpu_validate.rows import Row as SweepRow
from gpu_validate.solvers import Fit, bounded_l1, fit_law
from gpu_validate.sweep_rows import Row
from sim.costs import CostModel, EngineCosts
from sim.hardware import Attention, Hardware, load_hardware
from sim.models import load_model
from sim.serving.ticks import to_seconds
from tests.gpu_sweeps import HARDWARE, TRUTH, report_of, row, seconds, sweep, write

LINEAR_LAYERS = Path(__file__).parents[2] / "shared/data/measured/linear_layers_llama2_7b_ms.csv"
DENSE = {"layers": 1, "hidden": 4096, "ffn": 11008, "qkv_out": 12288, "dtype": "bfloat16"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("fit")
    return report_of(run_fit(write(folder / "sweep.jsonl", sweep()), folder / "out", draws=12))


@pytest.mark.parametrize(
    ("group", "name", "tolerance"),
    [
        ("dense", "flops_per_s", 0.03),
        ("dense", "weight_bytes_per_s", 0.03),
        ("dense", "kernel_floor_s", 0.1),
        ("dense", "tile_tokens", 0.0),
        ("attention", "floor_s", 0.05),
        ("attention", "sequence_s", 0.1),
        ("attention", "kv_bytes_per_s", 0.05),
        ("attention", "prefill_flops_per_s", 0.05),
        ("engine attention", "floor_s", 0.05),
        ("engine attention", "sequence_s", 0.1),
        ("engine attention", "kv_bytes_per_s", 0.05),
        ("link", "h2d_bytes_per_s", 0.02),
        ("link", "h2d_latency_s", 0.05),
        ("link", "copy_issue_s", 0.05),
        ("link", "copy_gap_s", 0.05),
        ("lora bgmv", "l2_bytes_per_s", 0.05),
        ("lora bgmv", "lora_token_s", 0.05),
        ("lora bgmv", "active_s", 0.05),
        ("lora segmented", "distinct_s", 0.05),
        ("lora segmented", "active_s", 0.05),
    ],
)
def test_known_coefficients_come_back(report: dict[str, Any], group: str, name: str, tolerance: float) -> None:
    assert report["groups"][group]["values"][name] == pytest.approx(TRUTH[group][name], rel=tolerance)


def test_intervals_hold_the_coefficient_that_was_found(report: dict[str, Any]) -> None:
    found = report["groups"]["link"]
    low, high = found["intervals"]["h2d_bytes_per_s"]
    assert low < found["values"]["h2d_bytes_per_s"] < high


def test_launches_with_and_without_graphs_are_fitted_apart(report: dict[str, Any]) -> None:
    for way in ("eager", "graph"):
        assert report["groups"][f"launch {way}"]["values"]["kernel_s"] == pytest.approx(5e-6, rel=0.05)


def test_the_engine_s_own_attention_is_told_apart_from_the_card_s_best(report: dict[str, Any]) -> None:
    groups, told = report["groups"], report["engine_attention"]
    assert {name: told[name] for name in groups["engine attention"]["values"]} == groups["engine attention"]["values"]
    assert told["prefill_flops_per_s"] == groups["attention"]["values"]["prefill_flops_per_s"]
    assert told["kv_bytes_per_s"] < 0.7 * groups["attention"]["values"]["kv_bytes_per_s"]
    assert report["implied"]["kv_gb_per_s"]["rate"] == pytest.approx(
        TRUTH["attention"]["kv_bytes_per_s"] / 1e9, rel=0.05
    )


def test_a_sweep_without_the_engine_s_attention_tells_none_and_says_why(tmp_path: Path) -> None:
    rows = [one for one in sweep(0.0) if one.kind == "load"]
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", rows), tmp_path, draws=0))
    assert found["engine_attention"] is None
    assert (
        "engine attention: 0 usable attention_paged rows to fit, at least 4 are needed" in found["left_out"]["groups"]
    )


def test_a_padded_share_that_nothing_speaks_for_is_zero(report: dict[str, Any]) -> None:
    assert report["groups"]["lora segmented"]["values"]["padded_share"] == 0


def test_rows_above_the_peak_are_named_and_not_fitted(tmp_path: Path) -> None:
    link = [one for one in sweep(0.0) if one.kind == "load"]
    size = {"mode": "flat", "bytes": 2**28, "ops": 1, "rank": 0, "model": "", "concurrent": 1, "beside": "idle"}
    wrong = row("load", {**size, "pinned": True, "split": "fit", "place": 1}, 2**28 / 1e12)
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", [*link, wrong]), tmp_path, draws=0))
    (told,) = found["left_out"]["refused"]
    assert f"line {len(link) + 1}: load" in told
    assert "1e+12 link bytes/s is above 1.05 times the peak" in told
    assert found["groups"]["link"]["values"]["h2d_bytes_per_s"] == pytest.approx(5e10, rel=1e-3)


def test_invalid_rows_are_told_with_their_reason_and_not_fitted(tmp_path: Path) -> None:
    link = [one for one in sweep(0.0) if one.kind == "load"]
    bad = [row("load", {**one.config, "place": 1}, 9 * one.p50, valid=False, why="spread of 40 %") for one in link]
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", [*link, *bad]), tmp_path, draws=0))
    assert len(found["left_out"]["invalid"]) == len(link)
    assert "spread of 40 %" in found["left_out"]["invalid"][0]
    assert found["groups"]["link"]["values"]["h2d_bytes_per_s"] == pytest.approx(5e10, rel=1e-3)


def test_only_rows_of_split_fit_are_fitted_and_the_others_only_judged() -> None:
    rows = [one for one in sweep(0.0) if one.kind == "dense"]
    apart = {"fit": 1.0, "test": 1.25, "extrapolation": 2.0}
    given = [
        Row(1, one.kind, one.config, str(one.config["split"]), one.p50 * apart[str(one.config["split"])])
        for one in rows
    ]
    found = fit_law(dense_law(HARDWARE), given, draws=0)
    assert isinstance(found, Fit)
    mapes = {split: found.errors[split]["mape"] for split in apart}
    assert mapes == pytest.approx({"fit": 0.0, "test": 0.2, "extrapolation": 0.5}, abs=0.003)
    assert found.errors["test"]["n"] == sum(one.config["split"] == "test" for one in rows)


def test_a_group_with_too_few_rows_says_how_many_it_needs(tmp_path: Path) -> None:
    rows = [one for one in sweep(0.0) if one.kind in {"load", "attention_prefill"}]
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", rows), tmp_path, draws=0))
    assert "attention: 0 usable attention_decode rows to fit, at least 4 are needed" in found["left_out"]["groups"]
    assert "attention" not in found["groups"]


def test_linear_layers_without_unseen_shapes_are_not_called_measured(tmp_path: Path) -> None:
    rows = [one for one in sweep(0.0) if one.kind == "load" or one.config["split"] == "fit"]
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", rows), tmp_path, draws=0))
    assert found["origins"]["dense"] == "prior"


def test_a_sweep_in_which_nothing_can_be_fitted_is_an_error(tmp_path: Path) -> None:
    rows = [one for one in sweep(0.0) if one.kind == "attention_prefill"]
    with pytest.raises(ValueError, match="nothing could be fitted: dense: 0 usable dense rows"):
        run_fit(write(tmp_path / "sweep.jsonl", rows), tmp_path)


def test_rows_of_two_devices_are_refused(tmp_path: Path) -> None:
    rows = [row("launch", {"kernels": 1, "graph": False}, 1e-5), row("launch", {}, 1e-5, device="NVIDIA A40")]
    with pytest.raises(ValueError, match="several devices: NVIDIA A40, NVIDIA H200"):
        run_fit(write(tmp_path / "sweep.jsonl", rows), tmp_path)


def test_a_device_without_a_packaged_profile_needs_a_base(tmp_path: Path) -> None:
    rows = [row("launch", {"kernels": 1, "graph": False}, 1e-5, device="NVIDIA RTX 9999")]
    with pytest.raises(ValueError, match="no packaged profile is of 'NVIDIA RTX 9999'"):
        run_fit(write(tmp_path / "sweep.jsonl", rows), tmp_path)


def test_a_row_that_lacks_a_key_is_named_by_its_line(tmp_path: Path) -> None:
    rows = [*sweep(0.0)[:3], row("dense", {"tokens": 4}, 1.0)]
    with pytest.raises(ValueError, match=r"line 4: a dense row needs 'hidden' in its config"):
        run_fit(write(tmp_path / "sweep.jsonl", rows), tmp_path)


def test_copies_beside_other_work_are_told_as_slowdowns_and_do_not_bend_the_link(tmp_path: Path) -> None:
    link = [one for one in sweep(0.0) if one.kind == "load" and one.config["beside"] == "idle"]
    beside = [one for one in sweep(0.0) if one.kind == "load" and one.config["beside"] == "decode"]
    slow = [row("load", one.config, 3 * one.p50) for one in beside]
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", [*link, *slow]), tmp_path, draws=0))
    assert found["groups"]["link"]["values"]["h2d_bytes_per_s"] == pytest.approx(5e10, rel=1e-3)
    assert found["load_modes"]["flat beside=decode"]["slowdown"] == pytest.approx(3.0, rel=0.01)


def test_what_issuing_a_copy_takes_is_what_the_rows_say_they_took_to_issue(tmp_path: Path) -> None:
    link = [one for one in sweep(0.0) if one.kind == "load"]
    issued = [replace(one, extra={"issue_s": 3e-6 * one.config["ops"]}) for one in link]
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", issued), tmp_path, draws=0))["groups"]["link"]["values"]
    assert found["copy_issue_s"] == pytest.approx(3e-6)


def test_errors_of_lora_kernels_are_told_by_phase(report: dict[str, Any]) -> None:
    found = report["groups"]["lora bgmv"]["errors"]["test"]["by_kind"]
    assert {name: one["n"] > 0 for name, one in found.items()} == {"lora decode": True, "lora prefill": True}


def test_the_text_has_every_group_with_errors_and_their_n(report: dict[str, Any]) -> None:
    lines = fit_text(report).splitlines()
    for name, group in report["groups"].items():
        (line,) = [line for line in lines if line.startswith(f"{name}: mean absolute error")]
        assert f"test {100 * group['errors']['test']['mape']:.1f} % (n = {group['errors']['test']['n']})" in line


def test_the_text_says_which_groups_were_measured(report: dict[str, Any]) -> None:
    assert fit_text(report).splitlines()[1] == "measured groups: dense, attention, link, lora"
    unmeasured = report | {"origins": dict.fromkeys(report["origins"], "fitted")}
    assert "measured groups: none, all coefficients are those of the base profile" in fit_text(unmeasured)


def test_weights_of_four_bytes_take_twice_as_long_to_stream() -> None:
    rows = [Row(1, "dense", {**DENSE, "tokens": 1, "dtype": dtype}, "fit", 1.0) for dtype in ("bfloat16", "float32")]
    values = {**TRUTH["dense"], "kernel_floor_s": 0.0, "elementwise_s_per_token": 0.0}
    half, whole = dense_law(HARDWARE).predict(values, rows)
    assert whole == pytest.approx(2 * half)


def test_one_wild_row_does_not_move_the_coefficients() -> None:
    features = np.column_stack([np.ones(40), np.arange(1.0, 41.0)])
    measured = features @ np.array([2.0, 3.0])
    measured[7] *= 10
    assert bounded_l1(features, measured) == pytest.approx([2.0, 3.0], rel=1e-3)


def test_coefficients_stay_within_their_bounds() -> None:
    features = np.column_stack([np.ones(20), np.arange(1.0, 21.0)])
    found = bounded_l1(features, features @ np.array([-1.0, 3.0]) + 2, lower=[0.0, 4.0])
    assert found[0] == 0
    assert found[1] == pytest.approx(4.0)


def iteration_rows(*, graph: bool, hardware: Hardware = HARDWARE) -> list[Row]:
    """Iterations of an engine with known host costs on the packaged H200."""
    engine = EngineCosts(kernel="none", host_s=1e-3, host_per_running_s=2e-5, prefill_host_s=3e-3)
    engine = engine.model_copy(update={"prefill_launch_s" if graph else "launch_s": 12e-3})
    costs = CostModel(hardware, load_model("llama-7b"), engine)
    none = {"token_rank": 0, "sum_rank": 0, "distinct": 0, "distinct_rank": 0, "max_rank": 0}
    rows = []
    for at, batch in enumerate((1, 2, 4, 8, 16, 32, 64, 128) * 2):
        context = batch * (300 if at < 8 else 900)
        shape = {"requests": batch, "context_tokens": context, **none}
        took = to_seconds(costs.decode(batch, context, 0, 0, 0, 0).first)
        sums = {"tokens": batch, "squared_tokens": 0, "kernel": "none", "graph": graph, "model": "llama-7b"}
        rows.append(Row(at, "iteration", {"phase": "decode", **shape, **sums}, "fit", took))
        tokens = 100 * batch
        took = to_seconds(costs.prefill(1, tokens, tokens**2, 0, 0, 0, 0))
        sums |= {"tokens": tokens, "squared_tokens": tokens**2}
        shape |= {"requests": 1, "context_tokens": 0}
        rows.append(Row(at, "iteration", {"phase": "prefill", **shape, **sums}, "fit", took))
    return rows


@pytest.mark.parametrize("graph", [True, False])
def test_host_and_launch_costs_come_back_from_whole_iterations(graph: bool) -> None:
    law = iteration_law("iteration", HARDWARE, kernel_fields("none", None), has_graph=graph)
    found = fit_law(law, iteration_rows(graph=graph), draws=0)
    assert isinstance(found, Fit)
    expected = {"host_s": 1e-3, "host_per_running_s": 2e-5, "prefill_host_s": 3e-3}
    expected |= {"prefill_launch_s" if graph else "launch_s": 12e-3}
    assert found.values == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("graph", [True, False])
def test_a_launch_time_that_no_iteration_is_bound_by_is_zero(graph: bool) -> None:
    law = iteration_law("iteration", HARDWARE, kernel_fields("none", None), has_graph=graph)
    rows = [row for row in iteration_rows(graph=graph) if row.config["phase"] == "prefill" and row["tokens"] >= 1600]
    found = fit_law(law, rows, draws=0)
    assert isinstance(found, Fit)
    assert found.values == pytest.approx({"prefill_host_s": 3e-3, "prefill_launch_s" if graph else "launch_s": 0})


def iteration_sweep(hardware: Hardware) -> list[SweepRow]:
    """Every row of a sweep, and iterations of an engine that decodes with its own attention."""
    found = [
        row("iteration", {**one.config, "split": "fit"}, one.seconds)
        for one in iteration_rows(graph=True, hardware=hardware)
    ]
    return [*sweep(0.0), *found]


def test_host_times_are_what_is_left_beside_the_engine_s_own_attention(tmp_path: Path) -> None:
    first = run_fit(write(tmp_path / "sweep.jsonl", sweep(0.0)), tmp_path / "first", draws=0)
    engine = with_attention(load_hardware(first), Attention.model_validate(report_of(first)["engine_attention"]))
    path = write(tmp_path / "whole.jsonl", iteration_sweep(engine))
    costs = report_of(run_fit(path, tmp_path / "out", draws=0))["engine_costs"]["none graph"]
    expected = {"host_s": 1e-3, "host_per_running_s": 2e-5, "prefill_host_s": 3e-3, "prefill_launch_s": 12e-3}
    assert {name: costs[name] for name in expected} == pytest.approx(expected, rel=0.03)


def test_an_engine_from_graphs_is_predicted_with_their_batch_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "sweep.jsonl", iteration_sweep(HARDWARE))
    costs = EngineCosts.model_validate(report_of(run_fit(path, tmp_path, draws=0))["engine_costs"]["none graph"])
    assert costs.graph_buckets == BUCKETS


@pytest.mark.parametrize("base", ["a100-80", "h200"])
def test_fitted_host_times_are_those_of_this_machine_whatever_the_base_says(base: str, tmp_path: Path) -> None:
    path = write(tmp_path / "sweep.jsonl", iteration_sweep(HARDWARE))
    report = report_of(profile := run_fit(path, tmp_path, base, draws=0))
    engine = EngineCosts.model_validate({**report["engine_costs"]["none graph"], "api_s": 1e-3})
    assert CostModel(load_hardware(profile), load_model("llama-7b"), engine).api_s == pytest.approx(1e-3)


def test_a_kernel_the_cost_model_has_no_law_for_is_left_out_by_name(tmp_path: Path) -> None:
    link = [one for one in sweep(0.0) if one.kind == "load"]
    config = {"kernel": "magic", "phase": "decode", "tokens": 4, "distinct": 1, "ranks": [8], "in_features": 64}
    strange = row("lora", {**config, "out_features": 64, "projections": 1}, 1e-3)
    found = report_of(run_fit(write(tmp_path / "sweep.jsonl", [*link, strange]), tmp_path, draws=0))
    assert "lora magic: the cost model has no law for this kernel" in found["left_out"]["groups"]


@pytest.mark.skipif(not LINEAR_LAYERS.exists(), reason=f"the public table is not at {LINEAR_LAYERS}")
@pytest.mark.parametrize("gpu", ["a40", "a100-80", "h100"])
def test_linear_layers_of_a_real_gpu_are_predicted_within_six_per_cent(gpu: str) -> None:
    table = pd.read_csv(LINEAR_LAYERS)
    table = table[(table["gpu"] == gpu.removesuffix("-80")) & (table["tp"] == 1)].sort_values("num_tokens")
    took = zip(table["num_tokens"].tolist(), table["linear_ops_32_layers_ms"].tolist(), strict=True)
    rows = [
        Row(at, "dense", {**DENSE, "layers": 32, "tokens": tokens}, "test" if at % 2 else "fit", milliseconds / 1e3)
        for at, (tokens, milliseconds) in enumerate(took)
    ]
    found = fit_law(dense_law(load_hardware(gpu)), rows, draws=0)
    assert isinstance(found, Fit)
    assert found.errors["test"]["n"] > 100
    assert found.errors["test"]["mape"] < 0.06


def test_the_laws_are_those_of_the_cost_model() -> None:
    costs = CostModel(HARDWARE, load_model("llama-7b"), EngineCosts(kernel="none"))
    values = HARDWARE.dense.model_dump()
    law = dense_law(HARDWARE)
    rows = [Row(1, "dense", {**DENSE, "layers": 32, "tokens": tokens}, "fit", 1.0) for tokens in (1, 130, 5000)]
    assert law.predict(values, rows) == pytest.approx([costs.dense_s(tokens) for tokens in (1, 130, 5000)], rel=1e-9)
    assert seconds("dense", {**DENSE, "tokens": 1}) > 0
