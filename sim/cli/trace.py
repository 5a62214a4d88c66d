"""`chameleon trace`: describe a trace, draw one, convert one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli import options

app = typer.Typer(help="Workload traces.", no_args_is_help=True, rich_markup_mode=None)
Format = Annotated[
    str | None,
    typer.Option("--format", help="canonical, azure, vidur or mooncake. [default: recognised from the file]"),
]
ZeroOutput = Annotated[
    str | None, typer.Option("--zero-output", help="drop or clamp requests without output. [default: drop]")
]


@app.command("describe")
def describe(
    file: Annotated[Path | None, typer.Argument(help="Trace file; none: the workload of the other flags.")] = None,
    file_format: Format = None,
    zero_output: ZeroOutput = None,
    workload: options.Workload = None,
    rate: options.Rate = None,
    requests: options.Requests = None,
    seed: options.Seed = 0,
) -> None:
    """Print rates, lengths and adapter shares, and every row that was changed or dropped."""
    from sim.readers import describe as facts_of  # noqa: PLC0415 - pandas is slow to import
    from sim.readers import read_trace  # noqa: PLC0415

    given: dict[str, Any]
    if file is None:
        _only_with_a_file({"--format": file_format, "--zero-output": zero_output})
        trace = _drawn(options.overrides(workload, None, rate, requests, None, None, None, None)["workload"], seed)
    else:
        _only_without_a_file({"--workload": workload, "--rate": rate})
        given = {"format": file_format, "zero_output": zero_output, "limit": requests}
        trace = read_trace(file, **{key: value for key, value in given.items() if value is not None})
    typer.echo(json.dumps(facts_of(trace), indent=2))


@app.command("make")
def make(
    file: Annotated[Path, typer.Argument(help="CSV file to write.")],
    workload: options.Workload = None,
    rate: options.Rate = None,
    requests: options.Requests = None,
    scale: options.Scale = None,
    seed: options.Seed = 0,
) -> None:
    """Draw a workload and write it as canonical CSV, with adapter ids and ranks."""
    _write(_drawn(options.overrides(workload, None, rate, requests, scale, None, None, None)["workload"], seed), file)


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="Trace file to read.")],
    file: Annotated[Path, typer.Argument(help="CSV file to write.")],
    file_format: Format = None,
    zero_output: ZeroOutput = None,
    rate: options.Rate = None,
    requests: options.Requests = None,
    scale: options.Scale = None,
    seed: options.Seed = 0,
) -> None:
    """Convert a public trace to canonical CSV; adapters are drawn where the file names none.

    Lengths stay as they are unless --scale is given, stamps unless --rate is.
    """
    if file.exists() and file.samefile(source):
        msg = f"{file} is the trace itself; give another file to write"
        raise ValueError(msg)
    kept = 1.0 if scale is None else scale
    given = options.overrides(None, source, rate, requests, kept, None, None, None)["workload"]
    _write(_drawn({**given, "format": file_format, "zero_output": zero_output}, seed), file)


def _only_with_a_file(flags: dict[str, object]) -> None:
    useless = [flag for flag, value in flags.items() if value is not None]
    if useless:
        msg = f"{', '.join(useless)}: allowed only with a trace file"
        raise ValueError(msg)


def _only_without_a_file(flags: dict[str, object]) -> None:
    useless = [flag for flag, value in flags.items() if value is not None]
    if useless:
        msg = f"{', '.join(useless)}: not allowed with a trace file, which is described as it is"
        raise ValueError(msg)


def _drawn(given: dict[str, Any], seed: int) -> Any:
    from sim.workload import WorkloadConfig, make_trace  # noqa: PLC0415
    from sim.yamlfile import validate  # noqa: PLC0415

    tree = {key: value for key, value in given.items() if value is not None}
    return make_trace(validate(WorkloadConfig, tree), seed)


def _write(trace: Any, file: Path) -> None:
    from sim.readers import write_canonical  # noqa: PLC0415

    file.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_canonical(trace, file)
    for what, rows in trace.notes:
        if rows:
            typer.echo(f"note: {options.note(what, rows)}", err=True)
    typer.echo(f"{len(trace)} requests written to {file}", err=True)
