"""Who pays for a low tail: waiting, first tokens and slowdown of small, medium and large requests. numpy only.

A percentile over all requests hides that a scheduler may serve the small at the cost of the large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from policies.base import FloatArray, IntArray
from sim.results.metrics import REJECTED, Offered
from sim.results.overtaking import overtaken
from sim.serving.records import NEVER
from sim.serving.ticks import TICKS_PER_S
from sim.statistics import grouped_percentiles

STRETCH = 65_536  # requests, at least, that are looked at together
CLASSES = ("small", "medium", "large")
Row = dict[str, float | int | str | None]


def by_size(offered: Offered, latencies: Mapping[str, FloatArray]) -> list[Row]:
    """Return a row per class of prompt plus output tokens, which is the same for every system of a comparison."""
    return _rows(offered, offered.trace.prompt_tokens + offered.trace.output_tokens, latencies)


def by_class(offered: Offered, latencies: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Return the classes as the scheduler sees them: by its weight of a request, or by rank if it weighs none."""
    weight = offered.column("weight_ppm") / 10**6
    if weight.any():
        return {"by": "weight", "rows": _rows(offered, weight, latencies)}
    ranks = np.array([spec.rank if spec else 0 for spec in offered.trace.palette], dtype=np.int64)
    return {"by": "rank", "rows": _rows(offered, ranks[offered.trace.adapter], latencies)}


def _rows(offered: Offered, measure: FloatArray | IntArray, latencies: Mapping[str, FloatArray]) -> list[Row]:
    """Return a row per third of the offered requests, told apart by a measure; equal requests are in one class.

    Args:
        offered: the requests.
        measure: shape (n,), what they are told apart by.
        latencies: `ttft_s`, `e2el_s`, `queue_s` and `slowdown`, shape (n,) each; NaN where there is none. Those of
            requests that were not completed are left out.
    """
    edges = np.percentile(measure, [100 / 3, 200 / 3]) if len(measure) else np.zeros(2)
    group = np.searchsorted(edges, measure, side="left")
    known = {name: np.where(offered.completed, values, np.nan) for name, values in latencies.items()}
    known["share"] = known["queue_s"] / known["e2el_s"]
    columns = {
        "ttft_p50_ms": _percentile(known["ttft_s"], group, 50) * 1e3,
        "ttft_p99_ms": _percentile(known["ttft_s"], group, 99) * 1e3,
        "queue_mean_ms": _mean(known["queue_s"], group) * 1e3,
        "queue_p99_ms": _percentile(known["queue_s"], group, 99) * 1e3,
        "queue_share": _mean(known["share"], group),
        "slowdown_p50": _percentile(known["slowdown"], group, 50),
        "slowdown_p99": _percentile(known["slowdown"], group, 99),
    }
    return [_row(place, measure[group == place], offered.completed[group == place], columns) for place in range(3)]


def _row(place: int, measure: np.ndarray, completed: np.ndarray, columns: Mapping[str, FloatArray]) -> Row:
    bounds = (measure.min().item(), measure.max().item()) if len(measure) else (None, None)
    row: Row = {"class": CLASSES[place], "from": bounds[0], "to": bounds[1]}
    row |= {"offered": len(measure), "n": int(np.count_nonzero(completed))}
    return row | {name: None if np.isnan(values[place]) else float(values[place]) for name, values in columns.items()}


def _percentile(values: FloatArray, group: IntArray, q: float) -> FloatArray:
    return grouped_percentiles(values, group, len(CLASSES), q)


def _mean(values: FloatArray, group: IntArray) -> FloatArray:
    known = ~np.isnan(values)
    n = np.bincount(group[known], minlength=len(CLASSES))
    total = np.bincount(group[known], weights=values[known], minlength=len(CLASSES))
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def starvation(offered: Offered) -> dict[str, float | int | None]:
    """Return who waited longest for a place in the batch, and how often requests were passed over.

    `max_wait_s`: longest time from sending to the admission before the first token, or to the end of the run for who
    was never admitted; rejected requests are left out. `max_wait_request`: its id. `bypasses`: how often the scheduler
    says that it let one ahead of a request that had the turn, `bypassed_requests` and `most_bypassed`: how many it
    happened to, and how often to one of them. `overtakes`, `overtaken_requests`, `most_overtaken`: the same, whatever
    the scheduler says, of requests that came later to the same replica and were admitted before.
    """
    end = max((one.end for one in offered.records), default=0)
    sent, admitted = offered.sent(), offered.instant("admitted")
    waited = np.where(admitted == NEVER, end, admitted) - sent
    waited[list(offered.reasons)] = -1
    passed, behind = offered.column("bypassed"), _overtaken(offered)
    longest = int(waited.argmax()) if len(waited) and waited.max() >= 0 else None
    return {
        "max_wait_s": None if longest is None else int(waited[longest]) / TICKS_PER_S,
        "max_wait_request": longest,
        "bypasses": int(passed.sum()),
        "bypassed_requests": int(np.count_nonzero(passed)),
        "most_bypassed": int(passed.max(initial=0)),
        "overtakes": int(behind.sum()),
        "overtaken_requests": int(np.count_nonzero(behind)),
        "most_overtaken": int(behind.max(initial=0)),
    }


def _overtaken(offered: Offered) -> IntArray:
    """Return how often each request was overtaken on its replica, shape (n,); 0 for rejected ones."""
    sent, admitted = offered.sent(), offered.instant("admitted")
    counts = np.zeros(len(sent), dtype=np.int64)
    for replica in range(len(offered.records)):
        taken = np.flatnonzero((offered.replica == replica) & (offered.status != REJECTED))
        taken = taken[np.argsort(sent[taken], kind="stable")]
        for stretch in _stretches(admitted[taken]):
            ids = taken[stretch]
            counts[ids] = overtaken(sent[ids], admitted[ids])
    return counts


def _stretches(admitted: IntArray) -> Iterator[slice]:
    """Yield stretches of requests in order of sending such that nobody overtakes from one into another."""
    latest = np.maximum.accumulate(admitted)
    earliest = np.minimum.accumulate(admitted[::-1])[::-1]
    cuts = np.flatnonzero(latest[:-1] <= earliest[1:]) + 1
    start, n = 0, len(admitted)
    while start < n:
        later = int(np.searchsorted(cuts, start + STRETCH))
        end = int(cuts[later]) if later < len(cuts) else n
        yield slice(start, end)
        start = end
