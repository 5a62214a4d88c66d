"""First come, first served, but a request whose adapter finds no slot lets others pass: vLLM and SGLang."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from math import floor

from policies.alarm import Alarm
from policies.arguments import above
from policies.base import Adapter, Batch, Facts, Refusal, Request
from policies.lines import Lines, LineScheduler, Turn, adapters_in

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

    An adapter drains until it has no request in the batch. One that is in the batch may starve as well. Unlike the
    source this goes by predicted lengths where that has `max_new_tokens`, counts waiting from the arrival also of a
    request that was stopped, and gives the base model no slot.
    """

    def __init__(self, wait_s: float, alarm: Alarm) -> None:
        self.wait_s = wait_s
        self._alarm = alarm
        self._drains_for: dict[Adapter, Adapter] = {}
        self._left_tokens: dict[Adapter, int] = {}

    def update(self, batch: Batch, lines: Lines, slots: int, now: float) -> None:
        """Have an adapter drain for each that starves anew if no slot is free, and forget those that have run out."""
        self._left_tokens = left = _left_tokens(batch)
        if len(left) >= slots:
            self._pair(lines, now)
        self._drains_for = {adapter: starving for adapter, starving in self._drains_for.items() if adapter in left}

    def _pair(self, lines: Lines, now: float) -> None:
        """Who has waited longest gets the adapter whose longest request ends first."""
        left, helped = self._left_tokens, set(self._drains_for.values())
        starving = [adapter for adapter in lines if adapter is not None and adapter not in helped]
        starving = [adapter for adapter in starving if self._starves(lines.head(adapter), now)]
        starving.sort(key=lambda adapter: (lines.head(adapter).arrival_s, adapter.id))
        rest = [adapter for adapter in left if adapter not in self._drains_for]
        rest.sort(key=lambda adapter: (left[adapter], adapter.id))
        self._drains_for.update(zip(rest, starving, strict=False))

    def keeps_out(self, request: Request) -> bool:
        """Whether a request is too long for its draining adapter."""
        adapter = request.adapter
        if adapter is None or adapter not in self._drains_for:
            return False
        return request.predicted_tokens > MARGIN * self._left_tokens[adapter]

    def steps_until_out(self, request: Request) -> int | None:
        """Return decode steps, rather too few, until a request is kept out if nothing else changes; None for never."""
        adapter = request.adapter
        if adapter is None or adapter not in self._drains_for:
            return None
        return max(1, floor(self._left_tokens[adapter] - request.predicted_tokens / MARGIN))

    def _starves(self, head: Request, now: float) -> bool:
        return self._alarm.has_come(head.arrival_s + self.wait_s, now)


class SGLang(LineScheduler):
    """As vLLM's; on request with loads in the background and with slots drained for adapters that starve.

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
        self._alarm = Alarm()
        self._drainer = None if drain_wait_s is None else Drainer(drain_wait_s, self._alarm)
        self._young: deque[Request] = deque()  # in order of arrival, for the next that may starve
        self._slots = 1
        self._coming: set[Adapter] = set()
        self._wakes_at_step: int | None = None

    def start(self, facts: Facts) -> None:
        """Learn the number of slots."""
        self._slots = facts.distinct_adapters

    def arrived(self, request: Request, now: float) -> None:
        """Put a request into its adapter's line."""
        super().arrived(request, now)
        if self._drainer is not None and request.adapter is not None:
            self._young.append(request)

    def wakes_at_s(self) -> float | None:
        """Return when the next waiting request may starve."""
        young, wait_s = self._young, self.drain_wait_s or 0.0
        while young and not (young[0] in self._lines.waiting and self._alarm.is_ahead(young[0].arrival_s + wait_s)):
            young.popleft()
        return young[0].arrival_s + wait_s if young else None

    def woken(self, now: float) -> None:
        """Take note that a request may starve."""
        self._alarm.ring(self.wakes_at_s(), now)

    def wakes_at_step(self) -> int | None:
        """Return the step at which the request that ended the last round would be kept out by its draining adapter."""
        return self._wakes_at_step

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lines hold them
        """Offer requests in order of arrival, but for those that must wait for a copy or for a slot to drain."""
        if self._drainer is not None:
            self._drainer.update(batch, self._lines, self._slots, now)
        refused = self._lines.offer(batch, skips=Refusal.ADAPTERS, turn=partial(self._turn, batch))
        self._wakes_at_step = None
        if self._drainer is not None and refused is not None:
            steps = self._drainer.steps_until_out(refused)
            self._wakes_at_step = None if steps is None else batch.step + steps

    def _turn(self, batch: Batch, request: Request) -> Turn:
        if self._drainer is not None and self._drainer.keeps_out(request):
            return Turn.PASS
        adapter = request.adapter
        if not self.resident_only or adapter is None or batch.is_resident(adapter):
            return Turn.OFFER
        self._fetch(batch, adapter)
        return Turn.PASS_LINE

    def _fetch(self, batch: Batch, adapter: Adapter) -> None:
        self._coming = {one for one in self._coming if not batch.is_resident(one)}
        has_slot = len(adapters_in(batch) | self._coming | {adapter}) <= self._slots
        if has_slot and batch.try_fetch(adapter):
            self._coming.add(adapter)


def _left_tokens(batch: Batch) -> dict[Adapter, int]:
    """Return how many tokens the longest request of each adapter in the batch still has to go."""
    left: dict[Adapter, int] = {}
    for request in (*batch.running, *batch.joining):
        if request.adapter is not None:
            tokens = max(0, request.predicted_tokens - request.generated_tokens)
            left[request.adapter] = max(tokens, left.get(request.adapter, 0))
    return left
