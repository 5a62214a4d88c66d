"""The command `chameleon`: runs it, and turns a user's mistake into one located message and exit code 2."""

from __future__ import annotations

import sys

import click

USAGE = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line and leave with its exit code."""
    from sim.cli.app import app  # noqa: PLC0415 - so that an import error is reported like any other

    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted; what was finished is kept", file=sys.stderr)  # noqa: T201
        code = INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        code = USAGE
    sys.exit(code)


if __name__ == "__main__":
    main()
