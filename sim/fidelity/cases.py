"""Published runs as cases: each can be simulated on its own, so that many of them share the cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sim.fidelity import kept
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


def perform(cases: Sequence[Case], jobs: int = 1, keep: Path | None = None) -> Iterator[tuple[int, list[Measure]]]:
    """Yield the place of each case and its measures as they come; the largest cases start first.

    Args:
        cases: what to simulate.
        jobs: processes.
        keep: a folder that takes what is finished, and gives what an earlier start has finished; None: nothing is kept.
    """
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    known = {} if keep is None else _known(cases, keep)
    yield from known.items()
    order = sorted(set(range(len(cases))) - set(known), key=lambda place: -cases[place].requests)
    runs = Parallel(n_jobs=jobs, return_as="generator_unordered", inner_max_num_threads=1)
    for place, measures in runs(delayed(_measures)(place, cases[place]) for place in order):
        if keep is not None:
            kept.save(keep, cases[place], measures)
        yield place, measures


def _known(cases: Sequence[Case], keep: Path) -> dict[int, list[Measure]]:
    found = ((place, kept.load(keep, case)) for place, case in enumerate(cases))
    return {place: measures for place, measures in found if measures is not None}


def _measures(place: int, case: Case) -> tuple[int, list[Measure]]:
    try:
        return place, case.measures()
    except ValueError as error:
        msg = f"{case.name}: {error}"
        raise ValueError(msg) from error
