"""dLoRA on one replica: when to merge the adapter that most requests want, and whom to take out of the batch for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from policies.arguments import above, at_least
from policies.base import Adapter, Batch, Facts, Refusal, Request, Scheduler
from policies.lines import adapters_of
from policies.merging import Credits, Switching

Group = dict[Request, None]  # by arrival


class DLoRA(Scheduler):
    """First come, first served, unmerged; merged as soon as one adapter's requests could fill the batch alone.

    The batch stays merged while enough requests want that adapter; requests of others are taken out and wait. Who is
    passed over earns credit from those that pass, and enough credit comes before everything.

    Attributes:
        merged_step_s: seconds of a merged iteration, by which modes are compared.
        unmerged_step_s: seconds of an unmerged one; the first threshold for leaving the merged mode is their ratio.
        switch_s: seconds of a change of mode.
    """

    name = "dlora"
    source = "Wu et al., OSDI'24; LLMServe/dLoRA-artifact, vllm/core/scheduler.py"

    def __init__(self, *, merged_step_s: float = 0.015, unmerged_step_s: float = 0.027, switch_s: float = 0.02) -> None:
        self.merged_step_s = above("merged_step_s", merged_step_s, 0)
        self.unmerged_step_s = above("unmerged_step_s", unmerged_step_s, 0)
        self.switch_s = at_least("switch_s", switch_s, 0)
        self._size = 1  # of a batch, in requests
        self._live: Group = {}
        self._groups: dict[Adapter | None, Group] = {}
        self._denied: set[Request] = set()  # did not fit even in the place of another; not tried again before an end
        self._switching = Switching(merged_step_s, unmerged_step_s, switch_s)
        self._credits = Credits(1, 1, merged_step_s / unmerged_step_s)
        self._wakes_at_step: int | None = None

    def start(self, facts: Facts) -> None:
        """Learn the size of a batch and the number of adapters."""
        self._size = facts.running_requests
        ratio = self.merged_step_s / self.unmerged_step_s
        self._credits = Credits(max(1, len(facts.adapters)), self._size, ratio)

    def arrived(self, request: Request, now: float) -> None:  # noqa: ARG002 - arrival is the order, not the clock
        """Queue a request; one that was taken out keeps its place."""
        self._live.setdefault(request)
        self._groups.setdefault(request.adapter, {}).setdefault(request)

    def finished(self, request: Request, now: float) -> None:  # noqa: ARG002 - steps count, not seconds
        """Forget a request."""
        del self._live[request]
        group = self._groups[request.adapter]
        del group[request]
        if not group:
            del self._groups[request.adapter]
        self._switching.finished(request.generated_tokens)
        self._denied.clear()

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - no clock
        """Yield requests as they wait."""
        return iter(waiting)

    def wakes_at_step(self) -> int | None:
        """Return the step at which an adapter's credit passes a threshold."""
        return self._wakes_at_step

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - all are known here
        """Choose the mode, take out who has no place in it, and admit the others by arrival."""
        self._credits.settle(batch.step)
        promoted = self._credits.promoted(self._groups)
        target = None if promoted is not None else self._target(batch)
        was_merged = batch.merged is not None
        if target is not None:
            self._serve_merged(batch, target)
        is_merged = target is not None and bool(batch.running or batch.joining)
        if not is_merged:
            self._serve_unmerged(batch, () if promoted is None else self._groups[promoted.adapter])
        if was_merged is not is_merged:
            self._switching.switched(batch.step, self._live, was_merged=was_merged)
        self._pay(batch, is_merged=is_merged, is_promoted=promoted is not None)

    # --- which mode ---

    def _target(self, batch: Batch) -> Adapter | None:
        """Return the adapter to be merged, None for the unmerged mode."""
        wanted = min(self._size, len(self._live))
        merged = batch.merged
        if merged is not None and len(self._groups.get(merged, ())) >= self._switching.left * wanted:
            return merged
        groups = ((len(group), one) for one, group in self._groups.items() if one is not None)
        solvent = ((size, one) for size, one in groups if self._credits.is_solvent(one))
        size, largest = min(solvent, key=lambda pair: (-pair[0], pair[1].id), default=(0, None))
        if largest is None or size < self._switching.right * wanted or not self._can_merge(batch, largest):
            return None
        return largest

    def _can_merge(self, batch: Batch, adapter: Adapter) -> bool:
        # It must be on the GPU, and somebody must go on running with it: memory may hold no more of its requests.
        if not batch.is_resident(adapter) or any(request.adapter is not adapter for request in batch.joining):
            return False
        running = batch.running
        return not running or adapter in adapters_of(running)

    # --- who is served in it ---

    def _serve_merged(self, batch: Batch, adapter: Adapter) -> None:
        for request in batch.running:
            if request.adapter is not adapter:
                batch.preempt(request)
        batch.merge(adapter)
        here = {*batch.running, *batch.joining}
        for request in self._groups[adapter]:
            if request not in here and not batch.try_add(request):
                return

    def _serve_unmerged(self, batch: Batch, first: Iterable[Request]) -> None:
        batch.merge(None)
        target = self._foremost(first)
        running = batch.running
        here = {*running, *batch.joining}
        victims = sorted((one for one in running if one not in target), key=_arrival)
        for request in target:
            if request not in here and not self._try_serve(batch, request, victims):
                break
        if not (batch.running or batch.joining):
            for request in self._live:  # memory that others hold while they wait must come free somehow
                batch.try_add(request)

    def _try_serve(self, batch: Batch, request: Request, victims: list[Request]) -> bool:
        if batch.try_add(request):
            return True
        is_full = batch.refusal is Refusal.RUNNING and request not in self._denied
        if not (is_full and victims) or len(batch.running) + len(batch.joining) == 1:
            return False
        batch.preempt(victims.pop())
        if batch.try_add(request):
            return True
        self._denied.add(request)
        return False

    def _foremost(self, first: Iterable[Request] = ()) -> Group:
        """Return as many requests as a batch can hold, some first, the others by arrival."""
        found: Group = {}
        for request in chain(first, self._live):
            if len(found) == self._size:
                break
            found[request] = None
        return found

    # --- what it costs whom ---

    def _pay(self, batch: Batch, *, is_merged: bool, is_promoted: bool) -> None:
        pairs: Iterable[tuple[Adapter | None, Adapter | None]] = ()
        if is_merged or is_promoted:
            served, fair = {*batch.running, *batch.joining}, self._foremost()
            ahead = sorted(served - fair.keys(), key=_arrival)
            passed_over = (request for request in fair if request not in served)
            pairs = ((one.adapter, other.adapter) for one, other in zip(ahead, passed_over, strict=False))
        self._credits.pay(pairs, is_merged=is_merged)
        steps = self._credits.steps_to_change()
        self._wakes_at_step = None if steps is None else batch.step + steps


def _arrival(request: Request) -> tuple[float, int]:
    return request.arrival_s, request.id
