"""One policy in one world: played with probes and without, again and one step at a time; what each says of the laws."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import simpy

from policies.base import Facts, Policy, Request, Router
from sim.conformance.given import Given
from sim.conformance.laws import Broken, BrokenLawError
from sim.conformance.limits import Limits, Meter
from sim.conformance.probes import counted, probed
from sim.conformance.records import difference
from sim.conformance.worlds import World, facts_of, play, play_routed
from sim.core import Core
from sim.plugins.provenance import is_users
from sim.serving.records import Records

REPLICAS = 3  # behind a router
ENDLESS = {"ends", "timers"}  # after these a run without probes might never come back
SIM = Path(__file__).parents[1]
_WATCHED = ("answers", "given", "pure", "timers")  # laws that a run with probes has judged, if it came to its end
_UNWATCHED = ("runs", "in use", "books", "ends")  # and one without them


class _Run(NamedTuple):
    """How one run ended: with records, or with a law broken and a sentence on how."""

    records: tuple[Records, ...] = ()
    law: str = ""
    why: str = ""


class _Trial(NamedTuple):
    """A policy of a seam in a world.

    Attributes:
        seam: of the policy.
        make: builds a fresh one.
        world: to play.
        meter: is told what the runs take.
    """

    seam: str
    make: Callable[[], Policy]
    world: World
    meter: Meter


def tried(seam: str, make: Callable[[], Policy], world: World, meter: Meter, only: str = "") -> Broken:
    """Return what one world says about the laws; those that it could not get to are left out.

    Args:
        seam: of the policy.
        make: builds a fresh one.
        world: to play.
        meter: is told what the runs take.
        only: the one law that matters; what says nothing about it is not played.
    """
    trial = _Trial(seam, make, world, meter)
    watched = _run(trial, is_watched=True)
    if watched.law in ENDLESS or (only and watched.law and only in (watched.law, *_WATCHED)):
        return {watched.law: watched.why}
    plain = _run(trial, checks=True)
    if plain.law:
        first = watched if watched.law else plain  # a probe that saw it coming says best what was wrong
        return {first.law: first.why}
    verdicts = dict.fromkeys(_UNWATCHED, "")
    if only not in (*_WATCHED, *_UNWATCHED):
        verdicts |= _compared(trial, plain)
    if watched.law:
        return verdicts | {watched.law: watched.why}
    parted = _parted(plain, watched)
    verdicts |= dict.fromkeys(_WATCHED, "")
    return verdicts | {"pure": parted and f"being asked twice changes what it does: {parted}"}


def _compared(trial: _Trial, plain: _Run) -> Broken:
    again = _run(trial)
    slow = _run(trial._replace(world=replace(trial.world, asks_every_step=True)))
    return {"repeats": _parted(plain, again), "fast": _parted(plain, slow)}


def _parted(one: _Run, other: _Run) -> str:
    if other.law:
        return f"the other run broke down: {other.why}"
    parted = (difference(*pair) for pair in zip(one.records, other.records, strict=True))
    return next((told for told in parted if told), "")


def _run(trial: _Trial, *, is_watched: bool = False, checks: bool = False) -> _Run:
    limits, given = Limits(trial.world, trial.meter), Given(trial.world)

    def make() -> Policy:
        policy = trial.make()
        return probed(policy, trial.seam, limits, given) if is_watched else counted(policy, limits)

    def boundary(core: Core) -> None:
        if is_watched or checks:
            _check(core, given)
        limits.passed(core)

    try:
        return _Run(_played(trial._replace(make=make), boundary))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's policy may raise anything
        law, why = _blame(error)
        return _Run((), law if law != "in use" or trial.seam == "cache" else "runs", why)


def _played(trial: _Trial, boundary: Callable[[Core], None]) -> tuple[Records, ...]:
    if trial.seam == "router":
        records = play_routed(trial.world, cast("Router", trial.make()), REPLICAS, boundary)
    else:
        policies: dict[str, Any] = {trial.seam: trial.make}
        records = (play(replace(trial.world, **policies), boundary)[1],)
    left, came = sum(len(one.requests) for one in records), len(trial.world.requests)
    if left != came:
        raise BrokenLawError("ends", f"{left} of {came} requests left the engine")
    return records


def _check(core: Core, given: Given) -> None:
    try:
        core.check()
    except RuntimeError as error:
        raise BrokenLawError("books", str(error)) from error
    requests: Iterator[Request] = (job.request for job in (*core.waiting.values(), *core.live.values()))
    given.check(requests, "some hook")


def _blame(error: BaseException) -> tuple[str, str]:
    """Return which law an error in a run speaks of, and what it says."""
    causes = list(_causes(error))
    for one in causes:
        if isinstance(one, BrokenLawError):
            return one.law, str(one.args[1])
    told = [(one, frames) for one in causes if (frames := traceback.extract_tb(one.__traceback__))]
    last_error, (*_, last) = told[-1]
    if last.name == "evict":
        return "in use", str(last_error)
    if Path(last.filename).is_relative_to(SIM) and last.name in {"simulate", "check_served", "_ring"}:
        return "ends", str(last_error)
    guilty, where = next(((one, theirs) for one, frames in told if (theirs := _theirs(frames))), (last_error, last))
    said = f"{type(guilty).__name__}: {guilty}" if str(guilty) else type(guilty).__name__
    return "runs", f"{said} (in {where.name}, {Path(where.filename).name}:{where.lineno})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from: SimPy raises copies, and Python hides StopIteration in another."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _theirs(frames: list[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """Return the deepest line of the author's own files, or else the deepest that is not of the engine."""
    foreign = [frame for frame in frames if not _is_ours(Path(frame.filename))]
    own = [frame for frame in foreign if frame.filename[0] != "<" and is_users(Path(frame.filename).resolve())]
    return next(reversed(own or foreign), None)


def _is_ours(file: Path) -> bool:
    return any(file.is_relative_to(home) for home in (SIM, Path(simpy.__file__).parent))


def predicted(make: Callable[[], Policy], rng: np.random.Generator, meter: Meter) -> Broken:
    """Return what one drawn workload says about the laws of a predictor."""
    size = int(rng.choice([1, 2, 30, 500]))
    given = (rng.integers(1, 2000, size), rng.integers(1, int(rng.choice([2, 50, 2000])), size), rng.random(size))
    for array in given:
        array.setflags(write=False)  # as in a run
    world = World([(0, 2000, 2000, None)])
    limits = Limits(world, meter)
    try:
        answers = [limits.within("predict", partial(_asked, make(), facts_of(world, ()), given, n)) for n in (2, 1)]
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's policy may raise anything
        law, why = _blame(error)
        return {law: why}
    (first, second), (fresh,) = answers
    return {
        "runs": "",
        "answers": _no_prediction(first, size),
        "pure": ""
        if np.array_equal(first, second)
        else f"predict for {size} requests gave other lengths when asked again",
        "repeats": ""
        if np.array_equal(first, fresh)
        else f"a fresh instance predicts other lengths for {size} requests",
    }


def _asked(policy: Any, facts: Facts, given: tuple[Any, ...], times: int) -> list[Any]:
    policy.start(facts)
    return [policy.predict(*given) for _ in range(times)]


def _no_prediction(answer: Any, size: int) -> str:
    """Return what is wrong with predicted lengths."""
    found = np.asarray(answer)
    if found.shape != (size,):
        return f"predict returned an array of shape {found.shape} for {size} requests"
    if found.dtype.kind not in "iu":
        return f"predict returned numbers of type {found.dtype}; whole numbers of tokens are expected"
    return "" if found.min() >= 1 else f"predict returned {found.min()} tokens; at least 1 is expected"
