"""Writes what happens into the records: instants, token gaps, transfers. It observes the core and decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.serving.job import AdapterSlot, Job
from sim.serving.link import AdapterTransfer, KvTransfer
from sim.serving.memory import GpuMemory
from sim.serving.records import NEVER, STATUSES, Records
from sim.serving.shape import BatchShape

if TYPE_CHECKING:
    from sim.serving.steps import Decode

OK, REJECTED, UNFINISHED = range(len(STATUSES))


class Ledger:
    """The records of one replica, kept as the core runs."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._batch_sum = 0
        self._segments = 0
        self._last_emission = 0
        self._fresh: dict[Job, int] = {}  # requests that have not decoded since their prefill, and when that ended
        self._stall_start: int | None = None

    def rejected(self, job: Job, reason: str) -> None:
        """A request can never be served."""
        self.records.rejections[job.request.id] = reason
        self._row(job, REJECTED, NEVER)

    def admitted(self, job: Job, source: int, now: int) -> None:
        """A request has joined; where its adapter was matters the first time only."""
        if job.admitted == NEVER:
            job.source = source
        elif job.first_token == NEVER:
            job.preempted += now - job.admitted
            job.ready = job.prefill_start = NEVER
        else:
            return
        job.admitted = now

    def adapter_ready(self, job: Job, transfer: AdapterTransfer, now: int) -> None:
        """The transfer that an admitted request waited for is complete."""
        if job.ready == NEVER:
            job.ready = now
        if job.loads_for_itself:
            job.load += transfer.ticks
            job.load_bytes += transfer.slot.adapter.size_bytes
            job.link_wait += transfer.started - transfer.queued
            job.loads_for_itself = False

    def transferred(self, transfer: AdapterTransfer, now: int) -> None:
        """A transfer is complete."""
        slot = transfer.slot
        kind = 0 if transfer.is_demand else 1
        size = slot.adapter.size_bytes
        self.records.transfers.add((transfer.queued, transfer.started, now, slot.index, size, kind))

    def read(self, transfer: AdapterTransfer, now: int) -> None:
        """An adapter has come from disk."""
        slot = transfer.slot
        self.records.reads.add((transfer.queued, transfer.started, now, slot.index, slot.adapter.size_bytes))

    def swapped_in(self, transfer: KvTransfer, now: int) -> None:
        """The KV of a preempted request is back on the GPU."""
        request = transfer.job.request.id
        self.records.swaps.add((transfer.queued, transfer.started, now, request, transfer.size_bytes, 0))

    def swapped_out(self, job: Job, now: int, ticks: int, size_bytes: int) -> None:
        """The KV of a request goes to the host, and the next step waits for that."""
        self.records.swaps.add((now, now, now + ticks, job.request.id, size_bytes, 1))

    def prefetch_was_useful(self, slot: AdapterSlot) -> None:
        """A request is the first to use a prefetched copy."""
        useful = self.records.useful_prefetches
        useful[slot.index] = useful.get(slot.index, 0) + 1

    def evicted(self, slot: AdapterSlot, now: int) -> None:
        """An adapter has left memory."""
        self.records.evictions.add((now, slot.index))

    def forced(self, evictions: int) -> None:
        """Idle adapters had to leave so that admitted requests could have their memory."""
        self.records.forced_evictions += evictions

    def memory(self, now: int, memory: GpuMemory) -> None:
        """Note adapter memory if it has changed."""
        if memory.changed:
            memory.changed = False
            self.records.memory.add((now, memory.adapter_bytes, memory.active_bytes, len(memory.held)))

    @property
    def is_standing(self) -> bool:
        """Whether the engine waits for a blocking load."""
        return self._stall_start is not None

    def stands_still(self, now: int, *, stands_still: bool) -> None:
        """Note when the engine begins and ends to wait for a blocking load."""
        if stands_still:
            self._stall_start = now if self._stall_start is None else self._stall_start
        elif self._stall_start is not None:
            self.records.stalls.add((self._stall_start, now - self._stall_start))
            self._stall_start = None

    def inputs_wait(self, now: int, ticks: int) -> None:
        """The inputs of a step that starts now wait for a transfer."""
        self.records.input_waits.add((now, ticks))

    def prefill_starts(self, jobs: list[Job], now: int, *, waited_together: bool) -> None:
        """A prefill iteration starts; where all have waited for all adapters, that wait is everybody's."""
        for job in jobs:
            if job.prefill_start == NEVER:
                job.prefill_start = now
                job.ready = now if waited_together or job.ready == NEVER else job.ready

    def turned_back(self, job: Job) -> None:
        """An admitted request had to give up its place before it started."""
        job.loads_for_itself = False

    def prefilled(self, start: int, now: int, tokens: list[int]) -> None:
        """An iteration that prefilled so many tokens of each of its prompts has ended."""
        self.records.prefills.add((start, now - start, len(tokens), sum(tokens)))

    def mixed(self, start: int, now: int) -> None:
        """That iteration decoded too."""
        self.records.mixed.add((start, now - start))

    def prefill_emitted(self, job: Job, now: int) -> None:
        """A prefill has ended and given a token; the very first one is what its user waits for."""
        if job.first_token == NEVER:
            job.first_token = now
        elif job.last_token != NEVER:
            self.records.pauses.add((job.request.id, now - job.last_token, now))
        self._starts(job, now)

    def resumed(self, job: Job) -> None:
        """A request whose KV was kept goes on decoding."""
        self._starts(job, job.last_token)

    def _starts(self, job: Job, latest: int) -> None:
        job.start_batch_sum = self._batch_sum
        if job.output_tokens > job.generated:
            self._fresh[job] = latest
            if job.first_segment == NEVER:
                job.first_segment = self._segments

    def decoded(self, step: Decode, shape: BatchShape) -> None:
        """A run of decode steps has ended; `shape` is still the batch before it."""
        records, batch, count = self.records, shape.requests, step.steps
        records.segments.add((step.start, step.first, step.growth, count, batch, shape.context_tokens + batch))
        first_end = step.start + step.first
        for emitted in self._fresh.values():
            records.gaps.add((first_end - emitted, 1))
        older = batch - len(self._fresh)
        if older:
            records.gaps.add((first_end - self._last_emission, older))
        self._fresh.clear()
        self._last_emission = step.start + step.ticks
        self._segments += 1
        self._batch_sum += batch * count

    def stopped(self, job: Job, steps: int) -> None:
        """A running request was stopped after so many decode steps and will start again."""
        job.last_token = self._fresh.pop(job, self._last_emission)
        if job.first_segment == self._segments:
            job.first_segment = NEVER  # it has not decoded yet
        self._worked(job, steps)

    def squashed(self, job: Job) -> None:
        """A running request lost its tokens, and its work will be repeated."""
        squashes = self.records.squashes
        squashes[job.request.id] = squashes.get(job.request.id, 0) + 1

    def finished(self, job: Job, steps: int, now: int) -> None:
        """A request is complete after so many decode steps since its last start."""
        self._worked(job, steps)
        if job.first_segment != NEVER:
            job.last_segment = self._segments - 1
        self._row(job, OK, now)

    def _worked(self, job: Job, steps: int) -> None:
        job.steps += steps
        job.batch_sum += self._batch_sum - job.start_batch_sum

    def _row(self, job: Job, status: int, finish: int) -> None:
        request = job.request
        self.records.requests.add(
            (
                request.id,
                status,
                job.arrival,
                job.admitted,
                job.ready,
                job.prefill_start,
                job.first_token,
                finish,
                job.preempted,
                job.source,
                job.load,
                job.load_bytes,
                job.link_wait,
                job.preemptions,
                request.bypassed,
                job.steps,
                job.batch_sum,
                request.lane,
                round(request.weight * 1_000_000),
                job.first_segment,
                job.last_segment,
            )
        )
