"""What the published S-LoRA runs have in common: a trace is served, and what was published is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel

from policies.base import FloatArray
from sim.build import deploy, play
from sim.config import Loaded
from sim.fidelity.fitting import Trial
from sim.fidelity.measures import Measure
from sim.results.metrics import Offered, instant_s
from sim.trace import Trace


class Served(NamedTuple):
    """When the requests of a run had their tokens.

    Attributes:
        first_token_s: shape (n,), from the start of the run, inside the engine.
        finish_s: shape (n,), likewise.
        api_s: what a client saw later.
    """

    first_token_s: FloatArray
    finish_s: FloatArray
    api_s: float


def served(loaded: Loaded, trace: Trace, trial: Trial) -> Served:
    """Simulate a run.

    Raises:
        ValueError: if a request was turned away: such a run has no latency to compare.
    """
    deployment = deploy(trial.of(loaded), trace, gpu=trial.gpu)
    offered = Offered(trace, play(deployment))
    reasons = [reason for records in offered.records for reason in records.rejections.values()]
    if reasons:
        msg = f"{len(reasons)} requests do not fit the simulated server: {reasons[0]}"
        raise ValueError(msg)
    first_token_s, finish_s = (instant_s(offered.instant(name)) for name in ("first_token", "finish"))
    return Served(first_token_s, finish_s, deployment.costs.api_s)


def published(row: BaseModel, names: Sequence[str]) -> dict[str, float]:
    """Return the numbers of a row by name; those that were not published are left out."""
    values = {name: getattr(row, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def compared(
    where: tuple[str, str, str], measured: Mapping[str, float], simulated: Mapping[str, float]
) -> list[Measure]:
    """Return measured numbers beside simulated ones.

    Args:
        where: set, row and region.
        measured: by metric.
        simulated: by metric, of more than were measured.
    """
    return [Measure(*where, metric, value, simulated[metric]) for metric, value in measured.items()]


def repeated(names: Sequence[str]) -> list[int]:
    """Return which appearance of its name each entry is, from 1."""
    seen: Counter[str] = Counter()
    repeats = []
    for name in names:
        seen[name] += 1
        repeats.append(seen[name])
    return repeats


def again(repeat: int) -> str:
    """Return what tells a run from earlier ones with the same words."""
    return f" #{repeat}" if repeat > 1 else ""
