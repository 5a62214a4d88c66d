"""How far one run of a policy may go, in lines, wakings and boundaries: counted by a clock, no verdict would repeat."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sim.conformance.laws import broken
from sim.conformance.records import duration
from sim.conformance.smaller import can_be_quicker
from sim.conformance.worlds import World
from sim.core import Core
from sim.serving.ticks import to_ticks

SIM = str(Path(__file__).parents[1]) + os.sep
MAX_LINES = 1_000_000  # that one hook may run to answer one question; worlds have some 25 requests
MAX_STOPS = 100  # of one request, beyond one for each of its tokens
MAX_REPEATS = 2  # steps over those that the requests of a world need: work may be thrown away, but not for ever
MAX_WAKES_AT_ONCE = 100
MAX_WAKES = {True: 1_000, False: 10_000}  # of a world by whether a quicker one would suit the policy's clock better
OF_BOUNDARY, OF_WAKE, OF_QUESTION = 700, 200, 25  # lines of a policy that take as long as what is done there


class Meter:
    """Adds up over many runs what they have taken, in lines of Python: a policy's own, or what the engine's equal."""

    def __init__(self) -> None:
        self.lines = 0


class Limits:
    """What one run has taken so far, and the errors for a run that goes on for ever.

    Args:
        world: that is played.
        meter: is told of everything.
    """

    def __init__(self, world: World, meter: Meter) -> None:
        self._meter = meter
        self._step = world.costs.decode_base
        self._most_wakes = MAX_WAKES[can_be_quicker(world)]
        self._most_boundaries = MAX_REPEATS * sum(row[2] for row in world.requests) + 1000
        self._wakes_at = Counter[int]()  # by tick
        self._wakes = 0
        self._boundaries = 0
        self._unchanged: dict[int, tuple[int, int]] = {}  # by engine: its requests, and the steps when it got these
        self._is_counting = False

    def within(self, hook: str, ask: Callable[[], Any]) -> Any:
        """Return the answer to a question, asked in such a way that a hook which never comes to its end is stopped.

        A debugger or a measure of coverage has the lines for itself, and then nobody counts them.
        """
        self._meter.lines += OF_QUESTION
        if self._is_counting or sys.gettrace() is not None:
            return ask()
        lines = _Lines(hook)
        self._is_counting = True
        sys.settrace(lines.entered)
        try:
            return ask()
        finally:
            sys.settrace(None)
            self._is_counting = False
            self._meter.lines += lines.count

    def woken(self, now: float, wakes_at_s: float | None) -> None:
        """Take note that the policy was woken, and of what it declares now."""
        self._meter.lines += OF_WAKE
        self._wakes += 1
        self._wakes_at[to_ticks(now)] += 1
        at_once = self._wakes_at[to_ticks(now)]
        if wakes_at_s is not None and wakes_at_s <= now and at_once > MAX_WAKES_AT_ONCE:
            broken("timers", f"woken {at_once} times at {now:g} s, it still declares {wakes_at_s:g} s")
        if self._wakes > self._most_wakes:
            told = f"woken {self._wakes} times by {now:g} s, it declares {wakes_at_s!r} s"
            broken("timers", f"{told}, in a world where a decode step takes {duration(self._step)}")

    def passed(self, core: Core) -> None:
        """Take note of a step boundary; those that a waking has led to do not count."""
        self._meter.lines += OF_BOUNDARY
        self._boundaries += 1
        steps = self._boundaries - self._wakes
        requests = len(core.waiting) + len(core.live)
        known, since = self._unchanged.get(id(core), (0, 0))
        if requests != known or not requests:
            self._unchanged[id(core)] = requests, steps
        elif steps - since > self._most_boundaries:
            state = f"{len(core.waiting)} requests wait and {len(core.live)} are admitted"
            broken("ends", f"in {self._most_boundaries} steps nobody came and nobody left: {state}")
        for job in core.waiting.values():
            if job.preemptions > MAX_STOPS + job.output_tokens:
                told = f"request {job.request.id}, of {job.output_tokens} tokens, was stopped {job.preemptions} times"
                broken("ends", f"{told}: its work is begun anew for ever")


class _Lines:
    """Counts the lines that a hook runs, those of the engine left out."""

    def __init__(self, hook: str) -> None:
        self._hook = hook
        self.count = 0

    def entered(self, frame: FrameType, *_: object) -> Callable[..., Any] | None:
        """Say who counts the lines of a function that begins: nobody, if it is the engine's."""
        return None if frame.f_code.co_filename.startswith(SIM) else self._ran

    def _ran(self, frame: FrameType, *_: object) -> Callable[..., Any]:
        self.count += 1
        if self.count > MAX_LINES:
            where = f"{frame.f_code.co_name}, {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            broken("ends", f"{self._hook} has run {MAX_LINES} lines and did not come to an end (in {where})")
        return self._ran
