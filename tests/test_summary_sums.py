"""What a summary and the timeseries add up: over replicas, over both ways of swaps, over kinds of transfers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.results.frames import timeseries_frame
from sim.results.result import Run
from sim.results.summary import Summary, summarise
from sim.serving.records import Records
from sim.trace import Trace
from tests.test_results import S, add_request, tiny


def two_replicas() -> Run:
    """The tiny run beside a replica whose link is busy throughout its 8 s."""
    run, busy = tiny(), Records()
    busy.transfers.add((0, 0, 8 * S, 1, 1000, 0))
    busy.end = 8 * S
    return replace(run, records=(*run.records, busy))


def waited(*queue_s: int) -> Summary:
    """The summary of requests for the base model that waited so long, and were then served within 2 s."""
    n, records = len(queue_s), Records()
    for request, wait_s in enumerate(queue_s):
        admitted = wait_s * S
        served = {"prefill_start": admitted, "first_token": admitted + S, "finish": admitted + 2 * S}
        add_request(records, request, {"admitted": admitted, "ready": admitted} | served)
    records.end = (max(queue_s) + 2) * S
    zeros, twos = np.zeros(n, dtype=np.int64), np.full(n, 2)
    trace = Trace("waits", np.zeros(n), twos, twos, (None,), zeros)
    return summarise(Run(trace, (records,), [0], twos, "fifo", "a40", "llama", 1))


def test_the_link_of_two_replicas_is_used_for_the_share_of_both_their_times() -> None:
    link = summarise(two_replicas())["link"]
    assert (link["busy_s"], link["utilisation"]) == (5.5 + 8, (5.5 + 8) / (2 * 8))


def test_the_links_of_two_replicas_are_busy_for_the_mean_of_their_shares() -> None:
    run = two_replicas()
    frame = timeseries_frame(run.trace, run.records, step_s=2.0)
    assert frame["pcie_busy"].tolist() == [(0 + 1) / 2, (0.75 + 1) / 2, 1.0, 1.0]


def test_the_breakdown_is_of_means_not_of_medians() -> None:
    assert waited(0, 1, 8)["ttft_breakdown_ms"]["queue"] == 3000.0


def test_loads_prefetches_and_evictions_are_counted_apart() -> None:
    run = tiny()
    (records,) = run.records
    records.transfers.add((7 * S, 7 * S, 8 * S, 1, 1000, 1))
    for _ in range(2):
        records.evictions.add((8 * S, 1))
    adapters = summarise(run)["adapters"]
    assert [adapters[name] for name in ("loads", "prefetches", "evictions")] == [1, 2, 3]


@pytest.mark.parametrize(("copies", "moved"), [(1.0, 5000), (2.0, 10_000)])
def test_bytes_are_loaded_once_and_moved_as_often_as_they_are_copied(copies: float, moved: int) -> None:
    summary = summarise(replace(tiny(), link_copies=copies))
    adapters = summary["adapters"]
    assert (adapters["bytes_loaded"], adapters["bytes_moved"], summary["link"]["bytes"]) == (5000, moved, moved)


def test_bytes_that_are_swapped_in_and_out_are_told_apart_and_only_those_in_use_the_link() -> None:
    run = tiny()
    (records,) = run.records
    records.swaps.add((7 * S, 7 * S, 8 * S, 1, 300, 0))
    records.swaps.add((6 * S, 6 * S, 7 * S, 1, 400, 1))
    records.swaps.add((6 * S, 6 * S, 7 * S, 0, 500, 1))
    summary = summarise(run)
    preemption = summary["preemption"]
    assert (preemption["swapped_in_bytes"], preemption["swapped_out_bytes"]) == (300, 900)
    assert summary["link"]["bytes"] == 5000 + 300


def test_iterations_that_decode_and_prefill_at_once_are_counted_and_timed() -> None:
    run = tiny()
    (records,) = run.records
    records.mixed.add((4 * S, S))
    records.mixed.add((5 * S, S // 2))
    iterations = summarise(run)["iterations"]
    assert (iterations["mixed"], iterations["mixed_s"]) == (2, 1.5)
