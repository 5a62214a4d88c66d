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


def test_of_a_long_trace_only_the_first_requests_arrive_and_a_short_one_starts_again() -> None:
    numbered = replace(trace(5), output_tokens=np.arange(1, 6))
    assert load._at_once(numbered, 3).output_tokens.tolist() == [1, 2, 3]
    assert load._at_once(numbered, 7).output_tokens.tolist() == [1, 2, 3, 4, 5, 1, 2]
    assert not load._at_once(numbered, 7).arrival_s.any()


def test_the_sample_grows_with_what_memory_holds_and_the_batch_may_take() -> None:
    def sample(*changes: str) -> int:
        return load._sample(load_config("slora", changes), trace(10))

    held = 100 + 50 / 2  # tokens of a request, on average
    assert sample("memory.kv_pool_tokens=20000") == 8 * 20_000 / held
    assert sample("memory.kv_pool_tokens=20000", "limits.running_requests=40") == 8 * 40
    assert sample("memory.kv_pool_tokens=1000") == load.LEAST_REQUESTS
