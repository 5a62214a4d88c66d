"""Errors of a simulated run against a measured one of the same requests, in plain numbers; numpy and pandas only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_validate.bootstrap import DRAWS, ks_distance, percentile_errors, wasserstein_1
from policies.base import FloatArray
from sim.statistics import Interval

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("ttft_s", "tpot_s", "e2el_s")
PERCENTILES = (50, 90, 95, 99)
FEATURES = ("requests", "tokens", "context_tokens")
Errors = dict[str, Any]


def pair_requests(simulated: pd.DataFrame, measured: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, Errors]:
    """Return the requests that both runs completed, in order of measured arrival, and how many there were.

    Args:
        simulated: a row per request: `request_id`, `arrival_s`, the metrics, and optionally `status`, prompt and output
            tokens.
        measured: the same.

    Raises:
        ValueError: if a column is missing, ids repeat, or the runs are not of the same requests.
    """
    sides = [_indexed(side, name) for side, name in ((simulated, "simulated"), (measured, "measured"))]
    _check_same(*sides)
    done = [side[side["ttft_s"].notna() & side["e2el_s"].notna()] for side in sides]
    shared = done[0].index.intersection(done[1].index)
    ordered = done[1].loc[shared].sort_values("arrival_s", kind="stable").index
    counts = {
        "simulated": len(sides[0]),
        "measured": len(sides[1]),
        "simulated_completed": len(done[0]),
        "measured_completed": len(done[1]),
        "paired": len(shared),
    }
    return done[0].loc[ordered], done[1].loc[ordered], counts


def _indexed(requests: pd.DataFrame, side: str) -> pd.DataFrame:
    missing = [name for name in ("request_id", "arrival_s", *METRICS) if name not in requests.columns]
    if missing or requests["request_id"].duplicated().any():
        msg = f"the {side} requests need unique ids and the columns {', '.join(METRICS)}; missing: {missing or 'none'}"
        raise ValueError(msg)
    indexed = requests.set_index("request_id")
    return indexed[indexed["status"].isin(["ok"])] if "status" in indexed else indexed


def _check_same(simulated: pd.DataFrame, measured: pd.DataFrame) -> None:
    """Refuse runs whose requests of one id differ in length: they are not the same requests."""
    shared = simulated.index.intersection(measured.index)
    for name in ("prompt_tokens", "output_tokens"):
        if name in simulated and name in measured:
            differs = (simulated.loc[shared, name] != measured.loc[shared, name]).to_numpy()
            if differs.any():
                first = shared[differs][0]
                msg = f"not the same requests: {name} differs for {int(differs.sum())} ids, first for {first}"
                raise ValueError(msg)


def request_errors(
    simulated: pd.DataFrame, measured: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Errors]:
    """Return the errors of each metric over paired requests, see `metric_errors`.

    Args:
        simulated: as `pair_requests` returns it.
        measured: the same rows.
        draws: bootstrap resamples.
        seed: of the resampling.
    """
    found = {}
    for name in METRICS:
        one, other = (side[name].to_numpy(dtype=np.float64) for side in (simulated, measured))
        known = np.isfinite(one) & np.isfinite(other) & (other > 0)
        found[name] = metric_errors(one[known], other[known], draws=draws, seed=seed)
    return found


def metric_errors(simulated: FloatArray, measured: FloatArray, *, draws: int = DRAWS, seed: int = 0) -> Errors:
    """Return errors of one metric: signed and absolute relative ones per request, of percentiles, and distances.

    Args:
        simulated: shape (n,), seconds, in order of arrival.
        measured: shape (n,), above 0, row i about the same request.
        draws: bootstrap resamples.
        seed: of the resampling.

    Returns:
        `n`, `signed_median`, `signed_mean`, `ape_median`, `ape_p90`, `ks`, `w1_s`, and by percentile (`p50` ...) the
        two values in s and the relative error with its 95 % bounds; only `n` where n is 0.
    """
    n = len(measured)
    if n == 0:
        return {"n": 0}
    signed = simulated / measured - 1
    errors = percentile_errors(simulated, measured, PERCENTILES, draws=draws, seed=seed)
    return {
        "n": n,
        "signed_median": float(np.median(signed)),
        "signed_mean": float(signed.mean()),
        "ape_median": float(np.median(np.abs(signed))),
        "ape_p90": float(np.percentile(np.abs(signed), 90)),
        **distribution_errors(simulated, measured),
        **_percentiles(simulated, measured, errors),
    }


def distribution_errors(simulated: FloatArray, measured: FloatArray) -> Errors:
    """Return the distances between two samples, which need not be of the same requests."""
    return {"ks": ks_distance(simulated, measured), "w1_s": wasserstein_1(simulated, measured)}


def unpaired_errors(simulated: pd.DataFrame, measured: pd.DataFrame) -> dict[str, Errors]:
    """Return what can be said about each metric of two runs whose requests are not the same, without intervals."""
    found: dict[str, Errors] = {}
    for name in METRICS:
        one, other = (side[name].dropna().to_numpy(dtype=np.float64) for side in (simulated, measured))
        if not len(one) or not len(other):
            found[name] = {"n": 0}
            continue
        shares = [float(np.percentile(one, q) / np.percentile(other, q) - 1) for q in PERCENTILES]
        bounds = [Interval(share, None, None, len(other)) for share in shares]
        counts = {"n": len(other), "n_simulated": len(one)}
        found[name] = counts | distribution_errors(one, other) | _percentiles(one, other, bounds)
    return found


def _percentiles(simulated: FloatArray, measured: FloatArray, errors: list[Interval]) -> Errors:
    return {
        f"p{q}": {
            "simulated_s": float(np.percentile(simulated, q)),
            "measured_s": float(np.percentile(measured, q)),
            "error": error.estimate,
            "low": error.low,
            "high": error.high,
        }
        for q, error in zip(PERCENTILES, errors, strict=True)
    }


def pair_iterations(simulated: pd.DataFrame | None, measured: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return measured iterations beside what the simulator says: `kind`, `measured_s`, `simulated_s`; None without any.

    Where the measured table has `predicted_s` (the model's time for the very iteration that ran), that counts, and on
    top of it `wait_s` if that is known: what its inputs should have waited for the copy that was under way. Else the
    k-th iteration of a kind and batch on one side is compared with the k-th such on the other; what the tables do not
    tell, such as ranks, then adds noise. Iterations without a partner have no `simulated_s`.

    Args:
        simulated: a row per iteration in order of time: `kind`, `duration_s` and some of `requests`, `tokens`,
            `context_tokens`.
        measured: the same, optionally with `predicted_s`.
    """
    if measured is None:
        return None
    pairs = measured.assign(measured_s=measured["duration_s"])
    if "predicted_s" in measured:
        waits = measured.get("wait_s", 0.0)
        return pairs.assign(predicted_s=measured["predicted_s"] + waits, simulated_s=measured["predicted_s"] + waits)
    if simulated is None:
        return None
    keys = ["kind", *(name for name in FEATURES if name in simulated and name in measured)]
    partners = simulated[keys].assign(simulated_s=simulated["duration_s"], turn=simulated.groupby(keys).cumcount())
    found: pd.DataFrame = pairs.assign(turn=pairs.groupby(keys).cumcount()).merge(
        partners, on=[*keys, "turn"], how="left"
    )
    return found


def iteration_errors(pairs: pd.DataFrame | None) -> Errors | None:
    """Return MAPE, bias and P95 of absolute error of iterations, of all and by kind, and how many had a partner."""
    if pairs is None:
        return None
    known = pairs[pairs["simulated_s"].notna() & (pairs["measured_s"] > 0)]
    pairing = "prediction of the same iteration" if "predicted_s" in pairs else "iterations of the same batch"
    told: Errors = {"iterations": len(pairs), "pairing": pairing, "all": _spread(known)}
    return told | {"by_kind": {str(kind): _spread(group) for kind, group in known.groupby("kind")}}


def _spread(pairs: pd.DataFrame) -> Errors:
    if not len(pairs):
        return {"n": 0}
    measured = pairs["measured_s"].to_numpy(dtype=np.float64)
    simulated = pairs["simulated_s"].to_numpy(dtype=np.float64)
    relative = simulated / measured - 1
    return {
        "n": len(pairs),
        "mape": float(np.abs(relative).mean()),
        "bias": float(relative.mean()),
        "p95": float(np.percentile(np.abs(relative), 95)),
        # The share of all time that is missed: short iterations weigh little here.
        "total_bias": float(simulated.sum() / measured.sum() - 1),
    }


def counter_errors(simulated: Mapping[str, float], measured: Mapping[str, float]) -> Errors:
    """Return each counter that both runs have: the two values, their difference and the relative one (None if 0)."""
    return {
        name: {
            "simulated": simulated[name],
            "measured": value,
            "difference": simulated[name] - value,
            "relative": (simulated[name] - value) / value if value else None,
        }
        for name, value in measured.items()
        if name in simulated
    }
