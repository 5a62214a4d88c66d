"""Eviction by queues that move lazily: SIEVE and S3-FIFO. A hit sets a mark; the scan for a victim does the moving.

Asked for scores, a rule runs its scan on a copy and moves nothing; the real queues move when an eviction is told. The
engine may keep what the scan would evict, because it is in use or wanted: the scan then passes it by where it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence

from policies.arguments import above, at_least
from policies.base import Adapter
from policies.eviction_hits import RankedCache

MOST_HITS = 3  # S3-FIFO counts hits in two bits


class Sieve(RankedCache):
    """SIEVE: a hand goes from the oldest load to the newest, clears marks and evicts the first without; it stays."""

    name = "sieve"
    source = "Zhang et al. 2024 (NSDI), SIEVE"

    def __init__(self) -> None:
        super().__init__()
        self._visited: dict[Adapter, bool] = {}  # the queue, oldest load first
        self._hand: Adapter | None = None  # where the next scan begins; None: at the oldest

    def _entered(self, adapter: Adapter) -> None:
        self._visited.setdefault(adapter, False)

    def _hit(self, adapter: Adapter) -> None:
        if adapter in self._visited:
            self._visited[adapter] = True

    def _left(self, adapter: Adapter) -> None:
        if adapter not in self._visited:
            return
        queue = list(self._visited)
        ahead = self._lap(queue)
        needs_whole_lap = self._visited[adapter]
        for passed in ahead if needs_whole_lap else ahead[: ahead.index(adapter)]:
            self._visited[passed] = False
        newer = queue[queue.index(adapter) + 1 :]
        self._hand = newer[0] if newer else None
        del self._visited[adapter]

    def _places(self, candidates: Sequence[Adapter]) -> dict[Adapter, int]:
        wanted = set(candidates)
        newest = [adapter for adapter in candidates if adapter not in self._visited]
        lap = [adapter for adapter in self._lap(list(self._visited), newest) if adapter in wanted]
        lap.sort(key=lambda adapter: self._visited.get(adapter, False))  # those with a mark go in the second lap
        return {adapter: place for place, adapter in enumerate(lap)}

    def _residents(self) -> Sequence[Adapter]:
        return list(self._visited)

    def _lap(self, queue: list[Adapter], newest: Sequence[Adapter] = ()) -> list[Adapter]:
        start = 0 if self._hand is None else queue.index(self._hand)
        return [*queue[start:], *newest, *queue[:start]]


class S3FIFO(RankedCache):
    """S3-FIFO: newcomers wait in a small queue, go on to the main one if hit there, and else leave a ghost behind.

    Both are first-in first-out. The small queue gives a victim when it has its share of the bytes held, else the main
    one, which gives its oldest another round for each hit. Who comes back while its ghost is kept enters the main
    queue. An adapter that is larger than the small queue's share enters it all the same.

    Attributes:
        small_share: the small queue's share of the bytes held, which stand for the size of a cache without fixed size.
        ghost_share: bytes of adapters whose ghosts are kept, as a share of the most bytes held so far.
        move_hits: hits in the small queue that let an adapter go on to the main one.
    """

    name = "s3-fifo"
    source = "Yang et al. 2023 (SOSP), S3-FIFO; defaults as in 1a1a11a/libCacheSim"

    def __init__(self, *, small_share: float = 0.1, ghost_share: float = 0.9, move_hits: int = 2) -> None:
        super().__init__()
        self.small_share = above("small_share", small_share, 0)
        self.ghost_share = at_least("ghost_share", ghost_share, 0)
        self.move_hits = at_least("move_hits", move_hits, 1)
        self._small: dict[Adapter, int] = {}  # hits, oldest first
        self._main: dict[Adapter, int] = {}
        self._ghosts: dict[Adapter, None] = {}
        self._returning: set[Adapter] = set()  # used, with a ghost, and not yet loaded
        self._held_bytes = 0
        self._most_held_bytes = 0
        self._ghost_bytes = 0

    def _missed(self, adapter: Adapter) -> None:
        # The load comes after evictions, whose ghosts may push this one out.
        if self._is_ghost_laid(adapter):
            self._returning.add(adapter)

    def _entered(self, adapter: Adapter) -> None:
        if adapter in self._small or adapter in self._main:
            return
        returns = adapter in self._returning or self._is_ghost_laid(adapter)
        self._returning.discard(adapter)
        (self._main if returns else self._small)[adapter] = 0
        self._held_bytes += adapter.size_bytes
        self._most_held_bytes = max(self._most_held_bytes, self._held_bytes)

    def _hit(self, adapter: Adapter) -> None:
        queue = self._small if adapter in self._small else self._main
        if adapter in queue:
            queue[adapter] = min(MOST_HITS, queue[adapter] + 1)

    def _left(self, adapter: Adapter) -> None:
        if adapter not in self._small and adapter not in self._main:
            return
        scan = self._scan([adapter])
        was_small = next(scan.victims())[1]
        self._small, self._main = scan.rest()
        self._held_bytes -= adapter.size_bytes
        if was_small:
            self._add_ghost(adapter)

    def _places(self, candidates: Sequence[Adapter]) -> dict[Adapter, int]:
        return {adapter: place for place, (adapter, _) in enumerate(self._scan(candidates).victims())}

    def _residents(self) -> Sequence[Adapter]:
        return [*self._small, *self._main]

    def _scan(self, may_go: Collection[Adapter]) -> _Scan:
        absent = [adapter for adapter in may_go if adapter not in self._small and adapter not in self._main]
        small = self._small | {adapter: 0 for adapter in absent if adapter not in self._ghosts}
        main = self._main | {adapter: 0 for adapter in absent if adapter in self._ghosts}
        return _Scan(small, main, set(may_go), small_share=self.small_share, move_hits=self.move_hits)

    def _is_ghost_laid(self, adapter: Adapter) -> bool:
        if adapter not in self._ghosts:
            return False
        del self._ghosts[adapter]
        self._ghost_bytes -= adapter.size_bytes
        return True

    def _add_ghost(self, adapter: Adapter) -> None:
        self._ghosts[adapter] = None
        self._ghost_bytes += adapter.size_bytes
        while self._ghost_bytes > self.ghost_share * self._most_held_bytes:
            self._is_ghost_laid(next(iter(self._ghosts)))


class _Scan:
    """S3-FIFO's search for victims, on copies of its queues."""

    def __init__(
        self,
        small: dict[Adapter, int],
        main: dict[Adapter, int],
        may_go: set[Adapter],
        *,
        small_share: float,
        move_hits: int,
    ) -> None:
        self._small, self._main = deque(small.items()), deque(main.items())
        self._passed: tuple[dict[Adapter, int], dict[Adapter, int]] = ({}, {})  # of small, of main: may not go
        self._may_go = may_go
        self._small_share = small_share
        self._move_hits = move_hits
        self._small_bytes = sum(adapter.size_bytes for adapter in small)
        self._bytes = self._small_bytes + sum(adapter.size_bytes for adapter in main)
        self._main_candidates = sum(adapter in may_go for adapter in main)

    def victims(self) -> Iterator[tuple[Adapter, bool]]:
        """Yield who goes next and whether from the small queue, until nobody is left who may go."""
        while (found := self._next()) is not None:
            self._bytes -= found[0].size_bytes
            yield found

    def rest(self) -> tuple[dict[Adapter, int], dict[Adapter, int]]:
        """Return the small and the main queue as the scan has left them."""
        passed_small, passed_main = self._passed
        return passed_small | dict(self._small), passed_main | dict(self._main)

    def _next(self) -> tuple[Adapter, bool] | None:
        is_small_due = self._small_bytes >= self._small_share * self._bytes
        # The small queue's scan may have moved on to the main one whoever may go.
        searches = ((self._from_main, False), (self._from_small, True), (self._from_main, False))
        for search, is_small in searches[is_small_due:]:
            victim = search()
            if victim is not None:
                return victim, is_small
        return None

    def _from_small(self) -> Adapter | None:
        while self._small:
            adapter, hits = self._small.popleft()
            may_go = adapter in self._may_go
            if hits < self._move_hits and not may_go:
                self._passed[0][adapter] = hits
                continue
            self._small_bytes -= adapter.size_bytes
            if hits < self._move_hits:
                return adapter
            self._main.append((adapter, 0))
            self._main_candidates += may_go
        return None

    def _from_main(self) -> Adapter | None:
        # Where nobody may go the scan would only take away everybody's rounds.
        while self._main_candidates:
            adapter, hits = self._main.popleft()
            if hits:
                self._main.append((adapter, hits - 1))
            elif adapter in self._may_go:
                self._main_candidates -= 1
                return adapter
            else:
                self._passed[1][adapter] = 0
        return None
