"""`chameleon systems`: what is packaged, what it is made of, and all of it side by side in one generated table."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options

if TYPE_CHECKING:
    from sim.experiments.field import Block
    from sim.experiments.sweep import Cell
    from sim.results.summary import Summary

app = typer.Typer(help="Systems: engines with their policies.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Packaged system or a YAML file.")]
Chosen = Annotated[
    list[str] | None,
    typer.Option("--system", "-s", help="System or file (repeatable). [default: all]"),
]
Page = Annotated[Path | None, typer.Option("--out", "-o", help="Markdown file to write. [default: standard output]")]
Keep = Annotated[
    Path | None, typer.Option("--keep", help="Keep every run below this folder, and go on from what is there.")
]


@app.callback()
def root() -> None:
    """Systems: engines with their policies."""


@app.command("list")
def list_all() -> None:
    """List every packaged system with what it is and where its rules come from.

    A terminal gets wrapped lines, a pipe one line for each.
    """
    from sim.config import load_config  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.files.yamlfile import packaged_names  # noqa: PLC0415

    found = [load_config(name).config for name in packaged_names()]
    width = max(len(config.name) for config in found)
    for config in found:
        for line in _entry(config.name.ljust(width), config.description, config.source):
            typer.echo(line)


@app.command("show")
def show(name: Name, sets: options.Sets = None) -> None:
    """Print a system as YAML with everything written out, and above it what it is, extends and changes in that."""
    from sim.config import load_config  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.files.yamlfile import dump, find  # noqa: PLC0415

    config = load_config(name, sets or ()).config
    above = [config.name, config.description, f"source: {config.source}"]
    if parents := _parents(find(name)):
        above.append("extends " + ", which extends ".join(parents))
    typer.echo("".join(f"# {line}\n" for line in above) + dump(config), nl=False)


@app.command("table")
def table(
    systems: Chosen = None,
    out: Page = None,
    reps: options.Reps = 5,
    requests: options.Requests = None,
    keep: Keep = None,
    jobs: options.Jobs = -1,
) -> None:
    """Put systems side by side as a Markdown page: latency, hits and link traffic at three loads, with intervals.

    With --keep it can be interrupted: the same command goes on from the runs that are finished.
    """
    from sim.cli.systems_page import page  # noqa: PLC0415
    from sim.experiments import field  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.files.output import check_file, check_folder  # noqa: PLC0415
    from sim.files.yamlfile import packaged_names  # noqa: PLC0415

    if out is not None:
        check_file(out)
    if keep is not None:
        check_folder(keep, keep)
    names = systems or packaged_names()
    found = _blocks(names, reps, requests or field.REQUESTS, keep, jobs)
    text = page(field.configs(names), found, requests or field.REQUESTS, reps)
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(text, out)


def _parents(path: Path) -> list[str]:
    """Return what a file extends, and what that extends, and so on."""
    from sim.files.yamlfile import find  # noqa: PLC0415
    from sim.files.yamltext import parse  # noqa: PLC0415

    parent = parse(path.read_text(encoding="utf-8"), str(path)).tree.get("extends")
    return [] if parent is None else [str(parent), *_parents(find(str(parent), path.parent))]


def _blocks(names: list[str], reps: int, requests: int, keep: Path | None, jobs: int) -> list[Block]:
    from sim.experiments.field import blocks, plan, settings  # noqa: PLC0415
    from sim.experiments.sweep import perform_cells  # noqa: PLC0415
    from sim.progress import progress  # noqa: PLC0415

    plans = [(setting, plan(setting, names, reps, requests, keep)) for setting in settings()]
    found: list[Block] = []
    with progress(sum(len(cells) for _, cells in plans), "systems") as bar:
        for setting, cells in plans:
            finished: list[tuple[Cell, Summary]] = []
            for one in perform_cells(cells, jobs):
                finished.append(one)
                bar.advance()
            found += blocks(setting, finished)
    return found


def _write(text: str, out: Path) -> None:
    from sim.files.textfile import write_text  # noqa: PLC0415

    write_text(out, text)
    typer.echo(f"written to {out}", err=True)


def _entry(name: str, description: str, source: str) -> Iterator[str]:
    """Yield the lines of one system, wrapped for a terminal, in one for a pipe."""
    texts = [description, *([f"[{source}]"] if source else [])]
    if not sys.stdout.isatty():
        yield f"{name}  {' '.join(texts)}"
        return
    indent = " " * (len(name) + 2)
    room = max(shutil.get_terminal_size().columns, 60)
    for text, first in zip(texts, (f"{name}  ", indent), strict=False):
        yield from textwrap.wrap(
            text,
            room,
            initial_indent=first,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
