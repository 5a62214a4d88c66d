"""S-LoRA's early abort: who cannot be served in time is turned away, and under load the newest goes first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import takewhile

from policies.alarm import Alarm
from policies.arguments import above, at_least
from policies.base import Batch, Request, Scheduler


class EarlyAbort(Scheduler):
    """Newest first while requests come faster than batches take them, else oldest first; the late are turned away.

    Attributes:
        slo_s: seconds to the first token beyond which an answer is worth nothing.
        margin_s: seconds that the first token is expected to take after admission; less than `slo_s`.
    """

    name = "early-abort"
    source = "S-LoRA/S-LoRA, router/abort_req_queue.py"

    def __init__(self, *, slo_s: float = 6.0, margin_s: float = 0.5) -> None:
        self.slo_s = above("slo_s", slo_s, 0)
        self.margin_s = at_least("margin_s", margin_s, 0)
        if margin_s >= slo_s:
            msg = f"margin_s must be below slo_s, or every request is late when it arrives, got {margin_s} and {slo_s}"
            raise ValueError(msg)
        self._waiting: list[tuple[float, int, Request]] = []
        self._alarm = Alarm()
        self._rate = 1  # estimates in whole requests, as the source rounds them down
        self._batch_size = 1
        self._last_length = 0
        self._seen: tuple[int, int] | None = None  # arrivals and steps at the last estimate
        self._arrivals = 0
        self._wakes_at_step: int | None = None

    def arrived(self, request: Request, now: float) -> None:  # noqa: ARG002 - age counts from the arrival
        """Queue a request by its arrival."""
        insort(self._waiting, (request.arrival_s, request.id, request))
        self._arrivals += 1

    def wakes_at_s(self) -> float | None:
        """Return when the next request becomes too late."""
        late_s = (self._late_at_s(request) for _, _, request in self._waiting)
        return next((at_s for at_s in late_s if self._alarm.is_ahead(at_s)), None)

    def woken(self, now: float) -> None:
        """Take note that a request is too late by now."""
        self._alarm.ring(self.wakes_at_s(), now)

    def wakes_at_step(self) -> int | None:
        """Return the next step while the estimate of the rate still moves: the source updates it every round."""
        return self._wakes_at_step

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - it is queued here
        """Yield newest or oldest first."""
        return self._in_order()

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - it is queued here
        """Estimate the load, turn away the late, and serve until the first misfit."""
        self._estimate(batch.step)
        self._turn_away(batch, now)
        admitted = list(takewhile(batch.try_add, self._in_order()))
        if admitted:
            for request in admitted:
                self._remove(request)
            self._last_length = len(self._waiting)
            self._batch_size = max(int(0.7 * len(admitted) + 0.3 * self._batch_size), 1)
        self._wakes_at_step = None if self._next_rate() == self._rate else batch.step + 1

    def _in_order(self) -> Iterator[Request]:
        is_rushed = self._rate >= self._batch_size
        return (request for _, _, request in (reversed(self._waiting) if is_rushed else self._waiting))

    def _estimate(self, step: int) -> None:
        # One estimate a round: a round is a step or an arrival, however often the engine asks meanwhile.
        if self._seen != (self._arrivals, step):
            self._seen = (self._arrivals, step)
            self._rate = self._next_rate()

    def _next_rate(self) -> int:
        return int(0.7 * (len(self._waiting) - self._last_length) + 0.3 * self._rate)

    def _turn_away(self, batch: Batch, now: float) -> None:
        requests = (request for _, _, request in self._waiting)
        late = takewhile(lambda request: self._alarm.has_come(self._late_at_s(request), now), requests)
        for request in [one for one in late if not one.generated_tokens]:
            self._remove(request)
            batch.abort(request, f"its first token would come later than {self.slo_s:g} s")

    def _remove(self, request: Request) -> None:
        del self._waiting[bisect_left(self._waiting, (request.arrival_s, request.id))]

    def _late_at_s(self, request: Request) -> float:
        return request.arrival_s + self.slo_s - self.margin_s
