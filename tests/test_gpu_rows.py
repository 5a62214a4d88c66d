"""Rows of a sweep: what they hold, that they survive, and which of them cannot be true."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_validate.amounts import amount_of
from gpu_validate.engine_laws import launch_law, lora_law
from gpu_validate.laws import attention_law, dense_law, link_law
from gpu_validate.rows import Amount, Peaks, Row, Sheet, implied, key_of, read_rows, too_fast
from gpu_validate.shapes import KERNELS, TINY, find_model, kernel_shapes, load_shapes
from sim.hardware import load_hardware
from sim.models import Model, load_model, model_names

ROW = Row(
    kind="load",
    config={"mode": "flat", "bytes": 1024, "ops": 1, "rank": 0, "model": "", "concurrent": 1, "split": "fit"},
    p20=1e-6,
    p50=2e-6,
    p80=3e-6,
    n=20,
    clock="host",
    device="card",
    driver="1.2",
    torch="2.13",
    date="2026-01-02",
    seed=7,
    extra={"issue_s": 5e-7, "compute_slowdown": None},
)


def rows_file(folder: Path, *lines: str) -> Path:
    path = folder / "sweep.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(ROW.to_json()), **values})


def no_ops(_mode: str, _model: Model) -> int:
    return 1


def test_a_row_comes_back_as_it_was_written() -> None:
    assert Row.from_json(ROW.to_json()) == ROW


def test_a_row_is_flat_but_for_its_config() -> None:
    flat = json.loads(ROW.to_json())
    assert flat["issue_s"] == 5e-7
    assert [name for name, value in flat.items() if isinstance(value, dict)] == ["config"]


def test_a_row_is_in_the_file_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "new" / "sweep.jsonl")
    sheet.append(ROW)
    assert read_rows(sheet.path) == [ROW]


def test_a_second_start_knows_what_the_first_measured(tmp_path: Path) -> None:
    Sheet(tmp_path / "sweep.jsonl").append(ROW)
    again = Sheet(tmp_path / "sweep.jsonl")
    assert again.has("load", dict(reversed(ROW.config.items())))
    assert not again.has("load", {**ROW.config, "bytes": 2048})
    assert not again.has("probe", ROW.config)


def test_a_failed_attempt_is_made_again(tmp_path: Path) -> None:
    Sheet(tmp_path / "sweep.jsonl").append(replace(ROW, n=0, valid=False, why="failed: out of memory"))
    assert not Sheet(tmp_path / "sweep.jsonl").has("load", ROW.config)


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = rows_file(tmp_path, ROW.to_json())
    path.write_text(path.read_text() + ROW.to_json()[:40])
    Sheet(path).append(replace(ROW, seed=8))
    assert [row.seed for row in read_rows(path)] == [7, 8]


def is_square(model: Model) -> bool:
    """Whether a `dense` row can describe the model's output projection."""
    return model.heads * model.head_dim == model.hidden


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "a row must be an object"),
        ('{"kind": "load"}', "a row must have config"),
        (changed(p50="fast"), "p50 = 'fast' is of the wrong type"),
        (changed(n=True), "n = True is of the wrong type"),
        (changed(p50=-1.0), "must be finite and not negative"),
        (changed(kind="lod"), "unknown kind 'lod' - did you mean 'load'?"),
        (changed(clock="wall"), "unknown clock 'wall'"),
    ],
)
def test_a_malformed_line_is_located(line: str, said: str, tmp_path: Path) -> None:
    path = rows_file(tmp_path, ROW.to_json(), line)
    with pytest.raises(ValueError, match=r"sweep\.jsonl:2: ") as caught:
        Sheet(path)
    assert said in str(caught.value)


def test_rows_of_two_devices_do_not_share_a_file(tmp_path: Path) -> None:
    sheet = Sheet(rows_file(tmp_path, ROW.to_json()))
    with pytest.raises(ValueError, match="holds rows of card; give another folder for other"):
        sheet.append(replace(ROW, device="other"))


def test_the_hash_is_of_the_whole_sweep(tmp_path: Path) -> None:
    path = rows_file(tmp_path, ROW.to_json())
    assert Sheet(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_key_depends_on_the_shape_and_not_on_the_split() -> None:
    assert key_of("load", ROW.config) == key_of("load", {**ROW.config, "split": "test"}) == ROW.key
    assert key_of("load", {**ROW.config, "bytes": 1}) != ROW.key


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A40", 149.7e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-SXM4-40GB", None),
        ("cpu x86_64", None),
    ],
)
def test_peaks_come_from_the_profile_of_the_device(name: str, peak: float | None) -> None:
    assert Peaks.of_device(name).flops == (peak if peak is None else pytest.approx(peak))


def test_implied_rates_are_in_the_units_that_people_use() -> None:
    assert implied(Amount(flops=2e12, memory_bytes=3e9), 1.0) == {"gb_per_s": 3.0, "tflop_per_s": 2.0}
    assert implied(Amount(link_bytes=5e9), 0.5) == {"gb_per_s": 10.0}
    assert implied(Amount(), 1.0) == implied(Amount(flops=1), 0.0) == {}


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (Amount(flops=106), "106 FLOP/s is above 1.05 times the peak of 100"),
        (Amount(memory_bytes=213), "memory bytes/s"),
        (Amount(link_bytes=320), "link bytes/s"),
        (Amount(flops=104, memory_bytes=209, link_bytes=314), ""),
    ],
)
def test_a_rate_above_the_peak_is_told(amount: Amount, said: str) -> None:
    reason = too_fast(amount, 1.0, Peaks(100, 200, 300))
    assert said in reason
    assert bool(said) == bool(reason)


def test_without_peaks_nothing_is_too_fast() -> None:
    assert too_fast(Amount(1e30, 1e30, 1e30), 1.0, Peaks()) == ""


@pytest.mark.parametrize("name", [name for name in model_names() if is_square(load_model(name))])
def test_a_dense_shape_has_the_flops_of_the_models_matrices(name: str) -> None:
    model = load_model(name)
    config = next(shape.config for shape in kernel_shapes(model, 0) if shape.kind == "dense")
    parameters = sum(n * k for n, k in model.gemms.values())
    assert amount_of("dense", config) == Amount(2 * config["tokens"] * parameters, 2 * parameters)


def test_a_lora_shape_counts_each_tokens_own_rank() -> None:
    config = {"tokens": 5, "ranks": [8, 16], "in_features": 10, "out_features": 20, "projections": 1}
    assert amount_of("lora", config) == Amount(2 * (3 * 8 + 2 * 16) * 30, 2 * 24 * 30)


def test_slora_moves_each_byte_twice() -> None:
    config = {"bytes": 100, "concurrent": 2, "mode": "slora_double"}
    assert amount_of("load", config).link_bytes == 400
    assert amount_of("load", {**config, "mode": "flat"}).link_bytes == 200


@pytest.mark.parametrize("kind", ["launch", "iteration"])
def test_kinds_without_a_known_amount_imply_nothing(kind: str) -> None:
    assert amount_of(kind, {}) == Amount()


@pytest.mark.parametrize("tiny", [False, True])
def test_no_shape_is_in_two_splits(*, tiny: bool) -> None:
    model = TINY if tiny else load_model("llama-7b")
    shapes = kernel_shapes(model, 0, tiny=tiny) + load_shapes([model], 0, no_ops, pinned=True, tiny=tiny)
    ids = [shape.id for shape in shapes]
    assert len(set(ids)) == len(ids)
    assert {shape.split for shape in shapes} == {"fit", "test", "extrapolation"}


def test_the_same_seed_gives_the_same_shapes_in_the_same_order() -> None:
    model = load_model("llama-7b")
    assert kernel_shapes(model, 3) == kernel_shapes(model, 3)
    assert load_shapes([model], 3, no_ops, pinned=True) == load_shapes([model], 3, no_ops, pinned=True)


def test_a_seed_moves_test_shapes_only() -> None:
    model = load_model("llama-7b")
    one, other = ({(s.id, s.split) for s in kernel_shapes(model, seed)} for seed in (0, 1))
    assert {split for _, split in one ^ other} == {"test"}


def test_ids_do_not_change_between_versions() -> None:
    first = kernel_shapes(load_model("llama-7b"), 0)[0]
    assert first.config["tokens"] == 1
    assert first.id == "0b4d992d1407"


def test_every_kernel_family_can_be_fitted_and_tested() -> None:
    shapes = kernel_shapes(load_model("llama-3.1-8b"), 0)
    counts = Counter((shape.kind, shape.split) for shape in shapes)
    kinds = {"dense", "lm_head", "attention_prefill", "attention_decode", "attention_paged", "launch", "lora"}
    assert {kind for kind, split in counts if split == "fit"} == kinds
    assert {kind for kind, split in counts if split == "test"} == kinds


def test_the_grid_has_the_first_token_of_a_new_tile() -> None:
    dense = {s.config["tokens"] for s in kernel_shapes(load_model("llama-7b"), 0) if s.kind == "dense"}
    assert {64, 65, 128, 129, 2048, 2049} <= dense


def test_a_lora_shape_has_a_rank_for_each_distinct_adapter_and_a_token_for_each() -> None:
    loras = [shape.config for shape in kernel_shapes(load_model("llama-7b"), 0) if shape.kind == "lora"]
    assert all(len(config["ranks"]) == config["distinct"] <= config["tokens"] for config in loras)
    assert {config["phase"] for config in loras} == {"decode", "prefill"}


def test_a_short_model_name_is_enough_and_a_wrong_one_is_told() -> None:
    assert find_model("tiny") is TINY
    with pytest.raises(ValueError, match="did you mean 'llama-7b'"):
        find_model("lama-7b")


def test_a_model_that_a_dense_row_cannot_describe_is_refused() -> None:
    odd = TINY.model_copy(update={"head_dim": 32})
    with pytest.raises(ValueError, match="heads \\* head_dim must be the hidden size"):
        kernel_shapes(odd, 0)


SPARE = 1  # rows that may be noisy


@pytest.mark.parametrize("tiny", [True, False])
def test_a_sweep_has_enough_shapes_for_every_fit(*, tiny: bool) -> None:
    model = TINY if tiny else load_model("llama-7b")
    shapes = kernel_shapes(model, 0, tiny=tiny) + load_shapes([model], 0, no_ops, pinned=True, tiny=tiny)
    fitted = [shape for shape in shapes if shape.split == "fit"]
    hardware = load_hardware("a40")
    laws = (dense_law(hardware), attention_law(hardware), link_law(hardware), launch_law("eager"))
    for kind, least in ((kind, least) for law in laws for kind, least in law.needs.items()):
        assert sum(shape.kind == kind for shape in fitted) >= SPARE + least * (2 if kind == "launch" else 1), kind
    for kernel in KERNELS:
        law = lora_law("segmented", hardware, 1e12)
        assert sum(shape.config.get("kernel") == kernel for shape in fitted) >= SPARE + law.needs["lora"]
