"""Latency against load: which runs a sweep is made of, and one row per system and rate from their summaries.

Runs are made by `sim.replications` and drawn by `sim.plots`; nothing here simulates or draws.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from sim.config import Loaded, load_config
from sim.replications import Task, perform_all, with_seed
from sim.statistics import Interval, mean_interval, relative_reduction
from sim.summary import Summary

MOST_RATES = 1000
STABLE = "stable"


class Cell(NamedTuple):
    """One run of a sweep and its place in the table."""

    system: str
    rate_per_s: float
    task: Task


@dataclass(frozen=True)
class Row:
    """One system at one rate, over its seeds; an interval is None where a run had nothing to measure.

    Attributes:
        seeds: whose runs are finished.
        offered, completed: requests of all runs together.
        slo_s: objective for the time to first token.
        p50_ms, p99_ms: time to first token of completed requests.
        p99_cut: reduction of that P99 against the first system, paired by seed; None for the first system itself.
        attainment: share of offered requests within the objective.
        hit_rate: share of requests that found their adapter on the GPU.
        verdicts: how many runs had a stable, backlogged or overloaded queue.
    """

    system: str
    rate_per_s: float
    seeds: tuple[int, ...]
    offered: int
    completed: int
    slo_s: float | None
    p50_ms: Interval | None
    p99_ms: Interval | None
    p99_cut: Interval | None
    attainment: Interval | None
    hit_rate: Interval | None
    verdicts: Mapping[str, int]

    @property
    def is_stable(self) -> bool:
        """Whether the queue kept up in every run; else percentiles depend on how long the runs were."""
        return set(self.verdicts) == {STABLE}


def parse_rates(text: str) -> tuple[float, ...]:
    """Return the rates of a list such as "5,6,8.5" or "5:9:0.5" (both ends included), ascending, each once.

    Raises:
        ValueError: if a rate or a step is not a positive number, a range is empty, or there are too many.
    """
    rates = sorted({rate for part in text.split(",") for rate in _range(part)})
    if len(rates) > MOST_RATES:
        msg = f"a sweep takes at most {MOST_RATES} rates, {text!r} has {len(rates)}"
        raise ValueError(msg)
    return tuple(rates)


def _range(part: str) -> list[float]:
    # decimal, so that 5:6:0.1 has 5.3 and not 5.300000000000001
    start, stop, step = _bounds(part)
    if not (start > 0 and step > 0 and start <= stop):
        msg = f"rates are positive, and a range is start:stop:step with start <= stop, got {part!r}"
        raise ValueError(msg)
    return [float(start + step * place) for place in range(min(int((stop - start) / step), MOST_RATES) + 1)]


def _bounds(part: str) -> tuple[Decimal, Decimal, Decimal]:
    try:
        given = [Decimal(word.strip()) for word in part.split(":")]
    except InvalidOperation:
        given = []
    if len(given) not in {1, 3} or not all(one.is_finite() for one in given):
        msg = f"rates are numbers such as 5,6,8.5 or a range such as 5:9:0.5, got {part!r}"
        raise ValueError(msg)
    return (given[0], given[0], Decimal(1)) if len(given) == 1 else (given[0], given[1], given[2])


def cells(
    systems: Sequence[str],
    rates_per_s: Sequence[float],
    reps: int,
    *,
    changes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> list[Cell]:
    """Return every run of a sweep, seed by seed, so that one that is cut short has whole curves of its first seeds.

    Args:
        systems: packaged names or paths.
        rates_per_s: loads in requests/s.
        reps: seeds per system and load, counted up from the configured one; the same for all.
        changes: texts such as "cache.kind=lru", for all systems.
        extra: values by top-level key of the configuration, for all systems.
        out: below which every run gets a directory of its own; None keeps none.

    Raises:
        ConfigError: if a configuration is wrong.
        ValueError: if two systems bear the same name, or a change sets the rate.
    """
    curves = [[_loaded(system, rate, changes, extra or {}) for rate in rates_per_s] for system in systems]
    _check_names([curve[0].config.name for curve in curves])
    points = [loaded for at_one_rate in zip(*curves, strict=True) for loaded in at_one_rate]
    return [_cell(loaded, loaded.config.seed + rep, out) for rep in range(reps) for loaded in points]


def _check_names(names: Sequence[str]) -> None:
    if len({_slug(name) for name in names}) < len(names):
        msg = f"a sweep needs systems of different names, got {', '.join(names)}"
        raise ValueError(msg)


def _loaded(system: str, rate: float, changes: Sequence[str], extra: Mapping[str, Any]) -> Loaded:
    workload = {**extra.get("workload", {}), "rate_per_s": rate}
    loaded = load_config(system, changes, {**extra, "workload": workload})
    if loaded.config.workload.rate_per_s != rate:
        msg = f"workload.rate_per_s={loaded.config.workload.rate_per_s} is fixed, yet the sweep is to vary it"
        raise ValueError(msg)
    return loaded


def _cell(loaded: Loaded, seed: int, out: Path | None) -> Cell:
    name, rate = loaded.config.name, loaded.config.workload.rate_per_s or 0.0
    directory = None if out is None else out / _slug(name) / f"rate-{rate:.12g}" / f"seed-{seed}"
    return Cell(name, rate, Task(with_seed(loaded, seed), directory))


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".") or "system"


def perform_cells(plan: Sequence[Cell], jobs: int = 1) -> Iterator[tuple[Cell, Summary]]:
    """Yield every run with its summary, in order; what lies finished in its directory is read."""
    yield from zip(plan, perform_all([cell.task for cell in plan], jobs), strict=True)


def rows(finished: Sequence[tuple[Cell, Summary]]) -> list[Row]:
    """Return a row per rate and system, rates ascending and systems in the order given, over the runs so far."""
    groups: dict[tuple[float, str], dict[int, Summary]] = {}
    for cell, summary in finished:
        groups.setdefault((cell.rate_per_s, cell.system), {})[cell.task.loaded.config.seed] = summary
    systems = list(dict.fromkeys(cell.system for cell, _ in finished))
    order = sorted(groups, key=lambda place: (place[0], systems.index(place[1])))
    return [_row(place, groups[place], groups.get((place[0], systems[0]), {})) for place in order]


def _row(place: tuple[float, str], runs: Mapping[int, Summary], first: Mapping[int, Summary]) -> Row:
    summaries = list(runs.values())
    return Row(
        system=place[1],
        rate_per_s=place[0],
        seeds=tuple(runs),
        offered=sum(one["requests"]["offered"] for one in summaries),
        completed=sum(one["requests"]["completed"] for one in summaries),
        slo_s=summaries[0]["slo"]["ttft_s"],
        p50_ms=_interval(summaries, lambda one: one["metrics"]["ttft_ms"]["p50"]),
        p99_ms=_interval(summaries, _p99),
        p99_cut=None if first is runs else _cut(first, runs),
        attainment=_interval(summaries, lambda one: one["slo"]["attainment"]),
        hit_rate=_interval(summaries, lambda one: one["adapters"]["hit_rate"]),
        verdicts=Counter(one["stability"]["verdict"] for one in summaries),
    )


def _p99(summary: Summary) -> float | None:
    value: float | None = summary["metrics"]["ttft_ms"]["p99"]
    return value


def _interval(summaries: Sequence[Summary], number: Callable[[Summary], float | None]) -> Interval | None:
    values = [value for value in map(number, summaries) if value is not None]
    return mean_interval(values) if values and len(values) == len(summaries) else None


def _cut(first: Mapping[int, Summary], runs: Mapping[int, Summary]) -> Interval | None:
    pairs = [(_p99(first[seed]), _p99(runs[seed])) for seed in runs if seed in first]
    known = [(before, after) for before, after in pairs if before and after is not None]
    if not known or len(known) < len(pairs):
        return None
    return relative_reduction([before for before, _ in known], [after for _, after in known])


def records(table: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield each row as flat, plain values: what stands in `sweep.csv` and in `--json`; None where not measured."""
    for row in table:
        yield {
            "system": row.system,
            "rate_per_s": row.rate_per_s,
            "reps": len(row.seeds),
            "first_seed": min(row.seeds),
            "offered": row.offered,
            "completed": row.completed,
            **_flat("ttft_p50_ms", row.p50_ms),
            **_flat("ttft_p99_ms", row.p99_ms),
            **_flat("ttft_p99_cut", row.p99_cut),
            "slo_s": row.slo_s,
            **_flat("slo_attainment", row.attainment),
            **_flat("hit_rate", row.hit_rate),
            **{verdict: row.verdicts.get(verdict, 0) for verdict in (STABLE, "backlogged", "overloaded")},
        }


def _flat(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = (None, None, None) if interval is None else (interval.estimate, interval.low, interval.high)
    return dict(zip((name, f"{name}_ci95_low", f"{name}_ci95_high"), values, strict=True))


def write_csv(table: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV, by one rename: readers see the old file or the new one, never a half."""
    lines = list(records(table))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def caption(run: Cell, reps: int, changes: Sequence[str] = ()) -> str:
    """Return what the runs of a sweep have in common, in one line: workload, size, seeds, model, GPU, changes."""
    config = run.task.loaded.config
    workload = config.workload
    source = workload.preset if workload.trace is None else Path(workload.trace).name
    requests = "all requests" if workload.requests is None else f"{workload.requests} requests"
    seeds = f"{reps} paired seeds" if reps > 1 else "one seed"
    scale = "" if math.isclose(workload.scale, 1) else f", lengths / {workload.scale:g}"
    parts = [
        f"workload {source}{scale}",
        f"{requests} per run",
        seeds,
        f"{config.model} on a simulated {config.hardware}",
    ]
    return "; ".join([*parts, *changes])
