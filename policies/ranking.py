"""Shortest first with preemption, by a learned ranking of lengths."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from policies.arguments import at_least
from policies.base import Batch, Request, Scheduler
from policies.preemption import Rank, Ranked, serve_prefix


class LearningToRank(Scheduler):
    """The shortest predicted outputs that fit run, at every iteration anew; who has waited long goes first for a while.

    KV of preempted requests that stays on the GPU makes no room for others.

    Attributes:
        starvation_steps: iterations without a token after which a waiting request is promoted.
        promoted_steps: iterations that a promoted request runs before all others.
    """

    name = "learning-to-rank"
    source = "Fu et al., NeurIPS'24 (arXiv 2408.15792); hao-ai-lab/vllm-ltr, vllm/core/scheduler.py"

    def __init__(self, *, starvation_steps: int = 200, promoted_steps: int = 10) -> None:
        self.starvation_steps = at_least("starvation_steps", starvation_steps, 1)
        self.promoted_steps = at_least("promoted_steps", promoted_steps, 1)
        self._queue = Ranked()
        self._new: list[Request] = []  # waits since the last round, so that its idle iterations are not counted yet
        self._idle: deque[tuple[int, Request]] = deque()  # since which step, rising
        self._idle_since: dict[Request, int] = {}
        self._promoted_until: dict[Request, int] = {}  # so many generated tokens
        self._wakes_at_step: int | None = None

    def arrived(self, request: Request, now: float) -> None:  # noqa: ARG002 - iterations count, not seconds
        """Rank a request."""
        self._queue.add(request, self._rank(request))
        self._new.append(request)

    def finished(self, request: Request, now: float) -> None:  # noqa: ARG002 - iterations count, not seconds
        """Forget a request."""
        self._promoted_until.pop(request, None)

    def key(self, request: Request, now: float) -> float:  # noqa: ARG002 - promotion is not a matter of the clock
        """Return the predicted length."""
        return request.predicted_tokens

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:  # noqa: ARG002 - it is ranked here
        """Yield promoted requests, then the others, each by predicted length."""
        return iter(self._queue)

    def wakes_at_step(self) -> int | None:
        """Return the step at which a waiting request starves, or a promoted one has run long enough."""
        return self._wakes_at_step

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - they are ranked here
        """Let the requests of lowest rank run."""
        step = batch.step
        self._note_idle(step)
        self._promote(step)
        for request in serve_prefix(batch, self._queue, self._rank):
            self._queue.remove(request)
            del self._idle_since[request]
        ends = [step + self._runs_left(one) for one in batch.running if self._runs_left(one) > 0]
        starves = [self._idle[0][0] + self.starvation_steps] if self._idle else []
        self._wakes_at_step = min((*ends, *starves), default=None)

    def _rank(self, request: Request) -> Rank:
        return (self._runs_left(request) <= 0, request.predicted_tokens, request.id)

    def _runs_left(self, request: Request) -> int:
        return self._promoted_until.get(request, 0) - request.generated_tokens

    def _note_idle(self, step: int) -> None:
        for request in self._new:
            if request in self._queue:
                self._idle_since[request] = step
                self._idle.append((step, request))
        self._new.clear()

    def _promote(self, step: int) -> None:
        idle = self._idle
        while idle and idle[0][0] + self.starvation_steps <= step:
            since, request = idle.popleft()
            if self._idle_since.get(request) == since and self._runs_left(request) <= 0:
                self._queue.remove(request)
                self._promoted_until[request] = request.generated_tokens + self.promoted_steps
                self._queue.add(request, self._rank(request))
