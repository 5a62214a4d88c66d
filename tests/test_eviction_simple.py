"""Who leaves memory first where nothing is remembered, and what all rules have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Cache
from policies.builtin import BUILTIN
from policies.eviction_bounds import Belady
from policies.eviction_history import LRUK, Elora
from policies.eviction_lhd import LHD
from policies.eviction_queues import S3FIFO, Sieve
from policies.eviction_simple import LargestFirst, RandomEviction, SmallestFirst
from policies.eviction_tinylfu import WTinyLFU
from tests.eviction_world import ADAPTERS, BIG, MAKERS, A, B, facts, order, play

LOGS = st.lists(st.sampled_from([sign + name for sign in ("", "", "+", "-") for name in "abcB"]), max_size=40)


def test_by_lot_everybody_goes_first_now_and_then() -> None:
    cache = RandomEviction()
    firsts = []
    for _ in range(300):
        firsts.append(order(cache, "abc")[0])
        cache.evicted(A, 0.0)
    assert all(70 < firsts.count(name) < 130 for name in "abc")


def test_lots_are_drawn_anew_at_evictions_only() -> None:
    cache = play(RandomEviction(), "a +a b +b")
    before = cache.scores([A, B], 10.0)
    cache.used(A, 11.0)
    cache.loaded(BIG, 12.0)
    assert cache.scores([A, B], 50.0) == before
    cache.evicted(BIG, 51.0)
    assert cache.scores([A, B], 50.0) != before


def test_the_seed_chooses_the_lots() -> None:
    assert RandomEviction(seed=1).score(A, 0.0) != RandomEviction(seed=2).score(A, 0.0)
    assert RandomEviction(seed=1).score(A, 0.0) == RandomEviction(seed=1).score(A, 0.0)


def test_lots_are_the_same_on_every_machine() -> None:
    assert RandomEviction().score(A, 0.0) == pytest.approx(0.7520108024812338)


def test_largest_first_and_smallest_first_go_by_bytes() -> None:
    assert order(LargestFirst(), "aB") == "Ba"
    assert order(SmallestFirst(), "aB") == "aB"


# --- what all have in common -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_every_rule_has_its_short_name(name: str) -> None:
    cache = MAKERS[name]()
    assert cache.name == name
    assert cache.source
    assert BUILTIN["cache"][name] == f"{type(cache).__module__}:{type(cache).__name__}"


@pytest.mark.parametrize("name", MAKERS)
@given(log=LOGS)
def test_every_score_is_finite_and_the_same_when_asked_again(name: str, log: list[str]) -> None:
    cache = play(MAKERS[name](), " ".join(log))
    adapters = list(ADAPTERS.values())
    first = list(cache.scores(adapters, 50.0))
    assert all(map(math.isfinite, first))
    assert list(cache.scores(adapters, 50.0)) == first
    assert all(math.isfinite(cache.score(adapter, 50.0)) for adapter in adapters)


@pytest.mark.parametrize("name", MAKERS)
@given(log=LOGS, asked_at=st.sets(st.integers(0, 39)))
def test_a_question_changes_no_later_answer(name: str, log: list[str], asked_at: set[int]) -> None:
    quiet, asked = MAKERS[name](), MAKERS[name]()
    for cache, questions in ((quiet, set()), (asked, asked_at)):
        cache.start(facts())
        for now, word in enumerate(log):
            if now in questions:
                cache.scores([A, BIG], float(now))
                cache.score(B, float(now))
            hook = {"+": cache.loaded, "-": cache.evicted}.get(word[0], cache.used)
            hook(ADAPTERS[word[-1]], float(now))
    assert order(asked, "abcB") == order(quiet, "abcB")


@pytest.mark.parametrize("name", ["s3-fifo", "sieve", "w-tinylfu", "lhd", "lfu-da", "lru-k", "hyperbolic"])
def test_a_demand_load_and_a_prefetch_used_at_once_are_the_same(name: str) -> None:
    log = "b +b {} b d +d d c +c"
    demand, prefetch = play(MAKERS[name](), log.format("a +a")), play(MAKERS[name](), log.format("+a a"))
    assert order(demand, "abcd") == order(prefetch, "abcd")


SCANS = [S3FIFO, partial(S3FIFO, small_share=0.5, move_hits=1), partial(S3FIFO, small_share=0.9), Sieve, WTinyLFU]


@pytest.mark.parametrize("scan", SCANS)
@given(log=LOGS, candidates=st.permutations("abcB"), size=st.integers(1, 4))
def test_victims_told_at_once_are_the_victims_told_one_by_one(
    scan: Callable[[], Cache], log: list[str], candidates: list[str], size: int
) -> None:
    cache = play(scan(), " ".join(log))
    residents = "".join(one for one in candidates[:size] if is_resident(log, one))
    at_once, one_by_one = order(cache, residents), ""
    while residents:
        victim = order(cache, residents)[0]
        cache.evicted(ADAPTERS[victim], 60.0)
        residents = residents.replace(victim, "")
        one_by_one += victim
    assert one_by_one == at_once


def is_resident(log: list[str], name: str) -> bool:
    signs = [word[0] for word in log if word[-1] == name and len(word) > 1]
    return bool(signs) and signs[-1] == "+"


@pytest.mark.parametrize(
    ("cls", "keywords"),
    [
        (LRUK, {"k": 0}),
        (LRUK, {"history": "some"}),
        (Elora, {"age_unit_s": 0.0}),
        (LHD, {"cost": "bytes"}),
        (LHD, {"renew_uses": 0}),
        (LHD, {"fade": -0.1}),
        (S3FIFO, {"small_share": 0.0}),
        (S3FIFO, {"ghost_share": -1.0}),
        (S3FIFO, {"move_hits": 0}),
        (WTinyLFU, {"window_share": -0.1}),
        (WTinyLFU, {"protected_share": -0.1}),
        (WTinyLFU, {"halving_uses": 0.0}),
        (Belady, {"by": "time"}),
    ],
)
def test_a_bad_keyword_is_named_with_what_is_allowed(cls: Callable[..., Cache], keywords: dict[str, Any]) -> None:
    (name, value), *_ = keywords.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        cls(**keywords)
