"""Pairs of measured and simulated numbers, their errors, aims and the text they become."""

from __future__ import annotations

import math

import pytest

from sim.fidelity.aims import aim_of, verdict
from sim.fidelity.measures import REGIONS, Measure, errors, region_of
from sim.fidelity.report import errors_grid, metrics_of, rows_grid, sets_of


def measure(metric: str, measured: float, simulated: float, **other: str) -> Measure:
    """Return a measure of one run of the A10G."""
    words = {"set": "slora-a10g", "row": "one run", "region": REGIONS[0]} | other
    return Measure(words["set"], words["row"], words["region"], metric, measured, simulated)


def test_an_error_is_relative_to_what_was_measured_and_has_a_sign() -> None:
    assert measure("throughput", 2.0, 1.5).relative_error == -0.25


def test_a_measured_zero_has_no_relative_error() -> None:
    assert math.isnan(measure("throughput", 0.0, 1.0).relative_error)


def test_an_error_that_does_not_exist_is_null_for_machines_and_counts_for_nothing() -> None:
    zero = measure("throughput", 0.0, 1.0)
    assert zero.as_dict()["relative_error"] is None
    assert errors([zero, measure("throughput", 1.0, 1.1)]).pairs == 1
    assert errors_grid([zero])[1] == []


def test_a_measure_for_machines_has_the_documented_keys() -> None:
    assert measure("throughput", 2.0, 1.0).as_dict() == {
        "set": "slora-a10g",
        "row": "one run",
        "region": "below 0.7",
        "metric": "throughput",
        "measured": 2.0,
        "simulated": 1.0,
        "relative_error": -0.5,
    }


@pytest.mark.parametrize(
    ("load", "region"),
    [(0.0, 0), (0.699, 0), (0.7, 1), (0.949, 1), (0.95, 2), (3.0, 2)],
)
def test_a_region_begins_at_its_lower_bound(load: float, region: int) -> None:
    assert region_of(load) == REGIONS[region]


def test_errors_have_sizes_and_a_bias() -> None:
    found = errors([measure("throughput", 1.0, value) for value in (1.1, 0.8, 1.3)])
    assert found == pytest.approx((3, 0.2, 0.2, 0.3, 0.2 / 3))


def test_the_median_of_two_is_between_them() -> None:
    assert errors([measure("throughput", 1.0, value) for value in (1.1, 1.3)]).median_abs == pytest.approx(0.2)


def test_no_measure_has_no_error() -> None:
    with pytest.raises(ValueError, match="no measure"):
        errors([])


def test_a_first_token_that_waited_in_a_queue_has_no_aim() -> None:
    assert aim_of(measure("avg_first_token_latency", 1.9, 1.0)) == 0.07
    assert aim_of(measure("avg_first_token_latency", 2.1, 1.0)) is None


def test_rows_that_were_fitted_keep_the_aims_of_their_set() -> None:
    assert aim_of(measure("ttft_p50", 1.0, 1.0, set="vllm-lora-h100-8b-fit")) == 0.15


def test_a_set_without_promises_has_no_verdict() -> None:
    assert verdict([measure("itl_ms", 1.0, 2.0, set="vllm-h100-microbench")]) is None


def test_a_verdict_counts_errors_of_both_signs_that_keep_within_the_aim() -> None:
    found = verdict([measure("throughput", 1.0, value) for value in (1.009, 0.991, 1.011, 0.989)])
    assert found == (0.01, 2, 4)


def test_only_metrics_with_an_aim_are_shown_where_there_are_any() -> None:
    assert metrics_of([measure("throughput", 1, 1), measure("avg_attainment", 1, 1)]) == ["throughput"]
    assert metrics_of([measure("itl_ms", 1, 1, set="other")]) == ["itl_ms"]


def test_a_run_is_one_line_and_a_metric_that_it_lacks_is_a_dash() -> None:
    header, rows = rows_grid([
        measure("throughput", 2.0, 2.02), measure("avg_latency", 10.0, 9.0), measure("throughput", 4.0, 4.0, row="two"),
    ])  # fmt: skip
    assert header == ["run", "load", "throughput", "simulated", "error", "avg_latency", "simulated", "error"]
    assert rows == [
        ["one run", "below 0.7", "2", "2.02", "+1.0 %", "10", "9", "-10.0 %"],
        ["two", "below 0.7", "4", "4", "+0.0 %", "-", "-", "-"],
    ]


def test_an_error_without_an_aim_is_marked() -> None:
    _, rows = rows_grid(
        [measure("avg_first_token_latency", 1.0, 1.0), measure("avg_first_token_latency", 4, 5, row="q")]
    )
    assert [row[-1] for row in rows] == ["+0.0 %", "+25.0 %*"]


def test_errors_come_by_region_and_then_for_all() -> None:
    low, high = measure("throughput", 1.0, 1.005), measure("throughput", 1.0, 1.1, region=REGIONS[2])
    _, rows = errors_grid([high, low])
    assert [row[:3] for row in rows] == [
        ["throughput", "below 0.7", "1"],
        ["throughput", "above 0.95", "1"],
        ["throughput", "all", "2"],
    ]
    assert [row[-1] for row in rows] == ["1 of 1", "0 of 1", "1 of 2"]


def test_sets_keep_the_order_of_their_first_measure() -> None:
    found = sets_of([measure("a", 1, 1, set="y"), measure("a", 1, 1, set="x"), measure("b", 1, 1, set="y")])
    assert {name: len(own) for name, own in found.items()} == {"y": 2, "x": 1}
    assert list(found) == ["y", "x"]
