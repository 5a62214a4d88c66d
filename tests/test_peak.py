"""S-LoRA's future-peak test against its own formula, recomputed step by step."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from policies.base import Request
from sim.serving.job import Job
from sim.serving.peak import PeakTest


class Size(NamedTuple):
    prompt: int
    output: int
    generated: int  # 0: admitted in this round, its prefill is still to come


def job(size: Size) -> Job:
    return Job(Request(0, 0.0, size.prompt, size.output, None), 0, size.output, size.output, None)


def peak(running: list[Size], candidate: Size, later: int = 0) -> int:
    """Return S-LoRA's `need` after so many more decode steps, as its code computes it."""
    pairs = [(one.output - one.generated - later - 1, one.prompt + max(one.generated, 1) + later) for one in running]
    pairs.append((candidate.output - 1, candidate.prompt + 1))
    pairs.sort(key=lambda pair: -pair[0])
    return max(left * n + sum(used for _, used in pairs[:n]) for n, (left, _) in enumerate(pairs, 1))


def admitted(sizes: list[Size], step: int) -> PeakTest:
    """Return the test at decode step `step`, each request admitted so long ago that it has generated its tokens."""
    test = PeakTest()
    for size in sizes:
        one = job(size)
        test.add(one, step - max(size.generated - 1, 0))
        if size.generated:
            test.emitted(one)
    return test


tokens = st.integers(1, 60)


@st.composite
def sizes(draw: st.DrawFn) -> Size:
    output = draw(tokens)
    return Size(draw(tokens), output, draw(st.integers(0, output - 1)))


@st.composite
def decoding(draw: st.DrawFn) -> Size:
    output = draw(st.integers(2, 60))
    return Size(draw(tokens), output, draw(st.integers(1, output - 1)))


@given(st.lists(sizes(), max_size=8), sizes(), st.integers(60, 200))
def test_the_peak_is_that_of_the_formula(running: list[Size], candidate: Size, step: int) -> None:
    assert admitted(running, step).need(job(candidate), step) == peak(running, candidate)


@given(st.lists(sizes(), max_size=8), sizes(), st.integers(60, 200), st.integers(1, 900))
def test_a_request_fits_if_the_peak_is_at_most_the_limit(
    running: list[Size], candidate: Size, step: int, limit: int
) -> None:
    assert admitted(running, step).fits(job(candidate), step, limit) == (peak(running, candidate) <= limit)


def searched(running: list[Size], candidate: Size, limit: int) -> int | None:
    """Return after how many more steps the candidate fits, tried one by one, until every pair would run below zero."""
    for later in range(1, 1000):
        if peak(running, candidate, later) <= limit:
            return later
    return None


@given(st.lists(decoding(), min_size=1, max_size=6), sizes(), st.integers(60, 200), st.integers(1, 500))
def test_the_first_fit_is_that_of_a_search_step_by_step(
    running: list[Size], candidate: Size, step: int, limit: int
) -> None:
    # Past the first finish the batch changes and the answer is void, so nobody asks further.
    horizon = min(one.output - one.generated for one in running)
    found = admitted(running, step).first_fit(job(candidate), step, limit)
    told = None if found is None or found - step > horizon else found - step
    expected = searched(running, candidate, limit)
    assert told == (None if expected is None or expected > horizon else expected)


def test_the_first_fit_may_come_before_any_request_ends() -> None:
    running, candidate = [Size(50, 10, 4)], Size(10, 10, 0)
    # it outlives the other, which has 5 left: 5 * 2 + 11 + 54 tokens at that one's end, one less with every step
    assert peak(running, candidate) == 75
    assert admitted(running, 100).first_fit(job(candidate), 100, 74) == 101
    assert admitted(running, 100).first_fit(job(candidate), 100, 72) == 103


def test_no_step_is_the_first_fit_of_a_request_that_is_too_large() -> None:
    assert admitted([Size(10, 50, 1)], 100).first_fit(job(Size(60, 60, 0)), 100, 100) is None


def test_a_request_that_was_removed_counts_no_more() -> None:
    test, one = PeakTest(), job(Size(50, 50, 0))
    test.add(one, 0)
    test.remove(one)
    assert test.need(job(Size(10, 10, 0)), 0) == 20
    assert test.bound == 0


def test_the_test_without_a_request_leaves_the_test_with_it_alone() -> None:
    test, one = PeakTest(), job(Size(50, 50, 0))
    test.add(one, 0)
    candidate = job(Size(10, 10, 0))
    assert test.without(one).need(candidate, 0) == 20
    assert test.need(candidate, 0) == peak([Size(50, 50, 0)], Size(10, 10, 0)) == 100


def test_a_request_that_is_set_aside_counts_with_its_whole_size_until_it_starts() -> None:
    test, one = PeakTest(), job(Size(30, 20, 0))
    candidate = job(Size(10, 10, 0))
    test.set_aside(one)
    assert test.need(candidate, 0) == 20 + 50
    test.take_up(one, 40)
    assert test.need(candidate, 40) == peak([Size(30, 20, 0)], Size(10, 10, 0)) < 70
