"""Policies that each break one law, in the ways that authors do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import cycle
from typing import Any

from policies.base import Adapter, Batch, Cache, Facts, IntArray, Predictor, Prefetch, Request, Router, Scheduler

SEEN_BY_ALL: dict[str, int] = {}
MOODS = cycle((1, -1))


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


class CountsItself(Scheduled):
    """Binds a number of the class anew, where no container is changed."""

    made = 0

    def start(self, facts: Facts) -> None:
        type(self).made += 1


class SharesInItsModule(Cached):
    def used(self, adapter: Adapter, now: float) -> None:
        SEEN_BY_ALL[adapter.id] = SEEN_BY_ALL.get(adapter.id, 0) + 1


class Memoized(Cached):
    """Remembers what a function of nothing but its arguments gave, which is no state."""

    SIZES = {8: 1.0}  # noqa: RUF012 - never changed

    @staticmethod
    @cache
    def _worth(rank: int) -> float:
        return rank / 2

    def score(self, adapter: Adapter, now: float) -> float:
        return self.SIZES.get(adapter.rank, self._worth(adapter.rank))


class Moody(Scheduled):
    """Every other instance goes by the last that came."""

    def __init__(self) -> None:
        self._mood = next(MOODS)

    def key(self, request: Request, now: float) -> float:
        return self._mood * request.id


class DueFirst(Scheduled):
    """Those that are overdue first, then the shortest: the order changes when a deadline passes, and nobody is told."""

    def start(self, facts: Facts) -> None:
        self._slo_s = facts.ttft_slo_s

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:
        return iter(sorted(waiting, key=lambda one: (self._left_s(one, now) > 0, one.predicted_tokens, one.id)))

    def _left_s(self, request: Request, now: float) -> float:
        return request.arrival_s + self._slo_s - now


class DeclaresWhatIsDue(DueFirst):
    """The same, told."""

    def __init__(self) -> None:
        self._due_s: dict[int, float] = {}

    def arrived(self, request: Request, now: float) -> None:
        self._due_s[request.id] = request.arrival_s + self._slo_s

    def wakes_at_s(self) -> float | None:
        return min(self._due_s.values(), default=None)

    def woken(self, now: float) -> None:
        self._due_s = {id_: at_s for id_, at_s in self._due_s.items() if at_s > now}

    def _left_s(self, request: Request, now: float) -> float:
        return self._due_s.get(request.id, 0.0)


class SquashesAll(Scheduled):
    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for victim in list(batch.running):
            batch.squash(victim)
        super().fill(batch, waiting, now)


class ServesShortPrompts(Scheduled):
    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        super().fill(batch, [request for request in waiting if request.prompt_tokens <= 200], now)


class PutsLongPromptsLast(Scheduled):
    def key(self, request: Request, now: float) -> float:
        return float("inf") if request.prompt_tokens > 100 else request.prompt_tokens


class ShortensPrompts(Scheduled):
    def key(self, request: Request, now: float) -> float:
        request.prompt_tokens = min(request.prompt_tokens, 1)
        return request.arrival_s


class ForgesRunning(Scheduled):
    """Writes to requests that it was not asked about."""

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for request in batch.running:
            request.arrival_s = -1.0
        super().fill(batch, waiting, now)


class NamesLanes(Scheduled):
    def arrived(self, request: Request, now: float) -> None:
        request.lane = "fast"  # type: ignore[assignment]


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


class WantsMadeUp(Fetched):
    """Gives an adapter of its own making, another one each time."""

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        return [Adapter("a0", 8, 20)]


class LoopsForEver(Fetched):
    """Asks nobody, and yields nothing once it has gone through those that wait."""

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterator[Adapter]:
        while True:
            yield from [request.adapter for request in waiting if request.adapter]


class StopsTheIteration(Fetched):
    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        raise StopIteration


class WakesAtOnce(Fetched):
    """Asks to be woken again before anything can have happened."""

    pause_s = 1e-13

    def __init__(self) -> None:
        self._next_s = 0.0

    def wakes_at_s(self) -> float | None:
        return self._next_s

    def woken(self, now: float) -> None:
        self._next_s = now + self.pause_s

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        return ()


class WakesOften(WakesAtOnce):
    """Is woken every 0.2 seconds, as it may."""

    pause_s = 0.2


class Shrinks(Fetched):
    def used(self, adapter: Adapter, now: float) -> None:
        adapter.size_bytes = 1  # type: ignore[misc]


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
