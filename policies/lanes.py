"""Lanes with token quotas: who is admitted, who may pass, who must give way. Where lanes end is a subclass's matter."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Literal, get_args

from policies.arguments import at_least, one_of
from policies.base import Batch, Facts, Refusal, Request, Scheduler
from policies.tokens import Ledger, SharedLedger

Size = Literal["wrs", "output"]
Maxima = Literal["trace", "running"]
ChargeAdapter = Literal["per_request", "once"]
Lending = Literal["pool", "net"]
Total = Literal["memory", "kv"]
MEMORY = (Refusal.KV, Refusal.ADAPTER)


class Sizer:
    """The weighted request size of Chameleon, or the predicted output alone; 1 is a largest request."""

    __slots__ = ("a", "adapter_bytes", "b", "base_share", "maxima", "output_tokens", "prompt_tokens", "size")

    def __init__(self, *, a: float, b: float, size: Size, maxima: Maxima, base_share: float) -> None:
        self.a = a
        self.b = b
        self.size = size
        self.maxima = maxima
        self.base_share = base_share
        self.prompt_tokens = self.output_tokens = self.adapter_bytes = 1

    def start(self, facts: Facts) -> None:
        """Take the maxima of the workload, unless they are to be learned from what arrives."""
        if self.maxima == "trace":
            self.prompt_tokens = max(1, facts.max_prompt_tokens)
            self.output_tokens = max(1, facts.max_output_tokens)
            self.adapter_bytes = max(1, facts.max_adapter_bytes)

    def weight(self, request: Request) -> float:
        """Return (A In/MaxIn + B Out/MaxOut) Adapter/MaxAdapter, or Out/MaxOut."""
        if self.maxima == "running":
            self._learn(request)
        output = request.predicted_tokens / self.output_tokens
        if self.size == "output":
            return output
        adapter = request.adapter
        share = self.base_share if adapter is None else adapter.size_bytes / self.adapter_bytes
        return (self.a * request.prompt_tokens / self.prompt_tokens + self.b * output) * share

    def _learn(self, request: Request) -> None:
        self.prompt_tokens = max(self.prompt_tokens, request.prompt_tokens)
        self.output_tokens = max(self.output_tokens, request.predicted_tokens)
        if request.adapter is not None:
            self.adapter_bytes = max(self.adapter_bytes, request.adapter.size_bytes)


class LaneScheduler(Scheduler):
    """Algorithm 1 of Chameleon over lanes that a subclass cuts; itself it knows one lane with the whole quota."""

    def __init__(  # noqa: PLR0913 - one keyword for each rule that the paper leaves open
        self,
        *,
        lanes: int,
        a: float,
        b: float,
        size: Size,
        maxima: Maxima,
        base_share: float,
        charge_adapter: ChargeAdapter,
        lending: Lending,
        bypass: bool,
        bypass_lookahead: int | None,
        squash: bool,
        total: Total,
    ) -> None:
        self.a = at_least("a", a, 0)
        self.b = at_least("b", b, 0)
        self.size = one_of("size", size, get_args(Size))
        self.maxima = one_of("maxima", maxima, get_args(Maxima))
        self.base_share = at_least("base_share", base_share, 0)
        self.charge_adapter = one_of("charge_adapter", charge_adapter, get_args(ChargeAdapter))
        self.lending = one_of("lending", lending, get_args(Lending))
        self.bypass = bypass
        self.bypass_lookahead = None if bypass_lookahead is None else at_least("bypass_lookahead", bypass_lookahead, 1)
        self.squash = squash
        self.total = one_of("total", total, get_args(Total))
        self._sizer = Sizer(a=a, b=b, size=size, maxima=maxima, base_share=base_share)
        self._queues: list[deque[Request]] = [deque() for _ in range(at_least("lanes", lanes, 1))]
        self._ledger = SharedLedger(lanes) if charge_adapter == "once" else Ledger(lanes)
        self._cuts: list[float] = []
        self._quotas = [0] * lanes
        self._total_tokens = 0
        self._overtaken: dict[Request, Request] = {}  # a lane's head and the one request that has passed it
        self._overtaker: dict[Request, Request] = {}  # the same, the other way round
        self._squashed: dict[Request, Request] = {}  # squashed, not yet back, and whom it made way for
        self._owed: set[Request] = set()  # heads for which one was squashed; passing them again could go on for ever

    @property
    def cuts(self) -> tuple[float, ...]:
        """The weights at which one lane ends and the next begins."""
        return tuple(self._cuts)

    @property
    def quotas(self) -> tuple[int, ...]:
        """Tokens per lane, small requests first."""
        return tuple(self._quotas[: len(self._cuts) + 1])

    @property
    def inflight(self) -> tuple[int, ...]:
        """Tokens in use per lane; a lane that a refresh has closed may still hold some."""
        return tuple(self._ledger.inflight)

    def start(self, facts: Facts) -> None:
        """Give one lane the whole pool."""
        self._sizer.start(facts)
        self._ledger.start(facts)
        self._total_tokens = facts.memory_tokens if self.total == "memory" else facts.kv_tokens
        self._divide([], [self._total_tokens])

    def arrived(self, request: Request, now: float) -> None:
        """Queue a new request at the end of its lane, one that was stopped at the head."""
        if request in self._squashed:
            self._return(request, self._squashed.pop(request))
        elif request in self._ledger.entries:
            self._release(request)
            self._return(request, None)
        else:
            request.weight = self._sizer.weight(request)
            request.lane = bisect_left(self._cuts, request.weight)
            self._queues[request.lane].append(request)
            self._noted_arrival(request, now)

    def finished(self, request: Request, now: float) -> None:
        """Give back the request's tokens."""
        self._noted_finish(request, now - self._release(request))

    def key(self, request: Request, now: float) -> float:  # noqa: ARG002 - the lane does not depend on the clock
        """Return the lane."""
        return request.lane

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - the lanes hold them
        """Yield lane by lane, small requests first."""
        return chain.from_iterable(self._queues)

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lanes hold them
        """Spend each lane's own quota, then lend what empty lanes leave over."""
        refused = [self._spend(batch, lane, now) for lane in range(len(self._cuts) + 1)]
        self._lend(batch, refused, now)

    def check(self) -> None:
        """Raise RuntimeError, with the numbers, if tokens or requests do not add up."""
        self._ledger.check()
        waiting = list(chain.from_iterable(self._queues))
        held = self._ledger.entries
        twice = len(waiting) - len(set(waiting)) + sum(request in held for request in waiting)
        strays = sum(head in held or other not in held for head, other in self._overtaken.items())
        if twice or strays or len(self._overtaken) != len(self._overtaker):
            msg = (
                f"{twice} of {len(waiting)} waiting requests are in two places; of {len(self._overtaken)} bypasses "
                f"{strays} are over and {len(self._overtaker)} are known from behind"
            )
            raise RuntimeError(msg)

    # --- what a subclass adds ---

    def _noted_arrival(self, request: Request, now: float) -> None:
        """A new request waits."""

    def _noted_admission(self, request: Request, batch: Batch) -> None:
        """A request was admitted."""

    def _noted_finish(self, request: Request, duration_s: float) -> None:
        """A request has ended."""

    def _divide(self, cuts: list[float], quotas: list[int]) -> None:
        """Set new lanes and sort into them what waits; what runs keeps its charge where it is."""
        self._cuts = cuts
        self._quotas = quotas + [0] * (len(self._queues) - len(quotas))
        waiting = sorted(chain.from_iterable(self._queues), key=lambda request: (request.arrival_s, request.id))
        for queue in self._queues:
            queue.clear()
        for request in waiting:
            request.lane = bisect_left(cuts, request.weight)
            self._queues[request.lane].append(request)

    # --- Algorithm 1 ---

    def _fits(self, lane: int, tokens: int, freed_tokens: int = 0) -> bool:
        # A lane without anything in flight takes any request: one larger than the quota would starve otherwise.
        used = self._ledger.inflight[lane] - freed_tokens
        return used <= 0 or used + tokens <= self._quotas[lane]

    def _spend(self, batch: Batch, lane: int, now: float) -> bool:
        """Phase 1 for one lane; True if it ended because the batch, not the quota, said no."""
        queue = self._queues[lane]
        while queue:
            head = queue[0]
            fits = self._fits(lane, self._ledger.cost(head))
            if fits and batch.try_add(head):
                self._admit(queue.popleft(), lane, batch, now)
            elif head not in self._overtaken or not self._make_way(batch, lane, now, is_refused=fits):
                if fits and self.bypass and batch.refusal is Refusal.ADAPTER:
                    self._overtake(batch, lane, now)
                return fits
        return False

    def _lend(self, batch: Batch, refused: list[bool], now: float) -> None:
        """Phase 2; one pass is enough, because a lane that it empties has no quota left to lend."""
        leftover = self._leftover()
        for lane, queue in enumerate(islice(self._queues, len(refused) if leftover > 0 else 0)):
            while queue and not refused[lane] and self._ledger.cost(queue[0]) <= leftover:
                if batch.try_add(queue[0]):
                    self._admit(queue.popleft(), lane, batch, now)
                    leftover = self._leftover()
                else:
                    refused[lane] = True

    def _leftover(self) -> int:
        """Tokens that empty lanes do not use, within what nobody uses.

        It depends on what is in flight alone, so asking twice lends no more than asking once.
        """
        if all(islice(self._queues, len(self._cuts) + 1)):
            return 0
        spare = 0
        for queue, quota, used in zip(self._queues, self._quotas, self._ledger.inflight, strict=True):
            if not queue and quota > used:
                spare += quota - used
            elif self.lending == "net" and used > quota:
                spare -= used - quota
        return min(spare, self._total_tokens - self._ledger.total)

    def _admit(self, request: Request, lane: int, batch: Batch, now: float) -> None:
        self._ledger.charge(request, lane, now)
        self._owed.discard(request)
        if request in self._overtaken:
            del self._overtaker[self._overtaken.pop(request)]
        self._noted_admission(request, batch)

    def _release(self, request: Request) -> float:
        """Give back tokens, forget a bypass; return the time of admission."""
        head = self._overtaker.pop(request, None)
        if head is not None:
            del self._overtaken[head]
        return self._ledger.release(request).admitted_s

    def _return(self, request: Request, head: Request | None) -> None:
        # It goes to the head of its lane, but not in front of a request that it has passed once already.
        request.lane = bisect_left(self._cuts, request.weight)
        queue = self._queues[request.lane]
        queue.insert(1 if queue and queue[0] is head else 0, request)

    # --- bypass and squash ---

    def _overtake(self, batch: Batch, lane: int, now: float) -> None:
        """Let one younger request of the lane pass its head, whose adapter finds no room."""
        queue = self._queues[lane]
        head = queue[0]
        if head in self._overtaken or head in self._owed or len(queue) == 1:
            return
        wait_s = batch.wait_s(head)
        last = None if self.bypass_lookahead is None else self.bypass_lookahead + 1
        for place, request in enumerate(islice(queue, 1, last), 1):
            if self._may_overtake(batch, lane, head, request, wait_s) and batch.try_add(request):
                del queue[place]
                self._admit(request, lane, batch, now)
                self._overtaken[head], self._overtaker[request] = request, head
                head.bypassed += 1
                return

    def _may_overtake(self, batch: Batch, lane: int, head: Request, request: Request, wait_s: float) -> bool:
        if not self._fits(lane, self._ledger.cost(request)):
            return False
        adapter, blocked = request.adapter, head.adapter
        is_small = adapter is None or (blocked is not None and adapter.size_bytes < blocked.size_bytes)
        return (is_small or batch.is_resident(adapter)) and wait_s > batch.execution_s(request)

    def _make_way(self, batch: Batch, lane: int, now: float, *, is_refused: bool) -> bool:
        """Squash the request that has passed the lane's head, if the head can run then; True if it was squashed."""
        queue = self._queues[lane]
        victim = self._overtaken[queue[0]]
        if not self.squash or (is_refused and batch.refusal not in MEMORY):
            return False
        entry = self._ledger.entries[victim]
        if not self._fits(lane, self._ledger.cost(queue[0]), entry.tokens if entry.lane == lane else 0):
            return False
        if victim not in batch.running or not batch.can_squash_for(victim, queue[0]):
            return False
        self._release(victim)
        self._squashed[victim] = queue[0]
        self._owed.add(queue[0])
        batch.squash(victim)
        if batch.try_add(queue[0]):
            self._admit(queue.popleft(), lane, batch, now)
        return True
