"""Systems, rates and settings against one another: which runs a sweep is made of, and a row per cell of its table.

Runs are made by `sim.experiments.replications` and drawn by `sim.plots`; nothing here simulates or draws.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sim.config import Loaded, RunConfig, load_config
from sim.experiments.axes import Axis, Setting, settings
from sim.experiments.bench_words import own_rate
from sim.experiments.replications import Failure, Task, attempt_all, check_seeds, perform_all, with_seed
from sim.files.yamlfile import ConfigError, Mark
from sim.results.summary import Summary
from sim.statistics import Interval, mean_interval, relative_reduction
from sim.workload.making import make_trace

STABLE = "stable"
Outcome = Summary | Failure


class Cell(NamedTuple):
    """One run of a sweep and its place in the table.

    Attributes:
        rate_per_s: the offered rate; that of the file where the stamps of a trace are replayed.
        settings: keys that are varied, and their values here.
    """

    system: str
    rate_per_s: float
    task: Task
    settings: tuple[Setting, ...] = ()

    def __str__(self) -> str:
        words = [self.system, *(f"{key}={value}" for key, value in self.settings), f"{self.rate_per_s:g} requests/s"]
        return ", ".join(words)


@dataclass(frozen=True)
class Row:
    """One system at one rate and setting, over its seeds; an interval is None where a run had nothing to measure.

    Attributes:
        seeds: whose runs are finished.
        offered, completed: requests of all runs together.
        slo_s: objective for the time to first token.
        p50_ms, p99_ms: time to first token of completed requests.
        p99_cut: reduction of that P99, paired by seed, against the first system; where there is but one, against its
            first setting at the same rate. None for that itself.
        attainment: share of offered requests within the objective.
        hit_rate: share of requests that found their adapter on the GPU.
        verdicts: how many runs had a stable, backlogged or overloaded queue.
        tpot_mean_ms, tpot_p99_ms: time per output token of completed requests.
        throughput: completed requests/s.
        settings: keys that are varied, and their values here.
        error: why a run could not be made; None if all of them were.
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
    tpot_mean_ms: Interval | None = None
    tpot_p99_ms: Interval | None = None
    throughput: Interval | None = None
    settings: tuple[Setting, ...] = ()
    error: str | None = None

    @property
    def is_stable(self) -> bool:
        """Whether the queue kept up in every run; else percentiles depend on how long the runs were."""
        return set(self.verdicts) == {STABLE}


def cells(
    systems: Sequence[str],
    rates_per_s: Sequence[float | None],
    reps: int,
    *,
    changes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    axes: Sequence[Axis] = (),
    out: Path | None = None,
) -> list[Cell]:
    """Return every run of a sweep, seed by seed, so that one that is cut short has whole curves of its first seeds.

    Args:
        systems: packaged names or paths.
        rates_per_s: loads in requests/s; None: the workload's own.
        reps: seeds per system and load, counted up from the configured one; the same for all.
        changes: texts such as "cache.kind=lru", for all systems.
        extra: values by top-level key of the configuration, for all systems.
        axes: keys to be varied; every combination of their values is run.
        out: below which every run gets a directory of its own; None keeps none.

    Raises:
        ConfigError: if a configuration is wrong.
        ValueError: if two systems bear the same name, start from different seeds, or a change sets the rate.
    """
    points = [
        (chosen, _loaded(system, rate, changes, [f"{key}={value}" for key, value in chosen], extra or {}))
        for rate in rates_per_s
        for chosen in settings(axes)
        for system in systems
    ]
    first = [loaded for _, loaded in points[: len(systems)]]
    _check_names([loaded.config.name for loaded in first])
    check_seeds(first)
    placed = [(chosen, loaded, _offered_rate(loaded)) for chosen, loaded in points]
    return [
        _cell(loaded, rate, chosen, loaded.config.seed + rep, out)
        for rep in range(reps)
        for chosen, loaded, rate in placed
    ]


def _check_names(names: Sequence[str]) -> None:
    if len({_slug(name) for name in names}) < len(names):
        msg = f"a sweep needs systems of different names, got {', '.join(names)}"
        raise ValueError(msg)


def _loaded(
    system: str, rate: float | None, changes: Sequence[str], varied: Sequence[str], extra: Mapping[str, Any]
) -> Loaded:
    words = dict(extra) if rate is None else {**extra, "workload": {**extra.get("workload", {}), "rate_per_s": rate}}
    try:
        loaded = load_config(system, [*changes, *varied], words)
    except ConfigError as error:
        flags = {Mark(f"--set {text}"): Mark(f"--vary {text}") for text in varied}
        told = (item._replace(mark=flags.get(item.mark, item.mark)) if item.mark else item for item in error.problems)
        raise ConfigError(told) from None
    if rate is not None and loaded.config.workload.rate_per_s != rate:
        msg = f"workload.rate_per_s={loaded.config.workload.rate_per_s} is fixed, yet the sweep is to vary it"
        raise ValueError(msg)
    return loaded


def _offered_rate(loaded: Loaded) -> float:
    workload = loaded.config.workload
    if workload.rate_per_s is not None or workload.trace is None or not workload.trace.exists():
        return workload.rate_per_s or math.inf  # a trace that is missing is told when it is run
    return own_rate(make_trace(workload, loaded.config.seed))


def _cell(loaded: Loaded, rate: float, chosen: tuple[Setting, ...], seed: int, out: Path | None) -> Cell:
    name = loaded.config.name
    folders = [_slug(name), *([_slug_of(chosen)] if chosen else []), f"rate-{rate:.12g}", f"seed-{seed}"]
    directory = None if out is None else out.joinpath(*folders)
    return Cell(name, rate, Task(with_seed(loaded, seed), directory), chosen)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".") or "system"


def _slug_of(chosen: tuple[Setting, ...]) -> str:
    """Return a folder's name for settings; where it does not spell them out, a hash tells like ones apart."""
    text = ",".join(f"{key}={value}" for key, value in chosen)
    slug = re.sub(r"[^\w.=,-]+", "-", text)[:120]
    return slug if slug == text else f"{slug}-{sha256(text.encode()).hexdigest()[:8]}"


def perform_cells(plan: Sequence[Cell], jobs: int = 1) -> Iterator[tuple[Cell, Summary]]:
    """Yield every run with its summary, in order; what lies finished in its directory is read."""
    yield from zip(plan, perform_all([cell.task for cell in plan], jobs), strict=True)


def attempt_cells(plan: Sequence[Cell], jobs: int = 1) -> Iterator[tuple[Cell, Outcome]]:
    """Yield every run with its summary, or with why there is none, in order; see `perform_cells`."""
    yield from zip(plan, attempt_all([cell.task for cell in plan], jobs), strict=True)


_Place = tuple[float, tuple[Setting, ...], str]


def rows(finished: Sequence[tuple[Cell, Outcome]], plan: Sequence[Cell] | None = None) -> list[Row]:
    """Return a row per rate, setting and system over the runs so far: rates ascending, the others in the order given.

    A cell none of whose runs could be made has a row too, with the reason and no numbers.

    Args:
        finished: runs with their summaries, or why there is none.
        plan: all runs of the sweep, if these are a part of it; its first is what others are compared with.
    """
    whole = [cell for cell, _ in finished] if plan is None else plan
    groups: dict[_Place, dict[int, Summary]] = {}
    errors: dict[_Place, str] = {}
    for cell, outcome in finished:
        place = (cell.rate_per_s, cell.settings, cell.system)
        group = groups.setdefault(place, {})
        if isinstance(outcome, Failure):
            errors.setdefault(place, outcome.reason)
        else:
            group[cell.task.loaded.config.seed] = outcome
    order = sorted(groups, key=lambda place: place[0])  # stable: the rest stays in the order of the plan
    is_one = is_of_one_system(whole)
    beside = {place: (place[0], whole[0].settings if is_one else place[1], whole[0].system) for place in order}
    return [_row(place, groups[place], groups.get(beside[place], {}), errors.get(place)) for place in order]


def is_of_one_system(plan: Sequence[Cell]) -> bool:
    """Whether a sweep has a single system, whose settings are then compared with the first."""
    return len({cell.system for cell in plan}) == 1


def _row(place: _Place, runs: Mapping[int, Summary], first: Mapping[int, Summary], error: str | None) -> Row:
    summaries = list(runs.values())
    return Row(
        system=place[2],
        rate_per_s=place[0],
        seeds=tuple(runs),
        offered=sum(one["requests"]["offered"] for one in summaries),
        completed=sum(one["requests"]["completed"] for one in summaries),
        slo_s=summaries[0]["slo"]["ttft_s"] if summaries else None,
        p50_ms=_interval(summaries, lambda one: one["metrics"]["ttft_ms"]["p50"]),
        p99_ms=_interval(summaries, _p99),
        p99_cut=None if first is runs else _cut(first, runs),
        attainment=_interval(summaries, lambda one: one["slo"]["attainment"]),
        hit_rate=_interval(summaries, lambda one: one["adapters"]["hit_rate"]),
        verdicts=Counter(one["stability"]["verdict"] for one in summaries),
        tpot_mean_ms=_interval(summaries, lambda one: one["metrics"]["tpot_ms"]["mean"]),
        tpot_p99_ms=_interval(summaries, lambda one: one["metrics"]["tpot_ms"]["p99"]),
        throughput=_interval(summaries, lambda one: one["throughput"]["requests_per_s"]),
        settings=place[1],
        error=error,
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


def caption(run: Cell, reps: int, changes: Sequence[str] = ()) -> str:
    """Return what the runs of a sweep have in common, in one line: workload, size, seeds, model, GPU, changes."""
    varied = {key for key, _ in run.settings}
    return "; ".join([caption_of(run.task.loaded.config, reps, varied), *changes])


def caption_of(config: RunConfig, reps: int, varied: set[str] | frozenset[str] = frozenset()) -> str:
    """Return workload, size, seeds, model and GPU in one line, but for keys that are varied."""
    workload = config.workload
    source = workload.preset if workload.trace is None else Path(workload.trace).name
    requests = "all requests" if workload.requests is None else f"{workload.requests} requests"
    scale = "" if math.isclose(workload.scale, 1) else f", lengths / {workload.scale:g}"
    parts = {
        "workload.scale": f"workload {source}" + ("" if "workload.scale" in varied else scale),
        "workload.requests": f"{requests} per run",
        "seed": f"{reps} paired seeds" if reps > 1 else "one seed",
        "model": f"{config.model} on a simulated {config.hardware}",
    }
    if {"model", "hardware"} & varied:
        known = {"model": config.model, "hardware": f"a simulated {config.hardware}"}
        parts["model"] = next((text for key, text in known.items() if key not in varied), "")
    if "workload.requests" in varied:
        del parts["workload.requests"]
    return "; ".join(part for part in parts.values() if part)
