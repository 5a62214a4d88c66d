"""Capacity: what an engine completes when it never runs out of requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.config import load_config
from sim.fidelity.load import MOST_REQUESTS, capacity_per_s
from sim.trace import AdapterSpec, Trace

ONE_AT_A_TIME = ("limits.running_requests=1", "admission.every_steps=0", "prefetch.kind=none")


def trace(requests: int, gap_s: float = 1.0, output_tokens: int = 50) -> Trace:
    """Return requests alike, of one adapter."""
    count = np.arange(requests, dtype=np.float64)
    fixed = np.full(requests, 100), np.full(requests, output_tokens)
    return Trace("alike", count * gap_s, *fixed, (AdapterSpec("a", 8),), np.zeros(requests, dtype=np.int64))


def test_it_does_not_depend_on_when_the_requests_came() -> None:
    loaded = load_config("slora")
    assert capacity_per_s(loaded, trace(60)) == capacity_per_s(loaded, trace(60, gap_s=100.0))


def test_an_engine_of_one_seat_completes_a_request_after_the_other() -> None:
    loaded = load_config("slora", ONE_AT_A_TIME)
    once_s = 1 / capacity_per_s(loaded, trace(20))
    assert 1 / capacity_per_s(loaded, trace(20, output_tokens=99)) == pytest.approx(2 * once_s, rel=0.15)
    assert capacity_per_s(load_config("slora"), trace(60)) > 5 / once_s


def test_requests_that_end_together_are_counted_by_their_end() -> None:
    assert 0 < capacity_per_s(load_config("slora"), trace(3)) < 100


def test_only_the_head_of_a_long_trace_is_simulated() -> None:
    head = trace(MOST_REQUESTS, output_tokens=2)
    longer = trace(MOST_REQUESTS + 50, output_tokens=2)
    tail = np.append(head.prompt_tokens, np.full(50, 400))
    loaded = load_config("slora")
    assert capacity_per_s(loaded, replace(longer, prompt_tokens=tail)) == capacity_per_s(loaded, head)
