"""Many seeds of one configuration; the store is the queue, so a second start goes on from what is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sim.arrivals import GammaArrivals
from sim.config import Loaded, RunConfig
from sim.experiment import execute
from sim.identity import files_sha256, source_sha256
from sim.names import SEAMS
from sim.results import Result
from sim.rundir import OPTIONAL, WRITTEN, read_run
from sim.statistics import Interval, mean_interval
from sim.summary import Summary
from sim.vllm_bench import BenchMeta

METRICS = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms")
AGGREGATE = "replications.json"


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
    """Return one task per seed, counted up from the configured one; several seeds get a directory each.

    Raises:
        ValueError: if `out` holds anything but runs of this kind, so that nothing is simulated in vain.
    """
    first = loaded.config.seed
    if out is not None:
        _check_out(out, reps)
    if reps == 1:
        return [Task(loaded, out)]
    return [
        Task(with_seed(loaded, seed), None if out is None else out / f"seed-{seed}")
        for seed in range(first, first + reps)
    ]


def _check_out(out: Path, reps: int) -> None:
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        msg = f"{nearest} is a file; a directory is needed for {out}"
        raise ValueError(msg)
    if nearest != out:
        return
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    strange = [name for name in names if not _belongs(name, reps)]
    if strange:
        wanted = "a run" if reps == 1 else "replications"
        msg = f"{out} does not hold {wanted} and is left alone: {', '.join(strange[:5])}"
        raise ValueError(msg)


def _belongs(name: str, reps: int) -> bool:
    if reps == 1:
        return name in {*WRITTEN, *OPTIONAL}
    return name == AGGREGATE or (name.startswith("seed-") and name.removeprefix("seed-").isdecimal())


def perform(task: Task) -> Summary:
    """Run one task, or read what an earlier start of the very same task has left.

    Its summary also has `trace_notes`, what was done to the rows of the trace, and `first_rejection`, a reason or None.
    """
    found = finished(task)
    if found is not None:
        return found
    result = execute(task.loaded)
    result.summary["trace_notes"] = [[what, rows] for what, rows in result.run.trace.notes]
    reasons = (reason for records in result.run.records for reason in records.rejections.values())
    result.summary["first_rejection"] = next(reasons, None)
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
        burstiness=_burstiness(config),
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
        "requests": {name: sum(one["requests"][name] for one in summaries) for name in summaries[0]["requests"]},
        "metrics": {
            metric: {name: _spelt_out(one) for name, one in statistics.items()}
            for metric, statistics in intervals(summaries).items()
        },
        "adapters": {"hit_rate": _rate([summary["adapters"]["hit_rate"] for summary in summaries])},
        "throughput": {"requests_per_s": _rate([summary["throughput"]["requests_per_s"] for summary in summaries])},
        "stability": [summary["stability"]["verdict"] for summary in summaries],
    }


def _rate(values: Sequence[float | None]) -> dict[str, float | int | None] | None:
    known = [value for value in values if value is not None]
    return _spelt_out(mean_interval(known)) if known and len(known) == len(values) else None


def _spelt_out(one: Interval) -> dict[str, float | int | None]:
    return {"mean": one.estimate, "ci95_low": one.low, "ci95_high": one.high, "n_reps": one.n}


def _burstiness(config: RunConfig) -> float:
    """Return vLLM's word for how even arrivals are: 1/cv^2 of gamma gaps, 1 for Poisson and what has no such number."""
    arrivals = config.workload.arrivals
    return 1 / arrivals.cv**2 if isinstance(arrivals, GammaArrivals) else 1.0


def _own_rate(result: Result) -> float:
    arrival_s = result.run.trace.arrival_s
    span_s = float(arrival_s[-1] - arrival_s[0]) if len(arrival_s) > 1 else 0.0
    return (len(arrival_s) - 1) / span_s if span_s else float("inf")


def finished(task: Task) -> Summary | None:
    """Return the summary that an earlier start of the very same task has left; None if it must be simulated.

    It must if the configuration, the simulator's source or a file that the configuration names differs.
    """
    if task.directory is None or not (task.directory / "DONE").exists():
        return None
    run, config = read_run(task.directory), task.loaded.config.model_dump(mode="json")
    made_with = (run.config, run.env.get("source_sha256"), run.env.get("files_sha256"))
    return run.summary if made_with == (config, source_sha256(), files_sha256(config)) else None
