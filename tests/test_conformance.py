"""The suite behind `chameleon policies check`: our own policies pass it, and every law finds out who breaks it."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from policies.base import Policy
from policies.builtin import BUILTIN
from policies.eviction import LRU
from sim.conformance import suite
from sim.conformance.suite import LAWS, OF_SEAM, WORLDS, Finding, check_policy, findings, report
from sim.files.yamlfile import ConfigError
from sim.names import SEAMS
from tests import lawbreakers as bad

NAMED = [(seam, name) for seam, table in BUILTIN.items() for name in table]


COUNTS_LINES = pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or coverage has the lines for itself")


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
        (bad.Undocumented, "cache", "documented", "no docstring of Undocumented names fade_s"),
        (bad.Raising, "cache", "runs", "KeyError: 'a"),
        (bad.NotANumber, "cache", "answers", "gave nan; finite numbers are expected"),
        (bad.OneTooFew, "cache", "answers", "numbers for"),
        (bad.Sorting, "cache", "given", "changed the list"),
        (bad.SharesInItsModule, "cache", "own", "`SEEN_BY_ALL` is on the module lawbreakers.py and was changed"),
        (bad.CountingScore, "cache", "pure", "when asked again"),
        (bad.DropsWhatWasUsed, "cache", "in use", "is not among the idle adapters"),
        (bad.AskedOften, "scheduler", "pure", "asked"),
        (bad.OffersTwice, "scheduler", "runs", "in fill, lawbreakers.py:"),
        (bad.Yielding, "scheduler", "answers", "one with a `yield` never runs"),
        (bad.Forgets, "scheduler", "answers", "those that wait are"),
        (bad.StandsStill, "scheduler", "timers", "it still declares 1e-09 s"),
        (bad.Never, "scheduler", "ends", "left waiting"),
        (bad.AsksForEver, "scheduler", "ends", "did not come to an end"),
        (bad.Cooks, "scheduler", "books", "balance"),
        (bad.SquashesAll, "scheduler", "ends", "its work is begun anew for ever"),
        (bad.ServesShortPrompts, "scheduler", "ends", "left waiting"),
        (bad.PutsLongPromptsLast, "scheduler", "answers", "gave inf; finite numbers are expected"),
        (bad.ShortensPrompts, "scheduler", "given", "key has written to request 0: prompt_tokens was "),
        (bad.ForgesRunning, "scheduler", "given", "has written to request 0: arrival_s was 0.0 and is -1.0"),
        (bad.NamesLanes, "scheduler", "answers", "has set lane of request 0 to 'fast'; a whole number"),
        (bad.Shares, "scheduler", "own", "`seen` is on the class Shares and was changed"),
        (bad.CountsItself, "scheduler", "own", "`made` is on the class CountsItself and was changed"),
        (bad.Moody, "scheduler", "repeats", "other"),
        (bad.ByTheClock, "scheduler", "fast", "the other time"),
        (bad.WantsTheBaseModel, "prefetch", "answers", "None, the base model"),
        (bad.WantsNothing, "prefetch", "answers", "wanted returned None"),
        (bad.WantsStrangers, "prefetch", "answers", "no adapter of this workload"),
        (bad.WantsMadeUp, "prefetch", "answers", "no adapter of this workload"),
        (bad.WantsOthers, "prefetch", "answers", "no waiting request needs"),
        (bad.WantsForEver, "prefetch", "ends", "did not come to an end"),
        pytest.param(bad.LoopsForEver, "prefetch", "ends", "wanted has run 1000000 lines", marks=COUNTS_LINES),
        (bad.StopsTheIteration, "prefetch", "runs", "StopIteration (in wanted, lawbreakers.py:"),
        (bad.WakesAtOnce, "prefetch", "timers", "in a world where a decode step takes 1 ms"),
        (bad.Shrinks, "prefetch", "runs", "cannot assign to field 'size_bytes' (in used, lawbreakers.py:"),
        (bad.OutOfRange, "router", "answers", "from 0 to 2"),
        (bad.Halves, "predictor", "answers", "float64"),
        (bad.Zero, "predictor", "answers", "at least 1"),
        (bad.TooShort, "predictor", "answers", "shape"),
        (bad.Overwrites, "predictor", "runs", "read-only (in predict, lawbreakers.py:"),
        (bad.Drifts, "predictor", "pure", "when asked again"),
    ],
)
def test_who_breaks_a_law_is_found_out_and_told_how(
    kind: type[Policy], seam: str, law: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "MAX_LINES", 1_500_000)  # no need for the smallest of worlds
    one = found(kind, seam, law, worlds=15 if kind is bad.Sorting else 8)
    assert one.verdict == "broken"
    assert why in one.why


def test_an_order_that_changes_when_a_deadline_passes_is_found_out_in_as_many_worlds_as_are_played() -> None:
    assert "the other time" in found(bad.DueFirst, "scheduler", "fast", worlds=WORLDS).why


def test_an_order_that_changes_at_a_time_that_was_declared_keeps_the_laws() -> None:
    check_policy(bad.DeclaresWhatIsDue, "scheduler", worlds=WORLDS)


def test_a_policy_woken_at_short_intervals_of_its_own_keeps_the_laws_where_worlds_last_for_hours() -> None:
    check_policy(bad.WakesOften, "prefetch", worlds=10)


def test_what_a_cached_function_remembers_is_no_state_of_the_class() -> None:
    check_policy(bad.Memoized, "cache", worlds=3)


def test_what_lies_on_the_class_is_told_alone_as_it_may_lead_to_anything_else() -> None:
    verdicts = {one.law: one.verdict for one in findings(bad.Shares, "scheduler", worlds=8)}
    assert verdicts["own"] == "broken"
    assert {law for law, verdict in verdicts.items() if verdict == "open"} >= {"repeats", "fast", "pure", "ends"}


def test_a_policy_that_goes_on_for_ever_is_not_played_in_every_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "MAX_LINES", 1)
    (one,) = [one for one in findings(bad.SquashesAll, "scheduler", worlds=8) if one.law == "ends"]
    assert one.verdict == "broken"
    assert 1 <= one.worlds < 8


def test_how_far_the_worlds_have_come_is_shown_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    findings(bad.Never, "scheduler", worlds=2)
    assert "2/2" in terminal.getvalue()
    assert "smaller worlds" in terminal.getvalue()


def test_a_law_that_a_broken_one_stands_before_is_left_open() -> None:
    verdicts = {one.law: one.verdict for one in findings(bad.Never, "scheduler", worlds=3)}
    assert verdicts["ends"] == "broken"
    assert verdicts["fast"] == "open"


def test_a_broken_law_is_shown_in_the_smallest_world() -> None:
    one = found(bad.Never, "scheduler", "ends")
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
        check_policy(bad.Undocumented, "cache", worlds=1)


def test_the_keywords_reach_the_policy_under_test() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fade_s'"):
        findings(bad.Undocumented, "cache", fade=2)


def test_an_instance_cannot_be_checked() -> None:
    with pytest.raises(ConfigError, match="LRU is already built, and fresh ones are needed"):
        findings(LRU(), "cache")
