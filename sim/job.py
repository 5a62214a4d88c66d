"""The core's own view of requests and adapters; policies see only `Request` and `Adapter`."""

from __future__ import annotations

from policies.base import Adapter, Request
from sim.records import NEVER


class AdapterSlot:
    """An adapter's place in GPU memory, whether it is there or not.

    `held`: its bytes are taken. `ready`: its transfer is complete. `users`: admitted requests. `queued`: waiting ones.
    `decoding`: requests in the decode batch. `prefetched`: brought in ahead of need and not used since.
    """

    __slots__ = (
        "adapter",
        "decoding",
        "held",
        "index",
        "last_used",
        "prefetched",
        "queued",
        "rank",
        "ready",
        "size",
        "users",
        "waiters",
    )

    def __init__(self, adapter: Adapter, index: int) -> None:
        self.adapter = adapter
        self.index = index  # row of the trace's palette
        self.rank = adapter.rank
        self.size = adapter.size_bytes
        self.held = False
        self.ready = False
        self.users = 0
        self.decoding = 0
        self.queued = 0
        self.last_used = 0
        self.prefetched = False
        self.waiters: list[Job] = []  # admitted requests that wait for the transfer

    @property
    def idle(self) -> bool:
        """Whether it could be evicted now."""
        return self.ready and not self.users


class Job:
    """One request in the engine, with the truth that policies do not see."""

    __slots__ = (
        "admitted",
        "arrival",
        "batch_sum",
        "finish_step",
        "first_segment",
        "first_token",
        "is_admitted",
        "is_set_aside",
        "last_segment",
        "link_wait",
        "load",
        "load_bytes",
        "loads_for_itself",
        "output_tokens",
        "peak_base",
        "peak_end",
        "preempted",
        "preemptions",
        "prefill_start",
        "prompt_tokens",
        "rank",
        "ready",
        "request",
        "reserved_tokens",
        "slot",
        "source",
        "start_batch_sum",
        "start_step",
        "steps",
    )

    def __init__(
        self, request: Request, arrival: int, output_tokens: int, reserved_tokens: int, slot: AdapterSlot | None
    ) -> None:
        self.request = request
        self.arrival = arrival
        self.prompt_tokens = request.prompt_tokens
        self.output_tokens = output_tokens
        self.reserved_tokens = reserved_tokens  # output tokens that admission must plan for
        self.slot = slot
        self.rank = slot.rank if slot else 0
        self.is_admitted = self.is_set_aside = False
        self.admitted = self.ready = self.prefill_start = self.first_token = NEVER
        self.first_segment = self.last_segment = NEVER
        self.preempted = self.preemptions = self.source = 0
        self.load = self.load_bytes = self.link_wait = 0
        self.loads_for_itself = False
        self.steps = self.batch_sum = self.start_step = self.start_batch_sum = self.finish_step = 0
        # The future-peak test's pair (left, used) at decode step s is (peak_end - s, peak_base + s): see sim/peak.py.
        self.peak_end = self.peak_base = 0
