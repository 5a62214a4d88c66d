"""From an exception to what the user reads: one message and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

USAGE = 2
INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands of the root; what they raise ends here."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and turn a user's mistake into a message on standard error and exit code 2."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted; with --out or --keep, what was finished is kept", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of our output has gone, as `head` does
        except (ValueError, OSError) as error:
            typer.echo(f"error: {message(error)}", err=True)
            raise typer.Exit(USAGE) from None


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
