"""The decode batch as the cost model sees it: how many requests, how much context, which ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from sim.serving.job import AdapterSlot, Job


class StepCost(NamedTuple):
    """Decode step j lasts first + j * growth ticks, for j below `steps` (None: for ever)."""

    first: int
    growth: int
    steps: int | None


class Load(NamedTuple):
    """What the LoRA kernels of one iteration are given.

    Attributes:
        token_rank: sum of ranks over the tokens.
        distinct: number of distinct adapters.
        distinct_rank: sum of ranks over the distinct adapters.
        max_rank: the largest rank, or the one that all are computed at.
    """

    token_rank: int
    distinct: int
    distinct_rank: int
    max_rank: int


NO_LOAD = Load(0, 0, 0, 0)


class Costs(Protocol):
    """Seconds come from here, as integer ticks."""

    def prefill(
        self,
        requests: int,
        tokens: int,
        squared_tokens: int,
        token_rank: int,
        distinct: int,
        distinct_rank: int,
        max_rank: int,
    ) -> int:
        """Return the ticks of one prefill iteration over several prompts."""

    def decode(
        self, requests: int, context_tokens: int, sum_rank: int, distinct: int, distinct_rank: int, max_rank: int
    ) -> StepCost:
        """Return the ticks of decode steps; the first reads `context_tokens`, each later one `requests` more."""

    def mixed(
        self, requests: int, context_tokens: int, prompts: int, tokens: int, squared_tokens: int, load: Load
    ) -> int:
        """Return the ticks of one iteration that decodes a batch and prefills chunks of prompts beside it."""

    def load(self, size_bytes: int) -> int:
        """Return how many ticks the link is busy with an adapter of this size."""

    def read(self, size_bytes: int) -> int:
        """Return how many ticks the disk is busy with an adapter of this size."""

    def swap(self, size_bytes: int) -> int:
        """Return the ticks of moving KV between GPU and host, either way."""


class BatchShape:
    """Running sums over the requests that decode together.

    Args:
        slot_rank: rank that every adapter is computed at; 0: its own, or as the kernel pads.
    """

    __slots__ = (
        "_ranks",
        "_slot_rank",
        "context_tokens",
        "distinct",
        "distinct_rank",
        "is_merged",
        "max_rank",
        "requests",
        "sum_rank",
    )

    def __init__(self, slot_rank: int = 0) -> None:
        self._slot_rank = slot_rank
        self.is_merged = False  # the batch's one adapter is in the weights and costs nothing
        self.requests = 0
        self.context_tokens = 0  # KV tokens of the batch, before the next step adds one per request
        self.sum_rank = 0
        self.distinct = 0
        self.distinct_rank = 0
        self.max_rank = 0
        self._ranks: dict[int, int] = {}  # rank -> distinct adapters of that rank

    def add(self, job: Job, tokens: int) -> None:
        """Add a request that holds `tokens` of KV."""
        self.requests += 1
        self.context_tokens += tokens
        slot = job.slot
        if slot is None:
            return
        self.sum_rank += slot.rank
        slot.decoding += 1
        if slot.decoding == 1:
            self._count(slot.rank, 1)

    def remove(self, job: Job, tokens: int) -> None:
        """Remove a request that holds `tokens` of KV."""
        self.requests -= 1
        self.context_tokens -= tokens
        slot = job.slot
        if slot is None:
            return
        self.sum_rank -= slot.rank
        slot.decoding -= 1
        if not slot.decoding:
            self._count(slot.rank, -1)

    def decode_cost(self, costs: Costs) -> StepCost:
        """Ask the cost model for the next decode steps of this batch (of one base-model request if it is empty)."""
        requests = self.requests or 1
        context_tokens = self.context_tokens + requests
        if self.is_merged:
            return costs.decode(requests, context_tokens, 0, 0, 0, 0)
        max_rank = self.max_rank if not self._slot_rank else self._slot_rank if self.distinct else 0
        return costs.decode(requests, context_tokens, self.sum_rank, self.distinct, self.distinct_rank, max_rank)

    def load_of(self, chunks: Iterable[tuple[Job, int]], *, beside_decode: bool) -> Load:
        """Return what the LoRA kernels do for so many tokens of each request, with or without the decode batch."""
        if self.is_merged:
            return NO_LOAD
        token_rank = self.sum_rank if beside_decode else 0
        new: dict[AdapterSlot, int] = {}
        for job, tokens in chunks:
            slot = job.slot
            if slot is not None:
                token_rank += tokens * slot.rank
                if not (beside_decode and slot.decoding):
                    new[slot] = slot.rank
        ranks = new.values()
        distinct, distinct_rank, max_rank = len(ranks), sum(ranks), max(ranks, default=0)
        if beside_decode:
            distinct, distinct_rank = distinct + self.distinct, distinct_rank + self.distinct_rank
            max_rank = max(max_rank, self.max_rank)
        return Load(token_rank, distinct, distinct_rank, self._slot_rank if self._slot_rank and distinct else max_rank)

    def _count(self, rank: int, change: int) -> None:
        self.distinct += change
        self.distinct_rank += change * rank
        count = self._ranks.get(rank, 0) + change
        if count:
            self._ranks[rank] = count
            if rank > self.max_rank:
                self.max_rank = rank
        else:
            del self._ranks[rank]
            if rank == self.max_rank:
                self.max_rank = max(self._ranks, default=0)
