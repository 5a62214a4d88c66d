"""Capacity: what an engine completes when it never runs out of requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.config import load_config
from sim.fidelity import load
from sim.fidelity.load import capacity_per_s
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


def test_a_short_trace_is_served_again_until_memory_has_been_filled_several_times() -> None:
    loaded = load_config("slora", ("memory.kv_pool_tokens=6000",))
    assert capacity_per_s(loaded, trace(3)) == capacity_per_s(loaded, trace(300))


def test_twice_as_many_requests_find_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, requests = load_config("slora", ("memory.kv_pool_tokens=6000",)), trace(500)
    once = capacity_per_s(loaded, requests)
    monkeypatch.setattr(load, "BATCHES", 2 * load.BATCHES)
    assert capacity_per_s(loaded, requests) == pytest.approx(once, rel=0.05)


def test_only_as_much_of_a_long_trace_is_served_as_is_needed() -> None:
    loaded = load_config("slora", ("memory.kv_pool_tokens=6000",))
    longer = trace(5000)
    tail = np.where(np.arange(5000) < 2500, longer.output_tokens, 400)
    assert capacity_per_s(loaded, replace(longer, output_tokens=tail)) != 0
    same_mean = replace(longer, prompt_tokens=np.where(np.arange(5000) < 4990, 100, 101))
    assert capacity_per_s(loaded, same_mean) == pytest.approx(capacity_per_s(loaded, longer), rel=1e-3)
