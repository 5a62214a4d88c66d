"""`chameleon gpu`: measure this machine's GPU and fit a hardware profile to it.

The one place in `sim` that reaches `gpu_validate`, and only when a command runs: torch is optional and slow to import.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli import options
from sim.cli.gpu_options import (
    Base,
    Budget,
    Device,
    Folder,
    LoraAssignment,
    LoraModules,
    MaybeFolder,
    Models,
    Peaks,
    Seed,
    dealt,
    rates,
)

app = typer.Typer(
    help="Measure this machine's GPU and fit a hardware profile to it (in a checkout: pip install -e '.[gpu]').",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("probe")
def probe(
    device: Device = "cuda",
    out: MaybeFolder = None,
    seed: Seed = 0,
    budget_s: Budget = 30.0,
    peaks: Peaks = None,
) -> None:
    """Say what device this is, and measure its ceilings: copies and one large matrix product."""
    _commands().main_probe(_options(device, out, seed, budget_s, None, peaks))


@app.command("load")
def load(
    out: Folder,
    device: Device = "cuda",
    seed: Seed = 0,
    budget_s: Budget = 90.0,
    model: Models = None,
    peaks: Peaks = None,
) -> None:
    """Measure copies of adapters from host to device: every mode, several at once, beside compute."""
    _commands().main_load(_options(device, out, seed, budget_s, model, peaks))


@app.command("kernels")
def kernels(
    out: Folder,
    device: Device = "cuda",
    seed: Seed = 0,
    budget_s: Budget = 180.0,
    model: Models = None,
    peaks: Peaks = None,
) -> None:
    """Measure linear layers, LM head, attention, launches and LoRA kernels."""
    _commands().main_kernels(_options(device, out, seed, budget_s, model, peaks))


@app.command("iterations")
def iterations(
    out: Folder,
    device: Device = "cuda",
    seed: Seed = 0,
    budget_s: Budget = 120.0,
    model: Models = None,
    peaks: Peaks = None,
) -> None:
    """Measure whole iterations of the mini engine: what host and launches add to the kernels."""
    from gpu_validate.iterations import main_iterations  # noqa: PLC0415

    main_iterations(_options(device, out, seed, budget_s, model, peaks))


@app.command("fit")
def fit(out: Folder, base: Base = None) -> None:
    """Fit the rows of a folder: a profile for --hardware, with its errors on shapes that it has not seen."""
    _commands().main_fit(_options("cpu", out, 0, 1.0, None), base)


@app.command("calibrate")
def calibrate(
    out: Folder,
    device: Device = "cuda",
    seed: Seed = 0,
    budget_s: Budget = 520.0,
    model: Models = None,
    base: Base = None,
    peaks: Peaks = None,
) -> None:
    """Measure everything within the budget, then fit."""
    _commands().main_calibrate(_options(device, out, seed, budget_s, model, peaks), base)


@app.command("compare")
def compare(  # noqa: PLR0913, PLR0917 - one argument for each flag
    log: Annotated[Path, typer.Argument(help="Per-request log of a server (vLLM, SGLang, ...) or a run's requests.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Simulated run. [default: the log's requests are simulated]")
    ] = None,
    system: options.System = None,
    hardware: options.Hardware = None,
    model: options.ModelName = None,
    sets: options.Sets = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", parser=options.whole_number(0), metavar="N", help="Of adapters logged without one."),
    ] = None,
    lora_modules: LoraModules = None,
    lora_assignment: LoraAssignment = None,
    repeat: Annotated[Path | None, typer.Option("--repeat", help="Log of the same requests again: the noise.")] = None,
    load: Annotated[
        float | None,
        typer.Option(
            "--load", parser=options.positive_number, metavar="SHARE", help="Offered load over measured capacity."
        ),
    ] = None,
    seed: options.Seed = 0,
    out: MaybeFolder = None,
    as_json: options.AsJson = False,  # noqa: FBT002 - a flag
) -> None:
    """Compare the simulator with a server's log; needs no GPU."""
    from gpu_validate.compare import run_compare  # noqa: PLC0415 - the optional half of the house

    report = run_compare(
        log,
        run,
        system=system or "chameleon",
        hardware=hardware,
        model=model,
        changes=tuple(sets or ()),
        adapters=dealt(lora_modules, lora_assignment),
        ranks=rank,
        repeat=repeat,
        load=load,
        seed=seed,
        out=out,
    )
    text = report.pop("text")
    typer.echo(json.dumps(report, indent=2) if as_json else text)


@app.command("check")
def check(  # noqa: PLR0913, PLR0917 - one argument for each flag
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of runs and reports; finished runs there are kept.")],
    hardware: Annotated[str, typer.Option("--hardware", help="Profile under test: `gpu fit` wrote one.")],
    system: Annotated[
        list[str] | None, typer.Option("--system", "-s", help="Repeatable; the first is the baseline. [default: slora]")
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option("--rate", "--request-rate", parser=options.positive_number, help="Repeatable. [default: 9]"),
    ] = None,
    requests: options.Requests = None,
    model: options.ModelName = None,
    sets: options.Sets = None,
    seed: options.Seed = 1000,
    capacity: Annotated[
        float | None,
        typer.Option("--capacity", parser=options.positive_number, metavar="RPS", help="Measured highest rate."),
    ] = None,
    repeats: Annotated[bool, typer.Option("--repeat", help="Serve each run twice: the noise floor.")] = False,  # noqa: FBT002 - a flag
    device: Device = "cuda",
    backend: Annotated[
        str | None,
        typer.Option("--lora", help="LoRA kernels of the engine. [default: segmented; torch_loop on a CPU]"),
    ] = None,
    eager: Annotated[bool, typer.Option("--eager", help="No CUDA graphs.")] = False,  # noqa: FBT002 - a flag
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget-s",
            parser=options.positive_number,
            metavar="SECONDS",
            help="No run starts that should not end in time; the same command goes on later. [default: no limit]",
        ),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder of an earlier check to judge again. [default: serve]")
    ] = None,
) -> None:
    """Serve a workload for real and hold the simulator against it, requests, iterations and gains.

    The profile is hashed first. A target that is missed is printed as not supported. Finished runs in --out are kept.
    With --runs those of an earlier check are judged by the simulator as it is now: no GPU is needed.
    """
    from gpu_validate.checking import Plan, run_check  # noqa: PLC0415

    if runs is None:
        _commands().require(device)
    plan = Plan(
        systems=tuple(system or ["slora"]),
        rates=tuple(rate or [9.0]),
        requests=requests or 1000,
        hardware=hardware,
        model=model,
        changes=tuple(sets or ()),
        seed=seed,
        capacity=capacity,
        repeats=repeats,
        setup=_setup(device, backend, uses_graphs=not eager),
        out=out,
        budget_s=budget_s,
        runs=runs,
    )
    for text in run_check(plan):
        typer.echo(text)


def _setup(device: str, backend: str | None, *, uses_graphs: bool) -> Any:
    from gpu_validate.live import Setup  # noqa: PLC0415

    if device == "cpu":
        return Setup("cpu", backend or "torch_loop", uses_graphs)
    return Setup("cuda", backend or "segmented", uses_graphs)


def _commands() -> Any:
    from gpu_validate import commands  # noqa: PLC0415

    return commands


def _options(
    device: str, out: Path | None, seed: int, budget_s: float, models: list[str] | None, peaks: str | None = None
) -> Any:
    commands = _commands()
    return commands.Options(device, out, seed, budget_s, tuple(models or ()), commands.Peaks(*rates(peaks)))
