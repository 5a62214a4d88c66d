"""`chameleon run`: simulate one system, print its numbers in vLLM's words, write a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options

if TYPE_CHECKING:
    from sim.summary import Summary


def run(  # noqa: PLR0913, PLR0917 - one argument for each flag
    file: Annotated[Path | None, typer.Argument(help="System file; in place of --system.")] = None,
    system: options.System = "chameleon",
    workload: options.Workload = None,
    trace: options.TraceFile = None,
    rate: options.Rate = None,
    requests: options.Requests = None,
    scale: options.Scale = None,
    seed: options.Seed = 0,
    reps: options.Reps = 1,
    hardware: options.Hardware = None,
    model: options.ModelName = None,
    sets: options.Sets = None,
    out: options.Out = None,
    jobs: options.Jobs = 1,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Simulate one system and print its numbers.

    A directory given with --out that holds the very same run is read, not simulated again.
    """
    from sim.config import load_config  # noqa: PLC0415 - pandas and pydantic are slow to import
    from sim.progress import progress  # noqa: PLC0415
    from sim.replications import perform_all, replication_tasks  # noqa: PLC0415

    extra = options.overrides(workload, trace, rate, requests, scale, seed, hardware, model)
    loaded = load_config(system if file is None else file, sets or (), extra)
    tasks = replication_tasks(loaded, reps, out)
    summaries = []
    with progress(len(tasks), loaded.config.name) as bar:
        for summary in perform_all(tasks, jobs):
            summaries.append(summary)
            bar.advance()
    _warn(summaries)
    _show(summaries, out, as_json=as_json)


def _warn(summaries: list[Summary]) -> None:
    verdicts = sorted({summary["stability"]["verdict"] for summary in summaries} - {"stable"})
    for verdict in verdicts:
        typer.echo(f"warning: the queue is {verdict}; a P99 from it depends on how long the run was", err=True)
    for warning in summaries[0].get("costs", {}).get("warnings", ()):
        typer.echo(f"warning: {warning}", err=True)


def _show(summaries: list[Summary], out: Path | None, *, as_json: bool) -> None:
    from sim.replications import aggregate  # noqa: PLC0415
    from sim.results import vllm_style_report  # noqa: PLC0415

    if len(summaries) == 1:
        typer.echo(json.dumps(summaries[0], indent=2) if as_json else vllm_style_report(summaries[0]))
    else:
        content = aggregate(summaries)
        if out is not None:
            _write(out / "replications.json", content)
        typer.echo(json.dumps(content, indent=2) if as_json else _table(content))
    if out is not None:
        typer.echo(f"written to {out}", err=True)


def _table(content: dict[str, Any]) -> str:
    lines = [f"{content['system']}: mean over {len(content['seeds'])} replications, 95 % interval"]
    for metric, statistics in content["metrics"].items():
        for name in ("mean", "p50", "p90", "p99"):
            one = statistics.get(name)
            if one is not None:
                label = f"{name.upper() if name[0] == 'p' else 'Mean'} {metric.removesuffix('_ms').upper()} (ms):"
                lines.append(f"{label:<40} {one['mean']:<10.2f} [{one['ci95_low']:.2f}, {one['ci95_high']:.2f}]")
    return "\n".join(lines)


def _write(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
