"""Many seeds of one configuration; the store is the queue, so a second start goes on from what is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sim.config import Loaded, RunConfig
from sim.experiment import execute
from sim.results import Result
from sim.rundir import read_run
from sim.statistics import Interval, mean_interval
from sim.summary import Summary
from sim.vllm_bench import BenchMeta

SEAMS = ("scheduler", "cache", "prefetch", "predictor")
METRICS = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms")


class Task(NamedTuple):
    """One run: a configuration, and where its files go (nowhere: None)."""

    loaded: Loaded
    directory: Path | None = None


def with_seed(loaded: Loaded, seed: int) -> Loaded:
    """Return the same configuration with another seed."""
    return replace_config(loaded, seed=seed)


def replace_config(loaded: Loaded, **changes: object) -> Loaded:
    """Return the configuration with some top-level values changed."""
    return loaded._replace(config=loaded.config.model_copy(update=changes))


def replication_tasks(loaded: Loaded, reps: int, out: Path | None) -> list[Task]:
    """Return one task per seed, counted up from the configured one; several seeds get a directory each."""
    first = loaded.config.seed
    if reps == 1:
        return [Task(loaded, out)]
    return [
        Task(with_seed(loaded, seed), None if out is None else out / f"seed-{seed}")
        for seed in range(first, first + reps)
    ]


def perform(task: Task) -> Summary:
    """Run one task, or read what an earlier start of the very same task has left."""
    if task.directory is not None:
        finished = _finished(task)
        if finished is not None:
            return finished
    result = execute(task.loaded)
    if task.directory is not None:
        save(result, task.loaded.config, task.directory)
    return result.summary


def perform_all(tasks: Sequence[Task], jobs: int = 1) -> Iterator[Summary]:
    """Yield the summary of every task in order, over so many processes."""
    if jobs == 1 or len(tasks) == 1:
        yield from map(perform, tasks)
        return
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    yield from Parallel(n_jobs=jobs, return_as="generator", inner_max_num_threads=1)(map(delayed(perform), tasks))


def save(result: Result, config: RunConfig, directory: Path, *, detailed: bool = False) -> Path:
    """Write a run directory with what `vllm_bench.json` tells beside the results."""
    rate = config.workload.rate_per_s
    meta = BenchMeta(
        date=datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        label=config.name,
        request_rate=_own_rate(result) if rate is None else rate,
        slos_ms={"ttft": config.ttft_slo_s * 1e3},
        config_hash=config_hash(config),
        policy={seam: getattr(config, seam) for seam in SEAMS},
    )
    return result.save(directory, meta, detailed=detailed)


def config_hash(config: RunConfig) -> str:
    """Return a key of the resolved configuration: the same values, the same key."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return sha256(text.encode()).hexdigest()[:16]


def intervals(summaries: Sequence[Summary]) -> dict[str, dict[str, Interval]]:
    """Return the t interval over replications of every latency statistic that all of them have."""
    table: dict[str, dict[str, Interval]] = {}
    for metric in METRICS:
        rows = [summary["metrics"][metric] for summary in summaries]
        names = [name for name, value in rows[0].items() if isinstance(value, float)]
        known = [name for name in names if all(row[name] is not None for row in rows)]
        table[metric] = {name: mean_interval([row[name] for row in rows]) for name in known}
    return table


def aggregate(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return what stands in `replications.json`: seeds, intervals and verdicts of all replications."""
    return {
        "schema_version": summaries[0]["schema_version"],
        "simulated": True,
        "system": summaries[0]["system"],
        "seeds": [summary["seed"] for summary in summaries],
        "metrics": {
            metric: {
                name: {"mean": one.estimate, "ci95_low": one.low, "ci95_high": one.high, "n_reps": one.n}
                for name, one in statistics.items()
            }
            for metric, statistics in intervals(summaries).items()
        },
        "stability": [summary["stability"]["verdict"] for summary in summaries],
    }


def _own_rate(result: Result) -> float:
    arrival_s = result.run.trace.arrival_s
    span_s = float(arrival_s[-1] - arrival_s[0]) if len(arrival_s) > 1 else 0.0
    return (len(arrival_s) - 1) / span_s if span_s else float("inf")


def _finished(task: Task) -> Summary | None:
    if task.directory is None or not (task.directory / "DONE").exists():
        return None
    run = read_run(task.directory)
    is_same = run.config == task.loaded.config.model_dump(mode="json")
    trace = task.loaded.config.workload.trace
    is_newer = trace is None or Path(trace).stat().st_mtime <= (task.directory / "DONE").stat().st_mtime
    return run.summary if is_same and is_newer else None
