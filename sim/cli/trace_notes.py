"""What must be known of a trace file before numbers over its seeds or at other rates are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from sim.cli import options

if TYPE_CHECKING:
    from sim.config import Loaded
    from sim.results.summary import Summary
    from sim.workload.config import WorkloadConfig


def tell_of_rows(summary: Summary, workload: WorkloadConfig) -> None:
    """Say on standard error what became of a workload's rows, but for what a preset says of itself."""
    for remark in _remarks(summary, workload):
        typer.echo(f"note: {summary['workload']}: {remark}", err=True)


def _remarks(summary: Summary, workload: WorkloadConfig) -> list[str]:
    from sim.workload.config import notes_to_tell  # noqa: PLC0415 - numpy and pydantic are slow to import

    notes = notes_to_tell(workload, summary.get("trace_notes", ()))
    found = [options.note(what, rows) for what, rows in notes]
    offered = summary["requests"]["offered"]
    is_short = workload.requests is not None and offered < workload.requests
    if workload.trace is not None and is_short and not any("dropped" in what for what, _ in notes):
        found.append(f"{offered} requests, because the file holds no more; {workload.requests} were asked for")
    return found


def varied(loaded: Loaded, reps: int) -> list[str] | None:
    """Return what the seeds of a trace file vary; None for another workload or a single seed."""
    from sim.experiments.replications import varied_parts  # noqa: PLC0415 - numpy and pydantic are slow to import

    is_file = loaded.config.workload.trace is not None
    return [*varied_parts(loaded), "predictions"] if is_file and reps > 1 else None


def tell_of_seeds(parts: list[str] | None, advice: str = "") -> None:
    """Say on standard error that seeds of a trace file are hardly replications.

    Args:
        parts: see `varied`.
        advice: what to do instead.
    """
    if parts is None:
        return
    named = " and ".join([", ".join(parts[:-1]), parts[-1]]).removeprefix(" and ")
    told = f"seeds of a trace file vary only {named}: their intervals say nothing about other traffic and are far "
    typer.echo("; ".join(filter(None, (f"note: {told}too narrow", advice))), err=True)


def tell_of_stamps(loaded: Loaded) -> None:
    """Say on standard error what a search makes of a trace file: its first rows, and rates without its stamps."""
    workload = loaded.config.workload
    if workload.trace is not None and workload.requests is not None:
        where = "" if workload.between_s is None else " of that time"
        told = f"the first {workload.requests} requests of the file{where} at most"
        typer.echo(f"note: {told}; --set workload.between_s=[FROM,TO] takes another stretch", err=True)
    if workload.trace is None or workload.arrivals is None or workload.arrivals.family == "trace":
        return
    typer.echo(
        f"note: arrivals are drawn ({workload.arrivals.family}), not those of the file; "
        "--set workload.arrivals=trace stretches its own stamps to each rate",
        err=True,
    )
