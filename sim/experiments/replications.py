"""Many seeds of one configuration; the store is the queue, so a second start goes on from what is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from sim.config import Loaded, RunConfig
from sim.experiments.bench_words import objectives_ms
from sim.experiments.run import execute
from sim.models import load_model
from sim.results import timeline
from sim.results.block_bootstrap import bootstrap
from sim.results.identity import files_sha256, source_sha256
from sim.results.output_folder import check_out
from sim.results.result import Result
from sim.results.rundir import RunData, read_run
from sim.results.summary import Summary
from sim.results.vllm_bench import goodput
from sim.statistics import Interval, mean_interval
from sim.workload.making import make_trace

METRICS = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms")
Done = TypeVar("Done")
Part = Literal["detailed", "bootstrap", "timeline"]


class Wanted(NamedTuple):
    """What is to be told of a run beyond what its configuration makes it.

    Attributes:
        label: its name in `vllm_bench.json`; None: the system's.
        slos_ms: objectives that make a request good, by `ttft`, `tpot` and `e2el`; none: only the configuration's own.
        parts: "detailed" for one entry per request in `vllm_bench.json`, "bootstrap" for intervals from the run alone,
            "timeline" for `timeline.json.gz`.
    """

    label: str | None = None
    slos_ms: tuple[tuple[str, float], ...] = ()
    parts: frozenset[Part] = frozenset()


NOTHING_ELSE = Wanted()


class Task(NamedTuple):
    """One run: a configuration, where its files go (nowhere: None), and what they are to tell."""

    loaded: Loaded
    directory: Path | None = None
    wanted: Wanted = NOTHING_ELSE


class Failure(NamedTuple):
    """Why a run could not be made."""

    reason: str


def check_seeds(systems: Iterable[Loaded]) -> None:
    """Refuse systems whose files start from different seeds: they are compared seed by seed.

    Raises:
        ValueError: if they do.
    """
    seeds = {one.config.name: one.config.seed for one in systems}
    if len(set(seeds.values())) > 1:
        told = ", ".join(f"{name} {seed}" for name, seed in seeds.items())
        msg = f"systems are compared seed by seed, and their files have different ones: {told}; --seed sets all"
        raise ValueError(msg)


def with_seed(loaded: Loaded, seed: int) -> Loaded:
    """Return the same configuration with another seed."""
    return replace_config(loaded, seed=seed)


def replace_config(loaded: Loaded, **changes: object) -> Loaded:
    """Return the configuration with some top-level values changed."""
    return loaded._replace(config=loaded.config.model_copy(update=changes))


def replication_tasks(loaded: Loaded, reps: int, out: Path | None, wanted: Wanted = NOTHING_ELSE) -> list[Task]:
    """Return one task per seed, counted up from the configured one; several seeds get a directory each.

    An interval from one run alone is that of the first seed, whatever is wanted of the others.

    Raises:
        ValueError: if `out` holds anything but runs of this kind, so that nothing is simulated in vain.
    """
    tasks = _tasks(loaded, reps, out, wanted)
    if out is not None:
        check_out(out, reps, is_complete=all(finished(task) is not None for task in tasks))
    return tasks


def _tasks(loaded: Loaded, reps: int, out: Path | None, wanted: Wanted) -> list[Task]:
    first = loaded.config.seed
    if reps == 1:
        return [Task(loaded, out, wanted)]
    others = wanted._replace(parts=wanted.parts - {"bootstrap"})
    return [
        Task(
            with_seed(loaded, seed),
            None if out is None else out / f"seed-{seed}",
            wanted if seed == first else others,
        )
        for seed in range(first, first + reps)
    ]


def perform(task: Task) -> Summary:
    """Run one task, or read what an earlier start of the very same task has left.

    Where they are wanted, its summary also has `goodput` and `bootstrap`.
    """
    found = finished(task)
    if found is not None:
        return found
    result = execute(task.loaded)
    if task.wanted.slos_ms:
        result.summary["goodput"] = goodput(result.run, result.summary, dict(task.wanted.slos_ms))
    if "bootstrap" in task.wanted.parts:
        result.summary["bootstrap"] = bootstrap(result)
    if task.directory is not None:
        save(result, task.loaded.config, task.directory, task.wanted)
    return result.summary


def attempt(task: Task) -> Summary | Failure:
    """Run one task as `perform` does, or return why that failed, so that others go on."""
    try:
        return perform(task)
    except (ValueError, OSError) as error:
        return Failure(str(error))
    except Exception as error:  # noqa: BLE001 - whatever one run fails at, the others are not to be lost
        return Failure(f"{type(error).__name__}: {error}")


def perform_all(tasks: Sequence[Task], jobs: int = 1) -> Iterator[Summary]:
    """Yield the summary of every task in order, over so many processes."""
    yield from _all(perform, tasks, jobs)


def attempt_all(tasks: Sequence[Task], jobs: int = 1) -> Iterator[Summary | Failure]:
    """Yield the summary of every task, or why there is none, in order, over so many processes."""
    yield from _all(attempt, tasks, jobs)


def _all(do: Callable[[Task], Done], tasks: Sequence[Task], jobs: int) -> Iterator[Done]:
    if jobs == 1 or len(tasks) == 1:
        yield from map(do, tasks)
        return
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    yield from Parallel(n_jobs=jobs, return_as="generator", inner_max_num_threads=1)(map(delayed(do), tasks))


def save(result: Result, config: RunConfig, directory: Path, wanted: Wanted = NOTHING_ELSE) -> Path:
    """Write a run directory with what `vllm_bench.json` tells beside the results."""
    slos_ms = objectives_ms(config, wanted.slos_ms)
    meta = replace(result.meta, label=wanted.label or config.name, slos_ms=slos_ms)
    return result.save(directory, meta, detailed="detailed" in wanted.parts, timeline="timeline" in wanted.parts)


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
        **_extras(summaries),
    }


def _extras(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return what was wanted: goodput over all seeds, the intervals from the first seed's run alone."""
    found: dict[str, Any] = {}
    told = [summary["goodput"] for summary in summaries if "goodput" in summary]
    if len(told) == len(summaries):
        found["goodput"] = {"slos_ms": told[0]["slos_ms"]} | {
            name: _rate([one[name] for one in told]) for name in ("requests_per_s", "attainment")
        }
    if "bootstrap" in summaries[0]:
        found["bootstrap"] = summaries[0]["bootstrap"]
    return found


def _rate(values: Sequence[float | None]) -> dict[str, float | int | None] | None:
    known = [value for value in values if value is not None]
    return _spelt_out(mean_interval(known)) if known and len(known) == len(values) else None


def _spelt_out(one: Interval) -> dict[str, float | int | None]:
    return {"mean": one.estimate, "ci95_low": one.low, "ci95_high": one.high, "n_reps": one.n}


def varied_parts(loaded: Loaded) -> list[str]:
    """Return what differs between the workloads of two seeds: arrivals, lengths, adapters.

    Of a trace file's workload that is little: intervals over its seeds say nothing about other traffic.
    """
    config = loaded.config
    model = load_model(config.model)
    one, other = (make_trace(config.workload, config.seed + rep, model) for rep in range(2))
    parts = {
        "arrivals": (one.arrival_s, other.arrival_s),
        "lengths": (one.prompt_tokens, other.prompt_tokens),
        "adapters": (one.adapter, other.adapter),
    }
    return [name for name, (first, second) in parts.items() if not np.array_equal(first, second)]


def finished(task: Task) -> Summary | None:
    """Return the summary that an earlier start of the very same task has left; None if it must be simulated.

    It must if the configuration, the simulator's source or a file that the configuration names differs, or if the files
    do not tell what is wanted.
    """
    if task.directory is None or not (task.directory / "DONE").exists():
        return None
    config = task.loaded.config.model_dump(mode="json")
    try:
        run = read_run(task.directory)
        made_with = (run.config, run.env.get("source_sha256"), run.env.get("files_sha256"))
        is_same = made_with == (config, source_sha256(), files_sha256(config))
        return run.summary if is_same and _tells(run, task) else None
    except ValueError:  # a file of it is gone or cut off
        return None


def _tells(run: RunData, task: Task) -> bool:
    config, wanted = task.loaded.config, task.wanted
    told = (run.bench["label"], run.bench["goodput_slos_ms"])
    return (
        told == (wanted.label or config.name, objectives_ms(config, wanted.slos_ms))
        and ("detailed" not in wanted.parts or "ttfts" in run.bench)
        and ("bootstrap" not in wanted.parts or "bootstrap" in run.summary)
        and ("timeline" not in wanted.parts or (run.directory / timeline.FILE).exists())
        and (not wanted.slos_ms or "goodput" in run.summary)
    )
