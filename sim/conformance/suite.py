"""The laws that every policy keeps, ours and a stranger's, and the suite that looks for a world in which one does not.

Policies are built afresh for every run and never copied or pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from policies.base import Policy
from sim.conformance.draw import draw
from sim.conformance.laws import LAWS, OF_SEAM, Broken
from sim.conformance.limits import Meter
from sim.conformance.runs import ENDLESS, predicted, tried
from sim.conformance.shared import shared_state, what_changed
from sim.conformance.smaller import MAX_TRIALS, can_be_quicker, quicker, shrunk
from sim.conformance.telling import tell
from sim.conformance.worlds import World
from sim.plugins.docstrings import undocumented
from sim.plugins.named import factory
from sim.progress import Steps, progress

__all__ = ["LAWS", "OF_SEAM", "WORLDS", "Finding", "check_policy", "findings", "report"]

Verdict = Literal["kept", "broken", "open"]
WORLDS = 60
# Of a policy, as `Meter` adds them up: to make one world smaller, and for all worlds of one that goes on for ever.
MAX_LINES = 10_000_000
SHOWN_AT_ONCE = {"runs", "answers", "given"}  # laws that are broken in plain sight, whatever an earlier run has left


class Finding(NamedTuple):
    """What became of one law.

    Attributes:
        law: key of `LAWS`.
        verdict: "kept"; "broken"; or "open", because another broken law stood before it in every world.
        why: one sentence on what went wrong.
        world: the smallest one found that shows it, for `sim.conformance.worlds.play`; None where none is needed.
        told: lines that say everything about that world.
        worlds: how many had their say on it.
    """

    law: str
    verdict: Verdict
    why: str = ""
    world: World | None = None
    told: tuple[str, ...] = ()
    worlds: int = 0


def check_policy(kind: object, seam: str, *, worlds: int = WORLDS, seed: int = 0, **keywords: Any) -> None:
    """Raise AssertionError if a policy breaks a law; for the tests of whoever writes one.

    Args:
        kind: a class, or any name that a configuration may use.
        seam: scheduler, cache, prefetch, predictor or router.
        worlds: how many to play.
        seed: of the worlds.
        keywords: constructor parameters of the policy.

    Raises:
        ConfigError: if there is no such policy, or it cannot be built.
    """
    broken = [one for one in findings(kind, seam, worlds=worlds, seed=seed, **keywords) if one.verdict == "broken"]
    if broken:
        raise AssertionError("\n".join("\n".join(report(one)) for one in broken))


def findings(
    kind: object,
    seam: str,
    *,
    worlds: int = WORLDS,
    seed: int = 0,
    base_dir: Path | None = None,
    **keywords: Any,
) -> list[Finding]:
    """Return what became of every law of a seam; see `check_policy`."""
    make = factory({"kind": kind, **keywords}, seam, base_dir=base_dir)
    suite = _Suite(seam, make)
    with progress(range(worlds), "worlds") as numbers:
        for number in numbers:
            if suite.may_play():
                suite.play(np.random.default_rng((seed, number)))
    suite.make_smaller()
    found = {"documented": _documented(type(make()), suite.played)}
    return [found.get(law) or suite.finding(law) for law in OF_SEAM[seam]]


def report(finding: Finding) -> list[str]:
    """Return a finding as lines of text, the law first."""
    mark = {"kept": "ok    ", "broken": "BROKEN", "open": "open  "}[finding.verdict]
    lines = [f"{mark}  {LAWS[finding.law]}"]
    if finding.why:
        lines.append(f"        {finding.why}")
    if finding.told:
        lines += ["        the smallest world found that shows it:", *(f"          {line}" for line in finding.told)]
    return lines


def _documented(cls: type, worlds: int) -> Finding:
    missing = undocumented(cls)
    if not missing:
        return Finding("documented", "kept", worlds=worlds)
    told = (
        f"no docstring of {cls.__name__} names {', '.join(missing)}; an `Attributes:` section in it is shown to users"
    )
    return Finding("documented", "broken", told, worlds=worlds)


class _Suite:
    """Plays worlds and remembers, law by law, whether it was kept, and the first world in which it was not."""

    def __init__(self, seam: str, make: Callable[[], Policy]) -> None:
        self._seam = seam
        self._make = make
        self._class = type(make())
        self._found = {law: Finding(law, "open") for law in OF_SEAM[seam]}
        self._meter = Meter()
        self.played = 0

    def may_play(self) -> bool:
        """Whether another world is worth its time; a policy that goes on for ever in each would take too much of it."""
        goes_on = any(self._found[law].verdict == "broken" for law in ENDLESS & self._found.keys())
        return not goes_on or self._meter.lines < MAX_LINES

    def play(self, rng: np.random.Generator) -> None:
        """Play one world, or the same in quick motion if the policy's clock ticks too often in it."""
        self.played += 1
        shared = shared_state(self._class)
        world = None if self._seam == "predictor" else draw(rng)
        verdicts = predicted(self._make, rng, self._meter) if world is None else self._tried(world)
        while verdicts.get("timers") and world is not None and can_be_quicker(world):
            world = quicker(world)
            verdicts = self._tried(world)
        changed = what_changed(shared, shared_state(self._class))
        if changed:
            verdicts = {law: why for law, why in verdicts.items() if law in SHOWN_AT_ONCE}
        for law, why in (verdicts | {"own": changed}).items():
            self._note(law, why, None if law == "own" else world)

    def make_smaller(self) -> None:
        """Look for smaller worlds that show the same."""
        shown = [(one, one.world) for one in self._found.values() if one.world is not None]
        if not shown:
            return
        with progress(MAX_TRIALS * len(shown), "smaller worlds") as steps:
            for one, world in shown:
                self._found[one.law] = self._smallest(one, world, steps)

    def finding(self, law: str) -> Finding:
        """Return what became of a law."""
        return self._found[law]

    def _tried(self, world: World, only: str = "") -> Broken:
        return tried(self._seam, self._make, world, self._meter, only)

    def _note(self, law: str, why: str, world: World | None) -> None:
        known = self._found.get(law)
        if known is None:
            return
        if known.verdict == "open" or (why and known.verdict == "kept"):
            known = Finding(law, "broken" if why else "kept", why, world if why else None, worlds=known.worlds)
        self._found[law] = known._replace(worlds=known.worlds + 1)

    def _smallest(self, finding: Finding, world: World, steps: Steps[int]) -> Finding:
        said = {0: finding.why}  # by the worlds that showed it, the smallest last
        until = self._meter.lines + MAX_LINES

        def shows(one: World) -> bool:
            steps.advance()
            told = self._tried(one, finding.law).get(finding.law)
            if told:
                said[len(said)] = told
            return bool(told)

        small = shrunk(world, shows, self._seam, lambda: self._meter.lines < until)
        return finding._replace(why=said[len(said) - 1], world=small, told=tuple(tell(small, self._seam)))
