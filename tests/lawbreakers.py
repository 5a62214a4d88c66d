"""Policies that each break one law, in the ways that authors do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from policies.base import Adapter, Batch, Cache, Facts, IntArray, Predictor, Prefetch, Request, Router, Scheduler


class Cached(Cache):
    name = "cached"


class Undocumented(Cached):
    """Says nothing of its keyword."""

    def __init__(self, *, fade_s: float = 1.0) -> None:
        self.fade_s = fade_s


class Raising(Cached):
    def score(self, adapter: Adapter, now: float) -> float:
        return {"b": 1.0}[adapter.id]


class NotANumber(Cached):
    def score(self, adapter: Adapter, now: float) -> float:
        return float("nan")


class OneTooFew(Cached):
    def scores(self, adapters: Sequence[Adapter], now: float) -> Sequence[float]:
        return [0.0] * (len(adapters) - 1)


class Sorting(Cached):
    def scores(self, adapters: Sequence[Adapter], now: float) -> Sequence[float]:
        assert isinstance(adapters, list)
        adapters.sort(key=lambda one: -int(one.id[1:]))
        return [0.0] * len(adapters)


class CountingScore(Cached):
    asked = 0

    def score(self, adapter: Adapter, now: float) -> float:
        self.asked += 1
        return self.asked


class DropsWhatWasUsed(Cached):
    def __init__(self) -> None:
        self._last: list[Adapter] = []

    def used(self, adapter: Adapter, now: float) -> None:
        self._last = [adapter]

    def drops(self, idle: Sequence[Adapter], now: float, *, batch_is_empty: bool) -> Iterable[Adapter]:
        return self._last


class Scheduled(Scheduler):
    name = "scheduled"


class AskedOften(Scheduled):
    """Answers the same when asked twice, and something else later for having been asked."""

    asked = 0

    def key(self, request: Request, now: float) -> float:
        self.asked += 1
        return -request.id if self.asked // 50 % 2 else request.id


class OffersTwice(Scheduled):
    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for request in waiting:
            batch.try_add(request)
            batch.try_add(request)


class Yielding(Scheduled):
    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> Iterator[bool]:  # type: ignore[override]
        for request in waiting:
            yield batch.try_add(request)


class Forgets(Scheduled):
    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:
        return iter(list(waiting)[:1])


class StandsStill(Scheduled):
    def wakes_at_s(self) -> float | None:
        return 1e-9


class Never(Scheduled):
    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        """Admit nobody."""


class AsksForEver(Scheduled):
    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        first = next(iter(waiting))
        while batch.is_resident(first.adapter) or True:
            pass


class Cooks(Scheduled):
    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        batch._core.memory.kv_bytes += 1  # type: ignore[attr-defined]


class Shares(Scheduled):
    """Remembers in the class what an instance of its own should forget."""

    seen: list[int] = []  # noqa: RUF012 - the mistake

    def arrived(self, request: Request, now: float) -> None:
        self.seen.append(request.id)

    def key(self, request: Request, now: float) -> float:
        return -request.id if len(self.seen) // 30 % 2 else request.id


class ByTheClock(Scheduled):
    """Changes its mind at instants that it does not declare."""

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        if int(now * 1e5) % 3 or not batch.running:
            super().fill(batch, waiting, now)


class Fetched(Prefetch):
    name = "fetched"


class WantsTheBaseModel(Fetched):
    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        return [request.adapter for request in waiting]  # type: ignore[misc]


class WantsNothing(Fetched):
    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        return None  # type: ignore[return-value]


STRANGER = Adapter("a0", 8, 20)


class WantsStrangers(Fetched):
    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        return [STRANGER]


class WantsOthers(Fetched):
    only_waiting = True

    def start(self, facts: Facts) -> None:
        self._all = facts.adapters

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        return self._all


class WantsForEver(WantsOthers):
    only_waiting = False

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterator[Adapter]:
        while True:
            yield from self._all


class Routed(Router):
    name = "routed"


class OutOfRange(Routed):
    def choose(self, request: Request, replicas: Sequence[Any], now: float) -> int:
        return len(replicas)


class Predicted(Predictor):
    name = "predicted"


class Halves(Predicted):
    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: Any) -> IntArray:
        return output_tokens / 2  # type: ignore[return-value]


class Zero(Predicted):
    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: Any) -> IntArray:
        return output_tokens - 1


class TooShort(Predicted):
    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: Any) -> IntArray:
        return output_tokens[1:]


class Overwrites(Predicted):
    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: Any) -> IntArray:
        output_tokens += 1
        return output_tokens


class Drifts(Predicted):
    asked = 0

    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: Any) -> IntArray:
        self.asked += 1
        return output_tokens + self.asked
