"""What published S-LoRA runs say about an engine and two GPUs: a few coefficients each, none for a single run.

The engine's host times come from the H100's runs, those below its capacity. With them, the A10G's and the A100's own
runs give what their kernels and their CPUs take. Halves of the runs are fitted too, and each predicts the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from policies.base import FloatArray
from sim.config import load_config
from sim.fidelity.aims import AIMS, aim_of
from sim.fidelity.cases import Case
from sim.fidelity.fitting import Coefficient, Trial, Values, fit, with_costs, with_values
from sim.fidelity.measures import Measure
from sim.fidelity.slora import SYSTEM, SloraCase
from sim.fidelity.slora_h100 import H100Case
from sim.hardware import load_hardware

SATURATES_PER_S = 12.0  # the simulated H100, about; the real one served 12.7. A median beyond it is a run's length
# A rate's prior is a share of its peak, and it cannot exceed 95 % of that; a fixed time's is a guess, 2 or 3 times off.
_OF_PEAK, _MOST = 0.8, 0.95


class Run(Protocol):
    """A published run that can be simulated with other coefficients."""

    @property
    def set(self) -> str:
        """The published set."""

    @property
    def name(self) -> str:
        """The run, in words that no other of its set has."""

    @property
    def workload(self) -> object:
        """What tells its requests from those of other runs."""

    @property
    def published(self) -> Mapping[str, float]:
        """Its numbers by name."""

    def simulated(self, trial: Trial) -> dict[str, float]:
        """Return the same numbers as simulated."""


class Plan(NamedTuple):
    """What is fitted to one set of runs.

    Attributes:
        set: the published set.
        target: the packaged profile or system that the coefficients belong to.
        coefficients: what may be moved.
        trial: what some values of them are simulated as.
    """

    set: str
    target: str
    coefficients: tuple[Coefficient, ...]
    trial: Callable[[Values], Trial]


class Split(NamedTuple):
    """One fit: of all runs of a set, or of a half that then predicts the other.

    Attributes:
        plan: what is fitted.
        fitted: the runs that the fit sees.
        unseen: those that it does not.
    """

    plan: Plan
    fitted: tuple[Run, ...]
    unseen: tuple[Run, ...]


class Outcome(NamedTuple):
    """What one fit found.

    Attributes:
        values: by key.
        fitted: errors of the runs that it saw.
        unseen: errors of those that it did not.
    """

    values: Values
    fitted: tuple[Measure, ...]
    unseen: tuple[Measure, ...]


def engine_plan() -> Plan:
    """Return the fit of the engine's host times."""
    times = {"costs.host_s": 6e-3, "costs.prefill_host_s": 6e-3, "costs.launch_s": 1e-2, "costs.api_s": 2e-2}
    coefficients = tuple(Coefficient(key, prior, 0.7) for key, prior in times.items())
    costs = load_config(SYSTEM).config.costs
    return Plan("slora-h100", SYSTEM, coefficients, lambda values: Trial(engine=with_costs(costs, values)))


def is_of_an_engine(plan: Plan) -> bool:
    """Whether a plan is of an engine's costs and not of a card."""
    return plan.target == SYSTEM


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


def splits(plan: Plan, runs: Sequence[Run]) -> tuple[Split, ...]:
    """Return the fit of all runs of a set, and two of every other workload's that predict the rest.

    Runs of one workload, measured twice, stay together.

    Raises:
        ValueError: if there are fewer than two runs of it.
    """
    own = tuple(run for run in runs if run.set == plan.set)
    if len(own) < 2:
        msg = f"{len(own)} runs are of {plan.set}; at least 2 are needed, so that each half can predict the other"
        raise ValueError(msg)
    places = {workload: place for place, workload in enumerate(dict.fromkeys(run.workload for run in own))}
    even = tuple(run for run in own if places[run.workload] % 2 == 0)
    odd = tuple(run for run in own if places[run.workload] % 2)
    return Split(plan, own, ()), Split(plan, even, odd), Split(plan, odd, even)


def carry_out(split: Split) -> Outcome:
    """Fit and look at the errors."""
    plan = split.plan
    values = fit(plan.coefficients, lambda values: misses(split.fitted, plan.trial(values)))
    trial = plan.trial(values)
    return Outcome(values, tuple(_measures(split.fitted, trial)), tuple(_measures(split.unseen, trial)))


def misses(runs: Sequence[Run], trial: Trial) -> FloatArray:
    """Return the logarithm of simulated over measured, in aims, of every metric that says something of the engine."""
    found = [one for one in _measures(runs, trial) if counts(one)]
    return np.array([np.log(one.simulated / one.measured) / (aim_of(one) or 1.0) for one in found])


def counts(measure: Measure) -> bool:
    """Whether a measure is held against an aim."""
    return aim_of(measure) is not None


def _measures(runs: Sequence[Run], trial: Trial) -> Iterator[Measure]:
    for run in runs:
        simulated = run.simulated(trial)
        for metric, measured in run.published.items():
            if metric in AIMS[run.set]:
                yield Measure(run.set, run.name, "", metric, measured, simulated[metric])
