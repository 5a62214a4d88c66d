"""Whether a queue kept up with its arrivals, told from when requests came and when they left it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from policies.base import FloatArray

# Bounds of the verdict; see `stability`.
SLICES = 20
TREND_Z = 2.33  # 1 % one-sided
GROWTH = 2.0
LATE_SHARE = 0.02
DEEP_SHARE = 0.05
LEAST_WAITING = 1.0
LEAST_LEFT = 3


def stability(sent_s: FloatArray, admitted_s: FloatArray, end_s: float) -> dict[str, Any]:
    """Say whether the queue kept up with its arrivals; a percentile from one that did not depends on the horizon.

    `overloaded`: work was left over when arrivals ended, and the queue had grown throughout. `backlogged`: work was
    left over without such a trend, or the queue was deep at some time. `stable`: neither.
    Left over: the last admission comes 2 % of the span of arrivals after the last arrival, or 2 % were never admitted.
    Grown: the mean number waiting rises over 20 slices of the span (Mann-Kendall test, 1 %), and is in the last quarter
    at least twice that of the first half. Either only counts if one request or more waited on average in the last
    quarter, or (left over) three and 2 % when arrivals ended: in a short run at low load the last one alone may be
    late. Deep: one of 20 batches, by order of arrival, waited 5 % of the span.

    Args:
        sent_s: shape (n,), when requests came, rejected ones left out.
        admitted_s: shape (n,), when they left the queue (for good, if they were stopped); NaN for never.
        end_s: end of the run.
    """
    order = np.argsort(sent_s, kind="stable")
    sent = sent_s[order]
    left = np.fmax(np.where(np.isnan(admitted_s[order]), end_s, admitted_s[order]), sent)
    waiting = _waiting(sent, left)
    never = int(np.isnan(admitted_s).sum())
    numbers = {
        "span_s": float(np.ptp(sent)) if len(sent) else 0.0,
        "drain_s": float(left.max() - sent[-1]) if len(sent) else 0.0,
        "never_admitted": never,
        "max_delay_s": float(_batch_means(left - sent).max(initial=0)),
        "backlog_first_half": float(waiting[: SLICES // 2].mean()),
        "backlog_last_quarter": float(waiting[-SLICES // 4 :].mean()),
        "trend_z": _trend_z(waiting),
    }
    # Requests that all came at once are a backlog whatever happened next; one alone is no queue.
    remaining = int((left > sent[-1]).sum()) if len(sent) else 0
    is_left = remaining >= max(LEAST_LEFT, LATE_SHARE * len(sent))
    waits = is_left or numbers["span_s"] == 0 or numbers["backlog_last_quarter"] >= LEAST_WAITING
    is_queue = len(sent) > 1 and waits
    is_late = is_queue and numbers["drain_s"] > 0 and numbers["drain_s"] >= LATE_SHARE * numbers["span_s"]
    is_late = is_late or never >= LATE_SHARE * len(sent) > 0
    return _verdict(numbers, is_late=is_late) | numbers


def _batch_means(values: FloatArray) -> FloatArray:
    edges = np.linspace(0, len(values), min(len(values), SLICES) + 1).astype(np.int64)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges) if len(values) else values


def _waiting(sent: FloatArray, left: FloatArray) -> FloatArray:
    """Return the mean number waiting in each of 20 equal slices of the span of arrivals."""
    if len(sent) == 0 or sent[-1] == sent[0]:
        return np.zeros(SLICES)
    edges = np.linspace(0, sent[-1] - sent[0], SLICES + 1)
    waited = _area(sent - sent[0], edges) - _area(np.sort(left) - sent[0], edges)
    return np.maximum(np.diff(waited) / np.diff(edges), 0)


def _area(instants: FloatArray, edges: FloatArray) -> FloatArray:
    """Return the time since each instant, summed over all instants up to each edge."""
    passed = np.searchsorted(instants, edges, side="right")
    area: FloatArray = passed * edges - np.append(0, np.cumsum(instants))[passed]
    return area


def _verdict(numbers: dict[str, Any], *, is_late: bool) -> dict[str, Any]:
    span_s, drain_s, first, last = (
        numbers[name] for name in ("span_s", "drain_s", "backlog_first_half", "backlog_last_quarter")
    )
    is_growing = last >= max(GROWTH * first, LEAST_WAITING) and numbers["trend_z"] >= TREND_Z
    is_deep = numbers["max_delay_s"] >= DEEP_SHARE * span_s > 0
    waits = is_late or is_deep or is_growing
    verdict = "overloaded" if is_late and is_growing else "backlogged" if waits else "stable"
    reason = (
        f"{first:.3g} requests waited in the first half of {span_s:.4g} s of arrivals, {last:.3g} in the last quarter; "
        f"the queue emptied {drain_s:.3g} s later, {numbers['never_admitted']} requests never left it"
    )
    return {"verdict": verdict, "reason": reason}


def _trend_z(values: FloatArray) -> float:
    """Return the Mann-Kendall statistic: how surely values rise, in standard deviations."""
    n = len(values)
    rises = np.sign(values[None, :] - values[:, None])[np.triu_indices(n, 1)].sum()
    return float(rises) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
