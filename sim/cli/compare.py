"""`chameleon compare`: runs side by side, paired by seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options
from sim.cli.tables import interval_text, table

if TYPE_CHECKING:
    from sim.comparison import Row, Side


def compare(
    directories: Annotated[list[Path], typer.Argument(help="Run directories; the first is the baseline.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Compare runs with the first one, seed by seed, with 95 % intervals."""
    from sim.comparison import compare as rows_of  # noqa: PLC0415 - pandas is slow to import
    from sim.comparison import is_paired, p99_band_ms, read_side, shared_seeds  # noqa: PLC0415

    sides = [read_side(directory) for directory in directories]
    seeds = shared_seeds(sides)
    rows = rows_of(sides)
    if not is_paired(sides, seeds):
        typer.echo("warning: the runs differ in more than the system (workload, model or hardware)", err=True)
    if as_json:
        typer.echo(json.dumps(_as_json(sides, seeds, rows), indent=2))
        return
    typer.echo(_text(sides, seeds, rows))
    for side in sides:
        band = p99_band_ms(side, seeds[0])
        bounds = "no interval, too few" if band.low is None else f"[{band.low:.0f}, {band.high:.0f}]"
        verdict = side.runs[seeds[0]].summary["stability"]["verdict"]
        typer.echo(f"{side.label}: P99 TTFT of seed {seeds[0]} alone {bounds} ms, n = {band.n}; queue {verdict}")


def _text(sides: list[Side], seeds: list[int], rows: list[Row]) -> str:
    header = ["", sides[0].label]
    for side in sides[1:]:
        header += [side.label, "change"]
    body = []
    for row in rows:
        cells = [row.label, interval_text(row.intervals[0])]
        for interval, against in zip(row.intervals[1:], row.against_first[1:], strict=True):
            reduction = None if against is None else against.reduction
            cells += [interval_text(interval), interval_text(reduction, percent_change=True)]
        body.append(cells)
    counts = ", ".join(f"{side.label} {_counts(side, seeds)}" for side in sides)
    title = f"{len(seeds)} paired seed{'s' if len(seeds) > 1 else ''}; completed of offered requests: {counts}"
    return f"{title}\n{table(header, body)}"


def _counts(side: Side, seeds: list[int]) -> str:
    requests = [side.runs[seed].summary["requests"] for seed in seeds]
    return f"{sum(one['completed'] for one in requests)}/{sum(one['offered'] for one in requests)}"


def _as_json(sides: list[Side], seeds: list[int], rows: list[Row]) -> dict[str, object]:
    from dataclasses import asdict  # noqa: PLC0415

    return {
        "seeds": seeds,
        "systems": [side.label for side in sides],
        "rows": [
            {
                "metric": row.label,
                "systems": [None if one is None else asdict(one) for one in row.intervals],
                "against_first": [None if one is None else asdict(one) for one in row.against_first],
            }
            for row in rows
        ],
    }
