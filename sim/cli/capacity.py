"""`chameleon capacity`: the highest rate that systems carry within an objective, or the replicas that a rate needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from sim.cli.loading import load_checked
from sim.cli.trace_notes import tell_of_seeds, tell_of_stamps, varied
from sim.texttable import interval_text, number, table

if TYPE_CHECKING:
    from sim.config import Loaded
    from sim.experiments.capacity_study import Answer, Dial, Line
    from sim.experiments.objective import Objective

REQUESTS = 4000  # of a run, unless a number is given
MOST_REPLICAS = 1000

Systems = Annotated[
    list[str] | None,
    typer.Option("--system", "-s", help="System or file (repeatable); the first is the baseline. [default: chameleon]"),
]
Bound = float | None
TtftTail = Annotated[
    Bound,
    typer.Option(
        "--p99-ttft-s",
        parser=options.positive_number,
        metavar="NUMBER",
        help="The P99 of time to first token must be within this. [default: the first system's ttft_slo_s; 5]",
    ),
]
TpotTail = Annotated[
    Bound,
    typer.Option(
        "--p99-tpot-s",
        parser=options.positive_number,
        metavar="NUMBER",
        help="The P99 of time per output token must be within this.",
    ),
]
TtftBound = Annotated[
    Bound,
    typer.Option(
        "--slo-ttft-s",
        parser=options.positive_number,
        metavar="NUMBER",
        help="In place of the tails: so many requests (--attainment) must get their first token within this.",
    ),
]
TpotBound = Annotated[
    Bound,
    typer.Option(
        "--slo-tpot-s",
        parser=options.positive_number,
        metavar="NUMBER",
        help="... and their output tokens at this pace.",
    ),
]
Share = Annotated[
    Bound,
    typer.Option(
        "--attainment",
        parser=options.share,
        metavar="SHARE",
        help="Share of all offered requests that must meet every --slo bound. [default: 0.95]",
    ),
]
Requests = Annotated[
    int | None,
    typer.Option(
        "--requests",
        "-n",
        "--num-prompts",
        parser=options.whole_number(1),
        metavar="N",
        help=f"Number of requests of every run. [default: {REQUESTS}; all of a trace file's]",
    ),
]
ReplicasFor = Annotated[
    Bound,
    typer.Option(
        "--replicas-for",
        parser=options.positive_number,
        metavar="RATE",
        help="Find the fewest replicas that carry this many requests/s, in place of the highest rate.",
    ),
]
Lowest = Annotated[
    float,
    typer.Option("--min-rate", parser=options.positive_number, metavar="NUMBER", help="Search from this rate ..."),
]
Highest = Annotated[
    float, typer.Option("--max-rate", parser=options.positive_number, metavar="NUMBER", help="... to this one.")
]
Precision = Annotated[
    float,
    typer.Option(
        "--precision", parser=options.share, metavar="SHARE", help="Rates that are tried differ by this share."
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="JSON file to write after each search; what it holds is not searched again."),
]


def capacity(  # noqa: PLR0913, PLR0917 - one argument for each flag
    systems: Systems = None,
    p99_ttft_s: TtftTail = None,
    p99_tpot_s: TpotTail = None,
    slo_ttft_s: TtftBound = None,
    slo_tpot_s: TpotBound = None,
    attainment: Share = None,
    replicas_for: ReplicasFor = None,
    reps: options.Reps = 3,
    workload: options.Workload = None,
    trace: options.TraceFile = None,
    requests: Requests = None,
    scale: options.Scale = None,
    seed: options.OwnSeed = None,
    hardware: options.Hardware = None,
    model: options.ModelName = None,
    sets: options.Sets = None,
    min_rate: Lowest = 0.01,
    max_rate: Highest = 10_000.0,
    precision: Precision = 0.01,
    out: OutFile = None,
    jobs: options.Jobs = -1,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Find the highest rate that each system carries within an objective, seed by seed, with 95 % intervals.

    A rate is carried if 99 % of the offered requests are completed and the P99 is within its bound; with --slo bounds,
    if so many requests meet them. All systems see the same requests, and a seed's requests are the same at every rate.
    The objective is the judge's alone: what a scheduler takes for its own is --set ttft_slo_s=SECONDS.
    With --out it can be interrupted: the same command goes on from the searches that are finished.
    """
    from sim.experiments.capacity_file import read  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.experiments.capacity_study import Dial  # noqa: PLC0415
    from sim.files.output import check_file  # noqa: PLC0415

    drawn = requests if requests or trace else REQUESTS
    loaded = _loaded(systems or ["chameleon"], sets, (workload, trace, drawn, scale, seed, hardware, model))
    tails, bounds = (p99_ttft_s, p99_tpot_s), (slo_ttft_s, slo_tpot_s)
    objective = _objective(tails, bounds, attainment, loaded[0].config.ttft_slo_s)
    _check_bounds(min_rate, max_rate, precision)
    dial = (
        Dial(min_rate, max_rate, precision)
        if replicas_for is None
        else Dial(1, MOST_REPLICAS, precision, float(replicas_for))
    )
    tell_of_stamps(loaded[0])
    if out is not None:
        check_file(out)
    kept = {} if out is None else read(out)
    found = _found(loaded, reps, objective, dial, kept, jobs, out)
    _show(found, loaded, objective, dial, as_json=as_json)
    tell_of_seeds(varied(loaded[0], reps))
    if out is not None:
        typer.echo(f"written to {out}", err=True)


def _loaded(names: list[str], sets: list[str] | None, flags: tuple[Any, ...]) -> list[Loaded]:
    """Return a configuration for each system; a trace file without a rate gets one, so that the rate can be turned."""
    from sim.experiments.replications import check_seeds  # noqa: PLC0415 - pandas is slow to import

    workload, trace, requests, scale, seed, hardware, model = flags
    rate = None if trace is None else 1.0
    extra = options.overrides(workload, trace, rate, requests, scale, seed, hardware, model)
    found = [load_checked(name, sets, extra) for name in names]
    if any(one.config.client.max_concurrency is not None for one in found):
        msg = "capacity turns the offered rate, and with client.max_concurrency requests come no faster than they leave"
        raise ValueError(msg)
    known = [one.config.name for one in found]
    if len(set(known)) < len(known):
        msg = f"capacity needs systems of different names, got {', '.join(known)}"
        raise ValueError(msg)
    check_seeds(found)
    return found


def _objective(
    tails: tuple[Bound, Bound], bounds: tuple[Bound, Bound], attainment: Bound, own_ttft_s: float
) -> Objective:
    from sim.experiments.objective import Objective  # noqa: PLC0415

    has_tails, has_bounds = any(tails), any(bounds)
    if has_tails and (has_bounds or attainment):
        msg = "either the tails are bounded (--p99-ttft-s, --p99-tpot-s) or the share of requests within bounds is"
        raise ValueError(f"{msg} (--slo-ttft-s, --slo-tpot-s, --attainment)")
    if has_bounds:
        return Objective(*bounds, attainment or 0.95)
    if attainment is not None:
        return Objective(own_ttft_s, None, attainment)
    return Objective(*tails) if has_tails else Objective(own_ttft_s)


def _check_bounds(low: float, high: float, precision: float) -> None:
    from math import isfinite  # noqa: PLC0415

    if not (low < high and isfinite(high)):
        msg = f"--min-rate {low:g} must be below --max-rate {high:g}, and both finite"
        raise ValueError(msg)
    if precision > 0.5:
        msg = f"--precision {precision:g} is too coarse; at most 0.5 is allowed"
        raise ValueError(msg)


def _found(
    loaded: list[Loaded],
    reps: int,
    objective: Objective,
    dial: Dial,
    kept: dict[str, Answer],
    jobs: int,
    out: Path | None,
) -> list[Answer]:
    from sim.experiments.capacity_file import as_json, write  # noqa: PLC0415
    from sim.experiments.capacity_study import answers, lines  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    found: list[Answer] = []
    names, waiting = [one.config.name for one in loaded], dict(kept)
    with progress(len(loaded) * reps, "capacity") as bar:
        for answer in answers(loaded, reps, objective, dial, kept=kept, jobs=jobs):
            found.append(answer)
            is_new, is_whole = waiting.pop(answer.key, None) is None, len(found) == len(loaded) * reps
            if out is not None and (is_new or is_whole):
                left = list(waiting.values())  # of other seeds or systems: whoever asks for them again has them
                write(out, as_json(lines(found, names), objective, dial, is_whole=is_whole, kept=left))
            bar.advance()
    known = len(kept) - len(waiting)
    if known:
        typer.echo(f"{known} of {len(found)} searches are read from {out}, not made again", err=True)
    return found


def _show(found: list[Answer], loaded: list[Loaded], objective: Objective, dial: Dial, *, as_json: bool) -> None:
    from sim.experiments.capacity_file import as_json as content  # noqa: PLC0415
    from sim.experiments.capacity_study import lines  # noqa: PLC0415

    rows = lines(found, [one.config.name for one in loaded])
    if as_json:
        typer.echo(json.dumps(content(rows, objective, dial, is_whole=True), indent=2))
    else:
        typer.echo(_text(rows, loaded[0], objective, dial))
    remarks = (remark for row in rows for remark in row.answers[0].remarks)
    for remark in dict.fromkeys([*remarks, *(f"warning: {warning}" for warning in _warnings(rows, dial))]):
        typer.echo(remark, err=True)


def _text(rows: list[Line], first: Loaded, objective: Objective, dial: Dial) -> str:
    from sim.experiments.sweep import caption_of  # noqa: PLC0415

    seeds = len(rows[0].answers)
    what = (
        f"highest rate on a grid of {100 * dial.precision:g} %; mean [95 % interval over seeds]"
        if dial.rate_per_s is None
        else f"fewest replicas for {dial.rate_per_s:g} requests/s, enough for every seed"
    )
    header = ["system", dial.unit, f"x {rows[0].system}", "each seed", "queue there"]
    body = [_cells(row, dial) for row in rows]
    return f"{caption_of(first.config, seeds)}\n{objective}; {what}\n{table(header, body)}"


def _cells(row: Line, dial: Dial) -> list[str]:
    each = [_found_text(one) for one in row.answers]
    most = _found_text(max(row.answers, key=lambda one: one.value))
    value = interval_text(row.value) if dial.rate_per_s is None else most
    queues = sorted(row.queues)
    queue = "".join(queues) if len(queues) < 2 else ", ".join(f"{row.queues[one]} {one}" for one in queues)
    return [row.system, value, interval_text(row.ratio), ", ".join(each), queue]


def _found_text(one: Answer) -> str:
    sign = {"found": "", "below": "< ", "above": "> "}[one.end]
    return sign + (f"{one.value:g}" if one.value == int(one.value) else number(one.value))


def _warnings(rows: list[Line], dial: Dial) -> list[str]:
    found = []
    for row in rows:
        if "below" in row.ends:
            found.append(f"{row.system}: even {dial.low:g} requests/s is too much for some seed; see --min-rate")
        if "above" in row.ends:
            most = f"{dial.value(dial.steps):g} {dial.unit}"
            told = "carried" if dial.rate_per_s is None else "not enough"
            found.append(f"{row.system}: even {most} is {told} for some seed")
        unstable = sorted(set(row.queues) - {"stable"})
        if unstable:
            found.append(
                f"{row.system}: the queue is {' or '.join(unstable)} at the answer, which then depends on how long "
                "the run is; more --requests show what it settles at"
            )
    return found
