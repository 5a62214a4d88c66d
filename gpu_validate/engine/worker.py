"""Executes the core's steps: gives requests KV and seats, gathers their metadata, calls the decoder. No clock here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gpu_validate.engine.adapters import DeviceAdapters, LoraCall
from gpu_validate.engine.books import check_tokens
from gpu_validate.engine.decoder import Decoder, NextTokens
from gpu_validate.engine.graphs import DecodeGraphs
from gpu_validate.engine.kv import PagedKV, blocks_needed
from gpu_validate.engine.merged import MergedAdapter
from gpu_validate.engine.packing import pack_chunks, pack_steps
from gpu_validate.engine.padding import COLUMNS, padded_requests, padding_of
from gpu_validate.engine.staging import Staging
from gpu_validate.engine.swap import HostKV
from gpu_validate.engine.told import Told
from gpu_validate.lora.backends import Backend
from gpu_validate.lora.plan import LoraPlan
from policies.base import IntArray
from sim.core import Core
from sim.serving.job import Job
from sim.serving.planning import whole
from sim.serving.steps import Chunk, Mixed, Prefill, Step

CPU = torch.device("cpu")
Key = tuple[str, tuple[int | None, ...], tuple[int, ...]]


def prompt_tokens(request_id: int, count: int, vocab: int) -> IntArray:
    """Return made-up token ids of a prompt, shape (count,); the same request always has the same."""
    places = np.arange(count, dtype=np.int64)
    return (request_id * 7919 + places * (places + 31)) % vocab


class Worker:
    """The model and its memory.

    Args:
        decoder: the base model.
        kv: paged cache.
        adapters: those on the device.
        backend: LoRA kernels.
        seats: most requests that decode at once; each keeps its tokens on the device.
        uses_graphs: whether decode steps are captured; on CUDA, with a backend that allows it.
        keeps_tokens: whether `emitted` lists the token ids of every request, for tests: it waits for the device.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv: PagedKV,
        adapters: DeviceAdapters,
        backend: Backend,
        *,
        seats: int,
        uses_graphs: bool = False,
        keeps_tokens: bool = False,
    ) -> None:
        self.decoder = decoder
        self.kv = kv
        self.swapped = HostKV(kv)
        self.adapters = adapters
        self.merged = MergedAdapter(decoder, adapters)
        self.device = kv.cache.device
        self.prefilled_tokens = 0  # that went through the decoder, likewise the next
        self.decoded_tokens = 0
        self.emitted: dict[int, list[int]] | None = {} if keeps_tokens else None
        self._backend = backend
        self._told = Told(seats, decoder.max_positions, self.device)
        self._landing: set[int] = set()  # requests whose KV is on its way back from the host
        self._staging = Staging(self.device)
        self._graphs = (
            DecodeGraphs(self._step, adapters.max_rank, is_aligned=adapters.is_aligned)
            if uses_graphs and backend.capturable
            else None
        )
        self._planned: tuple[Key, LoraPlan | None] | None = None

    def run(self, step: Step, core: Core) -> None:
        """Issue a step; on a GPU it is not complete when this returns."""
        self.release(core)
        self.merged.become(core.merged)
        if isinstance(step, Prefill):
            self.prefill(step.jobs)
            return
        batch = list(core.running)
        if isinstance(step, Mixed):
            self.mixed(batch, step.chunks)
            return
        for _ in range(step.steps):
            self.decode(batch)

    def prefill(self, jobs: Sequence[Job]) -> None:
        """Process whole prompts, with what was generated before; each request gets a token that stays on the device."""
        self.mixed((), [whole(job) for job in jobs])

    def mixed(self, jobs: Sequence[Job], chunks: Sequence[Chunk]) -> None:
        """Process chunks of prompts and add one token to each request of the batch, in one pass."""
        for chunk in chunks:
            self._extend(chunk)
        steps = pack_steps(jobs, self.kv.pool, self._told.cell, pads=False) if jobs else ()
        padding = 0 if self._graphs is None else padding_of(len(jobs) + sum(chunk.tokens for chunk in chunks))
        packed = pack_chunks(chunks, self.kv.pool, self._ids, padding)
        first = [self._told.cell(job, job.base_tokens - 1) for job in packed.complete]
        sent = self._staging.send(first, *steps, *packed.arrays)
        prompts = packed.on_device(sent[1 + len(steps) :])
        indices = [self._index(job) for job in jobs]
        indices += [index for job, _, count in chunks for index in [self._index(job)] * count]
        indices += [None] * packed.padding
        lora = self.lora(self._plan(indices, self.device))
        if jobs:
            cells, positions, rows, lengths, blocks = sent[1 : 1 + len(steps)]
            batch = NextTokens(self._told.cells[cells], positions, rows, lengths, blocks.view(len(jobs), -1))
            said = self.decoder.mixed(batch, prompts, self.kv, lora)
            self._told.after.index_copy_(0, torch.cat((cells, sent[0])), said)
        else:
            self._told.after.index_copy_(0, sent[0], self.decoder.prefill(prompts, self.kv, lora))
        self.decoded_tokens += len(jobs)
        self.prefilled_tokens += sum(packed.lengths) - packed.padding
        self._note([*jobs, *packed.complete])

    def decode(self, jobs: Sequence[Job]) -> None:
        """Add one token to each request."""
        steps = pack_steps(jobs, self.kv.pool, self._told.cell, pads=self._graphs is not None)
        metadata, requests = self._staging.pack(*steps), len(steps[0])
        indices = [self._index(job) for job in jobs] + [None] * (requests - len(jobs))
        plan = self._plan(indices, CPU if self._is_captured(requests) else self.device)
        self.issue(metadata, requests, plan)
        self._staging.mark()
        self.decoded_tokens += len(jobs)
        self._note(jobs)

    def release(self, core: Core) -> None:
        """Have what requests hold where the core has it: on the device, on the host, or nowhere."""
        live, waiting = core.live, core.waiting
        for id_ in list(self.kv.pool.tables):
            job = live.get(id_)
            if job is None or job.kv != "gpu":
                self._settle(id_, job or waiting.get(id_), core)
        for id_ in self.swapped.tokens:
            self._settle_swapped(id_, live.get(id_) or waiting.get(id_), core)
        for id_ in [id_ for id_ in self._told if id_ not in live and id_ not in waiting]:
            self._told.forget(id_)

    def try_land(self, job: Job) -> bool:
        """Issue the copies that bring swapped KV back, on the current stream, if there is room for it."""
        id_ = job.request.id
        is_here = id_ in self.kv.pool.tables  # stopped and admitted again before anybody looked
        if not is_here and not self.swapped.try_bring_back(id_):
            return False
        self._landing.add(id_)
        return True

    def landed(self, job: Job) -> None:
        """Take note that those copies are complete."""
        self._landing.discard(job.request.id)

    def check(self, core: Core) -> None:
        """Raise RuntimeError with the numbers if memory here is not what the core believes; between steps only."""
        self.release(core)
        self.adapters.sweep()
        self.kv.pool.check()
        self.adapters.arena.check()
        options, limits = core.options, core.memory.limits
        needed = blocks_needed(limits, options.running_requests, options.block_tokens)
        if self.kv.pool.blocks < needed:
            msg = f"{self.kv.pool.blocks} KV blocks are fewer than the {needed} that the core's budget may take"
            raise RuntimeError(msg)
        check_tokens(core, self.kv.pool.tokens, self.swapped.tokens)

    def _settle(self, id_: int, job: Job | None, core: Core) -> None:
        """Settle what the device holds of a request that is not in the batch."""
        if job is None:
            self.kv.pool.free(id_)
        elif job.kv == "gpu":
            self._told.set_aside(job, job.generated)
        elif job.kv == "host" and id_ not in self._landing:
            self.swapped.take_out(id_)
            self._told.set_aside(job, job.generated)
        elif job.kv == "none":
            self.kv.pool.shrink(id_, valid_tokens(core, job))
            self._told.set_aside(job, job.generated)

    def _settle_swapped(self, id_: int, job: Job | None, core: Core) -> None:
        """Settle what the host holds of a request."""
        if job is not None and job.kv == "host":
            return
        is_on_gpu = job is not None and (job.kv == "gpu" or valid_tokens(core, job) > 0)
        if job is not None and is_on_gpu and id_ not in self.kv.pool.tables:
            if not self.try_land(job):
                msg = f"no room for the KV of {job.request!r}: {self.kv.pool.free_blocks} blocks are free"
                raise RuntimeError(msg)
            if job.kv == "none":
                self._settle(id_, job, core)  # it was stopped before anybody looked
        self._landing.discard(id_)
        self.swapped.drop(id_)

    def _extend(self, chunk: Chunk) -> None:
        """Give a request blocks for a chunk; the first one starts afresh."""
        id_, pool = chunk.job.request.id, self.kv.pool
        if chunk.before:
            pool.extend(id_, chunk.tokens)
            return
        if id_ in pool.tables:
            self._drop(chunk.job)
        pool.allocate(id_, chunk.tokens)

    def _drop(self, job: Job) -> None:
        self.kv.pool.free(job.request.id)
        self._told.set_aside(job, job.generated)

    def _ids(self, job: Job) -> IntArray:
        prompt = prompt_tokens(job.request.id, job.prompt_tokens, self.decoder.model.vocab)
        return np.concatenate((prompt, np.array(self._told.generated(job), dtype=np.int64)))

    def issue(self, metadata: torch.Tensor, requests: int, plan: LoraPlan | None) -> None:
        """Issue a decode step.

        Args:
            metadata: on the host, what `pack_steps` returns end to end.
            requests: as many as that has rows, the padding included.
            plan: their adapters.
        """
        if self._graphs is not None and self._is_captured(requests):
            self._graphs.replay(metadata, requests, plan)
        else:
            self._step(metadata.to(self.device, non_blocking=True, copy=True), requests, plan)

    def _is_captured(self, requests: int) -> bool:
        return self._graphs is not None and padded_requests(requests) == requests

    @torch.inference_mode()
    def _step(self, metadata: torch.Tensor, requests: int, plan: LoraPlan | None) -> None:
        cells, positions, rows, lengths = metadata[: COLUMNS * requests].view(COLUMNS, requests)
        tables = metadata[COLUMNS * requests :].view(requests, -1)
        batch = NextTokens(self._told.cells[cells], positions, rows, lengths, tables)
        self._told.after.index_copy_(0, cells, self.decoder.decode(batch, self.kv, self.lora(plan)))

    def _plan(self, indices: Sequence[int | None], device: torch.device) -> LoraPlan | None:
        if all(index is None for index in indices):
            return None
        offsets = self.adapters.arena.offsets
        key = (device.type, tuple(indices), tuple(offsets.get(index, 0) for index in {*indices} if index is not None))
        if self._planned is None or self._planned[0] != key:  # most decode steps repeat the last one's
            self._planned = (key, self.adapters.plan(indices, device))
        return self._planned[1]

    def lora(self, plan: LoraPlan | None) -> LoraCall | None:
        """Return what adds the adapters of a plan; None if there is none."""
        if plan is None:
            return None
        return LoraCall(self._backend, self.adapters.arena.flat, self.adapters.store.layout, plan)

    def _index(self, job: Job) -> int | None:
        """Return the palette index of the adapter that kernels add for a request."""
        return None if job.slot is None or job.slot is self.merged.slot else job.slot.index

    def _note(self, jobs: Sequence[Job]) -> None:
        if self.emitted is not None:
            for job in jobs:
                cell = self._told.cell(job, self.kv.pool.tokens[job.request.id])
                self.emitted.setdefault(job.request.id, []).append(int(self._told.cells[cell]))


def valid_tokens(core: Core, job: Job) -> int:
    """Return the first tokens of a request that is to be prefilled whose KV is on the GPU."""
    return job.prefilled if job.request.id in core.live else core.kv.surviving_tokens(job)
