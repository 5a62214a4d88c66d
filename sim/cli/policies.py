"""`chameleon policies`: what policies and systems there are."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options

if TYPE_CHECKING:
    from sim.plugins import PolicyInfo

app = typer.Typer(help="Policies and systems.", no_args_is_help=True, rich_markup_mode=None)
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="[SEAM] NAME",
        help="scheduler, cache, prefetch or predictor (left out: any), and a name, module:Class or ./file.py:Class.",
    ),
]


@app.callback()
def root() -> None:
    """Policies and systems."""


@app.command("list")
def list_all() -> None:
    """List every built-in and installed policy and every packaged system, with its source."""
    from sim.plugins import list_policies  # noqa: PLC0415 - pydantic is slow to import

    groups: dict[str, list[tuple[str, str, str]]] = {}
    for one in list_policies():
        told = f"broken: {one.broken}" if one.broken else one.summary
        groups.setdefault(one.seam, []).append((one.name, told, one.source))
    for name in _systems():
        groups.setdefault("system", []).append((name, *_system(name)))
    width = max(len(name) for rows in groups.values() for name, _, _ in rows)
    typer.echo("\n\n".join(_group(seam, rows, width) for seam, rows in groups.items()))


@app.command("show")
def show(words: Words) -> None:
    """Show what a policy or system does, and a policy's parameters with their defaults."""
    if len(words) > 2:
        msg = f"one policy at a time: [SEAM] NAME, got {' '.join(words)}"
        raise ValueError(msg)
    typer.echo(_shown(_described(*words)) if len(words) == 2 else _anywhere(words[0]))


@app.command("check")
def check(words: Words, sets: options.Sets = None) -> None:
    """Say whether a policy, such as one of your own, keeps the rules; exit code 1 if it does not."""
    from sim.cli.policycheck import check as findings  # noqa: PLC0415 - pydantic is slow to import

    if len(words) != 2:
        msg = f"a seam and a name are needed, such as cache ./my_cache.py:CostAware; got {' '.join(words)}"
        raise ValueError(msg)
    are_kept = True
    for one in findings(words[0], words[1], sets or []):
        typer.echo(f"{'ok    ' if one.is_kept else 'BROKEN'}  {one.rule}")
        are_kept = are_kept and one.is_kept
    if not are_kept:
        raise typer.Exit(1)


def _anywhere(name: str) -> str:
    from sim.names import SEAMS  # noqa: PLC0415

    found = [_shown(info) for seam in SEAMS if (info := _if_any(seam, name))]
    if name in _systems():
        description, source = _system(name)
        found.append(f"system {name}\n{description}\nsource: {source}\nall its keys: chameleon config show {name}")
    if not found:
        raise ValueError(_unknown(name))
    return "\n\n".join(found)


def _systems() -> list[str]:
    from sim.yamlfile import packaged_names  # noqa: PLC0415

    return packaged_names()


def _system(name: str) -> tuple[str, str]:
    from sim.config import load_config  # noqa: PLC0415

    config = load_config(name).config
    return config.description, config.source


def _described(seam: str, name: str) -> PolicyInfo:
    from sim.plugins import describe  # noqa: PLC0415
    from sim.yamlfile import ConfigError  # noqa: PLC0415

    try:
        return describe(seam, name)
    except ConfigError as error:  # no configuration is read here, so the keys in its message say nothing
        raise ConfigError([problem.message for problem in error.problems]) from error.__cause__


def _if_any(seam: str, name: str) -> PolicyInfo | None:
    from sim.plugins import list_policies  # noqa: PLC0415

    return next((one for one in list_policies(seam) if one.name == name and not one.broken), None)


def _unknown(name: str) -> str:
    from sim.names import SEAMS, did_you_mean  # noqa: PLC0415
    from sim.plugins import list_policies  # noqa: PLC0415

    if name in SEAMS:
        return f"a {name} is shown by its name: {', '.join(one.name for one in list_policies(name))}"
    if ":" in name:
        return f"the seam of {name!r} must be said: chameleon policies show cache {name}"
    known = {one.name for one in list_policies()} | set(_systems())
    return f"no policy or system is named {name!r}{did_you_mean(name, known)}"


def _shown(one: PolicyInfo) -> str:
    parameters = [f"  {parameter}" for parameter in one.parameters] or ["  no parameters"]
    source = [f"source: {one.source}"] if one.source else []
    return "\n".join([f"{one.seam} {one.name} ({one.origin})", one.summary, *source, *parameters])


def _group(seam: str, rows: list[tuple[str, str, str]], width: int) -> str:
    room = max(shutil.get_terminal_size().columns, 60)
    indent = " " * (width + 4)
    lines = [f"{seam}:"]
    for name, told, source in rows:
        lines.append(textwrap.fill(told, room, initial_indent=f"  {name.ljust(width)}  ", subsequent_indent=indent))
        if source:
            lines.append(textwrap.fill(f"[{source}]", room, initial_indent=indent, subsequent_indent=indent))
    return "\n".join(lines)
