"""How far fits in other processes have come, by what they have kept: each leaves a file for every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

MOST = 0.95  # of a fit that goes on: nobody knows how many evaluations it needs
EVERY_S = 1.0


class Part(NamedTuple):
    """One fit of several.

    Attributes:
        folder: where it leaves its evaluations.
        expected: how many they may become.
        work: how long it takes beside others.
    """

    folder: Path
    expected: int
    work: float


class Watch:
    """Some fits under way.

    Args:
        parts: the fits.
        advance: is told of work that is done.
    """

    def __init__(self, parts: Sequence[Part], advance: Callable[[float], None]) -> None:
        self._parts, self._advance = parts, advance
        self._done: set[int] = set()
        self._told = 0.0

    def finish(self, place: int) -> None:
        """Count a fit as done."""
        self._done.add(place)

    def look(self) -> None:
        """Tell what has been done since the last look; less than before is nothing."""
        found = sum(self._share(place) * part.work for place, part in enumerate(self._parts))
        if found > self._told:
            self._advance(found - self._told)
            self._told = found

    def _share(self, place: int) -> float:
        if place in self._done:
            return 1.0
        part = self._parts[place]
        return min(sum(1 for _ in part.folder.glob("*.json")) / part.expected, MOST)


@contextmanager
def looking(watch: Watch) -> Iterator[None]:
    """Look again and again, beside what is done in this context, and once after it."""
    ended = Event()

    def look() -> None:
        while not ended.wait(EVERY_S):
            watch.look()

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        watch.look()
