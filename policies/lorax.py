"""LoRAX: adapters take turns in GPU memory, each with a queue of its own."""

from __future__ import annotations

from collections.abc import Iterable

from policies.alarm import Alarm
from policies.arguments import above, at_least
from policies.base import Adapter, Batch, Facts, Request
from policies.lines import LineScheduler, adapters_in


class LoRAX(LineScheduler):
    """Adapters are pending or active; active ones are loaded in the background, and the oldest ready request goes next.

    The source looks at one adapter's turn per round; here all turns that are over end in one round.

    Attributes:
        max_active: most active adapters.
        memory_share: part of the memory for KV and adapters that active adapters may take.
        cycle_s: seconds after which an adapter's turn is over, if another is pending.
        waiting_ratio: requests join a batch once so many wait, as a part of those that run, ...
        waiting_steps: ... or this many decode steps after the last that joined.
    """

    name = "lorax"
    source = "predibase/lorax, router/src/{queue,scheduler,main}.rs"

    def __init__(
        self,
        *,
        max_active: int = 128,
        memory_share: float = 0.1,
        cycle_s: float = 2.0,
        waiting_ratio: float = 0.3,
        waiting_steps: int = 20,
    ) -> None:
        super().__init__()
        self.max_active = at_least("max_active", max_active, 1)
        self.memory_share = above("memory_share", memory_share, 0)
        self.cycle_s = above("cycle_s", cycle_s, 0)
        self.waiting_ratio = at_least("waiting_ratio", waiting_ratio, 0)
        self.waiting_steps = at_least("waiting_steps", waiting_steps, 1)
        self.pending: dict[Adapter, None] = {}  # first in, first out
        self.active: dict[Adapter, float | None] = {}  # since when it is there, in seconds; the first chosen first
        self._budget_bytes = 0.0
        self._alarm = Alarm()
        self._joined_at_step = 0
        self._wakes_at_step: int | None = None

    def start(self, facts: Facts) -> None:
        """Set the adapters' budget."""
        self._budget_bytes = self.memory_share * facts.memory_tokens * facts.kv_token_bytes

    def arrived(self, request: Request, now: float) -> None:
        """Queue a request; an adapter that is not active becomes pending."""
        super().arrived(request, now)
        if request.adapter is not None and request.adapter not in self.active:
            self.pending.setdefault(request.adapter)

    def wakes_at_s(self) -> float | None:
        """Return when the next active adapter's turn is over."""
        ends_s = (since_s + self.cycle_s for since_s in self.active.values() if since_s is not None)
        return min((end_s for end_s in ends_s if self._alarm.is_ahead(end_s)), default=None)

    def woken(self, now: float) -> None:
        """Take note that a turn is over."""
        self._alarm.ring(self.wakes_at_s(), now)

    def wakes_at_step(self) -> int | None:
        """Return the step from which on a few waiting requests are enough to join the batch."""
        return self._wakes_at_step

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lines hold them
        """Let adapters take turns, then requests join if it is worth it."""
        self._take_turns(batch, now)
        running, patience = len(batch.running), self._joined_at_step + self.waiting_steps
        is_worth_it = len(self._lines) >= self.waiting_ratio * running or batch.step >= patience or not running
        self._wakes_at_step = None if is_worth_it else patience
        if is_worth_it:
            self._join(batch, now)

    # --- whose turn it is to be in memory ---

    def _take_turns(self, batch: Batch, now: float) -> None:
        used = adapters_in(batch)
        for adapter, since_s in self.active.items():
            if batch.is_resident(adapter):
                self.active[adapter] = now if since_s is None else since_s
            elif adapter in self._lines:
                batch.try_fetch(adapter)
        self._load(batch, now)
        while self.pending and self._make_place(batch, used, now):
            self._load(batch, now)

    def _load(self, batch: Batch, now: float) -> None:
        for adapter in list(self.pending):
            if not (self._has_place(adapter) and batch.try_fetch(adapter)):
                return
            del self.pending[adapter]
            self.active[adapter] = now if batch.is_resident(adapter) else None

    def _has_place(self, adapter: Adapter) -> bool:
        # One adapter is active in any case: one beyond the budget would never have its turn otherwise.
        taken_bytes = sum(one.size_bytes for one in self.active)
        fits = len(self.active) < self.max_active and taken_bytes + adapter.size_bytes <= self._budget_bytes
        return fits or not self.active

    def _make_place(self, batch: Batch, used: set[Adapter], now: float) -> bool:
        """Offload an adapter that nobody wants, else the longest active one if its turn is over; True if one went."""
        idle = next((one for one in self.active if one not in used and one not in self._lines), None)
        if idle is not None:
            self._offload(batch, idle)
            return True
        longest = next(iter(self.active), None)
        if longest is None or longest in used or self._is_in_turn(longest, now):
            return False
        self._offload(batch, longest)
        self.pending[longest] = None
        return True

    def _offload(self, batch: Batch, adapter: Adapter) -> None:
        del self.active[adapter]
        batch.drop(adapter)

    def _is_in_turn(self, adapter: Adapter | None, now: float) -> bool:
        since_s = None if adapter is None else self.active[adapter]
        return since_s is None or not self._alarm.has_come(since_s + self.cycle_s, now)

    # --- whose turn it is to run ---

    def _join(self, batch: Batch, now: float) -> None:
        ready = [one for one in self._lines if one is None or (one in self.active and batch.is_resident(one))]
        in_turn = [one for one in ready if self._is_in_turn(one, now)]
        while ready:
            adapter = min(in_turn or ready, key=self._lines.ticket)
            if not self._try_join(batch, self._lines.head(adapter)):
                return
            if adapter not in self._lines:
                ready.remove(adapter)
                in_turn = [one for one in in_turn if one is not adapter]
        self._rescue(batch)

    def _try_join(self, batch: Batch, request: Request) -> bool:
        if not batch.try_add(request):
            return False
        self._lines.admitted(request.adapter)
        self._joined_at_step = batch.step
        return True

    def _rescue(self, batch: Batch) -> None:
        # Memory may be full of adapters that wait for their turn; an engine with nothing to do lets the oldest evict.
        if not self._lines or batch.running or batch.joining:
            return
        if not any(one in self._lines and batch.try_fetch(one) for one in self.active):
            self._try_join(batch, self._lines.oldest())
