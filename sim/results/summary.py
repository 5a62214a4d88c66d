"""One run as one dictionary of plain numbers (`summary.json`), and whether its queue was stable. numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import FloatArray, IntArray
from sim.results.classes import by_class, by_size, starvation
from sim.results.instants import busy_ticks_at
from sim.results.metrics import (
    OK,
    REJECTED,
    UNFINISHED,
    Offered,
    instant_s,
    isolated_s,
    latencies_s,
    slowdown,
    token_gaps,
    ttft_parts_s,
)
from sim.results.prefetching import DEMAND, PREFETCH, prefetch_summary
from sim.results.stability import stability
from sim.serving.records import NEVER, Records
from sim.serving.ticks import TICKS_PER_S
from sim.statistics import Described, describe, grouped_percentiles

if TYPE_CHECKING:
    from sim.results.result import Run

SCHEMA_VERSION = 1
PARTS = ("queue", "adapter_wait", "prefill", "preempt", "overhead")
Summary = dict[str, Any]


def summarise(run: Run) -> Summary:
    """Return the summary of a run; every value is plain Python, and null where there is nothing to measure.

    Latencies are over completed requests, in ms, from the instant of sending; `itl_ms` pools the gaps of all requests.
    `hit_rate` is the share of admitted requests with an adapter that found it on the GPU at first admission. `by_rank`
    has rank 0 for the base model. Mixed iterations count as prefill and as decode, and once more as `mixed`.
    `duration_s` runs from the first request to the last completion (to the end of the run if nothing was completed).
    `link.utilisation` is the share of the time from the first request to the last event.
    `adapters` counts adapter transfers only, `link` all; `prefetch` is told in `sim.results.prefetching`, `by_class`,
    `by_size` and `starvation` in `sim.results.classes`. `slowdown` is response over isolated response
    (`sim.results.isolated`).
    """
    offered = Offered(run.trace, run.records)
    latencies = latencies_s(offered)
    completed = offered.completed
    ttft_s = latencies["ttft_s"]
    duration_s, horizon_s = _spans_s(offered)
    metrics = _metrics(latencies, completed, run.records)  # first: it takes most memory
    told = {name: latencies[name] for name in ("ttft_s", "e2el_s")}
    told["queue_s"] = ttft_parts_s(offered)["queue_s"]
    told["slowdown"] = slowdown(latencies["e2el_s"], isolated_s(offered, run.isolated_ticks))
    return {
        "schema_version": SCHEMA_VERSION,
        "simulated": run.is_simulated,
        "system": run.system,
        "workload": run.trace.name,
        "hardware": run.hardware,
        "model": run.model,
        "seed": run.seed,
        "requests": _request_counts(offered),
        "metrics": metrics,
        "ttft_breakdown_ms": _breakdown(offered, completed),
        "by_rank": _by_rank(offered, np.where(completed, ttft_s, np.nan)),
        "by_class": by_class(offered, told),
        "by_size": by_size(offered, told),
        "slowdown": describe(told["slowdown"][completed], unit="ratio"),
        "starvation": starvation(offered),
        "client": _client(offered),
        "throughput": _throughput(offered, duration_s),
        "adapters": _adapters(offered, run.link_copies),
        "prefetch": prefetch_summary(run.records),
        "link": _link(run.records, horizon_s, run.link_copies),
        "iterations": _iterations(run.records),
        "preemption": _preemption(offered),
        "stability": _stability_of(offered),
        "trace_notes": [[what, rows] for what, rows in run.trace.notes],
        "first_rejection": next((reason for one in run.records for reason in one.rejections.values()), None),
        "idle_settings": list(run.idle_settings),
        "costs": {"origins": dict(run.cost_origins), "warnings": list(run.cost_warnings)},
        "slo": _slo(run.ttft_slo_s, ttft_s[completed], len(run.trace)),
    }


def _spans_s(offered: Offered) -> tuple[float, float]:
    sent = offered.sent()
    start = int(sent.min(initial=NEVER))
    end = max((one.end for one in offered.records), default=0)
    came = offered.instant("arrival")
    end = max(end, int(came[came != NEVER].max(initial=0)))  # where all were turned away no step has ended
    last = int(offered.instant("finish")[offered.completed].max(initial=-1))
    duration = (last if last >= 0 else end) - start
    return max(duration, 0) / TICKS_PER_S, max(end - start, 0) / TICKS_PER_S


def _client(offered: Offered) -> dict[str, float]:
    sent = offered.instant("arrival")
    waits_s = (sent - offered.arrival())[sent != NEVER] / TICKS_PER_S
    return {
        "mean_wait_s": float(waits_s.mean()) if len(waits_s) else 0.0,
        "max_wait_s": float(waits_s.max(initial=0.0)),
    }


def _request_counts(offered: Offered) -> dict[str, int]:
    codes = {"completed": OK, "rejected": REJECTED, "unfinished": UNFINISHED}
    counts = {name: int(np.count_nonzero(offered.status == code)) for name, code in codes.items()}
    return {"offered": len(offered.trace)} | counts


def _metrics(
    latencies: dict[str, FloatArray], completed: np.ndarray, records: Sequence[Records]
) -> dict[str, Described]:
    ticks, weights = token_gaps(records)
    gaps_ms = ticks / (TICKS_PER_S // 1000)
    del ticks
    metrics = {f"{name}_ms": describe(latencies[f"{name}_s"][completed] * 1e3) for name in ("ttft", "tpot")}
    metrics["itl_ms"] = describe(gaps_ms, weights)
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


def _adapters(offered: Offered, copies: float) -> dict[str, float | int | None]:
    hit = offered.hit_codes()
    records = offered.records
    kinds = np.concatenate([one.transfers["kind"] for one in records])
    loaded = _total(records, lambda one: one.transfers["bytes"][one.transfers["kind"] <= PREFETCH])
    return {
        "hit_rate": _share(int(np.count_nonzero(hit == 1)), int(np.count_nonzero(hit >= 0))),
        "loads": int(np.count_nonzero(kinds == DEMAND)),
        "prefetches": int(np.count_nonzero(kinds == PREFETCH)),
        "useful_prefetches": sum(sum(one.useful_prefetches.values()) for one in records),
        "evictions": sum(len(one.evictions) for one in records),
        "forced_evictions": sum(one.forced_evictions for one in records),
        "bytes_loaded": loaded,
        "bytes_moved": round(loaded * copies),
    }


def _link(records: Sequence[Records], horizon_s: float, copies: float) -> dict[str, float | int | None]:
    ends = (np.array([one.end], dtype=np.int64) for one in records)
    busy = sum(int(busy_ticks_at(one, end)[0]) for one, end in zip(records, ends, strict=True))
    return {
        "utilisation": _share(busy / TICKS_PER_S, horizon_s * len(records)),
        "busy_s": busy / TICKS_PER_S,
        "bytes": round(_total(records, lambda one: one.transfers["bytes"]) * copies) + _swapped_bytes(records, 0),
    }


def _swapped_bytes(records: Sequence[Records], way: int) -> int:
    return _total(records, lambda one: one.swaps["bytes"][one.swaps["way"] == way])


def _preemption(offered: Offered) -> dict[str, float | int]:
    stops = offered.column("preemptions")
    records = offered.records
    return {
        "stops": int(stops.sum()),
        "requests": int(np.count_nonzero(stops)),
        "squashes": sum(sum(one.squashes.values()) for one in records),
        "squashed_requests": sum(len(one.squashes) for one in records),
        "recomputed": sum(len(one.pauses) for one in records),
        "swapped_in_bytes": _swapped_bytes(records, 0),
        "swapped_out_bytes": _swapped_bytes(records, 1),
        "disk_bytes": _total(records, lambda one: one.reads["bytes"]),
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
        "mixed": sum(len(one.mixed) for one in records),
        "mixed_s": _total(records, lambda one: one.mixed["ticks"]) / TICKS_PER_S,
        "stalls": sum(len(one.stalls) for one in records),
        "stall_s": _total(records, lambda one: one.stalls["ticks"]) / TICKS_PER_S,
        "input_waits": sum(len(one.input_waits) for one in records),
        "input_wait_s": _total(records, lambda one: one.input_waits["ticks"]) / TICKS_PER_S,
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
    # A request that was stopped waits again, we do not know how often and how long: it counts as waiting to its end.
    was_stopped = offered.column("preemptions") > 0
    left = np.where(was_stopped, offered.instant("finish"), offered.instant("admitted"))
    end_s = max((one.end for one in offered.records), default=0) / TICKS_PER_S
    return stability(instant_s(offered.sent())[taken], instant_s(left)[taken], end_s)
