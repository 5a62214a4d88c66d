"""One row per offered request, whole or in parts; columns are named and typed as in `requests.parquet`.

pandas is imported when a table is built. What the columns mean is decided in `sim.results.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from policies.base import IntArray
from sim.results.metrics import (
    NO_ADAPTER,
    Offered,
    duration_s,
    instant_s,
    isolated_s,
    largest_gaps,
    latencies_s,
    ttft_parts_s,
)
from sim.serving.records import NEVER, SOURCES, STATUSES
from sim.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.result import Run

PART_ROWS = 65_536  # of a row group in the file
MOST_PARTS = 16


def requests_frame(run: Run) -> pd.DataFrame:
    """Return one row per offered request in id order: identity, workload, instants, latencies, adapter, outcome.

    Times are seconds from the start of the trace, NaN where not reached. `queue_s`, `adapter_wait_s`, `prefill_s`,
    `preempt_s` and `overhead_s` sum to `ttft_s` exactly. `itl_max_s` is explained at
    `sim.results.metrics.largest_gaps`, `isolated_s` at `sim.results.isolated`. `slo_ok` judges by the run's
    `ttft_slo_s` and is null without one; a request that is not ok is not within it. A request of which no replica has a
    row is `unfinished`, with identity, workload and arrival only.
    """
    return next(_parts(run, [range(len(run.trace))]))


def requests_in_parts(run: Run, rows: int | None = None) -> Iterator[pd.DataFrame]:
    """Yield the table of `requests_frame` in parts, each made when asked for, so that few rows are held at a time.

    Args:
        run: the raw outcome.
        rows: of a part. None: a multiple of 65,536 that makes at most 16 parts, because each of them goes through all
            records once.
    """
    n = len(run.trace)
    step = rows or PART_ROWS * max(1, -(-n // (PART_ROWS * MOST_PARTS)))
    spans = [range(start, min(start + step, n)) for start in range(0, max(n, 1), step)]
    return _parts(run, spans)


def _parts(run: Run, spans: Iterable[range]) -> Iterator[pd.DataFrame]:
    import pandas as pd  # noqa: PLC0415 - takes seconds to import

    largest = [largest_gaps(one) for one in run.records]
    for span in spans:
        offered = Offered(run.trace, run.records, span)
        columns = _identity(offered, run.adapter_bytes, run.predicted_tokens[span.start : span.stop])
        columns |= _instants(offered)
        columns |= latencies_s(offered)
        columns |= {
            "itl_max_s": instant_s(offered.spread(largest, NEVER)),
            "client_queue_time_s": duration_s(offered.arrival(), offered.instant("arrival")),
            "isolated_s": isolated_s(offered, run.isolated_ticks),
        }
        columns |= ttft_parts_s(offered)
        columns |= _adapter_use(offered)
        columns |= _scheduling(offered)
        columns |= _outcome(offered, columns["ttft_s"], run.ttft_slo_s)
        yield pd.DataFrame(columns, copy=False)


def _identity(offered: Offered, adapter_bytes: Sequence[int], predicted_tokens: IntArray) -> dict[str, object]:
    trace = offered.trace
    ids, ranks, sizes = palette_columns(trace, adapter_bytes)
    nothing = np.full(len(trace), None, dtype=object)
    known = offered.known
    return {
        "request_id": np.arange(offered.span.start, offered.span.stop, dtype=np.int64),
        "trace_line": _line(trace),
        "adapter_id": text_column(ids[trace.adapter]),
        "adapter_rank": ranks[trace.adapter].astype(np.int16),
        "adapter_bytes": sizes[trace.adapter],
        "tenant": text_column(nothing),
        "slo_class": text_column(nothing),
        "replica": _nullable(offered.replica, offered.replica >= 0, "Int16"),
        "prompt_tokens": trace.prompt_tokens.astype(np.int32),
        "output_tokens": trace.output_tokens.astype(np.int32),
        "predicted_output_tokens": predicted_tokens.astype(np.int32),
        "wrs": np.where(known, offered.column("weight_ppm") / 10**6, np.nan),
        "queue_id": _nullable(offered.column("lane"), known, "Int16"),
    }


def _line(trace: Trace) -> pd.Series:
    line = np.zeros(len(trace), dtype=np.int64) if trace.line is None else trace.line
    return _nullable(line, line > 0, "Int64")


def _instants(offered: Offered) -> dict[str, object]:
    names = {"send_s": "arrival", "admitted_s": "admitted", "adapter_ready_s": "ready"}
    names |= {"first_token_s": "first_token", "finish_s": "finish"}
    columns: dict[str, object] = {"arrival_s": instant_s(offered.arrival())}
    return columns | {column: instant_s(offered.instant(name)) for column, name in names.items()}


def _adapter_use(offered: Offered) -> dict[str, object]:
    words = np.array([*SOURCES, None], dtype=object)
    source = np.where(offered.instant("admitted") == NEVER, len(SOURCES), offered.column("source", NO_ADAPTER))
    return {
        "adapter_source": text_column(words[source]),
        "adapter_load_s": instant_s(offered.instant("load")),
        "adapter_load_bytes": offered.column("load_bytes"),
        "pcie_wait_s": instant_s(offered.instant("link_wait")),
    }


def _scheduling(offered: Offered) -> dict[str, object]:
    steps = offered.column("steps")
    mean_batch = np.where(steps > 0, offered.column("batch_sum") / np.maximum(steps, 1), np.nan)
    return {
        "n_preempt": offered.column("preemptions").astype(np.int32),
        "n_bypassed": offered.column("bypassed").astype(np.int32),
        "n_iterations": steps.astype(np.int32),
        "mean_batch": mean_batch,
    }


def _outcome(offered: Offered, ttft_s: object, ttft_slo_s: float | None) -> dict[str, object]:
    error = np.full(len(offered.trace), None, dtype=object)
    error[list(offered.reasons)] = list(offered.reasons.values())
    judged = np.full(len(error), ttft_slo_s is not None)
    good = offered.completed & (np.asarray(ttft_s) <= (ttft_slo_s or 0.0))
    return {
        "status": text_column(np.array(STATUSES, dtype=object)[offered.status]),
        "error": text_column(error),
        "slo_ok": _nullable(good, judged, "boolean"),
    }


def _nullable(values: np.ndarray, known: np.ndarray, dtype: Literal["Int16", "Int64", "boolean"]) -> pd.Series:
    import pandas as pd  # noqa: PLC0415

    column: pd.Series = pd.Series(values).astype(dtype).where(known)
    return column


def palette_columns(trace: Trace, adapter_bytes: Sequence[int]) -> tuple[np.ndarray, IntArray, IntArray]:
    """Return id (None: base model), rank and bytes (0: base model) of each palette entry."""
    ids = np.array([spec.id if spec else None for spec in trace.palette], dtype=object)
    ranks = np.array([spec.rank if spec else 0 for spec in trace.palette], dtype=np.int64)
    sizes = [size if spec else 0 for spec, size in zip(trace.palette, adapter_bytes, strict=True)]
    return ids, ranks, np.array(sizes, dtype=np.int64)


def text_column(values: np.ndarray) -> pd.Series:
    """Return texts and None as a column of text and nulls."""
    import pandas as pd  # noqa: PLC0415

    return pd.Series(values, dtype="str")
