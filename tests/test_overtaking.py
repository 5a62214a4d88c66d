"""How many of those that came later went first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.results.overtaking import overtaken
from sim.serving.records import NEVER

INSTANTS = st.one_of(st.integers(0, 12), st.just(int(NEVER)))


def counted(sent: list[int], admitted: list[int]) -> list[int]:
    turns = list(zip(sent, range(len(sent)), strict=True))
    return [sum(turns[j] > turns[i] and admitted[j] < admitted[i] for j in range(len(sent))) for i in range(len(sent))]


@given(st.lists(st.tuples(st.integers(0, 5), INSTANTS), max_size=60))
def test_it_is_what_counting_pair_by_pair_gives(rows: list[tuple[int, int]]) -> None:
    sent, admitted = [row[0] for row in rows], [row[1] for row in rows]
    found = overtaken(np.array(sent, dtype=np.int64), np.array(admitted, dtype=np.int64))
    assert found.tolist() == counted(sent, admitted)


def test_in_order_nobody_is_overtaken() -> None:
    assert overtaken(np.array([1, 2, 3]), np.array([5, 5, 9])).tolist() == [0, 0, 0]


def test_one_that_is_never_admitted_is_overtaken_by_all_that_are() -> None:
    assert overtaken(np.array([1, 2, 3]), np.array([NEVER, 5, NEVER])).tolist() == [1, 0, 0]
