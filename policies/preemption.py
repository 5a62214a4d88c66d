"""Iteration-level preemption: serve the requests of lowest rank that fit together, and take the others out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

from policies.base import Batch, Refusal, Request

Rank = tuple[int, ...]  # the lowest goes first; ends in the request's id


class Ranked:
    """Waiting requests in the order of a rank that does not change while they wait."""

    __slots__ = ("_entries", "_ranks")

    def __init__(self) -> None:
        self._entries: list[tuple[Rank, Request]] = []
        self._ranks: dict[Request, Rank] = {}

    def __contains__(self, request: Request) -> bool:
        return request in self._ranks

    def __iter__(self) -> Iterator[Request]:
        return (request for _, request in self._entries)

    def add(self, request: Request, rank: Rank) -> None:
        """Put a request in its place."""
        self._ranks[request] = rank
        insort(self._entries, (rank, request))

    def remove(self, request: Request) -> None:
        """Take a request out."""
        rank = self._ranks.pop(request)
        del self._entries[bisect_left(self._entries, rank, key=lambda entry: entry[0])]


def serve_prefix(batch: Batch, waiting: Iterable[Request], rank: Callable[[Request], Rank]) -> list[Request]:
    """Serve the longest run of requests, by rank, that the engine can hold, those in the batch among them.

    A request that does not fit takes the place of running ones of higher rank, the highest first. That frees nothing
    where preempted requests keep their KV on the GPU.

    Args:
        batch: the round.
        waiting: by rising rank.
        rank: also of running requests.

    Returns:
        The admitted requests.
    """
    running = sorted(batch.running, key=rank)
    admitted: list[Request] = []
    victim: Rank | None = None
    for request in waiting:
        if victim is not None and victim < rank(request):
            break  # the victim would be next, and it has just made way
        while not (fits := batch.try_add(request)) and _may_preempt(batch, running, request, rank):
            victim = rank(running[-1])
            batch.preempt(running.pop())
        if not fits:
            break
        admitted.append(request)
    return admitted


def _may_preempt(batch: Batch, running: list[Request], request: Request, rank: Callable[[Request], Rank]) -> bool:
    if not running or batch.refusal is Refusal.PROMPT_TOKENS:
        return False
    return rank(running[-1]) > rank(request)
