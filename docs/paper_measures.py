"""What is kept of a run for docs/paper.md: plain numbers by name, in the units that the names end in."""  # noqa: INP001

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from sim.build import deploy
from sim.config import RunConfig
from sim.results.frames import p99_over_time
from sim.results.result import Result

Numbers = dict[str, Any]
CLASSES = ("small", "medium", "large")
WINDOW_S = 50.0
LONG_RUN = 10_000  # requests; shorter runs have too few windows, or too few requests in them, for a growth


def of_run(result: Result, _: Result | None = None) -> Numbers:
    """Return what most rows need; only completed requests count."""
    requests = result.requests[result.requests["status"] == "ok"]
    found = _latencies(result.summary) | _adapters(result, requests) | _by_rank(result.summary, requests)
    return found | _by_class(requests) | _over_time(requests)


def _latencies(summary: dict[str, Any]) -> Numbers:
    metrics, slo_s = summary["metrics"], summary["slo"]["ttft_s"]
    return {
        "n": metrics["ttft_ms"]["n"],
        "p50_ms": metrics["ttft_ms"]["p50"],
        "p99_ms": metrics["ttft_ms"]["p99"],
        "tpot_p50_ms": metrics["tpot_ms"]["p50"],
        "tpot_p99_ms": metrics["tpot_ms"]["p99"],
        "itl_p99_ms": metrics["itl_ms"]["p99"],
        "e2e_mean_s": metrics["e2el_ms"]["mean"] / 1e3,
        "verdict": summary["stability"]["verdict"],
        "slo_s": slo_s,
    }


def _adapters(result: Result, requests: pd.DataFrame) -> Numbers:
    summary, wait_ms = result.summary, 1e3 * requests["adapter_wait_s"]
    duration_s = summary["throughput"]["duration_s"]
    warm_ms = wait_ms[requests["request_id"] >= len(result.requests) / 3]
    return {
        "hit_percent": 100 * (summary["adapters"]["hit_rate"] or 0.0),
        "wait_p99_ms": float(wait_ms.quantile(0.99)),
        "wait_max_ms": float(wait_ms.max()),
        "warm_wait_p99_ms": float(warm_ms.quantile(0.99)),
        "warm_wait_max_ms": float(warm_ms.max()),
        "no_wait_percent": 100 * float((wait_ms == 0).mean()),
        "link_gb_per_s": summary["link"]["bytes"] / 1e9 / duration_s,
        "link_percent": 100 * summary["link"]["utilisation"],
        "stall_percent": 100 * summary["iterations"]["stall_s"] / duration_s,
        "bypasses": sum(int(one.requests["bypassed"].sum()) for one in result.run.records),
        "stops": summary["preemption"]["stops"],
        "squashed_percent": 100 * summary["preemption"]["requests"] / summary["requests"]["offered"],
        "evictions": summary["adapters"]["evictions"],
    }


def _by_rank(summary: dict[str, Any], requests: pd.DataFrame) -> Numbers:
    medians = 1e3 * requests.groupby("adapter_rank")[["ttft_s", "adapter_wait_s"]].median()
    found: Numbers = {}
    for row in summary["by_rank"]:
        ttft_ms, wait_ms = medians.loc[row["rank"]]
        found |= {
            f"r{row['rank']}_p50_ms": float(ttft_ms),
            f"r{row['rank']}_p99_ms": row["ttft_p99_ms"],
            f"r{row['rank']}_hit_percent": 100 * (row["hit_rate"] or 0.0),
            f"r{row['rank']}_prefill_ms": float(ttft_ms - wait_ms),
            f"r{row['rank']}_load_percent": float(100 * wait_ms / ttft_ms),
        }
    return found


def _by_class(requests: pd.DataFrame) -> Numbers:
    """Return queueing of thirds of the requests, by output tokens (whom SJF sorts by) and by Chameleon's size."""
    rank, outputs = requests["adapter_rank"], requests["output_tokens"]
    size = (0.4 * requests["prompt_tokens"] / requests["prompt_tokens"].max() + 0.6 * outputs / outputs.max()) * rank
    found: Numbers = {}
    for by, order in (("output", outputs), ("size", size)):
        third = np.floor(3 * order.rank(method="first", pct=True) - 1e-9).clip(0, 2).astype(int)
        sums = requests.groupby(np.asarray(third))[["queue_s", "e2el_s"]].mean()
        for place, name in enumerate(CLASSES if len(sums) == len(CLASSES) else ()):
            queue_s, e2e_s = (float(one) for one in sums.loc[place].to_numpy(dtype=float))
            found |= {f"queue_{by}_{name}_s": queue_s, f"queue_{by}_{name}_percent": 100 * queue_s / e2e_s}
    return found


def _over_time(requests: pd.DataFrame) -> Numbers:
    if len(requests) < LONG_RUN:
        return {}
    windows_s = p99_over_time(requests, WINDOW_S)["p99_ttft_s"].to_numpy()[:-1]
    quarter = len(windows_s) // 4
    return {
        "windows_s": [round(float(one), 3) for one in windows_s],
        "worst_window_s": float(windows_s.max()),
        "growth_s": float(windows_s[-quarter:].mean() - windows_s[:quarter].mean()),
    }


def of_slowdown(result: Result, alone: Result | None) -> Numbers:
    """Return how many times longer requests take than the same ones do on an idle engine."""
    if alone is None:
        msg = "a slowdown needs the run without load"
        raise ValueError(msg)
    slowdown = result.requests["e2el_s"] / alone.requests["e2el_s"]
    percentiles = {f"slowdown_p{q}": float(slowdown.quantile(q / 100)) for q in (50, 90, 99)}
    return of_run(result) | percentiles | {"slowdown_max": float(slowdown.max())}


def of_memory(result: Result, _: Result | None = None) -> Numbers:
    """Return how full the pool is while requests arrive: mean share, and share of the seconds at 95 % or more."""
    config = RunConfig.model_validate(result.config)
    tokens = config.memory.kv_pool_tokens
    pool_bytes = tokens * result.run.kv_token_bytes if tokens else deploy_bytes(result)
    series = result.timeseries[result.timeseries["t_s"] <= result.requests["arrival_s"].max()]
    used = series["kv_bytes"] + (series["adapter_bytes_inuse"] if config.adapters.memory == "unified" else 0)
    share = used / pool_bytes
    full = {"pool_percent": 100 * float(share.mean()), "pool_full_percent": 100 * float((share >= 0.95).mean())}
    return of_run(result) | full


def deploy_bytes(result: Result) -> int:
    """Return the memory beside the weights and the reserve."""
    from sim.config import Loaded  # noqa: PLC0415 - beside its one use

    return deploy(Loaded(RunConfig.model_validate(result.config), {}), result.run.trace).limits.total_bytes


def of_predictor(result: Result, _: Result | None = None) -> Numbers:
    """Return the share of requests whose length class (cuts at P50 and P99) is predicted right."""
    outputs, predicted = result.run.trace.output_tokens, np.asarray(result.run.predicted_tokens)
    cuts = np.percentile(outputs, [50, 99])
    true_class = np.searchsorted(cuts, outputs, side="left")
    return {"right_percent": 100 * float((np.searchsorted(np.unique(predicted), predicted) == true_class).mean())}


PROBES: dict[str, Callable[[Result, Result | None], Numbers]] = {
    "run": of_run,
    "slowdown": of_slowdown,
    "memory": of_memory,
    "predictor": of_predictor,
}
