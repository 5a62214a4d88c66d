"""`chameleon config`: check a file, print it resolved, print the schema that editors complete from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sim.cli import options
from sim.cli.loading import load_checked

app = typer.Typer(help="Configuration files.", no_args_is_help=True, rich_markup_mode=None)
File = Annotated[str, typer.Argument(help="YAML file or packaged system.")]


@app.command("check")
def check(file: File, sets: options.Sets = None) -> None:
    """Say whether a configuration could run; every mistake is named with file, line and key."""
    loaded = load_checked(file, sets)
    typer.echo(f"{file}: ok, a valid system named {loaded.config.name!r}")


@app.command("show")
def show(file: File, sets: options.Sets = None) -> None:
    """Print a configuration with everything that it extends and every default written out."""
    from sim.config import load_config  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.files.yamlfile import dump  # noqa: PLC0415

    typer.echo(dump(load_config(file, sets or ()).config), nl=False)


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of a configuration file."""
    from sim.config import RunConfig  # noqa: PLC0415
    from sim.files.yamlfile import json_schema  # noqa: PLC0415

    typer.echo(json.dumps(json_schema(RunConfig), indent=2))
