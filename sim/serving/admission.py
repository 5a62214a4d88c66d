"""One round of admission: the scheduler asks, the round does all accounting, by the policies' `Batch` contract."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from policies.base import Adapter, Refusal, Request
from sim.serving.job import Job
from sim.serving.reservation import Reservation

if TYPE_CHECKING:
    from sim.core import Core

_request = attrgetter("request")
SHORTAGES = (Refusal.KV, Refusal.ADAPTER)


class Waiting:
    """Waiting requests in order of arrival, those that were stopped and must start again first."""

    def __init__(self, jobs: OrderedDict[int, Job]) -> None:
        self._jobs = jobs

    def __iter__(self) -> Iterator[Request]:
        return map(_request, self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)


class Round:
    """What one admission round may still take, and what it took."""

    __slots__ = ("_core", "_left_tokens", "_now", "_refused", "aborted", "accepted", "refusal", "stopped")

    def __init__(self, core: Core, now: int) -> None:
        self._core = core
        self._now = now
        self._left_tokens = prompt_budget(core)
        self._refused: list[tuple[Reservation, Job, int]] = []
        self.accepted: list[Job] = []
        self.stopped: list[Job] = []
        self.aborted: list[Job] = []
        self.refusal: Refusal | None = None

    @property
    def step(self) -> int:
        """Iterations that have decoded so far."""
        return self._core.step

    @property
    def running(self) -> Sequence[Request]:
        """Requests in the decode batch, oldest admission first."""
        core = self._core
        for job in core.running:
            job.request.generated_tokens = core.generated_tokens(job)
        return [job.request for job in core.running]

    @property
    def joining(self) -> Sequence[Request]:
        """Requests admitted but not yet in the decode batch."""
        return [job.request for job in self._core.joining]

    @property
    def merged(self) -> Adapter | None:
        """The adapter that is merged into the base model's weights."""
        merged = self._core.merged
        return None if merged is None else merged.adapter

    def is_resident(self, adapter: Adapter | None) -> bool:
        """Whether the adapter (None: the base model) could be used now without a load."""
        return adapter is None or self._core.adapters.slots[adapter].ready

    def try_add(self, request: Request) -> bool:
        """Admit a waiting request, or change nothing and return False.

        Raises:
            RuntimeError: if the request does not wait.
        """
        job = self._waiting(request)
        self.refusal = self._refusal(job)
        if self.refusal in SHORTAGES and not self._core.live:
            self._make_kept_leave(job)
        if self.refusal is not None:
            return False
        self.accepted.append(job)
        self._core.seats.admit(job, self._now)
        if job.needs_prefill:
            self._left_tokens -= job.base_tokens - job.prefilled
        return True

    def wait_s(self, request: Request) -> float:
        """Predicted seconds until running requests have freed what this request lacks (infinite if never)."""
        return self._core.forecast.wait_s(self._core.waiting[request.id])

    def execution_s(self, request: Request) -> float:
        """Predicted seconds of prefill and decode of this request, by its predicted length."""
        return self._core.forecast.execution_s(self._core.waiting[request.id])

    def can_squash_for(self, victim: Request, request: Request) -> bool:
        """Whether `request` would fit if the running `victim` gave back its memory now."""
        core, memory = self._core, self._core.memory
        job, held = core.waiting[request.id], core.live[victim.id]
        if held not in core.running:
            return False
        adapters = core.adapters
        frees = held.slot is not job.slot and adapters.is_last_user(held.slot)
        freed_bytes = adapters.size_of(held.slot) if frees else 0
        new_bytes = self._new_bytes(job)
        if adapters.active - frees + (not adapters.is_used(job.slot)) > core.options.distinct_adapters:
            return False
        absent = adapters.absent_bytes(job.slot)
        kv_bytes = self._kv_bytes(job) - core.kv.bytes_of(core.held_tokens(held))
        if not memory.can_make_room(kv_bytes + self._growth_bytes(job), absent - freed_bytes, keep=job.slot):
            return False
        peak, limit = core.peak.without(held), memory.kv_cap_tokens(new_bytes - freed_bytes) - self._kept_tokens(job)
        if self._fits(peak, job, limit):
            return True
        self._may_fit_later(peak, job, limit)
        return False

    def squash(self, victim: Request) -> None:
        """Stop a running request, drop its KV and make it wait again; its work is repeated later.

        Raises:
            RuntimeError: if the request does not run.
        """
        job = self._running(victim, "squashes")
        self._core.stops.squash(job)
        self.stopped.append(job)

    def preempt(self, request: Request) -> None:
        """Take a running request out of the batch; it waits again and keeps what it has generated.

        Raises:
            RuntimeError: if the request does not run.
        """
        job = self._running(request, "preempts")
        self._core.stops.preempt(job, self._core.options.preempted, self._now)
        self.stopped.append(job)

    def abort(self, request: Request, reason: str) -> None:
        """Turn a waiting request away for good.

        Raises:
            RuntimeError: if the request does not wait.
        """
        job = self._waiting(request)
        self._core.turn_away(job, reason)
        self.aborted.append(job)

    def try_fetch(self, adapter: Adapter) -> bool:
        """Bring an adapter in ahead of an admission; True if it is there, on its way or now sent for."""
        adapters = self._core.adapters
        return adapters.try_fetch(adapters.slots[adapter], self._now)

    def drop(self, adapter: Adapter) -> None:
        """Evict an adapter that no admitted request uses, if it is there."""
        slot = self._core.adapters.slots[adapter]
        if slot.idle:
            self._core.memory.evict(slot, self._now)

    def merge(self, adapter: Adapter | None) -> None:
        """Merge an adapter into the weights, or (None) none.

        Raises:
            RuntimeError: if the adapter is not on the GPU.
        """
        self._core.seats.merge(None if adapter is None else self._core.adapters.slots[adapter])

    def next_fit(self) -> int | None:
        """Return the first later decode step at which a refusal of this round could turn, if nothing else changes."""
        step = self._core.step
        fits = (peak.first_fit(job, step, limit) for peak, job, limit in self._refused)
        return min((fit for fit in fits if fit is not None), default=None)

    def _make_kept_leave(self, job: Job) -> None:
        # Nothing runs, so nothing would ever free what waiting requests keep on the GPU.
        core = self._core
        for kept in reversed([one for one in core.kept.values() if one is not job]):
            core.stops.put_off(kept, self._now)
            self.refusal = self._refusal(job)
            if self.refusal not in SHORTAGES:
                return

    def _running(self, request: Request, what: str) -> Job:
        job = self._core.live.get(request.id)
        if job is None or job not in self._core.running:
            msg = f"a scheduler {what} {request!r}, which does not run"
            raise RuntimeError(msg)
        return job

    def _waiting(self, request: Request) -> Job:
        job = self._core.waiting.get(request.id)
        if job is None or job.is_admitted:
            msg = f"a scheduler offered {request!r}, which does not wait"
            raise RuntimeError(msg)
        return job

    def _refusal(self, job: Job) -> Refusal | None:
        core, options = self._core, self._core.options
        if options.prefill == "chunked" and job.needs_prefill and self._left_tokens <= 0:
            return Refusal.PROMPT_TOKENS  # nobody would get a token of this step
        if len(core.live) >= options.running_requests:
            return Refusal.RUNNING
        if core.merged is not None and job.slot is not core.merged:
            return Refusal.MERGED
        if not core.adapters.is_used(job.slot) and core.adapters.active >= options.distinct_adapters:
            return Refusal.ADAPTERS
        if job.needs_prefill and not self._has_budget(job):
            return Refusal.PROMPT_TOKENS
        return self._memory_refusal(job)

    def _has_budget(self, job: Job) -> bool:
        # A chunked prefill starts with whatever is left; a recomputed prompt may exceed the limit, but then goes alone.
        if self._core.options.prefill == "chunked":
            return True
        core, tokens = self._core, job.base_tokens
        if core.options.reuses_blocks:
            tokens -= core.kv.surviving_tokens(job)
        is_alone = not self.accepted and tokens > core.options.batch_prompt_tokens
        return tokens <= self._left_tokens or is_alone

    def _memory_refusal(self, job: Job) -> Refusal | None:
        core, memory = self._core, self._core.memory
        new = self._new_bytes(job)
        limit = memory.kv_cap_tokens(new)
        if core.kept:
            limit -= self._kept_tokens(job)
        if not self._fits(core.peak, job, limit):
            return self._peak_refusal(job, limit)
        kv_bytes = self._kv_bytes(job)
        if core.grows_on_demand:
            kv_bytes += self._growth_bytes(job)
            if not memory.can_make_room(kv_bytes, 0, keep=job.slot):
                return Refusal.KV
        if memory.active_bytes + new > memory.adapter_limit:
            return Refusal.ADAPTER
        absent = core.adapters.absent_bytes(job.slot)
        return None if memory.can_make_room(kv_bytes, absent, keep=job.slot) else Refusal.ADAPTER

    def _kept_tokens(self, job: Job) -> int:
        """Return the KV tokens that other waiting requests keep on the GPU."""
        core = self._core
        own = core.kv.bytes_of(job.base_tokens) if job.kv == "gpu" else 0
        return (core.stops.kept_bytes - own) // core.memory.token_bytes

    def _kv_bytes(self, job: Job) -> int:
        return 0 if job.kv == "gpu" else self._core.kv.bytes_of(job.base_tokens)

    def _growth_bytes(self, job: Job) -> int:
        """Return what the batch, this request in it, must be able to take next where growth is on demand."""
        core = self._core
        if not core.grows_on_demand:
            return 0
        first = sum(core.kv.first_growth_bytes(one.base_tokens) for one in (job, *core.joining))
        watermark = core.options.watermark_bytes if core.live else 0
        return first + core.kv.growth_bytes(core.step, 1) + watermark

    def _peak_refusal(self, job: Job, limit: int) -> Refusal:
        # Either answer can turn while the batch decodes, so the round remembers the limit at which this one would.
        core = self._core
        loose = core.memory.kv_cap_tokens(0) - self._kept_tokens(job)
        fits_without_adapter = loose > limit and self._fits(core.peak, job, loose)
        self._may_fit_later(core.peak, job, limit if fits_without_adapter else loose)
        return Refusal.ADAPTER if fits_without_adapter else Refusal.KV

    def _fits(self, peak: Reservation, job: Job, limit_tokens: int) -> bool:
        if self._core.seats.starts_late(job):
            return peak.fits_beside(job, limit_tokens)
        return peak.fits(job, self._core.step, limit_tokens)

    def _may_fit_later(self, peak: Reservation, job: Job, limit_tokens: int) -> None:
        if not self._core.seats.starts_late(job):  # else decoding alone changes nothing
            self._refused.append((peak, job, limit_tokens))

    def _new_bytes(self, job: Job) -> int:
        adapters = self._core.adapters
        return 0 if adapters.is_used(job.slot) else adapters.size_of(job.slot)


def prompt_budget(core: Core) -> int:
    """Return the prompt tokens that one round may admit."""
    options = core.options
    if options.prefill != "chunked":
        return options.batch_prompt_tokens
    left = sum(job.base_tokens - job.prefilled for job in core.joining if job.needs_prefill and not job.kv_lands)
    return options.step_tokens - len(core.running) - left
