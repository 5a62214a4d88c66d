"""One round of admission: the scheduler asks, the round does all accounting, by the policies' `Batch` contract."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from policies.base import Adapter, Refusal, Request
from sim.job import AdapterSlot, Job
from sim.peak import PeakTest

if TYPE_CHECKING:
    from sim.core import Core

_request = attrgetter("request")


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

    __slots__ = ("_core", "_left_tokens", "_now", "_refused", "accepted", "refusal", "squashed")

    def __init__(self, core: Core, now: int) -> None:
        self._core = core
        self._now = now
        self._left_tokens = core.options.batch_prompt_tokens
        self._refused: list[tuple[PeakTest, Job, int]] = []
        self.accepted: list[Job] = []
        self.squashed: list[Job] = []
        self.refusal: Refusal | None = None

    @property
    def running(self) -> Sequence[Request]:
        """Requests admitted in earlier rounds and not finished, oldest admission first."""
        return [job.request for job in self._core.running]

    def is_resident(self, adapter: Adapter | None) -> bool:
        """Whether the adapter (None: the base model) could be used now without a load."""
        return adapter is None or self._core.adapters.slots[adapter].ready

    def try_add(self, request: Request) -> bool:
        """Admit a waiting request, or change nothing and return False.

        Raises:
            RuntimeError: if the request does not wait.
        """
        job = self._core.waiting.get(request.id)
        if job is None or job.is_admitted:
            msg = f"a scheduler offered {request!r}, which does not wait"
            raise RuntimeError(msg)
        self.refusal = self._refusal(job)
        if self.refusal is not None:
            return False
        self._left_tokens -= job.prompt_tokens
        self.accepted.append(job)
        self._core.admit(job, self._now)
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
        freed = self._freed_slot(held, job)
        freed_bytes = 0 if freed is None else freed.size
        new_bytes = self._new_bytes(job)
        if core.adapters.active - (freed is not None) + (new_bytes > 0) > core.options.distinct_adapters:
            return False
        absent = 0 if job.slot is None or job.slot.held else job.slot.size
        kv_bytes = (job.prompt_tokens - core.held_tokens(held)) * memory.token_bytes
        if not memory.can_make_room(kv_bytes, absent - freed_bytes, keep=job.slot):
            return False
        peak, limit = core.peak.without(held), memory.kv_cap_tokens(new_bytes - freed_bytes)
        if self._fits(peak, job, limit):
            return True
        self._may_fit_later(peak, job, limit)
        return False

    def squash(self, victim: Request) -> None:
        """Stop a running request, drop its KV and make it wait again; its work is repeated later."""
        job = self._core.live[victim.id]
        self._core.squash(job)
        self.squashed.append(job)

    def next_fit(self) -> int | None:
        """Return the first later decode step at which a refusal of this round could turn, if nothing else changes."""
        step = self._core.step
        fits = (peak.first_fit(job, step, limit) for peak, job, limit in self._refused)
        return min((fit for fit in fits if fit is not None), default=None)

    def _refusal(self, job: Job) -> Refusal | None:
        options = self._core.options
        if job.prompt_tokens > self._left_tokens:
            return Refusal.PROMPT_TOKENS
        if len(self._core.live) >= options.running_requests:
            return Refusal.RUNNING
        is_new = job.slot is not None and not job.slot.users
        if is_new and self._core.adapters.active >= options.distinct_adapters:
            return Refusal.ADAPTERS
        return self._memory_refusal(job)

    def _memory_refusal(self, job: Job) -> Refusal | None:
        core, memory = self._core, self._core.memory
        new = self._new_bytes(job)
        limit = memory.kv_cap_tokens(new)
        if not self._fits(core.peak, job, limit):
            return self._peak_refusal(job, limit)
        if memory.active_bytes + new > memory.adapter_limit:
            return Refusal.ADAPTER
        absent = 0 if job.slot is None or job.slot.held else job.slot.size
        if not memory.can_make_room(job.prompt_tokens * memory.token_bytes, absent, keep=job.slot):
            return Refusal.ADAPTER
        return None

    def _peak_refusal(self, job: Job, limit: int) -> Refusal:
        # Either answer can turn while the batch decodes, so the round remembers the limit at which this one would.
        core = self._core
        loose = core.memory.kv_cap_tokens(0)
        fits_without_adapter = loose > limit and self._fits(core.peak, job, loose)
        self._may_fit_later(core.peak, job, limit if fits_without_adapter else loose)
        return Refusal.ADAPTER if fits_without_adapter else Refusal.KV

    def _fits(self, peak: PeakTest, job: Job, limit_tokens: int) -> bool:
        if self._core.starts_late(job):
            return peak.fits_beside(job, limit_tokens)
        return peak.fits(job, self._core.step, limit_tokens)

    def _may_fit_later(self, peak: PeakTest, job: Job, limit_tokens: int) -> None:
        if not self._core.starts_late(job):  # else decoding alone changes nothing
            self._refused.append((peak, job, limit_tokens))

    @staticmethod
    def _freed_slot(held: Job, job: Job) -> AdapterSlot | None:
        """Return the adapter that nobody would use if `held` stopped and `job` came; None if there is none."""
        slot = held.slot
        return slot if slot is not None and slot.users == 1 and slot is not job.slot else None

    @staticmethod
    def _new_bytes(job: Job) -> int:
        return 0 if job.slot is None or job.slot.users else job.slot.size
