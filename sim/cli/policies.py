"""`chameleon policies`: what policies and systems there are."""

from __future__ import annotations

import typer

from sim.cli.tables import table

app = typer.Typer(help="Policies and systems.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Policies and systems."""


@app.command("list")
def list_all() -> None:
    """List every built-in and installed policy and every packaged system, with its source."""
    from sim.config import load_config  # noqa: PLC0415 - pydantic is slow to import
    from sim.plugins import list_policies  # noqa: PLC0415
    from sim.yamlfile import packaged_names  # noqa: PLC0415

    rows = [
        [one.name, one.seam, one.summary if not one.broken else f"broken: {one.broken}", one.source]
        for one in list_policies()
    ]
    for name in packaged_names():
        config = load_config(name).config
        rows.append([name, "system", config.description, config.source])
    typer.echo(_left(["name", "kind", "what it does", "source"], rows))


@app.command("show")
def show(seam: str, name: str) -> None:
    """Show one policy's parameters."""
    from sim.plugins import describe  # noqa: PLC0415

    one = describe(seam, name)
    typer.echo(f"{one.seam} {one.name} ({one.origin})\n{one.summary}\nsource: {one.source}")
    for parameter in one.parameters:
        typer.echo(f"  {parameter}")


def _left(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    return table(header, [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows])
