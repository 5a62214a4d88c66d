"""Coefficients of a profile, moved until simulated runs agree with measured ones and no further than needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from policies.base import FloatArray
from sim.config import Loaded
from sim.engine_costs import EngineCosts
from sim.fidelity.aims import aim_of
from sim.fidelity.measures import Measure
from sim.hardware import Hardware

# Steps of the differences, in spreads. A queue's outcome is rough in the small: the first steps look over it.
STEPS = ((0.1, 8), (0.04, 12))  # and how many evaluations of the gradient they get
SIMPLEX, SIMPLEX_EVALUATIONS = 0.5, 100  # how far its first corners are from the priors, in spreads


class Coefficient(NamedTuple):
    """One number of a profile that a fit may move.

    Attributes:
        key: where it stands: "dense.flops_per_s" in a hardware profile, "costs.host_s" in a system.
        prior: what it is believed to be without the runs.
        spread: how far from that it is believed to lie, as a standard deviation of its logarithm: a move of so much
            costs as much as one metric of one run that is off by its whole aim.
        upper: what it may not exceed, such as a share of the hardware's peak.
    """

    key: str
    prior: float
    spread: float
    upper: float = math.inf


Values = dict[str, float]  # by key
Misses = Callable[[Values], FloatArray]  # of every metric of every run, each over its aim


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


def fit(coefficients: Sequence[Coefficient], misses: Misses) -> Values:
    """Return the coefficients that make misses and moves away from the priors least, outliers softened.

    Args:
        coefficients: what may be moved.
        misses: the errors that some values of them lead to.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - slow to import

    spreads = np.array([one.spread for one in coefficients])
    upper = np.log([one.upper / one.prior for one in coefficients]) / spreads

    def residuals(moves: FloatArray) -> FloatArray:
        return np.append(misses(_values(coefficients, moves - 1)), moves - 1)

    # Differences are taken relative to a value, so moves are counted from 1.
    moves = np.ones(len(coefficients))
    for step, evaluations in STEPS:
        found = least_squares(
            residuals,
            moves,
            bounds=(-np.inf, upper + 1),
            diff_step=np.full(len(moves), step),
            loss="soft_l1",
            max_nfev=evaluations,
            ftol=1e-3,
            xtol=1e-3,
        )
        moves = found.x
    return _values(coefficients, moves - 1)


def fit_rough(coefficients: Sequence[Coefficient], misses: Misses) -> Values:
    """Return the same as `fit` where outcomes jump, as the tail of a server near its capacity does: by a simplex.

    Differences of what jumps say nothing of where to go; a simplex compares outcomes alone.

    Args:
        coefficients: what may be moved.
        misses: the errors that some values of them lead to.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - slow to import

    known: dict[tuple[float, ...], float] = {}

    def loss(moves: FloatArray) -> float:
        values = _values(coefficients, moves)
        key = tuple(values.values())
        if key not in known:
            residuals = np.append(misses(values), moves)
            known[key] = float((np.sqrt(1 + residuals**2) - 1).sum())
        return known[key]

    origin = np.zeros(len(coefficients))
    found = minimize(
        loss,
        origin,
        method="Nelder-Mead",
        bounds=[(-math.inf, math.log(one.upper / one.prior) / one.spread) for one in coefficients],
        options={
            "initial_simplex": np.vstack([origin, SIMPLEX * np.eye(len(coefficients))]),
            "maxfev": SIMPLEX_EVALUATIONS,
            "xatol": 0.02,
            "fatol": 0.02,
        },
    )
    return _values(coefficients, np.asarray(found.x))


def _values(coefficients: Sequence[Coefficient], moves: FloatArray) -> Values:
    return rounded(
        {one.key: one.prior * math.exp(one.spread * move) for one, move in zip(coefficients, moves, strict=True)}
    )


def rounded(values: Values) -> Values:
    """Return coefficients with four digits, which is what profiles hold."""
    return {key: float(f"{value:.4g}") for key, value in values.items()}


def misses(measures: Sequence[Measure]) -> FloatArray:
    """Return the logarithm of simulated over measured, in aims, of every metric that says something of the engine."""
    found = [one for one in measures if counts(one)]
    return np.array([np.log(one.simulated / one.measured) / (aim_of(one) or 1.0) for one in found])


def counts(measure: Measure) -> bool:
    """Whether a measure is held against an aim."""
    return aim_of(measure) is not None


class Trial(NamedTuple):
    """What a run is simulated with instead of what is packaged.

    Attributes:
        gpu: a hardware profile; None: the configured one.
        engine: what the engine's software costs; None: as configured.
        disk_latency_s: of an adapter's first load; None: as configured.
    """

    gpu: Hardware | None = None
    engine: EngineCosts | None = None
    disk_latency_s: float | None = None

    def of(self, loaded: Loaded) -> Loaded:
        """Return a configuration with the engine's costs and the first loads of this trial."""
        config = loaded.config
        if self.engine is not None:
            config = config.model_copy(update={"costs": self.engine})
        if self.disk_latency_s is not None:
            loading = config.loading.model_copy(update={"disk_latency_s": self.disk_latency_s})
            config = config.model_copy(update={"loading": loading})
        return loaded._replace(config=config)


PACKAGED = Trial()


def with_costs(engine: EngineCosts, values: Mapping[str, float]) -> EngineCosts:
    """Return an engine's costs with other coefficients, by key such as "costs.host_s"."""
    return EngineCosts.model_validate(engine.model_dump() | {key.split(".")[1]: at for key, at in values.items()})


def with_values(base: Hardware, values: Mapping[str, float], **groups: Mapping[str, Any]) -> Hardware:
    """Return a profile with other coefficients.

    Args:
        base: the profile that has everything else.
        values: by key such as "dense.flops_per_s".
        groups: what else changes in a group, such as its origin.

    Raises:
        ValueError: if a rate is above the hardware's peak.
    """
    tree: dict[str, Any] = base.model_dump(exclude_none=True)
    for key, value in values.items():
        group, name = key.split(".")
        tree.setdefault(group, {"origin": "prior", "source": "a trial"})[name] = value
    for group, changes in groups.items():
        tree[group] |= changes
    return Hardware.model_validate(tree)
