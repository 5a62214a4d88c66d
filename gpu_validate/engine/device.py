"""Devices for the real-time driver that execute with torch: one in real time, one on the modelled clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

from gpu_validate.engine.copies import copy_engine
from gpu_validate.engine.worker import Worker
from gpu_validate.modelled import ModelledDevice
from gpu_validate.replay import Landed
from sim.core import Core
from sim.serving.job import AdapterSlot, Job
from sim.serving.link import AdapterTransfer, AnyTransfer, KvTransfer, LinkQueue
from sim.serving.planning import whole
from sim.serving.steps import Chunk, Mixed, Prefill, Step
from sim.serving.ticks import TICKS_PER_S

NS = TICKS_PER_S // 10**9
SPIN_NS = 1_000_000  # sleeping is only so exact


Kind = Literal["prefill", "mixed", "decode"]


class Iteration(NamedTuple):
    """One executed step, in ticks: when its tokens were complete, and when the host was free for it.

    That was when the step before it ended, or the driver woke up: what plans a step takes its time, too.
    """

    kind: Kind
    start: int
    issued: int  # the host was done
    end: int
    planned: int  # ticks that the cost model gave it
    requests: tuple[int, ...]  # ids; each got a token
    prompts: int  # that were worked on
    prompt_tokens: int  # of them that went through the decoder
    decoded: int  # tokens of the batch that did
    earlier_tokens: int = 0  # of the prompts, processed before


class VirtualTorchDevice(ModelledDevice):
    """Does all the work with torch, and keeps the clock of the cost model.

    The disk is a matter of the clock alone. An adapter that lands while a prefill waits for it is copied before that.

    Args:
        worker: executes.
        checks: whether the worker's laws are checked before every step.
    """

    def __init__(self, worker: Worker, *, checks: bool = False) -> None:
        super().__init__()
        self.worker = worker
        self._checks = checks
        self._early: set[AdapterSlot] = set()  # copied already, though they have not landed

    def run(self, step: Step, core: Core) -> int:
        """Execute a step and pass the planned time."""
        if self._checks:
            self.worker.check(core)
        for job, *_ in chunks_of(step):
            if job.slot is not None and not job.slot.ready and job.slot not in self._early:
                self._copy(job.slot)
                self._early.add(job.slot)
        self.worker.run(step, core)
        return super().run(step, core)

    def landed(self, until: int) -> Iterator[Landed]:
        """Yield what is complete by then, adapters copied; swapped KV follows with the next step."""
        for landing in super().landed(until):
            transfer = landing.transfer
            if isinstance(transfer, AdapterTransfer) and transfer.channel != "disk":
                if transfer.slot in self._early:
                    self._early.remove(transfer.slot)
                else:
                    self._copy(transfer.slot)
            yield landing

    def _copy(self, slot: AdapterSlot) -> None:
        self.worker.adapters.place(slot)
        self.worker.adapters.copy_in(slot)


def chunks_of(step: Step) -> list[Chunk]:
    """Return what a step prefills."""
    if isinstance(step, Prefill):
        return [whole(job) for job in step.jobs]
    return step.chunks if isinstance(step, Mixed) else []


class TorchDevice:
    """Executes in real time; ticks count from the first look at the clock.

    Steps run on the current stream, transfers on one beside it, one at a time.

    Args:
        worker: executes.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.iterations: list[Iteration] = []
        self._copies = copy_engine(worker.device)
        self._queue = LinkQueue()
        self._blocked: AnyTransfer | None = None  # popped, but there is no room before something else is done
        self._under_way: AnyTransfer | None = None
        self._landed: deque[Landed] = deque()
        self._origin_ns: int | None = None
        self._told = 0  # the latest instant that the driver knows
        self._free = 0  # when it last had nothing to wait for
        self._core: Core | None = None

    def now(self) -> int:
        """Return the present in ticks."""
        self._told = self._clock()
        return self._told

    def run(self, step: Step, core: Core) -> int:
        """Execute a step and return when its tokens were complete."""
        self._core = core
        self.worker.run(step, core)
        done = self._copies.mark()
        issued = self._clock()
        while not done.query():
            self._poll(may_compact=False)
        end = self.now()
        self.iterations.append(_iteration(step, list(core.running), self._free, issued, end))
        self._free = end
        return end

    def send(self, transfer: AnyTransfer) -> None:
        """Queue a transfer and start it if the link is free.

        Raises:
            RuntimeError: if it comes from disk or shares the link, which no real copy does here.
        """
        if transfer.channel != "link":
            msg = f"the torch engine has one link and no other channel in real time, got {transfer.channel}"
            raise RuntimeError(msg)
        self._queue.push(transfer)
        self._poll(may_compact=True)

    def promote(self, slot: AdapterSlot, now: int) -> None:  # noqa: ARG002 - the queue has no clock
        """Treat a queued prefetch as demand from now on."""
        self._queue.promote(slot)

    def left_ticks(self, slot: AdapterSlot, now: int) -> None:
        """Return None: nobody can know when a real copy will be complete."""
        del slot, now

    def busy_ticks(self, now: int) -> int:
        """Return 0: a step that waits for a copy does so by itself."""
        del now
        return 0

    def landed(self, until: int) -> Iterator[Landed]:
        """Yield transfers that were seen to be complete by then."""
        self._poll(may_compact=True)
        while self._landed and self._landed[0].at <= until:
            landing = self._landed.popleft()
            if isinstance(landing.transfer, KvTransfer):
                self.worker.landed(landing.transfer.job)
            yield landing

    def next_landing(self) -> int | None:
        """Return when the next transfer landed; None as long as it is under way, since nobody knows."""
        return self._landed[0].at if self._landed else None

    def wait(self, until: int | None) -> int:
        """Sleep until `until` or the next landing; with neither to wait for, return the last instant that was told."""
        if self._core is not None:
            self.worker.release(self._core)  # between steps it is as the core has it: KV that lands may need the room
        while until is not None or self._is_busy or self._landed:
            self._poll(may_compact=True)
            now = self.now()
            if self._landed or (until is not None and now >= until):
                self._free = now
                return now
            if until is not None and not self._is_busy:
                _nap((until - now) // NS)
        return self._told

    @property
    def _is_busy(self) -> bool:
        return self._under_way is not None or self._blocked is not None or bool(self._queue)

    def _clock(self) -> int:
        present = time.perf_counter_ns()
        if self._origin_ns is None:
            self._origin_ns = present
        return (present - self._origin_ns) * NS

    def _poll(self, *, may_compact: bool) -> None:
        if self._under_way is not None and self._copies.is_done():
            transfer, self._under_way = self._under_way, None
            # Never before what the driver already knows: it has decided since on the ground that this was not there.
            end = min(self._clock(), transfer.started + self._copies.took_ticks())
            at = max(self._told, end)
            transfer.ticks = at - transfer.started
            self._landed.append(Landed(at, transfer))
        if self._under_way is None and (self._blocked is not None or self._queue):
            self._start(may_compact=may_compact)

    def _start(self, *, may_compact: bool) -> None:
        transfer = self._queue.pop() if self._blocked is None else self._blocked
        self._blocked = None
        if isinstance(transfer, AdapterTransfer):
            is_sent = self._try_send_adapter(transfer, may_compact=may_compact)
        else:
            is_sent = self._try_send_kv(transfer)
        if is_sent:
            self._under_way = transfer
        else:
            self._blocked = transfer

    def _try_send_adapter(self, transfer: AdapterTransfer, *, may_compact: bool) -> bool:
        adapters = self.worker.adapters
        if not adapters.try_place(transfer.slot):
            if not may_compact:  # a step reads the arena
                return False
            with self._copies.exclusive():
                adapters.place(transfer.slot)
        transfer.started = self._clock()
        with self._copies.recorded():
            adapters.copy_in(transfer.slot)
        return True

    def _try_send_kv(self, transfer: KvTransfer) -> bool:
        started = self._clock()
        with self._copies.recorded():
            is_sent = self.worker.try_land(transfer.job)
        if is_sent:
            transfer.started = started
        return is_sent


def _iteration(step: Step, running: list[Job], start: int, issued: int, end: int) -> Iteration:
    chunks = chunks_of(step)
    batch = [] if isinstance(step, Prefill) else running
    complete = [job for job, before, count in chunks if before + count == job.base_tokens]
    kind: Kind = "decode" if not chunks else "mixed" if batch else "prefill"
    ids = tuple(job.request.id for job in (*batch, *complete))
    tokens, earlier = sum(chunk.tokens for chunk in chunks), sum(chunk.before for chunk in chunks)
    return Iteration(kind, start, issued, end, step.ticks, ids, len(chunks), tokens, len(batch), earlier)


def _nap(left_ns: int) -> None:
    if left_ns > SPIN_NS:
        time.sleep((left_ns - SPIN_NS) / 1e9)
