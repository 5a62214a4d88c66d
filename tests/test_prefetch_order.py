"""Which adapters are wanted early by what came after what, and by what really comes."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Adapter, Prefetch, Request
from policies.prefetch_order import Markov, Oracle, Successors
from sim.serving.records import SOURCES
from tests.test_prefetch import FACTS
from tests.worlds import RoundCosts, World, play

A, B, C, D = (Adapter(name, 8, 10) for name in "abcd")
NAMES = {"a": A, "b": B, "c": C, "d": D}


def markov(log: str, *, gap_s: float = 1.0, **keywords: Any) -> Markov:
    """Return one that has seen these adapters, one every `gap_s`."""
    prefetch = Markov(**({"lookback": 1} | keywords))
    prefetch.start(FACTS)
    for i, name in enumerate(log):
        prefetch.used(NAMES[name], i * gap_s)
    return prefetch


def wanted(prefetch: Prefetch, *adapters: Adapter | None) -> list[Adapter]:
    waiting = [Request(i, 0.0, 40, 10, adapter) for i, adapter in enumerate(adapters)]
    return list(prefetch.wanted(waiting, 1e6))


# --- Markov ---


def test_what_came_after_the_latest_adapter_is_wanted() -> None:
    assert wanted(markov("abcda")) == [B]
    assert wanted(markov("abcd")) == []


def test_the_most_frequent_successor_goes_first() -> None:
    assert wanted(markov("abacaca")) == [C, B]


def test_equal_chances_go_by_id() -> None:
    assert wanted(markov("acaba")) == [B, C]


def test_rare_successors_are_not_wanted() -> None:
    log = "ab" + "ac" * 9 + "a"
    assert wanted(markov(log, threshold=0.1)) == [C, B]
    assert wanted(markov(log, threshold=0.11)) == [C]


def test_no_more_than_the_top_is_wanted() -> None:
    assert wanted(markov("abacaca", top=1)) == [C]


def test_adapters_of_waiting_requests_go_first() -> None:
    assert wanted(markov("abcda"), D, B) == [D, B]


def test_what_comes_too_late_is_no_successor() -> None:
    assert wanted(markov("aba", gap_s=10.0, window_s=9.0)) == []
    assert wanted(markov("aba", gap_s=10.0, window_s=10.0)) == [B]


def test_with_a_longer_look_back_interleaved_sessions_are_told_apart() -> None:
    # b follows a and d follows c, each with a request of the other session between them.
    log = "acbd" * 5
    assert wanted(markov(log + "a", lookback=1, threshold=0.9)) == [C]
    assert set(wanted(markov(log + "ac", lookback=2, threshold=0.4))) == {B, C, D}


def test_each_of_the_latest_adapters_counts_once() -> None:
    prefetch = markov("aab", lookback=3)
    assert dict(prefetch._after[A].shares()) == {A: 0.5, B: 0.5}
    assert wanted(prefetch) == [A, B]


@pytest.mark.parametrize("last", ["ab", "ba"])
def test_the_strongest_link_from_the_latest_adapters_is_the_chance(last: str) -> None:
    prefetch = markov("acaca" + "bdbdbdbdbcb", threshold=0.45)
    assert dict(prefetch._after[A].shares())[C] == pytest.approx(2 / 3)
    assert dict(prefetch._after[B].shares())[C] == pytest.approx(1 / 5)
    prefetch._latest = deque((15.0, NAMES[name]) for name in last)
    assert prefetch._likely() == [D, C]


def test_old_successors_fade() -> None:
    successors = Successors(memory=10)
    for adapter in [A] * 10 + [B]:
        successors.add(adapter)
    assert dict(successors.shares()) == {A: 1.0}
    for _ in range(5):
        successors.add(B)
    assert dict(successors.shares()) == {A: 0.5, B: 0.5}


@given(st.text("abcd", max_size=30), st.integers(1, 4))
def test_chances_of_one_adapters_successors_add_up_to_one(log: str, lookback: int) -> None:
    for successors in markov(log, lookback=lookback, memory=5)._after.values():
        shares = [share for _, share in successors.shares()]
        assert not shares or sum(shares) == pytest.approx(1.0)


# --- oracle ---


def oracle(*arrivals: tuple[float, Adapter | None], lookahead: int = 64) -> Oracle:
    prefetch = Oracle(lookahead=lookahead)
    prefetch.start(replace(FACTS, future=lambda: iter(arrivals)))
    return prefetch


def test_the_next_to_arrive_are_wanted_in_their_order() -> None:
    prefetch = oracle((0.0, A), (1.0, C), (2.0, None), (3.0, B), (4.0, C))
    prefetch.used(A, 0.0)
    assert wanted(prefetch) == [C, B]
    prefetch.used(C, 1.0)
    assert wanted(prefetch) == [B, C]
    prefetch.used(B, 3.0)
    assert wanted(prefetch) == [C]
    prefetch.used(C, 4.0)
    assert wanted(prefetch) == []


def test_the_look_ahead_counts_requests() -> None:
    prefetch = oracle((0.0, A), (1.0, B), (2.0, None), (3.0, C), (4.0, D), lookahead=2)
    prefetch.used(A, 0.0)
    assert wanted(prefetch) == [B]
    prefetch.used(B, 1.0)
    assert wanted(prefetch) == [C]


def test_the_future_is_read_no_further_than_it_is_looked_at() -> None:
    read: list[int] = []

    def endless() -> Any:
        while True:
            read.append(len(read))
            yield float(read[-1]), A

    prefetch = Oracle(lookahead=3)
    prefetch.start(replace(FACTS, future=endless))
    for now in range(5):
        prefetch.used(A, float(now))
    assert len(read) == 5 + 3


def test_requests_that_came_at_the_same_instant_are_no_future() -> None:
    prefetch = oracle((0.0, A), (0.0, B), (1.0, C))
    prefetch.used(A, 0.0)
    assert wanted(prefetch) == [C]


class Told(Oracle):
    """An oracle of a world by hand."""

    def __init__(self, *arrivals: tuple[float, str]) -> None:
        super().__init__()
        self.arrivals = arrivals

    def start(self, facts: Any) -> None:
        super().start(facts)
        assert [(at_s, adapter and adapter.id) for at_s, adapter in facts.future()] == list(self.arrivals)


def test_an_adapter_is_there_before_its_first_request() -> None:
    us = 10**6
    world = World(
        [(0, 10, 5, 0), (1000 * us, 10, 5, 1)],
        [(8, 50), (8, 70)],
        costs=RoundCosts(load_base=us),
        prefetch=lambda: Told((0.0, "a0"), (1e-3, "a1")),
    )
    _, records = play(world)
    assert records.transfers["kind"].tolist() == [0, 1]
    assert [SOURCES[source] for source in records.requests["source"]] == ["host", "prefetched"]


@pytest.mark.parametrize(
    ("cls", "keywords"),
    [
        (Markov, {"lookback": 0}),
        (Markov, {"window_s": 0.0}),
        (Markov, {"threshold": 0.0}),
        (Markov, {"top": 0}),
        (Markov, {"memory": 1}),
        (Oracle, {"lookahead": 0}),
    ],
)
def test_a_bad_keyword_is_named_with_what_is_allowed(cls: type[Prefetch], keywords: dict[str, Any]) -> None:
    (name, value), *_ = keywords.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        cls(**keywords)
