"""Schedulers that keep the adapters of a batch few: S-LoRA's clusters, and one merged adapter at a time as PEFT."""

from __future__ import annotations

from collections.abc import Iterable

from policies.arguments import at_least
from policies.base import Adapter, Batch, Request
from policies.lines import LineScheduler, adapters_in


class Cluster(LineScheduler):
    """First come, first served; once enough adapters run, requests of these adapters go first.

    Attributes:
        adapters: distinct adapters in the batch from which on the others stand back.
    """

    name = "cluster"
    source = "S-LoRA/S-LoRA, router/cluster_req_queue.py (batch_num_adapters)"

    def __init__(self, *, adapters: int = 32) -> None:
        super().__init__()
        self.adapters = at_least("adapters", adapters, 1)

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lines hold them
        """Offer requests of adapters in the batch up to the first misfit, then all by arrival up to the first."""
        here: set[Adapter | None] = {*adapters_in(batch)}
        if len(here) >= self.adapters:
            self._lines.offer(batch, (*here, None))
        self._lines.offer(batch)


class PEFT(LineScheduler):
    """One adapter at a time, merged into the weights; its batch runs until it is empty, then the oldest request's."""

    name = "peft"
    source = "S-LoRA/S-LoRA, router/peft_req_queue.py"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lines hold them
        """Start the next batch once the last has ended and its adapter is there."""
        if batch.running or batch.joining:
            return
        adapter = self._lines.oldest().adapter
        if adapter is not batch.merged:
            batch.merge(None)
        if adapter is None or self._is_here(batch, adapter):
            batch.merge(adapter)
            self._lines.offer(batch, (adapter,))

    def _is_here(self, batch: Batch, adapter: Adapter) -> bool:
        if batch.is_resident(adapter):
            return True
        if not batch.try_fetch(adapter):
            for other in self._lines:
                if other is not None:
                    batch.drop(other)
            batch.try_fetch(adapter)
        return False
