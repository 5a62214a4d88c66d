"""From an exception to what the user reads: one message and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

USAGE = 2
INTERRUPTED = 130
WORDS = f"{__name__}.words"  # key of a context's notes
_OUT, _KEEP, _EITHER = ("with --out", "with --keep", "with --out or --keep")
# When a command that is interrupted has kept what was finished, and goes on from there; of the others nothing is kept.
KEEPING = {
    "run": _OUT,
    "sweep": _OUT,
    "capacity": _OUT,
    "systems table": _KEEP,
    "validate": _KEEP,
    "fit slora": _EITHER,
    "fit vllm": _EITHER,
    "data fetch": None,
    "gpu load": None,
    "gpu kernels": None,
    "gpu iterations": None,
    "gpu calibrate": None,
    "gpu check": None,
}


class Commands(TyperGroup):
    """The commands of the root; what they raise ends here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the words of the command line, by which an interrupted command is known."""
        ctx.meta[WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and turn a user's mistake into a message on standard error and exit code 2."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("; ".join(["interrupted", *_kept(self, ctx)]), err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of our output has gone, as `head` does
        except (ValueError, OSError) as error:
            typer.echo(f"error: {message(error)}", err=True)
            raise typer.Exit(USAGE) from None


def _kept(root: TyperGroup, ctx: Any) -> list[str]:
    """Return what is left of the command that was interrupted, in a sentence or none."""
    command: Any = root
    names = []
    for word in ctx.meta[WORDS]:
        command = command.get_command(ctx, word) if isinstance(command, TyperGroup) else None
        if command is None:
            break
        names.append(word)
    name = " ".join(names)
    if name not in KEEPING:
        return []
    return [", ".join([*filter(None, [KEEPING[name]]), "what was finished is kept"])]


def message(error: ValueError | OSError) -> str:
    """Return what is wrong, file first, and the lines of the user's file that are meant."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    problems = getattr(error, "problems", ())  # of a ConfigError; its module is slow to import
    marks = [getattr(problem, "mark", None) for problem in problems]
    if not any(mark is not None and mark.line for mark in marks):
        return str(error)
    return "\n".join(f"{problem}{_quoted(mark)}" for problem, mark in zip(problems, marks, strict=True))


def _quoted(mark: Any) -> str:
    if mark is None or not mark.line:
        return ""
    try:
        lines = Path(mark.file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return f"\n    {lines[mark.line - 1].strip()}" if mark.line <= len(lines) else ""
