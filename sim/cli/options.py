"""The flags that several commands share: short names, with vLLM's words as aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

System = Annotated[str, typer.Option("--system", "-s", help="Packaged system (see `policies list`) or a YAML file.")]
Workload = Annotated[
    str | None,
    typer.Option("--workload", "-w", help="Preset: paper, azure-conv, azure-code or uniform. [default: paper]"),
]
TraceFile = Annotated[Path | None, typer.Option("--trace", help="Trace file: real lengths in file order.")]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate", "--request-rate", help="Requests per second. With --trace and without it: the file's own stamps."
    ),
]
Requests = Annotated[int | None, typer.Option("--requests", "-n", "--num-prompts", help="Number of requests.")]
Scale = Annotated[float | None, typer.Option("--scale", help="Divide all lengths by this.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Draws the same workload for every system and load.")]
Reps = Annotated[int, typer.Option("--reps", min=1, help="Replications, with seeds counted up from --seed.")]
Hardware = Annotated[
    str | None, typer.Option("--hardware", help="a40, a10g, a100-80, h100, h200 or a profile file. [default: a40]")
]
ModelName = Annotated[str | None, typer.Option("--model", help="Base model. [default: llama-7b]")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change any key: --set cache.kind=lru (repeatable).")]
Out = Annotated[Path | None, typer.Option("--out", "-o", "--result-dir", help="Run directory to write.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", help="Processes for replications; -1 for all cores.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def overrides(
    workload: str | None,
    trace: Path | None,
    rate: float | None,
    requests: int | None,
    scale: float | None,
    seed: int | None,
    hardware: str | None,
    model: str | None,
) -> dict[str, Any]:
    """Return what the shared flags change in a configuration; flags that were not given are None."""
    drawn = {
        "preset": workload,
        "trace": None if trace is None else str(trace),
        "rate_per_s": rate,
        "requests": requests,
        "scale": scale,
    }
    return {"workload": drawn, "seed": seed, "hardware": hardware, "model": model}
