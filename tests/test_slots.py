"""Fewer slots than adapters: the shape of what was measured on a real vLLM, nothing tuned."""

from __future__ import annotations

import numpy as np
import pytest

from sim.slots import MEASURED, OUTPUT_TOKENS, PROMPT_TOKENS, RATES_PER_S, Numbers, simulated, workload

SPAN_S = 900.0


@pytest.fixture(scope="module")
def by_slots() -> dict[int, Numbers]:
    return {slots: simulated(slots, span_s=SPAN_S) for slots in MEASURED}


def test_the_workload_has_the_rates_and_means_of_the_measured_one() -> None:
    trace = workload(20_000.0)
    counts = np.bincount(trace.adapter, minlength=64)
    assert counts / 20_000 == pytest.approx(np.array(RATES_PER_S), rel=0.25)
    assert trace.prompt_tokens.mean() == pytest.approx(PROMPT_TOKENS, rel=0.02)
    assert trace.output_tokens.mean() == pytest.approx(OUTPUT_TOKENS, rel=0.02)
    assert len(trace) == pytest.approx(20_000 * 3.775, rel=0.02)


def test_fewer_slots_are_never_better(by_slots: dict[int, Numbers]) -> None:
    for more, fewer in ((64, 32), (32, 16), (16, 8)):
        assert by_slots[fewer].mean_ms > by_slots[more].mean_ms
        assert by_slots[fewer].p50_ms > by_slots[more].p50_ms
    assert by_slots[8].p99_ms > by_slots[16].p99_ms > by_slots[32].p99_ms


def test_eight_slots_fall_off_the_cliff_and_thirty_two_do_not(by_slots: dict[int, Numbers]) -> None:
    assert by_slots[8].p99_ms > 10 * by_slots[64].p99_ms
    assert by_slots[16].p99_ms > 2 * by_slots[64].p99_ms
    assert by_slots[32].p99_ms < 1.5 * by_slots[64].p99_ms


def test_the_knee_lies_where_it_was_measured(by_slots: dict[int, Numbers]) -> None:
    def knee(numbers: dict[int, Numbers]) -> int:
        return max(slots for slots in numbers if numbers[slots].p99_ms > 2 * numbers[64].p99_ms)

    assert knee(by_slots) == knee(MEASURED) == 16
