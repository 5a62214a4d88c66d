"""Schedulers with one queue: first come first served, and shortest job first with ageing."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from math import inf

from policies.arguments import at_least
from policies.base import Batch, Facts, Request, Scheduler


class FCFS(Scheduler):
    """First come, first served; requests that were stopped go first, nobody passes anybody."""

    name = "fcfs"
    source = "S-LoRA/S-LoRA, router/req_queue.py"

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - no clock
        """Yield requests as they wait, which is by arrival already."""
        return iter(waiting)


class HeadOfLine(FCFS):
    """First come, first served; only the head may start a load, and nobody is admitted until it is complete."""

    name = "head-of-line"
    source = "inference-sim/inference-sim (BLIS), sim/simulator.go"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        """Offer requests in order up to the first that needs a load; none while a load is under way."""
        if not all(batch.is_resident(request.adapter) for request in batch.joining):
            return
        for request in self.order(waiting, now):
            needs_load = not batch.is_resident(request.adapter)
            if not batch.try_add(request) or needs_load:
                return


class _Ranking:
    """Waiting requests in falling order of a key, so that the first to go is popped from the end."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: list[tuple[float, int]] = []

    def __iter__(self) -> Iterator[int]:
        return (-negative_id for _, negative_id in reversed(self._keys))

    def add(self, key: float, request_id: int) -> None:
        insort(self._keys, (-key, -request_id))

    def remove(self, key: float, request_id: int) -> None:
        del self._keys[bisect_left(self._keys, (-key, -request_id))]

    def first(self) -> int | None:
        return -self._keys[-1][1] if self._keys else None


class SJF(Scheduler):
    """Shortest predicted output first, ties by id; a request that has waited too long goes before all others.

    Attributes:
        ageing_s: seconds after which the longest-waiting request goes first; None for never.
        ageing_factor: the same in multiples of the request's own execution time, by its predicted length and alone on
            the engine; what comes first counts. The source's code has 100 s and 10. None for never.
    """

    name = "sjf"
    source = "James-QiuHaoran/LLM-serving-with-proxy-models, model-serving/sjf.py"

    def __init__(self, *, ageing_s: float | None = None, ageing_factor: float | None = None) -> None:
        self.ageing_s = None if ageing_s is None else at_least("ageing_s", ageing_s, 0)
        self.ageing_factor = None if ageing_factor is None else at_least("ageing_factor", ageing_factor, 0)
        self._ages = ageing_s is not None or ageing_factor is not None
        self._facts: Facts | None = None
        self._waiting: dict[int, Request] = {}
        self._by_length = _Ranking()
        self._by_age = _Ranking()
        self._clock_s = float("-inf")

    def start(self, facts: Facts) -> None:
        """Learn how long requests take."""
        self._facts = facts

    def arrived(self, request: Request, now: float) -> None:  # noqa: ARG002 - age counts from the arrival
        """Rank a request."""
        self._waiting[request.id] = request
        self._by_length.add(request.predicted_tokens, request.id)
        if self._ages:
            self._by_age.add(request.arrival_s, request.id)

    def wakes_at_s(self) -> float | None:
        """Return when the longest-waiting request becomes too old; None if it is so already or nothing waits."""
        oldest = self._by_age.first()
        if oldest is None:
            return None
        at_s = self._old_at_s(self._waiting[oldest])
        return at_s if self._clock_s < at_s < inf else None

    def woken(self, now: float) -> None:
        """Take note that the longest-waiting request is too old by now."""
        self._clock_s = max(now, self.wakes_at_s() or now)

    def key(self, request: Request, now: float) -> float:  # noqa: ARG002 - ageing is not a matter of one request
        """Return the predicted length."""
        return request.predicted_tokens

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - it is ranked here
        """Yield requests that are too old by arrival, then the others by predicted length."""
        old = set()
        for request_id in self._by_age:
            if not self._is_old(self._waiting[request_id], now):
                break
            old.add(request_id)
            yield self._waiting[request_id]
        for request_id in self._by_length:
            if request_id not in old:
                yield self._waiting[request_id]

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - it is ranked here
        """Offer the first of the ranking until one is refused."""
        while (request := self._first(now)) is not None and batch.try_add(request):
            del self._waiting[request.id]
            self._by_length.remove(request.predicted_tokens, request.id)
            if self._ages:
                self._by_age.remove(request.arrival_s, request.id)

    def _first(self, now: float) -> Request | None:
        oldest = self._by_age.first()
        if oldest is not None and self._is_old(self._waiting[oldest], now):
            return self._waiting[oldest]
        shortest = self._by_length.first()
        return None if shortest is None else self._waiting[shortest]

    def _old_at_s(self, request: Request) -> float:
        wait_s = inf if self.ageing_s is None else self.ageing_s
        if self.ageing_factor is not None and self._facts is not None:
            wait_s = min(wait_s, self.ageing_factor * _execution_s(request, self._facts))
        return request.arrival_s + wait_s

    def _is_old(self, request: Request, now: float) -> bool:
        # The clock of the last wake counts too: a driver's rounding must not undo the instant that was declared.
        return self._old_at_s(request) <= max(now, self._clock_s)


def _execution_s(request: Request, facts: Facts) -> float:
    adapter = request.adapter
    prefill_s = facts.prefill_s(request.prompt_tokens, 0 if adapter is None else adapter.rank)
    return prefill_s + (request.predicted_tokens - 1) * facts.decode_s((adapter,))
