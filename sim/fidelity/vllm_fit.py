"""vLLM with LoRA on an H100, fitted again: its steps in closed form, and a number that only its servers show.

That is `prompt_s`, of which `api_s` follows. The calibration runs are simulated at both ends of what it can be, and
between these the logarithm of every metric is taken to be linear in it; what is found is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np

from policies.base import FloatArray
from sim.fidelity.fitting import Outcome, Values, misses, rounded
from sim.fidelity.measures import NO_LOAD, Measure
from sim.fidelity.published import VLLM_MICRO, VLLM_RUNS
from sim.fidelity.vllm import metrics, sets_of
from sim.fidelity.vllm_micro import FITTED, SET, MicroRow, micro_cases, step_s
from sim.fidelity.vllm_rows import OneRun, RunRow, rated_rows
from sim.fidelity.vllm_server import answered, server
from sim.fidelity.vllm_steps_fit import fit_steps, shipped, trial_of
from sim.fidelity.vllm_workload import workload

SET_FITTED = "vllm-lora-h100-8b-fit"
PROMPT, API = "costs.prompt_s", "costs.api_s"
# What a server fit looks at: medians and means. The 99th percentiles show stalls of the API server (vllm_stalls.py).
METRICS = ("ttft_p50", "tpot_mean")
# Ends of `prompt_s`, as a share of what an idle server's first token takes beyond a step; `api_s` is the rest of that.
ENDS = (0.5, 1.0)
LEAST_STEPS = 20  # for two halves with more rows than numbers

Row = TypeVar("Row")
Simulate = Callable[[Sequence["ServerRun"]], list[list[Measure]]]


@dataclass(frozen=True)
class ServerRun(OneRun):
    """A calibration run with some coefficients.

    Attributes:
        values: coefficients by key.
    """

    values: tuple[tuple[str, float], ...]

    def measures(self) -> list[Measure]:
        """Return the metrics of the fit beside the published ones."""
        row = self.row
        found = metrics(answered(server(row), workload(row), row.dur, trial_of(dict(self.values))), row.dur)
        return [Measure(SET_FITTED, row.words, "", name, getattr(row, name), found[name]) for name in METRICS]


class Tables(NamedTuple):
    """What is fitted, and what tests it.

    Attributes:
        steps: published steps of the fitted model.
        other_steps: those of the other model.
        runs: calibration runs.
    """

    steps: tuple[MicroRow, ...]
    other_steps: tuple[MicroRow, ...]
    runs: tuple[RunRow, ...]


class VllmFit(NamedTuple):
    """What was found; of all rows, of every other one, and of the rest.

    Attributes:
        steps: the first has the other model's steps as unseen ones.
        servers: all coefficients, the steps' from all steps; the runs that a half has seen are not simulated again with
            what it found.
        packaged: errors of the calibration runs with the packaged coefficients.
    """

    steps: tuple[Outcome, ...]
    servers: tuple[Outcome, ...]
    packaged: tuple[Measure, ...]


def read(data: Path) -> Tables:
    """Return the tables of a folder.

    Raises:
        ConfigError: if a table is wrong.
        FileNotFoundError: if there is none.
        ValueError: if there are too few rows to halve.
    """
    rows = [case.row for case in micro_cases(data / VLLM_MICRO)]
    steps = tuple(row for row in rows if row.model == FITTED)
    runs = tuple(row for row, name in sets_of(rated_rows(data / VLLM_RUNS)).items() if name == SET_FITTED)
    for what, found, least in (("steps of the fitted model", steps, LEAST_STEPS), ("calibration runs", runs, 2)):
        if len(found) < least:
            msg = f"{data}: {len(found)} {what}; at least {least} are needed, so that each half can predict the other"
            raise ValueError(msg)
    return Tables(steps, tuple(row for row in rows if row.model != FITTED), runs)


def work(tables: Tables) -> int:
    """Return about how many requests `fit_vllm` simulates."""
    choices = len(ENDS) + 3  # as packaged, of all runs, and of each half, which serves the other
    return choices * sum(row.arrivals for row in tables.runs)


def fit_vllm(tables: Tables, simulate: Simulate) -> VllmFit:
    """Fit steps and servers.

    Args:
        tables: what is fitted.
        simulate: returns the measures of each run.
    """
    steps = fit_all_steps(tables)
    excess_s = _first_token_excess_s(tables.steps)

    def values_at(share: float) -> Values:
        return steps[0].values | rounded({PROMPT: share * excess_s, API: (1 - share) * excess_s})

    ends = [values_at(share) for share in ENDS]
    packaged = shipped(*ends[0])
    served = _served(simulate, [(values, tables.runs) for values in (*ends, packaged)])
    halves = halved(tables.runs)
    chosen = [values_at(_share(served[: len(ENDS)], rows)) for rows in (tables.runs, *halves)]
    found = _served(simulate, list(zip(chosen, (tables.runs, *reversed(halves)), strict=True)))
    servers = [Outcome(chosen[0], found[0], ())]
    servers += [Outcome(values, (), unseen) for values, unseen in zip(chosen[1:], found[1:], strict=True)]
    return VllmFit(steps, tuple(servers), served[-1])


def fit_all_steps(tables: Tables) -> tuple[Outcome, ...]:
    """Return fits of all steps and of each half."""
    first, second = halved(tables.steps)
    told = ((tables.steps, tables.other_steps), (first, second), (second, first))
    return tuple(_steps_outcome(seen, unseen, fit_steps(seen)) for seen, unseen in told)


def halved(rows: Sequence[Row]) -> list[tuple[Row, ...]]:
    """Return every other row, and the rest."""
    return [tuple(rows[::2]), tuple(rows[1::2])]


def step_measures(rows: Sequence[MicroRow], values: Values) -> tuple[Measure, ...]:
    """Return the steps of some coefficients beside the published ones."""
    trial = trial_of(values)
    told = ((row.words, row.itl_ms or math.nan, 1e3 * step_s(row, trial)) for row in rows)
    return tuple(Measure(SET, words, NO_LOAD, "itl_ms", published, simulated) for words, published, simulated in told)


def _steps_outcome(seen: Sequence[MicroRow], unseen: Sequence[MicroRow], values: Values) -> Outcome:
    return Outcome(values, step_measures(seen, values), step_measures(unseen, values))


def _first_token_excess_s(rows: Sequence[MicroRow]) -> float:
    """Return what the first token of one short prompt takes more than a step on an idle server, in the median."""
    alone = [(row.ttft_ms, row.itl_ms) for row in rows if row.batch == 1]
    return median(first - step for first, step in alone if first and step) / 1e3


def _served(simulate: Simulate, choices: Sequence[tuple[Values, Sequence[RunRow]]]) -> list[tuple[Measure, ...]]:
    """Return the measures of each choice of coefficients and runs."""
    runs = [ServerRun(row, tuple(sorted(values.items()))) for values, rows in choices for row in rows]
    found = iter(simulate(runs))
    return [tuple(chain.from_iterable(islice(found, len(rows)))) for _, rows in choices]


def _share(served: Sequence[Sequence[Measure]], rows: Sequence[RunRow]) -> float:
    """Return the share between the ends that some runs ask for.

    Args:
        served: measures at each of `ENDS`.
        rows: runs that count.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - slow to import

    names = {row.words for row in rows}
    low, high = (np.asarray(misses([one for one in measures if one.row in names])) for measures in served)

    def missed(at: FloatArray) -> FloatArray:
        return np.asarray((1 - at) * low + at * high)

    at = float(least_squares(missed, 0.5, bounds=(0, 1), loss="soft_l1").x[0])
    return float(np.interp(at, (0, 1), ENDS))
