"""A profile's host: how slow its CPU is, against the one that an engine's host times are from."""

from __future__ import annotations

import pytest

from sim.costs import CostModel, EngineCosts
from sim.fidelity.fitting import with_values
from sim.hardware import Hardware, load_hardware
from sim.models import load_model
from sim.serving.ticks import to_seconds

ENGINE = EngineCosts(host_s=2e-3, host_per_running_s=1e-4, prefill_host_s=3e-3, prompt_s=5e-4, api_s=4e-3)


def costs(engine: EngineCosts = ENGINE, **values: float) -> CostModel:
    """Return an A40's costs with another host."""
    card = load_hardware("a40")
    card = with_values(card, {f"host.{name}": value for name, value in values.items()}) if values else card
    return CostModel(card, load_model("llama-7b"), engine)


def step_s(law: CostModel) -> float:
    return to_seconds(law.decode(4, 1000, 0, 0, 0, 0).first)


def test_a_slow_host_lengthens_what_the_gpu_waits_for_and_nothing_else() -> None:
    assert step_s(costs(factor=3.0)) - step_s(costs()) == pytest.approx(2 * (2e-3 + 4 * 1e-4))
    prefill_s = [to_seconds(law.prefill(2, 100, 5000, 0, 0, 0, 0)) for law in (costs(factor=3.0), costs())]
    assert prefill_s[0] - prefill_s[1] == pytest.approx(2 * (3e-3 + 2 * 5e-4))
    assert step_s(costs(EngineCosts(), factor=3.0)) == step_s(costs(EngineCosts()))


def test_launches_are_the_host_s_too() -> None:
    launched = EngineCosts(launch_s=0.1)
    assert step_s(costs(launched, factor=2.0)) == pytest.approx(2 * step_s(costs(launched)))


def test_without_a_host_every_time_is_the_engine_s_own() -> None:
    assert step_s(costs()) == step_s(costs(factor=1.0))


def test_the_time_outside_the_engine_has_a_factor_of_its_own_or_the_host_s() -> None:
    assert costs().api_s == 4e-3
    assert costs(factor=3.0).api_s == pytest.approx(12e-3)
    assert costs(factor=3.0, api_factor=0.5).api_s == pytest.approx(2e-3)


def test_no_step_contains_the_time_outside_the_engine() -> None:
    assert step_s(costs(ENGINE.model_copy(update={"api_s": 1.0}))) == step_s(costs())


def test_a_profile_tells_where_its_host_is_from() -> None:
    assert "host" not in load_hardware("a40").origins
    card: Hardware = with_values(load_hardware("a40"), {"host.factor": 2.0}, host={"origin": "fitted"})
    assert card.origins["host"] == "fitted"
