"""Results as tables: one row per request, per adapter, per instant; columns are named and typed as in the files.

pandas is imported when a table is built. What the columns mean is decided in `sim.results.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from policies.base import FloatArray, IntArray
from sim.results.instants import busy_ticks_at, kv_tokens_at, tokens_at
from sim.results.metrics import REJECTED, Offered, latencies_s
from sim.results.requests import palette_columns, requests_frame, requests_in_parts, text_column
from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S, to_ticks
from sim.statistics import grouped_percentiles
from sim.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["adapters_frame", "p99_over_time", "requests_frame", "requests_in_parts", "timeseries_frame"]


def adapters_frame(trace: Trace, records: Sequence[Records], adapter_bytes: Sequence[int]) -> pd.DataFrame:
    """Return one row per adapter of the palette (the base model has none), in palette order.

    `hits` are requests that found the adapter on the GPU at first admission, `misses` those that did not. `resident_s`
    adds, over replicas, the time from the end of each transfer to the eviction or the end of the run. The percentiles
    of TTFT are over completed requests, NaN where there is none.

    Args:
        trace: the workload.
        records: one per replica.
        adapter_bytes: bytes of each palette entry.
    """
    import pandas as pd  # noqa: PLC0415

    offered = Offered(trace, records)
    n, adapter, hit = len(trace.palette), trace.adapter, offered.hit_codes()
    ids, ranks, sizes = palette_columns(trace, adapter_bytes)
    ttft_s = np.where(offered.completed, latencies_s(offered)["ttft_s"], np.nan)
    requests = np.bincount(adapter, minlength=n)
    columns: dict[str, object] = {"adapter_id": text_column(ids), "rank": ranks.astype(np.int16), "bytes": sizes}
    columns |= {"requests": requests, "hits": np.bincount(adapter[hit == 1], minlength=n)}
    columns |= {"misses": np.bincount(adapter[hit == 0], minlength=n)} | _movements(records, n)
    columns["p50_ttft_s"] = grouped_percentiles(ttft_s, adapter, n, 50)
    columns["p99_ttft_s"] = grouped_percentiles(ttft_s, adapter, n, 99)
    columns["traffic_share"] = requests / max(len(trace), 1)
    is_adapter = np.array([spec is not None for spec in trace.palette], dtype=np.bool_)
    return pd.DataFrame(columns)[is_adapter].reset_index(drop=True)


def _movements(records: Sequence[Records], n: int) -> dict[str, object]:
    """Count what the link and the cache did with each of n palette entries."""
    names = ("loads", "prefetches", "useful_prefetches", "evictions", "bytes_loaded")
    counts = {name: np.zeros(n, dtype=np.int64) for name in names}
    resident_s = np.zeros(n)
    for one in records:
        adapter, is_prefetch = one.transfers["adapter"], one.transfers["kind"] == 1
        np.add.at(counts["loads"], adapter[~is_prefetch], 1)
        np.add.at(counts["prefetches"], adapter[is_prefetch], 1)
        np.add.at(counts["bytes_loaded"], adapter, one.transfers["bytes"])
        np.add.at(counts["useful_prefetches"], list(one.useful_prefetches), list(one.useful_prefetches.values()))
        np.add.at(counts["evictions"], one.evictions["adapter"], 1)
        resident_s += _resident_ticks(one, n) / TICKS_PER_S
    return counts | {"resident_s": resident_s}


def _resident_ticks(one: Records, n: int) -> IntArray:
    # Loads and evictions of an adapter alternate, so its stays add up to evictions - loads (+ the end, if it stayed).
    # The sums may wrap around; their difference is right all the same because it fits.
    adapter, gone = one.transfers["adapter"], one.evictions["adapter"]
    stays = np.maximum(np.bincount(adapter, minlength=n) - np.bincount(gone, minlength=n), 0)
    ticks: IntArray = stays * one.end
    np.subtract.at(ticks, adapter, one.transfers["end"])
    np.add.at(ticks, gone, one.evictions["time"])
    return ticks


def timeseries_frame(
    trace: Trace, records: Sequence[Records], *, step_s: float = 1.0, kv_token_bytes: int = 0
) -> pd.DataFrame:
    """Return the state every `step_s` seconds, up to the first such instant at or after the end of the run.

    A row tells what holds at `t_s`, everything of that instant included; `pcie_busy` (share of the link's time, mean
    over replicas) and `tokens_per_s` are about the interval that ends there. A request runs from its first admission to
    its end, and waits before. vLLM calls these num_requests_running, num_requests_waiting and kv_cache_usage.

    Args:
        trace: the workload.
        records: one per replica.
        step_s: seconds between rows.
        kv_token_bytes: bytes of K and V of one token.

    Raises:
        ValueError: if step_s is not positive.
    """
    import pandas as pd  # noqa: PLC0415

    step = to_ticks(step_s)
    if step == 0:
        msg = f"step_s must be at least 1e-12, got {step_s}"
        raise ValueError(msg)
    end = max((one.end for one in records), default=0)
    at = np.arange(-(-end // step) + 1, dtype=np.int64) * step
    kv_tokens = sum((kv_tokens_at(trace, one, at) for one in records), np.zeros_like(at))
    emitted = sum((tokens_at(one, at) for one in records), np.zeros_like(at))
    busy = sum((busy_ticks_at(one, at) for one in records), np.zeros_like(at))
    columns: dict[str, FloatArray | IntArray] = {"t_s": at / TICKS_PER_S} | _request_counts(Offered(trace, records), at)
    columns |= {"kv_tokens": kv_tokens, "kv_bytes": kv_tokens * kv_token_bytes} | _memory(records, at)
    columns["pcie_busy"] = np.diff(busy, prepend=0) / (step * max(len(records), 1))
    columns["tokens_per_s"] = np.diff(emitted, prepend=0) / (step / TICKS_PER_S)
    return pd.DataFrame(columns).iloc[1:].reset_index(drop=True)


def _request_counts(offered: Offered, at: IntArray) -> dict[str, IntArray]:
    taken = offered.status != REJECTED
    instants = (offered.sent()[taken], offered.instant("admitted")[taken], offered.instant("finish")[taken])
    sent, admitted, finished = (np.searchsorted(np.sort(ticks), at, side="right") for ticks in instants)
    return {"running": admitted - finished, "waiting": sent - admitted}


def _memory(records: Sequence[Records], at: IntArray) -> dict[str, IntArray]:
    resident_bytes, in_use_bytes, resident = (np.zeros_like(at) for _ in range(3))
    for one in records:
        row = np.searchsorted(one.memory["time"], at, side="right")  # row 0: before the first change
        resident_bytes += np.append(0, one.memory["resident_bytes"])[row]
        in_use_bytes += np.append(0, one.memory["in_use_bytes"])[row]
        resident += np.append(0, one.memory["resident"])[row]
    idle = resident_bytes - in_use_bytes
    return {"adapter_bytes_inuse": in_use_bytes, "adapter_bytes_idle": idle, "n_adapters_resident": resident}


def p99_over_time(requests: pd.DataFrame, window_s: float = 50.0) -> pd.DataFrame:
    """Return the P99 of `ttft_s` by window of arrival: `t_s` (start of the window), `p99_ttft_s`, `n` requests in it.

    Args:
        requests: a table with `arrival_s` and `ttft_s`; requests without a first token are left out.
        window_s: length of a window in seconds, positive.
    """
    import pandas as pd  # noqa: PLC0415

    reached = requests["ttft_s"].notna().to_numpy()
    ttft_s = requests["ttft_s"].to_numpy()[reached]
    window = (requests["arrival_s"].to_numpy()[reached] // window_s).astype(np.int64)
    n = int(window.max(initial=-1)) + 1
    p99 = grouped_percentiles(ttft_s, window, n, 99)
    return pd.DataFrame({"t_s": np.arange(n) * window_s, "p99_ttft_s": p99, "n": np.bincount(window, minlength=n)})
