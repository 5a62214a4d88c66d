"""What a workload looks like in a few numbers, so that runs over different generators can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sim.trace import Trace

WINDOWS_S = (1, 10, 60)
HOUR_S = 3600.0
QUANTILES = (1, 10, 25, 50, 75, 90, 95, 99)


def index_of_dispersion(arrival_s: npt.NDArray[np.float64], window_s: float) -> float | None:
    """Return variance over mean of the counts in whole windows (1 for Poisson); None with fewer than two windows."""
    windows = np.floor((arrival_s - arrival_s[0]) / window_s)
    whole = int(windows[-1])  # the last window is cut off by the end of the trace
    if whole < 2:
        return None
    # Only windows with requests are counted one by one: of the others a long trace has more than memory holds.
    counts: list[int] = np.unique(windows[windows < whole], return_counts=True)[1].tolist()
    total, squares = sum(counts), sum(count**2 for count in counts)
    return (whole * squares - total**2) / (whole * total)


def gap_cv(arrival_s: npt.NDArray[np.float64]) -> float | None:
    """Return standard deviation over mean of the gaps between arrivals; None where there is no gap."""
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean()) if len(gaps) and gaps.any() else None


def busiest_hour(arrival_s: npt.NDArray[np.float64]) -> dict[str, float] | None:
    """Return the hour with the most requests, as `workload.between_s` takes it; None for a trace of less than two."""
    if arrival_s[-1] - arrival_s[0] < 2 * HOUR_S:
        return None
    counts = np.searchsorted(arrival_s, arrival_s + HOUR_S) - np.arange(len(arrival_s))
    start_s = float(arrival_s[counts.argmax()] - arrival_s[0])
    return {"from_s": start_s, "to_s": start_s + HOUR_S, "rows": int(counts.max())}


def _quantiles(lengths: npt.NDArray[np.int64]) -> dict[str, float]:
    values = np.percentile(lengths, QUANTILES)
    named = {f"p{q}": float(value) for q, value in zip(QUANTILES, values, strict=True)}
    return {"mean": float(lengths.mean()), **named, "max": float(lengths.max())}


def _adapter_counts(trace: Trace) -> npt.NDArray[np.int64]:
    """Return requests by palette entry, 0 for the base model; shape (len(palette),)."""
    counts = np.bincount(trace.adapter, minlength=len(trace.palette)).astype(np.int64)
    return np.array([0 if spec is None else n for spec, n in zip(trace.palette, counts, strict=True)], dtype=np.int64)


def _rank_mix(trace: Trace, counts: npt.NDArray[np.int64]) -> dict[int, float]:
    requests: dict[int, int] = {}
    for spec, count in zip(trace.palette, counts.tolist(), strict=True):
        if spec is not None:
            requests[spec.rank] = requests.get(spec.rank, 0) + count
    total = sum(requests.values())
    return {rank: count / total for rank, count in sorted(requests.items())} if total else {}


def skew(counts: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Return the share of the most used adapter, of the ten most used, and 2^H of the shares (effective adapters)."""
    used = np.sort(counts[counts > 0])[::-1]
    if not len(used):
        return {"top1_share": None, "top10_share": None, "effective_adapters": None}
    shares = used / used.sum()
    entropy_bits = float(-(shares * np.log2(shares)).sum())
    return {
        "top1_share": float(shares[0]),
        "top10_share": float(shares[:10].sum()),
        "effective_adapters": 2.0**entropy_bits,
    }


def describe(trace: Trace) -> dict[str, Any]:
    """Return the numbers that characterise a trace with at least one row, ready for JSON.

    Times are in seconds, lengths in tokens, shares in 0..1; None where the trace is too short for the number. `lacks`
    names what is not of its source: where it is lengths, or arrivals, their numbers mean nothing.
    """
    span_s = float(trace.arrival_s[-1] - trace.arrival_s[0])
    counts = _adapter_counts(trace)
    return {
        "name": trace.name,
        "rows": len(trace),
        "span_s": span_s,
        "rate_per_s": (len(trace) - 1) / span_s if span_s > 0 else None,
        "iat_cv": gap_cv(trace.arrival_s),
        "idc": {f"{window_s}s": index_of_dispersion(trace.arrival_s, window_s) for window_s in WINDOWS_S},
        "busiest_hour": busiest_hour(trace.arrival_s),
        "input_tokens": _quantiles(trace.prompt_tokens),
        "output_tokens": _quantiles(trace.output_tokens),
        "base_model_rows": int(len(trace) - counts.sum()),
        "adapters_named": sum(spec is not None for spec in trace.palette),
        "adapters_used": int((counts > 0).sum()),
        **skew(counts),
        "rank_mix": _rank_mix(trace, counts),
        "lacks": sorted(trace.lacks),
        "notes": [[what, rows] for what, rows in trace.notes],
    }
