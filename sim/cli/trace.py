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
    typer.Option("--format", help="Format of the file, see traces/README.md. [default: recognised from the file]"),
]
ZeroOutput = Annotated[
    str | None, typer.Option("--zero-output", help="drop or clamp requests without output. [default: drop]")
]
AdapterColumn = Annotated[
    str | None, typer.Option("--adapter-column", help="Column of the file to take as adapter ids.")
]
TextTokens = Annotated[
    str | None, typer.Option("--text-tokens", help="Estimate tokens of texts: words or characters (4 a token).")
]
Window = Annotated[
    str | None, typer.Option("--model", help="Hold requests against this model's context window. [default: none]")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Change any key of the workload: --set workload.adapters=0")
]


@app.command("describe")
def describe(  # noqa: PLR0913, PLR0917 - one argument for each flag
    file: Annotated[Path | None, typer.Argument(help="Trace file; none: the workload of the other flags.")] = None,
    file_format: Format = None,
    zero_output: ZeroOutput = None,
    adapter_column: AdapterColumn = None,
    text_tokens: TextTokens = None,
    workload: options.Workload = None,
    rate: options.Rate = None,
    requests: options.Requests = None,
    model: Window = None,
    sets: Sets = None,
    seed: options.Seed = 0,
) -> None:
    """Print rates, lengths and adapter shares, and every row that was changed or dropped.

    A file is described as it is; what it lacks and a run would draw is named.
    """
    from sim.readers.reading import describe as facts_of  # noqa: PLC0415 - pandas is slow to import
    from sim.readers.reading import read_trace  # noqa: PLC0415

    about: dict[str, Any] = {"--format": file_format, "--zero-output": zero_output}
    about |= {"--adapter-column": adapter_column, "--text-tokens": text_tokens}
    if file is None:
        _only_with_a_file(about)
        given = options.overrides(workload, None, rate, requests, None, None, None, None)["workload"]
        trace = _drawn(given, seed, sets, model)
    else:
        _only_without_a_file({"--workload": workload, "--rate": rate, "--set": sets})
        named = {flag.removeprefix("--").replace("-", "_"): value for flag, value in about.items()}
        wanted = {**named, "limit": requests, "seed": seed}
        trace = _windowed(read_trace(file, **{key: value for key, value in wanted.items() if value is not None}), model)
    typer.echo(json.dumps(facts_of(trace), indent=2))


@app.command("make")
def make(
    file: Annotated[Path, typer.Argument(help="CSV file to write.")],
    workload: options.Workload = None,
    rate: options.Rate = None,
    requests: options.Requests = None,
    scale: options.Scale = None,
    model: Window = None,
    sets: Sets = None,
    seed: options.Seed = 0,
) -> None:
    """Draw a workload and write it as canonical CSV, with adapter ids and ranks."""
    _check(file)
    given = options.overrides(workload, None, rate, requests, scale, None, None, None)["workload"]
    _write(_drawn(given, seed, sets, model), file)


@app.command("convert")
def convert(  # noqa: PLR0913, PLR0917 - one argument for each flag
    source: Annotated[Path, typer.Argument(help="Trace file to read.")],
    file: Annotated[Path, typer.Argument(help="CSV file to write.")],
    file_format: Format = None,
    zero_output: ZeroOutput = None,
    adapter_column: AdapterColumn = None,
    text_tokens: TextTokens = None,
    rate: options.Rate = None,
    requests: options.Requests = None,
    scale: options.Scale = None,
    model: Window = None,
    sets: Sets = None,
    seed: options.Seed = 0,
) -> None:
    """Convert a public trace to canonical CSV; what the file lacks, such as adapters, is drawn.

    Lengths stay as they are unless --scale is given, stamps unless --rate is.
    """
    if file.exists() and file.samefile(source):
        msg = f"{file} is the trace itself; give another file to write"
        raise ValueError(msg)
    _check(file)
    kept = 1.0 if scale is None else scale
    given = options.overrides(None, source, rate, requests, kept, None, None, None)["workload"]
    about = {"format": file_format, "zero_output": zero_output}
    about |= {"adapter_column": adapter_column, "text_tokens": text_tokens}
    _write(_drawn({**given, **about}, seed, sets, model), file)


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


def _drawn(given: dict[str, Any], seed: int, sets: list[str] | None, model: str | None) -> Any:
    from sim.files.yamlfile import ConfigError, set_values, validate  # noqa: PLC0415
    from sim.models import load_model  # noqa: PLC0415
    from sim.workload.making import WorkloadConfig, make_trace  # noqa: PLC0415

    tree = {key: value for key, value in given.items() if value is not None}
    document = set_values({"workload": tree}, sets or ())
    others = [key for key in document.tree if key != "workload"]
    if others:
        raise ConfigError([f"--set {others[0]}: only keys of the workload are allowed here, such as workload.adapters"])
    marks = {path[1:]: mark for path, mark in document.marks.items() if path[:1] == ("workload",)}
    config = validate(WorkloadConfig, document.tree["workload"], marks)
    return make_trace(config, seed, None if model is None else load_model(model))


def _windowed(trace: Any, model: str | None) -> Any:
    from sim.models import load_model  # noqa: PLC0415
    from sim.workload.shorten import windowed  # noqa: PLC0415

    return trace if model is None else windowed(trace, load_model(model))


def _check(file: Path) -> None:
    from sim.files.output import check_file  # noqa: PLC0415

    check_file(file)


def _write(trace: Any, file: Path) -> None:
    from sim.readers.reading import write_canonical  # noqa: PLC0415

    write_canonical(trace, file)
    for what, rows in trace.notes:
        if rows:
            typer.echo(f"note: {options.note(what, rows)}", err=True)
    typer.echo(f"{len(trace)} requests written to {file}", err=True)
