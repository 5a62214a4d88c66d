"""A sweep's table as flat values, and as files: CSV for eyes and spreadsheets, Parquet for data frames."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sim.experiments.sweep import STABLE, Row
from sim.files.output import drafted
from sim.statistics import Interval


def records(table: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield each row as flat, plain values: what stands in `sweep.csv` and in `--json`; None where not measured.

    A key that is varied is a column under its own name. Columns that end in `_ci95_low` and `_ci95_high` are the bounds
    of the t interval over seeds of the column that they are named after.
    """
    for row in table:
        yield {
            "system": row.system,
            "rate_per_s": row.rate_per_s,
            **dict(row.settings),
            "reps": len(row.seeds),
            "first_seed": min(row.seeds, default=None),
            "offered": row.offered,
            "completed": row.completed,
            **_flat("ttft_p50_ms", row.p50_ms),
            **_flat("ttft_p99_ms", row.p99_ms),
            **_flat("ttft_p99_cut", row.p99_cut),
            **_flat("tpot_mean_ms", row.tpot_mean_ms),
            **_flat("tpot_p99_ms", row.tpot_p99_ms),
            **_flat("requests_per_s", row.throughput),
            "slo_s": row.slo_s,
            **_flat("slo_attainment", row.attainment),
            **_flat("hit_rate", row.hit_rate),
            **{verdict: row.verdicts.get(verdict, 0) for verdict in (STABLE, "backlogged", "overloaded")},
            "error": row.error,
        }


def _flat(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = (None, None, None) if interval is None else (interval.estimate, interval.low, interval.high)
    return dict(zip((name, f"{name}_ci95_low", f"{name}_ci95_high"), values, strict=True))


def write_table(table: Sequence[Row], folder: Path) -> Path:
    """Write `sweep.csv` and `sweep.parquet`, each whole or not at all, and return the path of the former."""
    with drafted(folder / "sweep.parquet") as draft:
        _parquet(table, draft)
    with drafted(folder / "sweep.csv") as draft:
        _csv(table, draft)
    return folder / "sweep.csv"


def _csv(table: Sequence[Row], path: Path) -> None:
    lines = list(records(table))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _parquet(table: Sequence[Row], path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - slow to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    with path.open("wb") as file:  # pyarrow takes no path that is not UTF-8
        pq.write_table(pa.Table.from_pylist(list(records(table))), file)
