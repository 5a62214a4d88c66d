"""Fits of a few coefficients to whole published runs, of all of them and of halves that predict each other.

What a choice of coefficients led to is kept, so that a fit which was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

from sim.fidelity import kept
from sim.fidelity.aims import AIMS
from sim.fidelity.fit_progress import Part, Watch, looking
from sim.fidelity.fitting import Coefficient, Misses, Outcome, Trial, Values, fit, misses
from sim.fidelity.measures import Measure

GRADIENTS = 10  # of a fit, about


class Run(Protocol):
    """A published run that can be simulated with other coefficients."""

    @property
    def set(self) -> str:
        """The published set."""

    @property
    def name(self) -> str:
        """The run, in words that no other of its set has."""

    @property
    def requests(self) -> int:
        """About how many requests it simulates: the work that it is."""

    @property
    def workload(self) -> object:
        """What tells its requests from those of other runs."""

    @property
    def published(self) -> Mapping[str, float]:
        """Its numbers by name."""

    def simulated(self, trial: Trial) -> dict[str, float]:
        """Return the same numbers as simulated."""


class Plan(NamedTuple):
    """What is fitted to one set of runs.

    Attributes:
        set: the published set.
        target: the packaged profile or system that the coefficients belong to.
        coefficients: what may be moved.
        trial: what some values of them are simulated as.
        search: how they are found.
    """

    set: str
    target: str
    coefficients: tuple[Coefficient, ...]
    trial: Callable[[Values], Trial]
    search: Callable[[Sequence[Coefficient], Misses], Values] = fit

    @property
    def is_of_an_engine(self) -> bool:
        """Whether it is of an engine's costs and not of a card."""
        return any(one.key.startswith("costs.") for one in self.coefficients)


class Split(NamedTuple):
    """One fit: of all runs of a set, or of a half that then predicts the other.

    Attributes:
        plan: what is fitted.
        fitted: the runs that the fit sees.
        unseen: those that it does not.
        part: which runs these are, in a word.
    """

    plan: Plan
    fitted: tuple[Run, ...]
    unseen: tuple[Run, ...]
    part: str = "all"

    @property
    def name(self) -> str:
        """What no other fit is named."""
        return f"{self.plan.target}-{self.part}"

    @property
    def evaluations(self) -> int:
        """About how many choices of coefficients are looked at: a gradient takes one for each of them."""
        return GRADIENTS * (1 + len(self.plan.coefficients))

    @property
    def work(self) -> int:
        """How long the fit takes beside others, in requests."""
        return self.evaluations * sum(run.requests for run in self.fitted)


@dataclass(frozen=True)
class Evaluation:
    """Some runs, simulated with one choice of coefficients: what a fit that was stopped need not do again."""

    runs: tuple[Run, ...]
    trial: Trial

    def measures(self) -> list[Measure]:
        """Return the metrics with an aim beside the published ones."""
        return list(_measures(self.runs, self.trial))


def splits(plan: Plan, runs: Sequence[Run]) -> tuple[Split, ...]:
    """Return the fit of all runs of a set, and two of every other workload's that predict the rest.

    Runs of one workload, measured twice, stay together.

    Raises:
        ValueError: if there are fewer than two runs of it.
    """
    own = tuple(run for run in runs if run.set == plan.set)
    if len(own) < 2:
        msg = f"{len(own)} runs are of {plan.set}; at least 2 are needed, so that each half can predict the other"
        raise ValueError(msg)
    places = {workload: place for place, workload in enumerate(dict.fromkeys(run.workload for run in own))}
    even = tuple(run for run in own if places[run.workload] % 2 == 0)
    odd = tuple(run for run in own if places[run.workload] % 2)
    return Split(plan, own, ()), Split(plan, even, odd, "half"), Split(plan, odd, even, "other")


def carried_out(
    splits: Sequence[Split], jobs: int, keep: Path | None, advance: Callable[[float], None]
) -> list[Outcome]:
    """Return what each fit found.

    Args:
        splits: what to fit.
        jobs: processes.
        keep: as in `carry_out`.
        advance: is told of work that is done, all together as much as the fits' is.
    """
    if keep is None:  # what is kept is also how far they have come
        with TemporaryDirectory() as folder:
            return carried_out(splits, jobs, Path(folder), advance)
    watch = Watch([Part(keep / split.name, split.evaluations, split.work) for split in splits], advance)
    found: dict[int, Outcome] = {}
    with looking(watch):
        for place, outcome in _unordered(splits, jobs, keep):
            found[place] = outcome
            watch.finish(place)
    return [found[place] for place in range(len(splits))]


def _unordered(splits: Sequence[Split], jobs: int, keep: Path) -> Iterator[tuple[int, Outcome]]:
    """Yield the place of each fit and what it found, as they come; the longest start first."""
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    order = sorted(range(len(splits)), key=lambda place: -splits[place].work)
    runs = Parallel(n_jobs=jobs, return_as="generator_unordered", inner_max_num_threads=1)
    yield from runs(delayed(_placed)(place, splits[place], keep) for place in order)


def _placed(place: int, split: Split, keep: Path) -> tuple[int, Outcome]:
    return place, carry_out(split, keep)


def carry_out(split: Split, keep: Path | None = None) -> Outcome:
    """Fit and look at the errors.

    Args:
        split: what is fitted.
        keep: a folder that takes, in one of the fit's name, what every choice of coefficients led to, so that a fit
            that was stopped gets to where it was at once; None: nothing is kept.
    """
    plan, folder = split.plan, None if keep is None else keep / split.name

    def measures(runs: tuple[Run, ...], values: Values) -> list[Measure]:
        evaluation = Evaluation(runs, plan.trial(values))
        return kept.made(folder, evaluation, evaluation.measures)

    values = plan.search(plan.coefficients, lambda values: misses(measures(split.fitted, values)))
    return Outcome(values, tuple(measures(split.fitted, values)), tuple(measures(split.unseen, values)))


def _measures(runs: Sequence[Run], trial: Trial) -> Iterator[Measure]:
    for run in runs:
        simulated = run.simulated(trial)
        for metric, measured in run.published.items():
            if metric in AIMS[run.set]:
                yield Measure(run.set, run.name, "", metric, measured, simulated[metric])
