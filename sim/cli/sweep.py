"""`chameleon sweep`: systems against load and any other key, as a table, files and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from sim.cli.trace_notes import tell_of_rows, tell_of_seeds, varied
from sim.texttable import change_text, interval_text, table

if TYPE_CHECKING:
    from sim.experiments.axes import Axis
    from sim.experiments.sweep import Cell, Outcome, Row

DEFAULT_SYSTEMS = ("slora", "chameleon")
DEFAULT_RATES = "5,6,7,8,8.5,9,10,11,12"
FAILED = 1

Systems = Annotated[
    list[str] | None,
    typer.Option(
        "--system", "-s", help="System or file (repeatable); the first is the baseline. [default: slora, chameleon]"
    ),
]
Rates = Annotated[
    str | None,
    typer.Option(
        "--rates",
        help="Requests per second: a list, or start:stop:step. "
        f"[default: {DEFAULT_RATES}; with --vary the workload's own]",
    ),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="KEY=V1,V2",
        help="One more axis, any key of the configuration: --vary adapters.slots=8,16,32 (repeatable).",
    ),
]
OutTree = Annotated[
    Path | None,
    typer.Option("--out", "-o", "--result-dir", help="Keep every run below this folder, and go on from what is there."),
]
Picture = Annotated[Path | None, typer.Option("--figure", help="Draw the curves into this .svg, .png or .pdf.")]
Map = Annotated[
    Path | None,
    typer.Option("--heat-map", help="Draw P99 TTFT over two axes into this .svg, .png or .pdf, a panel per system."),
]
Title = Annotated[str | None, typer.Option("--title", help="Title of the pictures.")]
Part = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Make only the I-th of N parts of the runs; without it, the table is made last."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the runs and what is left to do; simulate nothing.")]


def sweep(  # noqa: PLR0913, PLR0917 - one argument for each flag
    systems: Systems = None,
    rates: Rates = None,
    vary: Vary = None,
    reps: options.Reps = 5,
    workload: options.Workload = None,
    trace: options.TraceFile = None,
    requests: options.Requests = None,
    scale: options.Scale = None,
    seed: options.OwnSeed = None,
    hardware: options.Hardware = None,
    model: options.ModelName = None,
    sets: options.Sets = None,
    out: OutTree = None,
    shard: Part = None,
    figure: Picture = None,
    heat_map: Map = None,
    title: Title = None,
    jobs: options.Jobs = -1,
    *,
    dry_run: DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Put systems, loads and any other settings against one another; all systems see the same requests.

    With --out it can be interrupted: the same command goes on from the runs that are finished. A run that fails loses
    no other: it is told at the end, and the command leaves with exit code 1. A FILE.yaml holds flags without their
    dashes, such as `rates: 6:12:2` and `vary: {adapters.slots: [8, 16]}`; flags given beside it win, repeatable ones
    are added.
    """
    from sim.cli.sweep_pictures import check_pictures, draw  # noqa: PLC0415
    from sim.experiments.axes import parse_axes  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.experiments.sweep import caption, cells  # noqa: PLC0415
    from sim.files.output import check_folder  # noqa: PLC0415

    axes = parse_axes(vary or (), sets or ())
    chosen = _rates(rates, axes)
    check_pictures(figure, heat_map, chosen, axes)
    extra = options.overrides(workload, trace, None, requests, scale, seed, hardware, model)
    names = systems or DEFAULT_SYSTEMS
    whole = cells(names, chosen, reps, changes=sets or (), extra=extra, axes=axes, out=out)
    plan = _part(whole, shard, out)
    faults = _faults(plan, extra)
    if dry_run:
        typer.echo(_planned(plan, faults, as_json=as_json))
        return
    if out is not None:
        check_folder(out, out)
    finished = _finished(plan, jobs)
    if not finished:
        raise KeyboardInterrupt
    note = caption(plan[0], reps, sets or ())
    found = _told(finished, plan, whole, note, as_json=as_json)
    tell_of_seeds(varied(plan[0].task.loaded, reps))
    is_failed = _tell_failures(finished)
    if out is not None and shard is None:
        _keep(found, out)
    if shard is None and any(row.p99_ms is not None for row in found):  # a part has not all of a picture
        draw(found, figure, heat_map, title, note)
    if is_failed:
        raise typer.Exit(FAILED)


def _rates(rates: str | None, axes: tuple[Axis, ...]) -> tuple[float | None, ...]:
    from sim.experiments.axes import parse_rates  # noqa: PLC0415

    if rates is None and axes:
        return (None,)
    return parse_rates(rates or DEFAULT_RATES)


def _part(plan: list[Cell], shard: str | None, out: Path | None) -> list[Cell]:
    from sim.experiments.axes import parse_shard  # noqa: PLC0415

    if shard is None:
        return plan
    if out is None:
        msg = "--shard keeps its runs for the table that is made last, and needs --out"
        raise ValueError(msg)
    part, parts = parse_shard(shard)
    found = plan[part - 1 :: parts]
    if not found:
        msg = f"--shard {shard}: there are only {len(plan)} runs"
        raise ValueError(msg)
    return found


def _faults(plan: list[Cell], extra: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with configurations that cannot run, by cell.

    Raises:
        ConfigError: if none can.
    """
    from sim.cli.loading import check  # noqa: PLC0415
    from sim.files.yamlfile import ConfigError  # noqa: PLC0415

    faults: dict[str, ConfigError] = {}
    distinct = {str(cell): cell for cell in plan}
    for name, cell in distinct.items():
        try:
            check(cell.task.loaded, extra)
        except ConfigError as error:
            faults[name] = error
    if len(faults) == len(distinct):
        raise next(iter(faults.values()))
    return {name: str(error) for name, error in faults.items()}


def _planned(plan: list[Cell], faults: dict[str, str], *, as_json: bool) -> str:
    from sim.experiments.replications import finished  # noqa: PLC0415

    lines = []
    for cell in plan:
        task = cell.task
        state = faults.get(str(cell)) or ("finished" if finished(task) is not None else "to run")
        line = {"system": cell.system, "rate_per_s": f"{cell.rate_per_s:g}", **dict(cell.settings)}
        lines.append(
            line | {"seed": str(task.loaded.config.seed), "state": state, "directory": str(task.directory or "-")}
        )
    if as_json:
        return json.dumps(lines, indent=2)
    left = sum(line["state"] == "to run" for line in lines)
    head = f"{len(plan)} runs, {left} to run, {len(faults)} of {len({str(cell) for cell in plan})} cells cannot run"
    return f"{head}\n{table(list(lines[0]), [list(line.values()) for line in lines])}"


def _finished(plan: list[Cell], jobs: int) -> list[tuple[Cell, Outcome]]:
    """Return each run with its outcome, up to where the user interrupted."""
    from sim.experiments.sweep import attempt_cells  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    finished: list[tuple[Cell, Outcome]] = []
    try:
        with progress(len(plan), "sweep") as bar:
            for one in attempt_cells(plan, jobs):
                finished.append(one)
                bar.advance()
    except KeyboardInterrupt:
        typer.echo(f"{len(finished)} of {len(plan)} runs are finished", err=True)
    return finished


def _told(
    finished: list[tuple[Cell, Outcome]], plan: list[Cell], whole: list[Cell], note: str, *, as_json: bool
) -> list[Row]:
    """Print the table and return its rows.

    Raises:
        KeyboardInterrupt: if runs are missing.
    """
    from sim.cli.origins import tell_origins  # noqa: PLC0415
    from sim.experiments.sweep import is_of_one_system, rows  # noqa: PLC0415

    found, missing, first_cell = rows(finished, whole), len(plan) - len(finished), whole[0]
    settings = ", ".join(value for _, value in first_cell.settings)
    beside = settings if settings and is_of_one_system(whole) else first_cell.system
    summaries = [outcome for _, outcome in finished if isinstance(outcome, dict)]
    for first in summaries[:1]:
        tell_of_rows(first, plan[0].task.loaded.config.workload)
    tell_origins(summaries)
    is_whole = len(finished) == len(whole)
    typer.echo(_as_json(found, note, is_whole=is_whole) if as_json else _text(found, note, missing, beside))
    if missing:
        raise KeyboardInterrupt
    return found


def _keep(found: list[Row], out: Path) -> None:
    from sim.experiments.sweep_table import write_table  # noqa: PLC0415

    typer.echo(f"written to {write_table(found, out)} and sweep.parquet", err=True)


def _tell_failures(finished: list[tuple[Cell, Outcome]]) -> bool:
    """Say which cells failed and why; whether any did."""
    failed: dict[tuple[str, str], list[int]] = {}
    for cell, outcome in finished:
        if not isinstance(outcome, dict):
            failed.setdefault((str(cell), outcome.reason), []).append(cell.task.loaded.config.seed)
    for (cell_name, reason), seeds in failed.items():
        which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        typer.echo(f"error: {cell_name}, {which}: {reason}", err=True)
    if failed:
        lost = sum(map(len, failed.values()))
        typer.echo(f"{lost} of {len(finished)} runs failed; the others are in the table", err=True)
    return bool(failed)


def _text(found: list[Row], note: str, missing: int, beside: str) -> str:
    keys = [key for key, _ in found[0].settings]
    slo = next((f" <= {row.slo_s:g} s" for row in found if row.slo_s is not None), "")
    measures = ["P50 TTFT (ms)", "P99 TTFT (ms)", f"P99 vs {beside}", f"TTFT{slo} (%)", "queue"]
    width = max(len(row.system) for row in found)
    body, before = [], None
    for row in found:
        place = [f"{row.rate_per_s:g}", *(value for _, value in row.settings)]
        body.append([*_new(place, before), row.system.ljust(width), *_cells(row)])
        before = place
    runs = next((row for row in found if row.seeds), None)
    n = "" if runs is None else f"; n = {runs.offered // len(runs.seeds)} requests per percentile"
    partial = [f"{missing} runs are missing: rows may have fewer seeds"] if missing else []
    return "\n".join([f"{note}; mean [95 % interval]{n}", *partial, table(["req/s", *keys, "system", *measures], body)])


def _new(place: list[str], before: list[str] | None) -> list[str]:
    """Return what differs from the row above, from the first difference on."""
    if before is None:
        return place
    same = next((at for at, (one, other) in enumerate(zip(place, before, strict=True)) if one != other), len(place))
    return ["" if at < same else text for at, text in enumerate(place)]


def _cells(row: Row) -> list[str]:
    attainment = "-" if row.attainment is None else f"{100 * row.attainment.estimate:.1f}"
    verdicts = sorted(row.verdicts)
    queue = "".join(verdicts) if len(verdicts) < 2 else ", ".join(f"{row.verdicts[one]} {one}" for one in verdicts)
    change = change_text(row.p99_cut)
    told = queue if row.error is None else f"{queue}, failed".removeprefix(", ")
    return [interval_text(row.p50_ms), interval_text(row.p99_ms), change, attainment, told]


def _as_json(found: list[Row], note: str, *, is_whole: bool) -> str:
    from sim.experiments.sweep_table import records  # noqa: PLC0415

    return json.dumps({"note": note, "complete": is_whole, "rows": list(records(found))}, indent=2)
