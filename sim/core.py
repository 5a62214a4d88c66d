"""The serving state machine: requests, batches and adapters. No clock, no SimPy, no torch, no randomness.

In: `submit`, `loaded`, `woken`, `step_finished`. Out: `plan`, the next thing the engine does. Times are integer ticks.
A driver calls `plan` whenever the engine is free, then `step_finished` when the planned step has ended; None means that
nothing can be done until something happens outside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from policies.base import Adapter, Cache, Prefetch, Scheduler, Timed
from sim.serving.adapters import AdapterTraffic
from sim.serving.admission import Round, Waiting
from sim.serving.forecast import Forecast
from sim.serving.job import AdapterSlot, Job
from sim.serving.kv import KvPages
from sim.serving.laws import check_requests
from sim.serving.ledger import Ledger
from sim.serving.link import AnyTransfer, KvTransfer, Link
from sim.serving.memory import MemoryLimits
from sim.serving.options import EngineOptions
from sim.serving.pacing import AdmissionClock
from sim.serving.planning import plan_step
from sim.serving.records import Records
from sim.serving.reservation import reservation
from sim.serving.seats import Seats
from sim.serving.shape import BatchShape, Costs
from sim.serving.steps import Decode, Horizon, Mixed, Prefill, Step
from sim.serving.stopping import Stops
from sim.serving.ticks import TICKS_PER_S, to_ticks

MOST_WAKES_AT_ONCE = 1000  # a policy that wants to be woken for ever would hang the run


class Core:
    """The state machine of one engine on one GPU (or on several that work as one)."""

    def __init__(
        self,
        options: EngineOptions,
        limits: MemoryLimits,
        costs: Costs,
        adapters: Sequence[Adapter | None],
        *,
        scheduler: Scheduler,
        cache: Cache,
        prefetch: Prefetch,
        link: Link,
        records: Records,
    ) -> None:
        self.options = options
        self.costs = costs
        self.peak = reservation(options.reserve, options.block_tokens)
        self.shape = BatchShape(options.slot_rank)
        self.forecast = Forecast(self)
        self.ledger = Ledger(records)
        self.adapters = AdapterTraffic(
            adapters,
            limits,
            costs,
            cache=cache,
            prefetch=prefetch,
            link=link,
            ledger=self.ledger,
            changed=self.something_changed,
            options=options,
        )
        self.memory = self.adapters.memory
        self.kv = KvPages(options.block_tokens, self.memory)
        self.seats = Seats(self)
        self.stops = Stops(self)
        self.waiting: OrderedDict[int, Job] = OrderedDict()
        self.kept: dict[int, Job] = {}  # those of the waiting whose KV stays on the GPU
        self.joining: list[Job] = []  # admitted, not yet in the decode batch
        self.running: dict[Job, None] = {}  # in the decode batch
        self.live: dict[int, Job] = {}  # admitted and not finished, by request id
        self.merged: AdapterSlot | None = None  # in the base model's weights
        self.step = 0  # decode steps done so far
        self.extra_ticks = 0  # that the next step lasts longer: KV that leaves, adapters that are merged
        self.link = link
        self._scheduler = scheduler
        self._prefetch = prefetch
        self._view = Waiting(self.waiting)
        self.clock = AdmissionClock(options.admit_every_steps, asks_always=options.asks_every_step)
        self._counts_steps = type(scheduler).wakes_at_step is not Scheduler.wakes_at_step
        self.grows_on_demand = options.reserve != "peak"
        self._planned: Step | None = None
        self._woken_at = -1
        self._wakes_there = 0  # further wakes at that tick
        self.timed = [one for one in (scheduler, prefetch) if type(one).wakes_at_s is not Timed.wakes_at_s]

    def submit(self, job: Job, now: int) -> None:
        """Take in a request; one that can never fit is rejected with its reason."""
        reason = self._unservable(job)
        if reason is not None:
            self.ledger.rejected(job, reason)
            return
        self.waiting[job.request.id] = job
        self._wait(job, now)
        if job.slot is not None:
            self._prefetch.used(job.slot.adapter, now / TICKS_PER_S)

    def loaded(self, transfer: AnyTransfer, now: int) -> None:
        """Take note that a transfer is complete."""
        if isinstance(transfer, KvTransfer):
            transfer.job.kv_lands = False
            transfer.job.kv = "gpu"
            self.stops.swapped_bytes -= transfer.size_bytes
            self.ledger.swapped_in(transfer, now)
        elif transfer.channel == "disk":
            self.adapters.read(transfer, now)
        else:
            self.adapters.landed(transfer, now)
        self.something_changed()

    def wakes_at_s(self) -> float | None:
        """Return the earliest instant at which a policy wants to be woken."""
        earliest = None
        for policy in self.timed:
            wakes_at_s = policy.wakes_at_s()
            if wakes_at_s is not None and (earliest is None or wakes_at_s < earliest):
                earliest = wakes_at_s
        return earliest

    def woken(self, now_s: float) -> None:
        """Call the policies whose declared time has come.

        Raises:
            RuntimeError: if one declares the same instant for ever.
        """
        at = to_ticks(now_s)
        self._wakes_there = self._wakes_there + 1 if at == self._woken_at else 0
        self._woken_at = at
        due = [policy for policy in self.timed if (at_s := policy.wakes_at_s()) is not None and at_s <= now_s]
        if self._wakes_there > MOST_WAKES_AT_ONCE:
            names = " and ".join(type(policy).__name__ for policy in due)
            msg = f"{names}: woken {self._wakes_there} times at {now_s:g} s, it declares that instant again and again"
            raise RuntimeError(msg)
        for policy in due:
            policy.woken(now_s)
            self.something_changed()

    def wakes_at_step(self) -> int | None:
        """Return the decode step at which the scheduler must be asked again, whatever happens."""
        return self._scheduler.wakes_at_step() if self._counts_steps else None

    def plan(self, now: int, horizon: Horizon) -> Step | None:
        """Return the next step, or None if the engine can only wait.

        Args:
            now: ticks.
            horizon: asked once the transfers of this plan are sent.
        """
        holds_back = self.joining and self.options.blocks_on_load and self._stands_for_all()
        if not (holds_back or (self.grows_on_demand and self.stops.make_way(now))):
            self._admit(now)
        self._fetch_ahead(now)
        self._planned = plan_step(self, now, horizon)
        self.ledger.memory(now, self.memory)
        return self._planned

    def step_finished(self, now: int) -> None:
        """Apply the step that was planned last.

        Raises:
            RuntimeError: if no step was planned.
        """
        step, self._planned = self._planned, None
        if isinstance(step, Prefill):
            self.ledger.prefilled(step.start, now, [job.base_tokens - job.prefilled for job in step.jobs])
            self._prefilled(step.jobs, now)
        elif isinstance(step, Mixed):
            self._mixed(step, now)
        elif isinstance(step, Decode):
            self._decoded(step, now)
        else:
            msg = "step_finished without a planned step"
            raise RuntimeError(msg)

    @property
    def is_empty(self) -> bool:
        """Whether no request is left."""
        return not (self.waiting or self.live)

    def held_tokens(self, job: Job) -> int:
        """Return the KV tokens that a running request holds."""
        return job.base_tokens + self.step - job.start_step

    def generated_tokens(self, job: Job) -> int:
        """Return the tokens that a running request has emitted."""
        return job.generated + self.step - job.start_step

    def left_ticks(self, job: Job, now: int) -> int | None:
        """Return the ticks until a request's adapter has landed; None if nobody can know."""
        return 0 if job.slot is None or job.slot.ready else self.link.left_ticks(job.slot, now)

    def check(self) -> None:
        """Raise RuntimeError with the numbers if a law is broken; to be called between steps."""
        self.memory.check()
        check_requests(self)

    def something_changed(self) -> None:
        """Take note that answers which policies gave may no longer hold."""
        self.clock.something_changed()
        self.adapters.asks = True
        self.forecast.forget()

    def turn_away(self, job: Job, reason: str) -> None:
        """Reject a waiting request that the scheduler gave up; its place in `waiting` ends with the round."""
        self.stops.forget(job)
        job.is_admitted = True  # nobody may offer it again in this round
        if job.slot is not None:
            self.adapters.unqueued(job.slot)
        self.ledger.rejected(job, reason)
        self.something_changed()

    def wait_again(self, jobs: Iterable[Job], now: int) -> None:
        """Put stopped requests back in front of all that wait."""
        for job in jobs:
            self.waiting[job.request.id] = job
            self.waiting.move_to_end(job.request.id, last=False)
            self._wait(job, now)

    def take_extra_ticks(self) -> int:
        """Return what the next step has to last longer, once."""
        extra, self.extra_ticks = self.extra_ticks, 0
        return extra

    def _stands_for_all(self) -> bool:
        """Whether an engine that blocks waits for those that join, so that nobody may come between."""
        return self.options.prefill == "separate" or self.ledger.is_standing

    def _admit(self, now: int) -> None:
        if not (self.waiting and self.clock.is_due(self.step, self.wakes_at_step(), is_busy=bool(self.running))):
            return
        self.clock.asked()
        batch = Round(self, now)
        self._scheduler.fill(batch, self._view, now / TICKS_PER_S)
        for job in (*batch.accepted, *batch.aborted):
            del self.waiting[job.request.id]
        self.wait_again(batch.stopped, now)
        if batch.accepted:
            self.clock.admitted()
            self.something_changed()
        self.clock.refused(None if self.clock.has_news else batch.next_fit())

    def _wait(self, job: Job, now: int) -> None:
        if job.slot is not None:
            self.adapters.queued(job.slot)
        self._scheduler.arrived(job.request, now / TICKS_PER_S)
        self.something_changed()

    def _unservable(self, job: Job) -> str | None:
        options = self.options
        if options.prefill != "chunked" and job.prompt_tokens > options.batch_prompt_tokens:
            limit = options.batch_prompt_tokens
            return f"a prompt of {job.prompt_tokens} tokens exceeds the {limit} of one prefill iteration"
        blocks = -(-(job.prompt_tokens + job.output_tokens) // options.block_tokens)
        return self.memory.limits.why_not(blocks * options.block_tokens, self.adapters.size_of(job.slot))

    def _fetch_ahead(self, now: int) -> None:
        counts_steps = self.adapters.prefetch_steps is not None
        if counts_steps and not (self.waiting and self.running and not self.joining):
            return
        if self.adapters.is_prefetch_due(self.step, self.clock.since):
            order = self._scheduler.order(self._view, now / TICKS_PER_S)
            self.adapters.prefetch(order, self.step, now)

    def _prefilled(self, jobs: list[Job], now: int) -> None:
        for job in jobs:
            job.generated += 1
            self.seats.begin(job)
            self.peak.emitted(job)
            self.ledger.prefill_emitted(job, now)
            if job.finish_step == self.step:
                self._finish(job, now)
        self.something_changed()

    def _mixed(self, step: Mixed, now: int) -> None:
        self.ledger.prefilled(step.start, now, [chunk.tokens for chunk in step.chunks])
        if self.running:
            self.ledger.mixed(step.start, now)
            ticks = now - step.start
            self._decoded(Decode(step.start, ticks, 1, ticks, 0), now)
        for chunk in step.chunks:
            chunk.job.prefilled += chunk.tokens
        done = [job for job, _, _ in step.chunks if job.prefilled == job.base_tokens]
        self.seats.leave_joining(done)
        self._prefilled(done, now)

    def _decoded(self, step: Decode, now: int) -> None:
        self.ledger.decoded(step.as_taken(now), self.shape)
        self.step += step.steps
        self.clock.since += step.steps
        self.shape.context_tokens += step.steps * len(self.running)
        has_finished = False
        while self.running and self.seats.first_end() == self.step:
            self._finish(self.seats.pop_end(), now)
            has_finished = True
        if has_finished:
            self.adapters.drop(now, batch_is_empty=not self.live)
            self.something_changed()

    def _finish(self, job: Job, now: int) -> None:
        steps = self.step - job.start_step
        self.seats.leave_running(job)
        job.request.generated_tokens = job.output_tokens
        self._scheduler.finished(job.request, now / TICKS_PER_S)
        self.ledger.finished(job, steps, now)
