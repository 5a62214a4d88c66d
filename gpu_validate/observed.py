"""A run as far as it was observed, simulated or real: its requests, its iterations, its counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.results.metrics import instant_s
from sim.results.rundir import read_run
from sim.serving.ticks import TICKS_PER_S

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.result import Result
    from sim.serving.records import Records

COUNTERS = {
    "adapters": ("hit_rate", "loads", "prefetches", "evictions", "bytes_loaded"),
    "iterations": ("prefill", "decode", "prefill_tokens", "decode_tokens", "mean_batch", "prefill_s", "decode_s"),
    "requests": ("completed", "rejected", "unfinished"),
}


Columns = dict[str, Any]  # of a table, by name


@dataclass(frozen=True, eq=False)
class Observed:
    """One run as far as it was observed, simulated or real.

    Attributes:
        label: what it is called in the report.
        requests: a row per request as in requests.parquet; the columns needed are `request_id`, `arrival_s`, `ttft_s`,
            `tpot_s` and `e2el_s`.
        iterations: a row per iteration: `start_s`, `duration_s`, `kind` and counts of the batch; None if not known.
        counters: numbers to compare, by name.
    """

    label: str
    requests: pd.DataFrame
    iterations: pd.DataFrame | None = None
    counters: Mapping[str, float] = field(default_factory=dict)


def from_result(result: Result, label: str | None = None) -> Observed:
    """Return a run that is still in memory, its iterations included."""
    return Observed(
        label or result.run.system,
        result.requests,
        iterations_frame(result.run.records),
        counters_of(result.summary),
    )


def from_directory(
    directory: str | PathLike[str], label: str | None = None, iterations: pd.DataFrame | None = None
) -> Observed:
    """Return a run from its directory, which holds no iterations.

    Args:
        directory: as `sim.results.rundir.write_run` left it.
        label: by default the system.
        iterations: a table of them, if somebody has one.

    Raises:
        ValueError: if it is not a finished run.
    """
    run = read_run(directory)
    return Observed(label or str(run.summary["system"]), run.requests, iterations, counters_of(run.summary))


def counters_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the counters of a summary that has them."""
    return {
        f"{section}.{name}": float(summary[section][name])
        for section, names in COUNTERS.items()
        for name in names
        if summary.get(section, {}).get(name) is not None
    }


def iterations_frame(records: tuple[Records, ...]) -> pd.DataFrame:
    """Return a row per iteration in order of time: `start_s`, `duration_s`, `kind`, `requests`, `tokens`.

    `context_tokens` is what a decode step reads; 0 for a prefill. An iteration that does both is `mixed`, prompts and
    batch counted together. Stalls of the engine are kind `load`.
    """
    import pandas as pd  # noqa: PLC0415 - takes seconds to import

    parts = [part for one in records for part in (*_working(one), _stalls(one))]
    table = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    return table.sort_values(["start_s", "kind"], kind="stable").reset_index(drop=True)


def _working(records: Records) -> Iterator[dict[str, Any]]:
    prefills, segments = ({name: rows[name] for name in rows.columns} for rows in (records.prefills, records.segments))
    is_mixed, decodes_beside = (np.isin(rows["start"], records.mixed["start"]) for rows in (prefills, segments))
    yield _prefills(_where(prefills, ~is_mixed))
    yield _mixed(_where(prefills, is_mixed), _where(segments, decodes_beside))
    yield _decodes(_where(segments, ~decodes_beside))


def _where(rows: Columns, mask: Any) -> Columns:
    return {name: column[mask] for name, column in rows.items()}


def _prefills(rows: Columns) -> dict[str, Any]:
    return _columns(rows["start"], rows["ticks"], "prefill", rows["requests"], rows["tokens"], rows["requests"] * 0)


def _mixed(rows: Columns, steps: Columns) -> dict[str, Any]:
    requests, tokens = rows["requests"] + steps["batch"], rows["tokens"] + steps["batch"]
    return _columns(rows["start"], rows["ticks"], "mixed", requests, tokens, steps["context"])


def _stalls(records: Records) -> dict[str, Any]:
    rows = records.stalls
    return _columns(rows["start"], rows["ticks"], "load", *([rows["start"] * 0] * 3))


def _decodes(rows: Columns) -> dict[str, Any]:
    count = rows["count"]
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # place within its segment
    start, first, growth, batch, context = (
        np.repeat(rows[name], count) for name in ("start", "first", "growth", "batch", "context")
    )
    begin = start + step * first + growth * (step * (step - 1) // 2)
    return _columns(begin, first + step * growth, "decode", batch, batch, context + step * batch)


def _columns(start: Any, ticks: Any, kind: str, requests: Any, tokens: Any, context: Any) -> dict[str, Any]:
    counts = {"requests": requests, "tokens": tokens, "context_tokens": context}
    return {"start_s": instant_s(start), "duration_s": ticks / TICKS_PER_S, "kind": kind, **counts}
