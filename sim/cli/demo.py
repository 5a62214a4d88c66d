"""`chameleon demo`: the paper's comparison on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options
from sim.texttable import plus_minus, table

if TYPE_CHECKING:
    from sim.experiments.demo import Job, Line, Outcome, Size


def demo(
    requests: Annotated[
        int,
        typer.Option(
            "--requests",
            "-n",
            "--num-prompts",
            parser=options.whole_number(100),
            metavar="N",
            help="Requests per run.",
        ),
    ] = 12_000,
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            "--request-rate",
            parser=options.positive_number,
            metavar="NUMBER",
            help="Requests per second; the paper's is 9.",
        ),
    ] = 9.0,
    reps: Annotated[int, typer.Option("--reps", parser=options.whole_number(2), metavar="N", help="Paired seeds.")] = 5,
    seed: options.Seed = 0,
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", parser=options.processes, metavar="N", help="Processes; -1 for all cores."),
    ] = -1,
) -> None:
    """Compare S-LoRA, Chameleon and its two ablations on the paper's workload, beside the paper's own claims."""
    from sim.experiments.demo import ASSUMPTIONS, FASTEST_S, SCENARIOS, SLOWEST_S, Size, lines  # noqa: PLC0415 - pydantic is slow to import

    size = Size(
        rate_per_s=rate,
        requests=requests,
        reps=reps,
        search_requests=min(requests, Size.search_requests),
        search_reps=min(reps, Size.search_reps),
    )
    outcomes = _all(size, seed, jobs)
    typer.echo(
        "LLaMA-7B on a simulated A40, paper workload (100 adapters of rank 8 to 128)\n"
        f"{rate:g} requests/s, {requests} requests, {reps} paired seeds; mean ± half of the 95 % interval; "
        "SLO: P99 TTFT <= 5 s\n"
        f"highest rate: {size.search_reps} seeds of {size.search_requests} requests, to {size.tolerance_per_s:g} "
        f"requests/s, between {SLOWEST_S:g} and {FASTEST_S:g}"
    )
    for scenario in SCENARIOS:
        typer.echo(f"\n{scenario.name}: {scenario.meaning}")
        rows = lines(outcomes, scenario.name)
        typer.echo(_table(rows))
        if any(row.verdicts != ("stable",) for row in rows):
            typer.echo("percentiles from a queue that is not stable depend on how long the run was")
    typer.echo(f"\n{ASSUMPTIONS}")


def _all(size: Size, seed: int, processes: int) -> list[Outcome]:
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    from sim.experiments.demo import do  # noqa: PLC0415
    from sim.experiments.demo import jobs as jobs_of  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    work: list[Job] = list(jobs_of(size, seed))
    outcomes = []
    typer.echo(f"{len(work)} simulations and searches, about half a minute on two cores", err=True)
    with progress(len(work), "demo") as bar:
        for outcome in Parallel(n_jobs=processes, return_as="generator", inner_max_num_threads=1)(
            map(delayed(do), work)
        ):
            outcomes.append(outcome)
            bar.advance()
    return outcomes


def _table(rows: list[Line]) -> str:
    from sim.experiments.demo import PRINTED  # noqa: PLC0415

    header = ["", *(row.system for row in rows)]
    printed = [PRINTED.get(row.system, ("", "", "")) for row in rows]
    body = [
        ["P50 TTFT (ms)", *(plus_minus(row.p50_ms) for row in rows)],
        ["  change", *(plus_minus(row.p50_cut, percent_change=True) for row in rows)],
        ["  the paper", *(one[0] for one in printed)],
        [f"P99 TTFT (ms), n = {rows[0].n}", *(plus_minus(row.p99_ms) for row in rows)],
        ["  change", *(plus_minus(row.p99_cut, percent_change=True) for row in rows)],
        ["  the paper", *(one[1] for one in printed)],
        ["highest rate within SLO", *(plus_minus(row.highest_rate) for row in rows)],
        ["  relative", *("-" if row.rate_ratio is None else f"{row.rate_ratio:.2f}x" for row in rows)],
        ["  the paper", *(one[2] for one in printed)],
        ["TTFT within 5 s (%)", *(plus_minus(row.attainment) for row in rows)],
        ["adapter hit rate (%)", *(plus_minus(row.hit_rate) for row in rows)],
        ["adapter GB over PCIe", *(plus_minus(row.gigabytes) for row in rows)],
        ["queue", *("/".join(row.verdicts) for row in rows)],
    ]
    return table(header, body)
