"""The suite behind `chameleon policies check`: our own policies pass it, and every law finds out who breaks it."""

from __future__ import annotations

from typing import Any

import pytest

from policies.base import Policy
from policies.builtin import BUILTIN
from policies.eviction import LRU
from sim.conformance.suite import LAWS, OF_SEAM, Finding, check_policy, findings, report
from sim.files.yamlfile import ConfigError
from sim.names import SEAMS
from tests.lawbreakers import (
    AskedOften,
    AsksForEver,
    ByTheClock,
    Cooks,
    CountingScore,
    Drifts,
    DropsWhatWasUsed,
    Forgets,
    Halves,
    Never,
    NotANumber,
    OffersTwice,
    OneTooFew,
    OutOfRange,
    Overwrites,
    Raising,
    Shares,
    Sorting,
    StandsStill,
    TooShort,
    Undocumented,
    WantsForEver,
    WantsNothing,
    WantsOthers,
    WantsStrangers,
    WantsTheBaseModel,
    Yielding,
    Zero,
)

NAMED = [(seam, name) for seam, table in BUILTIN.items() for name in table]


def found(kind: type[Policy], seam: str, law: str, **more: Any) -> Finding:
    return next(one for one in findings(kind, seam, **{"worlds": 8, **more}) if one.law == law)


@pytest.mark.parametrize(("seam", "name"), NAMED)
def test_our_own_policies_keep_every_law(seam: str, name: str) -> None:
    assert [one for one in findings(name, seam, worlds=5) if one.verdict != "kept"] == []


def test_every_seam_is_held_to_laws_that_there_are() -> None:
    assert OF_SEAM.keys() == set(SEAMS)
    assert set().union(*OF_SEAM.values()) == LAWS.keys()


@pytest.mark.parametrize(
    ("kind", "seam", "law", "why"),
    [
        (Undocumented, "cache", "documented", "no docstring of Undocumented names fade_s"),
        (Raising, "cache", "runs", "KeyError: 'a"),
        (NotANumber, "cache", "answers", "gave nan; finite numbers are expected"),
        (OneTooFew, "cache", "answers", "numbers for"),
        (Sorting, "cache", "answers", "changed the list"),
        (CountingScore, "cache", "pure", "when asked again"),
        (DropsWhatWasUsed, "cache", "in use", "is not among the idle adapters"),
        (AskedOften, "scheduler", "pure", "asked"),
        (OffersTwice, "scheduler", "runs", "in fill, lawbreakers.py:"),
        (Yielding, "scheduler", "answers", "one with a `yield` never runs"),
        (Forgets, "scheduler", "answers", "those that wait are"),
        (StandsStill, "scheduler", "timers", "it still declares 1e-09 s"),
        (Never, "scheduler", "ends", "left waiting"),
        (AsksForEver, "scheduler", "ends", "did not come to an end"),
        (Cooks, "scheduler", "books", "balance"),
        (Shares, "scheduler", "repeats", "other"),
        (ByTheClock, "scheduler", "fast", "the other time"),
        (WantsTheBaseModel, "prefetch", "answers", "None, the base model"),
        (WantsNothing, "prefetch", "answers", "wanted returned None"),
        (WantsStrangers, "prefetch", "answers", "no adapter of this deployment"),
        (WantsOthers, "prefetch", "answers", "no waiting request needs"),
        (WantsForEver, "prefetch", "ends", "did not come to an end"),
        (OutOfRange, "router", "answers", "from 0 to 2"),
        (Halves, "predictor", "answers", "float64"),
        (Zero, "predictor", "answers", "at least 1"),
        (TooShort, "predictor", "answers", "shape"),
        (Overwrites, "predictor", "answers", "changed the arrays"),
        (Drifts, "predictor", "pure", "when asked again"),
    ],
)
def test_who_breaks_a_law_is_found_out_and_told_how(kind: type[Policy], seam: str, law: str, why: str) -> None:
    one = found(kind, seam, law, worlds=25 if kind is Shares else 8)
    assert one.verdict == "broken"
    assert why in one.why


def test_a_law_that_a_broken_one_stands_before_is_left_open() -> None:
    verdicts = {one.law: one.verdict for one in findings(Never, "scheduler", worlds=3)}
    assert verdicts["ends"] == "broken"
    assert verdicts["fast"] == "open"


def test_a_broken_law_is_shown_in_the_smallest_world() -> None:
    one = found(Never, "scheduler", "ends")
    assert one.world is not None
    assert (len(one.world.requests), len(one.world.adapters)) == (1, 1)
    text = "\n".join(report(one))
    assert text.startswith("BROKEN  every request that fits is served")
    assert "request 0 at 0: 1 tokens in, 1 out, the base model" in text


def test_a_policy_that_cannot_be_pickled_is_fine() -> None:
    class Unpicklable(LRU):
        def __reduce__(self) -> str:
            raise TypeError

    check_policy(Unpicklable, "cache", worlds=3)


def test_a_test_of_a_policy_fails_with_the_whole_story() -> None:
    with pytest.raises(AssertionError, match="no docstring of Undocumented names fade_s"):
        check_policy(Undocumented, "cache", worlds=1)


def test_the_keywords_reach_the_policy_under_test() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fade_s'"):
        findings(Undocumented, "cache", fade=2)


def test_an_instance_cannot_be_checked() -> None:
    with pytest.raises(ConfigError, match="LRU is already built, and fresh ones are needed"):
        findings(LRU(), "cache")
