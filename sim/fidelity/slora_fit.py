"""What published S-LoRA runs say about an engine and two GPUs: a few coefficients each, none for a single run.

The engine's host times come from the H100's runs, those below its capacity. With them, the A10G's and the A100's own
runs give what their kernels and their CPUs take. Halves of the runs are fitted too, and each predicts the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

from sim.config import load_config
from sim.fidelity import kept
from sim.fidelity.aims import AIMS
from sim.fidelity.cases import Case
from sim.fidelity.fit_progress import Part, Watch, looking
from sim.fidelity.fitting import Coefficient, Outcome, Trial, Values, fit, misses, with_costs, with_values
from sim.fidelity.measures import Measure
from sim.fidelity.slora import SYSTEM, SloraCase
from sim.fidelity.slora_h100 import H100Case
from sim.hardware import load_hardware

SATURATES_PER_S = 12.0  # the simulated H100, about; the real one served 12.7. A median beyond it is a run's length
GRADIENTS = 10  # of a fit, about
# A rate's prior is a share of its peak, and it cannot exceed 95 % of that; a fixed time's is a guess, 2 or 3 times off.
_OF_PEAK, _MOST = 0.8, 0.95


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
    """

    set: str
    target: str
    coefficients: tuple[Coefficient, ...]
    trial: Callable[[Values], Trial]


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


def engine_plan() -> Plan:
    """Return the fit of the engine's host times."""
    times = {"costs.host_s": 6e-3, "costs.prefill_host_s": 6e-3, "costs.launch_s": 1e-2, "costs.api_s": 2e-2}
    coefficients = tuple(Coefficient(key, prior, 0.7) for key, prior in times.items())
    costs = load_config(SYSTEM).config.costs
    return Plan("slora-h100", SYSTEM, coefficients, lambda values: Trial(engine=with_costs(costs, values)))


def is_of_an_engine(plan: Plan) -> bool:
    """Whether a plan is of an engine's costs and not of a card."""
    return plan.target == SYSTEM


def runs_to_fit(cases: Sequence[Case]) -> list[Run]:
    """Return the runs that coefficients are fitted to: all of the A10G and the A100, the H100's that ours can serve."""
    runs: list[Run] = [case for case in cases if isinstance(case, SloraCase)]
    return runs + [case for case in cases if isinstance(case, H100Case) and case.rate_per_s < SATURATES_PER_S]


def card_plans(engine: Values) -> tuple[Plan, ...]:
    """Return the fits of the cards.

    The A100's linear layers stay as they were measured (Vidur's table): four runs would not say more about them.

    Args:
        engine: the engine's host times, by key.
    """
    return _card("a10g", (*_gpu("a10g"), *_software("a10g")), engine), _card("a100-80", _software("a100-80"), engine)


def _card(name: str, coefficients: tuple[Coefficient, ...], engine: Values) -> Plan:
    base = load_hardware(name)
    costs = with_costs(load_config(SYSTEM).config.costs, engine)
    return Plan(f"slora-{name}", name, coefficients, lambda values: Trial(with_values(base, values), costs))


def _gpu(name: str) -> tuple[Coefficient, ...]:
    card = load_hardware(name)
    bandwidth = card.peak_hbm_bytes_per_s
    return (
        _rate("dense.flops_per_s", card.peak_flops, 0.2),
        _rate("dense.weight_bytes_per_s", bandwidth, 0.1),
        _rate("attention.kv_bytes_per_s", bandwidth, 0.1),
        _rate("lora.weight_bytes_per_s", bandwidth, 0.2),
        Coefficient("link.copy_issue_s", 2e-5, 1.0),
    )


def _software(name: str) -> tuple[Coefficient, ...]:
    """Return what a token of each request takes, reading its adapter again, and the CPU."""
    return (
        Coefficient("attention.sequence_s", 1e-6, 1.0),
        Coefficient("lora.l2_bytes_per_s", 3 * load_hardware(name).peak_hbm_bytes_per_s, 0.7),
        Coefficient("host.factor", 1.0, 0.7),
        Coefficient("host.api_factor", 1.0, 0.7),
    )


def _rate(key: str, peak: float, spread: float) -> Coefficient:
    return Coefficient(key, _OF_PEAK * peak, spread, _MOST * peak)


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

    values = fit(plan.coefficients, lambda values: misses(measures(split.fitted, values)))
    return Outcome(values, tuple(measures(split.fitted, values)), tuple(measures(split.unseen, values)))


def _measures(runs: Sequence[Run], trial: Trial) -> Iterator[Measure]:
    for run in runs:
        simulated = run.simulated(trial)
        for metric, measured in run.published.items():
            if metric in AIMS[run.set]:
                yield Measure(run.set, run.name, "", metric, measured, simulated[metric])
