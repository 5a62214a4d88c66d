"""`chameleon policies`: what policies and systems there are."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli import options

if TYPE_CHECKING:
    from sim.plugins.named import PolicyInfo

app = typer.Typer(help="Policies and systems.", no_args_is_help=True, rich_markup_mode=None)
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="[SEAM] NAME", help="A name, module:Class or ./file.py:Class; the seam only where in doubt."
    ),
]
Seam = Annotated[
    str | None, typer.Option("--seam", metavar="SEAM", help="scheduler, cache, prefetch, predictor or router.")
]


@app.callback()
def root() -> None:
    """Policies and systems."""


@app.command("list")
def list_all(
    seam: Annotated[str | None, typer.Argument(metavar="[SEAM]", help="One seam, or system. [default: all]")] = None,
) -> None:
    """List every built-in and installed policy and every packaged system, with its source.

    A terminal gets wrapped lines, a pipe one line for each: seam, name, what it does, source.
    """
    groups = _groups(seam)
    if sys.stdout.isatty():
        width = max(len(name) for rows in groups.values() for name, _, _ in rows)
        typer.echo("\n\n".join(_group(seam, rows, width) for seam, rows in groups.items()))
    else:
        typer.echo("\n".join(_lines(groups)))


@app.command("show")
def show(words: Words, seam: Seam = None) -> None:
    """Show what a policy or system does, and a policy's parameters with their defaults and what they mean."""
    words = words if seam is None else [seam, *words]
    if len(words) > 2:
        msg = f"one policy at a time: [SEAM] NAME, got {' '.join(words)}"
        raise ValueError(msg)
    typer.echo(_shown(_described(*words)) if len(words) == 2 else _anywhere(words[0]))


@app.command("check")
def check(
    words: Words,
    seam: Seam = None,
    worlds: Annotated[
        int,
        typer.Option("--worlds", parser=options.whole_number(1), metavar="N", help="Random worlds to play."),
    ] = 60,
    seed: Annotated[
        int, typer.Option("--seed", parser=options.whole_number(0), metavar="N", help="Of the worlds.")
    ] = 0,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter of the policy (repeatable).")
    ] = None,
) -> None:
    """Hold a policy, such as one of your own, against the laws that ours keep; exit code 1 if it breaks one.

    A law that is broken is shown in the smallest world that was found.
    """
    from sim.cli import policycheck  # noqa: PLC0415 - pydantic is slow to import

    are_kept = True
    for line, is_kept in policycheck.check(*policycheck.find(words, seam), sets or [], worlds=worlds, seed=seed):
        typer.echo(line)
        are_kept = are_kept and is_kept
    if not are_kept:
        raise typer.Exit(1)


def _groups(seam: str | None) -> dict[str, list[tuple[str, str, str]]]:
    """Return (name, what it does, source) of what there is, by seam; systems last."""
    from sim.names import SEAMS, did_you_mean  # noqa: PLC0415
    from sim.plugins.named import list_policies  # noqa: PLC0415 - pydantic is slow to import

    if seam not in {None, "system", *SEAMS}:
        msg = f"no seam is named {seam!r}{did_you_mean(str(seam), (*SEAMS, 'system'))}"
        raise ValueError(msg)
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for one in [] if seam == "system" else list_policies(seam):
        told = f"broken: {one.broken}" if one.broken else one.summary
        groups.setdefault(one.seam, []).append((one.name, told, one.source))
    if seam in {None, "system"}:
        groups["system"] = [(name, *_system(name)) for name in _systems()]
    return groups


def _lines(groups: dict[str, list[tuple[str, str, str]]]) -> Iterator[str]:
    width = max(len(name) for rows in groups.values() for name, _, _ in rows)
    for seam, rows in groups.items():
        for name, told, source in rows:
            yield f"{seam:<9}  {name:<{width}}  {told}{f' [{source}]' if source else ''}"


def _anywhere(name: str) -> str:
    from sim.cli.policycheck import only_seam  # noqa: PLC0415
    from sim.names import SEAMS  # noqa: PLC0415

    if ":" in name:
        return _shown(_described(only_seam(name), name))
    found = [_shown(info) for seam in SEAMS if (info := _if_any(seam, name))]
    if name in _systems():
        description, source = _system(name)
        found.append(f"system {name}\n{description}\nsource: {source}\nall its keys: chameleon config show {name}")
    if not found:
        raise ValueError(_unknown(name))
    return "\n\n".join(found)


def _systems() -> list[str]:
    from sim.files.yamlfile import packaged_names  # noqa: PLC0415

    return packaged_names()


def _system(name: str) -> tuple[str, str]:
    from sim.config import load_config  # noqa: PLC0415

    config = load_config(name).config
    return config.description, config.source


def _described(seam: str, name: str) -> PolicyInfo:
    from sim.files.yamlfile import ConfigError  # noqa: PLC0415
    from sim.plugins.named import describe  # noqa: PLC0415

    try:
        return describe(seam, name)
    except ConfigError as error:  # no configuration is read here, so the keys in its message say nothing
        raise ConfigError([problem.message for problem in error.problems]) from error.__cause__


def _if_any(seam: str, name: str) -> PolicyInfo | None:
    from sim.plugins.named import list_policies  # noqa: PLC0415

    return next((one for one in list_policies(seam) if one.name == name and not one.broken), None)


def _unknown(name: str) -> str:
    from sim.names import SEAMS, did_you_mean  # noqa: PLC0415
    from sim.plugins.named import list_policies  # noqa: PLC0415

    if name in SEAMS:
        return f"a {name} is shown by its name: {', '.join(one.name for one in list_policies(name))}"
    known = {one.name for one in list_policies()} | set(_systems())
    return f"no policy or system is named {name!r}{did_you_mean(name, known)}"


def _shown(one: PolicyInfo) -> str:
    docs = dict(one.docs)
    lines = [f"{one.seam} {one.name} ({one.origin})", *_wrapped(one.summary, "")]
    if one.source:
        lines += _wrapped(f"source: {one.source}", "", "        ")
    for parameter in one.parameters:
        lines += _wrapped(parameter, "  ", "      ")
        lines += _wrapped(docs.get(parameter.partition(":")[0].partition("=")[0].strip(), ""), "      ")
    return "\n".join([*lines, *([] if one.parameters else ["  no parameters"])])


def _wrapped(text: str, indent: str, hanging: str | None = None) -> list[str]:
    """Return lines for a terminal's width; as a single one for a pipe."""
    room = max(shutil.get_terminal_size().columns, 60) if sys.stdout.isatty() else 1 << 20
    return textwrap.wrap(
        text,
        room,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _group(seam: str, rows: list[tuple[str, str, str]], width: int) -> str:
    indent = " " * (width + 4)
    lines = [f"{seam}:"]
    for name, told, source in rows:
        lines += _wrapped(told, f"  {name.ljust(width)}  ", indent) or [f"  {name}"]
        lines += _wrapped(f"[{source}]" if source else "", indent)
    return "\n".join(lines)
