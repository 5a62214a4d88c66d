"""The serving state machine: what happens to requests, batches and adapters. No clock, no SimPy, no torch, no randomness.

In: `submit`, `loaded`, `woken`, `step_finished`. Out: `plan`, the next thing the engine does. Times are integer ticks.
A driver calls `plan` whenever the engine is free, then `step_finished` when the planned step has ended; None means that
nothing can be done until something happens outside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from operator import attrgetter
from typing import NamedTuple

from policies.base import Adapter, Cache, Prefetch, Request, Scheduler
from sim.admission import Round
from sim.forecast import Forecast, prefill_arguments
from sim.job import AdapterSlot, Job
from sim.ledger import Ledger
from sim.link import Link, Transfer
from sim.memory import GpuMemory, MemoryLimits
from sim.peak import PeakTest
from sim.records import NEVER, SOURCES, Records
from sim.runs import run_ticks, steps_until
from sim.shape import BatchShape, Costs, StepCost
from sim.ticks import TICKS_PER_S

Horizon = Callable[[], int | None]
NO_ADAPTER, RESIDENT, PREFETCHED, IN_FLIGHT, ON_HOST = range(len(SOURCES))
_request = attrgetter("request")


@dataclass(frozen=True)
class EngineOptions:
    """Mechanism of one engine; see `sim.config` for what each real system sets.

    Attributes:
        admit_every_steps: decode steps between two admission rounds while the batch is not empty.
        batch_prompt_tokens: prompt tokens that one prefill iteration may take.
        running_requests: limit on admitted requests.
        distinct_adapters: limit on distinct adapters of admitted requests.
        blocks_on_load: the engine stands still while an admitted request's adapter loads; else the request joins when ready.
        asks_every_step: never skip a decode step or a question; slow, and the oracle for the fast path.
    """

    admit_every_steps: int
    batch_prompt_tokens: int
    running_requests: int
    distinct_adapters: int
    blocks_on_load: bool
    asks_every_step: bool = False


class Prefill(NamedTuple):
    """One prefill iteration."""

    start: int
    ticks: int
    jobs: list[Job]


class Decode(NamedTuple):
    """A run of decode steps over one unchanged batch."""

    start: int
    ticks: int
    steps: int
    first: int
    growth: int


Step = Prefill | Decode


class Waiting:
    """Waiting requests in order of arrival, those that were stopped and must start again first."""

    def __init__(self, jobs: OrderedDict[int, Job]) -> None:
        self._jobs = jobs

    def __iter__(self) -> Iterator[Request]:
        return map(_request, self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)


class Core:
    """The state machine of one engine on one GPU."""

    def __init__(  # noqa: PLR0913 - the parts of an engine, given once
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
        self.scheduler = scheduler
        self.cache = cache
        self.prefetch = prefetch
        self.link = link
        self.memory = GpuMemory(limits, cache, self._evicted)
        self.peak = PeakTest()
        self.shape = BatchShape()
        self.forecast = Forecast(self)
        self.ledger = Ledger(records)
        self.palette = [None if adapter is None else AdapterSlot(adapter, i) for i, adapter in enumerate(adapters)]
        self.slots = {slot.adapter: slot for slot in self.palette if slot is not None}
        self.waiting: OrderedDict[int, Job] = OrderedDict()
        self.joining: list[Job] = []  # admitted, not yet prefilled
        self.running: dict[Job, None] = {}
        self.live: dict[int, Job] = {}  # admitted requests by id
        self.step = 0  # decode steps done so far
        self.active_adapters = 0
        self._view = Waiting(self.waiting)
        self._ends: list[tuple[int, int, Job]] = []  # heap of (last decode step, request id, job)
        self._since_admission = 0
        self._missing = 0  # adapters that waiting requests need and that are not on the GPU, not even on the way
        self._next_fit: int | None = None
        self._ask_scheduler = True
        self._ask_prefetch = True
        self._planned: Step | None = None
        self._prefetch_steps = None if prefetch.asks_at_steps is None else tuple(prefetch.asks_at_steps)
        self._drops = type(cache).drops is not Cache.drops
        self._announces = type(cache).announced is not Cache.announced
        self._asked_at_step: int | None = None
        self._prefetches = type(prefetch).wanted is not Prefetch.wanted

    # --- what happens outside -----------------------------------------------------------------------------------------

    def submit(self, job: Job, now: int) -> None:
        """Take in a request; one that can never fit is rejected with its reason."""
        reason = self._unservable(job)
        if reason is not None:
            self.ledger.rejected(job, reason)
            return
        self.waiting[job.request.id] = job
        self._queue(job, now)
        if job.slot is not None and self._prefetches:
            self.prefetch.used(job.slot.adapter, now / TICKS_PER_S)

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
        times = (self.scheduler.wakes_at_s(), self.prefetch.wakes_at_s())
        return min((time for time in times if time is not None), default=None)

    def woken(self, now_s: float) -> None:
        """Call the policies whose declared time has come."""
        for policy in (self.scheduler, self.prefetch):
            wakes_at_s = policy.wakes_at_s()
            if wakes_at_s is not None and wakes_at_s <= now_s:
                policy.woken(now_s)
                self._something_changed()

    # --- what the engine does next ------------------------------------------------------------------------------------

    def plan(self, now: int, horizon: Horizon) -> Step | None:
        """Return the next step, or None if the engine can only wait.

        Args:
            now: ticks.
            horizon: the tick of the next event outside, None if there is none; asked once the plan's own transfers are sent.
        """
        if not (self.joining and self.options.blocks_on_load):
            self._admit(now)
        self._prefetch(now)
        self._planned = self._prefill(now) or self._decode(now, horizon)
        self.ledger.memory(now, self.memory)
        return self._planned

    def step_finished(self, now: int) -> None:
        """Apply the step that was planned last.

        Raises:
            RuntimeError: if no step was planned.
        """
        if isinstance(self._planned, Prefill):
            self._prefilled(self._planned, now)
        elif isinstance(self._planned, Decode):
            self._decoded(self._planned, now)
        else:
            msg = "step_finished without a planned step"
            raise RuntimeError(msg)
        self._planned = None

    @property
    def admitted_count(self) -> int:
        """Requests admitted and not finished."""
        return len(self.live)

    @property
    def is_empty(self) -> bool:
        """Whether no request is left."""
        return not (self.waiting or self.live)

    def held_tokens(self, job: Job) -> int:
        """Return the KV tokens that a running request holds."""
        return job.prompt_tokens + self.step - job.start_step

    def check(self) -> None:
        """Raise RuntimeError with the numbers if a law is broken; meant for step boundaries."""
        self.memory.check()
        tokens = sum(self.held_tokens(job) for job in self.running) + sum(job.prompt_tokens for job in self.joining)
        users = sum(slot.users for slot in self.slots.values())
        needed = sum(job.slot is not None for job in self.live.values())
        states = len(self.running) + len(self.joining)
        missing = sum(slot.queued > 0 and not slot.held for slot in self.slots.values())
        if (tokens * self.memory.token_bytes, users, states, missing) != (
            self.memory.kv_bytes,
            needed,
            len(self.live),
            self._missing,
        ):
            msg = (
                f"requests do not balance: {tokens} KV tokens for {self.memory.kv_bytes} bytes, {users} adapter users for "
                f"{needed} requests, {states} admitted of {len(self.live)}, {missing} adapters missing of {self._missing}"
            )
            raise RuntimeError(msg)

    # --- admission ----------------------------------------------------------------------------------------------------

    def admit(self, job: Job, now: int) -> None:
        """Take a waiting request into the batch; only `Round` calls this, once it has said yes."""
        job.is_admitted = True
        self.live[job.request.id] = job
        self.joining.append(job)
        kv_bytes = job.prompt_tokens * self.memory.token_bytes
        slot = job.slot
        source = NO_ADAPTER if slot is None else self._acquire(slot, now)
        absent = slot.size if slot is not None and not slot.held else 0
        if not self.memory.make_room(kv_bytes, absent, now):
            msg = f"admitted {job.request!r} without room for it"
            raise RuntimeError(msg)
        self.memory.kv_bytes += kv_bytes
        self.ledger.admitted(job, source, now)
        if slot is not None and not slot.ready:
            self._demand(slot, job, now)
        elif job.ready == NEVER:
            job.ready = now
        job.is_set_aside = not (slot is None or slot.ready or self.options.blocks_on_load)
        if job.is_set_aside:
            self.peak.set_aside(job)
        else:
            self.peak.add(job, self.step)

    def squash(self, job: Job) -> None:
        """Stop a running request and drop its KV; only `Round` calls this."""
        self._leave(job)
        job.is_admitted = False
        job.preemptions += 1
        self.ledger.stopped(job, self.step - job.start_step)
        self._something_changed()

    def _admit(self, now: int) -> None:
        is_due = not self.live or self._since_admission >= self.options.admit_every_steps
        if not (is_due and self.waiting):
            return
        fits_by_now = self._next_fit is not None and self.step >= self._next_fit
        if self._ask_scheduler or fits_by_now or self.options.asks_every_step:
            self._fill(now)

    def _fill(self, now: int) -> None:
        now_s = now / TICKS_PER_S
        self._ask_scheduler = False
        batch = Round(self, now)
        self.scheduler.fill(batch, self._view, now_s)
        for job in batch.accepted:
            del self.waiting[job.request.id]
        for job in batch.squashed:
            self.waiting[job.request.id] = job
            self.waiting.move_to_end(job.request.id, last=False)
            self._queue(job, now)
        if batch.accepted:
            self._since_admission = 0
            self._something_changed()
        self._next_fit = None if self._ask_scheduler else batch.next_fit()

    def _queue(self, job: Job, now: int) -> None:
        slot = job.slot
        if slot is not None:
            slot.queued += 1
            self._missing += slot.queued == 1 and not slot.held
        self.scheduler.arrived(job.request, now / TICKS_PER_S)
        self._something_changed()

    def _acquire(self, slot: AdapterSlot, now: int) -> int:
        source = RESIDENT if slot.ready else IN_FLIGHT if slot.held else ON_HOST
        if slot.prefetched:
            source = PREFETCHED if slot.ready else IN_FLIGHT
            slot.prefetched = False
            self.ledger.prefetch_was_useful(slot)
        slot.queued -= 1
        self._missing -= slot.queued == 0 and not slot.held
        self.memory.acquire(slot)
        self.active_adapters += slot.users == 1
        slot.last_used = now
        self.cache.used(slot.adapter, now / TICKS_PER_S)
        return source

    def _unservable(self, job: Job) -> str | None:
        if job.prompt_tokens > self.options.batch_prompt_tokens:
            return f"a prompt of {job.prompt_tokens} tokens exceeds the {self.options.batch_prompt_tokens} of one prefill iteration"
        size = 0 if job.slot is None else job.slot.size
        limits = self.memory.limits
        cap = (min(limits.kv_limit_bytes, limits.total_bytes - size) - 1) // limits.kv_token_bytes
        if job.prompt_tokens + job.reserved_tokens > cap or size > limits.adapter_limit_bytes:
            return (
                f"{job.prompt_tokens} + {job.reserved_tokens} tokens and {size} adapter bytes exceed the memory: "
                f"at most {max(cap, 0)} tokens beside this adapter, adapters up to {limits.adapter_limit_bytes} bytes"
            )
        return None

    # --- adapters -----------------------------------------------------------------------------------------------------

    def _demand(self, slot: AdapterSlot, job: Job, now: int) -> None:
        if slot.held:
            self.link.promote(slot)
        else:
            job.loads_for_itself = True
            self._load(slot, now, is_demand=True)
        slot.waiters.append(job)

    def _load(self, slot: AdapterSlot, now: int, *, is_demand: bool) -> None:
        self._missing -= slot.queued > 0
        self.memory.hold(slot, now)
        self.link.send(Transfer(slot, self.costs.load(slot.size), now, is_demand=is_demand))

    def _prefetch(self, now: int) -> None:
        if not (self._prefetches and self._is_prefetch_due()):
            return
        self._ask_prefetch = False
        self._asked_at_step = self.step
        now_s = now / TICKS_PER_S
        asked: list[Adapter] = []
        for adapter in self.prefetch.wanted(self.scheduler.order(self._view, now_s), now_s):
            slot = self.slots[adapter]
            if not slot.held and not self._bring(slot, now):
                break
            asked.append(adapter)
            if not self._missing and self.prefetch.only_waiting and not self._announces:
                break
        self.cache.announced(asked, now_s)

    def _is_prefetch_due(self) -> bool:
        if self._prefetch_steps is not None:
            is_due = self._since_admission in self._prefetch_steps and self._asked_at_step != self.step
            return bool(is_due and self.waiting and self.running and not self.joining)
        return self._ask_prefetch and (self._missing > 0 or not self.prefetch.only_waiting)

    def _bring(self, slot: AdapterSlot, now: int) -> bool:
        if self.prefetch.may_evict:
            has_room = self.memory.make_room_below(slot, now)
        else:
            has_room = self.memory.has_room_for(slot)
        if has_room:
            self._load(slot, now, is_demand=False)
            slot.prefetched = True
        return has_room

    def _evicted(self, slot: AdapterSlot, now: int) -> None:
        self._missing += slot.queued > 0
        self.ledger.evicted(slot, now)
        self._something_changed()

    def _something_changed(self) -> None:
        self._ask_scheduler = True
        self._ask_prefetch = True
        self.forecast.forget()

    # --- steps --------------------------------------------------------------------------------------------------------

    def _prefill(self, now: int) -> Prefill | None:
        jobs = [job for job in self.joining if job.slot is None or job.slot.ready]
        stands_still = len(jobs) < len(self.joining) and self.options.blocks_on_load
        self.ledger.stands_still(now, stands_still=stands_still)
        if stands_still or not jobs:
            return None
        self.joining = [job for job in self.joining if job.slot is not None and not job.slot.ready]
        for job in jobs:
            if job.is_set_aside:
                self.peak.take_up(job, self.step)
        arguments = prefill_arguments(jobs)
        ticks = self.costs.prefill(*arguments)
        self.ledger.prefill(jobs, now, ticks, arguments[1])
        return Prefill(now, ticks, jobs)

    def _prefilled(self, step: Prefill, now: int) -> None:
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

    def _decode(self, now: int, horizon: Horizon) -> Decode | None:
        if not self.running or (self.joining and self.options.blocks_on_load) or not self._grow(now):
            return None
        cost = self.shape.decode_cost(self.costs)
        count = self._run_length(cost, now, horizon)
        self.memory.kv_bytes += count * len(self.running) * self.memory.token_bytes
        return Decode(now, run_ticks(cost, count), count, cost.first, cost.growth)

    def _grow(self, now: int) -> bool:
        # Idle adapters make way for tokens; only one still in flight cannot, and then the engine waits for it to land.
        before = len(self.memory.held)
        has_room = self.memory.make_room(len(self.running) * self.memory.token_bytes, 0, now)
        self.ledger.forced(before - len(self.memory.held))
        return has_room

    def _run_length(self, cost: StepCost, now: int, horizon: Horizon) -> int:
        if self.options.asks_every_step:
            return 1
        growth = len(self.running) * self.memory.token_bytes
        limit = min(self._first_end() - self.step, self.memory.free_bytes // growth)
        if cost.steps is not None:
            limit = min(limit, cost.steps)
        limit, quiet = self._until_policies_are_asked(limit)
        if limit > quiet:
            event = horizon()
            if event is not None:
                limit = min(limit, max(quiet, steps_until(cost, event - now)))
        return max(limit, 1)

    def _until_policies_are_asked(self, limit: int) -> tuple[int, int]:
        """Return the most steps until a policy is due, and for how many of them events outside do not matter."""
        since = self._since_admission
        quiet = max(self.options.admit_every_steps - since, 0)
        if self._prefetches and self._prefetch_steps is None:
            quiet = 0
            if self._ask_prefetch and (self._missing or not self.prefetch.only_waiting):
                limit = 1
        if self.joining:
            quiet = 0
        if self.waiting:
            limit = min(limit, self._until_admission())
        for at in self._prefetch_steps or ():
            if at > since and self.waiting:
                limit = min(limit, at - since)
            elif at > since:
                quiet = min(quiet, at - since)
        return limit, quiet

    def _until_admission(self) -> int:
        wait = self.options.admit_every_steps - self._since_admission
        if wait > 0:
            return wait
        if self._ask_scheduler:
            return 1
        return NEVER if self._next_fit is None else self._next_fit - self.step

    def _first_end(self) -> int:
        ends = self._ends
        while ends[0][2] not in self.running or ends[0][2].finish_step != ends[0][0]:
            heappop(ends)  # it was stopped before its end
        return ends[0][0]

    def _decoded(self, step: Decode, now: int) -> None:
        self.ledger.decoded(step, self.shape)
        self.step += step.steps
        self._since_admission += step.steps
        self.shape.context_tokens += step.steps * len(self.running)
        has_finished = False
        while self.running and self._first_end() == self.step:
            self._finish(heappop(self._ends)[2], now)
            has_finished = True
        if has_finished:
            self._drop(now)
            self._something_changed()

    def _finish(self, job: Job, now: int) -> None:
        self._leave(job)
        self.scheduler.finished(job.request, now / TICKS_PER_S)
        self.ledger.finished(job, self.step - job.start_step, now)

    def _leave(self, job: Job) -> None:
        tokens = self.held_tokens(job)
        del self.running[job]
        del self.live[job.request.id]
        self.shape.remove(job, tokens)
        self.peak.remove(job)
        self.memory.kv_bytes -= tokens * self.memory.token_bytes
        slot = job.slot
        if slot is not None:
            self.memory.release(slot)
            self.active_adapters -= slot.users == 0

    def _drop(self, now: int) -> None:
        if not (self._drops and self.memory.idle):
            return
        now_s = now / TICKS_PER_S
        idle = [slot.adapter for slot in self.memory.idle]
        for adapter in list(self.cache.drops(idle, now_s, batch_is_empty=not self.live)):
            self.memory.evict(self.slots[adapter], now)
