"""A hardware profile from tables of per-layer times: known coefficients come back, faults are told with their place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.costs import CostModel, EngineCosts
from sim.fidelity.layer_tables import LAYER_KERNELS, PREFIX, read_tables
from sim.fidelity.layers import LayersFit, attention_layer_s, dense_layer_s, fit_layers
from sim.files.yamlfile import validate
from sim.files.yamltext import ConfigError, parse
from sim.hardware import Attention, Hardware, load_hardware
from sim.models import load_model
from sim.serving.shape import NO_LOAD
from sim.serving.ticks import to_seconds

MEASURED = Path(__file__).parents[2] / "shared" / "data" / "measured"
MODEL = load_model("llama-3.1-8b")
TOKENS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 100, 128, 129, 200, 256, 300, 384, 512, 600, 1024, 1500, 2048)
FLOPS_PER_S, BYTES_PER_S, FLOORS_S, TOKEN_S, UNHIDDEN = 1.2e14, 8e11, 40e-6, 2e-7, 0.25
ATTENTION = Attention(
    origin="fitted",
    source="made up",
    kv_bytes_per_s=7e11,
    prefill_flops_per_s=9e13,
    floor_s=9e-6,
    sequence_s=3e-7,
    mixed_kv_bytes_per_s=4e11,
)


def dense_rows() -> Iterator[str]:
    """Yield a table that follows the law exactly; all but one microsecond a kernel is the first matrix's."""
    yield "layer,tokens,time_us"
    coefficients = np.array([FLOPS_PER_S, BYTES_PER_S, FLOORS_S, TOKEN_S, UNHIDDEN])
    seconds = dense_layer_s(coefficients, np.array(TOKENS, dtype=float), MODEL)
    for tokens, layer_s in zip(TOKENS, seconds, strict=True):
        yield f"embedding,{tokens},1e6"
        for kernel in LAYER_KERNELS:
            rest_us = sum(LAYER_KERNELS.values()) - 1
            yield f"{kernel},{tokens},{layer_s * 1e6 - rest_us if kernel == 'qkv_proj' else 1}"


def attention_rows(mixed_factor: float = 1.0) -> Iterator[str]:
    """Yield a table that follows the law exactly, but for a factor on steps that mix decode and prefill."""
    yield "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    decodes = [(0, 0, *one) for one in product((1, 4, 16, 64, 100), (16, 128, 1024, 4096, 8192))]
    prefills = [(*one, 0, 0) for one in product((64, 256, 512, 1024, 2048), (0, 128, 1024))]
    mixed = [(512, before, *one) for before in (0, 128) for one in product((16, 32), (1024, 4096))]
    for row in (*decodes, *prefills, *mixed):
        names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
        columns = {name: np.array([value], dtype=float) for name, value in zip(names, row, strict=True)}
        (seconds,) = attention_layer_s(columns, ATTENTION, MODEL)
        yield f"{','.join(map(str, row))},{seconds * 1e6 * (mixed_factor if row in mixed else 1)}"


def write(folder: Path, mixed_factor: float = 1.0) -> Path:
    """Write the three tables."""
    (folder / f"{PREFIX}_dense.csv").write_text("\n".join(dense_rows()))
    (folder / f"{PREFIX}_attention.csv").write_text("\n".join(attention_rows(mixed_factor)))
    (folder / f"{PREFIX}_per_sequence.csv").write_text(
        "layer,sequences,time_us\nlm_head,1,1320\nlm_head,64,1320\nsampler,1,20"
    )
    return folder


def error_of(fit: LayersFit, group: str) -> tuple[float | None, float, float]:
    """Return fitted error, held-out error and bias of one kind of rows."""
    (one,) = [one for one in fit.errors if one.group == group]
    return one.fit_mape, one.held_out_mape, one.held_out_bias


def test_the_coefficients_of_tables_that_follow_the_law_come_back(tmp_path: Path) -> None:
    profile = fit_layers(write(tmp_path)).profile
    dense, attention = profile.dense, profile.attention
    assert dense.flops_per_s == pytest.approx(FLOPS_PER_S, rel=0.01)
    assert dense.weight_bytes_per_s == pytest.approx(BYTES_PER_S, rel=0.02)
    assert dense.kernels_per_layer * dense.kernel_floor_s == pytest.approx(FLOORS_S, rel=0.2)
    assert dense.elementwise_s_per_token == pytest.approx(TOKEN_S, rel=0.05)
    assert dense.unhidden_share == pytest.approx(UNHIDDEN, rel=0.05)
    for name in ("kv_bytes_per_s", "prefill_flops_per_s", "floor_s", "sequence_s", "mixed_kv_bytes_per_s"):
        assert getattr(attention, name) == pytest.approx(getattr(ATTENTION, name), rel=0.01), name


def test_the_held_out_error_is_zero_where_the_law_holds(tmp_path: Path) -> None:
    fit = fit_layers(write(tmp_path))
    for group in ("linear layers", "attention, decode", "attention, prefill", "attention, decode beside prefill"):
        assert error_of(fit, group)[1] == pytest.approx(0, abs=0.005), group
    assert fit.profile.dense.held_out_mape == pytest.approx(error_of(fit, "linear layers")[1], abs=1e-4)


def test_rows_of_odd_index_are_not_fitted_but_tested(tmp_path: Path) -> None:
    spoilt = write(tmp_path) / f"{PREFIX}_dense.csv"
    clean = fit_layers(tmp_path).profile.dense
    lines = spoilt.read_text().splitlines()
    odd = {str(tokens) for tokens in sorted(TOKENS)[1::2]}
    doubled = [",".join((*cells[:2], str(2 * float(cells[2])))) for cells in (one.split(",") for one in lines[1:])]
    kept = [double if one.split(",")[1] in odd else one for one, double in zip(lines[1:], doubled, strict=True)]
    spoilt.write_text("\n".join((lines[0], *kept)))
    fit = fit_layers(tmp_path)
    assert fit.profile.dense.flops_per_s == clean.flops_per_s
    assert error_of(fit, "linear layers")[1] == pytest.approx(0.5, abs=0.01)


def test_steps_that_mix_decode_and_prefill_give_the_rate_of_mixed_kv_and_nothing_else(tmp_path: Path) -> None:
    plain = fit_layers(write(tmp_path)).profile
    slower = fit_layers(write(tmp_path, mixed_factor=2.0)).profile
    rates = [one.attention.mixed_kv_bytes_per_s or 0.0 for one in (plain, slower)]
    assert rates[1] < 0.6 * rates[0]
    attention = slower.attention.model_copy(update={"mixed_kv_bytes_per_s": rates[0]})
    assert slower.model_copy(update={"attention": attention}) == plain


def test_mixed_kv_is_read_no_faster_than_in_decode(tmp_path: Path) -> None:
    attention = fit_layers(write(tmp_path, mixed_factor=0.5)).profile.attention
    assert attention.mixed_kv_bytes_per_s == pytest.approx(attention.kv_bytes_per_s, rel=1e-3)


def test_mixed_steps_of_odd_index_are_not_fitted_but_tested(tmp_path: Path) -> None:
    path = write(tmp_path) / f"{PREFIX}_attention.csv"
    clean = fit_layers(tmp_path).profile.attention
    head, *lines = path.read_text().splitlines()
    odd = [one for one in lines if "0" not in (one.split(",")[0], one.split(",")[2])][1::2]
    doubled = [f"{cut[0]},{2 * float(cut[1])}" if one in odd else one for one in lines for cut in [one.rsplit(",", 1)]]
    path.write_text("\n".join((head, *doubled)))
    fit = fit_layers(tmp_path)
    assert fit.profile.attention == clean
    fit_mape, held_out_mape, bias = error_of(fit, "attention, decode beside prefill")
    assert (fit_mape, held_out_mape, bias) == pytest.approx((0.0, 0.5, -0.5), abs=0.01)


def test_the_lm_head_is_predicted_from_the_rates_of_the_layers(tmp_path: Path) -> None:
    parameters = MODEL.vocab * MODEL.hidden
    read_s = 2 * parameters / BYTES_PER_S + UNHIDDEN * 2 * np.array([1, 64]) * parameters / FLOPS_PER_S
    expected = float((read_s / 1320e-6 - 1).mean())
    assert error_of(fit_layers(write(tmp_path)), "LM head")[2] == pytest.approx(expected, abs=0.02)


def test_no_rate_goes_above_the_hardware_s_peak(tmp_path: Path) -> None:
    base = load_hardware("rtx-4090").model_dump(mode="json", exclude_none=True)
    slow = tmp_path / "slow.yaml"
    slow.write_text(yaml.safe_dump(base | {"peak_flops": 9e13, "peak_hbm_bytes_per_s": 6e11} | _slow_groups(base)))
    profile = fit_layers(write(tmp_path), hardware=str(slow)).profile
    assert profile.dense.flops_per_s <= 9e13
    assert max(profile.dense.weight_bytes_per_s, profile.attention.kv_bytes_per_s) <= 6e11 * 1.001


def _slow_groups(base: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    rates = {"flops_per_s": 5e13, "prefill_flops_per_s": 5e13, "weight_bytes_per_s": 5e11, "kv_bytes_per_s": 5e11}
    return {
        group: base[group] | {name: rate for name, rate in rates.items() if name in base[group]}
        for group in ("dense", "attention", "lora")
    }


def test_the_fitted_laws_are_those_of_the_cost_model(tmp_path: Path) -> None:
    profile = fit_layers(write(tmp_path)).profile
    dense, costs = profile.dense, CostModel(profile, MODEL, EngineCosts())
    floors_s = dense.kernels_per_layer * dense.kernel_floor_s
    rates = (dense.flops_per_s, dense.weight_bytes_per_s, floors_s, dense.elementwise_s_per_token)
    coefficients = np.array([*rates, dense.unhidden_share])
    for tokens in (1, 40, 300, 2048):
        (layer_s,) = dense_layer_s(coefficients, np.array([float(tokens)]), MODEL)
        assert costs.dense_s(tokens) == pytest.approx(MODEL.layers * layer_s)
    row = {"prefill_chunk": 0, "kv_prefill": 0, "n_decode": 8, "kv_decode": 500}
    (attention_s,) = attention_layer_s({k: np.array([float(v)]) for k, v in row.items()}, profile.attention, MODEL)
    told = costs.explain_decode(8, 8 * 500, 0, 0, 0, 0)["attention"]
    assert told == pytest.approx(MODEL.layers * attention_s, rel=1e-3)


def test_the_fitted_law_of_mixed_kv_is_that_of_the_cost_model(tmp_path: Path) -> None:
    profile = fit_layers(write(tmp_path)).profile
    costs = CostModel(profile, MODEL, EngineCosts())
    columns = {"prefill_chunk": [512, 512], "kv_prefill": [0, 0], "n_decode": [8, 8], "kv_decode": [500, 100]}
    arrays = {name: np.array(values, dtype=float) for name, values in columns.items()}
    more, less = MODEL.layers * attention_layer_s(arrays, profile.attention, MODEL)
    ticks = [costs.mixed(8, 8 * context, 1, 512, 512**2, NO_LOAD) for context in (500, 100)]
    assert to_seconds(ticks[0] - ticks[1]) == pytest.approx(more - less, rel=1e-3)


def test_the_tree_of_a_fit_is_a_profile_s_file(tmp_path: Path) -> None:
    fit = fit_layers(write(tmp_path))
    document = parse(yaml.safe_dump(fit.tree), "profile.yaml")
    assert validate(Hardware, document.tree, document.marks) == fit.profile
    assert fit.tree["dense"]["origin"] == "fitted"


def test_every_line_says_which_rows_were_fitted(tmp_path: Path) -> None:
    lines = fit_layers(write(tmp_path)).lines
    assert any(
        one.startswith("linear layers: 0.0% on 11 fitted rows, 0.0% (bias") and "on 10 held-out" in one for one in lines
    )
    assert any(one.startswith("attention, decode beside prefill: 0.0% on 4 fitted rows, ") for one in lines)
    assert any(one.startswith("LM head: not fitted, ") for one in lines)


def test_a_kernel_that_is_missing_at_one_size_is_told(tmp_path: Path) -> None:
    path = write(tmp_path) / f"{PREFIX}_dense.csv"
    path.write_text("\n".join(one for one in dense_rows() if not one.startswith("o_proj,64,")))
    with pytest.raises(ConfigError, match=r"_dense.csv: 64 tokens: there is no row of o_proj"):
        read_tables(tmp_path)


def test_an_attention_table_without_pure_prefill_is_told(tmp_path: Path) -> None:
    path = write(tmp_path) / f"{PREFIX}_attention.csv"
    path.write_text("\n".join(one for one in attention_rows() if one.split(",")[2] != "0"))
    with pytest.raises(
        ConfigError, match=r"_attention.csv: need at least 8 rows of pure prefill \(n_decode 0\), got 0"
    ):
        read_tables(tmp_path)


def test_rows_of_a_kind_that_is_absent_have_no_error(tmp_path: Path) -> None:
    path = write(tmp_path) / f"{PREFIX}_attention.csv"
    head, *rows = attention_rows()
    pure = [one for one in rows if "0" in (one.split(",")[0], one.split(",")[2])]
    path.write_text("\n".join((head, *pure)))
    fit = fit_layers(tmp_path)
    assert fit.profile.attention.mixed_kv_bytes_per_s is None
    groups = [one.group for one in fit.errors]
    assert groups == ["linear layers", "attention, decode", "attention, prefill", "LM head"]


def test_an_unknown_kernel_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path) / f"{PREFIX}_per_sequence.csv"
    path.write_text("layer,sequences,time_us\nlm_head,1,1320\nlmhead,64,1320")
    with pytest.raises(ConfigError, match=r"_per_sequence.csv:3: layer: .*'lm_head' or 'sampler', got 'lmhead'"):
        read_tables(tmp_path)


@pytest.fixture(scope="module")
def published() -> LayersFit:
    if not MEASURED.is_dir():
        pytest.skip("the measured data are not on this machine")
    return fit_layers(MEASURED)


def test_the_packaged_profile_is_the_fit_of_the_published_tables(published: LayersFit) -> None:
    assert published.profile == load_hardware("rtx-4090")


def test_linear_layers_of_the_published_tables_are_met_within_three_per_cent(published: LayersFit) -> None:
    assert error_of(published, "linear layers")[1] < 0.03


def test_decode_attention_of_the_published_tables_is_met_within_ten_per_cent(published: LayersFit) -> None:
    assert error_of(published, "attention, decode")[1] < 0.10
