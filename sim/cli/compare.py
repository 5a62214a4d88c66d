"""`chameleon compare`: runs side by side, paired by seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options
from sim.texttable import change_text, interval_text, points, table

if TYPE_CHECKING:
    from sim.experiments.comparison import Row, Side
    from sim.experiments.gates import Verdict


REGRESSED = 1

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        metavar="RULE",
        help="Leave with exit code 1 if the change from the first run is beyond this, with confidence: "
        "--fail-if 'p99_ttft_ms > +5%' (repeatable).",
    ),
]


def compare(
    directories: Annotated[list[Path], typer.Argument(help="Run directories; the first is the baseline.")],
    fail_if: FailIf = None,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Compare runs with the first one, seed by seed, with 95 % intervals.

    A rule of --fail-if is METRIC > BOUND or METRIC < BOUND. The metrics are those of vllm_bench.json; the bound is a
    change from the first run, with its sign: a share of the first's value (+5%), or in the metric's unit (+20). The
    rule fails where the whole 95 % interval of that change, paired over two seeds or more, lies beyond the bound.
    """
    from sim.experiments.comparison import compare as rows_of  # noqa: PLC0415 - pandas is slow to import
    from sim.experiments.comparison import read_sides, shared_seeds  # noqa: PLC0415
    from sim.experiments.gates import judge, parse_gate  # noqa: PLC0415

    gates = [parse_gate(text) for text in fail_if or ()]
    if gates and len(directories) < 2:
        msg = "--fail-if compares with the first run; give one more"
        raise ValueError(msg)
    sides = read_sides(directories)
    seeds = shared_seeds(sides)
    rows = rows_of(sides)
    verdicts = list(judge(gates, sides, seeds)) if gates else []
    shown = _as_json(sides, seeds, rows, verdicts) if as_json else _text(sides, seeds, rows, verdicts)
    typer.echo(shown)
    for warning in _warnings(sides, seeds):
        typer.echo(f"warning: {warning}", err=True)
    if any(one.outcome == "fails" for one in verdicts):
        raise typer.Exit(REGRESSED)


def _warnings(sides: list[Side], seeds: list[int]) -> list[str]:
    from sim.experiments.comparison import is_paired  # noqa: PLC0415
    from sim.results.remarks import cpu_warnings  # noqa: PLC0415 - pydantic is slow to import

    found = cpu_warnings(run.summary for side in sides for run in side.runs.values())
    if not is_paired(sides, seeds):
        found.append("the runs differ in more than the system (workload, load generator, model or hardware)")
    if len(seeds) > 1 and any(side.runs[seeds[0]].config["workload"]["trace"] is not None for side in sides):
        found.append("seeds of a trace file vary little of its traffic: intervals say nothing about other traffic")
    left_out = sorted(set().union(*(side.runs for side in sides)) - set(seeds))
    if left_out:
        found.append(f"seeds that not all have are left out: {', '.join(map(str, left_out))}")
    unstable = [f"{side.label}: {_verdicts(side, seeds)}" for side in sides if _verdicts(side, seeds) != "stable"]
    if unstable:
        found.append(f"a P99 from a queue that is not stable depends on how long the run was ({'; '.join(unstable)})")
    return found


def _text(sides: list[Side], seeds: list[int], rows: list[Row], verdicts: list[Verdict]) -> str:
    header = ["", sides[0].label]
    for side in sides[1:]:
        header += [side.label, "change"]
    body = [_cells(row) for row in rows]
    counts = ", ".join(f"{side.label} {_counts(side, seeds)}" for side in sides)
    title = f"{len(seeds)} paired seed{'s' if len(seeds) > 1 else ''}; completed of offered requests: {counts}"
    return "\n".join([title, table(header, body), *(_footnote(side, seeds) for side in sides), *map(str, verdicts)])


def _cells(row: Row) -> list[str]:
    most = 100.0 if "%" in row.label else None
    cells = [row.label, interval_text(row.intervals[0], most=most)]
    for interval, against in zip(row.intervals[1:], row.against_first[1:], strict=True):
        if against is None:
            change = "-"
        elif "%" in row.label:
            change = points(against.difference)
        else:
            change = change_text(against.reduction)
        cells += [interval_text(interval, most=most), change]
    return cells


def _footnote(side: Side, seeds: list[int]) -> str:
    from sim.experiments.comparison import p99_band_ms  # noqa: PLC0415

    told = f"{side.label}: queue {_verdicts(side, seeds)}"
    band = p99_band_ms(side, seeds[0])
    if band is None:
        return f"{told}; no request was completed"
    bounds = "too few for an interval"
    if band.low is not None and band.high is not None:
        bounds = f"[{band.low:.0f}, {band.high:.0f}] ms"
    within = f"P99 TTFT within seed {seeds[0]} alone, as if requests were independent (too narrow): {bounds}"
    return f"{told}; {within}, n = {band.n}"


def _verdicts(side: Side, seeds: list[int]) -> str:
    counts = Counter(str(side.runs[seed].summary["stability"]["verdict"]) for seed in seeds)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {one}" for one, n in sorted(counts.items()))


def _counts(side: Side, seeds: list[int]) -> str:
    requests = [side.runs[seed].summary["requests"] for seed in seeds]
    return f"{sum(one['completed'] for one in requests)}/{sum(one['offered'] for one in requests)}"


def _as_json(sides: list[Side], seeds: list[int], rows: list[Row], verdicts: list[Verdict]) -> str:
    from dataclasses import asdict  # noqa: PLC0415

    content: dict[str, object] = {
        "seeds": seeds,
        "systems": [side.label for side in sides],
        "completed_of_offered": [_counts(side, seeds) for side in sides],
        "queues": [_verdicts(side, seeds) for side in sides],
        "rows": [
            {
                "metric": row.label,
                "systems": [None if one is None else asdict(one) for one in row.intervals],
                "against_first": [None if one is None else asdict(one) for one in row.against_first],
            }
            for row in rows
        ],
    }
    content["rules"] = [
        {
            **one.gate._asdict(),
            "system": one.label,
            "change": None if one.change is None else asdict(one.change),
            "outcome": one.outcome,
        }
        for one in verdicts
    ]
    return json.dumps(content, indent=2)
