"""A run that fails names the policy from outside that is to blame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from policies.base import Adapter, Cache, FloatArray, IntArray, Predictor, Prefetch, Request, Scheduler
from policies.eviction import LRU
from sim.config import load_config
from sim.experiments.faults import PolicyError, strangers
from sim.files.yamlfile import ConfigError

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
    with pytest.raises(PolicyError, match=r"^cache Silent: scores of \d+ adapters gave \["):
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


class Leaves(Cache):
    def used(self, adapter: Adapter, now: float) -> None:
        raise SystemExit(3)


class Vague(Scheduler):
    def key(self, request: Request, now: float) -> float:
        return float("nan")


class Endless(Prefetch):
    def wanted(self, waiting: Iterable[Request], now: float) -> Iterator[Adapter]:
        for request in waiting:
            while request.adapter is not None:
                yield request.adapter


class Short(Predictor):
    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: FloatArray) -> IntArray:
        return output_tokens[1:]


class Fractional(Predictor):
    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: FloatArray) -> Any:
        return output_tokens * np.nan


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        ({"cache": Leaves}, "cache Leaves failed: SystemExit: 3"),
        ({"scheduler": Vague}, r"scheduler Vague: key of Request\(0, .* gave nan; a finite number is expected"),
        ({"prefetch": Endless}, "prefetch Endless: wanted has named 1000001 adapters and goes on"),
    ],
)
def test_an_answer_of_the_wrong_kind_ends_the_run(policies: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        sim.run("slora", requests=300, rate=12, changes=TIGHT, **policies)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "high", None])
def test_a_score_that_is_no_finite_number_ends_the_run_even_where_only_one_adapter_is_idle(score: Any) -> None:
    class Odd(Cache):
        def score(self, adapter: Adapter, now: float) -> float:
            return score  # type: ignore[no-any-return]

    with pytest.raises(PolicyError, match=r"cache Odd: scores of \d+ adapters gave .*finite number for each") as told:
        sim.run("slora", requests=300, rate=12, changes=TIGHT, cache=Odd)
    assert " s of the run with seed 0" in str(told.value)


@pytest.mark.parametrize(
    ("predictor", "told"),
    [
        (Short, r"predictor: Short.predict gave int64 of shape \(9,\), .*; 10 whole numbers from 1 up are expected"),
        (Fractional, r"Fractional.predict gave float64 of shape \(10,\)"),
    ],
)
def test_a_prediction_of_the_wrong_kind_is_told_before_the_run(predictor: type[Predictor], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        sim.run("slora", requests=10, predictor=predictor)


class Unbuildable(Cache):
    def __init__(self) -> None:
        raise OverflowError("of my own making")

    def score(self, adapter: Adapter, now: float) -> float:
        return 0.0


def test_a_constructor_that_raises_is_told_where_the_policy_is_named() -> None:
    with pytest.raises(ConfigError, match="cache: Unbuildable cannot be built: OverflowError: of my own making"):
        sim.run(cache=Unbuildable, requests=20)


def test_the_line_of_a_policys_own_helper_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "helper_that_fails.py").write_text("def halved(value):\n    return value / 0\n")
    (mine := tmp_path / "mine.py").write_text(
        "from policies.eviction import LRU\n"
        "from helper_that_fails import halved\n"
        "class Mine(LRU):\n"
        "    def used(self, adapter, now):\n"
        "        halved(now)\n"
    )
    with pytest.raises(PolicyError) as told:
        sim.run(requests=20, changes=f"cache.kind={mine}:Mine")
    lines = str(told.value).splitlines()
    assert lines[1:5] == [
        f"  {mine}:5, in used",
        "    halved(now)",
        f"  {tmp_path / 'helper_that_fails.py'}:2, in halved",
        "    return value / 0",
    ]


def test_of_two_policies_from_outside_only_the_one_that_raises_is_named(tmp_path: Path) -> None:
    (mine := tmp_path / "mine.py").write_text(
        "from policies.scheduling import FCFS\nclass Mine(FCFS):\n    'As FCFS.'\n"
    )
    with pytest.raises(PolicyError, match=r"^cache Forgetful failed: "):
        sim.run("slora", cache=Forgetful, requests=20, changes=f"scheduler.kind={mine}:Mine")


class Wrapping(Cache):
    def used(self, adapter: Adapter, now: float) -> None:
        try:
            self._looked_up(adapter)
        except KeyError as error:
            raise RuntimeError("of no use") from error

    def _looked_up(self, adapter: Adapter) -> None:
        raise KeyError(adapter.id)


def test_an_error_raised_from_another_is_told_with_the_lines_that_led_to_the_first() -> None:
    with pytest.raises(
        PolicyError, match=r"cache Wrapping failed: RuntimeError: of no use; .*\n(.*\n)+.*, in _looked_up\n"
    ):
        sim.run(cache=Wrapping, requests=20)


class Stray(Prefetch):
    def wanted(self, waiting: Iterable[Request], now: float) -> list[Adapter]:
        return [Adapter("stray", 8, 100)]


def test_an_adapter_that_the_workload_lacks_is_no_prefetch() -> None:
    with pytest.raises(
        PolicyError, match=r"^prefetch Stray: wanted gave Adapter\('stray', .*, no adapter of this work"
    ):
        sim.run("slora", requests=20, prefetch=Stray)


class Stops(Prefetch):
    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        raise StopIteration


def test_a_hook_that_raises_what_ends_a_loop_is_named_with_its_line() -> None:
    with pytest.raises(
        PolicyError, match=r"^prefetch Stops failed: StopIteration; .*\n.*test_faults.py:\d+, in wanted\n"
    ):
        sim.run("slora", requests=20, prefetch=Stops)


class WithoutNow(Cache):
    def score(self, adapter: Adapter) -> float:  # type: ignore[override]
        return 0.0


def test_a_hook_that_takes_too_little_is_told_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"has score\(self, adapter\), which should be score\(self, adapter, now\)"):
        sim.run("slora", requests=20, cache=WithoutNow)
