"""Runs side by side: paired by seed where they saw the same requests, with intervals, and never a P99 without its n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.results.rundir import RunData, read_run
from sim.statistics import Comparison, Interval, compare_pairs, mean_interval, percentile_interval

# what is compared: label, path in summary.json, factor
ROWS = (
    ("P50 TTFT (ms)", ("metrics", "ttft_ms", "p50"), 1.0),
    ("P90 TTFT (ms)", ("metrics", "ttft_ms", "p90"), 1.0),
    ("P99 TTFT (ms)", ("metrics", "ttft_ms", "p99"), 1.0),
    ("Mean TTFT (ms)", ("metrics", "ttft_ms", "mean"), 1.0),
    ("P99 TPOT (ms)", ("metrics", "tpot_ms", "p99"), 1.0),
    ("P99 ITL (ms)", ("metrics", "itl_ms", "p99"), 1.0),
    ("Mean E2EL (ms)", ("metrics", "e2el_ms", "mean"), 1.0),
    ("P99 E2EL (ms)", ("metrics", "e2el_ms", "p99"), 1.0),
    ("SLO attainment (%)", ("slo", "attainment"), 100.0),
    ("Requests per s", ("throughput", "requests_per_s"), 1.0),
    ("Adapter hit rate (%)", ("adapters", "hit_rate"), 100.0),
    ("Adapter GB over the link", ("adapters", "bytes_moved"), 1e-9),
)


@dataclass(frozen=True)
class Side:
    """One system's runs, by seed."""

    label: str
    runs: dict[int, RunData]

    def value(self, seed: int, path: Sequence[str]) -> float | None:
        """Return one number of one run's summary; None if it is not there."""
        found: Any = self.runs[seed].summary
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else float(found)


@dataclass(frozen=True)
class Row:
    """One statistic: an interval per system, and each system against the first (None: not comparable)."""

    label: str
    intervals: tuple[Interval | None, ...]
    against_first: tuple[Comparison | None, ...]


def read_side(directory: Path) -> Side:
    """Return the run in a directory, or the replications below it.

    Raises:
        ValueError: if there is neither, or two replications have the same seed or different systems.
    """
    if (directory / "DONE").exists():
        run = read_run(directory)
        return Side(str(run.summary["system"]), {int(run.summary["seed"]): run})
    below = sorted(path.parent for path in directory.glob("*/DONE")) if directory.is_dir() else []
    if not below:
        msg = f"{directory} holds no finished run (a directory with the file DONE), nor directories that do"
        raise ValueError(msg)
    runs = [read_run(path) for path in below]
    systems = sorted({str(run.summary["system"]) for run in runs})
    if len(systems) > 1:
        msg = f"{directory} holds runs of several systems ({', '.join(systems)}); give the directory of each"
        raise ValueError(msg)
    by_seed = {int(run.summary["seed"]): run for run in runs}
    if len(by_seed) < len(runs):
        msg = f"{directory} holds {len(runs)} runs with {len(by_seed)} seeds; replications need a seed each"
        raise ValueError(msg)
    return Side(str(runs[0].summary["system"]), by_seed)


def read_sides(directories: Sequence[Path]) -> list[Side]:
    """Return one side per directory, labelled by its system, or by its directory where two have the same."""
    sides = [read_side(directory) for directory in directories]
    labels = [side.label for side in sides]
    if len(set(labels)) == len(labels):
        return sides
    return [replace(side, label=str(path)) for side, path in zip(sides, directories, strict=True)]


def compare(sides: Sequence[Side]) -> list[Row]:
    """Return one row per statistic over the seeds that all sides share."""
    seeds = shared_seeds(sides)
    return [_row(label, path, factor, sides, seeds) for label, path, factor in ROWS]


def shared_seeds(sides: Sequence[Side]) -> list[int]:
    """Return the seeds that every side has.

    Raises:
        ValueError: if there are none.
    """
    shared = sorted(set.intersection(*(set(side.runs) for side in sides)))
    if not shared:
        seeds = "; ".join(f"{side.label}: {sorted(side.runs)}" for side in sides)
        msg = f"the runs share no seed ({seeds})"
        raise ValueError(msg)
    return shared


def is_paired(sides: Sequence[Side], seeds: Sequence[int]) -> bool:
    """Whether all sides served the same workload, seed by seed; else a difference is not due to the system alone."""
    for seed in seeds:
        workloads = [side.runs[seed].config["workload"] for side in sides]
        models = [(side.runs[seed].summary["model"], side.runs[seed].summary["hardware"]) for side in sides]
        clients = [side.runs[seed].config.get("client") for side in sides]
        if any(one != workloads[0] for one in workloads) or any(one != clients[0] for one in clients):
            return False
        if len(set(models)) > 1:
            return False
    return True


def p99_band_ms(side: Side, seed: int) -> Interval | None:
    """Return the order-statistic interval of P99 TTFT inside one run, None where nothing was completed.

    It holds for independent requests only.
    """
    ttft_ms = side.runs[seed].requests["ttft_s"].dropna().to_numpy() * 1e3
    return percentile_interval(ttft_ms, 99) if len(ttft_ms) else None


def _row(label: str, path: Sequence[str], factor: float, sides: Sequence[Side], seeds: Sequence[int]) -> Row:
    values = [_values(side, path, factor, seeds) for side in sides]
    intervals = tuple(None if one is None else mean_interval(one) for one in values)
    first = values[0]
    against = tuple(
        None if first is None or one is None or place == 0 else compare_pairs(first, one)
        for place, one in enumerate(values)
    )
    return Row(label, intervals, against)


def _values(side: Side, path: Sequence[str], factor: float, seeds: Sequence[int]) -> list[float] | None:
    found = [side.value(seed, path) for seed in seeds]
    known = [value * factor for value in found if value is not None]
    return known if len(known) == len(found) else None
