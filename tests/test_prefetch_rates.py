"""Which adapters are wanted early by how often they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Adapter, Facts, Prefetch, Request
from policies.frequency import FadingCount
from policies.prefetch import Foreseeing
from policies.prefetch_rates import FadingRates, PLoRA, Rate, UseWithin
from tests.worlds import RoundCosts, World, play

A = Adapter("a", 8, 10)
B = Adapter("b", 16, 20)
BIG = Adapter("big", 128, 100)
FACTS = Facts(
    kv_token_bytes=1,
    kv_tokens=1000,
    memory_tokens=1000,
    admit_every_steps=10,
    batch_prompt_tokens=100,
    max_prompt_tokens=100,
    max_output_tokens=100,
    max_adapter_bytes=100,
    ttft_slo_s=5.0,
    load_s=lambda adapter: 0.1 + adapter.size_bytes / 100,
)


def play_log(prefetch: Prefetch, *log: tuple[float, Adapter]) -> Prefetch:
    prefetch.start(FACTS)
    for now, adapter in log:
        prefetch.used(adapter, now)
    return prefetch


def wanted(prefetch: Prefetch, *adapters: Adapter | None) -> list[Adapter]:
    waiting = [Request(i, 0.0, 40, 10, adapter) for i, adapter in enumerate(adapters)]
    return list(prefetch.wanted(waiting, 1e6))


# --- what all that foresee have in common ---


class Seer(Foreseeing):
    """Expects the same two adapters whatever happens."""

    name = "seer"

    def _foreseen(self, queued: int) -> list[Adapter]:
        self.queued = queued
        return [A, B]


def test_adapters_of_waiting_requests_go_before_expected_ones_and_none_twice() -> None:
    assert wanted(Seer(), BIG, None, B, BIG) == [BIG, B, A]


def test_a_seer_is_told_how_many_requests_wait() -> None:
    seer = Seer()
    wanted(seer, BIG, None, B)
    assert seer.queued == 3


def test_a_seer_is_asked_without_waiting_requests_too() -> None:
    assert (Seer.only_waiting, Seer.asks_at_steps) == (False, None)


# Two requests with a0; by the time of the third, which needs the memory of both, the adapters have come and gone.
ROWS = [(0, 10, 5, 0), (200_000, 60, 30, None), (500_000, 10, 5, 0)]


def transfers(prefetch: Callable[[], Prefetch]) -> list[tuple[int, int]]:
    """Return (adapter, kind) of all transfers in a world where a long prompt drives the only adapter out."""
    world = World(ROWS, [(8, 50)], total_bytes=120, costs=RoundCosts(decode_base=1000), prefetch=prefetch)
    _, records = play(world)
    return list(zip(records.transfers["adapter"].tolist(), records.transfers["kind"].tolist(), strict=True))


@pytest.mark.parametrize("prefetch", [Rate, partial(UseWithin, threshold=0.001)])
def test_what_was_driven_out_comes_back_before_it_is_asked_for_again(prefetch: Callable[[], Prefetch]) -> None:
    assert transfers(Prefetch) == [(0, 0), (0, 0)]
    assert transfers(prefetch) == [(0, 0), (0, 1)]


# --- rates ---


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from([A, B, BIG])), min_size=1, max_size=40))
def test_fading_rates_are_fading_counts_per_time_constant(log: list[tuple[float, Adapter]]) -> None:
    rates, counts, now = FadingRates(20.0, lambda _: 1.0), FadingCount(20.0), 0.0
    for gap_s, adapter in log:
        now += gap_s
        rates.add(adapter, now)
        counts.add(adapter, now)
    expected = [count / 10.0 for count in counts.of([A, B, BIG], now + 3)]
    assert [rates.per_s(adapter, now + 3) for adapter in (A, B, BIG)] == pytest.approx(expected)
    assert rates.total_per_s(now + 3) == pytest.approx(sum(expected))


@given(st.lists(st.tuples(st.floats(0.01, 5), st.sampled_from([A, B, BIG])), min_size=1, max_size=40))
def test_the_order_of_rates_is_that_of_rate_times_weight(log: list[tuple[float, Adapter]]) -> None:
    rates, now = FadingRates(20.0, lambda adapter: adapter.size_bytes), 0.0
    for gap_s, adapter in log:
        now += gap_s
        rates.add(adapter, now)
    values = [rates.per_s(adapter, now) * adapter.size_bytes for adapter in rates]
    assert values == pytest.approx(sorted(values, reverse=True))
    assert len(values) == len({adapter for _, adapter in log})


def test_rates_do_not_overflow_after_days() -> None:
    rates = FadingRates(0.002, lambda _: 1.0)
    rates.add(A, 0.0)
    rates.add(A, 1e6)
    assert rates.per_s(A, 1e6) == pytest.approx(1 / 0.001)


# --- rate ---


def test_rate_wants_by_seconds_saved_for_each_byte() -> None:
    log = [(0.0, BIG), (0.0, A)]
    assert wanted(play_log(Rate(), *log)) == [A, BIG]
    assert wanted(play_log(Rate(per="adapter"), *log)) == [BIG, A]


def test_rate_wants_what_is_asked_for_often() -> None:
    assert wanted(play_log(Rate(per="adapter"), (0.0, A), (0.0, A), (0.0, A), (0.0, B))) == [A, B]


def test_rate_prefers_recent_arrivals() -> None:
    log = [(0.0, A), (0.0, A), (0.0, A), (50.0, B)]
    assert wanted(play_log(Rate(window_s=10.0), *log)) == [B, A]
    assert wanted(play_log(Rate(window_s=1000.0), *log)) == [A, B]


def test_rate_wants_no_more_than_the_top() -> None:
    assert wanted(play_log(Rate(top=1), (0.0, A), (0.0, B))) == [A]


# --- use within ---


def chance(adapter: Adapter, arrivals: int, early_s: float) -> float:
    """Return the chance after so many arrivals at one instant, the window being 20 s."""
    return 1 - math.exp(-arrivals / 10.0 * (FACTS.load_s(adapter) + early_s))


def test_use_within_wants_what_is_likely_used_before_it_could_be_loaded() -> None:
    log = [(5.0, B), (5.0, A), (5.0, A)]
    likely, unlikely = chance(A, 2, 1.0), chance(B, 1, 1.0)
    assert likely > unlikely
    for threshold, expected in [(unlikely - 1e-6, [A, B]), (unlikely + 1e-6, [A]), (likely + 1e-6, [])]:
        prefetch = UseWithin(threshold=threshold, margin_s=1.0, window_s=20.0)
        assert wanted(play_log(prefetch, *log)) == expected


def test_use_within_looks_further_ahead_for_what_loads_longer() -> None:
    prefetch = play_log(UseWithin(threshold=0.01, margin_s=0.0), (0.0, A), (0.0, B))
    assert wanted(prefetch) == []
    prefetch = play_log(UseWithin(threshold=0.01, margin_s=0.0, window_s=20.0), (0.0, A), (0.0, BIG))
    assert wanted(prefetch) == [BIG, A]


def test_use_within_adds_the_queueing_delay_to_its_horizon() -> None:
    # Three wait while 0.2 requests come per second: a new one is expected to wait for 15 s.
    threshold = chance(A, 1, 15.0)
    for margin_s, expected in [(-1e-6, []), (1e-6, [A])]:
        prefetch = UseWithin(threshold=threshold - margin_s, margin_s=0.0, window_s=20.0)
        assert wanted(play_log(prefetch, (0.0, A), (0.0, B)), B, None, None) == [B, *expected]


def test_use_within_takes_its_rates_as_of_the_latest_arrival() -> None:
    prefetch = UseWithin(threshold=chance(A, 1, 1.0), window_s=20.0)
    assert wanted(play_log(prefetch, (0.0, A), (1.0, BIG))) == [BIG]


# --- P-LoRA ---


def bins(prefetch: PLoRA, *counts: int, adapter: Adapter = A) -> PLoRA:
    """Feed so many arrivals in successive bins of a second, and one of b in a bin after them."""
    play_log(prefetch, *((i + 0.5, adapter) for i, count in enumerate(counts) for _ in range(count)))
    prefetch.used(B, len(counts) + 0.5)
    return prefetch


def test_p_lora_wants_nothing_before_a_bin_is_over() -> None:
    assert wanted(play_log(PLoRA(bin_s=1.0), (0.1, A), (0.9, A))) == []
    assert wanted(play_log(PLoRA(bin_s=1.0), (0.1, A), (1.0, B))) == [A]


def test_p_lora_forecasts_a_level_and_a_trend() -> None:
    rising = bins(PLoRA(bin_s=1.0, smoothing=0.5), *range(1, 30))
    assert rising._forecast(*rising._smoothed[A]) == pytest.approx(30, rel=1e-3)
    level = bins(PLoRA(bin_s=1.0, smoothing=0.5), *[7] * 40)
    assert level._forecast(*level._smoothed[A]) == pytest.approx(7, rel=1e-3)


@given(st.integers(1, 20), st.integers(1, 9))
def test_p_lora_takes_empty_bins_in_at_once_as_one_by_one(empty: int, count: int) -> None:
    at_once = play_log(PLoRA(bin_s=1.0), *[(0.5, A)] * count, (empty + 1.5, B))
    one_by_one = play_log(PLoRA(bin_s=1.0), *[(0.5, A)] * count, *((i + 1.5, B) for i in range(empty + 1)))
    assert isinstance(at_once, PLoRA)
    assert isinstance(one_by_one, PLoRA)
    assert at_once._smoothed[A] == pytest.approx(one_by_one._smoothed[A])


def test_p_lora_wants_the_fewest_adapters_that_make_up_its_share() -> None:
    log = [*[(0.5, A)] * 6, *[(0.5, B)] * 3, (0.5, BIG), (1.5, BIG)]
    for share, expected in [(0.5, [A]), (0.7, [A, B]), (0.95, [A, B, BIG])]:
        assert wanted(play_log(PLoRA(bin_s=1.0, share=share), *log)) == expected


def test_p_lora_forgets_what_is_long_out_of_use() -> None:
    assert A in bins(PLoRA(bin_s=1.0), 5, *[0] * 10)._smoothed
    assert A not in bins(PLoRA(bin_s=1.0), 5, *[0] * 100)._smoothed


@pytest.mark.parametrize(
    ("cls", "keywords"),
    [
        (Rate, {"per": "load"}),
        (Rate, {"top": 0}),
        (Rate, {"window_s": 0.0}),
        (UseWithin, {"threshold": 1.0}),
        (UseWithin, {"margin_s": -1.0}),
        (UseWithin, {"window_s": 0.0}),
        (PLoRA, {"bin_s": 0.0}),
        (PLoRA, {"smoothing": 1.0}),
        (PLoRA, {"share": 0.0}),
    ],
)
def test_a_bad_keyword_is_named_with_what_is_allowed(cls: type[Prefetch], keywords: dict[str, Any]) -> None:
    (name, value), *_ = keywords.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        cls(**keywords)
