"""Preemptive scheduling without predicted output lengths: FastServe's skip-join multi-level feedback queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from policies.alarm import Alarm
from policies.arguments import above, at_least
from policies.base import Batch, Facts, Request, Scheduler
from policies.preemption import Rank, Ranked, serve_prefix


class Entry:
    """What is known of one request: its place among all, and how much of its lane's quantum is left, or until when."""

    __slots__ = ("expires_s", "idle_since_s", "lane", "left_s", "place")

    def __init__(self, lane: int, place: int, left_s: float, now: float) -> None:
        self.lane = lane
        self.place = place  # in the lane, the lowest first
        self.left_s = left_s
        self.expires_s: float | None = None  # while it is admitted
        self.idle_since_s = now


class FastServe(Scheduler):
    """Requests sink from lane to lane as they use up time; the highest that fit run, the others are taken out.

    A request starts in the lane whose quantum covers its prefill. Its time runs while it is admitted. KV of preempted
    requests that stays on the GPU makes no room for others.

    Attributes:
        quantum_s: seconds that a request may run in the first lane; each lane gives twice as much as the one before.
        starvation_s: seconds without running after which a request goes back to the front of the first lane.
        starvation_steps: iterations between two such promotions.
    """

    name = "fastserve"
    source = "Wu et al., arXiv 2305.05920; LLMServe/FastServe, fastserve/scheduler.py"

    def __init__(self, *, quantum_s: float = 0.01, starvation_s: float = 3.0, starvation_steps: int = 1000) -> None:
        self.quantum_s = above("quantum_s", quantum_s, 0)
        self.starvation_s = at_least("starvation_s", starvation_s, 0)
        self.starvation_steps = at_least("starvation_steps", starvation_steps, 1)
        self._facts: Facts | None = None
        self._alarm = Alarm()
        self._queue = Ranked()
        self._entries: dict[Request, Entry] = {}
        self._expiries: list[tuple[float, int, Request]] = []  # heap; what is out of date is dropped when it comes up
        self._front = self._back = 0
        self._promotions = 0

    def start(self, facts: Facts) -> None:
        """Learn how long a prefill lasts."""
        self._facts = facts

    def arrived(self, request: Request, now: float) -> None:
        """Put a new request at the end of its lane; one that was stopped keeps its place and what time it has left."""
        entry = self._entries.get(request)
        if entry is None:
            lane = self._first_lane(request)
            self._back += 1
            entry = self._entries[request] = Entry(lane, self._back, self._quantum_s(lane), now)
            request.lane = lane
        elif entry.expires_s is not None:
            entry.left_s = entry.expires_s - now
            entry.expires_s = None
            entry.idle_since_s = now
        self._queue.add(request, self._rank(request))

    def finished(self, request: Request, now: float) -> None:  # noqa: ARG002 - what it has used does not matter now
        """Forget a request."""
        del self._entries[request]

    def key(self, request: Request, now: float) -> float:  # noqa: ARG002 - the lane is known
        """Return the lane."""
        return request.lane

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - it is ranked here
        """Yield lane by lane."""
        return iter(self._queue)

    def wakes_at_s(self) -> float | None:
        """Return when the next admitted request has used up its quantum."""
        heap = self._expiries
        while heap and not self._is_current(heap[0]):
            heappop(heap)
        return heap[0][0] if heap and self._alarm.is_ahead(heap[0][0]) else None

    def woken(self, now: float) -> None:
        """Take note that a quantum is used up."""
        self._alarm.ring(self.wakes_at_s(), now)

    def wakes_at_step(self) -> int:
        """Return the step of the next promotion of requests that starve."""
        return (self._promotions + 1) * self.starvation_steps

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - they are ranked here
        """Let the requests of the highest lanes run."""
        self._demote(now)
        if batch.step >= self.wakes_at_step():
            self._promotions = batch.step // self.starvation_steps
            self._promote(now)
        for request in serve_prefix(batch, self._queue, self._rank):
            self._queue.remove(request)
            entry = self._entries[request]
            self._run_until(request, entry, now + entry.left_s)

    def _rank(self, request: Request) -> Rank:
        entry = self._entries[request]
        return (entry.lane, entry.place, request.id)

    def _quantum_s(self, lane: int) -> float:
        return self.quantum_s * 2.0**lane

    def _first_lane(self, request: Request) -> int:
        if self._facts is None:
            return 0
        rank = 0 if request.adapter is None else request.adapter.rank
        prefill_s, lane = self._facts.prefill_s(request.prompt_tokens, rank), 0
        while self._quantum_s(lane) < prefill_s:
            lane += 1
        return lane

    def _run_until(self, request: Request, entry: Entry, expires_s: float) -> None:
        entry.expires_s = expires_s
        heappush(self._expiries, (expires_s, request.id, request))

    def _is_current(self, expiry: tuple[float, int, Request]) -> bool:
        entry = self._entries.get(expiry[2])
        return entry is not None and entry.expires_s == expiry[0]

    def _demote(self, now: float) -> None:
        """Sink admitted requests whose quantum is used up; the next one counts from that instant."""
        heap = self._expiries
        while heap and self._alarm.has_come(heap[0][0], now):
            expiry = heappop(heap)
            if self._is_current(expiry):
                request = expiry[2]
                entry = self._entries[request]
                self._move(request, entry, entry.lane + 1)
                self._run_until(request, entry, expiry[0] + self._quantum_s(entry.lane))

    def _promote(self, now: float) -> None:
        starving = [one for one in self._queue if now - self._entries[one].idle_since_s >= self.starvation_s]
        for request in reversed(starving):
            self._queue.remove(request)
            entry = self._entries[request]
            self._move(request, entry, 0)
            entry.left_s = self._quantum_s(0)
            self._queue.add(request, self._rank(request))

    def _move(self, request: Request, entry: Entry, lane: int) -> None:
        self._front -= 1
        entry.lane = request.lane = lane
        entry.place = self._front
