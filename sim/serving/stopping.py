"""Requests that stop before their end: squashed, preempted by the scheduler, or because memory ran out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sim.serving.job import Job
from sim.serving.options import Preempted
from sim.serving.records import NEVER

if TYPE_CHECKING:
    from sim.core import Core

MOST_STOPS = 10_000  # of one request: a scheduler that always stops whom it has admitted would hang the run


class Stops:
    """Takes requests out of the batch, and makes room for the others to grow."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.swapped_bytes = 0  # KV on the host
        self.kept_bytes = 0  # KV of waiting requests on the GPU

    def squash(self, job: Job) -> None:
        """Stop a running request and drop its KV and its tokens: its work is repeated later."""
        self._stop(job)
        self._core.ledger.squashed(job)
        job.restart(base_tokens=job.prompt_tokens, generated=0, kv="none")
        job.last_token = NEVER  # what it emits again is no news to its user

    def preempt(self, job: Job, how: Preempted, now: int) -> None:
        """Stop a running request; it keeps its tokens, and its KV stays on the GPU, goes to the host or is dropped."""
        core = self._core
        held = core.held_tokens(job)
        generated = job.generated + core.step - job.start_step
        self._stop(job)
        size = core.kv.bytes_of(held)
        job.request.generated_tokens = generated
        if how == "keep":
            core.memory.kv_bytes += size
            core.kept[job.request.id] = job
            self.kept_bytes += size
            job.restart(base_tokens=held, generated=generated, kv="gpu")
        elif how == "swap" and self.swapped_bytes + size <= core.options.swap_bytes:
            self._swap_out(job, size, now)
            job.restart(base_tokens=held, generated=generated, kv="host")
        else:
            self._leave_behind(job, held)
            job.restart(base_tokens=job.prompt_tokens + generated, generated=generated, kv="none")

    def make_way(self, now: int) -> bool:
        """Stop requests, in the order of `victim`, until the batch can grow by a token; return whether any had to."""
        core = self._core
        stopped = False
        while core.running and not core.seats.could_grow():
            victim = next(self._victims(), None)
            if victim is None:
                break
            self._give_way(victim, now)
            stopped = True
        return stopped

    def forget(self, job: Job) -> None:
        """Drop the KV of a request that waits, for good."""
        self._core.kv.forget(job)
        if job.kv == "gpu":
            self._core.memory.kv_bytes -= self.unkeep(job)
        elif job.kv == "host":
            self.swapped_bytes -= self._core.kv.bytes_of(job.base_tokens)
        self._recompute(job)

    def put_off(self, job: Job, now: int) -> None:
        """Let the KV of a waiting request leave the GPU, as when memory runs out."""
        core = self._core
        size = core.kv.bytes_of(job.base_tokens)
        core.memory.kv_bytes -= self.unkeep(job)
        if self._may_swap(size):
            self._swap_out(job, size, now)
            job.kv = "host"
        else:
            self._leave_behind(job, job.base_tokens)
            self._recompute(job)

    def unkeep(self, job: Job) -> int:
        """Take a request out of those whose KV is kept, and return the bytes."""
        size = self._core.kv.bytes_of(job.base_tokens)
        del self._core.kept[job.request.id]
        self.kept_bytes -= size
        self._core.something_changed()  # others have more room
        return size

    def _victims(self) -> Iterator[Job]:
        # Those that hold memory without running go first, then the admitted; the last one runs to its end. Where
        # admission has planned for everybody's growth, only the former can stand in its way.
        core = self._core
        yield from reversed(core.kept.values())
        if core.grows_on_demand and len(core.live) > 1:
            stoppable = (job for job in reversed(core.live.values()) if not job.kv_lands)
            by_output = core.options.victim == "least_generated"
            yield from sorted(stoppable, key=self._output_first) if by_output else stoppable

    def _output_first(self, job: Job) -> tuple[int, int]:
        """Return SGLang's rank of a victim (`_get_decode_retraction_order`), the lowest first; ties stay in order."""
        core = self._core
        generated = core.generated_tokens(job) if job in core.running else job.generated
        return generated, -job.prompt_tokens

    def _give_way(self, job: Job, now: int) -> None:
        core = self._core
        if job in core.running:
            self.preempt(job, core.options.shortage, now)
        elif job.request.id in core.kept:
            self.put_off(job, now)
            return
        else:
            self._turn_back(job, now)
        core.wait_again([job], now)

    def _turn_back(self, job: Job, now: int) -> None:
        """Undo the admission of a request that has not started."""
        core = self._core
        core.joining.remove(job)
        if job.slot is not None and job in job.slot.waiters:
            job.slot.waiters.remove(job)
        size = core.kv.bytes_of(job.base_tokens)
        core.seats.leave(job, size)
        core.ledger.turned_back(job)
        job.preemptions += 1
        if job.kv == "gpu" and self._may_swap(size):
            self._swap_out(job, size, now)
            job.restart(base_tokens=job.base_tokens, generated=job.generated, kv="host")
        else:
            self._leave_behind(job, job.base_tokens if job.kv == "gpu" else job.prefilled)
            self._recompute(job)

    def _leave_behind(self, job: Job, tokens: int) -> None:
        """Take note, if anybody will look, of so many computed tokens whose KV has just been given back."""
        if self._core.options.reuses_blocks:
            self._core.kv.leave_behind(job, tokens)

    def _may_swap(self, size: int) -> bool:
        options = self._core.options
        return options.shortage == "swap" and self.swapped_bytes + size <= options.swap_bytes

    def _swap_out(self, job: Job, size: int, now: int) -> None:
        core = self._core
        ticks = core.costs.swap(size)
        self.swapped_bytes += size
        core.extra_ticks += ticks
        core.ledger.swapped_out(job, now, ticks, size)

    def _recompute(self, job: Job) -> None:
        job.restart(base_tokens=job.prompt_tokens + job.generated, generated=job.generated, kv="none")

    def _stop(self, job: Job) -> None:
        core = self._core
        job.preemptions += 1
        if job.preemptions > MOST_STOPS:
            msg = f"{job.request!r} was stopped {MOST_STOPS} times, and its work begun anew"
            raise RuntimeError(msg)
        core.ledger.stopped(job, core.step - job.start_step)
        core.seats.leave_running(job)
        core.something_changed()
