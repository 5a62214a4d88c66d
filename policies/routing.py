"""Routers: which replica serves a request. A request counts where it was sent from that instant, admitted or not.

Requests never move once they are sent, so what a system does about a bad choice later is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import ceil

from policies.arguments import at_least
from policies.base import Adapter, Facts, Replica, Request, Router


def requests_at(replica: Replica) -> int:
    """Return the requests that are at a replica, admitted or waiting."""
    return len(replica.running) + len(replica.waiting)


def holds(replica: Replica, adapter: Adapter | None) -> bool:
    """Whether an adapter is at a replica, or will be because a request that waits there needs it."""
    return replica.has_adapter(adapter) or any(request.adapter is adapter for request in replica.waiting)


class RoundRobin(Router):
    """Take replicas in turn."""

    name = "round-robin"
    source = "the usual default"

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002 - no clock
        """Return the request's number modulo the replicas; requests are numbered as they arrive."""
        return request.id % len(replicas)


class Random(Router):
    """Take any replica, all alike, by a lot for each request's number.

    Attributes:
        seed: of the lots, which are the same in every run: systems are compared on the same choices.
    """

    name = "random"
    source = "the textbook's split of a Poisson stream"

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002 - no clock
        """Return the index of the request's lot."""
        lot = blake2b(f"{self.seed}/{request.id}".encode(), digest_size=6)
        return int.from_bytes(lot.digest()) * len(replicas) >> 48


class LeastLoaded(Router):
    """Take the replica with the fewest requests, admitted or waiting; ties by index."""

    name = "least-loaded"
    source = "join the shortest queue"

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002 - no clock
        """Return the index of the replica with the fewest requests."""
        loads = [requests_at(replica) for replica in replicas]
        return loads.index(min(loads))


class Affinity(Router):
    """Take the least loaded replica that has the adapter or is about to; if all these are too busy, the least loaded.

    Attributes:
        escape: a replica is too busy if it would get more than this times the mean load, rounded up; None: never. At 1
            load is spread evenly whatever adapters are where.
    """

    name = "affinity"
    source = "adapter affinity; the bound as in Mirrokni 2018 (arXiv 1608.01350), consistent hashing with bounded loads"

    def __init__(self, *, escape: float | None = 1.25) -> None:
        self.escape = None if escape is None else at_least("escape", escape, 1)

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002 - no clock
        """Return the index of the replica."""
        loads = [requests_at(replica) for replica in replicas]
        most = self._most(loads)
        by_load = sorted(range(len(replicas)), key=loads.__getitem__)  # stable: ties by index
        holders = (index for index in by_load if loads[index] < most and holds(replicas[index], request.adapter))
        return next(holders, by_load[0])

    def _most(self, loads: Sequence[int]) -> float:
        """Return the most requests that a replica may have after this one."""
        return float("inf") if self.escape is None else ceil(self.escape * (sum(loads) + 1) / len(loads))


class Punica(Router):
    """Take the fullest replica with room in its batch and KV, ties by index; else the one with the shortest queue.

    The paper keeps one queue for the cluster, and moves requests between GPUs to empty some of them and when KV runs
    out; here a request waits where it is sent and stays there. A prompt needs KV for its tokens and for those that wait
    before it.

    Attributes:
        batch_requests: requests that a replica is filled up to, or the engine's limit if that is lower.
    """

    name = "punica"
    source = "Punica (MLSys'24, arXiv 2310.18547); the cap of 32 in punica-ai/punica, bench_textgen_lora.py"

    def __init__(self, *, batch_requests: int = 32) -> None:
        self.batch_requests = at_least("batch_requests", batch_requests, 1)
        self._most = batch_requests

    def start(self, facts: Facts) -> None:
        """Learn the engine's limit."""
        self._most = min(self.batch_requests, facts.running_requests)

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002 - no clock
        """Return the index of the replica."""
        loads = [requests_at(replica) for replica in replicas]
        fullest_first = sorted(range(len(replicas)), key=lambda index: -loads[index])  # stable: ties by index
        for index in fullest_first:
            if loads[index] < self._most and _has_room(replicas[index], request):
                return index
        return min(range(len(replicas)), key=lambda index: (len(replicas[index].waiting), loads[index], index))


def _has_room(replica: Replica, request: Request) -> bool:
    queued_tokens = sum(one.prompt_tokens for one in replica.waiting)
    return queued_tokens + request.prompt_tokens <= replica.free_tokens
