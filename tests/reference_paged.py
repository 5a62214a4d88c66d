"""A second simulator of a vLLM-like engine, written from the rules alone: KV in blocks on demand, chunks, slots, swap.

It shares no code with the product. It walks one iteration at a time, keeps lists, recomputes every sum and has no
closed form, so that whoever doubts it can read it in ten minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from tests.reference_blocks import Blocks

Sums = tuple[int, int, int, int]  # token rank, distinct adapters, the sum of their ranks, the largest


class Rules(NamedTuple):
    """The engine's numbers; an admission round is held at every boundary."""

    total_bytes: int
    kv_limit_bytes: int
    adapter_limit_bytes: int
    kv_token_bytes: int
    block_tokens: int
    watermark_bytes: int
    swap_bytes: int  # of KV on the host; 0: a stopped request computes its own again
    prefill: Literal["separate", "mixed", "chunked"]
    step_tokens: int
    batch_prompt_tokens: int
    prefills_per_step: int
    running_requests: int
    distinct_adapters: int
    slot_rank: int  # that all adapters are computed at; 0: each its own
    blocks_on_load: bool
    skips: bool
    reuses_blocks: bool
    base_bytes: int | None  # of the slot that requests without an adapter take together; None: they need no slot
    stops_least: bool  # who has the fewest tokens stops first, and not the last admitted


@dataclass
class Row:
    """One request: what it is, and what became of it."""

    id: int
    arrival: int
    prompt: int
    output: int
    adapter: int | None
    generated: int = 0
    done: int = 0  # tokens of its prefill that chunks have worked off
    runs: bool = False  # it decodes
    is_saved: bool = False  # its KV outlived its stop
    lands: int | None = None  # when that is back from the host
    admitted: int | None = None  # the admission that led to the first token
    preemptions: int = 0
    first_token: int | None = None
    finish: int | None = None

    @property
    def left(self) -> int:
        """Tokens to prefill: a stopped request computes its own again."""
        return 0 if self.is_saved else self.prompt + self.generated - self.done

    @property
    def held(self) -> int:
        """Tokens in memory; the newest enters with the next step."""
        return self.prompt + self.generated - (self.runs or self.is_saved)


Chunk = tuple[Row, int]  # so many tokens of a request's prefill


@dataclass
class Reference:
    """One engine; `serve` runs it to the end."""

    rows: list[Row]
    adapters: Sequence[tuple[int, int]]  # (rank, bytes of the place that it takes)
    load_bytes: Sequence[int]
    rules: Rules
    costs: Any  # ticks of prefill, decode, mixed, load and swap
    now: int = 0
    swapping: int = 0  # ticks that the next step waits for KV on its way out
    waiting: list[Row] = field(default_factory=list)
    admitted: list[Row] = field(default_factory=list)  # oldest admission first
    last_used: dict[int, int] = field(default_factory=dict)  # adapters in memory
    loads: list[tuple[int, int, int]] = field(default_factory=list)  # (start, end, adapter)
    returns: list[tuple[int, int, int]] = field(default_factory=list)  # (start, end, request)
    evictions: list[tuple[int, int]] = field(default_factory=list)  # (time, adapter)
    rejected: list[int] = field(default_factory=list)
    coming: list[Row] = field(default_factory=list)
    blocks: Blocks = field(default_factory=Blocks)

    def serve(self) -> None:
        self.blocks.free += range(self.rules.kv_limit_bytes // self.kv_bytes(1))
        self.coming = list(self.rows)
        while self.coming or self.waiting or self.admitted:
            while self.coming and self.coming[0].arrival <= self.now:
                self.arrive(self.coming.pop(0))
            if self.coming or self.waiting or self.admitted:
                self.go_on()

    def arrive(self, row: Row) -> None:
        fits_one_step = self.rules.prefill == "chunked" or row.prompt <= self.rules.batch_prompt_tokens
        if fits_one_step and self.fits(self.kv_bytes(row.prompt + row.output) + 1, {row.adapter}):
            self.waiting.append(row)
        else:
            self.rejected.append(row.id)

    def go_on(self) -> None:
        if not self.has_stopped_some():
            self.admit()
        if self.rules.blocks_on_load:
            self.now = max([self.now, *(self.ready_at(row) for row in self.joining)])
        for row in self.ready():
            if row.is_saved:
                row.runs, row.is_saved, row.lands = True, False, None
        if not self.ready() and not self.running:
            self.now = min(self.next_events())
        elif self.ready() and self.rules.prefill == "separate":
            self.step([])
        else:
            self.has_stopped_some()  # those that are back from the host want to grow too
            self.make_room(grows=True)
            self.step(self.running)

    def next_events(self) -> list[int]:
        landings = [end for _, end, _ in [*self.loads, *self.returns] if end > self.now]
        return landings + [row.arrival for row in self.coming[:1]]

    @property
    def running(self) -> list[Row]:
        return [row for row in self.admitted if row.runs]

    @property
    def joining(self) -> list[Row]:
        return [row for row in self.admitted if not row.runs]

    # --- admission ---

    def admit(self) -> None:
        fresh: list[Row] = []
        skipped: set[int | None] = set()
        for row in [*self.waiting]:
            row.done = self.blocks.found(row.id) * self.rules.block_tokens
            refusal = "adapters" if row.adapter in skipped else self.refusal(row, fresh)
            if refusal is None:
                fresh.append(row)
                self.take_in(row)
            elif refusal == "adapters" and self.rules.skips:
                skipped.add(row.adapter)
            else:
                return

    def refusal(self, row: Row, fresh: list[Row]) -> str | None:
        has_prompt_room = not row.left or self.has_prompt_room(row, fresh)
        if self.rules.prefill == "chunked" and not has_prompt_room:
            return "tokens"
        if len(self.admitted) + 1 > self.rules.running_requests:
            return "running"
        together = {other.adapter for other in [*self.admitted, row]}
        if len(together - ({None} if self.rules.base_bytes is None else set())) > self.rules.distinct_adapters:
            return "adapters"
        if not has_prompt_room:
            return "tokens"
        kv = sum(self.kv_bytes(other.held + 1) for other in [*self.admitted, row])
        spare = self.rules.watermark_bytes if self.admitted else 0
        return None if self.fits(kv + spare, together | set(self.in_flight())) else "memory"

    def has_prompt_room(self, row: Row, fresh: list[Row]) -> bool:
        rules = self.rules
        if rules.prefill == "chunked":
            return sum(other.left for other in self.joining) < rules.step_tokens - len(self.running)
        tokens = sum(other.left for other in fresh)
        return not tokens or tokens + row.left <= rules.batch_prompt_tokens

    def take_in(self, row: Row) -> None:
        self.waiting.remove(row)
        self.admitted.append(row)
        row.admitted = self.now if row.first_token is None else row.admitted
        is_missing = row.adapter is not None and row.adapter not in self.last_used
        self.make_room(self.bytes_of({row.adapter}) if is_missing else 0)
        if row.is_saved:
            self.returns.append((*self.send(self.costs.swap(self.kv_bytes(row.held))), row.id))
            row.lands = self.returns[-1][1]
        self.blocks.admit(row.id, self.blocks_of(row.held))
        if row.adapter is not None:
            self.last_used[row.adapter] = self.now
            if is_missing:
                self.loads.append((*self.send(self.costs.load(self.load_bytes[row.adapter])), row.adapter))

    # --- memory and link ---

    def blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.rules.block_tokens)

    def kv_bytes(self, tokens: int) -> int:
        return self.blocks_of(tokens) * self.rules.block_tokens * self.rules.kv_token_bytes

    def kv_bytes_of_all(self, *, grows: bool) -> int:
        return sum(self.kv_bytes(row.held + (grows and row.runs)) for row in self.admitted)

    def bytes_of(self, adapters: Iterable[int | None]) -> int:
        base_bytes = self.rules.base_bytes or 0
        return sum(base_bytes if adapter is None else self.adapters[adapter][1] for adapter in set(adapters))

    def fits(self, kv_bytes: int, adapters: Iterable[int | None], more_adapter_bytes: int = 0) -> bool:
        rules, adapter_bytes = self.rules, self.bytes_of(adapters) + more_adapter_bytes
        if kv_bytes > rules.kv_limit_bytes or adapter_bytes > rules.adapter_limit_bytes:
            return False
        return kv_bytes + adapter_bytes <= rules.total_bytes

    @property
    def placed(self) -> set[int | None]:
        """Adapters in memory, and the base model if somebody uses it."""
        return {*self.last_used, *(row.adapter for row in self.admitted if row.adapter is None)}

    @property
    def idle(self) -> set[int]:
        return set(self.last_used) - {row.adapter for row in self.admitted} - set(self.in_flight())

    def has_stopped_some(self) -> bool:
        """Stop requests until evicting all idle adapters would give all that run their next token."""
        before = len(self.waiting)
        while not self.fits(self.kv_bytes_of_all(grows=True), self.placed - self.idle):
            latest_first = [row for row in reversed(self.admitted) if (row.lands or 0) <= self.now]
            least = min(latest_first, key=lambda row: (row.generated, -row.prompt))
            self.stop(least if self.rules.stops_least else latest_first[0])
        return len(self.waiting) > before

    def make_room(self, adapter_bytes: int = 0, *, grows: bool = False) -> None:
        while not self.fits(self.kv_bytes_of_all(grows=grows), self.placed, adapter_bytes):
            self.evict(self.idle)

    def evict(self, idle: set[int]) -> None:
        wanted = {row.adapter for row in self.waiting}
        victim = min(idle, key=lambda adapter: (adapter in wanted, self.last_used[adapter], adapter))
        del self.last_used[victim]
        self.evictions.append((self.now, victim))

    def stop(self, row: Row) -> None:
        on_host = [other for other in self.rows if other.is_saved and (other.lands is None or other.lands > self.now)]
        size, taken = self.kv_bytes(row.held), sum(self.kv_bytes(other.held) for other in on_host)
        has_kv = row.runs or (row.is_saved and row.lands is not None)
        computed = row.held if has_kv else row.done
        row.is_saved = has_kv and taken + size <= self.rules.swap_bytes
        finds_some = self.rules.reuses_blocks and not row.is_saved
        self.blocks.give_back(row.id, computed // self.rules.block_tokens if finds_some else 0)
        self.swapping += self.costs.swap(size) if row.is_saved else 0
        row.runs, row.done, row.lands = False, 0, None
        row.preemptions += 1
        self.admitted.remove(row)
        self.waiting.insert(0, row)

    def send(self, ticks: int) -> tuple[int, int]:
        """Return start and end of a transfer over the link, which takes one after the other."""
        start = max([self.now, *(end for _, end, _ in [*self.loads, *self.returns])])
        return start, start + ticks

    def in_flight(self) -> list[int]:
        return [adapter for _, end, adapter in self.loads if end > self.now]

    def ready_at(self, row: Row) -> int:
        return max([row.lands or 0, *(end for _, end, adapter in self.loads if adapter == row.adapter)])

    def ready(self) -> list[Row]:
        return [row for row in self.joining if self.ready_at(row) <= self.now]

    # --- iterations ---

    def step(self, decoding: list[Row]) -> None:
        chunks = self.chunks() if self.rules.prefill != "separate" or not decoding else []
        for row in decoding:
            self.blocks.grow(row.id, self.blocks_of(row.held + 1))
        context = sum(row.held + 1 for row in decoding)
        sizes, ranks = self.sizes(chunks), self.ranks([*((row, 1) for row in decoding), *chunks])
        if not chunks:
            self.pass_time(self.costs.decode(len(decoding), context, *ranks)[0])
        elif self.rules.prefill == "separate":
            self.pass_time(self.costs.prefill(*sizes, *ranks))
        else:
            self.pass_time(self.costs.mixed(len(decoding), context, *sizes, ranks))
        for row in decoding:
            self.emit(row)
        self.work_off(chunks)

    def sizes(self, chunks: list[Chunk]) -> tuple[int, int, int]:
        squares = sum(tokens * (2 * row.done + tokens) for row, tokens in chunks)
        return len(chunks), sum(tokens for _, tokens in chunks), squares

    def pass_time(self, ticks: int) -> None:
        self.now += ticks + self.swapping
        self.swapping = 0

    def chunks(self) -> list[Chunk]:
        rules, limit = self.rules, self.rules.batch_prompt_tokens
        if rules.prefill != "chunked":
            rows = self.ready() if rules.prefill == "separate" else self.ready()[: rules.prefills_per_step]
            sums = accumulate(row.left for row in rows)
            return [(row, row.left) for row, total in zip(rows, sums, strict=True) if row is rows[0] or total <= limit]
        chunks, budget = list[Chunk](), max(1, rules.step_tokens - len(self.running))
        for row in self.ready()[: rules.prefills_per_step]:
            tokens = min(row.left, budget)
            budget -= tokens
            chunks += [(row, tokens)] if tokens else []
        return chunks

    def work_off(self, chunks: list[Chunk]) -> None:
        for row, tokens in chunks:
            row.done += tokens
            if not row.left:
                row.runs = True
                self.emit(row)

    def emit(self, row: Row) -> None:
        row.generated += 1
        row.first_token = self.now if row.first_token is None else row.first_token
        if row.generated == row.output:
            row.finish = self.now
            self.admitted.remove(row)
            self.blocks.give_back(row.id)

    def ranks(self, chunks: list[Chunk]) -> Sums:
        users = [(row.adapter, tokens) for row, tokens in chunks if row.adapter is not None]
        token_rank = sum(tokens * self.adapters[adapter][0] for adapter, tokens in users)
        ranks = [self.adapters[adapter][0] for adapter in {adapter for adapter, _ in users}]
        largest = self.rules.slot_rank or max(ranks, default=0)
        return token_rank, len(ranks), sum(ranks), largest if ranks else 0
