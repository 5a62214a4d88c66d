"""What published S-LoRA runs say about an engine and two GPUs: a few coefficients each, none for a single run.

The engine's host times come from the H100's runs, those below its capacity. With them, the A10G's and the A100's own
runs give what their kernels and their CPUs take. Halves of the runs are fitted too, and each predicts the other half.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.config import load_config
from sim.fidelity.cases import Case
from sim.fidelity.fitting import Coefficient, Trial, Values, with_costs, with_values
from sim.fidelity.plans import Plan, Run
from sim.fidelity.slora import SYSTEM, SloraCase
from sim.fidelity.slora_h100 import H100Case
from sim.hardware import load_hardware

SATURATES_PER_S = 12.0  # the simulated H100, about; the real one served 12.7. A median beyond it is a run's length
# A rate's prior is a share of its peak, and it cannot exceed 95 % of that; a fixed time's is a guess, 2 or 3 times off.
_OF_PEAK, _MOST = 0.8, 0.95


def engine_plan() -> Plan:
    """Return the fit of the engine's host times."""
    times = {"costs.host_s": 6e-3, "costs.prefill_host_s": 6e-3, "costs.launch_s": 1e-2, "costs.api_s": 2e-2}
    coefficients = tuple(Coefficient(key, prior, 0.7) for key, prior in times.items())
    costs = load_config(SYSTEM).config.costs
    return Plan("slora-h100", SYSTEM, coefficients, lambda values: Trial(engine=with_costs(costs, values)))


def runs_to_fit(cases: Sequence[Case]) -> list[Run]:
    """Return the runs that coefficients are fitted to: all of the A10G and the A100, the H100's that ours can serve."""
    runs: list[Run] = [case for case in cases if isinstance(case, SloraCase)]
    return runs + [case for case in cases if isinstance(case, H100Case) and case.rate_per_s < SATURATES_PER_S]


def card_plans(engine: Values) -> tuple[Plan, ...]:
    """Return the fits of the cards.

    The A100's linear layers stay as they were measured (Vidur's table): four runs would not say more about them.

    Args:
        engine: the engine's host times, by key.
    """
    return _card("a10g", (*_gpu("a10g"), *_software("a10g")), engine), _card("a100-80", _software("a100-80"), engine)


def _card(name: str, coefficients: tuple[Coefficient, ...], engine: Values) -> Plan:
    base = load_hardware(name)
    costs = with_costs(load_config(SYSTEM).config.costs, engine)
    return Plan(f"slora-{name}", name, coefficients, lambda values: Trial(with_values(base, values), costs))


def _gpu(name: str) -> tuple[Coefficient, ...]:
    card = load_hardware(name)
    bandwidth = card.peak_hbm_bytes_per_s
    return (
        _rate("dense.flops_per_s", card.peak_flops, 0.2),
        _rate("dense.weight_bytes_per_s", bandwidth, 0.1),
        _rate("attention.kv_bytes_per_s", bandwidth, 0.1),
        _rate("lora.weight_bytes_per_s", bandwidth, 0.2),
        Coefficient("link.copy_issue_s", 2e-5, 1.0),
    )


def _software(name: str) -> tuple[Coefficient, ...]:
    """Return what a token of each request takes, reading its adapter again, and the CPU."""
    return (
        Coefficient("attention.sequence_s", 1e-6, 1.0),
        Coefficient("lora.l2_bytes_per_s", 3 * load_hardware(name).peak_hbm_bytes_per_s, 0.7),
        Coefficient("host.factor", 1.0, 0.7),
        Coefficient("host.api_factor", 1.0, 0.7),
    )


def _rate(key: str, peak: float, spread: float) -> Coefficient:
    return Coefficient(key, _OF_PEAK * peak, spread, _MOST * peak)
