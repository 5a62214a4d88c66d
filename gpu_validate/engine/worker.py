"""Executes the core's steps: gives requests KV and seats, gathers their metadata, calls the decoder. No clock here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, product

import numpy as np
import torch

from gpu_validate.engine.adapters import DeviceAdapters
from gpu_validate.engine.decoder import Decoder, NextTokens, Prompts
from gpu_validate.engine.graphs import DecodeGraphs, padded_blocks, padded_requests
from gpu_validate.engine.kv import NOBODYS_BLOCK, PagedKV, blocks_needed
from gpu_validate.engine.staging import Staging
from gpu_validate.lora.backends import Backend
from gpu_validate.lora.layout import Layout
from gpu_validate.lora.plan import LoraPlan
from policies.base import IntArray
from sim.core import Core
from sim.job import Job
from sim.steps import Mixed, Prefill, Step

SCRATCH_SEAT = 0
COLUMNS = 4  # integers of a request in a decode step, besides its block table
CPU = torch.device("cpu")
Key = tuple[str, tuple[int | None, ...], tuple[int, ...]]


class LoraCall:
    """The adapters of one iteration, for the decoder.

    Args:
        backend: the kernels.
        arena: where adapters lie, flat.
        layout: of each adapter.
        plan: which token uses which.
    """

    def __init__(self, backend: Backend, arena: torch.Tensor, layout: Layout, plan: LoraPlan) -> None:
        self._backend = backend
        self._arena = arena
        self._layout = layout
        self._plan = plan
        self._modules = {module.name for module in layout.modules}

    def add(self, y: torch.Tensor, x: torch.Tensor, layer: int, module: str) -> None:
        """Add scale * B A x to y in place, for a module that has adapters."""
        if module in self._modules:
            self._backend.apply(y, x, self._arena, self._layout, layer, module, self._plan)


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
        seats: most requests that decode at once; each keeps its last token on the device.
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
        self.device = kv.cache.device
        self.prefilled_tokens = 0  # that went through the decoder, likewise the next
        self.decoded_tokens = 0
        self.emitted: dict[int, list[int]] | None = {} if keeps_tokens else None
        self._backend = backend
        self._told = Told(seats, decoder.max_positions, self.device)
        self._landing: set[int] = set()  # requests whose KV is on its way back from the host
        self._staging = Staging(self.device)
        self._graphs = (
            DecodeGraphs(self._step, idle_metadata, adapters.max_rank, is_aligned=adapters.is_aligned)
            if uses_graphs and backend.capturable
            else None
        )
        self._planned: tuple[Key, LoraPlan | None] | None = None

    def run(self, step: Step, core: Core) -> None:
        """Issue a step; on a GPU it is not complete when this returns."""
        self.release(core)
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
        """Process whole prompts, with what was generated of them before; each gets a token, which stays on the device."""
        self.mixed((), [Chunk(job, 0, job.base_tokens) for job in jobs])

    def mixed(self, jobs: Sequence[Job], chunks: Sequence[Chunk]) -> None:
        """Process chunks of prompts and add one token to each request of the batch, in one pass."""
        for chunk in chunks:
            self._extend(chunk)
        steps = self._next_tokens(jobs) if jobs else ()
        packed = pack_chunks(chunks, self.kv.pool, self._ids)
        first = [self._told.cell(job, job.base_tokens - 1) for job in packed.complete]
        sent = self._staging.send(first, *steps, *packed.arrays)
        prompts = packed.on_device(sent[1 + len(steps) :])
        indices = [_palette_index(job) for job in jobs]
        indices += [index for job, _, count in chunks for index in [_palette_index(job)] * count]
        lora = self._lora(self._plan(indices, self.device))
        if jobs:
            cells, *rest, blocks = sent[1 : 1 + len(steps)]
            batch = NextTokens(self._told.cells[cells], *rest, blocks.view(len(jobs), -1))
            said = self.decoder.mixed(batch, prompts, self.kv, lora)
            self._told.after.index_copy_(0, torch.cat((cells, sent[0])), said)
        else:
            self._told.after.index_copy_(0, sent[0], self.decoder.prefill(prompts, self.kv, lora))
        self.decoded_tokens += len(jobs)
        self.prefilled_tokens += sum(packed.lengths)
        self._note([*jobs, *packed.complete])

    def decode(self, jobs: Sequence[Job]) -> None:
        """Add one token to each request."""
        requests, width = len(jobs), 0
        if self._graphs is not None:
            requests, width = padded_requests(requests) or requests, LEAST_BLOCKS
        metadata = self._staging.pack(*self._next_tokens(jobs, requests))
        indices = [_palette_index(job) for job in jobs] + [None] * (requests - len(jobs))
        plan = self._plan(indices, CPU if self._is_captured(requests) else self.device)
        self._issue(metadata, requests, plan)
        self._staging.mark()
        self.decoded_tokens += len(jobs)
        self._note(jobs)

    def warm(self, requests: Iterable[int], blocks: Sequence[int], prompts: Iterable[int]) -> None:
        """Run steps of these shapes on scratch memory, so that kernels are compiled and graphs captured before a run.

        Args:
            requests: batch sizes of decode steps.
            blocks: widths of their block tables.
            prompts: tokens of single prompts.
        """
        for count, width in product(requests, blocks):
            for plan in (None, self.adapters.empty_plan(count, self.device)):
                self._issue(idle_metadata(count, count * (COLUMNS + width)), count, plan)
        for count in prompts:
            at, scratch = torch.arange(count, device=self.device), torch.zeros_like(self._last[:1]).expand(count)
            bounds = torch.tensor([0, count], device=self.device)
            batch = Prompts(scratch, at, scratch, at[-1:], bounds, (count,))
            self.decoder.prefill(batch, self.kv, self._lora(self.adapters.empty_plan(count, self.device)))

    def release(self, core: Core) -> None:
        """Free the KV of requests that the core has let go."""
        for id_ in [id_ for id_ in self._seats if id_ not in core.live]:
            self._unseat(id_)

    def check(self, core: Core) -> None:
        """Raise RuntimeError with the numbers if memory here is not what the core believes; between steps only."""
        self.release(core)
        self.adapters.sweep()
        self.kv.pool.check()
        self.adapters.arena.check()
        needed = blocks_needed(core.memory.limits, core.options.running_requests)
        if self.kv.pool.blocks < needed:
            msg = f"{self.kv.pool.blocks} KV blocks are fewer than the {needed} that the core's budget may take"
            raise RuntimeError(msg)
        for job in core.running:
            held, believed = self.kv.pool.tokens.get(job.request.id), core.held_tokens(job)
            if held != believed:
                msg = f"request {job.request.id} holds {held} tokens of KV, the core believes {believed}"
                raise RuntimeError(msg)

    def _pack(self, ids: Sequence[int]) -> tuple[torch.Tensor, int]:
        """Give each request a place for one token; return the step's metadata and how many rows it is padded to."""
        pool = self.kv.pool
        positions = [pool.tokens[id_] for id_ in ids]
        rows = [pool.grow(id_) for id_ in ids]
        tables = [pool.tables[id_] for id_ in ids]
        requests, width = len(ids), max(map(len, tables))
        padded = None if self._graphs is None else padded_requests(requests)
        if padded is not None:
            requests, width = padded, padded_blocks(width)
        more = requests - len(ids)
        blocks = np.full((requests, width), NOBODYS_BLOCK)
        for row, table in zip(blocks, tables, strict=False):
            row[: len(table)] = table
        metadata = self._staging.pack(
            [self._seats[id_] for id_ in ids] + [SCRATCH_SEAT] * more,
            positions + [0] * more,
            rows + [0] * more,
            [position + 1 for position in positions] + [1] * more,
            blocks.reshape(-1),
        )
        return metadata, requests

    def _issue(self, metadata: torch.Tensor, requests: int, plan: LoraPlan | None) -> None:
        if self._graphs is not None and self._is_captured(requests):
            self._graphs.replay(metadata, requests, plan)
        else:
            self._step(metadata.to(self.device, non_blocking=True, copy=True), requests, plan)

    def _is_captured(self, requests: int) -> bool:
        return self._graphs is not None and padded_requests(requests) == requests

    @torch.inference_mode()
    def _step(self, metadata: torch.Tensor, requests: int, plan: LoraPlan | None) -> None:
        seats, positions, rows, lengths = metadata[: COLUMNS * requests].view(COLUMNS, requests)
        tables = metadata[COLUMNS * requests :].view(requests, -1)
        batch = NextTokens(self._last[seats], positions, rows, lengths, tables)
        self._last.index_copy_(0, seats, self.decoder.decode(batch, self.kv, self._lora(plan)))

    def _plan(self, indices: Sequence[int | None], device: torch.device) -> LoraPlan | None:
        if all(index is None for index in indices):
            return None
        offsets = self.adapters.arena.offsets
        key = (device.type, tuple(indices), tuple(offsets.get(index, 0) for index in {*indices} if index is not None))
        if self._planned is None or self._planned[0] != key:  # most decode steps repeat the last one's
            self._planned = (key, self.adapters.plan(indices, device))
        return self._planned[1]

    def _lora(self, plan: LoraPlan | None) -> LoraCall | None:
        if plan is None:
            return None
        return LoraCall(self._backend, self.adapters.arena.flat, self.adapters.store.layout, plan)

    def _seat(self, job: Job) -> None:
        id_ = job.request.id
        if id_ in self._seats:  # stopped and admitted again before anybody looked
            self._unseat(id_)
        self.kv.pool.allocate(id_, job.prompt_tokens)
        self._seats[id_] = self._free_seats.pop()

    def _unseat(self, id_: int) -> None:
        self.kv.pool.free(id_)
        self._free_seats.append(self._seats.pop(id_))

    def _note(self, jobs: Sequence[Job]) -> None:
        if self.emitted is not None:
            for job in jobs:
                self.emitted.setdefault(job.request.id, []).append(int(self._last[self._seats[job.request.id]]))


def idle_metadata(requests: int, size: int) -> torch.Tensor:
    """Return the metadata of a decode step in which every row is padding."""
    metadata = torch.zeros(size, dtype=torch.int64)
    metadata[3 * requests : COLUMNS * requests] = 1  # a length of 0 would leave attention nothing to weigh
    return metadata


def _palette_index(job: Job) -> int | None:
    return None if job.slot is None else job.slot.index
