"""Capacity of several systems over several seeds: the searches, where each begins, and intervals.

Searches of one seed differ in nothing but the system, so answers are compared seed by seed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import starmap
from typing import Literal, NamedTuple

from sim.config import Loaded
from sim.experiments.capacity import highest_step
from sim.experiments.objective import Objective, Probe, at_rate, probe
from sim.experiments.replications import replace_config, with_seed
from sim.results.identity import files_sha256, source_sha256
from sim.statistics import Interval, mean_interval

Unit = Literal["requests/s", "replicas"]
# "above": the most that was tried is carried, or, of replicas, is not enough; "below": the least is too much.
End = Literal["found", "below", "above"]
STRIDE = 1.5  # ratio of the second rate that is tried to the first, where nothing is known


class Dial(NamedTuple):
    """What is turned: the rate, on a grid of equal ratios, or, at a fixed rate, the number of replicas.

    Attributes:
        low, high: requests/s, or replicas.
        precision: ratio of neighbouring rates, less 1; of no meaning to replicas.
        rate_per_s: at which replicas are counted; None turns the rate.
    """

    low: float
    high: float
    precision: float
    rate_per_s: float | None = None

    @property
    def unit(self) -> Unit:
        """What the answer counts."""
        return "requests/s" if self.rate_per_s is None else "replicas"

    @property
    def steps(self) -> int:
        """The number of the last step; the first is 0."""
        if self.rate_per_s is not None:
            return int(self.high - self.low)
        return math.floor(math.log(self.high / self.low) / math.log1p(self.precision) + 1e-9)

    def value(self, step: int) -> float:
        """Return a rate with six digits, or a number of replicas."""
        if self.rate_per_s is not None:
            return self.low + step
        return float(f"{self.low * (1 + self.precision) ** step:.6g}")

    def step(self, value: float) -> int:
        """Return the step nearest to a value."""
        if self.rate_per_s is not None:
            return int(value - self.low)
        near = round(math.log(value / self.low) / math.log1p(self.precision))
        return min(max(near, 0), self.steps)

    def turned(self, loaded: Loaded, value: float) -> Loaded:
        """Return the configuration with the value set."""
        if self.rate_per_s is None:
            return at_rate(loaded, value)
        return at_rate(replace_config(loaded, replicas=int(value)), self.rate_per_s)


class Question(NamedTuple):
    """One search.

    Attributes:
        loaded: system, workload and seed.
        objective: what must be kept to.
        dial: what is turned.
        start: where to begin; None: at the workload's own rate, or at one replica.
    """

    loaded: Loaded
    objective: Objective
    dial: Dial
    start: float | None = None

    @property
    def key(self) -> str:
        """What makes it this very search: the configuration, the files that it names, the simulator's own source."""
        config = self.loaded.config.model_dump(mode="json")
        told = [config, self.objective, self.dial, self.start, source_sha256(), files_sha256(config)]
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class Answer(NamedTuple):
    """What a search found.

    Attributes:
        value: the highest rate that is carried, or the fewest replicas that carry; where `end` is not "found", the
            lowest or the highest that was allowed.
        queue: how the queue did there: stable, backlogged or overloaded; None where nothing is carried.
        probes: in the order in which they were made.
    """

    key: str
    system: str
    seed: int
    value: float
    end: End
    queue: str | None
    probes: tuple[Probe, ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the seconds of the last load that was tried rest on."""
        return self.probes[-1].remarks if self.probes else ()


def search(question: Question, key: str | None = None) -> Answer:
    """Return the answer to one question.

    It takes latencies to grow with the rate and to fall with replicas; near the knee they do so only on average.

    Args:
        question: what is asked.
        key: its key, where that is known.
    """
    dial, config = question.dial, question.loaded.config
    probes: dict[float, Probe] = {}

    def is_met(step: int) -> bool:
        value = dial.value(step)
        probes[value] = probe(dial.turned(question.loaded, value), question.objective)
        return probes[value].is_met

    value, end = _most(question, is_met) if dial.unit == "requests/s" else _fewest(question, is_met)
    at_answer = probes[value]
    queue = at_answer.queue if at_answer.is_met else None
    return Answer(key or question.key, config.name, config.seed, value, end, queue, tuple(probes.values()))


def _most(question: Question, is_met: Callable[[int], bool]) -> tuple[float, End]:
    dial, own = question.dial, question.loaded.config.workload.rate_per_s
    wide = max(1, round(math.log(STRIDE) / math.log1p(dial.precision)))
    first, stride = (dial.step(own or 1.0), wide) if question.start is None else (dial.step(question.start), 1)
    found = highest_step(is_met, dial.steps, first, stride)
    end: End = "below" if found < 0 else "above" if found == dial.steps else "found"
    return dial.value(max(found, 0)), end


def _fewest(question: Question, is_met: Callable[[int], bool]) -> tuple[float, End]:
    dial = question.dial
    first = 0 if question.start is None else max(dial.step(question.start) - 1, 0)
    too_few = highest_step(lambda step: not is_met(step), dial.steps, first, 1)
    return (dial.high, "above") if too_few == dial.steps else (dial.value(too_few + 1), "found")


def answers(
    systems: Sequence[Loaded],
    seeds: int,
    objective: Objective,
    dial: Dial,
    *,
    kept: Mapping[str, Answer] | None = None,
    jobs: int = 1,
) -> Iterator[Answer]:
    """Yield the answer of each system and seed: the first seed of all systems first, where the others then begin.

    Args:
        systems: one configuration each, with the first seed.
        seeds: how many, counted up.
        objective: what must be kept to.
        dial: what is turned.
        kept: answers of an earlier start, by key; they are not searched for again.
        jobs: processes.
    """
    first = {}
    for answer in _searched([Question(one, objective, dial) for one in systems], kept or {}, jobs):
        first[answer.system] = answer.value
        yield answer
    more = (
        Question(with_seed(one, one.config.seed + rep), objective, dial, first[one.config.name])
        for rep in range(1, seeds)
        for one in systems
    )
    yield from _searched(list(more), kept or {}, jobs)


def _searched(questions: Sequence[Question], kept: Mapping[str, Answer], jobs: int) -> Iterator[Answer]:
    keyed = [(one, one.key) for one in questions]
    yield from (kept[key] for _, key in keyed if key in kept)
    new = [(one, key) for one, key in keyed if key not in kept]
    if jobs == 1 or len(new) < 2:
        yield from starmap(search, new)
        return
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", inner_max_num_threads=1)
    yield from parallel(starmap(delayed(search), new))


class Line(NamedTuple):
    """One system over its seeds.

    Attributes:
        value: mean over seeds; None where an answer lies outside the bounds of the search.
        ratio: to the first system, paired by seed; None for the first itself, and where a value is missing.
        queues: how many seeds had a stable, backlogged or overloaded queue at their answer.
        answers: by seed.
    """

    system: str
    value: Interval | None
    ratio: Interval | None
    queues: Mapping[str, int]
    answers: tuple[Answer, ...]

    @property
    def ends(self) -> set[End]:
        """How its searches ended."""
        return {one.end for one in self.answers}


def lines(found: Sequence[Answer], systems: Sequence[str]) -> list[Line]:
    """Return a line per system that has an answer, in the order given, over the seeds so far."""
    by_system = {
        name: sorted((one for one in found if one.system == name), key=lambda one: one.seed) for name in systems
    }
    return [_line(name, own, by_system[systems[0]]) for name, own in by_system.items() if own]


def _line(system: str, own: Sequence[Answer], first: Sequence[Answer]) -> Line:
    known, base = ({one.seed: one.value for one in side if one.end == "found"} for side in (own, first))
    is_whole = len(known) == len(own)
    pairs = [known[seed] / base[seed] for seed in known if seed in base]
    is_paired = is_whole and len(pairs) == len(own) and system != first[0].system
    return Line(
        system,
        mean_interval(list(known.values())) if is_whole else None,
        mean_interval(pairs) if is_paired else None,
        Counter(one.queue for one in own if one.queue is not None),
        tuple(own),
    )
