"""What docs/adaptive.py says about made-up runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("adaptive")


def made(page: ModuleType, value: Callable[[str, int], float | None]) -> dict[str, dict[str, Any]]:
    """Return runs of all keys: P99 by policy and seed (None: the run failed), everything else alike."""
    runs_of = importlib.import_module("adaptive_runs")
    alike = {"p50_ms": 10.0, "hit_rate": 0.5, "wait_s": 1.0, "per_s": 10.0, "verdict": "stable", "version": "v"}
    runs = {key.text: alike | {"p99_ms": 1.0} for key in runs_of.capacity_keys()}
    for key in runs_of.keys():  # noqa: SIM118 - a function of the script
        found = value(key.policy, key.seed)
        runs[key.text] = {"error": "no", "version": "v"} if found is None else alike | {"p99_ms": found}
    return runs


def verdict(page: ModuleType, value: Callable[[str, int], float | None]) -> Any:
    return page.regret(page.PARTS[0], page.REGIMES[0], "p99_ms", made(page, value))


def test_a_steady_loss_is_called_worse_and_a_steady_gain_better(page: ModuleType) -> None:
    base = {"lru": 90.0, "adaptive": 100.0}
    assert verdict(page, lambda policy, seed: base.get(policy, 200.0) + seed).verdict == "worse"
    base["adaptive"] = 80.0
    found = verdict(page, lambda policy, seed: base.get(policy, 200.0) + seed)
    assert (found.verdict, found.best, found.difference.estimate) == ("better", "lru", pytest.approx(-10.0))


def test_a_difference_within_its_interval_is_the_same(page: ModuleType) -> None:
    noise = [5.0, -5.0, 4.0, -6.0, 1.0]
    found = verdict(page, lambda policy, seed: 100.0 + (noise[seed] if policy == "adaptive" else 0.0))
    assert found.verdict == "same"


def test_the_luckiest_policy_on_one_seed_is_not_chosen_for_that_seed(page: ModuleType) -> None:
    def value(policy: str, seed: int) -> float:
        return {"lfu": 0.0 if seed == 0 else 101.0, "lru": 100.0}.get(policy, 150.0)

    found = verdict(page, value)
    assert found.best == "lfu"
    assert found.held_out.estimate == pytest.approx((50 + 4 * 49) / 5)


def test_a_policy_that_failed_in_a_run_is_told_and_is_no_rival(page: ModuleType) -> None:
    def value(policy: str, seed: int) -> float | None:
        return None if (policy, seed) == ("lru", 3) else {"lru": 1.0, "lfu": 2.0}.get(policy, 3.0)

    assert verdict(page, value).best == "lfu"
    assert "| lru | failed |" in page.page(made(page, value))


def test_the_bound_that_knows_the_future_is_no_rival(page: ModuleType) -> None:
    assert verdict(page, lambda policy, seed: 1.0 if policy == "belady" else 2.0).theirs.estimate == pytest.approx(2.0)


def test_every_built_in_policy_of_both_seams_is_in_the_tables(page: ModuleType) -> None:
    builtin = importlib.import_module("policies.builtin").BUILTIN
    for part in page.PARTS:
        assert {*part.published, part.bound, "adaptive"} == set(builtin[part.seam])
