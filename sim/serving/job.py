"""The core's own view of requests and adapters; policies see only `Request` and `Adapter`."""

from __future__ import annotations

from typing import Literal

from policies.base import Adapter, Request
from sim.serving.records import NEVER
from sim.serving.ticks import to_seconds

KvPlace = Literal["none", "gpu", "host"]


class AdapterSlot:
    """An adapter's place in GPU memory, whether it is there or not.

    `held`: its bytes are taken. `ready`: its transfer is complete. `users`: admitted requests. `queued`: waiting ones.
    `decoding`: requests in the decode batch. `prefetched`: brought in ahead of need and not used since. `fetched`: the
    scheduler sent for it, because a request waits for it, and nobody has used it since. `was_read`: its latest load
    began on the disk.
    """

    __slots__ = (
        "adapter",
        "decoding",
        "fetched",
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
        "was_read",
    )

    def __init__(self, adapter: Adapter, index: int, footprint_bytes: int | None = None) -> None:
        self.adapter = adapter
        self.index = index  # row of the trace's palette
        self.rank = adapter.rank
        self.size = adapter.size_bytes if footprint_bytes is None else footprint_bytes  # on the GPU
        self.held = False
        self.ready = False
        self.users = 0
        self.decoding = 0
        self.queued = 0
        self.last_used = 0
        self.prefetched = False
        self.fetched = False
        self.was_read = False
        self.waiters: list[Job] = []  # admitted requests that wait for the transfer

    @property
    def idle(self) -> bool:
        """Whether it could be evicted now."""
        return self.ready and not self.users


class Job:
    """One request in the engine, with the truth that policies do not see.

    What most requests never change is a class default, which makes a request cheaper to create.
    """

    is_admitted = False
    kv: KvPlace = "none"  # where the keys and values of a request that waits again are
    kv_lands = False  # they are on their way back to the GPU
    generated = 0  # tokens emitted up to its latest start
    prefilled = 0  # tokens of its prefill that are done, where it is worked off in chunks
    last_token = NEVER  # when it got its latest token, if it waits again
    is_set_aside = False  # admission has planned for it, but its prefill waits for its adapter
    admitted = NEVER
    ready = NEVER
    prefill_start = NEVER
    first_token = NEVER
    first_segment = NEVER
    last_segment = NEVER
    preempted = 0
    preemptions = 0
    source = 0
    load = 0
    load_bytes = 0
    link_wait = 0
    loads_for_itself = False
    steps = 0
    batch_sum = 0
    start_step = 0
    start_batch_sum = 0
    finish_step = 0
    # The future-peak test's pair (left, used) at decode step s is (peak_end - s, peak_base + s): see `peak`.
    peak_end = 0
    peak_base = 0

    def __init__(
        self, request: Request, arrival: int, output_tokens: int, reserved_tokens: int, slot: AdapterSlot | None
    ) -> None:
        self.request = request
        self.arrival = arrival
        self.prompt_tokens = request.prompt_tokens
        self.output_tokens = output_tokens
        self.reserved_tokens = reserved_tokens  # output tokens that admission must plan for
        self.slot = slot
        self.base_tokens = request.prompt_tokens  # KV tokens with which it joins the decode batch
        self.left_tokens = reserved_tokens  # those of the reserved that are still to come then

    def is_sent(self, tick: int) -> None:
        """Take note that its client held it back until now."""
        self.arrival = tick
        self.request.arrival_s = to_seconds(tick)

    @property
    def needs_prefill(self) -> bool:
        """Whether its keys and values must be computed before it can decode."""
        return self.kv == "none"

    def restart(self, *, base_tokens: int, generated: int, kv: KvPlace) -> None:
        """Take note of where the request goes on the next time."""
        self.base_tokens, self.generated, self.kv = base_tokens, generated, kv
        self.left_tokens = max(self.reserved_tokens - generated, 1)
        self.prefilled = 0
        self.is_admitted = False
