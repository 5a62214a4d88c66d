"""The command `chameleon`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from sim.cli.app import app  # noqa: PLC0415 - an interrupt may come while it is imported

        app(prog_name="chameleon")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
