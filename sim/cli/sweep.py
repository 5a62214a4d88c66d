"""`chameleon sweep`: time to first token of several systems against load, as a table, a CSV file and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options
from sim.cli.tables import interval_text, table

if TYPE_CHECKING:
    from sim.summary import Summary
    from sim.sweep import Cell, Row

DEFAULT_SYSTEMS = ("slora", "chameleon")

Systems = Annotated[
    list[str] | None,
    typer.Option(
        "--system", "-s", help="System or file (repeatable); the first is the baseline. [default: slora, chameleon]"
    ),
]
Rates = Annotated[str, typer.Option("--rates", help="Requests per second: a list, or start:stop:step.")]
OutTree = Annotated[
    Path | None,
    typer.Option("--out", "-o", "--result-dir", help="Keep every run below this folder, and go on from what is there."),
]
Picture = Annotated[Path | None, typer.Option("--figure", help="Draw the curves into this .svg, .png or .pdf.")]
Title = Annotated[str, typer.Option("--title", help="Title of the picture.")]


def sweep(  # noqa: PLR0913, PLR0917 - one argument for each flag
    systems: Systems = None,
    rates: Rates = "5,6,7,8,8.5,9,10,11,12",
    reps: options.Reps = 5,
    workload: options.Workload = None,
    trace: options.TraceFile = None,
    requests: options.Requests = None,
    scale: options.Scale = None,
    seed: options.Seed = 0,
    hardware: options.Hardware = None,
    model: options.ModelName = None,
    sets: options.Sets = None,
    out: OutTree = None,
    figure: Picture = None,
    title: Title = "Time to first token against load",
    jobs: options.Jobs = -1,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Measure time to first token against load, for several systems that all see the same requests.

    With --out it can be interrupted: the same command goes on from the runs that are finished.
    """
    from sim.cli.origins import tell_origins  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.plots import check_picture  # noqa: PLC0415
    from sim.sweep import caption, cells, parse_rates, rows, write_csv  # noqa: PLC0415

    if figure is not None:
        check_picture(figure)
    extra = options.overrides(workload, trace, None, requests, scale, seed, hardware, model)
    plan = cells(systems or DEFAULT_SYSTEMS, parse_rates(rates), reps, changes=sets or (), extra=extra, out=out)
    finished = _finished(plan, jobs)
    if not finished:
        raise KeyboardInterrupt
    found, note = rows(finished), caption(plan[0], reps, sets or ())
    tell_origins(summary for _, summary in finished)
    is_whole = len(finished) == len(plan)
    typer.echo(_as_json(found, note, is_whole=is_whole) if as_json else _text(found, note, len(plan) - len(finished)))
    if not is_whole:
        raise KeyboardInterrupt
    if out is not None:
        write_csv(found, out / "sweep.csv")
        typer.echo(f"written to {out / 'sweep.csv'}", err=True)
    if figure is not None:
        _draw(found, figure, title, note)


def _finished(plan: list[Cell], jobs: int) -> list[tuple[Cell, Summary]]:
    """Return each run with its summary, up to where the user interrupted."""
    from sim.progress import progress  # noqa: PLC0415
    from sim.sweep import perform_cells  # noqa: PLC0415

    finished: list[tuple[Cell, Summary]] = []
    try:
        with progress(len(plan), "sweep") as bar:
            for one in perform_cells(plan, jobs):
                finished.append(one)
                bar.advance()
    except KeyboardInterrupt:
        typer.echo(f"{len(finished)} of {len(plan)} runs are finished", err=True)
    return finished


def _text(found: list[Row], note: str, missing: int) -> str:
    slo = "" if found[0].slo_s is None else f" <= {found[0].slo_s:g} s"
    header = [
        "req/s",
        "system",
        "P50 TTFT (ms)",
        "P99 TTFT (ms)",
        f"P99 vs {found[0].system}",
        f"TTFT{slo} (%)",
        "queue",
    ]
    width = max(len(row.system) for row in found)
    body, rate = [], None
    for row in found:
        load = "" if row.rate_per_s == rate else f"{row.rate_per_s:g}"
        body.append([load, row.system.ljust(width), *_cells(row)])
        rate = row.rate_per_s
    title = f"{note}; mean [95 % interval]; n = {found[0].offered // len(found[0].seeds)} requests per percentile"
    partial = [f"{missing} runs are missing: rows may have fewer seeds"] if missing else []
    return "\n".join([title, *partial, table(header, body)])


def _cells(row: Row) -> list[str]:
    attainment = "-" if row.attainment is None else f"{100 * row.attainment.estimate:.1f}"
    verdicts = sorted(row.verdicts)
    queue = verdicts[0] if len(verdicts) == 1 else ", ".join(f"{row.verdicts[one]} {one}" for one in verdicts)
    change = interval_text(row.p99_cut, percent_change=True)
    return [interval_text(row.p50_ms), interval_text(row.p99_ms), change, attainment, queue]


def _as_json(found: list[Row], note: str, *, is_whole: bool) -> str:
    from sim.sweep import records  # noqa: PLC0415

    return json.dumps({"note": note, "complete": is_whole, "rows": list(records(found))}, indent=2)


def _draw(found: list[Row], figure: Path, title: str, note: str) -> None:
    from sim.plots import save, ttft_vs_load  # noqa: PLC0415 - matplotlib is slow to import

    slos = {row.slo_s for row in found}
    picture = ttft_vs_load(found, slo_s=slos.pop() if len(slos) == 1 else None, title=title, note=note)
    save(picture, figure)
    typer.echo(f"drawn in {figure}", err=True)
