"""Prefetchers that look at the waiting queue: none, every waiting request's adapter, S-LoRA's next batch.

`Foreseeing` is what prefetchers that also expect requests have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from policies.arguments import at_least
from policies.base import Adapter, Facts, Prefetch, Request


class NoPrefetch(Prefetch):
    """Bring in nothing before it is needed."""

    name = "none"
    source = "S-LoRA/S-LoRA, without --prefetch"


class Queued(Prefetch):
    """Bring in the adapters of waiting requests, in the order in which the scheduler would try them.

    Attributes:
        lookahead: waiting requests that are looked at; None for all.
    """

    name = "queued"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), prefetching of queued requests"
    may_evict = True
    only_waiting = True

    def __init__(self, *, lookahead: int | None = None) -> None:
        self.lookahead = None if lookahead is None else at_least("lookahead", lookahead, 1)

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterator[Adapter]:  # noqa: ARG002 - no clock
        """Yield each distinct adapter once."""
        return _distinct(waiting if self.lookahead is None else islice(waiting, self.lookahead))


class SLoRAPrefetch(Prefetch):
    """Bring in the adapters of the next batch, guessed by its prompt tokens alone, at two steps between admissions.

    Attributes:
        at_steps: decode steps since the last admission; None for S-LoRA's own, half the admission period and three
            before its end (5 and 7 of 10), as far as the period has them.
    """

    name = "slora"
    source = "S-LoRA/S-LoRA, router/manager.py"
    only_waiting = True
    asks_at_steps: tuple[int, ...] = ()

    def __init__(self, *, at_steps: tuple[int, ...] | None = None) -> None:
        self.at_steps = None if at_steps is None else tuple(at_least("at_steps", step, 0) for step in at_steps)
        self._prompt_tokens = 0

    def start(self, facts: Facts) -> None:
        """Learn how many prompt tokens one prefill takes, and when admissions are."""
        self._prompt_tokens = facts.batch_prompt_tokens
        period = facts.admit_every_steps
        own = sorted({period // 2, period - 3})
        self.asks_at_steps = (
            tuple(step for step in own if 0 <= step < period) if self.at_steps is None else self.at_steps
        )

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterator[Adapter]:  # noqa: ARG002 - no clock
        """Yield each distinct adapter of the waiting requests that fit into one prefill together."""
        return _distinct(_first_prefill(waiting, self._prompt_tokens))


class Foreseeing(Prefetch):
    """Bring in the adapters of waiting requests, then, into free memory only, those of requests that are expected.

    It does not know what is resident: with more adapters foreseen than fit each would drive out another at every step,
    for ever, so guesses evict nobody. What is foreseen may depend on what has happened, not on when it is asked.
    """

    may_evict = True

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterator[Adapter]:  # noqa: ARG002 - see above
        """Yield each distinct adapter once, the waiting requests' first."""
        seen: set[Adapter | None] = {None}
        queued = 0
        for queued, request in enumerate(waiting, 1):  # noqa: B007 - how many there were counts below
            if request.adapter is not None and request.adapter not in seen:
                seen.add(request.adapter)
                yield request.adapter
        yield from (adapter for adapter in self._foreseen(queued) if adapter not in seen)

    def _foreseen(self, queued: int) -> Iterable[Adapter]:  # noqa: ARG002 - nothing is expected
        """Return the distinct adapters of expected requests, most urgent first, while so many requests wait."""
        return ()


def fraction(name: str, value: float) -> float:
    """Return the value.

    Raises:
        ValueError: if it is not above 0 and below 1.
    """
    if 0 < value < 1:
        return value
    msg = f"{name} must be above 0 and below 1, got {value!r}"
    raise ValueError(msg)


def _distinct(requests: Iterable[Request]) -> Iterator[Adapter]:
    seen: set[Adapter | None] = {None}
    for request in requests:
        adapter = request.adapter
        if adapter is not None and adapter not in seen:
            seen.add(adapter)
            yield adapter


def _first_prefill(waiting: Iterable[Request], left_tokens: int) -> Iterator[Request]:
    for request in waiting:
        left_tokens -= request.prompt_tokens
        if left_tokens < 0:
            return
        yield request
