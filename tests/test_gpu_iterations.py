"""Whole iterations of the mini engine: their shapes before anything runs, and a sweep on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_validate.iterations import ADAPTERS, DECODE_STEPS, POOL_TOKENS, iteration_shapes
from gpu_validate.rows import read_rows
from tests.commands import chameleon


def test_the_shapes_of_fit_and_test_differ_and_stay_the_same() -> None:
    shapes = list(iteration_shapes("llama-7b", "segmented", 0, graph=True))
    again = list(iteration_shapes("llama-7b", "segmented", 0, graph=True))
    assert [shape.id for shape in shapes] == [shape.id for shape in again]
    by_split = {
        split: {shape.id for shape in shapes if shape.split == split} for split in ("fit", "test", "extrapolation")
    }
    assert all(by_split.values())
    assert not by_split["fit"] & by_split["test"]


def test_no_shape_needs_more_than_the_pool() -> None:
    for shape in iteration_shapes("llama-7b", "bgmv", 0, graph=True):
        assert shape.config["requests"] * (shape.config["tokens_each"] + DECODE_STEPS) <= POOL_TOKENS


def test_a_batch_counts_its_adapters_as_the_cost_model_is_asked() -> None:
    shapes = list(iteration_shapes("llama-7b", "bgmv", 0, graph=True))
    decode = next(
        shape.config for shape in shapes if shape.config["phase"] == "decode" and shape.config["requests"] == 16
    )
    assert (decode["tokens"], decode["distinct"], decode["max_rank"]) == (16, 16, 128)
    assert decode["sum_rank"] == decode["distinct_rank"] == 3 * (8 + 16 + 32 + 64 + 128) + 8
    prefill = next(
        shape.config for shape in shapes if shape.config["phase"] == "prefill" and shape.config["requests"] == 16
    )
    assert prefill["token_rank"] == prefill["sum_rank"] * prefill["tokens_each"]
    assert prefill["squared_tokens"] == 16 * prefill["tokens_each"] ** 2
    wide = next(shape.config for shape in shapes if shape.config["requests"] == 128)
    assert wide["distinct"] == ADAPTERS


def test_a_sweep_on_a_cpu_leaves_a_row_for_every_shape_and_claims_no_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    said = chameleon("gpu", "iterations", "--device", "cpu", "--out", str(tmp_path), "--budget-s", "15")
    assert said.code == 0, said.err
    rows = read_rows(tmp_path / "sweep.jsonl")
    assert len(rows) == len({row.key for row in rows}) >= 10
    assert {row.config["model"] for row in rows} == {"tiny"}
    assert {row.kind for row in rows} == {"iteration"}
    assert all(row.n >= 1 and row.clock == "host" for row in rows)
