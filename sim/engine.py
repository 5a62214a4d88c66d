"""Drives the core with SimPy: arrivals and the iteration loop wait here, the link in `sim.simtime`, and only there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from math import inf
from typing import Any

import simpy

from sim.client import Client
from sim.core import Core
from sim.serving.job import Job
from sim.serving.link import AnyTransfer
from sim.serving.options import UNLIMITED
from sim.serving.records import Records
from sim.serving.steps import Step
from sim.serving.ticks import to_ticks
from sim.simtime import ARRIVAL, BOUNDARY, TIMER, Bell, Moment, SimLink

MAX_FRUITLESS_TIMERS = 1000
MOST_WAKINGS = 1_000_000  # since anything else happened: a policy may look now and then, but not all the time

Process = Generator[simpy.Event, Any, None]


class Replica:
    """One engine: a core, its link and its iteration loop; `step` is what it is doing, None while it is idle.

    `left` is called in every plan, before what comes next is looked at and at its end: requests may have left since the
    one before, or by this one.

    Args:
        env: the SimPy environment, its time in integer ticks.
        build: makes the core around the link that it is given.
        records: what the core writes into.
        idle_poll_ticks: an empty engine looks for work only at multiples of this after it fell idle; 0: at once.
        boundary: called after every step boundary, for tests and tools.
    """

    def __init__(
        self,
        env: simpy.Environment,
        build: Callable[[SimLink], Core],
        records: Records,
        *,
        idle_poll_ticks: int = 0,
        boundary: Callable[[Core], None] | None = None,
    ) -> None:
        self._env = env
        self.records = records
        self._link = SimLink(env, self._loaded)
        self.core = build(self._link)
        self._idle_poll_ticks = idle_poll_ticks
        self._boundary = boundary
        self._bell: Bell | None = None
        self._idle_since = 0
        self._timer_s: float | None = None
        self._fruitless = 0
        self._wakings = 0  # since anything else happened
        self.step: Step | None = None
        self.left: Callable[[], None] | None = None
        self.is_last_call = False  # no more arrivals
        env.process(self._serve())

    def submit(self, job: Job) -> None:
        """Hand a request to the engine now."""
        self._wakings = 0
        self.core.submit(job, job.arrival)
        if self.core.timed:
            self._arm()
        if self._bell is not None:
            self._wake(self._bell)

    @property
    def under_way(self) -> int:
        """Requests that were submitted and have not left."""
        return len(self.core.waiting) + len(self.core.live)

    def check_served(self) -> None:
        """Raise RuntimeError if requests are left when nothing more will happen."""
        if not self.core.is_empty:
            msg = f"{len(self.core.waiting)} requests are left waiting, which no event will ever admit"
            raise RuntimeError(msg)

    def _serve(self) -> Process:
        core, env, records, boundary = self.core, self._env, self.records, self._boundary
        plan, step_finished, horizon = core.plan, core.step_finished, self._horizon
        while True:
            now = int(env.now)
            if boundary is not None:
                boundary(core)
            self.step = step = plan(now, horizon)
            if core.timed:
                self._arm()
            if self.left is not None:
                self.left()
            if step is None:
                self._bell = Bell(env)
                self._idle_since = now
                yield self._bell
            else:
                self._fruitless = self._wakings = 0
                yield Moment(env, step.ticks, BOUNDARY)
                records.end = now + step.ticks
                step_finished(records.end)

    def _horizon(self) -> int | None:
        # Nothing else but arrivals, transfers and timers stands in the event queue while the engine plans; what
        # policies have declared in this very round must stand there too.
        if self.core.timed:
            self._arm()
        if self.left is not None:
            self.left()
        time = self._env.peek()
        return None if time == inf else int(time)

    def _loaded(self, transfer: AnyTransfer) -> None:
        now = int(self._env.now)
        self._wakings = 0
        self.records.end = now
        self.core.loaded(transfer, now)
        if self._bell is not None:
            self._wake(self._bell)

    def _wake(self, bell: Bell) -> None:
        self._bell = None
        delay = 0
        if self._idle_poll_ticks and not self.core.live:
            delay = (self._idle_since - int(self._env.now)) % self._idle_poll_ticks
        bell.ring(delay, BOUNDARY)

    def _arm(self) -> None:
        """Have the policies woken when they now want to be; a time that they wanted before is forgotten."""
        due_s = None if self.is_last_call and self.core.is_empty else self.core.wakes_at_s()
        if due_s is not None and due_s != self._timer_s:
            callbacks = Moment(self._env, max(to_ticks(due_s) - int(self._env.now), 0), TIMER).callbacks
            callbacks.append(lambda _: self._ring(due_s))
        self._timer_s = due_s

    def _ring(self, due_s: float) -> None:
        if self._timer_s != due_s:
            return  # it was forgotten; waking the engine for nothing could start a round before its time
        self._timer_s = None
        is_stuck = self.is_last_call and not self.core.live and not self._link.is_busy
        self._fruitless = self._fruitless + 1 if is_stuck else 0
        if self._fruitless > MAX_FRUITLESS_TIMERS:
            waiting = len(self.core.waiting)
            msg = f"{waiting} requests wait in an idle engine and {MAX_FRUITLESS_TIMERS} timers changed nothing"
            raise RuntimeError(msg)
        self._wakings += 1
        if self._wakings > MOST_WAKINGS:
            names = " and ".join(type(policy).__name__ for policy in self.core.timed)
            msg = f"{names}: woken {MOST_WAKINGS} times by {due_s:g} s since anything else happened"
            raise RuntimeError(msg)
        self.core.woken(due_s)
        self._arm()
        if self._bell is not None:
            self._wake(self._bell)


class Arrivals:
    """Sends a client's requests to the engines, and tells these when there are no more.

    Args:
        env: the environment that the replicas live in.
        replicas: the engines.
        client: has the requests.
        route: which replica takes a request, asked when it is sent.
    """

    def __init__(
        self, env: simpy.Environment, replicas: list[Replica], client: Client, route: Callable[[Job], Replica]
    ) -> None:
        self._env = env
        self._replicas = replicas
        self._client = client
        self._route = route
        self._bell: Bell | None = None
        env.process(self._send())

    def _send(self) -> Process:
        env, client, route = self._env, self._client, self._route
        while client.has_more:
            now = int(env.now)
            at = client.sends_at(self._under_way(), now)
            if at is None:
                self._bell = Bell(env)
                yield self._bell
            elif at > now:
                yield Moment(env, at - now, ARRIVAL)
            else:
                job = client.take()
                route(job).submit(job)
        for replica in self._replicas:
            replica.is_last_call = True

    def _under_way(self) -> int:
        if not self._client.is_limited:
            return 0  # nobody asks, at every arrival of most runs
        return sum(replica.under_way for replica in self._replicas)

    def left(self) -> None:
        """Go on sending if requests have left and it had to stop."""
        if self._bell is not None and self._client.sends_at(self._under_way(), int(self._env.now)) is not None:
            bell, self._bell = self._bell, None
            bell.ring(0, ARRIVAL)


def simulate(
    env: simpy.Environment,
    replicas: list[Replica],
    jobs: Iterable[Job],
    route: Callable[[Job], Replica],
    until: int | None = None,
    *,
    max_concurrency: int | None = None,
) -> None:
    """Run until every request has left, or up to a tick, whoever is still there.

    Args:
        env: the environment that the replicas live in.
        replicas: the engines.
        jobs: in order of arrival, drawn one at a time.
        route: which replica takes a request, asked when it is sent.
        until: the tick at which to stop, before anything happens at it; None: when nothing more will happen.
        max_concurrency: most requests under way at once, see `sim.client.Client`; None: no limit.

    Raises:
        RuntimeError: if requests are left waiting although nothing more will happen.
    """
    arrivals = Arrivals(env, replicas, Client(jobs, max_concurrency or UNLIMITED), route)
    for replica in replicas:
        replica.left = None if max_concurrency is None else arrivals.left
    env.run(until)
    if until is not None:
        return
    for replica in replicas:
        replica.check_served()
