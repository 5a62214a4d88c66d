"""When an adapter is wanted, by the gaps between its requests."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Adapter, Request
from policies.prefetch_histogram import Gaps, Histogram
from sim.serving.records import SOURCES
from tests.worlds import RoundCosts, World, play

A = Adapter("a", 8, 10)
B = Adapter("b", 16, 20)


def prefetch(**keywords: Any) -> Histogram:
    """Return one whose bins are a second, of which there are 100, and that believes in three gaps."""
    return Histogram(**({"bin_s": 1.0, "bins": 100, "gaps": 3} | keywords))


def regular(policy: Histogram, gap_s: float, uses: int, adapter: Adapter = A) -> float:
    """Use an adapter at a regular gap from second 0, and return the instant of the last use."""
    for i in range(uses):
        _pass(policy, i * gap_s)
        policy.used(adapter, i * gap_s)
    return (uses - 1) * gap_s


def _pass(policy: Histogram, until: float) -> list[float]:
    woken = []
    while (at_s := policy.wakes_at_s()) is not None and at_s <= until:
        woken.append(at_s)
        policy.woken(at_s)
    return woken


def wanted(policy: Histogram, now: float = 0.0) -> list[Adapter]:
    return list(policy.wanted([], now))


# --- the histogram ---


def gaps_of(*gaps_s: float, bins: int = 100) -> Gaps:
    gaps = Gaps(1.0, bins)
    for gap_s in gaps_s:
        gaps.add(gap_s)
    return gaps


def test_percentiles_are_edges_of_bins() -> None:
    gaps = gaps_of(*(i + 0.5 for i in range(100)))
    assert (gaps.starts_s(0.05), gaps.ends_s(0.99), gaps.starts_s(0.5)) == (4.0, 99.0, 49.0)


def test_gaps_beyond_the_range_are_in_no_bin() -> None:
    gaps = gaps_of(0.5, 99.5, 100.0, 200.0)
    assert gaps.outside_share == 0.5
    assert gaps.ends_s(1.0) == 100.0


@given(st.lists(st.floats(0, 9.9), min_size=1, max_size=60))
def test_the_variation_is_that_of_the_bins_counts(gaps_s: list[float]) -> None:
    counts = [sum(int(gap_s) == i for gap_s in gaps_s) for i in range(10)]
    expected = statistics.pstdev(counts) / statistics.mean(counts)
    assert gaps_of(*gaps_s, bins=10).variation == pytest.approx(expected, abs=1e-6)


# --- windows ---


def test_a_regular_adapter_is_wanted_from_the_head_to_the_tail_of_its_gaps() -> None:
    policy = prefetch()
    last_s = regular(policy, 20.5, 5)
    assert wanted(policy) == []
    assert policy.wakes_at_s() == last_s + 20.0 * 0.9
    policy.woken(last_s + 20.0 * 0.9)
    assert wanted(policy) == [A]
    assert policy.wakes_at_s() == last_s + 21.0 * (1 + 0.1)
    policy.woken(last_s + 21.0 * (1 + 0.1))
    assert wanted(policy) == []
    assert policy.wakes_at_s() is None


def test_the_margin_can_be_nothing() -> None:
    policy = prefetch(margin=0.0)
    assert policy.wakes_at_s() is None
    last_s = regular(policy, 20.5, 5)
    assert _pass(policy, 1e9) == [last_s + 20.0, last_s + 21.0]


def test_short_gaps_leave_an_adapter_wanted_from_its_use_on() -> None:
    policy = prefetch()
    last_s = regular(policy, 0.5, 5)
    assert wanted(policy) == [A]
    assert policy.wakes_at_s() == last_s + 1.0 * (1 + 0.1)


def test_few_gaps_mean_a_fixed_time() -> None:
    policy = prefetch(gaps=5)
    last_s = regular(policy, 20.5, 5)
    assert wanted(policy) == [A]
    assert policy.wakes_at_s() == last_s + 100.0
    policy.woken(last_s + 100.0)
    assert wanted(policy) == []


def test_the_fixed_time_can_be_given() -> None:
    policy = prefetch(keep_alive_s=7.0)
    policy.used(A, 1.0)
    assert policy.wakes_at_s() == 8.0


def test_gaps_spread_evenly_over_the_bins_mean_a_fixed_time() -> None:
    for variation, first_s in [(2.0, 0.0), (0.0, 0.9)]:
        policy = prefetch(bins=10, variation=variation)
        now = 0.0
        policy.used(A, now)
        for gap_s in range(1, 10):
            now += gap_s
            policy.used(A, now)
        assert (wanted(policy) == [A]) == (first_s == 0.0)
        assert policy.wakes_at_s() == pytest.approx(now + (first_s or 10.0))


def test_gaps_beyond_the_range_are_forecast_by_their_fading_mean() -> None:
    policy = prefetch(gaps=2)
    for now in (0.0, 200.0, 600.0):
        _pass(policy, now)
        policy.used(A, now)
    assert wanted(policy) == []
    assert _pass(policy, 1e9) == pytest.approx([600 + 300 * 0.85, 600 + 300 * 1.15])


def test_a_new_request_replaces_the_window_and_its_alarms() -> None:
    policy = prefetch(keep_alive_s=7.0)
    policy.used(A, 0.0)
    policy.used(A, 5.0)
    assert _pass(policy, 1e9) == [12.0]


def test_who_is_expected_next_is_wanted_first() -> None:
    policy = prefetch(margin=0.9)
    regular(policy, 20.5, 5, B)  # open from 84 s, expected at 102
    regular(policy, 16.5, 6, A)  # open from 84.1 s, expected at 98.5
    _pass(policy, 86.0)
    assert wanted(policy) == [A, B]


def test_a_fixed_time_is_less_urgent_than_an_expected_request() -> None:
    policy = prefetch()
    policy.used(B, 0.0)
    regular(policy, 0.5, 5)
    assert wanted(policy) == [A, B]


def test_adapters_of_waiting_requests_go_first() -> None:
    policy = prefetch()
    policy.used(A, 0.0)
    assert list(policy.wanted([Request(0, 0.0, 10, 10, B)], 0.0)) == [B, A]


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from([A, B])), min_size=1, max_size=60))
def test_the_answer_does_not_depend_on_when_it_is_asked_for(log: list[tuple[float, Adapter]]) -> None:
    policy, now = prefetch(), 0.0
    for gap_s, adapter in log:
        now += gap_s
        _pass(policy, now)
        policy.used(adapter, now)
        first, wakes_at_s = wanted(policy, now), policy.wakes_at_s()
        assert wanted(policy, now + 50.0) == first
        assert policy.wakes_at_s() == wakes_at_s
        assert wakes_at_s is None or wakes_at_s > now
    _pass(policy, 1e9)
    assert wanted(policy) == []


def test_an_adapter_is_brought_in_by_the_clock_before_its_next_request() -> None:
    # a0 comes every 105 ms and is driven out each time by a long request of the base model.
    ms = 10**9
    rows = [row for i in range(6) for row in ((i * 105 * ms, 5, 2, 0), (i * 105 * ms + 20 * ms, 60, 30, None))]
    costs = RoundCosts(prefill_base=ms, prefill_token=0, decode_base=ms, decode_context=0, load_base=ms, load_byte=0)
    world = World(
        rows,
        [(8, 50)],
        total_bytes=120,
        costs=costs,
        prefetch=lambda: Histogram(bin_s=0.01, bins=30, gaps=3, variation=0.0, margin=0.2),
    )
    _, records = play(world)
    table = [records.transfers[name].tolist() for name in ("queued", "kind")]
    last = list(zip(*table, strict=True))[-1]
    # The gaps fall into the bin of 100 to 110 ms: 20 % before its lower edge after the last use but one.
    assert last == (4 * 105 * ms + 80 * ms, 1)
    assert records.requests["source"].tolist()[-2] == SOURCES.index("prefetched")


@pytest.mark.parametrize(
    "keywords",
    [
        {"bin_s": 0.0},
        {"bins": 0},
        {"head": 0.0},
        {"tail": 1.0},
        {"tail": 0.01},
        {"margin": 1.0},
        {"variation": -1.0},
        {"gaps": 0},
        {"keep_alive_s": 0.0},
    ],
)
def test_a_bad_keyword_is_named_with_what_is_allowed(keywords: dict[str, Any]) -> None:
    (name, value), *_ = keywords.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        Histogram(**keywords)
