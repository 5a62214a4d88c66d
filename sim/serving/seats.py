"""Places in the engine: what an admitted request takes, joins and gives back, and the memory a batch grows into."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from sim.serving.adapters import BASE_MODEL
from sim.serving.job import AdapterSlot, Job
from sim.serving.link import Channel, KvTransfer
from sim.serving.records import NEVER

if TYPE_CHECKING:
    from sim.core import Core


class Seats:
    """Moves requests from admitted to joining to running, and out again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ends: list[tuple[int, int, Job]] = []  # heap of (last decode step, request id, job)

    def admit(self, job: Job, now: int) -> None:
        """Take a waiting request into the batch; only `Round` calls this, once it has said yes."""
        core, slot = self._core, job.slot
        source = BASE_MODEL if slot is None else core.adapters.acquire(slot, now)
        core.ledger.admitted(job, source, now)
        self._take_memory(job, now)
        if slot is None:
            core.adapters.base_joined()
        core.live[job.request.id] = job
        core.joining.append(job)
        job.is_admitted = True
        job.is_set_aside = self.starts_late(job)
        if job.is_set_aside:
            core.peak.set_aside(job)
        else:
            core.peak.add(job, core.step)
        if slot is not None and not slot.ready:
            core.adapters.demand(slot, job, now)
        elif job.ready == NEVER:
            job.ready = now

    def starts_late(self, job: Job) -> bool:
        """Whether others would go on decoding before a request, admitted now, could."""
        if self._core.options.prefill != "separate" and job.needs_prefill:
            return True
        if self._core.options.blocks_on_load:
            return False
        return job.kv == "host" or not (job.slot is None or job.slot.ready)

    def leave_joining(self, jobs: Collection[Job]) -> None:
        """Take requests that start now out of those that join."""
        core = self._core
        for job in jobs:
            if job.is_set_aside:
                core.peak.take_up(job, core.step)
        core.joining = [job for job in core.joining if job not in jobs] if len(jobs) < len(core.joining) else []

    def begin(self, job: Job) -> None:
        """Let a request decode from the next step on."""
        core = self._core
        job.start_step = core.step
        job.finish_step = core.step + job.output_tokens - job.generated
        job.kv = "gpu"
        core.running[job] = None
        core.shape.add(job, job.base_tokens)
        core.kv.join(job.base_tokens, core.step)
        if job.finish_step > core.step:
            heappush(self._ends, (job.finish_step, job.request.id, job))

    def resume(self, jobs: Collection[Job]) -> None:
        """Let preempted requests whose KV is on the GPU go on decoding."""
        if not jobs:
            return
        self.leave_joining(jobs)
        for job in jobs:
            self.begin(job)
            self._core.ledger.resumed(job)
        self._core.something_changed()

    def first_end(self) -> int:
        """Return the decode step at which the first running request ends."""
        ends, running = self._ends, self._core.running
        while ends[0][2] not in running or ends[0][2].finish_step != ends[0][0]:
            heappop(ends)  # it was stopped before its end
        return ends[0][0]

    def pop_end(self) -> Job:
        """Return the first running request that ends, the next time another one."""
        return heappop(self._ends)[2]

    def leave(self, job: Job, kv_bytes: int) -> None:
        """Take back from an admitted request its place, its adapter and so many bytes of KV."""
        core = self._core
        del core.live[job.request.id]
        core.peak.remove(job)
        core.memory.kv_bytes -= kv_bytes
        if job.slot is None:
            core.adapters.base_left()
        else:
            core.adapters.release(job.slot)

    def leave_running(self, job: Job) -> None:
        """Take a request out of the decode batch, with all that it holds."""
        core = self._core
        tokens = core.held_tokens(job)
        del core.running[job]
        core.shape.remove(job, tokens)
        core.kv.leave(tokens, core.step)
        self.leave(job, core.kv.bytes_of(tokens))

    def merge(self, slot: AdapterSlot | None) -> None:
        """Merge an adapter into the weights, or take the merged one out again; the next step lasts longer by that.

        Raises:
            RuntimeError: if the adapter is not on the GPU.
        """
        core = self._core
        if slot is core.merged:
            return
        if slot is not None and not slot.ready:
            msg = f"cannot merge {slot.adapter!r}: it is not on the GPU"
            raise RuntimeError(msg)
        for one in (core.merged, slot):
            core.extra_ticks += 0 if one is None else core.options.merge_ticks
        if slot is not None:
            core.adapters.pin(slot)
        if core.merged is not None:
            core.adapters.release(core.merged)
        core.merged = slot
        core.shape.is_merged = slot is not None
        core.something_changed()

    def can_grow(self, now: int) -> bool:
        """Whether every running request may get a token: idle adapters make way, and if need be other requests.

        An adapter in flight cannot make way, and then the engine waits for it to land.
        """
        if self.has_growth_room(now):
            return True
        core = self._core
        may_stop = core.grows_on_demand or core.kept
        return bool(may_stop) and core.stops.make_way(now) and self.has_growth_room(now)

    def could_grow(self) -> bool:
        """Whether evicting idle adapters would give the batch its next tokens; nothing is evicted."""
        core = self._core
        return core.memory.can_make_room(core.kv.growth_bytes(core.step, 1), 0)

    def has_growth_room(self, now: int) -> bool:
        """Whether memory has room for one more token each, with idle adapters evicted for it."""
        core = self._core
        before = len(core.memory.held)
        has_room = core.memory.make_room(core.kv.growth_bytes(core.step, 1), 0, now)
        core.ledger.forced(before - len(core.memory.held))
        return has_room

    def _take_memory(self, job: Job, now: int) -> None:
        core = self._core
        kv_bytes = 0 if job.kv == "gpu" else core.kv.bytes_of(job.base_tokens)
        if core.options.reuses_blocks and job.needs_prefill:
            job.prefilled = core.kv.reclaim(job)
            kv_bytes -= core.kv.bytes_of(job.prefilled)
        absent = core.adapters.absent_bytes(job.slot)
        before = len(core.memory.held)
        has_room = core.memory.make_room(kv_bytes, absent, now)
        core.ledger.forced(before - len(core.memory.held))
        if not has_room:
            msg = f"admitted {job.request!r} without room for it"
            raise RuntimeError(msg)
        core.kv.take(kv_bytes)
        if job.kv == "gpu":
            core.stops.unkeep(job)
        elif job.kv == "host":
            job.kv_lands = True
            channel: Channel = "shared" if core.options.fair_link else "link"
            core.link.send(KvTransfer(job, kv_bytes, core.costs.swap(kv_bytes), now, channel=channel))
