"""Replicas behind a router. Between two arrivals they are independent, so each runs in a time of its own.

A replica is brought up to the arrival at hand only when the router looks at it or when it gets the request. What it
does is therefore what it would do alone with the same requests, and nobody else's events cut its decode runs short.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import overload

import simpy

from policies.base import Adapter, Request, Router
from sim.core import Core
from sim.engine import Replica
from sim.serving.job import AdapterSlot, Job
from sim.serving.link import Link
from sim.serving.records import Records
from sim.serving.shape import StepCost
from sim.serving.steps import Decode, steps_until
from sim.serving.ticks import TICKS_PER_S
from sim.simtime import ARRIVAL, Moment

_request = attrgetter("request")


class Fleet:
    """All replicas of a run, and who chooses among them.

    Args:
        builds: makes the core of each replica around its link and its records.
        router: asked once per request, in order of arrival.
        idle_poll_ticks: an empty engine looks for work only at multiples of this after it fell idle; 0: at once.
        boundary: called after every step boundary of every replica, for tests and tools.
    """

    def __init__(
        self,
        builds: Sequence[Callable[[Link, Records], Core]],
        router: Router,
        *,
        idle_poll_ticks: int = 0,
        boundary: Callable[[Core], None] | None = None,
    ) -> None:
        self._router = router
        self._members = [Member(build, idle_poll_ticks=idle_poll_ticks, boundary=boundary) for build in builds]
        self._views = tuple(ReplicaView(member) for member in self._members)

    @property
    def cores(self) -> tuple[Core, ...]:
        """The state machine of each replica."""
        return tuple(member.core for member in self._members)

    @property
    def records(self) -> tuple[Records, ...]:
        """What each replica has written."""
        return tuple(member.records for member in self._members)

    @property
    def palette(self) -> list[AdapterSlot | None]:
        """Slots to make jobs with; a job gets the slot of its own replica when it is routed."""
        return self.cores[0].adapters.palette

    def serve(self, jobs: Iterable[Job]) -> None:
        """Run until every request has left.

        Args:
            jobs: in order of arrival, drawn one at a time.

        Raises:
            RuntimeError: if requests are left waiting although nothing more will happen, or the router names a replica
                that there is not.
        """
        for job in jobs:
            for member in self._members:
                member.present = job.arrival
            self._chosen(job).submit(job)
        for member in self._members:
            member.finish()

    def _chosen(self, job: Job) -> Member:
        index = self._router.choose(job.request, self._views, job.arrival / TICKS_PER_S)
        if 0 <= index < len(self._members):
            return self._members[index]
        msg = f"router {self._router.name} chose replica {index} of {len(self._members)} for {job.request!r}"
        raise RuntimeError(msg)


class Member:
    """One replica and the time that it has come to.

    Attributes:
        present: tick of the arrival at hand, which the replica may lag behind.
        records: what it has written.
    """

    def __init__(
        self,
        build: Callable[[Link, Records], Core],
        *,
        idle_poll_ticks: int,
        boundary: Callable[[Core], None] | None,
    ) -> None:
        self.present = 0
        self.records = Records()
        self._env = simpy.Environment()
        self._engine = Replica(
            self._env,
            lambda link: build(link, self.records),
            self.records,
            idle_poll_ticks=idle_poll_ticks,
            boundary=boundary,
        )

    @property
    def core(self) -> Core:
        """Its state machine, wherever it stands."""
        return self._engine.core

    def caught_up(self) -> Core:
        """Return the core as it is just before the arrival at hand."""
        behind = self.present - int(self._env.now)
        if behind:
            self._env.run(until=Moment(self._env, behind, ARRIVAL))
        return self.core

    def count_tokens(self) -> None:
        """Tell running requests what their users have received just before the arrival at hand."""
        core = self.core
        ended = max(self._begun() - 1, 0)
        for job in core.running:
            job.request.generated_tokens = core.generated_tokens(job) + ended

    def ungrown_bytes(self) -> int:
        """Return KV that is booked for steps of a planned run which have not begun yet."""
        step, begun = self._engine.step, self._begun()
        if not isinstance(step, Decode) or begun >= step.steps:
            return 0
        return self.core.kv.growth_bytes(self.core.step + begun, step.steps - begun)

    def _begun(self) -> int:
        """Return the steps of a planned run that have begun."""
        step = self._engine.step
        if not isinstance(step, Decode):
            return 0
        return steps_until(StepCost(step.first, step.growth, None), self.present - step.start)

    def submit(self, job: Job) -> None:
        """Hand over the request that arrives now."""
        core = self.caught_up()
        if job.request.adapter is not None:
            job.slot = core.adapters.slots[job.request.adapter]
        self._engine.submit(job)

    def finish(self) -> None:
        """Serve what is left; nothing arrives any more."""
        self.caught_up()
        self._engine.is_last_call = True
        self._env.run()
        self._engine.check_served()


class ReplicaView:
    """One replica as a router sees it, by the contract of `policies.base.Replica`."""

    __slots__ = ("_member",)

    def __init__(self, member: Member) -> None:
        self._member = member

    @property
    def running(self) -> Sequence[Request]:
        """Admitted requests, oldest admission first."""
        return Requests(self._member.caught_up().live.values(), self._member.count_tokens)

    @property
    def waiting(self) -> Sequence[Request]:
        """Requests that wait there, in order of arrival."""
        return Requests(self._member.caught_up().waiting.values())

    @property
    def free_tokens(self) -> int:
        """KV tokens that it could give now, idle adapters evicted."""
        core = self._member.caught_up()
        memory, ahead = core.memory, self._member.ungrown_bytes()
        free = min(memory.free_bytes + memory.idle_bytes, memory.kv_limit - memory.kv_bytes)
        return max(free + ahead, 0) // memory.token_bytes

    def has_adapter(self, adapter: Adapter | None) -> bool:
        """Whether the adapter (None: the base model) is in its GPU memory or on its way there."""
        return adapter is None or self._member.caught_up().adapters.slots[adapter].held


class Requests(Sequence[Request]):
    """The requests of jobs, looked up when asked for: most routers only count them.

    Args:
        jobs: whose requests they are.
        prepare: called before any of them is handed out.
    """

    __slots__ = ("_jobs", "_prepare")

    def __init__(self, jobs: Collection[Job], prepare: Callable[[], None] | None = None) -> None:
        self._jobs = jobs
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Request]:
        if self._prepare is not None:
            self._prepare()
        return map(_request, self._jobs)

    @overload
    def __getitem__(self, index: int) -> Request: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...

    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        return list(self)[index]
