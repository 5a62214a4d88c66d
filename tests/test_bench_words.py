"""The rate that `vllm_bench.json` tells of a run: the one that was asked for, or that of the trace's own stamps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import sim
from sim.experiments.bench_words import own_rate
from sim.trace import Trace
from tests.commands import azure_file, chameleon

STAMPS = ("46.0000000,50,10", "46.5000000,50,10", "50.0000000,50,10")  # two gaps in 4 s


def stamped(*arrival_s: float) -> Trace:
    """Requests for the base model at these times."""
    tens = np.full(len(arrival_s), 10)
    return Trace("stamped", np.array(arrival_s), tens, tens, (None,), 0 * tens)


@pytest.mark.parametrize(
    ("arrival_s", "rate"), [((0.0, 4.0), 0.25), ((1.0, 1.5, 5.0), 0.5), ((7.0, 8.0, 9.0, 10.0), 1.0)]
)
def test_a_trace_s_own_rate_is_its_gaps_over_their_sum(arrival_s: tuple[float, ...], rate: float) -> None:
    assert own_rate(stamped(*arrival_s)) == rate


@pytest.mark.parametrize("arrival_s", [(), (3.0,), (3.0, 3.0)])
def test_requests_that_came_all_at_once_came_at_an_infinite_rate(arrival_s: tuple[float, ...]) -> None:
    assert own_rate(stamped(*arrival_s)) == math.inf


def test_a_run_at_a_file_s_own_stamps_tells_their_rate(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "three.csv", *STAMPS)
    assert chameleon("run", "slora", "--trace", trace, "--scale", "1", "--out", tmp_path / "run").code == 0
    assert json.loads((tmp_path / "run" / "vllm_bench.json").read_text())["request_rate"] == 0.5


def test_a_run_of_a_file_at_a_rate_tells_that_rate(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "three.csv", *STAMPS)
    assert sim.run("slora", trace=trace, rate=3.0).meta.request_rate == 3.0


def test_a_run_of_a_trace_from_python_tells_the_rate_of_its_stamps() -> None:
    gamma = "workload.arrivals={family: gamma, cv: 2}"
    meta = sim.run("slora", trace=stamped(1.0, 1.5, 5.0), changes=gamma).meta
    assert (meta.request_rate, meta.burstiness) == (0.5, 1.0)
