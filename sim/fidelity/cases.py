"""Published runs as cases: each can be simulated on its own, so that many of them share the cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from sim.fidelity.measures import Measure


class Case(Protocol):
    """One published run that can be rebuilt; it must survive being sent to another process."""

    @property
    def name(self) -> str:
        """The run, in words that no other of its set has."""

    @property
    def requests(self) -> int:
        """About how many requests it simulates, all seeds together: the work that it is."""

    def measures(self) -> list[Measure]:
        """Simulate it and return its metrics beside the published ones."""


def perform(cases: Sequence[Case], jobs: int = 1) -> Iterator[tuple[int, list[Measure]]]:
    """Yield the place of each case and its measures, over so many processes; the largest cases start first."""
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    order = sorted(range(len(cases)), key=lambda place: -cases[place].requests)
    runs = Parallel(n_jobs=jobs, return_as="generator", inner_max_num_threads=1)
    yield from zip(order, runs(delayed(_measures)(cases[place]) for place in order), strict=True)


def _measures(case: Case) -> list[Measure]:
    try:
        return case.measures()
    except ValueError as error:
        msg = f"{case.name}: {error}"
        raise ValueError(msg) from error
