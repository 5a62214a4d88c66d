"""Small, medium and large requests apart, who waited longest, and how often requests were passed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sim.results import classes
from sim.results.classes import by_class, by_size, starvation
from sim.results.metrics import Offered, isolated_s, latencies_s, slowdown, ttft_parts_s
from sim.results.result import Run
from sim.results.summary import summarise
from sim.serving.records import NEVER, REQUEST_COLUMNS, Records
from sim.trace import AdapterSpec, Trace

S = 10**12


def records_of(waits_s: Sequence[int], **columns: Sequence[int]) -> Records:
    """Requests sent at 0 that wait so long, prefill for 1 s and end 10 s after their arrival."""
    records = Records()
    for request, wait_s in enumerate(waits_s):
        row = dict.fromkeys(REQUEST_COLUMNS, 0) | {"first_segment": NEVER, "last_segment": NEVER}
        instants = dict.fromkeys(("admitted", "ready", "prefill_start"), wait_s * S)
        row |= {"request": request, "finish": 10 * S, "first_token": (wait_s + 1) * S, **instants}
        records.requests.add((row | {name: values[request] for name, values in columns.items()}).values())
    records.end = 20 * S
    return records


def trace_of(tokens: Sequence[int], ranks: Sequence[int] = (8,), adapter: Sequence[int] | None = None) -> Trace:
    """Requests of so many tokens in all, half of them output."""
    n = len(tokens)
    half = np.array(tokens) // 2
    palette = tuple(AdapterSpec(f"a{rank}", rank) for rank in ranks)
    return Trace("sizes", np.zeros(n), np.array(tokens) - half, half, palette, np.array(adapter or [0] * n))


def latencies_of(offered: Offered, alone_s: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    told = latencies_s(offered) | {"queue_s": ttft_parts_s(offered)["queue_s"]}
    ticks = None if alone_s is None else np.array(alone_s) * S
    return told | {"slowdown": slowdown(told["e2el_s"], isolated_s(offered, ticks))}


def test_requests_are_told_apart_by_thirds_of_their_tokens() -> None:
    offered = Offered(trace_of([2, 4, 10, 12, 30, 40]), [records_of([1, 3, 2, 4, 5, 7])])
    rows = by_size(offered, latencies_of(offered))
    assert [(row["class"], row["from"], row["to"], row["n"]) for row in rows] == [
        ("small", 2, 4, 2),
        ("medium", 10, 12, 2),
        ("large", 30, 40, 2),
    ]
    assert [row["queue_mean_ms"] for row in rows] == [2000, 3000, 6000]
    assert [row["ttft_p50_ms"] for row in rows] == [3000, 4000, 7000]
    assert [row["queue_share"] for row in rows] == pytest.approx([0.2, 0.3, 0.6])


def test_equal_requests_are_in_one_class_and_a_class_may_be_empty() -> None:
    offered = Offered(trace_of([8, 8, 8]), [records_of([1, 2, 3])])
    rows = by_size(offered, latencies_of(offered))
    assert [row["n"] for row in rows] == [3, 0, 0]
    assert (rows[1]["from"], rows[1]["ttft_p99_ms"]) == (None, None)


def test_the_scheduler_s_weight_tells_requests_apart_where_it_weighs_them() -> None:
    weights = {"weight_ppm": [900_000, 100_000, 500_000]}
    offered = Offered(trace_of([2, 4, 6]), [records_of([9, 1, 5], **weights)])
    told = by_class(offered, latencies_of(offered))
    assert told["by"] == "weight"
    assert [(row["from"], row["queue_mean_ms"]) for row in told["rows"]] == [(0.1, 1000), (0.5, 5000), (0.9, 9000)]


def test_ranks_tell_requests_apart_where_the_scheduler_weighs_none() -> None:
    offered = Offered(trace_of([8, 8, 8], (8, 16, 64), [2, 0, 1]), [records_of([7, 1, 2])])
    told = by_class(offered, latencies_of(offered))
    assert told["by"] == "rank"
    assert [(row["from"], row["queue_mean_ms"]) for row in told["rows"]] == [(8, 1000), (16, 2000), (64, 7000)]


def test_slowdown_is_response_time_over_that_of_the_request_alone() -> None:
    offered = Offered(trace_of([2, 4, 6]), [records_of([1, 1, 1])])
    rows = by_size(offered, latencies_of(offered, [2, 5, 10]))
    assert [row["slowdown_p50"] for row in rows] == [5, 2, 1]


def test_slowdown_is_null_where_nobody_knows_what_a_request_takes_alone() -> None:
    offered = Offered(trace_of([2, 4, 6]), [records_of([1, 1, 1])])
    assert [row["slowdown_p50"] for row in by_size(offered, latencies_of(offered))] == [None] * 3


def test_requests_that_were_not_completed_are_in_no_percentile_of_their_class() -> None:
    offered = Offered(trace_of([2, 4, 6]), [records_of([1, 2, 3], status=[0, 0, 2])])
    rows = by_size(offered, latencies_of(offered))
    assert [(row["offered"], row["n"], row["ttft_p50_ms"]) for row in rows][2] == (1, 0, None)


def test_the_longest_wait_has_the_request_that_waited() -> None:
    told = starvation(Offered(trace_of([2, 4, 6]), [records_of([1, 6, 3])]))
    assert (told["max_wait_s"], told["max_wait_request"]) == (6.0, 1)


def test_who_was_never_admitted_waits_to_the_end_of_the_run() -> None:
    told = starvation(
        Offered(trace_of([2, 4, 6]), [records_of([1, 6, 3], status=[0, 0, 2], admitted=[S, 6 * S, NEVER])])
    )
    assert (told["max_wait_s"], told["max_wait_request"]) == (20.0, 2)


def test_a_rejected_request_waits_for_nothing() -> None:
    records = records_of([1, 6, 3], status=[0, 1, 0], admitted=[S, NEVER, 3 * S])
    records.rejections[1] = "too long"
    assert starvation(Offered(trace_of([2, 4, 6]), [records]))["max_wait_request"] == 2


def test_nobody_has_waited_where_every_request_was_rejected() -> None:
    records = records_of([1, 2], status=[1, 1], admitted=[NEVER, NEVER])
    records.rejections.update({0: "too long", 1: "too long"})
    told = starvation(Offered(trace_of([2, 4]), [records]))
    assert (told["max_wait_s"], told["max_wait_request"]) == (None, None)


def test_bypasses_are_counted_by_those_who_were_passed() -> None:
    told = starvation(Offered(trace_of([2, 4, 6]), [records_of([1, 1, 1], bypassed=[0, 3, 1])]))
    assert [told[name] for name in ("bypasses", "bypassed_requests", "most_bypassed")] == [4, 2, 3]


def test_a_request_is_overtaken_by_those_that_came_later_to_its_replica_and_were_admitted_before() -> None:
    first = records_of([9, 1, 2, 1], arrival=[0, 1, 2, 3])
    first.rejections[3] = "too long"
    told = starvation(Offered(trace_of([2, 4, 6, 8]), [first]))
    assert [told[name] for name in ("overtakes", "overtaken_requests", "most_overtaken")] == [2, 1, 2]


@pytest.mark.parametrize("stretch", [1, 3, 10])
def test_overtaking_is_counted_alike_stretch_by_stretch(stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "STRETCH", stretch)
    waits = np.random.default_rng(4).integers(0, 6, 60) + np.arange(60) // 2
    told = starvation(Offered(trace_of([2] * 60), [records_of(waits.tolist(), arrival=list(range(60)))]))
    pairs = [(one, other) for one in range(60) for other in range(one) if waits[one] < waits[other]]
    assert told["overtakes"] == len(pairs) > 0
    assert told["overtaken_requests"] == len({passed for _, passed in pairs})


def test_requests_of_another_replica_overtake_nobody() -> None:
    ours, theirs = Records(), Records()
    rows = list(records_of([9, 1]).requests._cells)
    width = len(REQUEST_COLUMNS)
    ours.requests.add(rows[:width])
    theirs.requests.add(rows[width:])
    assert starvation(Offered(trace_of([2, 4]), [ours, theirs]))["overtakes"] == 0
    assert starvation(Offered(trace_of([2, 4]), [records_of([9, 1])]))["overtakes"] == 1


def test_a_summary_asks_what_requests_take_alone_only_once() -> None:
    asked = []

    def alone() -> np.ndarray:
        asked.append(1)
        return np.array([S, 5 * S])

    trace = trace_of([2, 4])
    run = Run(trace, (records_of([1, 1]),), [0], np.array([1, 2]), "fifo", "a40", "llama", 1)
    told = summarise(replace(run, isolated=alone))
    assert (told["slowdown"]["n"], told["slowdown"]["mean"], told["slowdown"]["unit"]) == (2, 6.0, "ratio")
    assert asked == [1]
