"""A second simulator, written from the rules alone: first come first served, an LRU cache, blocking loads.

It shares no code with the product. It walks one decode step at a time, keeps lists, recomputes every sum and has no
closed form, so that whoever doubts it can read it in five minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class PlainCosts(Protocol):
    """Ticks of the three things that take time."""

    def prefill(
        self,
        requests: int,
        tokens: int,
        squared_tokens: int,
        token_rank: int,
        distinct: int,
        distinct_rank: int,
        max_rank: int,
    ) -> int: ...

    def decode(
        self, requests: int, context_tokens: int, sum_rank: int, distinct: int, distinct_rank: int, max_rank: int
    ) -> tuple[int, int, int | None]: ...

    def load(self, size_bytes: int) -> int: ...


class Rules(NamedTuple):
    """The engine's numbers."""

    total_bytes: int
    kv_limit_bytes: int
    kv_token_bytes: int
    admit_every_steps: int
    batch_prompt_tokens: int
    running_requests: int


@dataclass
class Row:
    """One request: what it is, and what became of it."""

    id: int
    arrival: int
    prompt: int
    output: int
    adapter: int | None
    generated: int = 0
    admitted: int | None = None
    ready: int | None = None
    first_token: int | None = None
    finish: int | None = None
    is_hit: bool = False

    @property
    def instants(self) -> tuple[int | None, ...]:
        return (self.admitted, self.ready, self.first_token, self.finish)

    @property
    def kv_tokens(self) -> int:
        return self.prompt + max(0, self.generated - 1)  # the newest token enters the cache with the next step


@dataclass
class Reference:
    """One engine; `serve` runs it to the end."""

    rows: list[Row]
    adapters: Sequence[tuple[int, int]]  # (rank, bytes)
    rules: Rules
    costs: PlainCosts
    now: int = 0
    steps: int = 0  # decode steps since the last admission
    waiting: list[Row] = field(default_factory=list)
    running: list[Row] = field(default_factory=list)
    last_used: dict[int, int] = field(default_factory=dict)  # adapters in memory
    loads: list[tuple[int, int, int]] = field(default_factory=list)  # (start, end, adapter)
    evictions: list[tuple[int, int]] = field(default_factory=list)  # (time, adapter)
    rejected: list[int] = field(default_factory=list)

    def serve(self) -> None:
        coming = list(self.rows)
        while coming or self.waiting or self.running:
            while coming and coming[0].arrival <= self.now:
                self.arrive(coming.pop(0))
            if self.waiting or self.running:
                self.go_on()
            elif coming:
                self.now = coming[0].arrival

    def arrive(self, row: Row) -> None:
        tokens, adapter_bytes = row.prompt + row.output, self.bytes_of({row.adapter})
        if tokens * self.rules.kv_token_bytes < self.kv_bytes_beside(adapter_bytes):
            self.waiting.append(row)
        else:
            self.rejected.append(row.id)

    def go_on(self) -> None:
        fresh = []
        if not self.running or self.steps >= self.rules.admit_every_steps:
            fresh = self.admit()
        if fresh:
            self.steps = 0
            self.prefill(fresh)
        else:
            self.decode()

    # --- admission ---

    def admit(self) -> list[Row]:
        fresh: list[Row] = []
        while self.waiting and self.fits(fresh, self.waiting[0]):
            row = self.waiting.pop(0)
            fresh.append(row)
            row.admitted = self.now
            row.is_hit = row.adapter in self.last_used and self.loaded_by(row.adapter) <= self.now
            self.take_in(row.adapter, [*self.running, *fresh])
        return fresh

    def take_in(self, adapter: int | None, admitted: list[Row]) -> None:
        is_missing = adapter is not None and adapter not in self.last_used
        self.make_room(admitted, self.bytes_of({adapter}) if is_missing else 0)
        if adapter is not None:
            self.last_used[adapter] = self.now
            if is_missing:
                self.load(adapter)

    def fits(self, fresh: list[Row], row: Row) -> bool:
        if sum(other.prompt for other in [*fresh, row]) > self.rules.batch_prompt_tokens:
            return False
        if len(self.running) + len(fresh) + 1 > self.rules.running_requests:
            return False
        together = {other.adapter for other in [*self.running, *fresh, row]}
        return self.peak([*fresh, row]) * self.rules.kv_token_bytes < self.kv_bytes_beside(self.bytes_of(together))

    def peak(self, fresh: list[Row]) -> int:
        pairs = [(row.output - row.generated - 1, row.prompt + row.generated) for row in self.running]
        pairs += [(row.output - 1, row.prompt + 1) for row in fresh]
        pairs.sort(reverse=True)
        return max(left * n + sum(used for _, used in pairs[:n]) for n, (left, _) in enumerate(pairs, 1))

    # --- memory and link ---

    def bytes_of(self, adapters: set[int | None] | set[int]) -> int:
        return sum(self.adapters[adapter][1] for adapter in adapters if adapter is not None)

    def kv_bytes_beside(self, adapter_bytes: int) -> int:
        return min(self.rules.kv_limit_bytes, self.rules.total_bytes - adapter_bytes)

    def make_room(self, rows: list[Row], more_bytes: int, more_tokens: int = 0) -> None:
        while self.held(rows, more_tokens) + more_bytes > self.rules.total_bytes:
            idle = set(self.last_used) - {row.adapter for row in rows}
            wanted = {row.adapter for row in self.waiting}
            victim = min(idle, key=lambda adapter: (adapter in wanted, self.last_used[adapter], adapter))
            del self.last_used[victim]
            self.evictions.append((self.now, victim))

    def held(self, rows: list[Row], more_tokens: int) -> int:
        tokens = sum(row.kv_tokens for row in rows) + more_tokens
        return tokens * self.rules.kv_token_bytes + self.bytes_of(set(self.last_used))

    def load(self, adapter: int) -> None:
        start = max([self.now, *(end for _, end, _ in self.loads)])
        self.loads.append((start, start + self.costs.load(self.adapters[adapter][1]), adapter))

    def loaded_by(self, adapter: int | None) -> int:
        return max((end for _, end, other in self.loads if other == adapter), default=0)

    # --- iterations ---

    def prefill(self, fresh: list[Row]) -> None:
        for row in fresh:
            row.ready = max(self.now, self.loaded_by(row.adapter))
        tokens = [row.prompt for row in fresh]
        self.now = max([self.now, *(row.ready for row in fresh if row.ready is not None)])
        for row in fresh:
            row.ready = self.now  # the engine stands still for all of them together
        self.now += self.costs.prefill(len(fresh), sum(tokens), sum(t * t for t in tokens), *self.ranks(fresh))
        self.running += fresh
        for row in fresh:
            row.first_token = self.now
        self.emit(fresh)

    def decode(self) -> None:
        self.make_room(self.running, 0, len(self.running))
        context = sum(row.kv_tokens + 1 for row in self.running)
        sum_rank = sum(self.adapters[row.adapter][0] for row in self.running if row.adapter is not None)
        self.now += self.costs.decode(len(self.running), context, sum_rank, *self.ranks(self.running)[1:])[0]
        self.steps += 1
        self.emit(list(self.running))

    def emit(self, rows: list[Row]) -> None:
        for row in rows:
            row.generated += 1
            if row.generated == row.output:
                row.finish = self.now
                self.running.remove(row)

    def ranks(self, rows: list[Row]) -> tuple[int, int, int, int]:
        token_rank = sum(row.prompt * self.adapters[row.adapter][0] for row in rows if row.adapter is not None)
        ranks = [self.adapters[adapter][0] for adapter in {row.adapter for row in rows} if adapter is not None]
        return token_rank, len(ranks), sum(ranks), max(ranks, default=0)


def serve(
    requests: Sequence[tuple[int, int, int, int | None]],
    adapters: Sequence[tuple[int, int]],
    rules: Rules,
    costs: PlainCosts,
) -> Reference:
    """Run requests (arrival ticks, prompt, output, adapter), in order of arrival, to their end."""
    engine = Reference([Row(i, *request) for i, request in enumerate(requests)], adapters, rules, costs)
    engine.serve()
    return engine


def hits(engine: Reference) -> Iterator[int]:
    return (row.id for row in engine.rows if row.is_hit and row.adapter is not None)
