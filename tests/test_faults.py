"""A run that fails names the policy from outside that is to blame."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from policies.base import Adapter, Cache
from policies.eviction import LRU
from sim.config import load_config
from sim.faults import PolicyError, strangers

TIGHT = ("adapters.memory=unified", "memory.kv_pool_tokens=6000")


class Forgetful(Cache):
    def used(self, adapter: Adapter, now: float) -> None:
        raise KeyError(adapter.id)


class Silent(Cache):
    def score(self, adapter: Adapter, now: float) -> float:
        return None  # type: ignore[return-value]


class StartsBadly(Cache):
    def start(self, facts: object) -> None:
        raise ZeroDivisionError("of my own making")


def test_a_policy_that_raises_is_named_with_its_line_and_the_error_as_cause() -> None:
    with pytest.raises(
        PolicyError, match=r"cache Forgetful failed: KeyError: .*\n  .*test_faults.py:\d+, in used"
    ) as told:
        sim.run(cache=Forgetful, requests=20)
    assert isinstance(told.value.__cause__, KeyError)


def test_an_instance_that_raises_is_named_too() -> None:
    with pytest.raises(PolicyError, match="cache Forgetful failed"):
        sim.run(cache=Forgetful(), requests=20)


def test_a_policy_that_raises_before_the_run_is_named() -> None:
    with pytest.raises(PolicyError, match=r"cache StartsBadly failed: ZeroDivisionError: of my own making"):
        sim.run(cache=StartsBadly, requests=20)


def test_an_answer_that_the_engine_cannot_use_is_laid_to_the_policy_that_is_not_ours() -> None:
    with pytest.raises(PolicyError, match=r"^cache Silent: an answer has led the engine to TypeError: '<' not supp"):
        sim.run(cache=Silent, requests=300, changes=TIGHT)


def test_a_mistake_in_the_workload_is_not_laid_to_a_policy() -> None:
    with pytest.raises(ValueError, match="cannot be read") as told:
        sim.run(cache=Silent, trace="no/such/file.csv")
    assert not isinstance(told.value, PolicyError)


def test_an_error_of_our_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(LRU, "used", broken)
    with pytest.raises(KeyError, match="ours"):
        sim.run(cache="lru", requests=20)


def test_built_in_policies_are_no_strangers_however_they_are_named() -> None:
    loaded = load_config("chameleon", extra={"cache": LRU, "prefetch": "policies.prefetch:Queued"})
    assert strangers(loaded) == []


def test_a_strangers_files_are_its_own_and_not_those_of_our_base(tmp_path: Path) -> None:
    (mine := tmp_path / "mine.py").write_text("from policies.eviction import LRU\nclass Mine(LRU):\n    'As LRU.'\n")
    (only,) = strangers(load_config("chameleon", (f"cache.kind={mine}:Mine",)))
    assert (only.seam, only.files, only.is_named) == ("cache", frozenset({mine.resolve()}), True)
