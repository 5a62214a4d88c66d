"""`chameleon gpu`: measure this machine's GPU and fit a hardware profile to it.

This and `gpu_check` are the one place in `sim` that reaches `gpu_validate`, and only when a command runs: torch is
optional and slow to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli import gpu_check, options
from sim.cli.gpu_check import Device, MaybeFolder

app = typer.Typer(
    help="Measure this machine's GPU and fit a hardware profile to it (in a checkout: pip install -e '.[gpu]').",
    no_args_is_help=True,
    rich_markup_mode=None,
)


Folder = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the rows (sweep.jsonl); what it already holds is kept.")
]
Seed = Annotated[
    int, typer.Option("--seed", parser=options.whole_number(0), metavar="N", help="Draws held-out shapes and data.")
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget-s",
        parser=options.positive_number,
        metavar="SECONDS",
        help="Time for all; what is last is dropped.",
    ),
]
Models = Annotated[list[str] | None, typer.Option("--model", help="Base model whose shapes are measured (repeatable).")]
Base = Annotated[
    str | None,
    typer.Option("--base", help="Profile that gives what was not measured. [default: the packaged one of the device]"),
]
Peaks = Annotated[
    str | None,
    typer.Option(
        "--peaks",
        metavar="TFLOPS,GB/S,GB/S",
        help="Datasheet: 16-bit TFLOP/s, memory GB/s, host link GB/s. [default: the packaged profile's of the device]",
    ),
]


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


app.command("compare")(gpu_check.compare)
app.command("check")(gpu_check.check)


def _commands() -> Any:
    from gpu_validate import commands  # noqa: PLC0415

    return commands


def _options(
    device: str, out: Path | None, seed: int, budget_s: float, models: list[str] | None, peaks: str | None = None
) -> Any:
    commands = _commands()
    return commands.Options(device, out, seed, budget_s, tuple(models or ()), commands.Peaks(*_rates(peaks)))


def _rates(given: str | None) -> list[float]:
    """Return FLOP/s, memory bytes/s and link bytes/s; nothing if they were not given."""
    if given is None:
        return []
    parts = given.split(",")
    if len(parts) != 3:
        msg = f"{given!r} is not allowed; three numbers are: TFLOP/s, memory GB/s, host link GB/s"
        raise typer.BadParameter(msg, param_hint="--peaks")
    return [options.positive_number(part) * unit for part, unit in zip(parts, (1e12, 1e9, 1e9), strict=True)]
