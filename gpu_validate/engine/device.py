"""Devices for the real-time driver that execute with torch: one in real time, one on the modelled clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from gpu_validate.engine.copies import copy_engine
from gpu_validate.engine.worker import Worker
from gpu_validate.modelled import ModelledDevice
from gpu_validate.replay import Landed
from sim.core import Core
from sim.job import AdapterSlot
from sim.link import AdapterTransfer, AnyTransfer, LinkQueue
from sim.steps import Prefill, Step
from sim.ticks import TICKS_PER_S

NS = TICKS_PER_S // 10**9
SPIN_NS = 1_000_000  # sleeping is only so exact


class Iteration(NamedTuple):
    """One executed step, in ticks: when it was issued and when its tokens were complete."""

    is_prefill: bool
    start: int
    issued: int  # the host was done
    end: int
    planned: int  # ticks that the cost model gave it
    requests: tuple[int, ...]  # ids; each got a token
    tokens: int  # that went through the decoder


class VirtualTorchDevice(ModelledDevice):
    """Does all the work with torch, and keeps the clock of the cost model.

    Args:
        worker: executes.
        checks: whether the worker's laws are checked before every step.
    """

    def __init__(self, worker: Worker, *, checks: bool = False) -> None:
        super().__init__()
        self.worker = worker
        self._checks = checks

    def run(self, step: Step, core: Core) -> int:
        """Execute a step and pass the planned time."""
        if self._checks:
            self.worker.check(core)
        self.worker.run(step, core)
        return super().run(step, core)

    def landed(self, until: int) -> Iterator[Landed]:
        """Yield what is complete by then, copied."""
        for landing in super().landed(until):
            slot = _adapter(landing.transfer).slot
            self.worker.adapters.place(slot)
            self.worker.adapters.copy_in(slot)
            yield landing


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
        self._blocked: AdapterTransfer | None = None  # popped, but the arena must be compacted first
        self._under_way: AdapterTransfer | None = None
        self._landed: deque[Landed] = deque()
        self._origin_ns: int | None = None
        self._told = 0  # the latest instant that the driver knows

    def now(self) -> int:
        """Return the present in ticks."""
        self._told = self._clock()
        return self._told

    def run(self, step: Step, core: Core) -> int:
        """Execute a step and return when its tokens were complete."""
        start = self._clock()
        self.worker.run(step, core)
        done = self._copies.mark()
        issued = self._clock()
        while not done.query():
            self._poll(may_compact=False)
        end = self.now()
        jobs = step.jobs if isinstance(step, Prefill) else list(core.running)
        ids = tuple(job.request.id for job in jobs)
        tokens = sum(job.prompt_tokens for job in jobs) if isinstance(step, Prefill) else len(jobs)  # one step
        one = Iteration(isinstance(step, Prefill), start, issued, end, step.ticks, ids, tokens)
        self.iterations.append(one)
        return end

    def send(self, transfer: AnyTransfer) -> None:
        """Queue a transfer and start it if the link is free.

        Raises:
            RuntimeError: if it is not of an adapter from the host, which is all that this engine moves.
        """
        self._queue.push(_adapter(transfer))
        self._poll(may_compact=True)

    def promote(self, slot: AdapterSlot) -> None:
        """Treat a queued prefetch as demand from now on."""
        self._queue.promote(slot)

    def left_ticks(self, slot: AdapterSlot, now: int) -> None:
        """Return None: nobody can know when a real copy will be complete."""
        del slot, now

    def landed(self, until: int) -> Iterator[Landed]:
        """Yield transfers that were seen to be complete by then."""
        self._poll(may_compact=True)
        while self._landed and self._landed[0].at <= until:
            yield self._landed.popleft()

    def next_landing(self) -> int | None:
        """Return when the next transfer landed; None as long as it is under way, since nobody knows."""
        return self._landed[0].at if self._landed else None

    def wait(self, until: int | None) -> int:
        """Sleep until `until` or the next landing; with neither to wait for, return the last instant that was told."""
        while until is not None or self._is_busy or self._landed:
            self._poll(may_compact=True)
            now = self.now()
            if self._landed or (until is not None and now >= until):
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
        transfer = _adapter(self._queue.pop()) if self._blocked is None else self._blocked
        adapters = self.worker.adapters
        self._blocked = None
        if not adapters.try_place(transfer.slot):
            if not may_compact:  # a step reads the arena
                self._blocked = transfer
                return
            with self._copies.exclusive():
                adapters.place(transfer.slot)
        transfer.started = self._clock()
        with self._copies.recorded():
            adapters.copy_in(transfer.slot)
        self._under_way = transfer


def _adapter(transfer: AnyTransfer) -> AdapterTransfer:
    if not isinstance(transfer, AdapterTransfer) or transfer.channel != "link":
        msg = f"the torch engine moves adapters from the host alone, got {type(transfer).__name__}"
        raise RuntimeError(msg)
    return transfer


def _nap(left_ns: int) -> None:
    if left_ns > SPIN_NS:
        time.sleep((left_ns - SPIN_NS) / 1e9)
