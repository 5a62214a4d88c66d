"""Routers that ask a cost model what a request would add to each replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from math import inf

from policies.arguments import above, at_least
from policies.base import Adapter, Facts, Replica, Request, Router
from policies.routing import holds, requests_at


class Toppings(Router):
    """Take the replica where the request slows others least: the least of its added cost times the requests there.

    The cost is the added prefill time over the average response plus the added time of a decode step, for the batch of
    all requests that run or wait there; it is infinite if that step would exceed its objective. Ties go to the fewest
    requests, then by index. Times are the engine's own and so know ranks as its LoRA kernel does.

    Attributes:
        decode_slo_s: seconds that a decode step may last; None: as long as it will. The default is ours.
        response_tokens: average response; None: the mean prediction over all requests at all replicas and this one.
    """

    name = "toppings"
    source = "Toppings (ATC'25; CaraServe, arXiv 2401.11240), rank-aware scheduling"

    def __init__(self, *, decode_slo_s: float | None = 0.1, response_tokens: float | None = None) -> None:
        self.decode_slo_s = None if decode_slo_s is None else above("decode_slo_s", decode_slo_s, 0)
        self.response_tokens = None if response_tokens is None else at_least("response_tokens", response_tokens, 1)
        self._prefill_s: Callable[[int, int], float] = Facts.prefill_s
        self._decode_s: Callable[[Sequence[Adapter | None]], float] = Facts.decode_s

    def start(self, facts: Facts) -> None:
        """Learn how long prefills and decode steps take."""
        self._prefill_s = facts.prefill_s
        self._decode_s = facts.decode_s

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002 - no clock
        """Return the index of the replica."""
        rank = 0 if request.adapter is None else request.adapter.rank
        prefill_s = self._prefill_s(request.prompt_tokens, rank) / self._average_tokens(request, replicas)

        def priority(index: int) -> tuple[bool, float, int, int]:
            load = requests_at(replicas[index])
            cost_s = self._cost_s(request, replicas[index], prefill_s)
            is_too_slow = cost_s == inf  # times no requests it would be no number, and the ties must be told apart
            return is_too_slow, 0.0 if is_too_slow else cost_s * load, load, index

        return min(range(len(replicas)), key=priority)

    def _cost_s(self, request: Request, replica: Replica, prefill_s: float) -> float:
        """Return seconds per output token, more than zero even where nobody else is slowed."""
        batch = [one.adapter for one in chain(replica.running, replica.waiting)]
        now_s, then_s = self._decode_s(batch), self._decode_s([*batch, request.adapter])
        if self.decode_slo_s is not None and then_s > self.decode_slo_s:
            return inf
        return prefill_s + then_s - now_s

    def _average_tokens(self, request: Request, replicas: Sequence[Replica]) -> float:
        if self.response_tokens is not None:
            return self.response_tokens
        there = chain.from_iterable((*replica.running, *replica.waiting) for replica in replicas)
        predicted = [request.predicted_tokens, *(one.predicted_tokens for one in there)]
        return sum(predicted) / len(predicted)


class DLoRA(Router):
    """Take the replica of the least cost in batches: 0.6 a full batch of one adapter, 1 a mixed one, plus the load.

    With counts of requests by adapter, this one included, and batches of B: the sum of count // B * merged_cost, plus
    the sum of count % B, // B, plus the time of a missing adapter's load as a share of the time of a batch. Ties go to
    the fewest requests, then by index. The artifact also places adapters ahead of time, and every 10 s moves adapters
    and requests if replicas differ by 16 or more; here a request stays where it is sent.

    Attributes:
        batch_requests: B; None: the engine's limit on running requests.
        merged_cost: cost of a batch that can be served merged.
    """

    name = "dlora"
    source = "LLMServe/dLoRA-artifact, engine_manager.py (dLoRA, OSDI'24)"

    def __init__(self, *, batch_requests: int | None = None, merged_cost: float = 0.6) -> None:
        self.batch_requests = None if batch_requests is None else at_least("batch_requests", batch_requests, 1)
        self.merged_cost = at_least("merged_cost", merged_cost, 0)
        self._size = batch_requests or 1
        self._load_s: Callable[[Adapter], float] | None = None
        self._step_s = 0.0

    def start(self, facts: Facts) -> None:
        """Learn the batch, how long a step of it takes, and a load."""
        self._size = self.batch_requests or facts.running_requests
        within_kv = min(self._size, facts.kv_tokens)
        self._load_s, self._step_s = facts.load_s, facts.decode_s([None] * within_kv)

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002 - no clock
        """Return the index of the replica."""

        def priority(index: int) -> tuple[float, int, int]:
            return self._cost(request, replicas[index]), requests_at(replicas[index]), index

        return min(range(len(replicas)), key=priority)

    def _cost(self, request: Request, replica: Replica) -> float:
        counts = Counter(one.adapter for one in chain(replica.running, replica.waiting))
        counts[request.adapter] += 1
        merged = sum(count // self._size for count in counts.values())
        mixed = sum(count % self._size for count in counts.values()) // self._size
        return merged * self.merged_cost + mixed + self._load(request, replica)

    def _load(self, request: Request, replica: Replica) -> float:
        """Return the load of the request's adapter, where it is missing, as a share of the time of a batch."""
        batch_s = self._step_s * request.predicted_tokens
        if request.adapter is None or self._load_s is None or not batch_s or holds(replica, request.adapter):
            return 0.0
        return self._load_s(request.adapter) / batch_s
