"""Whole iterations of the mini engine: their shapes before anything runs, and a sweep on a CPU."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_validate.iterations import (
    ADAPTERS,
    DECODE_STEPS,
    LEAST_RUNS,
    POOL_TOKENS,
    WARM_STEPS,
    OneAtATime,
    iteration_shapes,
)
from gpu_validate.rows import read_rows
from gpu_validate.runner import Measure
from gpu_validate.shapes import Shape
from gpu_validate.timing import Measured, summarise
from sim.serving.ticks import TICKS_PER_S
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
    said = chameleon("gpu", "iterations", "--device", "cpu", "--out", str(tmp_path), "--budget-s", "60")
    assert said.code == 0, said.err
    rows = read_rows(tmp_path / "sweep.jsonl")
    assert len(rows) == len({row.key for row in rows}) >= 3
    assert {row.config["model"] for row in rows} == {"tiny"}
    assert {row.kind for row in rows} <= {"iteration", "service"}
    assert all(row.n >= 1 and row.clock == "host" for row in rows)


def test_engines_are_made_when_needed_and_never_two_at_once() -> None:
    pytest.importorskip("torch")
    alive: list[weakref.ref[Fake]] = []

    class Fake:
        def __init__(self) -> None:
            assert all(one() is None for one in alive)
            alive.append(weakref.ref(self))
            self.me = self  # engines are full of cycles

        def __call__(self, shape: Shape, left_s: float) -> Measured:
            return Measured(summarise([left_s], "host"))

    measure = OneAtATime(lambda _kernel: Fake())
    for kernel in ("bgmv", "bgmv", "segmented"):
        measure(Shape("iteration", {"kernel": kernel, "split": "fit"}), 1.0)
    assert len(alive) == 2


def test_an_engine_that_cannot_be_made_fails_its_shapes_and_no_others() -> None:
    pytest.importorskip("torch")
    made: list[str] = []

    def make(kernel: str) -> Measure:
        made.append(kernel)
        if kernel == "bgmv":
            msg = "CUDA out of memory"
            raise RuntimeError(msg)
        return lambda _shape, left_s: Measured(summarise([left_s], "host"))

    measure = OneAtATime(make)
    with pytest.raises(RuntimeError, match="out of memory"):
        measure(Shape("iteration", {"kernel": "bgmv", "split": "fit"}), 1.0)
    assert measure(Shape("iteration", {"kernel": "segmented", "split": "fit"}), 1.0).timing.n == 1
    assert made == ["bgmv", "segmented"]


def test_a_prefill_is_timed_a_few_times_after_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from gpu_validate.commands import Options  # noqa: PLC0415 - needs torch
    from gpu_validate.iterations import Iterations  # noqa: PLC0415 - needs torch

    times = iter([9.0, *[0.5] * LEAST_RUNS])  # the first compiles
    monkeypatch.setattr("gpu_validate.iterations._seconds", lambda _iteration: next(times))
    measure = Iterations(Options("cpu", models=("tiny",)), "torch_loop", uses_graphs=False)
    shape = next(one for one in iteration_shapes("tiny", "torch_loop", 0, graph=False, tiny=True) if is_prefill(one))
    timing = measure(shape, 0.0).timing
    assert (timing.n, timing.p50_s) == (LEAST_RUNS, 0.5)


def test_the_measured_engine_has_positions_for_every_shape() -> None:
    pytest.importorskip("torch")
    from gpu_validate.commands import Options  # noqa: PLC0415 - needs torch
    from gpu_validate.iterations import Iterations  # noqa: PLC0415 - needs torch

    decoder = Iterations(Options("cpu", models=("tiny",)), "torch_loop", uses_graphs=False)._worker.decoder
    longest = max(shape.config["tokens_each"] for shape in iteration_shapes("llama-7b", "bgmv", 0, graph=True))
    assert decoder.max_positions > longest + 1 + WARM_STEPS + DECODE_STEPS


def test_decode_is_timed_in_service_between_the_ends_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from gpu_validate.commands import Options  # noqa: PLC0415 - needs torch
    from gpu_validate.engine.device import Iteration  # noqa: PLC0415 - needs torch
    from gpu_validate.iterations import Iterations  # noqa: PLC0415 - needs torch

    measure, served = Iterations(Options("cpu", models=("tiny",)), "torch_loop", uses_graphs=False), list[Iteration]()
    serve = measure._serve

    def told(config: dict[str, Any], output_tokens: int) -> list[Iteration]:
        served.extend(serve(config, output_tokens))
        return served

    monkeypatch.setattr(measure, "_serve", told)
    shapes = iteration_shapes("tiny", "torch_loop", 0, graph=False, tiny=True)
    shape = next(one for one in shapes if not is_prefill(one) and one.config["requests"] == 4)
    timing = measure(shape, 0.0).timing
    prefill, *decode = served
    assert (prefill.prompts, {one.decoded for one in decode}) == (4, {4})
    assert len(decode) == WARM_STEPS + DECODE_STEPS == WARM_STEPS + timing.n
    assert [one.start for one in decode] == [one.end for one in served[:-1]]
    assert timing.p50_s == pytest.approx(np.median([one.end - one.start for one in decode[WARM_STEPS:]]) / TICKS_PER_S)
    assert not measure._worker.kv.pool.tables


def is_prefill(shape: Shape) -> bool:
    return bool(shape.config["phase"] == "prefill")
