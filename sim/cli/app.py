"""The command's tree."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.cli import (
    capacity,
    compare,
    config,
    data,
    demo,
    fit,
    gpu,
    policies,
    report,
    run,
    sweep,
    systems,
    trace,
    validate,
)
from sim.cli.mistakes import Commands
from sim.cli.words import FlagsFile, GoodputWords

Version = Annotated[bool, typer.Option("--version", help="Print the version and leave.")]

app = typer.Typer(
    name="chameleon",
    cls=Commands,
    help="Simulate LLM serving with many LoRA adapters: cache, prefetch and scheduling policies on a modelled GPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would take "[default: paper]" for markup, and break messages at the 80th column
)
app.command("demo")(demo.demo)
app.command("run", cls=GoodputWords)(run.run)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("timeline")(report.timeline)
app.command("sweep", cls=FlagsFile, options_metavar="[FILE.yaml] [OPTIONS]")(sweep.sweep)
app.command("capacity")(capacity.capacity)
app.command("validate")(validate.validate)
app.add_typer(systems.app, name="systems")
app.add_typer(policies.app, name="policies")
app.add_typer(config.app, name="config")
app.add_typer(trace.app, name="trace")
app.add_typer(data.app, name="data")
app.add_typer(fit.app, name="fit")
app.add_typer(gpu.app, name="gpu")


@app.callback(invoke_without_command=True)
def root(*, version: Version = False) -> None:
    """Simulate LLM serving with many LoRA adapters."""
    if version:
        from importlib.metadata import version as installed  # noqa: PLC0415

        typer.echo(f"chameleon-sim {installed('chameleon-sim')}")
        raise typer.Exit
