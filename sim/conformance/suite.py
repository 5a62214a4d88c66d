"""The laws that every policy keeps, ours and a stranger's, and the suite that looks for a world in which one does not.

Policies are built afresh for every run and never copied or pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from policies.base import Policy
from sim.conformance.draw import draw, shrunk, tell
from sim.conformance.runs import predicted, tried
from sim.conformance.worlds import World
from sim.plugins.docstrings import undocumented
from sim.plugins.named import factory

Verdict = Literal["kept", "broken", "open"]
LAWS: dict[str, str] = {
    "documented": "its docstring says what every keyword is",
    "runs": "no hook fails, and it asks nothing of the engine that is not allowed",
    "answers": "its answers are of the right kind",
    "pure": "asked twice in the same state, it answers the same",
    "timers": "the time that it declares moves on once it has come",
    "in use": "nothing in use or on its way is evicted",
    "books": "bytes, requests and adapters add up at every step",
    "ends": "every request that fits is served, and the run comes to an end",
    "repeats": "a fresh instance decides the same again",
    "fast": "asked at every step, it decides as it does where steps are skipped",
}
OF_SEAM: dict[str, tuple[str, ...]] = {
    "scheduler": tuple(law for law in LAWS if law != "in use"),
    "cache": tuple(law for law in LAWS if law != "timers"),
    "prefetch": tuple(law for law in LAWS if law != "in use"),
    "predictor": ("documented", "runs", "answers", "pure", "repeats"),
    "router": ("documented", "runs", "answers", "books", "ends", "repeats", "fast"),
}
WORLDS = 60


class Finding(NamedTuple):
    """What became of one law.

    Attributes:
        law: key of `LAWS`.
        verdict: "kept"; "broken"; or "open", because another broken law stood before it in every world.
        why: one sentence on what went wrong.
        world: the smallest one found that shows it, for `sim.conformance.worlds.play`; None where none is needed.
        told: lines that say everything about that world.
    """

    law: str
    verdict: Verdict
    why: str = ""
    world: World | None = None
    told: tuple[str, ...] = ()


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
    found = {"documented": _documented(type(make()))}
    suite = _Suite(seam, make)
    for number in range(worlds):
        suite.play(np.random.default_rng((seed, number)))
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


def _documented(cls: type) -> Finding:
    missing = undocumented(cls)
    if not missing:
        return Finding("documented", "kept")
    told = (
        f"no docstring of {cls.__name__} names {', '.join(missing)}; an `Attributes:` section in it is shown to users"
    )
    return Finding("documented", "broken", told)


class _Suite:
    """Plays worlds and remembers, law by law, whether it was kept, and the first world in which it was not."""

    def __init__(self, seam: str, make: Callable[[], Policy]) -> None:
        self._seam = seam
        self._try = partial(predicted if seam == "predictor" else tried, seam, make)
        self._laws = [law for law in OF_SEAM[seam] if law != "documented"]
        self._found: dict[str, Finding] = {}

    def play(self, rng: np.random.Generator) -> None:
        if self._seam == "predictor":
            verdicts, world = self._try(rng), None
        else:
            world = draw(rng)
            verdicts = self._try(world)
        for law, why in verdicts.items():
            if law not in self._laws:
                continue
            known = self._found.get(law)
            if why and (known is None or known.verdict != "broken"):
                self._found[law] = self._smallest(law, why, world)
            else:
                self._found.setdefault(law, Finding(law, "kept"))

    def finding(self, law: str) -> Finding:
        return self._found.get(law, Finding(law, "open"))

    def _smallest(self, law: str, why: str, world: World | None) -> Finding:
        if world is None:
            return Finding(law, "broken", why)
        said = {0: why}  # by the worlds that showed it, the smallest last

        def shows(one: World) -> bool:
            told = self._try(one, law).get(law)
            if told:
                said[len(said)] = told
            return bool(told)

        small = shrunk(world, shows, self._seam)
        return Finding(law, "broken", said[len(said) - 1], small, tuple(tell(small, self._seam)))
