"""Options of `chameleon gpu`'s commands, and what their words mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def dealt(modules: str | None, assignment: str | None) -> tuple[str, ...]:
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


def rates(given: str | None) -> list[float]:
    """Return FLOP/s, memory bytes/s and link bytes/s; nothing if they were not given."""
    if given is None:
        return []
    parts = given.split(",")
    if len(parts) != 3:
        msg = f"{given!r} is not allowed; three numbers are: TFLOP/s, memory GB/s, host link GB/s"
        raise typer.BadParameter(msg, param_hint="--peaks")
    return [options.positive_number(part) * unit for part, unit in zip(parts, (1e12, 1e9, 1e9), strict=True)]
