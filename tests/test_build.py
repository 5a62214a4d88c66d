"""What is settled before the first request: memory limits, spans, facts for the policies."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from policies.base import Adapter, Cache, Facts, FloatArray, IntArray, Predictor
from sim.build import deploy
from sim.config import load_config
from sim.files.yamlfile import ConfigError
from sim.trace import AdapterSpec, Trace


def two_requests(*arrival_s: float) -> Trace:
    n = len(arrival_s)
    tokens = np.full(n, 10)
    return Trace("two", np.array(arrival_s), tokens, tokens, (AdapterSpec("a", 8),), np.zeros(n, dtype=np.int64))


def facts_of(*changes: str) -> Facts:
    seen: list[Facts] = []

    class Spy(Cache):
        name = "spy"

        def start(self, facts: Facts) -> None:
            seen.append(facts)

    loaded = load_config("chameleon", changes)
    config = loaded.config.model_copy(update={"cache": {"kind": Spy}})
    deploy(loaded._replace(config=config), two_requests(0.0, 1.0))
    return seen[0]


def test_a_run_too_long_for_picoseconds_is_refused_with_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"2 requests arrive from 0 to 5000000 s.*fewer requests or a higher rate"):
        sim.run("slora", trace=two_requests(0.0, 5e6))
    with pytest.raises(ConfigError, match="fewer requests or a higher rate"):
        sim.run("slora", trace=two_requests(1e6, 5e6))
    with pytest.raises(ConfigError, match=r"from 1700000000 to 1700000001 s.*subtract the first stamp"):
        sim.run("slora", trace=two_requests(1.7e9, 1.7e9 + 1))


def test_a_refresh_every_second_over_a_long_quiet_time_is_no_mistake() -> None:
    changes = ["scheduler.refresh_s=1", "scheduler.first_refresh=1"]
    result = sim.run("chameleon", trace=two_requests(0.0, 5000.0), changes=changes)
    assert result.summary["requests"]["completed"] == 2


def test_policies_learn_the_pool_and_all_memory_apart() -> None:
    facts = facts_of("memory.kv_pool_tokens=6000")
    assert facts.kv_tokens == 6000
    assert facts.memory_tokens > 50_000
    assert facts.admit_every_steps == 10


def test_in_a_unified_pool_both_are_the_same() -> None:
    facts = facts_of("memory.kv_pool_tokens=6000", "adapters.memory=unified")
    assert facts.kv_tokens == facts.memory_tokens == 6000


def test_the_time_series_of_a_very_long_run_stays_small() -> None:
    result = sim.run("slora", trace=two_requests(0.0, 1e6))
    assert 90_000 < len(result.timeseries) <= 100_001
    assert len(sim.run("slora", trace=two_requests(0.0, 50.0)).timeseries) == 51


class Scribbles(Predictor):
    """Writes into what it is given."""

    name = "scribbles"

    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: FloatArray) -> IntArray:
        output_tokens[:] = 10
        return output_tokens


def test_a_predictor_cannot_change_the_lengths_that_are_served() -> None:
    with pytest.raises(ValueError, match="read-only"):
        sim.run("slora", requests=5, rate=1, predictor=Scribbles)


def test_a_policy_cannot_change_an_adapter() -> None:
    adapter = Adapter("a", 8, 1000)
    with pytest.raises(AttributeError):
        adapter.size_bytes = 1  # type: ignore[misc]


@pytest.mark.parametrize("change", ["prefetch=rate prefetch.window_s=.inf", "scheduler=sjf scheduler.ageing_s=.nan"])
def test_a_parameter_that_is_no_finite_number_is_refused(change: str) -> None:
    with pytest.raises(ConfigError, match=r"window_s|ageing_s"):
        sim.run("slora", requests=5, rate=1, changes=change.split())
