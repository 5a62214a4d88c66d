"""Waiting requests with one line per adapter, for schedulers that treat adapters one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from heapq import heapify, heappop, heapreplace

from policies.base import Adapter, Batch, Refusal, Request, Scheduler


class Turn(Enum):
    """What becomes of a request whose turn it is."""

    OFFER = auto()
    PASS = auto()  # the next of its line may still go
    PASS_LINE = auto()


Head = tuple[int, int, Adapter | None]  # ticket, place in its line, whose line


def _offer(request: Request) -> Turn:  # noqa: ARG001 - the rule that looks at nothing
    return Turn.OFFER


class Lines:
    """Waiting requests, one line per adapter; a ticket says whose turn it is among all.

    Tickets go by arrival, but a request that was stopped goes before all others, as in the engine's own queue, or else
    behind them.
    """

    __slots__ = ("_admitted", "_back", "_front", "_lines", "_stopped_first", "waiting")

    def __init__(self, *, stopped_first: bool = True) -> None:
        self._stopped_first = stopped_first
        self.waiting: set[Request] = set()
        self._lines: dict[Adapter | None, deque[tuple[int, Request]]] = {}
        self._admitted: set[Request] = set()
        self._back = self._front = 0

    def __contains__(self, adapter: Adapter | None) -> bool:
        return adapter in self._lines

    def __iter__(self) -> Iterator[Adapter | None]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, request: Request) -> None:
        """Put a new request at the end of its line, a stopped one before or behind all others."""
        self.waiting.add(request)
        line = self._lines.setdefault(request.adapter, deque())
        if self._stopped_first and request in self._admitted:
            self._front -= 1
            line.appendleft((self._front, request))
        else:
            self._back += 1
            line.append((self._back, request))

    def forget(self, request: Request) -> None:
        """Drop what is known of a request that has left for good."""
        self._admitted.discard(request)

    def head(self, adapter: Adapter | None) -> Request:
        """Return the first request of an adapter's line, which is not empty."""
        return self._lines[adapter][0][1]

    def ticket(self, adapter: Adapter | None) -> int:
        """Return the turn of the line's head: the lowest is the oldest."""
        return self._lines[adapter][0][0]

    def oldest(self) -> Request:
        """Return the request whose turn is first of all; somebody waits."""
        return self.head(min(self._lines, key=self.ticket))

    def admitted(self, adapter: Adapter | None, place: int = 0) -> None:
        """Take a request out of its line because the batch has it."""
        line = self._lines[adapter]
        request = line[place][1]
        del line[place]
        if not line:
            del self._lines[adapter]
        self.waiting.discard(request)
        self._admitted.add(request)

    def offer(
        self,
        batch: Batch,
        adapters: Iterable[Adapter | None] | None = None,
        *,
        skips: Refusal | None = None,
        turn: Callable[[Request], Turn] = _offer,
    ) -> Request | None:
        """Offer requests by ticket and return the one at which a refusal ended it; None if all had their turn.

        Args:
            batch: the round.
            adapters: whose lines take part; None for all.
            skips: a refusal that ends a line's turn and not the round's.
            turn: what to do with a request before it is offered.
        """
        lines = self._lines
        chosen = lines if adapters is None else (adapter for adapter in adapters if adapter in lines)
        heads: list[Head] = [(lines[adapter][0][0], 0, adapter) for adapter in chosen]
        heapify(heads)
        while heads:
            _, place, adapter = heads[0]
            line = lines[adapter]
            request = line[place][1]
            verdict = turn(request)
            if verdict is Turn.OFFER and batch.try_add(request):
                self.admitted(adapter, place)
            elif verdict is Turn.PASS:
                place += 1
            elif verdict is Turn.PASS_LINE:
                place = len(line)
            elif skips is not None and batch.refusal is skips:
                place = len(line)
                if skips is Refusal.ADAPTERS and turn is _offer:
                    heads = _of(heads, {adapter, None, *adapters_in(batch)})  # this round has no place for any other
            else:
                return request
            if place < len(line):
                heapreplace(heads, (line[place][0], place, adapter))
            else:
                heappop(heads)
        return None


def _of(heads: list[Head], adapters: set[Adapter | None]) -> list[Head]:
    """Return the heads of these adapters' lines as a heap."""
    kept = [head for head in heads if head[2] in adapters]
    heapify(kept)
    return kept


class LineScheduler(Scheduler):
    """What schedulers with a line per adapter share; requests are shown to a prefetcher in order of arrival."""

    def __init__(self) -> None:
        self._lines = Lines()

    def arrived(self, request: Request, now: float) -> None:  # noqa: ARG002 - lines know no clock
        """Put a request into its adapter's line."""
        self._lines.add(request)

    def finished(self, request: Request, now: float) -> None:  # noqa: ARG002 - lines know no clock
        """Forget a request."""
        self._lines.forget(request)

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - no clock
        """Yield requests as they wait."""
        return iter(waiting)


def adapters_of(requests: Iterable[Request]) -> set[Adapter]:
    """Return the distinct adapters of these requests, the base model not among them."""
    return {request.adapter for request in requests if request.adapter is not None}


def adapters_in(batch: Batch) -> set[Adapter]:
    """Return the distinct adapters of all admitted requests."""
    return adapters_of(batch.running) | adapters_of(batch.joining)
