"""`chameleon run`: simulate one system, print its numbers in vLLM's words, write a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from sim.cli.loading import load_checked
from sim.cli.trace_notes import tell_of_rows, tell_of_seeds, varied

if TYPE_CHECKING:
    from sim.experiments.replications import Part, Task, Wanted
    from sim.results.summary import Summary
    from sim.workload.making import WorkloadConfig

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
    seed: options.OwnSeed = None,
    reps: options.Reps = 1,
    hardware: options.Hardware = None,
    model: options.ModelName = None,
    sets: options.Sets = None,
    out: options.Out = None,
    jobs: options.Jobs = 1,
    goodput: options.Goodput = None,
    label: options.Label = None,
    max_concurrency: options.MaxConcurrency = None,
    *,
    save_detailed: options.SaveDetailed = False,
    timeline: options.Timeline = False,
    bootstrap: options.Bootstrap = False,
    as_json: options.AsJson = False,
) -> None:
    """Simulate one system and print its numbers.

    What a directory given with --out already holds of the very same run is read, not simulated again. With --reps the
    intervals over seeds are in its replications.json; the summary.json of one run has none.
    """
    from sim.experiments.replications import replication_tasks  # noqa: PLC0415 - pandas and pydantic are slow to import

    wanted = _wanted(goodput, label, out, {"detailed": save_detailed, "bootstrap": bootstrap, "timeline": timeline})
    extra = options.overrides(workload, trace, rate, requests, scale, seed, hardware, model)
    extra["client"] = {"max_concurrency": max_concurrency}
    loaded = load_checked(_named(file, system), sets, extra)
    summaries = _performed(replication_tasks(loaded, reps, out, wanted), loaded.config.name, jobs)
    parts = varied(loaded, reps)
    _show(summaries, out, parts, as_json=as_json)
    _tell(summaries, loaded.config.workload)
    tell_of_seeds(parts, "--bootstrap gives intervals over blocks of its time")
    if out is not None:
        typer.echo(f"written to {out}", err=True)


def _wanted(goodput: list[str] | None, label: str | None, out: Path | None, parts: dict[Part, bool]) -> Wanted:
    from sim.experiments.replications import Wanted  # noqa: PLC0415

    files = (
        ("--save-detailed", parts["detailed"], "vllm_bench.json"),
        ("--label", label is not None, "vllm_bench.json"),
        ("--timeline", parts["timeline"], "timeline.json.gz"),
    )
    for flag, given, name in files:
        if given and out is None:
            msg = f"{flag} is about a file that is written, {name}, and needs --out"
            raise ValueError(msg)
    return Wanted(label, options.goodput_bounds(goodput), frozenset(name for name, given in parts.items() if given))


def _named(file: str | None, system: str | None) -> str:
    if file is not None and system is not None:
        msg = f"two systems are given, {file!r} and --system {system!r}; one is allowed"
        raise ValueError(msg)
    if file is not None and file.endswith(NOT_SYSTEMS):
        msg = f"{file} is no system file (.yaml); a trace is given by --trace {file}"
        raise ValueError(msg)
    return file or system or "chameleon"


def _performed(tasks: list[Task], name: str, jobs: int) -> list[Summary]:
    from sim.experiments.replications import finished, perform_all  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    kept = sum(finished(task) is not None for task in tasks)
    if kept:
        which = "this very run is" if len(tasks) == 1 else f"{kept} of {len(tasks)} runs are"
        typer.echo(f"{which} read from an earlier start, not simulated again", err=True)
    there = [task.directory for task in tasks if task.directory is not None and (task.directory / "DONE").exists()]
    if len(there) > kept:
        number = "1 finished run" if len(there) - kept == 1 else f"{len(there) - kept} finished runs"
        typer.echo(f"note: {number} of another configuration or source will be replaced", err=True)
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
    tell_of_rows(first, workload)
    tell_origins(summaries)
    for warning in dict.fromkeys(text for summary in summaries for text in _warnings(summary)):
        typer.echo(f"warning: {warning}", err=True)


def _warnings(summary: Summary) -> list[str]:
    found = []
    rejected, offered = summary["requests"]["rejected"], summary["requests"]["offered"]
    if rejected:
        share = "all" if rejected == offered else f"{rejected} of"
        found.append(f"{share} {offered} requests were rejected; the first: {summary.get('first_rejection')}")
    if summary["client"]["max_wait_s"] > 0:
        mean_s = summary["client"]["mean_wait_s"]
        found.append(f"requests waited {mean_s:.3g} s on average at their client, which is in no latency and no queue")
    completed = summary["metrics"]["ttft_ms"]["n"]
    if 0 < completed < FEW:
        found.append(f"P99 of {completed} requests is little more than their maximum")
    if (summary.get("bootstrap") or {}).get("related"):
        found.append(
            "neighbouring blocks of the run are alike, for its queue outlasts them: intervals from this run alone are "
            "too narrow"
        )
    verdict = summary["stability"]["verdict"]
    if verdict != "stable":
        found.append(f"the queue is {verdict}; a P99 from it depends on how long the run was")
    return found


def _show(summaries: list[Summary], out: Path | None, varied: list[str] | None, *, as_json: bool) -> None:
    from sim.experiments.replications import aggregate  # noqa: PLC0415
    from sim.results.output_folder import AGGREGATE  # noqa: PLC0415

    content = summaries[0] if len(summaries) == 1 else aggregate(summaries)
    if varied is not None:
        content["seeds_vary_only"] = varied
    if out is not None and len(summaries) > 1:
        _keep(out / AGGREGATE, json.dumps(content, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    text = _report(content) if len(summaries) == 1 else _table(content)
    typer.echo("\n".join([text, *_bootstrap_lines(content.get("bootstrap"))]))


def _report(summary: Summary) -> str:
    """Return the block of one run, with the line that vLLM prints of goodput under the throughput's."""
    from sim.results.result import vllm_style_report  # noqa: PLC0415

    lines = vllm_style_report(summary).splitlines()
    if "goodput" in summary:
        place = next(at for at, line in enumerate(lines) if line.startswith("Request throughput"))
        told = summary["goodput"]["requests_per_s"]
        lines.insert(place + 1, f"{'Request goodput (req/s):':<40} {float('nan') if told is None else told:<10.2f}")
    return "\n".join(lines)


def _bootstrap_lines(told: dict[str, Any] | None) -> list[str]:
    if told is None:
        return []
    blocks = f"{told['blocks']} blocks of {told['block_s']:.4g} s"
    head = f"seed {told['seed']} alone, 95 % intervals by drawing its {blocks} again"
    rows = [
        _interval(_label(name, metric), {"mean": one["value"], **one})
        for metric, statistics in told["metrics"].items()
        for name, one in statistics.items()
    ]
    return ["", head, *rows]


def _table(content: dict[str, Any]) -> str:
    requests = content["requests"]
    only = f", which vary only {', '.join(content['seeds_vary_only'])}" if "seeds_vary_only" in content else ""
    lines = [
        f"{content['system']}: mean over {len(content['seeds'])} replications{only}, 95 % interval",
        f"{'Successful requests, all seeds:':<40} {requests['completed']} of {requests['offered']}",
        _interval("Request throughput (req/s):", content["throughput"]["requests_per_s"]),
    ]
    if "goodput" in content:
        lines.append(_interval("Request goodput (req/s):", content["goodput"]["requests_per_s"]))
    for metric, statistics in content["metrics"].items():
        words = ("mean", "p50", "p90", "p99")
        lines += [_interval(_label(name, metric), statistics.get(name)) for name in words]
    verdicts = {verdict: content["stability"].count(verdict) for verdict in sorted(set(content["stability"]))}
    queue = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    hits = _interval("Adapter hit rate (%):", content["adapters"]["hit_rate"], factor=100)
    return "\n".join([*lines, hits, f"{'Queue:':<40} {queue}"])


def _label(name: str, metric: str) -> str:
    return f"{name.upper() if name[0] == 'p' else 'Mean'} {metric.removesuffix('_ms').upper()} (ms):"


def _interval(label: str, one: dict[str, float] | None, *, factor: float = 1) -> str:
    if one is None:
        return f"{label:<40} {'nan':<10}"
    mean, low, high = (factor * one[name] for name in ("mean", "ci95_low", "ci95_high"))
    most = 100.0 if "%" in label else high
    return f"{label:<40} {mean:<10.2f} [{max(low, 0.0):.2f}, {min(high, most):.2f}]"


def _keep(path: Path, text: str) -> None:
    """Write a file unless it says so already: what is complete may lie where nobody can write."""
    from sim.files.textfile import write_text  # noqa: PLC0415

    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)
