"""Numbers and intervals as tables on standard output show them."""

from __future__ import annotations

import pytest

from sim.statistics import Interval
from sim.texttable import change_text, interval_text, plus_minus, points, table


@pytest.mark.parametrize(
    ("interval", "most", "shown"),
    [
        (Interval(12.34, 11.9, 12.8, 5), None, "12.3 [11.9, 12.8]"),
        (Interval(6.2, -7.1, 19.5, 2), None, "6.200 [0.000, 19.5]"),
        (Interval(96.8, 84.0, 109.5, 2), 100.0, "96.8 [84.0, 100.0]"),
        (Interval(1234.5, None, None, 1), 100.0, "1234"),
        (None, None, "-"),
    ],
)
def test_an_interval_is_shown_within_what_is_possible(
    interval: Interval | None, most: float | None, shown: str
) -> None:
    assert interval_text(interval, most=most) == shown


def test_a_change_may_go_either_way_and_is_shown_with_its_sign() -> None:
    assert change_text(Interval(0.5, 0.4, 0.6, 5)) == "-50.0 % [-60.0 %, -40.0 %]"
    assert change_text(Interval(-0.02, -0.1, 0.06, 5)) == "+2.0 % [-6.0 %, +10.0 %]"
    assert change_text(None) == "-"


def test_a_symmetric_interval_may_be_shown_by_its_half() -> None:
    assert plus_minus(Interval(12.34, 11.84, 12.84, 5)) == "12.3 ± 0.5"
    assert plus_minus(Interval(0.5, 0.4, 0.6, 5), percent_change=True) == "-50.0 % ± 10.0"


def test_a_difference_of_shares_is_shown_in_points() -> None:
    assert points(Interval(1.0, -0.5, 2.5, 3)) == "+1.0 [-0.5, +2.5] pp"


def test_columns_line_up() -> None:
    assert table(["a", "bb"], [["xyz", "1"]]) == "a    bb\n-------\nxyz   1"
