"""One policy in one world: played with probes and without, again and one step at a time; what each says of the laws."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import simpy

from policies.base import Facts, Policy, Router
from sim.conformance.probes import BrokenLawError, probed
from sim.conformance.records import difference
from sim.conformance.worlds import World, facts_of, play, play_routed
from sim.core import Core
from sim.serving.records import Records

REPLICAS = 3  # behind a router
MAX_REPEATS = 50  # decode steps of a world over those that its requests need: work may be thrown away, but not for ever
MAX_BOUNDARIES = 30_000
ENDLESS = {"ends", "timers"}  # after these a run without probes might never come back
SIM = Path(__file__).parents[1]
_WATCHED = ("answers", "pure", "timers")  # laws that a run with probes has judged, if it came to its end
_UNWATCHED = ("runs", "in use", "books", "ends")  # and one without them

Broken = dict[str, str]  # law -> what went wrong; empty if nothing did


class _Run(NamedTuple):
    """How one run ended: with records, or with a law broken and a sentence on how."""

    records: tuple[Records, ...] = ()
    law: str = ""
    why: str = ""


def tried(seam: str, make: Callable[[], Policy], world: World, only: str = "") -> Broken:
    """Return what one world says about the laws; those that it could not get to are left out.

    Args:
        seam: of the policy.
        make: builds a fresh one.
        world: to play.
        only: the one law that matters; what says nothing about it is not played.
    """
    watched = _run(seam, lambda: probed(make(), seam), world, checks=True)
    if watched.law in ENDLESS or (only and watched.law and only in (watched.law, *_WATCHED)):
        return {watched.law: watched.why}
    plain = _run(seam, make, world, checks=True)
    if plain.law:
        first = watched if watched.law else plain  # a probe that saw it coming says best what was wrong
        return {first.law: first.why}
    verdicts = dict.fromkeys(_UNWATCHED, "")
    if only not in (*_WATCHED, *_UNWATCHED):
        verdicts |= _compared(seam, make, world, plain)
    if watched.law:
        return verdicts | {watched.law: watched.why}
    parted = _parted(plain, watched)
    verdicts |= dict.fromkeys(_WATCHED, "")
    return verdicts | {"pure": parted and f"being asked twice changes what it does: {parted}"}


def _compared(seam: str, make: Callable[[], Policy], world: World, plain: _Run) -> Broken:
    again = _run(seam, make, world)
    slow = _run(seam, make, replace(world, asks_every_step=True))
    return {"repeats": _parted(plain, again), "fast": _parted(plain, slow)}


def _parted(one: _Run, other: _Run) -> str:
    if other.law:
        return f"the other run broke down: {other.why}"
    parted = (difference(*pair) for pair in zip(one.records, other.records, strict=True))
    return next((told for told in parted if told), "")


def _run(seam: str, make: Callable[[], Policy], world: World, *, checks: bool = False) -> _Run:
    try:
        return _Run(_played(seam, make, world, _Boundary(world, checks=checks)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's policy may raise anything
        law, why = _blame(error)
        return _Run((), law if law != "in use" or seam == "cache" else "runs", why)


def _played(
    seam: str, make: Callable[[], Policy], world: World, boundary: Callable[[Core], None]
) -> tuple[Records, ...]:
    if seam == "router":
        records = play_routed(world, cast("Router", make()), REPLICAS, boundary)
    else:
        policies: dict[str, Any] = {seam: make}
        records = (play(replace(world, **policies), boundary)[1],)
    left = sum(len(one.requests) for one in records)
    if left != len(world.requests):
        raise BrokenLawError("ends", f"{left} of {len(world.requests)} requests left the engine")
    return records


class _Boundary:
    """Checks that there is an end to the steps, and if asked the laws of the core between them."""

    def __init__(self, world: World, *, checks: bool) -> None:
        self._checks = checks
        self._most_steps = MAX_REPEATS * sum(row[2] for row in world.requests) + 1000
        self._asked = 0

    def __call__(self, core: Core) -> None:
        if self._checks:
            _check_books(core)
        self._asked += 1
        if core.step > self._most_steps:
            raise BrokenLawError("ends", f"after {core.step} decode steps there is no end: {_state(core)}")
        if self._asked > MAX_BOUNDARIES:
            raise BrokenLawError("ends", f"loads or timers go on for ever: {_state(core)}")


def _check_books(core: Core) -> None:
    try:
        core.check()
    except RuntimeError as error:
        raise BrokenLawError("books", str(error)) from error


def _state(core: Core) -> str:
    return f"{len(core.waiting)} requests wait and {len(core.live)} are admitted"


def _blame(error: BaseException) -> tuple[str, str]:
    """Return which law an error in a run speaks of, and what it says."""
    while error.__cause__ is not None and type(error.__cause__) is type(error):
        error = error.__cause__  # SimPy raises a copy of what was raised inside it
    if isinstance(error, BrokenLawError):
        return error.law, str(error.args[1])
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    if last.name == "evict":
        return "in use", str(error)
    if Path(last.filename).is_relative_to(SIM) and last.name in {"simulate", "check_served", "_ring"}:
        return "ends", str(error)
    theirs = [frame for frame in frames if not _is_ours(Path(frame.filename))] or [last]
    where = f"{theirs[-1].name}, {Path(theirs[-1].filename).name}:{theirs[-1].lineno}"
    return "runs", f"{type(error).__name__}: {error} (in {where})"


def _is_ours(file: Path) -> bool:
    return any(file.is_relative_to(home) for home in (SIM, Path(simpy.__file__).parent))


def predicted(_: str, make: Callable[[], Policy], rng: np.random.Generator) -> Broken:
    """Return what one drawn workload says about the laws of a predictor."""
    size = int(rng.choice([1, 2, 30, 500]))
    given = (rng.integers(1, 2000, size), rng.integers(1, int(rng.choice([2, 50, 2000])), size), rng.random(size))
    facts = facts_of(World([(0, 2000, 2000, None)]), ())
    copies = [array.copy() for array in given]
    try:
        answers = [_asked(make(), facts, given, times) for times in (2, 1)]
    except Exception as error:  # noqa: BLE001 - a stranger's policy may raise anything
        law, why = _blame(error)
        return {law: why}
    (first, second), (fresh,) = answers
    wrong = _no_prediction(first, size)
    if not all(map(np.array_equal, given, copies)):
        wrong = "predict changed the arrays that it was given"
    return {
        "runs": "",
        "answers": wrong,
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
