"""`chameleon demo`: the paper's comparison on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.tables import interval_text, table

if TYPE_CHECKING:
    from sim.demo import Job, Line, Outcome, Size


def demo(
    requests: Annotated[
        int, typer.Option("--requests", "-n", "--num-prompts", min=100, help="Requests per run.")
    ] = 12_000,
    rate: Annotated[float, typer.Option("--rate", "--request-rate", min=0.1, help="Requests per second.")] = 9.0,
    reps: Annotated[int, typer.Option("--reps", min=2, help="Paired seeds.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes; -1 for all cores.")] = -1,
) -> None:
    """Compare S-LoRA, Chameleon and its two ablations on the paper's workload, beside the paper's own claims."""
    from sim.demo import ASSUMPTIONS, SCENARIOS, Size, lines  # noqa: PLC0415 - pydantic is slow to import

    size = Size(rate_per_s=rate, requests=requests, reps=reps, search_requests=min(requests, Size.search_requests))
    outcomes = _all(size, seed, jobs)
    typer.echo(
        f"LLaMA-7B on a simulated A40, paper workload (100 adapters of rank 8 to 128), {rate:g} requests/s, {requests} "
        f"requests, {reps} paired seeds; mean [95 % interval]"
    )
    for scenario in SCENARIOS:
        typer.echo(f"\n{scenario.name}: {scenario.meaning}")
        typer.echo(_table(lines(outcomes, scenario.name)))
    typer.echo(f"\n{ASSUMPTIONS}")


def _all(size: Size, seed: int, processes: int) -> list[Outcome]:
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    from sim.demo import do  # noqa: PLC0415
    from sim.demo import jobs as jobs_of  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    work: list[Job] = list(jobs_of(size, seed))
    outcomes = []
    with progress(len(work), "demo") as bar:
        for outcome in Parallel(n_jobs=processes, return_as="generator", inner_max_num_threads=1)(
            map(delayed(do), work)
        ):
            outcomes.append(outcome)
            bar.advance()
    return outcomes


def _table(rows: list[Line]) -> str:
    from sim.demo import PRINTED  # noqa: PLC0415

    header = ["", *(row.system for row in rows)]
    printed = [PRINTED.get(row.system, ("", "", "")) for row in rows]
    n = f"n = {rows[0].n}"
    body = [
        ["P50 TTFT (ms)", *(interval_text(row.p50_ms) for row in rows)],
        ["  change", *(interval_text(row.p50_cut, percent_change=True) for row in rows)],
        ["  the paper", *(one[0] for one in printed)],
        [f"P99 TTFT (ms), {n}", *(interval_text(row.p99_ms) for row in rows)],
        ["  change", *(interval_text(row.p99_cut, percent_change=True) for row in rows)],
        ["  the paper", *(one[1] for one in printed)],
        ["requests/s with P99 TTFT <= 5 s", *(interval_text(row.highest_rate) for row in rows)],
        ["  relative", *("-" if row.rate_ratio is None else f"{row.rate_ratio:.2f}x" for row in rows)],
        ["  the paper", *(one[2] for one in printed)],
        ["TTFT within 5 s (share)", *(interval_text(row.attainment) for row in rows)],
        ["adapter hit rate", *(interval_text(row.hit_rate) for row in rows)],
        ["adapter GB over PCIe", *(interval_text(row.gigabytes) for row in rows)],
        ["queue", *("/".join(row.verdicts) for row in rows)],
    ]
    return table(header, body)
