"""What clients of vLLM see while its API server stands still."""

from __future__ import annotations

import numpy as np
import pytest

from policies.base import IntArray
from sim.fidelity import vllm_stalls
from sim.fidelity.vllm_stalls import READ_EVERY_S, SERIES_S, Stalls, new_series, seen, stalls_of
from sim.results.metrics import Offered
from sim.serving.records import REQUEST_COLUMNS, Records
from sim.serving.ticks import TICKS_PER_S, to_ticks
from sim.trace import AdapterSpec, Trace


def ticks(*values: int) -> IntArray:
    return np.array(values, dtype=np.int64)


def pairs_by_hand(waits: IntArray, runs: IntArray, over: IntArray, adapter: IntArray, steps: int) -> list[int]:
    def those(low: IntArray, high: IntArray, step: int) -> frozenset[int]:
        return frozenset(adapter[(low <= step) & (step < high)].tolist())

    known, found = {(frozenset[int](), frozenset[int]())}, []
    for step in range(steps):
        pair = (those(waits, runs, step), those(runs, over, step))
        if pair not in known:
            known.add(pair)
            found.append(step)
    return found


def test_a_series_is_added_by_every_pair_of_waiting_and_running_adapters_that_was_not_there_before() -> None:
    # 0 waits; 0 runs; 0 runs, 1 waits; both run; 1 runs; none; 1 runs again; both again
    found = new_series(ticks(0, 2, 6, 7), ticks(1, 3, 6, 7), ticks(4, 5, 9, 8), ticks(0, 1, 1, 0), 20)
    assert [step for step in found.tolist() if step != 5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_series_are_those_of_a_count_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    waits = rng.integers(0, 60, 80)
    runs = waits + rng.integers(0, 3, 80)
    over = runs + rng.integers(0, 9, 80)
    over[:4], runs[:2] = 99, 99  # never
    adapter = rng.integers(0, 5, 80)
    found = new_series(waits, runs, over, adapter, 60).tolist()
    by_hand = pairs_by_hand(waits, runs, over, adapter, 60)
    assert set(by_hand) <= set(found)
    assert len(found) <= len(by_hand) + 1  # nothing at all, if that comes again, is a series of its own


def test_without_requests_there_is_no_series() -> None:
    assert new_series(ticks(), ticks(), ticks(), ticks(), 0).tolist() == []


def test_a_reading_lasts_as_long_as_there_are_series_and_the_next_comes_a_while_after() -> None:
    every, one = to_ticks(READ_EVERY_S), to_ticks(SERIES_S)
    stalls = stalls_of(ticks(1, 2, every + 5), 2 * every + 3 * one)
    assert stalls.start.tolist() == [every, 2 * every + 2 * one]
    assert stalls.end.tolist() == [every + 2 * one, 2 * every + 5 * one]


def test_what_falls_into_a_stall_is_seen_at_its_end() -> None:
    assert Stalls(ticks(10, 30), ticks(20, 35)).passed(ticks(5, 10, 19, 20, 31, 40)).tolist() == [5, 20, 20, 20, 35, 40]
    assert Stalls(ticks(), ticks()).passed(ticks(5)).tolist() == [5]


def server() -> Offered:
    records = Records()
    blank = dict.fromkeys(REQUEST_COLUMNS, 0)
    for request, (arrival, first, finish) in enumerate([(0, 10, 70), (40, 50, 90)]):
        told = {"request": request, "arrival": arrival, "first_token": first, "finish": finish}
        records.requests.add((blank | told).values())
    records.segments.add((10, 10, 0, 4, 1, 0))  # steps end at 20, 30, 40, 50
    records.segments.add((50, 10, 0, 2, 2, 0))  # at 60 and 70
    records.segments.add((70, 10, 0, 2, 1, 0))  # at 80 and 90
    trace = Trace("t", np.array([0, 40]) / TICKS_PER_S, ticks(1, 1), ticks(7, 5), (AdapterSpec("a", 16),), ticks(0, 0))
    return Offered(trace, (records,))


@pytest.mark.parametrize(
    ("at_once", "bunched", "gaps"),
    [(2, [2, 1], [10, 10, 32, 8, 8, 10, 10]), (1, [0, 0], [10, 10, 32, 0, 0, 0, 8, 8, 10, 10])],
)
def test_a_client_gets_the_tokens_of_a_stall_as_one_if_they_are_few_and_a_request_of_a_stall_comes_late(
    monkeypatch: pytest.MonkeyPatch, at_once: int, bunched: list[int], gaps: list[int]
) -> None:
    monkeypatch.setattr(vllm_stalls, "stalls_of", lambda *_: Stalls(ticks(35), ticks(62)))
    monkeypatch.setattr(vllm_stalls, "OUTPUTS_AT_ONCE", at_once)
    shown = seen(server(), 1.0)
    assert shown.first_token.tolist() == [10, 72]  # the second is 22 late at the engine
    assert shown.finish.tolist() == [70, 90]
    assert shown.bunched.tolist() == bunched  # 40, 50 and 60 come at 62; the last two have two tokens each
    assert np.repeat(shown.gaps, shown.weights).tolist() == gaps


def test_while_nobody_waits_for_metrics_clients_see_what_the_engine_does() -> None:
    shown = seen(server(), 1.0)
    assert (shown.first_token.tolist(), shown.finish.tolist(), shown.bunched.tolist()) == ([10, 50], [70, 90], [0, 0])
