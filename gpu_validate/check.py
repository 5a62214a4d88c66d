"""Simulated against measured, beside measured against measured: what the simulator may claim, with n and intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpu_validate.bootstrap import DRAWS, interval
from gpu_validate.errors import (
    Errors,
    counter_errors,
    iteration_errors,
    pair_iterations,
    pair_requests,
    request_errors,
    unpaired_errors,
)
from gpu_validate.insitu import behind_copies, host_speed, in_situ, waiting_inputs
from gpu_validate.observed import Observed, from_directory, from_result
from policies.base import FloatArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Observed", "Pair", "from_directory", "from_result", "report_pair", "report_policies"]

SCHEMA_VERSION = 1
HIGHEST_LOAD = 0.8  # of measured capacity: beyond it, small errors of cost grow into large ones of waiting
LEAST_N = {"iteration": 30, "p50": 100, "p99": 1000}
BOUNDS = {"iteration": 0.05, "p50": 0.05, "p99": 0.10}
GAIN_BOUND = 0.05  # share of the baseline's percentile
GAIN_PERCENTILES = (50, 99)


class Pair(NamedTuple):
    """One policy at one load: simulated, measured and, if there is one, measured again.

    `load` is the offered load as a share of measured capacity, None if nobody knows.
    """

    simulated: Observed
    measured: Observed
    repeat: Observed | None = None
    load: float | None = None


def report_pair(
    simulated: Observed,
    measured: Observed,
    repeat: Observed | None = None,
    *,
    load: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    paired: bool = True,
) -> dict[str, Any]:
    """Return the report of one simulated run against the measured run of the same requests.

    Args:
        simulated: what the simulator says.
        measured: what happened.
        repeat: a second measured run of the same requests: errors below its own against the first are noise.
        load: offered load as a share of measured capacity; None if nobody knows.
        draws: bootstrap resamples.
        seed: of the resampling.
        paired: whether the runs are of the same requests; else only distributions are compared.

    Raises:
        ValueError: if they are said to be of the same requests and are not.
    """
    against = _compared(simulated, measured, draws=draws, seed=seed, paired=paired)
    floor = None if repeat is None else _compared(repeat, measured, draws=draws, seed=seed, paired=paired)
    pairs = pair_iterations(simulated.iterations, measured.iterations)
    return {
        "schema_version": SCHEMA_VERSION,
        "simulated": simulated.label,
        "measured": measured.label,
        "repeat": None if repeat is None else repeat.label,
        "load": load,
        "region": region(load),
        "paired": paired,
        "sim_vs_real": against,
        "in_situ": in_situ(pairs),
        "behind_copies": behind_copies(pairs),
        "waiting_inputs": waiting_inputs(pairs),
        "host_speed": host_speed(pairs),
        "real_vs_real": floor,
        "aims": aims(against, load) if paired else [],
    }


def _compared(one: Observed, measured: Observed, *, draws: int, seed: int, paired: bool) -> Errors:
    if paired:
        ours, theirs, counts = pair_requests(one.requests, measured.requests)
        metrics = request_errors(ours, theirs, draws=draws, seed=seed)
    else:
        counts = {"simulated": len(one.requests), "measured": len(measured.requests), "paired": 0}
        metrics = unpaired_errors(one.requests, measured.requests)
    return {
        "requests": counts,
        "metrics": metrics,
        "iterations": iteration_errors(pair_iterations(one.iterations, measured.iterations)),
        "counters": counter_errors(one.counters, measured.counters),
    }


def region(load: float | None) -> str:
    """Return the region of a load, as a share of capacity, that a report belongs to."""
    if load is None:
        return "load unknown"
    return f"up to {HIGHEST_LOAD}" if load <= HIGHEST_LOAD else "near capacity" if load <= 1 else "above capacity"


def aims(errors: Errors, load: float | None) -> list[dict[str, Any]]:
    """Return each aim with its value, n and verdict, `met` or `not supported`, and the reason for the latter."""
    iteration = (errors["iterations"] or {}).get("all", {"n": 0})
    ttft = errors["metrics"]["ttft_s"]
    entries = [_aim("iteration MAPE", "iteration", iteration.get("mape"), iteration)]
    for name in ("p50", "p99"):
        found = ttft.get(name, {})
        entries.append(_aim(f"TTFT {name.upper()} error", name, found.get("error"), found | {"n": ttft["n"]}))
    return [entries[0], *(_at_load(one, load) for one in entries[1:])]


def _aim(what: str, key: str, value: float | None, found: Mapping[str, Any]) -> dict[str, Any]:
    bound, n = BOUNDS[key], int(found["n"])
    reason = "not measured" if value is None else "; ".join(_doubts(value, bound, n, LEAST_N[key]))
    verdict = "not supported" if reason else "met"
    bounds = {"low": found.get("low"), "high": found.get("high")}
    return {"aim": what, "bound": bound, "value": value, **bounds, "n": n, "verdict": verdict, "reason": reason}


def _doubts(value: float, bound: float, n: int, least: int) -> list[str]:
    digits = 1 if abs(abs(value) - bound) >= 0.0005 else 2
    large = [f"{100 * abs(value):.{digits}f} % is above {100 * bound:.0f} %"] if abs(value) > bound else []
    return large + ([f"n = {n} is below {least}"] if n < least else [])


def _at_load(aim: dict[str, Any], load: float | None) -> dict[str, Any]:
    if aim["verdict"] == "met" and (load is None or load > HIGHEST_LOAD):
        shown = "unknown" if load is None else f"{load:.2f} of capacity"
        return {**aim, "verdict": "not supported", "reason": f"load is {shown}; the aim is for up to {HIGHEST_LOAD}"}
    return aim


def report_policies(pairs: Mapping[str, Pair], *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Return the report of several policies on the same requests: does the simulator tell which is better, by how much?

    Args:
        pairs: by name of the policy, the baseline first.
        draws: bootstrap resamples.
        seed: of the resampling.

    Returns:
        `pairs` (a `report_pair` each), `regions` (errors by load region), `gains` (predicted against real reduction of
        TTFT percentiles over the baseline) and `order` (policies by P99 TTFT, predicted and real).

    Raises:
        ValueError: if there is no pair, or they are not of the same requests.
    """
    if not pairs:
        msg = "a report on policies needs at least one pair"
        raise ValueError(msg)
    reports = {
        name: report_pair(pair.simulated, pair.measured, pair.repeat, load=pair.load, draws=draws, seed=seed)
        for name, pair in pairs.items()
    }
    (baseline, first), *others = pairs.items()
    gains = [gain(name, pair, baseline, first, draws=draws, seed=seed) for name, pair in others]
    return {
        "schema_version": SCHEMA_VERSION,
        "baseline": baseline,
        "pairs": reports,
        "regions": by_region(reports.values()),
        "gains": gains,
        "order": order(reports),
    }


def by_region(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the errors of TTFT percentiles of several reports by region of load; no report is left out."""
    regions: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        regions.setdefault(report["region"], []).append(report["sim_vs_real"]["metrics"]["ttft_s"])
    return {
        name: {"runs": len(found), "n": sum(one["n"] for one in found)}
        | {f"ttft_p{q}_errors": [one[f"p{q}"]["error"] for one in found if one["n"]] for q in GAIN_PERCENTILES}
        for name, found in sorted(regions.items())
    }


def gain(policy: str, pair: Pair, baseline: str, base: Pair, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Return predicted and real reduction of TTFT percentiles, and the difference in points with its 95 % bounds.

    Only requests that all four runs completed count; the resamples are of the same requests in all of them.

    Args:
        policy: name of the candidate.
        pair: its runs.
        baseline: name of the baseline.
        base: its runs.
        draws: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: if no request is in all runs.
    """
    samples = _shared_ttft(pair.simulated, base.simulated, pair.measured, base.measured)
    again = None
    if pair.repeat is not None and base.repeat is not None:
        again = _reductions(*(one[None, :] for one in _shared_ttft(pair.repeat, base.repeat)))[:, 0]

    def gaps(ours: FloatArray, our_base: FloatArray, theirs: FloatArray, their_base: FloatArray) -> FloatArray:
        return _reductions(ours, our_base) - _reductions(theirs, their_base)

    bounds = interval(gaps, samples, draws=draws, seed=seed)
    predicted, real = (_reductions(*(one[None, :] for one in two))[:, 0] for two in (samples[:2], samples[2:]))
    told: dict[str, Any] = {"policy": policy, "baseline": baseline, "n": bounds[0].n}
    for at, (q, bound) in enumerate(zip(GAIN_PERCENTILES, bounds, strict=True)):
        told[f"p{q}"] = {
            "predicted": float(predicted[at]),
            "real": float(real[at]),
            "real_again": None if again is None else float(again[at]),
            "difference": bound.estimate,
            "low": bound.low,
            "high": bound.high,
            "verdict": "met" if _is_supported(bound.estimate, q, bound.n) else "not supported",
        }
    return told


def _is_supported(difference: float, q: int, n: int) -> bool:
    return abs(difference) <= GAIN_BOUND and n >= LEAST_N[f"p{q}"]


def _reductions(candidate: FloatArray, baseline: FloatArray) -> FloatArray:
    shares = np.percentile(candidate, GAIN_PERCENTILES, axis=1) / np.percentile(baseline, GAIN_PERCENTILES, axis=1)
    found: FloatArray = 1 - shares
    return found


def _shared_ttft(*runs: Observed) -> list[FloatArray]:
    """Return the TTFT of the requests that all runs completed, in order of their arrival in the last run."""
    columns: list[pd.Series] = [run.requests.set_index("request_id")["ttft_s"].dropna() for run in runs]
    shared = columns[0].index
    for column in columns[1:]:
        shared = shared.intersection(column.index)
    if not len(shared):
        msg = f"no request was completed in all of {', '.join(run.label for run in runs)}"
        raise ValueError(msg)
    arrivals = runs[-1].requests.set_index("request_id")["arrival_s"]
    ordered = arrivals.loc[shared].sort_values(kind="stable").index
    return [column.loc[ordered].to_numpy(dtype=np.float64) for column in columns]


def order(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return policies by P99 TTFT, best first, as predicted and as measured, and the share of pairs in the same order.

    Pairs whose real values are equal do not count; the share is None if none is left.
    """
    ttft = {name: report["sim_vs_real"]["metrics"]["ttft_s"] for name, report in reports.items()}
    known = {name: one["p99"] for name, one in ttft.items() if one["n"]}
    names = list(known)
    agreed = [
        (known[one]["simulated_s"] - known[other]["simulated_s"]) * real > 0
        for one, other in combinations(names, 2)
        if (real := known[one]["measured_s"] - known[other]["measured_s"])
    ]
    return {
        "predicted": _ranked(names, [known[name]["simulated_s"] for name in names]),
        "real": _ranked(names, [known[name]["measured_s"] for name in names]),
        "agreement": sum(agreed) / len(agreed) if agreed else None,
        "n": {name: one["n"] for name, one in ttft.items()},
    }


def _ranked(names: Sequence[str], values: Sequence[float]) -> list[str]:
    return [name for _, name in sorted(zip(values, names, strict=True))]
