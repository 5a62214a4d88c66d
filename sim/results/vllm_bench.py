"""A run in the words of `vllm bench serve --save-result` (vLLM 0.33), with SGLang's goodput keys and one `sim` object.

Keys, order and definitions are vLLM's: latencies in ms over completed requests, detailed arrays in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import IntArray
from sim.results.instants import tokens_at
from sim.results.metrics import Offered, duration_s, instant_s, latencies_s
from sim.results.summary import SCHEMA_VERSION, Summary
from sim.serving.records import NEVER, Records
from sim.serving.ticks import TICKS_PER_S
from sim.statistics import PERCENTILES

if TYPE_CHECKING:
    from sim.results.result import Run

METRICS = ("ttft", "tpot", "itl", "e2el")
JUDGED = ("ttft", "tpot", "e2el")


@dataclass(frozen=True)
class BenchMeta:
    """What the file tells and a run does not know.

    Attributes:
        date: when the run was made, as YYYYmmdd-HHMMSS; None: when it is written.
        label: name in plots; by default the system's.
        request_rate: offered requests per second; infinite if all came at once.
        burstiness: shape of the gamma-distributed gaps between arrivals; 1 is Poisson.
        max_concurrency: limit on requests in flight at the client.
        slos_ms: objectives that make a request good, by `ttft`, `tpot` and `e2el`.
        config_hash: key of the resolved configuration.
        policy: names by seam, and under `params` all parameters by seam.
    """

    date: str | None = None
    label: str | None = None
    request_rate: float = math.inf
    burstiness: float = 1.0
    max_concurrency: int | None = None
    slos_ms: Mapping[str, float] = field(default_factory=dict)
    config_hash: str | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.slos_ms) - set(JUDGED))
        if unknown:
            msg = f"an objective is for one of {', '.join(JUDGED)}, got {', '.join(unknown)}"
            raise ValueError(msg)


def vllm_bench(run: Run, summary: Summary, meta: BenchMeta, *, detailed: bool = False) -> dict[str, Any]:
    """Return the content of `vllm_bench.json`.

    Args:
        run: the raw outcome.
        summary: its summary.
        meta: what the run does not know.
        detailed: adds the parallel arrays, one entry per offered request; those of requests that were not completed are
            zero, with a reason in `errors`. The gaps of a request that was stopped are not known: its `itls` is empty,
            and `sim.itls_missing` counts these.
    """
    offered = Offered(run.trace, run.records)
    good = within(offered, meta.slos_ms)
    bench = _head(run, summary, meta)
    bench |= _totals(offered, summary, good.get("all"))
    bench |= _latencies(summary)
    arrays = _arrays(offered) if detailed else {}
    bench |= arrays | _goodput(good, meta.slos_ms)
    names = np.array([None if spec is None else spec.id for spec in run.trace.palette], dtype=object)
    bench["lora_names"] = names[run.trace.adapter].tolist()
    ranks = np.array([0 if spec is None else spec.rank for spec in run.trace.palette])
    bench["lora_ranks"] = ranks[run.trace.adapter].tolist()
    bench["sim"] = _sim(run, summary, meta)
    if detailed:
        bench["sim"]["itls_missing"] = _missing(offered, arrays["itls"])
    return bench


def goodput(run: Run, summary: Summary, slos_ms: Mapping[str, float]) -> dict[str, Any]:
    """Return what `vllm_bench.json` tells of requests within objectives, under shorter names."""
    good, duration_s = within(Offered(run.trace, run.records), slos_ms), summary["throughput"]["duration_s"]
    told = _goodput(good, slos_ms)
    return {
        "slos_ms": told["goodput_slos_ms"],
        "requests_per_s": int(good["all"].sum()) / duration_s if duration_s else None,
        "attainment": told["slo_attainment"],
        "attainment_by_metric": told["slo_attainment_by_metric"],
    }


def _head(run: Run, summary: Summary, meta: BenchMeta) -> dict[str, Any]:
    return {
        "date": meta.date or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": "sim" if run.is_simulated else "gpu_validate",
        "backend": "sim" if run.is_simulated else "gpu_validate",
        "label": meta.label or run.system,
        "model_id": run.model,
        "tokenizer_id": run.model,
        "num_prompts": summary["requests"]["offered"],
        "simulated": run.is_simulated,
        "request_rate": "inf" if math.isinf(meta.request_rate) else meta.request_rate,
        "burstiness": meta.burstiness,
        "max_concurrency": meta.max_concurrency,
    }


def _totals(offered: Offered, summary: Summary, good: np.ndarray | None) -> dict[str, Any]:
    requests, rates = summary["requests"], summary["throughput"]
    duration_s = rates["duration_s"]
    goodput = None if good is None or not duration_s else int(good.sum()) / duration_s
    peak_tokens, peak_requests = _peaks(offered)
    return {
        "duration": duration_s,
        "completed": requests["completed"],
        "failed": requests["offered"] - requests["completed"],
        "total_input_tokens": rates["input_tokens"],
        "total_output_tokens": rates["output_tokens"],
        "request_throughput": rates["requests_per_s"],
        "request_goodput": goodput,
        "output_throughput": rates["output_tokens_per_s"],
        "total_token_throughput": rates["total_tokens_per_s"],
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
    }


def _peaks(offered: Offered) -> tuple[float, int]:
    """Return the most tokens, and the most completed requests under way, of any second from the first request on."""
    done = offered.completed
    if not done.any():
        return 0.0, 0
    sent, finish = offered.sent()[done], offered.instant("finish")[done]
    origin = int(offered.sent().min())
    first, last = (sent - origin) // TICKS_PER_S, (finish - origin) // TICKS_PER_S
    seconds = int(last.max()) + 1
    edges = origin + np.arange(seconds + 1, dtype=np.int64) * TICKS_PER_S - 1  # a second ends before the next begins
    tokens = sum((np.diff(tokens_at(one, edges)) for one in offered.records), np.zeros(seconds, dtype=np.int64))
    came = np.bincount(first, minlength=seconds + 1) - np.bincount(last + 1, minlength=seconds + 1)
    return float(tokens.max()), int(np.cumsum(came).max())


def _latencies(summary: Summary) -> dict[str, float | None]:
    result: dict[str, float | None] = {}
    for name in METRICS:
        metric = summary["metrics"][f"{name}_ms"]
        result |= {
            f"mean_{name}_ms": metric["mean"],
            f"median_{name}_ms": metric["p50"],
            f"std_{name}_ms": metric["std"],
        }
        result |= {f"{key.replace('_', '.')}_{name}_ms": metric[key] for key, _ in PERCENTILES}
    return result


def within(offered: Offered, slos_ms: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return which offered requests met each objective and, as `all`, every one; empty without objectives.

    Those that were not completed met none; a request of one output token meets any for `tpot`.
    """
    latencies = latencies_s(offered)
    latencies["tpot_s"] = np.where(offered.trace.output_tokens <= 1, 0.0, latencies["tpot_s"])
    met = {name: offered.completed & (latencies[f"{name}_s"] * 1e3 <= slo) for name, slo in slos_ms.items()}
    return met | ({"all": np.logical_and.reduce(list(met.values()))} if met else {})


def _goodput(good: dict[str, np.ndarray], slos_ms: Mapping[str, float]) -> dict[str, Any]:
    shares = {name: float(met.mean()) if len(met) else None for name, met in good.items()}
    return {
        "slo_attainment": shares.pop("all", None),
        "slo_attainment_by_metric": shares or None,
        "goodput_slos_ms": dict(slos_ms) or None,
    }


def _arrays(offered: Offered) -> dict[str, list[Any]]:
    done = offered.completed
    latencies = latencies_s(offered)
    sent = offered.sent()
    queued = np.nan_to_num(duration_s(offered.arrival(), offered.instant("arrival")))
    n = len(done)
    return {
        "input_lens": offered.trace.prompt_tokens.tolist(),
        "output_lens": np.where(done, offered.trace.output_tokens, 0).tolist(),
        "ttfts": np.where(done, latencies["ttft_s"], 0.0).tolist(),
        "itls": _token_gaps_s(offered),
        "latencies": np.where(done, latencies["e2el_s"], 0.0).tolist(),
        "start_times": instant_s(sent).tolist(),
        "queue_times": queued.tolist(),
        "errors": _errors(offered),
        "generated_texts": [""] * n,
    }


def _errors(offered: Offered) -> list[str]:
    errors = np.where(offered.completed, "", "unfinished").astype(object)
    for one in offered.records:
        errors[list(one.rejections)] = list(one.rejections.values())
    return list(errors.tolist())


def _token_gaps_s(offered: Offered) -> list[list[float]]:
    gaps: list[list[float]] = [[] for _ in offered.completed]
    for one in offered.records:
        ends, offsets = _step_ends(one)
        ids, first_token = one.requests["request"], one.requests["first_token"]
        low, high = one.requests["first_segment"], one.requests["last_segment"]
        unstopped = one.requests["preemptions"] == 0
        whole = np.flatnonzero(offered.completed[ids] & unstopped & (low != NEVER) & (high != NEVER))
        start, stop = offsets[low[whole]], offsets[high[whole] + 1]
        steady = stop - start == offered.trace.output_tokens[ids[whole]] - 1
        for row, begin, end in zip(whole[steady], start[steady], stop[steady], strict=True):
            instants = np.append(first_token[row], ends[begin:end])
            gaps[ids[row]] = duration_s(instants[:-1], instants[1:]).tolist()
    return gaps


def _missing(offered: Offered, gaps: Sequence[Sequence[float]]) -> int:
    """Return how many completed requests of several tokens have no gaps."""
    several = offered.completed & (offered.trace.output_tokens > 1)
    return sum(not gaps[place] for place in np.flatnonzero(several).tolist())


def _step_ends(records: Records) -> tuple[IntArray, IntArray]:
    """Return the tick at which each decode step ended, and the number of steps before each segment (and after all)."""
    segments = records.segments
    count = segments["count"]
    offsets = np.append(0, np.cumsum(count))
    done = np.arange(1, int(offsets[-1]) + 1, dtype=np.int64) - np.repeat(offsets[:-1], count)
    start, first, growth = (np.repeat(segments[name], count) for name in ("start", "first", "growth"))
    return start + done * first + growth * (done * (done - 1) // 2), offsets


def _sim(run: Run, summary: Summary, meta: BenchMeta) -> dict[str, Any]:
    adapters, link = summary["adapters"], summary["link"]
    return {
        "schema_version": SCHEMA_VERSION,
        "config_hash": meta.config_hash,
        "seed": run.seed,
        "policy": {seam: meta.policy.get(seam) for seam in ("cache", "scheduler", "prefetch", "params")},
        "lora": {
            "num_adapters": sum(spec is not None for spec in run.trace.palette),
            "hit_rate": adapters["hit_rate"],
            "loads": adapters["loads"],
            "prefetches": adapters["prefetches"],
            "bytes_h2d": adapters["bytes_moved"],
            "pcie_utilisation": link["utilisation"],
            "evictions": adapters["evictions"],
        },
        "ci": summary.get("bootstrap", {}),
    }
