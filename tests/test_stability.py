"""The bounds of the verdict on a queue: one just within each bound is stable, one just beyond it is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sim.results.stability import stability
from sim.results.summary import Summary

SLICE_S = 100.0


def waiting(levels: Sequence[float]) -> Summary:
    """The verdict on a queue in which so many requests wait on average in each of 20 slices of 100 s.

    Requests wait within their slice; ten more in each wait for nothing, so that no queue is deep or empties late.
    """
    sent, delay = [np.linspace(0, 20 * SLICE_S, 201)], [np.zeros(201)]
    for place, level in enumerate(levels):
        requests = int(np.ceil(level))
        sent.append(np.full(requests, place * SLICE_S))
        delay.append(np.full(requests, SLICE_S * level / max(requests, 1)))
    sent_s, delay_s = np.concatenate(sent), np.concatenate(delay)
    return stability(sent_s, sent_s + delay_s, 20 * SLICE_S)


def last_ones_wait(requests: int, until_s: float, offered: int = 1000) -> Summary:
    """The verdict where one request comes a second and is admitted at once, but for the last ones."""
    sent_s = np.arange(float(offered))
    admitted_s = np.where(sent_s >= offered - requests, until_s, sent_s)
    return stability(sent_s, admitted_s, until_s)


@pytest.mark.parametrize(("share", "verdict"), [(0.049, "stable"), (0.051, "backlogged")])
def test_a_queue_is_deep_where_a_batch_waited_5_percent_of_the_span(share: float, verdict: str) -> None:
    sent_s = np.arange(2000.0)
    fifth = (sent_s >= 400) & (sent_s < 500)  # the fifth of 20 batches
    told = stability(sent_s, sent_s + fifth * share * 1999, 2000.0)
    assert told["max_delay_s"] == pytest.approx(share * told["span_s"])
    assert told["verdict"] == verdict


@pytest.mark.parametrize(("drain_s", "verdict"), [(1.9, "stable"), (2.1, "backlogged")])
def test_a_queue_empties_late_2_percent_of_the_span_after_the_last_arrival(drain_s: float, verdict: str) -> None:
    told = last_ones_wait(5, until_s=100 + drain_s, offered=101)
    assert (told["span_s"], told["drain_s"]) == (100, pytest.approx(drain_s))
    assert told["verdict"] == verdict


@pytest.mark.parametrize(("left", "verdict"), [(19, "stable"), (20, "backlogged")])
def test_work_is_left_over_if_2_percent_of_the_requests_wait_when_arrivals_end(left: int, verdict: str) -> None:
    told = last_ones_wait(left, until_s=999 + 50)
    assert told["backlog_last_quarter"] < 1
    assert told["verdict"] == verdict


@pytest.mark.parametrize(("left", "verdict"), [(2, "stable"), (3, "backlogged")])
def test_of_few_requests_three_must_wait_when_arrivals_end(left: int, verdict: str) -> None:
    sent_s = np.append(np.arange(18.0), [18.8, 18.9, 19.0])
    admitted_s = np.where(np.arange(21) >= 21 - left, 19.5, sent_s)
    assert stability(sent_s, admitted_s, 20.0)["verdict"] == verdict


@pytest.mark.parametrize(("never", "verdict"), [(19, "stable"), (20, "backlogged")])
def test_work_is_left_over_if_2_percent_of_the_requests_were_never_admitted(never: int, verdict: str) -> None:
    sent_s = np.arange(1000.0)
    told = stability(sent_s, np.where(sent_s >= 1000 - never, np.nan, sent_s), 999.0)
    assert (told["never_admitted"], told["drain_s"]) == (never, 0)
    assert told["verdict"] == verdict


@pytest.mark.parametrize(("place", "trend_z", "verdict"), [(7, 2.27, "stable"), (8, 2.34, "backlogged")])
def test_a_queue_grows_if_its_rise_is_no_chance_at_1_percent(place: int, trend_z: float, verdict: str) -> None:
    levels = [1] * 15 + [3] * 5
    levels[place] = 3  # the later the one slice that is as full as the last ones, the surer the rise
    told = waiting(levels)
    assert told["trend_z"] == pytest.approx(trend_z, abs=0.005)
    assert told["verdict"] == verdict


@pytest.mark.parametrize(("last", "verdict"), [(19, "stable"), (20, "backlogged")])
def test_a_queue_grows_if_twice_as_many_wait_in_the_end_as_in_the_first_half(last: int, verdict: str) -> None:
    told = waiting([10] * 15 + [last] * 5)
    assert (told["backlog_first_half"], told["backlog_last_quarter"]) == (10, last)
    assert told["trend_z"] > 2.33
    assert told["verdict"] == verdict


@pytest.mark.parametrize(("last", "verdict"), [(0.95, "stable"), (1.0, "backlogged")])
def test_a_queue_that_grows_to_less_than_one_request_is_none(last: float, verdict: str) -> None:
    told = waiting([0.25] * 15 + [last] * 5)
    assert told["trend_z"] > 2.33
    assert told["verdict"] == verdict
