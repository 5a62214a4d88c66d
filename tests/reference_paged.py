"""A second simulator of a vLLM-like engine, written from the rules alone: KV in blocks on demand, chunks, adapter slots.

It shares no code with the product. It walks one iteration at a time, keeps lists, recomputes every sum and has no
closed form, so that whoever doubts it can read it in ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol


class PagedCosts(Protocol):
    """Ticks of the four things that take time; ranks are (token rank, distinct, distinct rank, largest rank)."""

    def prefill(self, requests: int, tokens: int, squared_tokens: int, *ranks: int) -> int: ...

    def decode(self, requests: int, context_tokens: int, *ranks: int) -> tuple[int, int, int | None]: ...

    def mixed(
        self, requests: int, context_tokens: int, prompts: int, tokens: int, squared_tokens: int, ranks: Ranks
    ) -> int: ...

    def load(self, size_bytes: int) -> int: ...


class Ranks(NamedTuple):
    """What the LoRA kernels of one iteration see."""

    token_rank: int
    distinct: int
    distinct_rank: int
    max_rank: int


class Rules(NamedTuple):
    """The engine's numbers; an admission round is held at every boundary."""

    total_bytes: int
    kv_limit_bytes: int
    adapter_limit_bytes: int
    kv_token_bytes: int
    block_tokens: int
    watermark_bytes: int
    prefill: Literal["separate", "mixed", "chunked"]
    step_tokens: int
    batch_prompt_tokens: int
    prefills_per_step: int
    running_requests: int
    distinct_adapters: int
    slot_rank: int  # 0: each its own
    blocks_on_load: bool
    skips: bool


@dataclass
class Row:
    """One request: what it is, and what became of it."""

    id: int
    arrival: int
    prompt: int
    output: int
    adapter: int | None
    generated: int = 0
    done: int = 0  # tokens of the prompt that chunks have worked off
    admitted: int | None = None  # the admission that led to the first token
    runs: bool = False  # its prompt is worked off
    preemptions: int = 0
    first_token: int | None = None
    finish: int | None = None

    @property
    def tokens(self) -> int:
        """What a prefill has to work on: a stopped request computes its own tokens again."""
        return self.prompt + self.generated

    @property
    def left(self) -> int:
        return self.tokens - self.done


Chunk = tuple[Row, int]


@dataclass
class Reference:
    """One engine; `serve` runs it to the end."""

    rows: list[Row]
    adapters: Sequence[tuple[int, int]]  # (rank, bytes of the place that it takes)
    load_bytes: Sequence[int]
    rules: Rules
    costs: PagedCosts
    now: int = 0
    waiting: list[Row] = field(default_factory=list)
    admitted: list[Row] = field(default_factory=list)  # oldest admission first
    last_used: dict[int, int] = field(default_factory=dict)  # adapters in memory
    loads: list[tuple[int, int, int]] = field(default_factory=list)  # (start, end, adapter)
    evictions: list[tuple[int, int]] = field(default_factory=list)  # (time, adapter)
    rejected: list[int] = field(default_factory=list)
    coming: list[Row] = field(default_factory=list)

    def serve(self) -> None:
        self.coming = list(self.rows)
        while self.coming or self.waiting or self.admitted:
            while self.coming and self.coming[0].arrival <= self.now:
                self.arrive(self.coming.pop(0))
            if self.waiting or self.admitted:
                self.go_on()
            elif self.coming:
                self.now = self.coming[0].arrival

    def arrive(self, row: Row) -> None:
        fits_an_iteration = self.rules.prefill == "chunked" or row.prompt <= self.rules.batch_prompt_tokens
        if fits_an_iteration and self.fits(self.kv_bytes(row.prompt + row.output) + 1, {row.adapter}):
            self.waiting.append(row)
        else:
            self.rejected.append(row.id)

    def go_on(self) -> None:
        self.admit()
        if self.rules.blocks_on_load:
            self.now = max([self.now, *(self.loaded_by(row.adapter) for row in self.joining)])
        if not self.ready() and not self.running:
            self.now = min(self.next_events())
        elif self.ready() and self.rules.prefill == "separate":
            self.prefill()
        else:
            self.grow()
            self.step()

    def next_events(self) -> list[int]:
        landings = [end for _, end, _ in self.loads if end > self.now]
        return landings + [row.arrival for row in self.coming[:1]]

    # --- admission ---

    @property
    def running(self) -> list[Row]:
        return [row for row in self.admitted if row.runs]

    @property
    def joining(self) -> list[Row]:
        return [row for row in self.admitted if not row.runs]

    def admit(self) -> None:
        fresh: list[Row] = []
        skipped: set[int | None] = set()
        for row in [*self.waiting]:
            refusal = "adapters" if row.adapter in skipped else self.refusal(row, fresh)
            if refusal is None:
                self.take_in(row)
                fresh.append(row)
            elif refusal == "adapters" and self.rules.skips:
                skipped.add(row.adapter)
            else:
                return

    def refusal(self, row: Row, fresh: list[Row]) -> str | None:
        if not self.has_prompt_room(row, fresh):
            return "tokens"
        if len(self.admitted) + 1 > self.rules.running_requests:
            return "running"
        together = {other.adapter for other in [*self.admitted, row]}
        if len(together - {None}) > self.rules.distinct_adapters:
            return "adapters"
        return None if self.has_memory(row, together) else "memory"

    def has_prompt_room(self, row: Row, fresh: list[Row]) -> bool:
        rules = self.rules
        if rules.prefill == "chunked":
            return sum(other.left for other in self.joining) < rules.step_tokens - len(self.running)
        return not fresh or sum(other.tokens for other in [*fresh, row]) <= rules.batch_prompt_tokens

    def has_memory(self, row: Row, together: set[int | None]) -> bool:
        kv = self.kv_bytes_of_all(grows=True) + self.kv_bytes(row.tokens + 1)
        spare = self.rules.watermark_bytes if self.admitted else 0
        return self.fits(kv + spare, together | set(self.in_flight()))

    def take_in(self, row: Row) -> None:
        self.waiting.remove(row)
        self.admitted.append(row)
        row.admitted = self.now if row.first_token is None else row.admitted
        is_missing = row.adapter is not None and row.adapter not in self.last_used
        self.make_room(self.bytes_of({row.adapter}) if is_missing else 0)
        if row.adapter is not None:
            self.last_used[row.adapter] = self.now
            if is_missing:
                self.load(row.adapter)

    # --- memory and link ---

    def kv_bytes(self, tokens: int) -> int:
        blocks = -(-tokens // self.rules.block_tokens)
        return blocks * self.rules.block_tokens * self.rules.kv_token_bytes

    def held_tokens(self, row: Row) -> int:
        return row.tokens - row.runs  # the newest token enters the cache with the next step

    def bytes_of(self, adapters: Iterable[int | None]) -> int:
        return sum(self.adapters[adapter][1] for adapter in set(adapters) if adapter is not None)

    def fits(self, kv_bytes: int, adapters: Iterable[int | None], more_adapter_bytes: int = 0) -> bool:
        rules, adapter_bytes = self.rules, self.bytes_of(adapters) + more_adapter_bytes
        if kv_bytes > rules.kv_limit_bytes or adapter_bytes > rules.adapter_limit_bytes:
            return False
        return kv_bytes + adapter_bytes <= rules.total_bytes

    def make_room(self, adapter_bytes: int = 0, *, grows: bool = False) -> None:
        """Make room for an adapter or for a token for all that run; whom no eviction would help stops, latest first."""
        while not self.fits(kv := self.kv_bytes_of_all(grows=grows), self.last_used, adapter_bytes):
            idle = set(self.last_used) - {row.adapter for row in self.admitted} - set(self.in_flight())
            if self.fits(kv, set(self.last_used) - idle, adapter_bytes):
                self.evict(idle)
            else:
                self.stop(self.admitted[-1])

    def kv_bytes_of_all(self, *, grows: bool) -> int:
        return sum(self.kv_bytes(self.held_tokens(row) + (grows and row.runs)) for row in self.admitted)

    def evict(self, idle: set[int]) -> None:
        wanted = {row.adapter for row in self.waiting}
        victim = min(idle, key=lambda adapter: (adapter in wanted, self.last_used[adapter], adapter))
        del self.last_used[victim]
        self.evictions.append((self.now, victim))

    def stop(self, row: Row) -> None:
        self.admitted.remove(row)
        row.runs, row.done = False, 0
        row.preemptions += 1
        self.waiting.insert(0, row)

    def load(self, adapter: int) -> None:
        start = max([self.now, *(end for _, end, _ in self.loads)])
        self.loads.append((start, start + self.costs.load(self.load_bytes[adapter]), adapter))

    def loaded_by(self, adapter: int | None) -> int:
        return max((end for _, end, other in self.loads if other == adapter), default=0)

    def in_flight(self) -> list[int]:
        return [adapter for _, end, adapter in self.loads if end > self.now]

    def ready(self) -> list[Row]:
        return [row for row in self.joining if self.loaded_by(row.adapter) <= self.now]

    # --- iterations ---

    def grow(self) -> None:
        self.make_room(grows=True)

    def prefill(self) -> None:
        chunks = self.chunks()
        squares = sum(tokens * tokens for _, tokens in chunks)
        total = sum(tokens for _, tokens in chunks)
        self.now += self.costs.prefill(len(chunks), total, squares, *self.ranks(chunks))
        self.work_off(chunks)

    def step(self) -> None:
        decoding = self.running
        chunks = [] if self.rules.prefill == "separate" else self.chunks()
        context = sum(self.held_tokens(row) + 1 for row in decoding)
        ranks = self.ranks([*((row, 1) for row in decoding), *chunks])
        if chunks:
            squares = sum(tokens * (2 * row.done + tokens) for row, tokens in chunks)
            total = sum(tokens for _, tokens in chunks)
            self.now += self.costs.mixed(len(decoding), context, len(chunks), total, squares, ranks)
        else:
            self.now += self.costs.decode(len(decoding), context, *ranks)[0]
        for row in decoding:
            self.emit(row)
        self.work_off(chunks)

    def chunks(self) -> list[Chunk]:
        rules = self.rules
        if rules.prefill == "chunked":
            budget = max(1, rules.step_tokens - len(self.running))
        else:
            budget = max(rules.batch_prompt_tokens, *(row.left for row in self.ready()[:1]), 0)
        chunks: list[Chunk] = []
        for row in self.ready():
            if rules.prefill != "separate" and len(chunks) == rules.prefills_per_step:
                break
            tokens = min(row.left, budget)
            if not tokens or (rules.prefill != "chunked" and tokens < row.left):
                break
            chunks.append((row, tokens))
            budget -= tokens
        return chunks

    def work_off(self, chunks: list[Chunk]) -> None:
        for row, tokens in chunks:
            row.done += tokens
            if not row.left:
                row.runs = True
                self.emit(row)

    def emit(self, row: Row) -> None:
        row.generated += 1
        if row.first_token is None:
            row.first_token = self.now
        if row.generated == row.output:
            row.finish = self.now
            self.admitted.remove(row)

    def ranks(self, chunks: list[Chunk]) -> Ranks:
        rank_of = {row.adapter: self.adapters[row.adapter][0] for row, _ in chunks if row.adapter is not None}
        token_rank = sum(tokens * rank_of.get(row.adapter, 0) for row, tokens in chunks)
        largest = max(rank_of.values(), default=0)
        if rank_of and self.rules.slot_rank:
            largest = self.rules.slot_rank
        return Ranks(token_rank, len(rank_of), sum(rank_of.values()), largest)
