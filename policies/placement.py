"""A router that places adapters by rank, so that a replica's batches mix few ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from policies.arguments import above, at_least
from policies.base import Adapter, Facts, Replica, Request, Router
from policies.routing import requests_at

ROUNDING = 1e-9  # shares are sums of floats


class LoRAServe(Router):
    """Place adapters on replicas in order of rank, each replica getting the same work; place anew when work drifts.

    Only the abstract of the paper is known to us: placement by rank at an operating point per rank, rebalanced when the
    load drifts, routing by placement table, adapters fetched from other servers by RDMA. All else is ours: adapters in
    order of rank are laid end to end by the work that they caused in the last window (before the first: by the cost of
    their rank alone) and cut into equal parts. An adapter with more than a part's work is on several replicas, of which
    the least loaded takes the request; the base model is everywhere. A moved adapter comes from the replica's own host.
    Work is time, not memory: where KV is short, a replica of small ranks may get more requests than it has room for.

    Attributes:
        window_s: seconds of work that are looked at together.
        drift: the table is made anew if the busiest replica had so much more work than the mean, as a share of that.
        batch_requests: a rank's work per output token is its share of a decode step of so many requests alike.
    """

    name = "loraserve"
    source = "LoRAServe (arXiv 2511.22880), abstract only"

    def __init__(self, *, window_s: float = 60.0, drift: float = 0.2, batch_requests: int = 32) -> None:
        self.window_s = above("window_s", window_s, 0)
        self.drift = at_least("drift", drift, 0)
        self.batch_requests = at_least("batch_requests", batch_requests, 1)
        self._facts: Facts | None = None
        self._ranked: list[Adapter] = []
        self._token_s: dict[int, float] = {}  # by rank
        self._table: dict[Adapter, tuple[int, ...]] = {}
        self._replicas = 0
        self._work_s: dict[Adapter, float] = {}  # of this window
        self._window_ends_s = window_s
        self._seen = -1  # the last request, so that asking twice counts once

    def start(self, facts: Facts) -> None:
        """Learn the adapters and what their ranks cost."""
        self._facts = facts
        self._ranked = sorted(facts.adapters, key=lambda adapter: (adapter.rank, adapter.id))
        for adapter in self._ranked:
            if adapter.rank not in self._token_s:
                self._token_s[adapter.rank] = facts.decode_s([adapter] * self.batch_requests) / self.batch_requests

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:
        """Return the index of the least loaded replica among those of the adapter."""
        self._keep_table(len(replicas), now)
        self._count(request)
        allowed = self._table.get(request.adapter) if request.adapter is not None else None
        return min(allowed or range(len(replicas)), key=lambda index: (requests_at(replicas[index]), index))

    def _keep_table(self, replicas: int, now: float) -> None:
        if replicas != self._replicas:
            self._replicas = replicas
            self._place({adapter: self._token_s[adapter.rank] for adapter in self._ranked})
        if now < self._window_ends_s:
            return
        if self._has_drifted():
            self._place(self._work_s)
        self._work_s = {}
        self._window_ends_s = now + self.window_s

    def _count(self, request: Request) -> None:
        adapter, facts = request.adapter, self._facts
        if adapter is None or facts is None or request.id == self._seen:
            return
        self._seen = request.id
        work_s = facts.prefill_s(request.prompt_tokens, adapter.rank)
        work_s += request.predicted_tokens * self._token_s[adapter.rank]
        self._work_s[adapter] = self._work_s.get(adapter, 0.0) + work_s

    def _has_drifted(self) -> bool:
        shares = [0.0] * self._replicas
        for adapter, work_s in self._work_s.items():
            for index in self._table[adapter]:
                shares[index] += work_s / len(self._table[adapter])
        return max(shares) > (1 + self.drift) * sum(shares) / self._replicas

    def _place(self, work: Mapping[Adapter, float]) -> None:
        part = sum(work.values()) / self._replicas or 1.0
        start = 0.0
        for adapter in self._ranked:
            stop = start + work.get(adapter, 0.0)
            self._table[adapter] = _parts(start / part, stop / part, self._replicas)
            start = stop


def _parts(start: float, stop: float, parts: int) -> tuple[int, ...]:
    """Return which unit intervals hold at least half of what each can of start..stop; there always is one."""
    least = min(stop - start, 1.0) / 2 - ROUNDING
    touched = range(min(int(start), parts - 1), min(int(stop), parts - 1) + 1)
    return tuple(index for index in touched if min(stop, index + 1) - max(start, index) >= least)
