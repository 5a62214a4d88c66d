"""What the engine may tell a policy about the near future, from predicted lengths alone.

Every answer holds until something changes (an arrival, a finish, a load), so asking twice gives the same number
however many decode steps lie between; otherwise decode runs could not be skipped.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sim.serving.job import Job
from sim.serving.planning import prefill_arguments, whole
from sim.serving.ticks import to_seconds

if TYPE_CHECKING:
    from sim.core import Core


class Forecast:
    """Predicted waits and executions, cached until the next change."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waits: dict[Job, float] = {}
        self._step_s: float | None = None

    def forget(self) -> None:
        """Drop all answers because something changed."""
        if self._waits:
            self._waits.clear()
        self._step_s = None

    def step_s(self) -> float:
        """Return the seconds of one decode step of the present batch, or of a batch of one if nothing runs."""
        if self._step_s is None:
            self._step_s = to_seconds(self._core.shape.decode_cost(self._core.costs).first)
        return self._step_s

    def execution_s(self, job: Job) -> float:
        """Return the seconds of the request's own prefill, if it needs one, and of its predicted decode steps."""
        steps = max(job.request.predicted_tokens - job.generated, 1)
        if not job.needs_prefill:
            return steps * self.step_s()
        prefill = self._core.costs.prefill(*prefill_arguments(self._core, [whole(job)]))
        return to_seconds(prefill) + (steps - 1) * self.step_s()

    def wait_s(self, job: Job) -> float:
        """Return the seconds until running requests have freed what this one lacks, by their predicted ends."""
        if job not in self._waits:
            self._waits[job] = self._wait_s(job)
        return self._waits[job]

    def _wait_s(self, job: Job) -> float:
        core, memory = self._core, self._core.memory
        adapter = core.adapters.absent_bytes(job.slot)
        kv = 0 if job.kv == "gpu" else core.kv.bytes_of(job.base_tokens)
        lacking_kv = kv + memory.kv_bytes - memory.kv_limit
        lacking_adapter = adapter + memory.adapter_bytes - memory.idle_bytes - memory.adapter_limit if adapter else 0
        lacking = adapter + kv - memory.free_bytes - memory.idle_bytes
        users: dict[object, int] = {}
        for steps, running in sorted(((self._left(one), one) for one in core.running), key=lambda pair: pair[0]):
            freed_kv = core.kv.bytes_of(core.held_tokens(running))
            freed_adapter = self._freed(running, job, users)
            lacking_kv, lacking_adapter = lacking_kv - freed_kv, lacking_adapter - freed_adapter
            lacking -= freed_kv + freed_adapter
            if max(lacking, lacking_kv, lacking_adapter) <= 0:
                return steps * self.step_s()
        return inf

    def _freed(self, running: Job, job: Job, users: dict[object, int]) -> int:
        """Return the bytes of the adapter that nobody uses once this one has ended too."""
        slot, adapters = running.slot, self._core.adapters
        if slot is job.slot:
            return 0
        users[slot] = users.get(slot, adapters.base_users if slot is None else slot.users) - 1
        return 0 if users[slot] else adapters.size_of(slot)

    def _left(self, job: Job) -> int:
        # A request that has outlived its prediction is expected to end with the next token.
        return max(job.request.predicted_tokens - self._core.generated_tokens(job), 1)
