"""From integer tables to durations: the exact grid, gaps between tokens, and state as a function of time."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.results.instants import busy_ticks_at, kv_tokens_at, tokens_at
from sim.results.metrics import (
    GRID_PER_S,
    Offered,
    grid,
    largest_gaps,
    latencies_s,
    range_maxima,
    token_gaps,
    ttft_parts_s,
)
from sim.serving.records import NEVER, REQUEST_COLUMNS, Records
from sim.trace import AdapterSpec, Trace

law = settings(deadline=None, max_examples=60)
Segment = tuple[int, int, int, int]  # pause before it, first, growth, count
segments = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=6
)


def add_request(records: Records, request: int, **columns: int) -> None:
    instants = ("admitted", "ready", "prefill_start", "first_token", "finish", "first_segment", "last_segment")
    row = dict.fromkeys(REQUEST_COLUMNS, 0) | dict.fromkeys(instants, NEVER) | {"request": request} | columns
    records.requests.add(row.values())


def trace_of(arrival_s: list[float], prompt: list[int] | None = None, output: list[int] | None = None) -> Trace:
    n = len(arrival_s)
    prompts, outputs = prompt or [1] * n, output or [1] * n
    where = np.zeros(n, dtype=np.int64)
    return Trace("tiny", np.array(arrival_s), np.array(prompts), np.array(outputs), (AdapterSpec("a", 8),), where)


def decode(records: Records, pieces: list[Segment], batch: int = 2) -> None:
    """Fill in segments one after the other; everybody in the batch waits through the pauses."""
    now = 0
    context = 100
    for pause, first, growth, count in pieces:
        records.segments.add((now + pause, first, growth, count, batch, context))
        records.gaps.add((pause + first, batch))
        now += pause + count * first + growth * count * (count - 1) // 2
        context += count * batch
    records.end = now


def one_step_at_a_time(pieces: list[Segment]) -> list[Segment]:
    return [
        (pause if step == 0 else 0, first + step * growth, growth, 1)
        for pause, first, growth, count in pieces
        for step in range(count)
    ]


@law
@given(st.lists(st.integers(0, 10**16), min_size=6, max_size=6), st.floats(0, 1))
def test_the_parts_of_ttft_sum_to_it_exactly_in_any_order(instants: list[int], lost: float) -> None:
    sent, admitted, ready, start, first, _ = sorted(instants)
    records = Records()
    add_request(
        records,
        0,
        arrival=sent,
        admitted=admitted,
        ready=ready,
        prefill_start=start,
        first_token=first,
        preempted=int(lost * (admitted - sent)),
    )
    offered = Offered(trace_of([0.0]), [records])
    parts = [float(part[0]) for part in ttft_parts_s(offered).values()]
    assert min(parts) >= 0
    assert {sum(order) for order in permutations(parts)} == {float(latencies_s(offered)["ttft_s"][0])}


@law
@given(st.integers(0, 10**17))
def test_the_grid_is_within_half_a_step_of_the_instant(ticks: int) -> None:
    assert abs(int(grid(np.array([ticks]))[0]) * 10**12 - ticks * GRID_PER_S) <= 10**12 / 2 + 1


def test_what_a_stop_cost_before_the_first_token_is_not_queueing() -> None:
    records = Records()
    add_request(records, 0, arrival=0, admitted=4 * 10**12, preempted=10**12)
    parts = ttft_parts_s(Offered(trace_of([0.0]), [records]))
    assert (parts["queue_s"][0], parts["preempt_s"][0]) == (3.0, 1.0)


def test_gaps_count_each_token_of_a_decode_run_once() -> None:
    records = Records()
    records.segments.add((0, 10, 2, 3, 4, 0))  # steps of 10, 12, 14 for 4 requests
    records.gaps.add((15, 3))  # three of them had waited before
    records.gaps.add((10, 1))
    ticks, weights = token_gaps([records])
    assert dict(zip(ticks.tolist(), weights.tolist(), strict=True)) == {10: 1, 12: 4, 14: 4, 15: 3}


@law
@given(segments)
def test_gaps_do_not_depend_on_how_decode_runs_were_cut(pieces: list[Segment]) -> None:
    whole, cut = Records(), Records()
    decode(whole, pieces)
    decode(cut, one_step_at_a_time(pieces))
    assert [part.tolist() for part in token_gaps([whole])] == [part.tolist() for part in token_gaps([cut])]


def test_gaps_of_all_replicas_are_pooled() -> None:
    first, second = Records(), Records()
    decode(first, [(0, 5, 0, 2)])
    decode(second, [(0, 5, 0, 1)], batch=3)
    ticks, weights = token_gaps([first, second])
    assert (ticks.tolist(), weights.tolist()) == ([5], [7])


def test_a_request_s_largest_gap_spans_the_prefill_of_others_but_not_what_came_before_it() -> None:
    records = Records()
    decode(records, [(0, 10, 1, 4)], batch=1)  # ends at 46; steps of 10 .. 13
    records.segments.add((80, 20, 0, 1, 2, 0))  # after a prefill from 46 to 80
    records.gaps.add((20, 1))  # who joins
    records.gaps.add((54, 1))  # who was there
    add_request(records, 0, first_token=0, first_segment=0, last_segment=1)
    add_request(records, 1, first_token=80, first_segment=1, last_segment=1)
    add_request(records, 2, first_token=80)  # one token only
    assert largest_gaps(records).tolist() == [54, 20, NEVER]


def test_a_request_s_largest_gap_may_be_the_last_step_of_a_run() -> None:
    records = Records()
    decode(records, [(0, 10, 1, 4), (0, 9, 0, 1)], batch=1)
    add_request(records, 0, first_token=0, first_segment=0, last_segment=1)
    assert largest_gaps(records).tolist() == [13]


def test_gaps_that_do_not_follow_the_segments_break_a_law() -> None:
    records = Records()
    decode(records, [(0, 10, 1, 4)], batch=2)
    records.gaps.add((3, 1))
    with pytest.raises(RuntimeError, match="3 tokens in 2 gaps, 2 in 1 first steps"):
        largest_gaps(records)


@law
@given(st.data())
def test_range_maxima_are_maxima_of_ranges(data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=20)))
    low = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=5))
    high = [data.draw(st.integers(begin - 1, len(values) - 1)) for begin in low]
    expected = [max(values[a : b + 1].tolist(), default=0) for a, b in zip(low, high, strict=True)]
    assert range_maxima(values, np.array(low), np.array(high)).tolist() == expected


@law
@given(segments)
def test_tokens_are_emitted_at_the_ends_of_steps(pieces: list[Segment]) -> None:
    records = Records()
    decode(records, pieces)
    at = np.arange(records.end + 3)
    ends = np.cumsum([pause + first for pause, first, _, _ in one_step_at_a_time(pieces)])
    assert tokens_at(records, at).tolist() == [2 * int((ends <= tick).sum()) for tick in at]


def test_first_tokens_are_emitted_at_the_end_of_the_prefill() -> None:
    records = Records()
    add_request(records, 0, first_token=7)
    assert tokens_at(records, np.array([6, 7])).tolist() == [0, 1]


def test_kv_tokens_follow_prompts_steps_and_ends() -> None:
    # Two requests with prompts of 10 and 20 tokens and outputs of 3 and 2; a step takes 10 ticks.
    records = Records()
    records.segments.add((5, 10, 0, 1, 2, 32))  # both read their prompt and the new token
    records.segments.add((15, 10, 0, 1, 1, 12))
    add_request(records, 0, prefill_start=0, first_token=5, finish=25)
    add_request(records, 1, prefill_start=0, first_token=5, finish=15)
    trace = trace_of([0.0, 0.0], [10, 20], [3, 2])
    at = np.array([0, 4, 5, 14, 15, 24, 25, 99])
    assert kv_tokens_at(trace, records, at).tolist() == [30, 30, 32, 32, 12, 12, 0, 0]


@law
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=6))
def test_the_link_is_busy_while_it_carries_anything(transfers: list[tuple[int, int]]) -> None:
    records = Records()
    for start, ticks in transfers:
        records.transfers.add((0, start, start + ticks, 0, 1, 0))
    busy = {tick for start, ticks in transfers for tick in range(start, start + ticks)}
    at = np.arange(30)
    assert busy_ticks_at(records, at).tolist() == [len([tick for tick in busy if tick < now]) for now in at]


def test_a_request_without_a_row_is_unfinished_and_one_with_a_reason_is_rejected() -> None:
    records = Records()
    add_request(records, 0)
    records.rejections[1] = "too long"
    offered = Offered(trace_of([0.0, 0.0, 0.0]), [records])
    assert offered.status.tolist() == [0, 1, 2]
    assert offered.replica.tolist() == [0, 0, -1]


def test_latency_counts_from_the_instant_of_sending() -> None:
    records = Records()
    add_request(records, 0, arrival=2 * 10**12, first_token=3 * 10**12, finish=7 * 10**12)
    latencies = latencies_s(Offered(trace_of([0.5], output=[5]), [records]))
    assert (latencies["ttft_s"][0], latencies["e2el_s"][0], latencies["tpot_s"][0]) == (1.0, 5.0, 1.0)


def test_one_output_token_has_no_time_per_output_token() -> None:
    records = Records()
    add_request(records, 0, first_token=3 * 10**12, finish=3 * 10**12)
    assert np.isnan(latencies_s(Offered(trace_of([0.0]), [records]))["tpot_s"][0])


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sim.results.metrics", ("pandas", "scipy", "pyarrow")),
        ("sim.statistics", ("pandas", "scipy")),
        ("sim.results.result", ("pandas", "pyarrow", "scipy")),
    ],
)
def test_importing_results_does_not_import_heavy_packages(module: str, heavy: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    root = Path(__file__).resolve().parents[1]
    found = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
