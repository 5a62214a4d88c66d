"""Measures as text: every run of a set in a line, and every metric's errors by load region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from sim.fidelity.aims import aim_of, verdict
from sim.fidelity.measures import NO_LOAD, REGIONS, Measure, errors

SHOWN_ROWS = 40  # of a set; more are in the JSON file
Grid = tuple[list[str], list[list[str]]]  # header and rows


def sets_of(measures: Iterable[Measure]) -> dict[str, list[Measure]]:
    """Return measures by set, sets in order of their first measure."""
    found: dict[str, list[Measure]] = {}
    for one in measures:
        found.setdefault(one.set, []).append(one)
    return found


def metrics_of(measures: Sequence[Measure]) -> list[str]:
    """Return the metrics that something was promised of; where nothing was, all of them."""
    promised = [one.metric for one in measures if aim_of(one) is not None]
    return list(dict.fromkeys(promised or [one.metric for one in measures]))


def rows_grid(measures: Sequence[Measure]) -> Grid:
    """Return one line a run of a set: region, and of every metric measured, simulated and the error."""
    runs: dict[tuple[str, str], dict[str, Measure]] = {}
    for one in measures:
        runs.setdefault((one.row, one.region), {})[one.metric] = one
    metrics = metrics_of(measures)
    header = ["run", "load", *(word for name in metrics for word in (name, "simulated", "error"))]
    return header, [[row, region, *_cells(run, metrics)] for (row, region), run in runs.items()]


def _cells(run: dict[str, Measure], metrics: Sequence[str]) -> Iterator[str]:
    for name in metrics:
        one = run.get(name)
        yield from ("-", "-", "-") if one is None else (_number(one.measured), _number(one.simulated), _percent(one))


def _percent(measure: Measure) -> str:
    mark = "" if aim_of(measure) is not None else "*"
    return f"{100 * measure.relative_error:+.1f} %{mark}"


def errors_grid(measures: Sequence[Measure]) -> Grid:
    """Return one line for each metric and load region of a set, and one for all regions: errors and the aim."""
    header = ["metric", "load", "runs", "mean size", "median", "largest", "bias", "aim", "within"]
    rows: list[list[str]] = []
    finite = [one for one in measures if math.isfinite(one.relative_error)]
    for metric in dict.fromkeys(one.metric for one in finite):
        own = [one for one in finite if one.metric == metric]
        regions = [region for region in (*REGIONS, NO_LOAD) if any(one.region == region for one in own)]
        rows += [_errors_row(metric, region, [one for one in own if one.region == region]) for region in regions]
        if len(regions) > 1:
            rows.append(_errors_row(metric, "all", own))
    return header, rows


def _errors_row(metric: str, region: str, measures: Sequence[Measure]) -> list[str]:
    found, judged = errors(measures), verdict(measures)
    sizes = (found.mean_abs, found.median_abs, found.max_abs)
    aim = ["-", "-"] if judged is None else [f"{100 * judged.aim:g} %", f"{judged.within} of {judged.judged}"]
    told = [f"{100 * size:.1f} %" for size in sizes]
    return [metric, region, str(found.pairs), *told, f"{100 * found.bias:+.1f} %", *aim]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
