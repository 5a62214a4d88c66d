"""The decode batch as the cost model sees it: how many requests, how much context, which ranks."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sim.job import Job


class StepCost(NamedTuple):
    """Decode step j lasts first + j * growth ticks, for j below `steps` (None: for ever)."""

    first: int
    growth: int
    steps: int | None


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

    def load(self, size_bytes: int) -> int:
        """Return how many ticks the link is busy with an adapter of this size."""


class BatchShape:
    """Running sums over the requests that decode together."""

    __slots__ = ("_ranks", "context_tokens", "distinct", "distinct_rank", "max_rank", "requests", "sum_rank")

    def __init__(self) -> None:
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
        return costs.decode(
            requests, self.context_tokens + requests, self.sum_rank, self.distinct, self.distinct_rank, self.max_rank
        )

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
