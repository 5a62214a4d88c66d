"""First come, first served, but a request whose adapter finds no slot lets others pass: vLLM and SGLang."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from functools import partial
from itertools import chain
from math import floor

from policies.alarm import Alarm
from policies.arguments import above
from policies.base import Adapter, Batch, Facts, Refusal, Request
from policies.lines import Lines, LineScheduler, Turn

MARGIN = 1.2  # how much longer than what still runs a request of a draining adapter may be


class SkipAdapters(LineScheduler):
    """First come, first served; a request beyond the limit on distinct adapters is skipped, any other refusal ends it.

    A request that is skipped may starve while adapters in the batch go on being asked for.
    """

    name = "skip"
    source = "vllm-project/vllm, v1/core/sched/scheduler.py"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lines hold them
        """Offer requests in order of arrival, line by line."""
        self._lines.offer(batch, skips=Refusal.ADAPTERS)


class Drainer:
    """Which adapters in the batch let their requests run out, each for one adapter whose requests starve.

    An adapter drains until it has no request in the batch. One that is in the batch may starve as well. The base model
    is an adapter like others. A request's `max_new_tokens` is its predicted length here: nobody tells a policy what the
    client asked for, and whoever plans with it predicts just that (`oracle`: clients that ask for what they get).
    """

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self._alarm = Alarm()
        self._since_s: dict[Request, float] = {}  # when it began to wait, the last time
        self._young: deque[tuple[float, Request]] = deque()  # the same in order of time, for the next that may starve
        self._drains_for: dict[Adapter | None, Adapter | None] = {}
        self._left_tokens: dict[Adapter | None, int] = {}

    def arrived(self, request: Request, now: float) -> None:
        """Take note that a request waits, also after it was stopped."""
        since_s = now if request in self._since_s else request.arrival_s
        self._since_s[request] = since_s
        self._young.append((since_s, request))

    def finished(self, request: Request) -> None:
        """Forget a request."""
        self._since_s.pop(request, None)

    def wakes_at_s(self, waiting: Container[Request]) -> float | None:
        """Return when the next of the waiting requests may starve."""
        young = self._young
        while young and not (self._waits_since(*young[0], waiting) and self._alarm.is_ahead(young[0][0] + self.wait_s)):
            young.popleft()
        return young[0][0] + self.wait_s if young else None

    def woken(self, declared_s: float | None, now: float) -> None:
        """Take note that a request may starve."""
        self._alarm.ring(declared_s, now)

    def update(self, batch: Batch, lines: Lines, slots: int, now: float) -> None:
        """Have an adapter drain for each that starves anew if no slot is free, and forget those that have run out."""
        self._left_tokens = left = _left_tokens(batch)
        if len(left) >= slots:
            self._pair(lines, now)
        self._drains_for = {adapter: starving for adapter, starving in self._drains_for.items() if adapter in left}

    def keeps_out(self, request: Request) -> bool:
        """Whether a request is too long for its draining adapter."""
        if request.adapter not in self._drains_for:
            return False
        return request.predicted_tokens > MARGIN * self._left_tokens[request.adapter]

    def steps_until_out(self, request: Request) -> int | None:
        """Return decode steps, rather too few, until a request is kept out if nothing else changes; None for never."""
        if request.adapter not in self._drains_for:
            return None
        return max(1, floor(self._left_tokens[request.adapter] - request.predicted_tokens / MARGIN))

    def _pair(self, lines: Lines, now: float) -> None:
        """Who has waited longest gets the adapter whose longest request ends first."""
        left, helped = self._left_tokens, set(self._drains_for.values())
        waits = {adapter: self._since_s[lines.head(adapter)] for adapter in lines if adapter not in helped}
        starving = [adapter for adapter, at_s in waits.items() if self._alarm.has_come(at_s + self.wait_s, now)]
        starving.sort(key=lambda adapter: (waits[adapter], _name(adapter)))
        rest = [adapter for adapter in left if adapter not in self._drains_for]
        rest.sort(key=lambda adapter: (left[adapter], _name(adapter)))
        self._drains_for.update(zip(rest, starving, strict=False))

    def _waits_since(self, since_s: float, request: Request, waiting: Container[Request]) -> bool:
        return request in waiting and self._since_s[request] == since_s


class SGLang(LineScheduler):
    """As vLLM's; on request with loads in the background and with slots drained for adapters that starve.

    A request that was stopped waits behind all others, and requests without an adapter take a slot together: this goes
    with `adapters.base_slot`, without which they wait for one that the engine would not ask for.

    Attributes:
        resident_only: a request whose adapter is absent waits for a copy in the background; as many are under way as
            leave every adapter of the batch its slot.
        drain_wait_s: seconds after which an adapter starves whose requests wait, so that one in the batch must drain:
            it admits only requests of at most 1.2 times what its longest still has to do. None for never.
    """

    name = "sglang"
    source = "sgl-project/sglang 0.5.23, managers/scheduler.py, lora/lora_overlap_loader.py and lora/lora_drainer.py"

    def __init__(self, *, resident_only: bool = False, drain_wait_s: float | None = None) -> None:
        super().__init__()
        self.resident_only = resident_only
        self.drain_wait_s = None if drain_wait_s is None else above("drain_wait_s", drain_wait_s, 0)
        self._lines = Lines(stopped_first=False)
        self._drainer = None if drain_wait_s is None else Drainer(drain_wait_s)
        self._slots = 1
        self._coming: set[Adapter] = set()
        self._wakes_at_step: int | None = None

    def start(self, facts: Facts) -> None:
        """Learn the number of slots."""
        self._slots = facts.distinct_adapters

    def arrived(self, request: Request, now: float) -> None:
        """Put a request into its adapter's line."""
        super().arrived(request, now)
        if self._drainer is not None:
            self._drainer.arrived(request, now)

    def finished(self, request: Request, now: float) -> None:
        """Forget a request."""
        super().finished(request, now)
        if self._drainer is not None:
            self._drainer.finished(request)

    def wakes_at_s(self) -> float | None:
        """Return when the next waiting request may starve."""
        return None if self._drainer is None else self._drainer.wakes_at_s(self._lines.waiting)

    def woken(self, now: float) -> None:
        """Take note that a request may starve."""
        if self._drainer is not None:
            self._drainer.woken(self.wakes_at_s(), now)

    def wakes_at_step(self) -> int | None:
        """Return the step at which the request that ended the last round would be kept out by its draining adapter."""
        return self._wakes_at_step

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lines hold them
        """Offer requests in order of arrival, but for those that must wait for a copy or for a slot to drain."""
        if self._drainer is not None:
            self._drainer.update(batch, self._lines, self._slots, now)
        self._coming = {one for one in self._coming if not batch.is_resident(one)}
        refused = self._lines.offer(batch, skips=Refusal.ADAPTERS, turn=partial(self._turn, batch))
        self._wakes_at_step = None
        if self._drainer is not None and refused is not None:
            steps = self._drainer.steps_until_out(refused)
            self._wakes_at_step = None if steps is None else batch.step + steps

    def _turn(self, batch: Batch, request: Request) -> Turn:
        if self._drainer is not None and self._drainer.keeps_out(request):
            return Turn.PASS
        adapter = request.adapter
        if not self.resident_only or (adapter is not None and batch.is_resident(adapter)):
            return Turn.OFFER
        has_slot = len({one.adapter for one in _admitted(batch)} | self._coming | {adapter}) <= self._slots
        if adapter is None:
            return Turn.OFFER if has_slot else Turn.PASS_LINE
        if has_slot and batch.try_fetch(adapter):
            self._coming.add(adapter)
        return Turn.PASS_LINE


def _left_tokens(batch: Batch) -> dict[Adapter | None, int]:
    """Return how many tokens the longest request of each adapter in the batch still has to go."""
    left: dict[Adapter | None, int] = {}
    for request in _admitted(batch):
        tokens = max(0, request.predicted_tokens - request.generated_tokens)
        left[request.adapter] = max(tokens, left.get(request.adapter, 0))
    return left


def _admitted(batch: Batch) -> Iterator[Request]:
    return chain(batch.running, batch.joining)


def _name(adapter: Adapter | None) -> str:
    return "" if adapter is None else adapter.id
