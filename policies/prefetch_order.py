"""Prefetchers that go by what comes after what: the adapters that followed the latest ones, and those that will."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from policies.arguments import above, at_least
from policies.base import Adapter, Facts
from policies.prefetch import Foreseeing, fraction


class Successors:
    """How often each adapter was the next to be asked for; beyond `memory` requests, older ones fade by halves."""

    __slots__ = ("_counts", "_memory", "_total")

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._counts: dict[Adapter, int] = {}
        self._total = 0

    def add(self, adapter: Adapter) -> None:
        """Count a successor."""
        self._counts[adapter] = self._counts.get(adapter, 0) + 1
        self._total += 1
        if self._total > self._memory:
            self._counts = {one: count // 2 for one, count in self._counts.items() if count > 1}
            self._total = sum(self._counts.values())

    def shares(self) -> Iterator[tuple[Adapter, float]]:
        """Yield each adapter and its share of all successors."""
        return ((adapter, count / self._total) for adapter, count in self._counts.items())


class Markov(Foreseeing):
    """Bring in the adapters that most often came next after the latest requests.

    The chance of an adapter is the share of requests for it among those that came right after another, at best over
    the latest ones. Requests of many sessions interleave, so what comes right after one is rarely its own session's
    next; a longer `lookback` gives each request as many chances to have successors.

    Attributes:
        lookback: latest requests that are looked at.
        window_s: seconds for which a request has successors; a later one is not counted.
        threshold: chance from which an adapter is wanted, below 1.
        top: adapters of the highest chance that are wanted.
        memory: successors of an adapter that are counted before they fade.
    """

    name = "markov"
    source = "probability graph of Griffioen and Appleton (USENIX 1994), over adapters in place of files"

    def __init__(
        self,
        *,
        lookback: int = 4,
        window_s: float = 60.0,
        threshold: float = 0.05,
        top: int = 8,
        memory: int = 1000,
    ) -> None:
        self.lookback = at_least("lookback", lookback, 1)
        self.window_s = above("window_s", window_s, 0)
        self.threshold = fraction("threshold", threshold)
        self.top = at_least("top", top, 1)
        self.memory = at_least("memory", memory, 2)
        self._latest: deque[tuple[float, Adapter]] = deque(maxlen=lookback)
        self._after: dict[Adapter, Successors] = {}
        self._expected: list[Adapter] = []

    def used(self, adapter: Adapter, now: float) -> None:
        """Count the request as a successor of the latest ones, and expect its own."""
        while self._latest and self._latest[0][0] < now - self.window_s:
            self._latest.popleft()
        for before in self._distinct_latest():
            self._after[before].add(adapter)
        self._latest.append((now, adapter))
        self._after.setdefault(adapter, Successors(self.memory))
        self._expected = self._likely()

    def _foreseen(self, queued: int) -> Iterable[Adapter]:  # noqa: ARG002 - the queue does not change what comes next
        return self._expected

    def _distinct_latest(self) -> Iterable[Adapter]:
        return dict.fromkeys(adapter for _, adapter in self._latest)

    def _likely(self) -> list[Adapter]:
        best: dict[Adapter, float] = {}
        for before in self._distinct_latest():
            for adapter, share in self._after[before].shares():
                best[adapter] = max(share, best.get(adapter, 0.0))
        likely = [(-share, adapter.id, adapter) for adapter, share in best.items() if share >= self.threshold]
        return [adapter for *_, adapter in sorted(likely)[: self.top]]


class Oracle(Foreseeing):
    """Bring in the adapters of the requests that really come next, as a bound for what prediction could give.

    It is a bound for what to bring in, not for what to evict, and nothing is fetched before the first request with an
    adapter. With several replicas or in a closed loop the future is not known, and the run is refused.

    Attributes:
        lookahead: next requests that are looked at, those without an adapter among them.
    """

    name = "oracle"
    source = "offline bound"

    def __init__(self, *, lookahead: int = 64) -> None:
        self.lookahead = at_least("lookahead", lookahead, 1)
        self._rest: Iterator[tuple[float, Adapter | None]] = iter(())
        self._ahead: deque[tuple[float, Adapter | None]] = deque()

    def start(self, facts: Facts) -> None:
        """Open the future."""
        self._rest = iter(facts.future())

    def used(self, adapter: Adapter, now: float) -> None:  # noqa: ARG002 - what has come is read from the future itself
        """Turn to what comes after now."""
        while self._ahead and self._ahead[0][0] <= now:
            self._ahead.popleft()
        coming = (one for one in self._rest if one[0] > now)
        self._ahead.extend(islice(coming, self.lookahead - len(self._ahead)))

    def _foreseen(self, queued: int) -> Iterable[Adapter]:  # noqa: ARG002 - the queue does not change the future
        return [adapter for adapter in dict.fromkeys(later for _, later in self._ahead) if adapter is not None]
