"""The serving state machine: requests, batches and adapters. No clock, no SimPy, no torch, no randomness.

In: `submit`, `loaded`, `woken`, `step_finished`. Out: `plan`, the next thing the engine does. Times are integer ticks.
A driver calls `plan` whenever the engine is free, then `step_finished` when the planned step has ended; None means that
nothing can be done until something happens outside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from heapq import heappop, heappush

from policies.base import Adapter, Cache, Prefetch, Scheduler, Timed
from sim.adapters import BASE_MODEL, AdapterTraffic
from sim.admission import Round, Waiting
from sim.forecast import Forecast, prefill_arguments
from sim.job import Job
from sim.laws import check_requests
from sim.ledger import Ledger
from sim.link import Link, Transfer
from sim.memory import MemoryLimits
from sim.options import EngineOptions
from sim.pacing import AdmissionClock, run_length
from sim.peak import PeakTest
from sim.records import NEVER, Records
from sim.shape import BatchShape, Costs
from sim.steps import Decode, Horizon, Prefill, Step, run_ticks
from sim.ticks import TICKS_PER_S


class Core:
    """The state machine of one engine on one GPU."""

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
        self.peak = PeakTest()
        self.shape = BatchShape()
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
            changed=self._something_changed,
        )
        self.memory = self.adapters.memory
        self.waiting: OrderedDict[int, Job] = OrderedDict()
        self.joining: list[Job] = []  # admitted, not yet prefilled
        self.running: dict[Job, None] = {}  # in the decode batch
        self.live: dict[int, Job] = {}  # admitted and not finished, by request id
        self.step = 0  # decode steps done so far
        self._scheduler = scheduler
        self._prefetch = prefetch
        self._view = Waiting(self.waiting)
        self._ends: list[tuple[int, int, Job]] = []  # heap of (last decode step, request id, job)
        self.clock = AdmissionClock(options.admit_every_steps, asks_always=options.asks_every_step)
        self._planned: Step | None = None
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

    def loaded(self, transfer: Transfer, now: int) -> None:
        """Take note that a transfer is complete."""
        slot = transfer.slot
        self.memory.landed(slot)
        self.ledger.transferred(transfer, now)
        for job in slot.waiters:
            self.ledger.adapter_ready(job, transfer, now)
        slot.waiters.clear()
        self._something_changed()

    def wakes_at_s(self) -> float | None:
        """Return the earliest instant at which a policy wants to be woken."""
        earliest = None
        for policy in self.timed:
            wakes_at_s = policy.wakes_at_s()
            if wakes_at_s is not None and (earliest is None or wakes_at_s < earliest):
                earliest = wakes_at_s
        return earliest

    def woken(self, now_s: float) -> None:
        """Call the policies whose declared time has come."""
        for policy in self.timed:
            wakes_at_s = policy.wakes_at_s()
            if wakes_at_s is not None and wakes_at_s <= now_s:
                policy.woken(now_s)
                self._something_changed()

    def plan(self, now: int, horizon: Horizon) -> Step | None:
        """Return the next step, or None if the engine can only wait.

        Args:
            now: ticks.
            horizon: asked once the transfers of this plan are sent.
        """
        if not (self.joining and self.options.blocks_on_load):
            self._admit(now)
        self._fetch_ahead(now)
        self._planned = self._plan_prefill(now) or self._plan_decode(now, horizon)
        self.ledger.memory(now, self.memory)
        return self._planned

    def step_finished(self, now: int) -> None:
        """Apply the step that was planned last.

        Raises:
            RuntimeError: if no step was planned.
        """
        step, self._planned = self._planned, None
        if isinstance(step, Prefill):
            self._prefilled(step, now)
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
        return job.prompt_tokens + self.step - job.start_step

    def check(self) -> None:
        """Raise RuntimeError with the numbers if a law is broken; to be called between steps."""
        self.memory.check()
        check_requests(self)

    def admit(self, job: Job, now: int) -> None:
        """Take a waiting request into the batch; only `Round` calls this, once it has said yes."""
        slot = job.slot
        source = BASE_MODEL if slot is None else self.adapters.acquire(slot, now)
        self._take_memory(job, now)
        self.live[job.request.id] = job
        self.joining.append(job)
        self.ledger.admitted(job, source, now)
        job.is_admitted = True
        job.is_set_aside = self.starts_late(job)
        if job.is_set_aside:
            self.peak.set_aside(job)
        else:
            self.peak.add(job, self.step)
        if slot is not None and not slot.ready:
            self.adapters.demand(slot, job, now)
        elif job.ready == NEVER:
            job.ready = now

    def starts_late(self, job: Job) -> bool:
        """Whether others would go on decoding before a request, admitted now, has its adapter."""
        return not (job.slot is None or job.slot.ready or self.options.blocks_on_load)

    def squash(self, job: Job) -> None:
        """Stop a running request and drop its KV; only `Round` calls this."""
        self._leave(job)
        job.is_admitted = False
        job.preemptions += 1
        self.ledger.stopped(job, self.step - job.start_step)
        self._something_changed()

    def _take_memory(self, job: Job, now: int) -> None:
        kv_bytes = job.prompt_tokens * self.memory.token_bytes
        absent = 0 if job.slot is None or job.slot.held else job.slot.size
        before = len(self.memory.held)
        has_room = self.memory.make_room(kv_bytes, absent, now)
        self.ledger.forced(before - len(self.memory.held))
        if not has_room:
            msg = f"admitted {job.request!r} without room for it"
            raise RuntimeError(msg)
        self.memory.kv_bytes += kv_bytes

    def _admit(self, now: int) -> None:
        if not (self.waiting and self.clock.is_due(self.step, is_busy=bool(self.running))):
            return
        self.clock.asked()
        batch = Round(self, now)
        self._scheduler.fill(batch, self._view, now / TICKS_PER_S)
        for job in batch.accepted:
            del self.waiting[job.request.id]
        for job in batch.squashed:
            self.waiting[job.request.id] = job
            self.waiting.move_to_end(job.request.id, last=False)
            self._wait(job, now)
        if batch.accepted:
            self.clock.admitted()
            self._something_changed()
        self.clock.refused(None if self.clock.has_news else batch.next_fit())

    def _wait(self, job: Job, now: int) -> None:
        if job.slot is not None:
            self.adapters.queued(job.slot)
        self._scheduler.arrived(job.request, now / TICKS_PER_S)
        self._something_changed()

    def _unservable(self, job: Job) -> str | None:
        if job.prompt_tokens > self.options.batch_prompt_tokens:
            limit = self.options.batch_prompt_tokens
            return f"a prompt of {job.prompt_tokens} tokens exceeds the {limit} of one prefill iteration"
        return self.memory.limits.why_not(
            job.prompt_tokens + job.reserved_tokens, 0 if job.slot is None else job.slot.size
        )

    def _fetch_ahead(self, now: int) -> None:
        counts_steps = self.adapters.prefetch_steps is not None
        if counts_steps and not (self.waiting and self.running and not self.joining):
            return
        if self.adapters.is_prefetch_due(self.step, self.clock.since):
            order = self._scheduler.order(self._view, now / TICKS_PER_S)
            self.adapters.prefetch(order, self.step, now)

    def _something_changed(self) -> None:
        self.clock.something_changed()
        self.adapters.asks = True
        self.forecast.forget()

    def _plan_prefill(self, now: int) -> Prefill | None:
        if not self.joining:
            return None
        jobs = [job for job in self.joining if job.slot is None or job.slot.ready]
        stands_still = len(jobs) < len(self.joining) and self.options.blocks_on_load
        self.ledger.stands_still(now, stands_still=stands_still)
        if stands_still or not jobs:
            return None
        self.joining = [job for job in self.joining if job.slot is not None and not job.slot.ready]
        for job in jobs:
            if job.is_set_aside:
                self.peak.take_up(job, self.step)
        self.ledger.prefill_starts(jobs, now, waited_together=self.options.blocks_on_load)
        return Prefill(now, self.costs.prefill(*prefill_arguments(jobs)), jobs)

    def _prefilled(self, step: Prefill, now: int) -> None:
        self.ledger.prefilled(step, now)
        for job in step.jobs:
            job.start_step = self.step
            job.finish_step = self.step + job.output_tokens - 1
            self.running[job] = None
            self.shape.add(job, job.prompt_tokens)
            self.peak.emitted(job)
            self.ledger.first_token(job, now)
            if job.output_tokens == 1:
                self._finish(job, now)
            else:
                heappush(self._ends, (job.finish_step, job.request.id, job))
        self._something_changed()

    def _plan_decode(self, now: int, horizon: Horizon) -> Decode | None:
        stands_still = self.joining and self.options.blocks_on_load
        if stands_still or not self.running or not self._can_grow(now):
            return None
        cost = self.shape.decode_cost(self.costs)
        steps = 1 if self.options.asks_every_step else run_length(self, cost, now, horizon)
        self.memory.kv_bytes += steps * len(self.running) * self.memory.token_bytes
        return Decode(now, run_ticks(cost, steps), steps, cost.first, cost.growth)

    def _can_grow(self, now: int) -> bool:
        # Idle adapters make way for tokens; one still in flight cannot, and then the engine waits for it to land.
        grown_bytes = len(self.running) * self.memory.token_bytes
        if self.memory.free_bytes >= grown_bytes:
            return True
        before = len(self.memory.held)
        has_room = self.memory.make_room(grown_bytes, 0, now)
        self.ledger.forced(before - len(self.memory.held))
        return has_room

    def first_end(self) -> int:
        """Return the decode step at which the first running request ends."""
        ends = self._ends
        while ends[0][2] not in self.running or ends[0][2].finish_step != ends[0][0]:
            heappop(ends)  # it was stopped before its end
        return ends[0][0]

    def _decoded(self, step: Decode, now: int) -> None:
        self.ledger.decoded(step.as_taken(now), self.shape)
        self.step += step.steps
        self.clock.since += step.steps
        self.shape.context_tokens += step.steps * len(self.running)
        has_finished = False
        while self.running and self.first_end() == self.step:
            self._finish(heappop(self._ends)[2], now)
            has_finished = True
        if has_finished:
            self.adapters.drop(now, batch_is_empty=not self.live)
            self._something_changed()

    def _finish(self, job: Job, now: int) -> None:
        self._leave(job)
        self._scheduler.finished(job.request, now / TICKS_PER_S)
        self.ledger.finished(job, self.step - job.start_step, now)

    def _leave(self, job: Job) -> None:
        tokens = self.held_tokens(job)
        del self.running[job]
        del self.live[job.request.id]
        self.shape.remove(job, tokens)
        self.peak.remove(job)
        self.memory.kv_bytes -= tokens * self.memory.token_bytes
        if job.slot is not None:
            self.adapters.release(job.slot)
