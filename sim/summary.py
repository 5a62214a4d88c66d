"""One run as one dictionary of plain numbers (`summary.json`), and whether its queue was stable. numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import FloatArray, IntArray
from sim.metrics import (
    OK,
    REJECTED,
    UNFINISHED,
    Offered,
    busy_ticks_at,
    instant_s,
    latencies_s,
    token_gaps,
    ttft_parts_s,
)
from sim.records import NEVER, Records
from sim.statistics import Described, describe, grouped_percentiles
from sim.ticks import TICKS_PER_S

if TYPE_CHECKING:
    from sim.results import Run

SCHEMA_VERSION = 1
PARTS = ("queue", "adapter_wait", "prefill", "preempt", "overhead")
Summary = dict[str, Any]

# Bounds of the verdict on the queue; see `stability`.
SLICES = 20
TREND_Z = 2.33  # 1 % one-sided
GROWTH = 2.0
LATE_SHARE = 0.02
DEEP_SHARE = 0.05


def summarise(run: Run) -> Summary:
    """Return the summary of a run; every value is plain Python, and null where there is nothing to measure.

    Latencies are over completed requests, in ms, from the instant of sending; `itl_ms` pools the gaps of all requests.
    `hit_rate` is the share of admitted requests with an adapter that found it on the GPU at first admission. `by_rank`
    has rank 0 for the base model. `duration_s` runs from the first request to the last completion (to the end of the
    run if nothing was completed). `link.utilisation` is the share of the time from the first request to the last event.
    """
    offered = Offered(run.trace, run.records)
    latencies = latencies_s(offered)
    completed = offered.completed
    ttft_s = latencies["ttft_s"]
    duration_s, horizon_s = _spans_s(offered)
    return {
        "schema_version": SCHEMA_VERSION,
        "simulated": True,
        "system": run.system,
        "workload": run.trace.name,
        "hardware": run.hardware,
        "model": run.model,
        "seed": run.seed,
        "requests": _request_counts(offered),
        "metrics": _metrics(latencies, completed, run.records),
        "ttft_breakdown_ms": _breakdown(offered, completed),
        "by_rank": _by_rank(offered, np.where(completed, ttft_s, np.nan)),
        "throughput": _throughput(offered, duration_s),
        "adapters": _adapters(offered),
        "link": _link(run.records, horizon_s),
        "iterations": _iterations(run.records),
        "stability": _stability_of(offered),
        "costs": {"origins": dict(run.cost_origins), "warnings": list(run.cost_warnings)},
        "slo": _slo(run.ttft_slo_s, ttft_s[completed], len(run.trace)),
    }


def _spans_s(offered: Offered) -> tuple[float, float]:
    sent = offered.sent()
    start = int(sent.min(initial=NEVER))
    end = max((one.end for one in offered.records), default=0)
    last = int(offered.instant("finish")[offered.completed].max(initial=-1))
    duration = (last if last >= 0 else end) - start
    return max(duration, 0) / TICKS_PER_S, max(end - start, 0) / TICKS_PER_S


def _request_counts(offered: Offered) -> dict[str, int]:
    codes = {"completed": OK, "rejected": REJECTED, "unfinished": UNFINISHED}
    counts = {name: int(np.count_nonzero(offered.status == code)) for name, code in codes.items()}
    return {"offered": len(offered.trace)} | counts


def _metrics(
    latencies: dict[str, FloatArray], completed: np.ndarray, records: Sequence[Records]
) -> dict[str, Described]:
    gaps, weights = token_gaps(records)
    metrics = {f"{name}_ms": describe(latencies[f"{name}_s"][completed] * 1e3) for name in ("ttft", "tpot")}
    metrics["itl_ms"] = describe(gaps / (TICKS_PER_S // 1000), weights)
    metrics["e2el_ms"] = describe(latencies["e2el_s"][completed] * 1e3)
    return metrics


def _breakdown(offered: Offered, completed: np.ndarray) -> dict[str, float | None]:
    parts = ttft_parts_s(offered)
    if not completed.any():
        return dict.fromkeys(PARTS)
    return {part: float(parts[f"{part}_s"][completed].mean()) * 1e3 for part in PARTS}


def _by_rank(offered: Offered, ttft_s: FloatArray) -> list[dict[str, float | int | None]]:
    palette = np.array([spec.rank if spec else 0 for spec in offered.trace.palette], dtype=np.int64)
    ranks, group = np.unique(palette[offered.trace.adapter], return_inverse=True)
    p50, p99 = (grouped_percentiles(ttft_s, group, len(ranks), q) * 1e3 for q in (50, 99))
    hit = offered.hit_codes()
    hits, counted = (np.bincount(group[chosen], minlength=len(ranks)) for chosen in (hit == 1, hit >= 0))
    n = np.bincount(group[~np.isnan(ttft_s)], minlength=len(ranks))
    return [
        {
            "rank": int(rank),
            "n": int(n[i]),
            "ttft_p50_ms": _number(p50[i]),
            "ttft_p99_ms": _number(p99[i]),
            "hit_rate": _share(int(hits[i]), int(counted[i])),
        }
        for i, rank in enumerate(ranks)
    ]


def _throughput(offered: Offered, duration_s: float) -> dict[str, float | int | None]:
    completed = offered.completed
    outputs = int(offered.trace.output_tokens[completed].sum())
    inputs = int(offered.trace.prompt_tokens[completed].sum())
    return {
        "requests_per_s": _share(int(completed.sum()), duration_s),
        "output_tokens_per_s": _share(outputs, duration_s),
        "total_tokens_per_s": _share(inputs + outputs, duration_s),
        "input_tokens": inputs,
        "output_tokens": outputs,
        "duration_s": duration_s,
    }


def _adapters(offered: Offered) -> dict[str, float | int | None]:
    hit = offered.hit_codes()
    records = offered.records
    prefetched = sum(int(np.count_nonzero(one.transfers["kind"] == 1)) for one in records)
    return {
        "hit_rate": _share(int(np.count_nonzero(hit == 1)), int(np.count_nonzero(hit >= 0))),
        "loads": sum(len(one.transfers) for one in records) - prefetched,
        "prefetches": prefetched,
        "useful_prefetches": sum(sum(one.useful_prefetches.values()) for one in records),
        "evictions": sum(len(one.evictions) for one in records),
        "forced_evictions": sum(one.forced_evictions for one in records),
        "bytes_loaded": sum(int(one.transfers["bytes"].sum()) for one in records),
    }


def _link(records: Sequence[Records], horizon_s: float) -> dict[str, float | int | None]:
    ends = (np.array([one.transfers["end"].max(initial=0)], dtype=np.int64) for one in records)
    busy = sum(int(busy_ticks_at(one, end)[0]) for one, end in zip(records, ends, strict=True))
    return {
        "utilisation": _share(busy / TICKS_PER_S, horizon_s * len(records)),
        "busy_s": busy / TICKS_PER_S,
        "bytes": sum(int(one.transfers["bytes"].sum()) for one in records),
    }


def _iterations(records: Sequence[Records]) -> dict[str, float | int | None]:
    steps = _total(records, lambda one: one.segments["count"])
    tokens = _total(records, lambda one: one.segments["count"] * one.segments["batch"])
    return {
        "prefill": sum(len(one.prefills) for one in records),
        "prefill_s": _total(records, lambda one: one.prefills["ticks"]) / TICKS_PER_S,
        "prefill_tokens": _total(records, lambda one: one.prefills["tokens"]),
        "decode": steps,
        "decode_s": _total(records, _decode_ticks) / TICKS_PER_S,
        "decode_tokens": tokens,
        "mean_batch": _share(tokens, steps),
        "stalls": sum(len(one.stalls) for one in records),
        "stall_s": _total(records, lambda one: one.stalls["ticks"]) / TICKS_PER_S,
    }


def _decode_ticks(one: Records) -> IntArray:
    count = one.segments["count"]
    ticks: IntArray = count * one.segments["first"] + one.segments["growth"] * (count * (count - 1) // 2)
    return ticks


def _total(records: Sequence[Records], column: Callable[[Records], IntArray]) -> int:
    return sum(int(column(one).sum()) for one in records)


def _slo(ttft_slo_s: float | None, ttft_s: FloatArray, offered: int) -> dict[str, float | None]:
    if ttft_slo_s is None:
        return {"ttft_s": None, "attainment": None}
    return {"ttft_s": ttft_slo_s, "attainment": _share(int(np.count_nonzero(ttft_s <= ttft_slo_s)), offered)}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _stability_of(offered: Offered) -> Summary:
    taken = offered.status != REJECTED
    end_s = max((one.end for one in offered.records), default=0) / TICKS_PER_S
    return stability(instant_s(offered.sent())[taken], instant_s(offered.instant("admitted"))[taken], end_s)


def stability(sent_s: FloatArray, admitted_s: FloatArray, end_s: float) -> Summary:
    """Say whether the queue kept up with its arrivals; a percentile from one that did not depends on the horizon.

    `overloaded`: work was left over when arrivals ended, and the queue had grown throughout. `backlogged`: work was
    left over without such a trend, or the queue was deep at some time. `stable`: neither.
    Left over: the last admission comes 2 % of the span of arrivals after the last arrival, or 2 % were never admitted.
    Grown: the mean number waiting rises over 20 slices of the span (Mann-Kendall test, 1 %), and is in the last quarter
    at least twice that of the first half. Deep: one of 20 batches, by order of arrival, waited 5 % of the span.

    Args:
        sent_s: shape (n,), when requests came, rejected ones left out.
        admitted_s: shape (n,), when they left the queue; NaN for never.
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
    # Requests that all came at once are a backlog whatever happened next.
    is_late = numbers["drain_s"] > 0 and numbers["drain_s"] >= LATE_SHARE * numbers["span_s"]
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


def _verdict(numbers: Summary, *, is_late: bool) -> Summary:
    span_s, drain_s, first, last = (
        numbers[name] for name in ("span_s", "drain_s", "backlog_first_half", "backlog_last_quarter")
    )
    is_growing = last >= GROWTH * first and numbers["trend_z"] >= TREND_Z
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
