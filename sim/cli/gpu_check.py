"""`chameleon gpu check` and `compare`: the simulator against real runs, of the mini engine or of any server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli import options


def device_name(given: str) -> str:
    """Return the name of a kind of device."""
    if given not in {"cuda", "cpu"}:
        msg = f"{given!r} is not allowed; cuda or cpu is"
        raise typer.BadParameter(msg)
    return given


Device = Annotated[
    str,
    typer.Option("--device", parser=device_name, metavar="NAME", help="cuda; cpu tries the harness, as no evidence."),
]
MaybeFolder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to. [default: none]")]
LoraModules = Annotated[
    str | None,
    typer.Option(
        "--lora-modules",
        metavar="NAME,NAME,...",
        help="Adapters that vllm bench was given, in its order, for logs that do not name them.",
    ),
]
LoraAssignment = Annotated[
    str | None,
    typer.Option(
        "--lora-assignment",
        metavar="HOW",
        help="How it dealt them: round-robin. What it drew at random is in no log.",
    ),
]
DEALT_IN_TURN = "round-robin"


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
        adapters=_dealt(lora_modules, lora_assignment),
        ranks=rank,
        repeat=repeat,
        load=load,
        seed=seed,
        out=out,
    )
    text = report.pop("text")
    typer.echo(json.dumps(report, indent=2) if as_json else text)


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
        from gpu_validate import commands  # noqa: PLC0415

        commands.require(device)
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


def _dealt(modules: str | None, assignment: str | None) -> tuple[str, ...]:
    """Return adapters in the order in which a client dealt them; none if nothing was said."""
    if assignment not in {None, DEALT_IN_TURN}:
        msg = f"{assignment!r} is not allowed; {DEALT_IN_TURN} is: what was drawn at random is in no log"
        raise typer.BadParameter(msg, param_hint="--lora-assignment")
    names = () if modules is None else tuple(name.strip() for name in modules.split(","))
    if modules is not None and not all(names):
        msg = f"{modules!r} is not allowed; names with commas between them are"
        raise typer.BadParameter(msg, param_hint="--lora-modules")
    if bool(names) != (assignment is not None):
        msg = f"--lora-modules and --lora-assignment {DEALT_IN_TURN} need each other: vllm bench else draws at random"
        raise typer.BadParameter(msg, param_hint="--lora-modules")
    return names
