"""vLLM's decode steps on an H100: what their published times say of the engine and the card, in closed form.

For given FLOP/s a step is linear in every other coefficient, so non-negative least squares find those, and FLOP/s is
searched. The columns are taken from the cost model itself: whatever its law is, that law is fitted.

One direction is hardly seen by these times. LoRA is on in steps of one sequence and in steps of many with 300 slots,
off in steps of many only: times change little if `enabled_s` takes from `host_s`, `batched_s` gives it back to many
sequences, and `slot_block_s` loses what is then too much with LoRA on. It is seen because one time of a block has to
serve one sequence and many, which launch unlike numbers of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from policies.base import FloatArray
from sim.config import load_config
from sim.engine_costs import EngineCosts
from sim.fidelity.fitting import Trial, Values, rounded, with_costs, with_values
from sim.fidelity.vllm_micro import MicroRow, step_s
from sim.fidelity.vllm_server import HARDWARE, SYSTEM
from sim.hardware import Hardware, load_hardware

OUTLIER = 0.02  # relative error from which a row counts linearly and no longer squared
SHARES, SHARES_APART = tuple(at / 100 for at in range(40, 95, 5)), 0.05  # of the peak's FLOP/s, where they are searched
ROUNDS, STILL = 200, 1e-9  # of reweighting, and the change of a weight that ends it
KV, FLOPS = "attention.kv_bytes_per_s", "dense.flops_per_s"
HOST, PREFILL_HOST = "costs.host_s", "costs.prefill_host_s"
SAMPLE, ELEMENTWISE = "costs.sample_s", "dense.elementwise_s_per_token"
# Times that are searched, and an amount of each that is of its size.
AMOUNTS = {
    HOST: 1e-3,
    "costs.batched_s": 1e-3,
    "costs.slot_block_s": 1e-9,
    "costs.enabled_s": 1e-3,
    "costs.distinct_s": 1e-4,
}


def trial_of(values: Values) -> Trial:
    """Return the packaged engine and card with other coefficients, by key such as "costs.host_s"."""
    costs = {key: value for key, value in values.items() if key.startswith("costs.")}
    card = {key: value for key, value in values.items() if key not in costs}
    gpu, engine = _packaged()
    return Trial(with_values(gpu, card), with_costs(engine, costs))


def shipped(*keys: str) -> Values:
    """Return packaged coefficients by key."""
    gpu, engine = _packaged()
    groups = {"costs": engine, **dict(gpu)}
    return {key: getattr(groups[group], name) for key in keys for group, name in [key.split(".")]}


@cache
def _packaged() -> tuple[Hardware, EngineCosts]:
    return load_hardware(HARDWARE), load_config(SYSTEM).config.costs


def fit_steps(rows: Sequence[MicroRow]) -> Values:
    """Return the coefficients that published steps of one model ask for, by key; outliers count less.

    What a sequence adds beside its adapter is one number, split between sampling and elementwise work as in the
    package: the steps of one model cannot tell. Prefills are taken to have the host time of a step.

    Args:
        rows: steps that have a time.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - slow to import

    steps, peak = _Steps(rows), _packaged()[0].peak_flops

    def loss(share: float) -> float:
        return steps.solved(share * peak)[1]

    best = min(SHARES, key=loss)  # tiles make it bumpy
    ends = (best - SHARES_APART, best + SHARES_APART)
    flops_per_s = peak * float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4}).x)
    return rounded(steps.values(steps.solved(flops_per_s)[0], flops_per_s))


class _Steps:
    """Steps as a constant and columns, all as shares of the published times."""

    def __init__(self, rows: Sequence[MicroRow]) -> None:
        self._rows, self._peak = rows, _packaged()[0].peak_hbm_bytes_per_s
        self._none = dict.fromkeys((*AMOUNTS, SAMPLE, ELEMENTWISE), 0.0) | {KV: self._peak}
        # A KV rate of half the peak adds as much to the peak's time as that is.
        amounts = [{key: amount} for key, amount in AMOUNTS.items()]
        amounts += [shipped(SAMPLE, ELEMENTWISE), {KV: self._peak / 2}]
        none = self._shares(self._none)
        self._columns = np.stack([self._shares(self._none | amount) - none for amount in amounts], axis=1)

    def solved(self, flops_per_s: float) -> tuple[FloatArray, float]:
        """Return how many amounts of each number there are, and the loss that is left."""
        from scipy.optimize import nnls  # noqa: PLC0415 - slow to import

        missing = 1 - self._shares(self._none | {FLOPS: flops_per_s})
        weight = np.ones(len(missing))
        for _ in range(ROUNDS):  # reweighted: the weights of a soft L1 loss at the solution before
            found, _ = nnls(self._columns * weight[:, None], missing * weight)
            softness = np.sqrt(1 + ((self._columns @ found - missing) / OUTLIER) ** 2)
            change = np.abs(1 / np.sqrt(softness) - weight).max()
            weight = 1 / np.sqrt(softness)
            if change < STILL:
                break
        return found, float((softness - 1).sum())

    def values(self, found: FloatArray, flops_per_s: float) -> Values:
        """Return coefficients by key."""
        *times, sequences, kv = found.tolist()
        values = {key: times[at] * amount for at, (key, amount) in enumerate(AMOUNTS.items())}
        values |= {key: sequences * value for key, value in shipped(SAMPLE, ELEMENTWISE).items()}
        return values | {PREFILL_HOST: values[HOST], FLOPS: flops_per_s, KV: self._peak / (1 + kv)}

    def _shares(self, values: Values) -> FloatArray:
        trial = trial_of(values)
        return np.array([1e3 * step_s(row, trial) / (row.itl_ms or np.nan) for row in self._rows])
