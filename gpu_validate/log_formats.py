"""The files of other tools, one parser each: who writes what in which unit, and how a failed request looks there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpu_validate.log_cells import Cells, Entry, LogError, document, lines, single, table, text_of

UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}


def vllm_bench(path: Path) -> list[Entry]:
    """Read `vllm bench serve --save-result --save-detailed`: seconds, failed requests present as zeros."""
    return _bench(single(path), start_key="start_times")


def sglang_bench(path: Path) -> list[Entry]:
    """Read `sglang.bench_serving --output-details`: seconds; arrivals are known only if all requests came at once."""
    return _bench(single(path), start_key=None)


def _bench(cells: Cells, start_key: str | None) -> list[Entry]:
    keys = ["input_lens", "output_lens", "ttfts", "itls", *([start_key] if start_key else [])]
    inputs, outputs, ttfts, itls, *starts = cells.arrays(*keys)
    n = len(inputs)
    at_once = 0.0 if str(cells.values.get("request_rate")).lower() in {"inf", "infinity"} else None
    arrivals: Sequence[float | None] = starts[0] if starts else [at_once] * n
    errors = cells.values.get("errors") or [""] * n
    latencies = _optional(cells.values, "latencies", n)
    names = _optional(cells.values, "lora_names", n)
    ranks = _optional(cells.values, "lora_ranks", n)
    return [
        Entry(
            cells.line,
            str(at),
            arrivals[at],
            int(inputs[at]),
            int(outputs[at]),
            float(ttfts[at]),
            float(ttfts[at]) + math.fsum(itls[at]) if latencies[at] is None else float(latencies[at]),
            _bench_failure(errors[at], int(outputs[at])),
            names[at],
            int(ranks[at] or 0),
        )
        for at in range(n)
    ]


def _optional(values: Mapping[str, Any], key: str, n: int) -> Sequence[Any]:
    found = values.get(key)
    return found if isinstance(found, list) and len(found) == n else [None] * n


def _bench_failure(error: Any, output_tokens: int) -> str:
    return str(error) if error else "" if output_tokens else "no output"


def inference_perf(path: Path) -> list[Entry]:
    """Read inference-perf's `per_request_lifecycle_metrics.json`: seconds; names the adapter of each request."""
    requests = document(path)
    if not isinstance(requests, list):
        raise LogError(path, 1, "a list of requests is needed")
    return [_lifecycle(path, at, one) for at, one in enumerate(requests)]


def _lifecycle(path: Path, at: int, one: Mapping[str, Any]) -> Entry:
    info = one.get("info") or {}
    cells = Cells(path, 1, {**info, **one})
    start, end = cells.number("start_time"), cells.number("end_time")
    error, times = one.get("error"), info.get("output_token_times") or []
    failure = str(error) if error else "" if times else "no output"
    if failure:
        return Entry(1, str(at), start, 0, 0, 0.0, 0.0, failure)
    tokens = int(cells.number("input_tokens")), int(cells.number("output_tokens"))
    first, adapter = float(times[0]), info.get("lora_adapter")
    return Entry(1, str(at), start, *tokens, first - start, end - start, "", str(adapter) if adapter else None)


def aiperf(path: Path) -> list[Entry]:
    """Read AIPerf's `profile_export.jsonl`: every metric states its unit; warm-up requests are left out."""
    return [
        _aiperf_entry(Cells(path, line, one))
        for line, one in lines(path)
        if (one.get("metadata") or {}).get("benchmark_phase", "profiling") == "profiling"
    ]


def _aiperf_entry(cells: Cells) -> Entry:
    metadata, metrics = cells.values.get("metadata") or {}, cells.values.get("metrics") or {}
    start = Cells(cells.path, cells.line, metadata).number("request_start_ns") * 1e-9
    name = str(metadata.get("x_request_id", cells.line))
    error = cells.values.get("error")
    if error or metadata.get("was_cancelled"):
        return Entry(cells.line, name, start, 0, 0, 0.0, 0.0, str(error or "cancelled"))
    inputs, outputs = (
        int(Cells(cells.path, cells.line, metrics.get(key) or {}).number("value"))
        for key in ("input_sequence_length", "output_sequence_length")
    )
    ttft, latency = (_timed(cells, metrics, key) for key in ("time_to_first_token", "request_latency"))
    return Entry(cells.line, name, start, inputs, outputs, ttft, latency)


def _timed(cells: Cells, metrics: Mapping[str, Any], key: str) -> float:
    metric = metrics.get(key) or {}
    unit = metric.get("unit")
    if unit not in UNITS_S:
        raise LogError(cells.path, cells.line, f"unit of {key} is {unit!r}; one of {', '.join(UNITS_S)} is allowed")
    return Cells(cells.path, cells.line, metric).number("value") * UNITS_S[unit]


def vllm_requests(path: Path) -> list[Entry]:
    """Read vLLM's own per-request stamps as JSON lines: seconds on a monotonic clock, from being queued."""
    return [_stamped(Cells(path, line, one)) for line, one in lines(path)]


def _stamped(cells: Cells) -> Entry:
    name, queued = str(cells.values.get("request_id", cells.line)), cells.number("queued_ts")
    if cells.values.get("first_token_ts") is None or not cells.values.get("output_toks"):
        return Entry(cells.line, name, queued, 0, 0, 0.0, 0.0, "no output")
    first, last = cells.number("first_token_ts"), cells.number("last_token_ts")
    tokens = int(cells.number("input_toks")), int(cells.number("output_toks"))
    return Entry(cells.line, name, queued, *tokens, first - queued, last - queued)


# What a table must have, each under one of its names.
OWN_COLUMNS = {
    "first-token times": ("first_token_s",),
    "last-token times": ("last_token_s", "finish_s"),
    "arrivals": ("arrival_s",),
    "prompt tokens": ("prompt_tokens", "input_tokens", "input"),
    "output tokens": ("output_tokens", "output"),
}
RANK_COLUMNS = ("adapter_rank", "rank")


def own_table(path: Path) -> list[Entry]:
    """Read `requests.parquet` or a CSV of request_id, arrival_s, input, output, first_token_s, last_token_s: seconds.

    Optional columns: adapter_id, rank, status (anything but `ok` failed).
    """
    rows = list(table(path))
    if rows:
        _check_columns(path, rows[0].values)
    return [_own(cells) for cells in rows]


def _check_columns(path: Path, found: Mapping[str, Any]) -> None:
    for what, names in OWN_COLUMNS.items():
        if not any(name in found for name in names):
            msg = f"no column of {what} ({' or '.join(names)}); found {', '.join(found)}"
            raise LogError(path, 1, msg)


def _own(cells: Cells) -> Entry:
    def named(what: str) -> str:
        return next(one for one in OWN_COLUMNS[what] if one in cells.values)

    name, status = str(cells.values.get("request_id", cells.line)), cells.values.get("status") or "ok"
    arrival = cells.number("arrival_s")
    if status != "ok" or cells.values.get("first_token_s") in {None, ""}:
        return Entry(cells.line, name, arrival, 0, 0, 0.0, 0.0, str(status) if status != "ok" else "no output")
    first, last = cells.number("first_token_s"), cells.number(named("last-token times"))
    tokens = int(cells.number(named("prompt tokens"))), int(cells.number(named("output tokens")))
    adapter = cells.values.get("adapter_id") or None
    ranked = next((one for one in RANK_COLUMNS if one in cells.values), "rank")
    rank = int(cells.number(ranked)) if adapter and cells.values.get(ranked) else 0
    return Entry(cells.line, name, arrival, *tokens, first - arrival, last - arrival, "", adapter, rank)


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        parse: its reader.
        clock: whose it is: a client's, which sees what lies between it and the engine, or the engine's own.
        units: of its times.
        needs: keys or columns that it must have, parts of nested objects after a dot.
        uses: those that are read if they are there.
    """

    parse: Callable[[Path], list[Entry]]
    clock: Literal["client", "engine"]
    units: str
    needs: tuple[str, ...]
    uses: tuple[str, ...]


_ARRAYS = ("input_lens", "output_lens", "ttfts", "itls")
_MORE_ARRAYS = ("latencies", "errors", "lora_names")
_METRICS = ("time_to_first_token", "request_latency", "input_sequence_length", "output_sequence_length")

FORMATS: dict[str, Format] = {
    "vllm-bench": Format(vllm_bench, "client", "s", (*_ARRAYS, "start_times"), _MORE_ARRAYS),
    "sglang-bench": Format(sglang_bench, "client", "s", _ARRAYS, (*_MORE_ARRAYS, "request_rate")),
    "inference-perf": Format(
        inference_perf,
        "client",
        "s",
        ("start_time", "end_time", "info.input_tokens", "info.output_tokens", "info.output_token_times"),
        ("info.lora_adapter", "error"),
    ),
    "aiperf": Format(
        aiperf,
        "client",
        "as each metric states (ns, us, ms, s); start in ns",
        ("metadata.request_start_ns", *(f"metrics.{name}" for name in _METRICS)),
        ("metadata.x_request_id", "metadata.benchmark_phase", "metadata.was_cancelled", "error"),
    ),
    "vllm-requests": Format(
        vllm_requests,
        "engine",
        "s",
        ("queued_ts", "first_token_ts", "last_token_ts", "input_toks", "output_toks"),
        ("request_id",),
    ),
    # Written by `chameleon run --save-detailed`: no simulated time contains what lies between client and engine.
    "chameleon-bench": Format(vllm_bench, "engine", "s", (*_ARRAYS, "start_times"), (*_MORE_ARRAYS, "lora_ranks")),
    "table": Format(
        own_table,
        "engine",
        "s",
        tuple(name for names in OWN_COLUMNS.values() for name in names),
        ("request_id", "adapter_id", *RANK_COLUMNS, "status"),
    ),
}


def recognise(path: Path) -> str:
    """Return the format of a file by its first object.

    Raises:
        LogError: if it is none that is known; names the keys that were found.
    """
    if path.suffix in TABLES:
        return "table"
    whole = _whole_json(path)
    if whole is None:
        whole = next((one for _, one in lines(path)), {})
    first = whole[0] if isinstance(whole, list) and whole else whole
    keys = set(first) if isinstance(first, dict) else set()
    for name, needed in SIGNS:
        if needed <= keys:
            return name
    found = ", ".join(sorted(keys)[:12]) or "no keys"
    raise LogError(path, 1, f"no known log ({', '.join(FORMATS)}): found {found}")


# The most telling first. A result of vLLM without --save-detailed is recognised too, so that its reader can say so.
TABLES = (".csv", ".parquet")
SIGNS: tuple[tuple[str, frozenset[str]], ...] = (
    ("vllm-requests", frozenset({"queued_ts", "first_token_ts"})),
    ("aiperf", frozenset({"metadata", "metrics"})),
    ("inference-perf", frozenset({"start_time", "end_time", "info"})),
    ("chameleon-bench", frozenset({"ttfts", "start_times", "sim"})),
    ("vllm-bench", frozenset({"ttfts", "start_times"})),
    ("sglang-bench", frozenset({"mean_e2e_latency_ms"})),
    ("sglang-bench", frozenset({"ttfts", "itls"})),
    ("vllm-bench", frozenset({"mean_ttft_ms"})),
)


def _whole_json(path: Path) -> Any:
    """Return the content of a file that is one JSON document, else None: appended results are JSON lines."""
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError:
        return None
