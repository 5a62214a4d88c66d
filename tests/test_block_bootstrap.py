"""Intervals from one run: blocks of time drawn again, wide where requests wait together."""

from __future__ import annotations

import numpy as np
import pytest

from policies.base import FloatArray
from sim.config import load_config
from sim.experiments.run import execute
from sim.results.block_bootstrap import Blocks, block_intervals, bootstrap, neighbours_correlation, time_blocks

PERCENTILES = {"p50": 50.0, "p99": 99.0}


def waves(n: int, seed: int = 0) -> FloatArray:
    """Return values that rise and fall together over stretches of 100."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.exponential(1.0, n // 100), 100) + rng.random(n) / 100


def test_blocks_are_equally_long_in_time_and_not_equally_full() -> None:
    blocks = time_blocks(np.array([10.0, 10.1, 10.2, 11.9, 12.0, 14.0]), 4)
    assert blocks.of.tolist() == [0, 0, 0, 1, 2, 3]
    assert (blocks.number, blocks.span_s) == (4, 1.0)


@pytest.mark.parametrize("sent_s", [[], [1.0], [2.0, 2.0]])
def test_a_run_without_a_span_of_time_has_no_blocks(sent_s: list[float]) -> None:
    with pytest.raises(ValueError, match="need a span"):
        time_blocks(np.array(sent_s))


def test_estimates_are_those_of_numpy() -> None:
    values = np.random.default_rng(1).exponential(1.0, 1000)
    found = block_intervals(values, time_blocks(np.arange(1000.0)), PERCENTILES, draws=10)
    assert found["mean"].estimate == pytest.approx(values.mean(), rel=1e-12)
    assert found["p50"].estimate == pytest.approx(np.percentile(values, 50), rel=1e-12)
    assert found["p99"].estimate == pytest.approx(np.percentile(values, 99), rel=1e-12)


def test_a_resample_counts_a_block_as_often_as_it_is_drawn() -> None:
    blocks = Blocks(np.array([0, 0, 1, 1]), 2, 1.0)  # the two blocks are drawn as 00, 01, 10 or 11
    found = block_intervals(np.array([1.0, 1.0, 5.0, 5.0]), blocks, {"p50": 50.0}, draws=400)
    assert (found["mean"].low, found["mean"].estimate, found["mean"].high) == (1.0, 3.0, 5.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_resample_has_as_many_blocks_as_the_run(seed: int) -> None:
    blocks = Blocks(np.array([0, 1]), 2, 1.0)  # two draws of two blocks: no third of a value counts
    mean = block_intervals(np.array([1.0, 5.0]), blocks, {}, draws=1, seed=seed)["mean"]
    assert mean.low in {1.0, 3.0, 5.0}


def test_values_that_rise_together_have_wider_intervals_than_single_draws_would() -> None:
    values = waves(3000)
    apart = np.random.default_rng(2).permutation(values)
    sent_s = np.arange(3000.0)
    together, single = (block_intervals(one, time_blocks(sent_s), PERCENTILES)["mean"] for one in (values, apart))
    assert together.high is not None
    assert together.low is not None
    assert single.high is not None
    assert single.low is not None
    assert together.high - together.low > 5 * (single.high - single.low)


def test_nineteen_of_twenty_intervals_hold_the_mean() -> None:
    blocks = time_blocks(np.arange(6000.0))
    found = [block_intervals(waves(6000, seed), blocks, {}, draws=300, seed=seed)["mean"] for seed in range(100)]
    held = sum(one.low is not None and one.high is not None and one.low <= 1.005 <= one.high for one in found)
    assert 85 <= held <= 99


def test_the_same_seed_gives_the_same_bounds_and_another_does_not() -> None:
    values, blocks = waves(3000), time_blocks(np.arange(3000.0))
    one, same, other = (block_intervals(values, blocks, PERCENTILES, seed=seed) for seed in (0, 0, 1))
    assert one == same != other


def test_what_was_not_measured_is_left_out() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan])
    blocks = time_blocks(np.arange(4.0), 2)
    assert block_intervals(values, blocks, {})["mean"].estimate == 2.0
    assert block_intervals(np.full(4, np.nan), blocks, {}) == {}


def test_a_run_is_told_with_its_blocks() -> None:
    loaded = load_config("chameleon", (), {"workload": {"requests": 200, "rate_per_s": 5.0}})
    result = execute(loaded)
    told = bootstrap(result)
    assert told is not None
    p99 = told["metrics"]["ttft_ms"]["p99"]
    assert p99["value"] == pytest.approx(result.summary["metrics"]["ttft_ms"]["p99"], rel=1e-9)
    assert p99["ci95_low"] <= p99["value"] <= p99["ci95_high"]
    assert (told["seed"], told["blocks"]) == (0, 30)
    sent_s = result.requests["send_s"]
    assert 30 * told["block_s"] == pytest.approx(sent_s.max() - sent_s.min())


def test_neighbouring_blocks_that_rise_together_are_told_from_those_that_do_not() -> None:
    blocks = time_blocks(np.arange(3000.0))
    rising, apart = np.linspace(0, 1, 3000), np.random.default_rng(3).random(3000)
    assert neighbours_correlation(rising, blocks) > 0.8
    assert abs(neighbours_correlation(apart, blocks)) < 0.5
    assert neighbours_correlation(np.ones(3000), blocks) == 0.0


def test_a_run_whose_queue_outlasts_its_blocks_is_said_to_be_one() -> None:
    workload = {"requests": 600, "rate_per_s": 40.0}
    told = [
        bootstrap(execute(load_config("chameleon", (), {"workload": one})))
        for one in ({**workload, "rate_per_s": 3.0}, workload)
    ]
    assert [one is not None and one["related"] for one in told] == [False, True]
