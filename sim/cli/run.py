"""`chameleon run`: simulate one system, print its numbers in vLLM's words, write a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from sim.cli.loading import load_checked

if TYPE_CHECKING:
    from sim.replications import Task
    from sim.summary import Summary
    from sim.workload import WorkloadConfig

FEW = 100  # requests below which a P99 is no more than their maximum
NOT_SYSTEMS = (".csv", ".jsonl", ".json", ".gz")


def run(  # noqa: PLR0913, PLR0917 - one argument for each flag
    file: Annotated[str | None, typer.Argument(help="System or YAML file; in place of --system.")] = None,
    system: options.System = None,
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

    What a directory given with --out already holds of the very same run is read, not simulated again.
    """
    from sim.replications import replication_tasks  # noqa: PLC0415 - pandas and pydantic are slow to import

    extra = options.overrides(workload, trace, rate, requests, scale, seed, hardware, model)
    loaded = load_checked(_named(file, system), sets, extra)
    summaries = _performed(replication_tasks(loaded, reps, out), loaded.config.name, jobs)
    _show(summaries, out, as_json=as_json)
    _tell(summaries, loaded.config.workload)
    if out is not None:
        typer.echo(f"written to {out}", err=True)


def _named(file: str | None, system: str | None) -> str:
    if file is not None and system is not None:
        msg = f"two systems are given, {file!r} and --system {system!r}; one is allowed"
        raise ValueError(msg)
    if file is not None and file.endswith(NOT_SYSTEMS):
        msg = f"{file} is no system file (.yaml); a trace is given by --trace {file}"
        raise ValueError(msg)
    return file or system or "chameleon"


def _performed(tasks: list[Task], name: str, jobs: int) -> list[Summary]:
    from sim.progress import progress  # noqa: PLC0415
    from sim.replications import finished, perform_all  # noqa: PLC0415

    kept = sum(finished(task) is not None for task in tasks)
    if kept:
        which = "this very run is" if len(tasks) == 1 else f"{kept} of {len(tasks)} runs are"
        typer.echo(f"{which} read from an earlier start, not simulated again", err=True)
    summaries = []
    with progress(len(tasks), name) as bar:
        for summary in perform_all(tasks, jobs):
            summaries.append(summary)
            bar.advance()
    return summaries


def _tell(summaries: list[Summary], workload: WorkloadConfig) -> None:
    """Say on standard error what a reader of the numbers must know."""
    from sim.cli.origins import tell_origins  # noqa: PLC0415 - pydantic is slow to import

    first = summaries[0]
    for remark in _remarks(first, workload):
        typer.echo(f"note: {first['workload']}: {remark}", err=True)
    tell_origins(summaries)
    for warning in dict.fromkeys(text for summary in summaries for text in _warnings(summary)):
        typer.echo(f"warning: {warning}", err=True)


def _remarks(summary: Summary, workload: WorkloadConfig) -> list[str]:
    """Return what became of the rows of a trace file."""
    if workload.trace is None:
        return []
    found = [options.note(what, rows) for what, rows in summary.get("trace_notes", ()) if rows]
    offered = summary["requests"]["offered"]
    if workload.requests is not None and offered < workload.requests:
        found.append(f"{offered} requests, because the file holds no more; {workload.requests} were asked for")
    return found


def _warnings(summary: Summary) -> list[str]:
    found = [f"outside its range: {warning}" for warning in summary["costs"]["warnings"]]
    rejected, offered = summary["requests"]["rejected"], summary["requests"]["offered"]
    if rejected:
        share = "all" if rejected == offered else f"{rejected} of"
        found.append(f"{share} {offered} requests were rejected; the first: {summary.get('first_rejection')}")
    completed = summary["metrics"]["ttft_ms"]["n"]
    if 0 < completed < FEW:
        found.append(f"P99 of {completed} requests is little more than their maximum")
    verdict = summary["stability"]["verdict"]
    if verdict != "stable":
        found.append(f"the queue is {verdict}; a P99 from it depends on how long the run was")
    return found


def _show(summaries: list[Summary], out: Path | None, *, as_json: bool) -> None:
    from sim.replications import AGGREGATE, aggregate  # noqa: PLC0415
    from sim.results import vllm_style_report  # noqa: PLC0415

    if len(summaries) == 1:
        typer.echo(json.dumps(summaries[0], indent=2) if as_json else vllm_style_report(summaries[0]))
        return
    content = aggregate(summaries)
    if out is not None:
        _write(out / AGGREGATE, content)
    typer.echo(json.dumps(content, indent=2) if as_json else _table(content))


def _table(content: dict[str, Any]) -> str:
    requests = content["requests"]
    lines = [
        f"{content['system']}: mean over {len(content['seeds'])} replications, 95 % interval",
        f"{'Successful requests, all seeds:':<40} {requests['completed']} of {requests['offered']}",
        _interval("Request throughput (req/s):", content["throughput"]["requests_per_s"]),
    ]
    for metric, statistics in content["metrics"].items():
        for name in ("mean", "p50", "p90", "p99"):
            label = f"{name.upper() if name[0] == 'p' else 'Mean'} {metric.removesuffix('_ms').upper()} (ms):"
            lines.append(_interval(label, statistics.get(name)))
    verdicts = {verdict: content["stability"].count(verdict) for verdict in sorted(set(content["stability"]))}
    queue = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    hits = _interval("Adapter hit rate (%):", content["adapters"]["hit_rate"], factor=100)
    return "\n".join([*lines, hits, f"{'Queue:':<40} {queue}"])


def _interval(label: str, one: dict[str, float] | None, *, factor: float = 1) -> str:
    if one is None:
        return f"{label:<40} {'nan':<10}"
    mean, low, high = (factor * one[name] for name in ("mean", "ci95_low", "ci95_high"))
    return f"{label:<40} {mean:<10.2f} [{low:.2f}, {high:.2f}]"


def _write(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
