"""The command `chameleon`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def main() -> None:
    """Run the command line and leave with its exit code.

    SIGTERM ends it as Ctrl-C does, with an exit code of its own: workers end, and what was finished is told.
    """
    with _ended_by_sigterm() as heard:
        code = _run()
    sys.exit(TERMINATED if heard else code)


def _run() -> str | int | None:
    try:
        from sim.cli.app import app  # noqa: PLC0415 - an interrupt may come while it is imported

        app(prog_name="chameleon")
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as left:
        return left.code
    return None


@contextmanager
def _ended_by_sigterm() -> Iterator[list[int]]:
    """Turn the first SIGTERM into a KeyboardInterrupt; yield a list of those that came.

    Further ones change nothing: `timeout` sends two, and the second would break off what the first has begun. Whoever
    has a handler, or ignores the signal, keeps it so.
    """
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) == 1:
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL):
        yield heard
        return
    signal.signal(signal.SIGTERM, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
